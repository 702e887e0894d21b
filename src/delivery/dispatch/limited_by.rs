//! What stands between the queue and the wire at a moment: a value that the dispatch computes, for
//! everything, for an issue, for a relay and for a provider.

use super::{
    board::{Board, Obstacle},
    slots::RelaySlot,
};
use crate::{
    delivery::limits::{LimitName, Way},
    id::{IssueId, NewsletterId},
    provider::{ProviderId, Providers},
    timestamp::Timestamp,
};

/// What holds mail back. The order is that of weight: what comes first lifts soonest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LimitedBy {
    /// Copies are being claimed.
    Claiming,
    /// Every connection is at work: the relays' speed.
    Connections,
    /// The destination takes fewer connections at once than there are.
    Concurrency {
        /// At this relay.
        relay: usize,
        /// For this provider; none for the whole relay.
        provider: Option<i64>,
        /// So many for now.
        connections: u32,
    },
    /// A rate limit.
    Rate(LimitName),
    /// A breaker.
    Breaker {
        /// Of this relay.
        relay: usize,
        /// For this provider there; none for the whole relay.
        provider: Option<i64>,
        /// Until then; none while one message finds out.
        until: Option<Timestamp>,
    },
    /// A warm-up ramp allows nothing more today.
    WarmUp {
        /// Of this relay.
        relay: usize,
        /// To this provider.
        provider: i64,
    },
    /// An operator suspended every relay.
    Suspended,
    /// A relay that is used first takes everything.
    Standby,
    /// Nothing is waiting to be sent.
    NothingToSend,
}

/// [`LimitedBy::NothingToSend`] in words.
pub const NOTHING: &str = "nothing is waiting to be sent";

impl LimitedBy {
    /// The limit in one word, for programs; all there are in [`LimitedBy::WORDS`].
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Claiming => "claiming",
            Self::Connections => "connections",
            Self::Concurrency { .. } => "concurrency",
            Self::Rate(_) => "rate",
            Self::Breaker { .. } => "breaker",
            Self::WarmUp { .. } => "warm_up",
            Self::Suspended => "suspended",
            Self::Standby => "standby",
            Self::NothingToSend => "nothing",
        }
    }

    /// Every [`LimitedBy::word`].
    pub const WORDS: &[&str] = &[
        "nothing",
        "claiming",
        "connections",
        "concurrency",
        "rate",
        "breaker",
        "warm_up",
        "suspended",
        "standby",
    ];

    /// The limit in words.
    pub fn describe(&self, names: &Names<'_>) -> String {
        match self {
            Self::NothingToSend => NOTHING.to_owned(),
            Self::Claiming => "claiming from the ledger".to_owned(),
            Self::Connections => "the relays: every connection is at work".to_owned(),
            Self::Concurrency { relay, provider, connections } => {
                let plural = if *connections == 1 { "" } else { "s" };
                let place = names.place(*relay, *provider);
                format!("{place} takes {connections} connection{plural} at once for now")
            }
            Self::Rate(name) => format!("the rate limit of {}", names.limit(*name)),
            Self::Breaker { relay, provider, until } => {
                let place = names.place(*relay, *provider);
                match until {
                    Some(until) => format!("the breaker of {place} is open until {until}"),
                    None => format!("the breaker of {place} waits for one message"),
                }
            }
            Self::WarmUp { relay, provider } => {
                let place = names.place(*relay, Some(*provider));
                format!("the warm-up of {place}: today's copies are sent")
            }
            Self::Suspended => "an operator: no relay is left that is not suspended".to_owned(),
            Self::Standby => "nothing: a relay that is used first takes everything".to_owned(),
        }
    }
}

/// What people call relays and providers.
#[derive(Debug, Clone, Copy)]
pub struct Names<'a> {
    /// The relays, by number.
    pub relays: &'a [String],
    /// The provider table.
    pub providers: &'a Providers,
}

impl Names<'_> {
    /// The name of a relay.
    pub fn relay(&self, relay: usize) -> &str {
        self.relays.get(relay).map_or("?", String::as_str)
    }

    /// The name of a provider.
    pub fn provider(&self, provider: i64) -> &str {
        self.providers.name(ProviderId(provider))
    }

    /// A limit's name.
    pub fn limit(&self, name: LimitName) -> String {
        match name {
            LimitName::Total => "total".to_owned(),
            LimitName::Relay(relay) => format!("relay {}", self.relay(relay)),
            LimitName::Provider(id) => format!("provider {}", self.provider(id)),
            LimitName::Newsletter(id) => format!("newsletter {id}"),
            LimitName::WarmUp(relay, id) => {
                format!("warm-up {} {}", self.relay(relay), self.provider(id))
            }
        }
    }

    fn place(&self, relay: usize, provider: Option<i64>) -> String {
        match provider {
            Some(provider) => {
                format!("provider {} at relay {}", self.provider(provider), self.relay(relay))
            }
            None => format!("relay {}", self.relay(relay)),
        }
    }
}

/// What holds back whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explanation {
    /// What moves, or would move first, is limited by this.
    pub everything: LimitedBy,
    /// The same for each issue with copies in memory.
    pub issues: Vec<IssueExplanation>,
    /// The same for each provider with copies in memory.
    pub providers: Vec<(i64, LimitedBy)>,
    /// The same for each relay, by number.
    pub relays: Vec<LimitedBy>,
}

/// What holds back one issue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssueExplanation {
    /// The issue.
    pub issue: IssueId,
    /// What of it moves, or would move first, is limited by this.
    pub limited_by: LimitedBy,
    /// What holds its copies back by provider.
    pub providers: Vec<(i64, LimitedBy)>,
}

impl IssueExplanation {
    /// In words: what limits the issue, then what holds single providers up beyond that.
    pub fn describe(&self, names: &Names<'_>) -> String {
        let held = |(_, by): &&(i64, LimitedBy)| {
            !matches!(by, LimitedBy::Claiming | LimitedBy::Connections) && *by != self.limited_by
        };
        let held = self.providers.iter().filter(held);
        let held = held.map(|(provider, by)| {
            format!("; {}: {}", names.provider(*provider), by.describe(names))
        });
        std::iter::once(self.limited_by.describe(names)).chain(held).collect()
    }
}

impl Board {
    /// Explains what holds copies back at `now`.
    pub(super) fn explain(&self, now: Timestamp) -> Explanation {
        let mut found = Explanation {
            everything: LimitedBy::NothingToSend,
            issues: Vec::new(),
            providers: Vec::new(),
            relays: vec![LimitedBy::NothingToSend; self.relays.len()],
        };
        let service = self.lanes.service.front().map(|copy| (None, copy.provider, None));
        let lanes = self.lanes.lanes().iter();
        let lanes = lanes.map(|lane| (Some(lane.issue), lane.provider, Some(lane.newsletter)));
        for (issue, provider, newsletter) in lanes.chain(service) {
            let mut lane = LimitedBy::Standby;
            for relay in 0..self.relays.len() {
                let here = self.why(relay, provider, newsletter, now);
                lane = lane.min(here);
                found.relays[relay] = found.relays[relay].min(here);
            }
            found.everything = found.everything.min(lane);
            note(&mut found.providers, provider, lane);
            let Some(issue) = issue else { continue };
            match found.issues.iter_mut().find(|known| known.issue == issue) {
                Some(known) => {
                    known.limited_by = known.limited_by.min(lane);
                    known.providers.push((provider, lane));
                }
                None => found.issues.push(IssueExplanation {
                    issue,
                    limited_by: lane,
                    providers: vec![(provider, lane)],
                }),
            }
        }
        found
    }

    /// Whether a provider alone is held up, and no relay.
    pub(super) fn is_held_up(&self, provider: i64, now: Timestamp) -> bool {
        let works = |slot: &RelaySlot| !slot.suspended && slot.breaker.is_passable(now);
        let mut working = self.relays.iter().enumerate().filter(|(_, slot)| works(slot)).peekable();
        working.peek().is_some()
            && working.all(|(relay, slot)| {
                !slot.is_passable(provider, now)
                    || self.limits.is_warm_up_used_up(relay, provider, now)
            })
    }

    /// What holds copies back at one relay.
    fn why(
        &self,
        relay: usize,
        provider: i64,
        newsletter: Option<NewsletterId>,
        now: Timestamp,
    ) -> LimitedBy {
        let slot = &self.relays[relay];
        let opening = match self.opening(relay, provider, now) {
            Err(Obstacle::Better) => return LimitedBy::Standby,
            Err(Obstacle::Suspended) => return LimitedBy::Suspended,
            Err(Obstacle::Breaker { provider, until }) => {
                return LimitedBy::Breaker { relay, provider, until };
            }
            Ok(opening) => opening,
        };
        let way = Way { relay, provider, newsletter };
        match self.limits.obstacle(way, now) {
            Some((LimitName::WarmUp(relay, provider), _)) => LimitedBy::WarmUp { relay, provider },
            Some((name, _)) => LimitedBy::Rate(name),
            None if !slot.has_room_for(provider, opening.one_connection) => {
                let limit = slot.pairs.get(&provider).map_or(1, |pair| pair.concurrency.limit());
                let connections = if opening.one_connection { 1 } else { limit };
                if connections < slot.terms.connections {
                    LimitedBy::Concurrency { relay, provider: Some(provider), connections }
                } else {
                    LimitedBy::Connections
                }
            }
            None if !slot.has_room() && slot.concurrency.limit() < slot.concurrency.cap() => {
                let connections = slot.concurrency.limit();
                LimitedBy::Concurrency { relay, provider: None, connections }
            }
            None if slot.waiting.is_empty() => LimitedBy::Connections,
            None => LimitedBy::Claiming,
        }
    }
}

fn note(found: &mut Vec<(i64, LimitedBy)>, provider: i64, by: LimitedBy) {
    match found.iter_mut().find(|(known, _)| *known == provider) {
        Some((_, known)) => *known = (*known).min(by),
        None => found.push((provider, by)),
    }
}
