//! The registry behind `/metrics`, in OpenMetrics form.
//!
//! Every series that counts is made at the start, one for each provider or relay, so that counting is an
//! addition and a rate over a series that never moved is zero instead of nothing.

mod gauges;
mod hooks;
mod mailboxes;
mod times;

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, info::Info},
    registry::Registry,
};

use self::{gauges::Gauges, hooks::Hooks, mailboxes::Mailboxes, times::Times};
pub use self::{
    gauges::{BreakerSample, RelaySample, Sample},
    hooks::HookSeries,
    mailboxes::MailboxSeries,
};
use super::{Step, Work};
use crate::{
    db::state::EventKind,
    provider::{Provider, Providers},
};

/// What an attempt can come to.
const OUTCOMES: [EventKind; 6] = [
    EventKind::Accepted,
    EventKind::Deferred,
    EventKind::Rejected,
    EventKind::Uncertain,
    EventKind::Skipped,
    EventKind::Expired,
];
/// Which kind of mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Copies of issues.
    Issue,
    /// Confirmations and the like.
    Service,
}

impl Lane {
    /// What they are called, in the order of their numbers.
    pub const WORDS: [&str; 2] = ["issue", "service"];
}

/// One attempt that came to something.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// Which kind of mail it was.
    pub lane: Lane,
    /// What it came to.
    pub outcome: EventKind,
    /// The provider of the address.
    pub provider: i64,
    /// The relay it was made at.
    pub relay: Option<&'a str>,
    /// From the first byte of the envelope to the deciding reply.
    pub smtp: Option<Duration>,
    /// How long its envelope, its body and the wait for the word on it took; zero for what was not
    /// reached.
    pub phases: [Duration; 3],
    /// From when it was due to its handoff.
    pub queue_wait: Option<Duration>,
    /// From when its copy was due for the first time; none if the copy is tried again.
    pub end_to_end: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OutcomeLabels {
    lane: &'static str,
    outcome: &'static str,
    provider: String,
}

/// The outcomes of one provider's mail.
type Outcomes = [[Counter; OUTCOMES.len()]; 2];

/// Everything `/metrics` shows.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    outcomes: HashMap<i64, Outcomes>,
    times: Times,
    work: Work,
    gauges: Gauges,
    mailboxes: Mailboxes,
    hooks: Hooks,
    /// One scrape at a time, so that none sees half of another's gauges.
    scrape: Mutex<()>,
}

impl Metrics {
    /// A registry with a series for each of `providers` and of `relays`, which are names.
    pub fn new<'r>(providers: &Providers, relays: impl IntoIterator<Item = &'r str>) -> Self {
        let mut registry = Registry::with_prefix("postrider");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The running version", build);
        let outcomes: Family<OutcomeLabels, Counter> = Family::default();
        registry.register("attempts", "What attempts came to", outcomes.clone());
        let of_provider = |provider: &Provider| {
            let label = |lane, outcome: EventKind| OutcomeLabels {
                lane,
                outcome: outcome.as_str(),
                provider: provider.name.clone(),
            };
            let of_lane =
                |lane| OUTCOMES.map(|outcome| outcomes.get_or_create_owned(&label(lane, outcome)));
            (provider.id.0, Lane::WORDS.map(of_lane))
        };
        let outcomes = providers.iter().map(of_provider).collect();
        let times = Times::registered(&mut registry, providers, relays);
        let work = Work::registered(&mut registry);
        let gauges = Gauges::default();
        gauges.register(&mut registry);
        let mailboxes = Mailboxes::default();
        mailboxes.register(&mut registry);
        let hooks = Hooks::default();
        hooks.register(&mut registry);
        let scrape = Mutex::default();
        Self { registry, outcomes, times, work, gauges, mailboxes, hooks, scrape }
    }

    /// The series of a mailbox, from now on shown.
    pub fn mailbox(&self, name: &str) -> MailboxSeries {
        self.mailboxes.of(name)
    }

    /// The series of a webhook that events are posted to, from now on shown.
    pub fn event_hook(&self, name: &str) -> HookSeries {
        self.hooks.of(name)
    }

    /// The time that steps take.
    pub fn work(&self) -> &Work {
        &self.work
    }

    /// Counts attempts that are durable.
    pub fn count<'a>(&self, attempts: impl Iterator<Item = Attempt<'a>>) {
        let mut written = Duration::ZERO;
        for attempt in attempts {
            written += attempt.phases[1];
            let known = self.outcomes.get(&attempt.provider).or_else(|| self.outcomes.get(&0));
            let place = OUTCOMES.iter().position(|outcome| *outcome == attempt.outcome);
            if let (Some(outcomes), Some(place)) = (known, place) {
                outcomes[attempt.lane as usize][place].inc();
            }
            self.times.count(&attempt);
        }
        self.work.add(Step::Write, written);
    }

    /// Counts a session that was opened at `relay`: how long TCP, TLS, greeting with EHLO, and login
    /// took; zero for what was not needed.
    pub fn opened(&self, relay: &str, phases: [Duration; 4]) {
        self.times.opened(relay, phases);
    }

    /// Everything as text (OpenMetrics 1.0), with the gauges of `sample`.
    pub fn encode(&self, sample: &Sample) -> String {
        let _one = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        self.gauges.set(sample);
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(outcome: EventKind, provider: i64) -> Attempt<'static> {
        let ms = Duration::from_millis;
        Attempt {
            lane: Lane::Issue,
            outcome,
            provider,
            relay: Some("main"),
            smtp: Some(ms(30)),
            phases: [ms(4), ms(0), ms(20)],
            queue_wait: Some(ms(700)),
            end_to_end: Some(Duration::from_secs(40)).filter(|_| outcome != EventKind::Deferred),
        }
    }

    #[test]
    fn attempts_are_counted_by_outcome_and_provider() {
        let metrics = Metrics::new(Providers::embedded(), ["main"]);
        let google = Providers::embedded().by_name("google").unwrap().0;
        let accepted = attempt(EventKind::Accepted, google);
        let service = Attempt { lane: Lane::Service, relay: None, ..accepted };
        let unknown = attempt(EventKind::Rejected, 999_999);
        let again = attempt(EventKind::Deferred, google);
        metrics.count([accepted, accepted, service, unknown, again].into_iter());
        metrics.opened("main", [1, 0, 3, 0].map(Duration::from_millis));
        metrics.opened("one that is not configured", [Duration::ZERO; 4]);
        let sample = Sample {
            copies: vec![("queued", 12)],
            oldest_due: Duration::from_millis(1500),
            limited_by: ("rate", &["nothing", "rate"]),
            relays: vec![RelaySample {
                name: "main \"1\"".into(),
                good: true,
                suspended: false,
                in_use: 3,
                connections: 8,
                direct: Some([40, 2, 7]),
            }],
            providers_limited_by: vec![("google".into(), "breaker")],
            breakers: vec![BreakerSample {
                relay: "main".into(),
                provider: "google".into(),
                state: ("open", &["closed", "open"]),
            }],
            ..Sample::default()
        };
        let text = metrics.encode(&sample);
        for line in [
            "postrider_attempts_total{lane=\"issue\",outcome=\"accepted\",provider=\"google\"} 2",
            "postrider_attempts_total{lane=\"service\",outcome=\"accepted\",provider=\"google\"} 1",
            "postrider_attempts_total{lane=\"issue\",outcome=\"rejected\",provider=\"other\"} 1",
            "postrider_attempts_total{lane=\"issue\",outcome=\"uncertain\",provider=\"google\"} 0",
            "postrider_smtp_duration_seconds_bucket{le=\"0.05\",provider=\"google\"} 4",
            "postrider_smtp_duration_seconds_bucket{le=\"0.025\",provider=\"google\"} 0",
            "postrider_end_to_end_seconds_bucket{le=\"60.0\",relay=\"main\",lane=\"issue\"} 3",
            "postrider_end_to_end_seconds_bucket{le=\"15.0\",relay=\"main\",lane=\"issue\"} 0",
            "postrider_end_to_end_seconds_count{relay=\"main\",lane=\"service\"} 0",
            "postrider_queue_wait_seconds_bucket{le=\"1.0\",relay=\"main\",lane=\"issue\"} 4",
            "postrider_smtp_phase_duration_seconds_bucket{le=\"0.005\",relay=\"main\",phase=\"envelope\"} 4",
            "postrider_smtp_phase_duration_seconds_count{relay=\"main\",phase=\"body\"} 0",
            "postrider_smtp_phase_duration_seconds_count{relay=\"main\",phase=\"dot\"} 4",
            "postrider_smtp_phase_duration_seconds_count{relay=\"main\",phase=\"connect\"} 1",
            "postrider_smtp_phase_duration_seconds_count{relay=\"main\",phase=\"tls\"} 0",
            "postrider_copies{state=\"queued\"} 12",
            "postrider_oldest_due_seconds 1.5",
            "postrider_limited{by=\"rate\"} 1",
            "postrider_limited{by=\"nothing\"} 0",
            "postrider_provider_limited{provider=\"google\",by=\"breaker\"} 1",
            "postrider_breaker_state{relay=\"main\",provider=\"google\",state=\"open\"} 1",
            "postrider_breaker_state{relay=\"main\",provider=\"google\",state=\"closed\"} 0",
            "postrider_relay_destinations_in_trouble{relay=\"main \\\"1\\\"\"} 2",
            "postrider_relay_up{relay=\"main \\\"1\\\"\"} 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
