//! What the rest of the program may see of a running engine: counts, limits, relays. Reading it
//! changes nothing and holds nothing up.

use std::{sync::Arc, time::Duration};

use super::{
    breaker::State,
    conductor::{self, InMotion},
    dispatch::{Dispatch, LimitedBy, Names},
    queue,
    relay::Relay,
    shedding::{Shedding, Verdict},
    tallies::Tallies,
    tally::Tally,
};
use crate::{
    db::{
        self, Db,
        state::{CopyState, IssueState},
    },
    id::IssueId,
    provider::Providers,
    telemetry::{BreakerSample, HookSeries, MailboxSeries, Metrics, RelaySample, Sample, Work},
    timestamp::Timestamp,
};

/// A way to look at an engine. Cheap to clone.
#[derive(Clone)]
pub struct View {
    pub(super) metrics: Arc<Metrics>,
    pub(super) dispatch: Arc<Dispatch>,
    pub(super) tallies: Arc<Tallies>,
    pub(super) relays: Vec<Arc<Relay>>,
    pub(super) shedding: Arc<Shedding>,
}

impl View {
    /// The counts of an issue in motion.
    pub fn tally(&self, issue: IssueId) -> Option<Tally> {
        self.tallies.get(issue)
    }

    /// The time that steps of copies' ways took.
    pub fn work(&self) -> Work {
        self.metrics.work().clone()
    }

    /// Whether some relay may be used: not suspended, and nothing went wrong at it last.
    pub fn has_usable_relay(&self) -> bool {
        self.relays.iter().any(|relay| self.relay(relay).is_usable())
    }

    /// What is given up now, and for want of what.
    pub fn shedding(&self) -> Verdict {
        self.shedding.verdict()
    }

    /// The series behind `/metrics` of a mailbox that returned mail is fetched from.
    pub fn mailbox_series(&self, name: &str) -> MailboxSeries {
        self.metrics.mailbox(name)
    }

    /// The series behind `/metrics` of a webhook that events are posted to.
    pub fn hook_series(&self, name: &str) -> HookSeries {
        self.metrics.event_hook(name)
    }

    /// The text of `/metrics`.
    pub async fn metrics(
        &self,
        db: &Db,
        providers: &Providers,
        now: Timestamp,
    ) -> db::Result<String> {
        let sample = self.sample(db, providers, now).await?;
        Ok(self.metrics.encode(&sample))
    }

    /// How many service mails wait, and since when the oldest of them is due.
    pub async fn service_queue(&self, db: &Db) -> db::Result<(i64, Option<Timestamp>)> {
        db.query(
            "SELECT COUNT(*) AS waiting, MIN(due_at) AS oldest \
             FROM service_mail INDEXED BY service_mail_due WHERE state = 0",
        )
        .one()
        .await
    }

    async fn sample(&self, db: &Db, providers: &Providers, now: Timestamp) -> db::Result<Sample> {
        let issues = conductor::in_motion(db).await?;
        let mut oldest_due = Duration::ZERO;
        for issue in issues.iter().filter(|issue| issue.state == IssueState::Sending) {
            let due = queue::next_due(db, issue.id, issue.stage).await?;
            oldest_due = oldest_due.max(due.map_or(Duration::ZERO, |due| now.since(due)));
        }
        let (service_waiting, service_oldest) = self.service_queue(db).await?;
        let names = Names { relays: self.dispatch.relay_names(), providers };
        let limits = self.dispatch.limits_available();
        let explanation = self.dispatch.explain();
        Ok(Sample {
            shedding: self.shedding.level() as i64,
            copies: self.copies(&issues),
            oldest_due,
            service_waiting,
            service_oldest_due: service_oldest.map_or(Duration::ZERO, |due| now.since(due)),
            limited_by: (explanation.everything.word(), LimitedBy::WORDS),
            providers_limited_by: explanation
                .providers
                .iter()
                .map(|(provider, by)| (names.provider(*provider).to_owned(), by.word()))
                .collect(),
            limits: limits
                .iter()
                .map(|(name, copies)| (names.limit(*name), i64::from(*copies)))
                .collect(),
            relays: self.relays.iter().map(|relay| self.relay(relay)).collect(),
            breakers: self.breakers(&names),
        })
    }

    fn relay(&self, relay: &Relay) -> RelaySample {
        let standing = self.dispatch.standings().into_iter().nth(relay.index);
        RelaySample {
            name: relay.name.clone(),
            good: relay.health.is_good(),
            suspended: standing.as_ref().is_some_and(|standing| standing.suspended),
            in_use: standing.as_ref().map_or(0, |standing| i64::from(standing.in_use)),
            connections: standing.as_ref().map_or(0, |standing| i64::from(standing.connections)),
            direct: relay.direct.as_ref().map(|direct| {
                let state = direct.state();
                [state.destinations as i64, state.in_trouble as i64, i64::from(state.sessions)]
            }),
        }
    }

    /// The breakers of relays, and those of providers that are not closed.
    fn breakers(&self, names: &Names<'_>) -> Vec<BreakerSample> {
        let mut samples = Vec::new();
        for (relay, standing) in self.dispatch.standings().into_iter().enumerate() {
            let whole = ("all".to_owned(), standing.breaker.0);
            let of_providers = standing.providers.into_iter();
            let of_providers = of_providers
                .map(|(provider, state, ..)| (names.provider(provider).to_owned(), state))
                .filter(|(_, state)| *state != State::Closed);
            for (provider, state) in std::iter::once(whole).chain(of_providers) {
                let relay = names.relay(relay).to_owned();
                samples.push(BreakerSample {
                    relay,
                    provider,
                    state: (state.word(), &State::WORDS),
                });
            }
        }
        samples
    }

    /// Copies by state, waiting ones told apart.
    fn copies(&self, issues: &[InMotion]) -> Vec<(&'static str, i64)> {
        let mut planned = 0;
        let mut deferred = 0;
        let mut states = [0; CopyState::ALL.len()];
        for issue in issues {
            let Some(tally) = self.tallies.get(issue.id) else { continue };
            let (total, released) = (tally.total(), tally.up_to_stage(issue.stage));
            planned += total.get(CopyState::Waiting) - released.get(CopyState::Waiting);
            deferred += total.deferred;
            for (sum, more) in states.iter_mut().zip(total.states) {
                *sum += more;
            }
        }
        let queued = states[CopyState::Waiting as usize] - planned - deferred;
        let waiting = [("planned", planned), ("queued", queued), ("deferred", deferred)];
        let others = CopyState::ALL.iter().filter(|state| **state != CopyState::Waiting);
        let others = others.map(|state| (state.as_str(), states[*state as usize]));
        waiting.into_iter().chain(others).collect()
    }
}

impl RelaySample {
    fn is_usable(&self) -> bool {
        self.good && !self.suspended
    }
}
