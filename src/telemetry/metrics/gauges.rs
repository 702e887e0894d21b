//! What can be read off a running engine at any time, as gauges that are set when somebody asks.

use std::{sync::atomic::AtomicU64, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

/// What can be read off a running engine at any time.
#[derive(Debug, Clone, Default)]
pub struct Sample {
    /// Copies of the issues in motion, by state.
    pub copies: Vec<(&'static str, i64)>,
    /// How long the copy that waits longest beyond its time has done so.
    pub oldest_due: Duration,
    /// Service mails that wait.
    pub service_waiting: i64,
    /// How long the service mail that waits longest beyond its time has done so.
    pub service_oldest_due: Duration,
    /// What holds mail back: the name, of all the names there are.
    pub limited_by: (&'static str, &'static [&'static str]),
    /// The same for each provider with copies in memory.
    pub providers_limited_by: Vec<(String, &'static str)>,
    /// How many copies each rate limit lets through now.
    pub limits: Vec<(String, i64)>,
    /// Each relay.
    pub relays: Vec<RelaySample>,
    /// What is given up for want of something: 0 nothing, 1 stages, 2 issues, 3 sign-ups.
    pub shedding: i64,
    /// The breakers of relays, and those of providers that are not closed.
    pub breakers: Vec<BreakerSample>,
}

/// One breaker, for gauges.
#[derive(Debug, Clone)]
pub struct BreakerSample {
    /// The relay.
    pub relay: String,
    /// The provider there; `all` for the whole relay.
    pub provider: String,
    /// Its state: the name, of all the names there are.
    pub state: (&'static str, &'static [&'static str]),
}

/// One relay, for gauges.
#[derive(Debug, Clone)]
pub struct RelaySample {
    /// What operators call it.
    pub name: String,
    /// Whether the last thing tried at it worked.
    pub good: bool,
    /// Whether an operator suspended it.
    pub suspended: bool,
    /// How many connections have copies in hand.
    pub in_use: i64,
    /// How many may have.
    pub connections: i64,
    /// For kind `mx`: how many destinations are known, how many of them are in trouble, and how many
    /// sessions there are.
    pub direct: Option<[i64; 3]>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByLabel {
    by: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabel {
    limit: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProviderByLabel {
    provider: String,
    by: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BreakerLabel {
    relay: String,
    provider: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RelayLabel {
    relay: String,
}

pub(super) type Seconds = Gauge<f64, AtomicU64>;

/// The gauges of [`Sample`].
#[derive(Debug, Default)]
pub(super) struct Gauges {
    copies: Family<StateLabel, Gauge>,
    oldest_due: Seconds,
    service_waiting: Gauge,
    service_oldest_due: Seconds,
    limited: Family<ByLabel, Gauge>,
    limits: Family<LimitLabel, Gauge>,
    relay_up: Family<RelayLabel, Gauge>,
    relay_suspended: Family<RelayLabel, Gauge>,
    shedding: Gauge,
    relay_in_use: Family<RelayLabel, Gauge>,
    relay_connections: Family<RelayLabel, Gauge>,
    destinations: Family<RelayLabel, Gauge>,
    destinations_troubled: Family<RelayLabel, Gauge>,
    direct_sessions: Family<RelayLabel, Gauge>,
    providers_limited: Family<ProviderByLabel, Gauge>,
    breakers: Family<BreakerLabel, Gauge>,
}

impl Gauges {
    pub(super) fn register(&self, registry: &mut Registry) {
        let copies = "Copies of the issues in motion, by state";
        registry.register("copies", copies, self.copies.clone());
        registry.register_with_unit(
            "oldest_due",
            "How long the copy that waits longest beyond its time has done so",
            Unit::Seconds,
            self.oldest_due.clone(),
        );
        let waiting = "Confirmations and other service mails that wait";
        registry.register("service_waiting", waiting, self.service_waiting.clone());
        registry.register_with_unit(
            "service_oldest_due",
            "How long the service mail that waits longest beyond its time has done so",
            Unit::Seconds,
            self.service_oldest_due.clone(),
        );
        let limited = "What holds mail back now (1), and what does not (0)";
        registry.register("limited", limited, self.limited.clone());
        let limits = "How many copies a rate limit lets through now";
        registry.register("limit_available", limits, self.limits.clone());
        let up = "Whether the last thing tried at a relay worked";
        registry.register("relay_up", up, self.relay_up.clone());
        let shedding = "What is given up for want of disk, database or memory: \
                        0 nothing, 1 stages, 2 issues, 3 sign-ups";
        registry.register("shedding_level", shedding, self.shedding.clone());
        let suspended = "Whether an operator suspended a relay";
        registry.register("relay_suspended", suspended, self.relay_suspended.clone());
        let in_use = "How many connections to a relay have copies in hand";
        registry.register("relay_connections_in_use", in_use, self.relay_in_use.clone());
        let connections = "How many connections to a relay may work now";
        registry.register("relay_connections_allowed", connections, self.relay_connections.clone());
        let known = "How many destinations a relay of kind mx knows";
        registry.register("relay_destinations", known, self.destinations.clone());
        let troubled = "How many of them get no mail now, or less than they could";
        let gauge = self.destinations_troubled.clone();
        registry.register("relay_destinations_in_trouble", troubled, gauge);
        let sessions = "How many sessions it has with them, in use or waiting for a copy";
        registry.register("relay_sessions", sessions, self.direct_sessions.clone());
        let limited = "What holds mail to a provider back now; only while copies for it wait";
        registry.register("provider_limited", limited, self.providers_limited.clone());
        let breakers = "The state of a breaker (1): of a relay, or of a provider there";
        registry.register("breaker_state", breakers, self.breakers.clone());
    }

    /// Sets every gauge to what was read off.
    pub(super) fn set(&self, sample: &Sample) {
        for (state, copies) in &sample.copies {
            self.copies.get_or_create(&StateLabel { state }).set(*copies);
        }
        self.oldest_due.set(sample.oldest_due.as_secs_f64());
        self.service_waiting.set(sample.service_waiting);
        self.service_oldest_due.set(sample.service_oldest_due.as_secs_f64());
        let (now, all) = sample.limited_by;
        for by in all {
            self.limited.get_or_create(&ByLabel { by }).set(i64::from(*by == now));
        }
        for (limit, available) in &sample.limits {
            self.limits.get_or_create(&LimitLabel { limit: limit.clone() }).set(*available);
        }
        self.shedding.set(sample.shedding);
        for relay in &sample.relays {
            let label = RelayLabel { relay: relay.name.clone() };
            self.relay_up.get_or_create(&label).set(i64::from(relay.good));
            self.relay_suspended.get_or_create(&label).set(i64::from(relay.suspended));
            self.relay_in_use.get_or_create(&label).set(relay.in_use);
            self.relay_connections.get_or_create(&label).set(relay.connections);
            let gauges = [&self.destinations, &self.destinations_troubled, &self.direct_sessions];
            for (gauge, value) in gauges.into_iter().zip(relay.direct.into_iter().flatten()) {
                gauge.get_or_create(&label).set(value);
            }
        }
        self.providers_limited.clear();
        for (provider, by) in &sample.providers_limited_by {
            let label = ProviderByLabel { provider: provider.clone(), by };
            self.providers_limited.get_or_create(&label).set(1);
        }
        self.breakers.clear();
        for breaker in &sample.breakers {
            let (now, all) = breaker.state;
            for state in all {
                let (relay, provider) = (breaker.relay.clone(), breaker.provider.clone());
                let label = BreakerLabel { relay, provider, state };
                self.breakers.get_or_create(&label).set(i64::from(*state == now));
            }
        }
    }
}
