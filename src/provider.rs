//! Mailbox operators ("providers") and the recipient domains behind them, as data. Limits, gates,
//! breakers and bounce rules are kept per provider, because that is where trouble happens: one
//! operator that defers mail says nothing about the others.
//!
//! The table ships inside the binary (`provider.toml`); an operator may put a file of the same
//! form over it. This module asks no DNS: it answers from a domain, or from an MX host name that
//! its caller has looked up.

use std::{
    collections::{HashMap, HashSet},
    sync::LazyLock,
};

use serde::{Deserialize, Serialize};

/// The table that ships with the program.
const EMBEDDED: &str = include_str!("provider.toml");

/// A provider's number, as database rows keep it. Never reused for another provider.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct ProviderId(pub i64);

impl ProviderId {
    /// Every domain that no entry of the table names.
    pub const OTHER: Self = Self(0);
}

impl std::fmt::Display for ProviderId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// One mailbox operator.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// The number that rows keep.
    pub id: ProviderId,
    /// The stable short name used in configuration, rules, metrics and the command line.
    pub name: String,
    /// The name that people read.
    pub title: String,
    /// Recipient domains, lower-case A-labels, matched exactly.
    #[serde(default)]
    pub domains: Vec<String>,
    /// Names under which this operator's MX hosts live: a host matches when it is the name or
    /// lies below it.
    #[serde(default)]
    pub mx: Vec<String>,
    /// The most connections that may work for it at once, at each relay; none for as many as a relay
    /// has. `[[limits.provider]]` in the configuration goes before it.
    #[serde(default)]
    pub connections: Option<u32>,
}

/// Why a provider table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// Not TOML of the expected form; the message has line and caret.
    #[error("the provider table cannot be read: {0}")]
    Syntax(#[from] toml::de::Error),
    /// Two entries share a number.
    #[error(
        "providers `{first}` and `{second}` both have id {id}: rows would mix them up, give one another id"
    )]
    IdTwice {
        /// The shared number.
        id: ProviderId,
        /// The entry that came first.
        first: String,
        /// The entry that repeats it.
        second: String,
    },
    /// Two entries share a name.
    #[error("provider name `{0}` is used twice: names must be unique")]
    NameTwice(String),
    /// A name that is not made of `a-z`, `0-9` and `-`.
    #[error("provider name `{0}` must be made of a-z, 0-9 and -")]
    NameForm(String),
    /// Two entries claim one domain.
    #[error("domain `{domain}` belongs to both `{first}` and `{second}`: remove it from one")]
    DomainTwice {
        /// The claimed domain.
        domain: String,
        /// The entry that came first.
        first: String,
        /// The entry that repeats it.
        second: String,
    },
    /// A domain that is not in the form in which addresses are compared.
    #[error("domain `{domain}` of provider `{provider}` must be written as `{wanted}`")]
    DomainForm {
        /// As written.
        domain: String,
        /// The entry.
        provider: String,
        /// The lower-case A-label form.
        wanted: String,
    },
    /// A negative number.
    #[error("provider `{name}` has id {id}: ids are 0 (other) or greater")]
    NegativeId {
        /// The entry.
        name: String,
        /// Its number.
        id: ProviderId,
    },
}

/// The file's shape.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    provider: Vec<Provider>,
}

/// The table in use, ready to be asked.
#[derive(Debug, Clone)]
pub struct Providers {
    entries: Vec<Provider>,
    by_domain: HashMap<String, ProviderId>,
}

impl Providers {
    /// The table that ships with the program.
    pub fn embedded() -> &'static Self {
        static TABLE: LazyLock<Providers> = LazyLock::new(|| {
            Providers::parse(EMBEDDED).expect("the embedded provider table is checked by a test")
        });
        &TABLE
    }

    /// The embedded table with an operator's file over it: an entry with the id of an embedded one
    /// replaces it, any other is added. A domain that the file names leaves the embedded entry
    /// that had it.
    pub fn load(overrides: &str) -> Result<Self, ProviderError> {
        let ours: Table = toml::from_str(overrides)?;
        // The file must be sound by itself, or "replaces" would have no meaning.
        check(&ours.provider)?;
        let mut entries: Vec<Provider> = Self::embedded()
            .entries
            .iter()
            .filter(|shipped| ours.provider.iter().all(|own| own.id != shipped.id))
            .cloned()
            .collect();
        for shipped in &mut entries {
            shipped.domains.retain(|d| ours.provider.iter().all(|own| !own.domains.contains(d)));
        }
        entries.extend(ours.provider);
        Self::of_entries(entries)
    }

    fn parse(text: &str) -> Result<Self, ProviderError> {
        Self::of_entries(toml::from_str::<Table>(text)?.provider)
    }

    fn of_entries(mut entries: Vec<Provider>) -> Result<Self, ProviderError> {
        check(&entries)?;
        if entries.iter().all(|p| p.id != ProviderId::OTHER) {
            entries.push(Provider {
                id: ProviderId::OTHER,
                name: "other".into(),
                title: "Other".into(),
                domains: Vec::new(),
                mx: Vec::new(),
                connections: None,
            });
        }
        entries.sort_by_key(|p| p.id);
        let by_domain =
            entries.iter().flat_map(|p| p.domains.iter().map(|d| (d.clone(), p.id))).collect();
        Ok(Self { entries, by_domain })
    }

    /// The provider behind a recipient domain, or [`ProviderId::OTHER`]. Upper case and a final dot
    /// do not matter; a domain in Unicode form must be turned into A-labels first.
    pub fn of_domain(&self, domain: &str) -> ProviderId {
        let domain = domain.trim_end_matches('.');
        // Almost every domain comes in lower case: look up without allocating first.
        if let Some(id) = self.by_domain.get(domain) {
            return *id;
        }
        if domain.bytes().any(|b| b.is_ascii_uppercase()) {
            return self
                .by_domain
                .get(&domain.to_ascii_lowercase())
                .copied()
                .unwrap_or(ProviderId::OTHER);
        }
        ProviderId::OTHER
    }

    /// The provider behind the domain of an address, or [`ProviderId::OTHER`].
    pub fn of_address(&self, address: &str) -> ProviderId {
        address.rsplit_once('@').map_or(ProviderId::OTHER, |(_, domain)| self.of_domain(domain))
    }

    /// The provider that runs an MX host, or [`ProviderId::OTHER`]. The longest matching name wins.
    pub fn of_mx(&self, host: &str) -> ProviderId {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        self.entries
            .iter()
            .flat_map(|p| p.mx.iter().map(move |name| (name, p.id)))
            .filter(|(name, _)| {
                host.strip_suffix(name.as_str())
                    .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            })
            .max_by_key(|(name, _)| name.len())
            .map_or(ProviderId::OTHER, |(_, id)| id)
    }

    /// The entry with this number, if the table (still) has it.
    pub fn get(&self, id: ProviderId) -> Option<&Provider> {
        self.entries.binary_search_by_key(&id, |p| p.id).ok().map(|at| &self.entries[at])
    }

    /// The short name of a provider; `other` for a number that the table does not have.
    pub fn name(&self, id: ProviderId) -> &str {
        self.get(id).map_or("other", |p| &p.name)
    }

    /// The number behind a short name.
    pub fn by_name(&self, name: &str) -> Option<ProviderId> {
        self.entries.iter().find(|p| p.name == name).map(|p| p.id)
    }

    /// All entries, by number.
    pub fn iter(&self) -> impl Iterator<Item = &Provider> {
        self.entries.iter()
    }
}

/// Unique ids, names and domains, each in its proper form.
fn check(entries: &[Provider]) -> Result<(), ProviderError> {
    let mut ids: HashMap<ProviderId, &str> = HashMap::new();
    let mut names: HashSet<&str> = HashSet::new();
    let mut domains: HashMap<&str, &str> = HashMap::new();
    for entry in entries {
        let name = entry.name.as_str();
        if entry.id < ProviderId::OTHER {
            return Err(ProviderError::NegativeId { name: name.into(), id: entry.id });
        }
        if name.is_empty()
            || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        {
            return Err(ProviderError::NameForm(name.into()));
        }
        if let Some(first) = ids.insert(entry.id, name) {
            return Err(ProviderError::IdTwice {
                id: entry.id,
                first: first.into(),
                second: name.into(),
            });
        }
        if !names.insert(name) {
            return Err(ProviderError::NameTwice(name.into()));
        }
        for domain in &entry.domains {
            let wanted = idna::domain_to_ascii(domain).unwrap_or_default();
            if wanted != *domain || domain.is_empty() {
                return Err(ProviderError::DomainForm {
                    domain: domain.clone(),
                    provider: name.into(),
                    wanted,
                });
            }
            if let Some(first) = domains.insert(domain, name) {
                return Err(ProviderError::DomainTwice {
                    domain: domain.clone(),
                    first: first.into(),
                    second: name.into(),
                });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_table_is_sound() {
        let table = Providers::parse(EMBEDDED).unwrap();
        assert_eq!(table.name(ProviderId::OTHER), "other");
        let names = [
            "google",
            "microsoft",
            "microsoft365",
            "yahoo",
            "apple",
            "united-internet",
            "comcast",
            "orange",
            "proton",
            "fastmail",
        ];
        for (at, name) in names.iter().enumerate() {
            // Rows keep these numbers: this list may grow, it may not change.
            assert_eq!(table.by_name(name), Some(ProviderId(at as i64 + 1)), "{name}");
        }
    }

    #[test]
    fn domains_and_mx_hosts_find_their_provider() {
        let table = Providers::embedded();
        let name = |id| table.name(id);
        assert_eq!(name(table.of_domain("gmail.com")), "google");
        assert_eq!(name(table.of_domain("GMail.Com.")), "google");
        assert_eq!(name(table.of_domain("mail.gmail.com")), "other");
        assert_eq!(name(table.of_domain("")), "other");
        assert_eq!(name(table.of_address("a@b@web.de")), "united-internet");
        assert_eq!(name(table.of_address("nobody")), "other");
        assert_eq!(name(table.of_mx("alt1.gmail-smtp-in.l.google.com.")), "google");
        assert_eq!(name(table.of_mx("example-com.mail.protection.outlook.com")), "microsoft365");
        assert_eq!(name(table.of_mx("outlook-com.olc.protection.outlook.com")), "microsoft");
        assert_eq!(name(table.of_mx("notgoogle.com")), "other");
        assert_eq!(name(ProviderId(9_999)), "other");
    }

    #[test]
    fn an_override_replaces_adds_and_takes_domains() {
        let table = Providers::load(
            r#"
            [[provider]]
            id = 100
            name = "campus"
            title = "The campus"
            domains = ["mail.example.edu", "pm.me"]
            [[provider]]
            id = 7
            name = "comcast"
            title = "Comcast, ours"
            domains = ["comcast.net"]
            "#,
        )
        .unwrap();
        assert_eq!(table.name(table.of_domain("mail.example.edu")), "campus");
        assert_eq!(table.name(table.of_domain("pm.me")), "campus");
        assert_eq!(table.name(table.of_domain("proton.me")), "proton");
        assert_eq!(table.of_domain("xfinity.com"), ProviderId::OTHER);
        assert_eq!(table.get(ProviderId(7)).unwrap().title, "Comcast, ours");
    }

    #[test]
    fn mistakes_are_named() {
        let error = |text: &str| Providers::load(text).unwrap_err().to_string();
        let entry = |id: i64, name: &str, domain: &str| {
            format!("[[provider]]\nid={id}\nname='{name}'\ntitle='t'\ndomains=['{domain}']\n")
        };
        let two = |a: String, b: String| error(&format!("{a}{b}"));
        let id_twice = two(entry(20, "a", "a.example"), entry(20, "b", "b.example"));
        assert!(id_twice.contains("both have id 20"), "{id_twice}");
        let name_twice = two(entry(20, "a", "a.example"), entry(21, "a", "b.example"));
        assert!(name_twice.contains("`a` is used twice"), "{name_twice}");
        // A name that an untouched embedded entry already has.
        assert!(error(&entry(20, "google", "a.example")).contains("`google` is used twice"));
        let domain_twice = two(entry(20, "a", "x.example"), entry(21, "b", "x.example"));
        assert!(domain_twice.contains("both `a` and `b`"), "{domain_twice}");
        assert!(error(&entry(20, "a", "X.example")).contains("must be written as `x.example`"));
        assert!(error(&entry(20, "a", "bücher.example")).contains("xn--bcher-kva.example"));
        assert!(error(&entry(20, "A b", "x.example")).contains("a-z, 0-9 and -"));
        assert!(error(&entry(-1, "a", "x.example")).contains("0 (other) or greater"));
        assert!(error("[[provider]]\nid = 'x'").contains("cannot be read"));
    }
}
