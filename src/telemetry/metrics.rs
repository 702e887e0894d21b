//! The registry behind `/metrics`, in OpenMetrics form.
//!
//! Every series that counts is made at the start, one handle per provider, so that counting is an
//! atomic addition and a rate over a series that never moved is zero instead of nothing.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError, RwLock, atomic::AtomicU64},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

use super::Work;
use crate::{db::state::EventKind, id::IssueId, provider::Providers, timestamp::Timestamp};

/// What an attempt can come to.
const OUTCOMES: [EventKind; 6] = [
    EventKind::Accepted,
    EventKind::Deferred,
    EventKind::Rejected,
    EventKind::Uncertain,
    EventKind::Skipped,
    EventKind::Expired,
];
/// Upper ends of the buckets of an SMTP transaction's time, in seconds: from a relay next door to
/// the longest wait for the reply to a final dot.
const SMTP_BUCKETS: [f64; 17] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    300.0, 600.0,
];
/// Upper ends of the buckets from the start of a send to a copy's acceptance, in seconds: up to the
/// time to live.
const END_TO_END_BUCKETS: [f64; 14] = [
    1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1_800.0, 3_600.0, 7_200.0, 14_400.0, 28_800.0, 43_200.0,
    86_400.0, 129_600.0,
];

/// Which kind of mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Copies of issues.
    Issue,
    /// Confirmations and the like.
    Service,
}

/// One attempt that came to something.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// The issue; none for service mail.
    pub issue: Option<IssueId>,
    /// What it came to.
    pub outcome: EventKind,
    /// The provider of the address.
    pub provider: i64,
    /// When.
    pub at: Timestamp,
    /// From the first byte of the envelope to the deciding reply.
    pub smtp: Option<Duration>,
}

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
struct OutcomeLabels {
    lane: &'static str,
    outcome: &'static str,
    provider: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ProviderLabel {
    provider: String,
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
struct MailboxLabel {
    mailbox: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MailboxMailsLabels {
    mailbox: String,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RelayLabel {
    relay: String,
}

/// The series of one provider.
#[derive(Debug)]
struct Handles {
    outcomes: [[Counter; OUTCOMES.len()]; 2],
    smtp: Histogram,
}

type Seconds = Gauge<f64, AtomicU64>;

#[derive(Debug, Default)]
struct Gauges {
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

/// What came of the mails in one mailbox that returned mail is fetched from.
#[derive(Debug, Clone, Default)]
pub struct MailboxSeries {
    /// Mails that were fetched and applied.
    pub fetched: Counter,
    /// Mails with a token of ours, taken away.
    pub handled: Counter,
    /// Mails that were left.
    pub left: Counter,
    /// Mails that were put aside.
    pub aside: Counter,
    /// Looks that failed.
    pub failures: Counter,
    /// Whether the last look worked.
    pub up: Gauge,
    /// When one did, in seconds since 1970.
    pub last_success: Seconds,
}

#[derive(Debug, Default)]
struct Mailboxes {
    mails: Family<MailboxMailsLabels, Counter>,
    failures: Family<MailboxLabel, Counter>,
    up: Family<MailboxLabel, Gauge>,
    last_success: Family<MailboxLabel, Seconds>,
}

impl Mailboxes {
    fn register(&self, registry: &mut Registry) {
        let mails =
            "Mails in mailboxes that returned mail is fetched from, and what became of them";
        registry.register("mailbox_mails", mails, self.mails.clone());
        let failures = "Looks into a mailbox that failed";
        registry.register("mailbox_failures", failures, self.failures.clone());
        let up = "Whether the last look into a mailbox worked";
        registry.register("mailbox_up", up, self.up.clone());
        let last = "When a look into a mailbox worked for the last time, since 1970";
        let name = "mailbox_last_success_timestamp";
        registry.register_with_unit(name, last, Unit::Seconds, self.last_success.clone());
    }
}

/// Everything `/metrics` shows.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    providers: HashMap<i64, Handles>,
    end_to_end: Histogram,
    work: Work,
    started: RwLock<HashMap<IssueId, Timestamp>>,
    gauges: Gauges,
    mailboxes: Mailboxes,
    /// One scrape at a time, so that none sees half of another's gauges.
    scrape: Mutex<()>,
}

impl Metrics {
    /// A registry with a series for each of `providers`.
    pub fn new(providers: &Providers) -> Self {
        let mut registry = Registry::with_prefix("postrider");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The running version", build);
        let outcomes: Family<OutcomeLabels, Counter> = Family::default();
        registry.register("attempts", "What attempts came to", outcomes.clone());
        let smtp = Family::<ProviderLabel, Histogram>::new_with_constructor(|| {
            Histogram::new(SMTP_BUCKETS)
        });
        registry.register_with_unit(
            "smtp_duration",
            "From the first byte of an envelope to the reply that decided",
            Unit::Seconds,
            smtp.clone(),
        );
        let handles = providers.iter().map(|provider| {
            let label = |lane, outcome: EventKind| OutcomeLabels {
                lane,
                outcome: outcome.as_str(),
                provider: provider.name.clone(),
            };
            let of_lane =
                |lane| OUTCOMES.map(|outcome| outcomes.get_or_create_owned(&label(lane, outcome)));
            let provider_label = ProviderLabel { provider: provider.name.clone() };
            let handles = Handles {
                outcomes: [of_lane("issue"), of_lane("service")],
                smtp: smtp.get_or_create_owned(&provider_label),
            };
            (provider.id.0, handles)
        });
        let providers = handles.collect();
        let end_to_end = Histogram::new(END_TO_END_BUCKETS);
        registry.register_with_unit(
            "end_to_end",
            "From the start of a send to the acceptance of a copy",
            Unit::Seconds,
            end_to_end.clone(),
        );
        let work = Work::registered(&mut registry);
        let gauges = Gauges::default();
        gauges.register(&mut registry);
        let mailboxes = Mailboxes::default();
        mailboxes.register(&mut registry);
        Self {
            registry,
            providers,
            end_to_end,
            work,
            started: RwLock::default(),
            gauges,
            mailboxes,
            scrape: Mutex::default(),
        }
    }

    /// The series of a mailbox, from now on shown.
    pub fn mailbox(&self, name: &str) -> MailboxSeries {
        let label = MailboxLabel { mailbox: name.to_owned() };
        let mails = |result| {
            let label = MailboxMailsLabels { mailbox: name.to_owned(), result };
            self.mailboxes.mails.get_or_create_owned(&label)
        };
        MailboxSeries {
            fetched: mails("fetched"),
            handled: mails("handled"),
            left: mails("left"),
            aside: mails("aside"),
            failures: self.mailboxes.failures.get_or_create_owned(&label),
            up: self.mailboxes.up.get_or_create_owned(&label),
            last_success: self.mailboxes.last_success.get_or_create_owned(&label),
        }
    }

    /// The time that steps take.
    pub fn work(&self) -> &Work {
        &self.work
    }

    /// Says which issues are being sent, and since when.
    pub fn follow(&self, sending: impl IntoIterator<Item = (IssueId, Timestamp)>) {
        let sending: HashMap<_, _> = sending.into_iter().collect();
        let mut started = self.started.write().unwrap_or_else(PoisonError::into_inner);
        if *started != sending {
            *started = sending;
        }
    }

    /// Counts attempts that are durable.
    pub fn count(&self, attempts: impl Iterator<Item = Attempt>) {
        let started = self.started.read().unwrap_or_else(PoisonError::into_inner);
        for attempt in attempts {
            let Some(handles) =
                self.providers.get(&attempt.provider).or_else(|| self.providers.get(&0))
            else {
                continue;
            };
            let lane = usize::from(attempt.issue.is_none());
            let outcome = OUTCOMES.iter().position(|outcome| *outcome == attempt.outcome);
            if let Some(counter) = outcome.and_then(|at| handles.outcomes[lane].get(at)) {
                counter.inc();
            }
            if let Some(smtp) = attempt.smtp {
                handles.smtp.observe(smtp.as_secs_f64());
            }
            let since = attempt.issue.and_then(|issue| started.get(&issue));
            if let Some(since) = since.filter(|_| attempt.outcome == EventKind::Accepted) {
                self.end_to_end.observe(attempt.at.since(*since).as_secs_f64());
            }
        }
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

impl Gauges {
    fn register(&self, registry: &mut Registry) {
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

    fn set(&self, sample: &Sample) {
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

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_microseconds(1_700_000_000_000_000);

    fn attempt(outcome: EventKind, provider: i64) -> Attempt {
        let at = START.plus(Duration::from_secs(40));
        let smtp = Some(Duration::from_millis(30));
        Attempt { issue: Some(IssueId(7)), outcome, provider, at, smtp }
    }

    #[test]
    fn attempts_are_counted_by_outcome_and_provider() {
        let metrics = Metrics::new(Providers::embedded());
        metrics.follow([(IssueId(7), START)]);
        let google = Providers::embedded().by_name("google").unwrap().0;
        let accepted = attempt(EventKind::Accepted, google);
        let service = Attempt { issue: None, ..accepted };
        let unknown = attempt(EventKind::Rejected, 999_999);
        metrics.count([accepted, accepted, service, unknown].into_iter());
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
            "postrider_smtp_duration_seconds_bucket{le=\"0.05\",provider=\"google\"} 3",
            "postrider_smtp_duration_seconds_bucket{le=\"0.025\",provider=\"google\"} 0",
            "postrider_end_to_end_seconds_bucket{le=\"60.0\"} 2",
            "postrider_end_to_end_seconds_bucket{le=\"15.0\"} 0",
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
