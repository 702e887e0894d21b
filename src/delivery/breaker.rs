//! Breakers: one for every relay, one for every provider at a relay. A breaker keeps copies away from
//! where they would only be refused, so that nobody is pestered and no copy's tries are used up.
//!
//! Closed → throttled (one connection) → open until a time → half-open (exactly one message) →
//! closed, or open again for twice as long. What trips it: no connection; more than half of at least
//! twenty outcomes within five minutes refused for now; or a reply rule that says so. Only what
//! servers said or did counts here, never a reply that we made up. Pure.

mod outcomes;

use std::time::Duration;

use self::outcomes::Outcomes;
use crate::{config::Breakers, timestamp::Timestamp};

/// A rule's opening grows to so many times its length.
const RULE_GROWTH_MAX: u32 = 8;

/// Where a breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Everything may pass.
    Closed,
    /// One connection may work, until this time.
    Throttled(Timestamp),
    /// Nothing passes until this time, then one message.
    Open(Timestamp),
    /// One message is on its way, and nothing else passes until it has come to something.
    HalfOpen,
}

impl State {
    /// Its name in lists and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Throttled(_) => "throttled",
            Self::Open(_) => "open",
            Self::HalfOpen => "half_open",
        }
    }

    /// Every [`State::word`], from good to bad.
    pub const WORDS: [&str; 4] = ["closed", "throttled", "half_open", "open"];
}

/// How much a breaker lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Everything.
    All,
    /// One connection's work.
    OneConnection,
    /// One message, to see whether it works again.
    OneMessage,
    /// Nothing, until this time if one is known.
    Nothing(Option<Timestamp>),
}

/// What a rule does to a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trip {
    /// One connection only.
    Throttle,
    /// Nothing for a while.
    Open,
}

/// A rule's word on one reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hit {
    /// The rule.
    pub rule: &'static str,
    /// What follows.
    pub trip: Trip,
    /// After so many such replies…
    pub threshold: u32,
    /// …within this time.
    pub within: Duration,
    /// How long it lasts.
    pub lasts: Duration,
}

/// A change of state that somebody should hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// One connection only, until then.
    Throttled(Timestamp),
    /// Nothing until then.
    Opened(Timestamp),
    /// It works again.
    Closed,
}

/// One breaker.
#[derive(Debug, Clone)]
pub struct Breaker {
    times: Breakers,
    state: State,
    /// Why it is not closed, for people.
    cause: String,
    /// How long the last opening was, and how long it may grow.
    length: (Duration, Duration),
    /// How long the last throttle was.
    throttle_length: Duration,
    outcomes: Outcomes,
    hits: Vec<(&'static str, u32, Timestamp)>,
}

impl Breaker {
    /// A closed breaker.
    pub fn new(times: Breakers) -> Self {
        Self {
            times,
            state: State::Closed,
            cause: String::new(),
            length: (Duration::ZERO, Duration::ZERO),
            throttle_length: Duration::ZERO,
            outcomes: Outcomes::default(),
            hits: Vec::new(),
        }
    }

    /// Where it stands at `now`.
    pub fn state(&self, now: Timestamp) -> State {
        match self.state {
            // A clock that jumped back must not keep it throttled for as long as the jump.
            State::Throttled(until) if until <= now || until.since(now) > self.throttle_length => {
                State::Closed
            }
            state => state,
        }
    }

    /// Why it is not closed.
    pub fn cause(&self) -> &str {
        &self.cause
    }

    /// How much passes at `now`.
    pub fn admits(&self, now: Timestamp) -> Admission {
        match self.state(now) {
            State::Closed => Admission::All,
            State::Throttled(_) => Admission::OneConnection,
            // A clock that jumped back must not keep it open for as long as the jump.
            State::Open(until) if until <= now || until.since(now) > self.length.0 => {
                Admission::OneMessage
            }
            State::Open(until) => Admission::Nothing(Some(until)),
            State::HalfOpen => Admission::Nothing(None),
        }
    }

    /// Whether work may go on here as if nothing were: no better place has to be found.
    pub fn is_passable(&self, now: Timestamp) -> bool {
        matches!(self.state(now), State::Closed | State::Throttled(_))
    }

    /// The one message of a half-open breaker goes on its way.
    pub fn probe_begins(&mut self) {
        self.state = State::HalfOpen;
    }

    /// The one message did not go after all: another may.
    pub fn probe_withdrawn(&mut self, now: Timestamp) {
        if self.state == State::HalfOpen {
            self.state = State::Open(now);
        }
    }

    /// The one message passed.
    pub fn probe_passed(&mut self) -> Option<Change> {
        (self.state == State::HalfOpen).then(|| {
            self.close();
            Change::Closed
        })
    }

    /// The one message failed as those before it.
    pub fn probe_failed(&mut self, cause: &str, now: Timestamp) -> Option<Change> {
        if self.state != State::HalfOpen {
            return None;
        }
        let (length, longest) = self.length;
        Some(self.open((length * 2).min(longest.max(length)), longest, cause, now))
    }

    /// Notes outcomes: `fine` of them good enough, `refused` refused for now and not for the sake of
    /// a single mailbox.
    pub fn outcomes(
        &mut self,
        fine: u32,
        refused: u32,
        cause: &str,
        now: Timestamp,
    ) -> Option<Change> {
        // While it is open, what comes in was sent before.
        if !self.is_passable(now) {
            return None;
        }
        let window = self.times.window;
        self.outcomes.add(fine, refused, window, now);
        if refused == 0 || !self.outcomes.trips(window, now) {
            return None;
        }
        self.outcomes = Outcomes::default();
        if let State::Throttled(_) = self.state(now) {
            let (first, longest) = (self.times.open_for, self.times.open_for_max);
            return Some(self.open(first, longest, cause, now));
        }
        Some(self.throttle(self.times.throttle_for, cause, now))
    }

    /// No connection could be made, and none stands.
    pub fn unreachable(&mut self, cause: &str, now: Timestamp) -> Option<Change> {
        let (first, longest) = (self.times.rest, self.times.rest_max);
        match self.state {
            State::HalfOpen => self.probe_failed(cause, now),
            // Connections that fail together count once.
            State::Open(_) => None,
            State::Closed | State::Throttled(_) => Some(self.open(first, longest, cause, now)),
        }
    }

    /// A reply that a rule is about.
    pub fn hit(&mut self, hit: &Hit, cause: &str, now: Timestamp) -> Option<Change> {
        if !self.is_passable(now) {
            return None;
        }
        let stale = |since: Timestamp| since > now || now.since(since) > hit.within;
        self.hits.retain(|(rule, _, since)| *rule != hit.rule || !stale(*since));
        let count = match self.hits.iter_mut().find(|(rule, ..)| *rule == hit.rule) {
            Some((_, count, _)) => {
                *count += 1;
                *count
            }
            None => {
                self.hits.push((hit.rule, 1, now));
                1
            }
        };
        if count < hit.threshold {
            return None;
        }
        self.hits.retain(|(rule, ..)| *rule != hit.rule);
        match hit.trip {
            Trip::Open => Some(self.open(hit.lasts, hit.lasts * RULE_GROWTH_MAX, cause, now)),
            Trip::Throttle => match self.state(now) {
                State::Throttled(until) if until >= now.plus(hit.lasts) => None,
                _ => Some(self.throttle(hit.lasts, cause, now)),
            },
        }
    }

    fn throttle(&mut self, lasts: Duration, cause: &str, now: Timestamp) -> Change {
        let until = now.plus(lasts);
        self.state = State::Throttled(until);
        self.throttle_length = lasts;
        cause.clone_into(&mut self.cause);
        Change::Throttled(until)
    }

    fn open(&mut self, length: Duration, longest: Duration, cause: &str, now: Timestamp) -> Change {
        let until = now.plus(length);
        self.state = State::Open(until);
        self.length = (length, longest);
        cause.clone_into(&mut self.cause);
        self.outcomes = Outcomes::default();
        self.hits.clear();
        Change::Opened(until)
    }

    fn close(&mut self) {
        *self = Self::new(self.times);
    }
}

#[cfg(test)]
mod tests;
