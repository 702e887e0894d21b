//! What the configuration says, in the terms of the engine's parts: relays for the dispatch, limits,
//! signing keys. Nothing is started here.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::StartError;
use crate::{
    config::{self, Config},
    db::Db,
    delivery::{
        dispatch::RelayTerms,
        ledger,
        limits::{Gcra, LimitName, Limits},
    },
    provider::Providers,
    smtp::dkim::Signer,
    timestamp::Timestamp,
};

/// What the dispatch is told of relays.
pub(super) fn terms(config: &Config, providers: &Providers) -> Vec<RelayTerms> {
    let named = config.limits.provider.iter();
    let own =
        named.filter_map(|limit| Some((providers.by_name(&limit.name)?.0, limit.connections?)));
    let shipped = providers.iter().filter_map(|entry| Some((entry.id.0, entry.connections?)));
    let provider_connections: Arc<BTreeMap<i64, u32>> = Arc::new(shipped.chain(own).collect());
    let relay = |relay: &config::Relay| RelayTerms {
        name: relay.name.clone(),
        priority: relay.priority,
        weight: relay.weight,
        connections: relay.connections,
        provider_connections: Arc::clone(&provider_connections),
        breakers: config.breakers,
    };
    config.relay.iter().map(relay).collect()
}

/// The limits of the configuration, used as far as they were, and the providers that have one.
pub(super) async fn limits(
    db: &Db,
    config: &Config,
    providers: &Providers,
    now: Timestamp,
) -> Result<(Limits, BTreeSet<i64>), StartError> {
    let names: Vec<String> = config.relay.iter().map(|relay| relay.name.clone()).collect();
    let provider = |key: &str, name: &str| {
        providers.by_name(name).map(|id| id.0).ok_or_else(|| {
            let known: Vec<_> = providers.iter().map(|provider| provider.name.as_str()).collect();
            StartError::Configuration(format!(
                "{key}: there is no provider `{name}`; those are: {}",
                known.join(", ")
            ))
        })
    };
    let mut limits = Limits::new(names.clone());
    if let Some(per_second) = config.limits.per_second {
        limits.add(LimitName::Total, Gcra::new(per_second, config.limits.burst));
    }
    for (index, relay) in config.relay.iter().enumerate() {
        if let Some(per_second) = relay.per_second {
            limits.add(LimitName::Relay(index), Gcra::new(per_second, relay.burst));
        }
    }
    let mut limited = BTreeSet::new();
    for limit in &config.limits.provider {
        let id = provider("limits.provider", &limit.name)?;
        if let Some(per_second) = limit.per_second {
            limits.add(LimitName::Provider(id), Gcra::new(per_second, limit.burst));
            limited.insert(id);
        }
    }
    for ramp in &config.limits.warm_up {
        let id =
            ramp.provider.as_deref().map(|name| provider("limits.warm_up", name)).transpose()?;
        // The configuration is refused when it names a relay that it does not have.
        if let Some(relay) = names.iter().position(|name| *name == ramp.relay) {
            limits.add_warm_up(relay, id, &ramp.copies_per_day);
        }
    }
    let kept = ledger::kept_uses(db).await?;
    limits.restore(kept.rates, &kept.warm_ups, now);
    Ok((limits, limited))
}

/// The signing keys of the configuration.
pub fn signers(config: &Config) -> Result<Vec<Signer>, StartError> {
    let signer = |dkim: &config::Dkim| {
        let fail = |problem: String| {
            StartError::Configuration(format!("dkim key {}: {problem}", dkim.key_file.display()))
        };
        let pem =
            std::fs::read_to_string(&dkim.key_file).map_err(|error| fail(error.to_string()))?;
        Signer::from_pem(&dkim.domain, &dkim.selector, &pem)
            .map_err(|error| fail(error.to_string()))
    };
    config.dkim.iter().map(signer).collect()
}
