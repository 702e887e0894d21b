//! How long things take, as histograms: SMTP by provider; its phases, the wait in the queue and the whole
//! way of a copy by relay. A few looks at a few numbers for each copy, when its outcome is durable.

use std::{collections::HashMap, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::{Attempt, Lane};
use crate::provider::Providers;

/// Upper ends of the buckets of times in SMTP, in seconds: from a relay next door to the longest wait
/// for the reply to a final dot.
const SMTP_BUCKETS: [f64; 17] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    300.0, 600.0,
];
/// Upper ends of the buckets of a copy's waits and of its whole way, in seconds: up to the time to
/// live.
const WAY_BUCKETS: [f64; 17] = [
    0.05, 0.25, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1_800.0, 3_600.0, 7_200.0, 14_400.0, 28_800.0,
    43_200.0, 86_400.0, 129_600.0, 259_200.0,
];
/// The phases of a session's opening, then those of a message.
const PHASES: [&str; 7] = ["connect", "tls", "hello", "auth", "envelope", "body", "dot"];
/// Where those of a message begin.
const OF_MESSAGE: usize = 4;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProviderLabel {
    provider: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WayLabels {
    relay: String,
    lane: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabels {
    relay: String,
    phase: &'static str,
}

/// The series of one relay.
#[derive(Debug)]
struct OfRelay {
    phases: [Histogram; PHASES.len()],
    queue_wait: [Histogram; 2],
    end_to_end: [Histogram; 2],
}

/// All histograms.
#[derive(Debug)]
pub(super) struct Times {
    smtp: HashMap<i64, Histogram>,
    relays: HashMap<String, OfRelay>,
}

impl Times {
    /// Histograms for each of `providers` and `relays`.
    pub(super) fn registered<'r>(
        registry: &mut Registry,
        providers: &Providers,
        relays: impl IntoIterator<Item = &'r str>,
    ) -> Self {
        type Built<L> = Family<L, Histogram, fn() -> Histogram>;
        let smtp_buckets: fn() -> Histogram = || Histogram::new(SMTP_BUCKETS);
        let way_buckets: fn() -> Histogram = || Histogram::new(WAY_BUCKETS);
        let smtp: Built<ProviderLabel> = Family::new_with_constructor(smtp_buckets);
        let help = "From the first byte of an envelope to the reply that decided";
        registry.register_with_unit("smtp_duration", help, Unit::Seconds, smtp.clone());
        let phases: Built<PhaseLabels> = Family::new_with_constructor(smtp_buckets);
        let help = "Phases of SMTP: connect, tls, hello (greeting and EHLO) and auth of a session; \
                    envelope, body and dot (the wait for the last reply) of a message";
        registry.register_with_unit("smtp_phase_duration", help, Unit::Seconds, phases.clone());
        let waits: Built<WayLabels> = Family::new_with_constructor(way_buckets);
        let help = "From when a try was due to its handoff";
        registry.register_with_unit("queue_wait", help, Unit::Seconds, waits.clone());
        let ways: Built<WayLabels> = Family::new_with_constructor(way_buckets);
        let help = "From when a copy was due for the first time to its outcome";
        registry.register_with_unit("end_to_end", help, Unit::Seconds, ways.clone());
        let of_provider = |provider: &crate::provider::Provider| {
            let label = ProviderLabel { provider: provider.name.clone() };
            (provider.id.0, smtp.get_or_create_owned(&label))
        };
        let of_relay = |relay: &str| {
            let of_phase = |phase| {
                let label = PhaseLabels { relay: relay.to_owned(), phase };
                phases.get_or_create_owned(&label)
            };
            let label = |lane| WayLabels { relay: relay.to_owned(), lane };
            let of_relay = OfRelay {
                phases: PHASES.map(of_phase),
                queue_wait: Lane::WORDS.map(|lane| waits.get_or_create_owned(&label(lane))),
                end_to_end: Lane::WORDS.map(|lane| ways.get_or_create_owned(&label(lane))),
            };
            (relay.to_owned(), of_relay)
        };
        Self {
            smtp: providers.iter().map(of_provider).collect(),
            relays: relays.into_iter().map(of_relay).collect(),
        }
    }

    /// Counts what an attempt took.
    pub(super) fn count(&self, attempt: &Attempt<'_>) {
        let smtp = self.smtp.get(&attempt.provider).or_else(|| self.smtp.get(&0));
        observe(smtp, attempt.smtp);
        let Some(relay) = attempt.relay.and_then(|name| self.relays.get(name)) else { return };
        for (histogram, took) in relay.phases[OF_MESSAGE..].iter().zip(attempt.phases) {
            observe(Some(histogram), Some(took).filter(|took| !took.is_zero()));
        }
        let lane = attempt.lane as usize;
        observe(relay.queue_wait.get(lane), attempt.queue_wait);
        observe(relay.end_to_end.get(lane), attempt.end_to_end);
    }

    /// Counts what opening a session took.
    pub(super) fn opened(&self, relay: &str, phases: [Duration; OF_MESSAGE]) {
        let Some(relay) = self.relays.get(relay) else { return };
        for (histogram, took) in relay.phases.iter().zip(phases) {
            observe(Some(histogram), Some(took).filter(|took| !took.is_zero()));
        }
    }
}

fn observe(histogram: Option<&Histogram>, took: Option<Duration>) {
    if let (Some(histogram), Some(took)) = (histogram, took) {
        histogram.observe(took.as_secs_f64());
    }
}
