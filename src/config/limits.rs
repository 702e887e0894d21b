//! Rates: how fast mail goes out, over everything, to single providers, and from relays that are new.

use serde::{Deserialize, Serialize};

use super::section;

section! {
    /// How fast mail goes out. A bucket holds one second's worth unless `burst` says otherwise.
    Limits {
        /// Copies a second over everything; with none, as fast as the relays take them.
        per_second: Option<f64> = None,
        /// How many copies may go at once after a quiet second.
        burst: Option<u32> = None,
        /// Limits of single providers.
        provider: Vec<ProviderLimit> = Vec::new(),
        /// Ramps for relays that providers do not know yet.
        warm_up: Vec<WarmUp> = Vec::new(),
    }
}

impl Limits {
    /// A name in the limits that no provider of the table has, and the key under which it stands.
    pub fn unknown_provider(
        &self,
        providers: &crate::provider::Providers,
    ) -> Option<(&'static str, &str)> {
        let limits = self.provider.iter().map(|limit| ("limits.provider", limit.name.as_str()));
        let ramps = self.warm_up.iter().filter_map(|ramp| ramp.provider.as_deref());
        let mut names = limits.chain(ramps.map(|name| ("limits.warm_up", name)));
        names.find(|(_, name)| providers.by_name(name).is_none())
    }
}

/// How fast mail goes to one provider.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ProviderLimit {
    /// The provider's name in the provider table.
    pub name: String,
    /// Copies a second, over all relays; with none, no limit of its own.
    #[serde(default)]
    pub per_second: Option<f64>,
    /// How many copies may go at once after a quiet second.
    #[serde(default)]
    pub burst: Option<u32>,
    /// The most connections that work for it at once, at each relay; with none, the provider table's.
    #[serde(default)]
    pub connections: Option<u32>,
}

/// How many copies a relay may bring to a provider on each of its first days.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct WarmUp {
    /// The relay's name.
    pub relay: String,
    /// The provider's name in the provider table; with none, each that no other ramp of the relay
    /// names.
    #[serde(default)]
    pub provider: Option<String>,
    /// Copies on the first day that the two are used together, on the second, and so on; after the
    /// last there is no such limit.
    pub copies_per_day: Vec<u32>,
}
