//! Breakers: one for every relay, one for every provider at a relay. A breaker keeps copies away from
//! where they would only be refused, so that nobody is pestered and no copy's tries are used up.
//!
//! Closed → throttled (one connection) → open until a time → half-open (exactly one message) →
//! closed, or open again for twice as long. What trips it: no connection; more than half of at least
//! twenty outcomes within five minutes refused for now; or a reply rule that says so. Only what
//! servers said or did counts here, never a reply that we made up. Pure.

use std::time::Duration;

use crate::{config::Breakers, timestamp::Timestamp};

/// The window has so many parts, the oldest of which is dropped as a whole.
const PARTS: usize = 10;
/// No share is judged on fewer outcomes than this.
const SAMPLE_MIN: u32 = 20;
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
            outcomes: Outcomes::default(),
            hits: Vec::new(),
        }
    }

    /// Where it stands at `now`.
    pub fn state(&self, now: Timestamp) -> State {
        match self.state {
            State::Throttled(until) if until <= now => State::Closed,
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

/// Outcomes of the last minutes.
#[derive(Debug, Clone, Default)]
struct Outcomes {
    /// Fine and refused ones of each part of the window.
    parts: [(u32, u32); PARTS],
    /// The number of the newest part, counted from the epoch.
    newest: i64,
}

impl Outcomes {
    fn add(&mut self, fine: u32, refused: u32, window: Duration, now: Timestamp) {
        self.forget(window, now);
        let part = &mut self.parts[self.newest.rem_euclid(PARTS as i64) as usize];
        part.0 = part.0.saturating_add(fine);
        part.1 = part.1.saturating_add(refused);
    }

    fn trips(&mut self, window: Duration, now: Timestamp) -> bool {
        self.forget(window, now);
        let sum =
            |of: fn(&(u32, u32)) -> u32| self.parts.iter().map(of).fold(0, u32::saturating_add);
        let (fine, refused) = (sum(|part| part.0), sum(|part| part.1));
        fine.saturating_add(refused) >= SAMPLE_MIN && refused > fine
    }

    /// Drops parts that are out of the window; all of them when the clock jumped back.
    fn forget(&mut self, window: Duration, now: Timestamp) {
        let part_us = (window.as_micros() as i64 / PARTS as i64).max(1);
        let newest = now.microseconds().div_euclid(part_us);
        let passed = newest - self.newest;
        if !(0..PARTS as i64).contains(&passed) {
            self.parts = Default::default();
        }
        for part in self.newest + 1..=newest.min(self.newest + PARTS as i64) {
            self.parts[part.rem_euclid(PARTS as i64) as usize] = (0, 0);
        }
        self.newest = newest;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_microseconds(1_700_000_000_000_000).plus(Duration::from_secs(seconds))
    }

    fn hit(trip: Trip, threshold: u32) -> Hit {
        let (within, lasts) = (Duration::from_mins(10), Duration::from_mins(5));
        Hit { rule: "test", trip, threshold, within, lasts }
    }

    #[test]
    fn more_than_half_of_twenty_throttles_and_then_opens() {
        let mut breaker = Breaker::new(Breakers::default());
        assert_eq!(breaker.outcomes(9, 10, "busy", at(0)), None, "a sample of nineteen");
        let throttled = Some(Change::Throttled(at(61)));
        assert_eq!(breaker.outcomes(0, 1, "busy", at(1)), throttled);
        assert_eq!(breaker.admits(at(2)), Admission::OneConnection);
        assert_eq!(breaker.outcomes(10, 10, "busy", at(3)), None, "half is not more than half");
        assert_eq!(breaker.outcomes(0, 1, "busy", at(4)), Some(Change::Opened(at(64))));
        assert_eq!(breaker.admits(at(63)), Admission::Nothing(Some(at(64))));
        assert_eq!(breaker.cause(), "busy");
    }

    #[test]
    fn a_throttle_ends_by_itself_and_old_outcomes_are_forgotten() {
        let mut breaker = Breaker::new(Breakers::default());
        breaker.outcomes(0, 20, "busy", at(0));
        assert_eq!(breaker.state(at(59)), State::Throttled(at(60)));
        assert_eq!(breaker.admits(at(60)), Admission::All);
        breaker.outcomes(0, 19, "busy", at(100));
        assert_eq!(breaker.outcomes(0, 1, "busy", at(100 + 330)), None);
    }

    #[test]
    fn exactly_one_message_passes_a_half_open_breaker_and_decides() {
        let mut breaker = Breaker::new(Breakers::default());
        let opened = breaker.unreachable("refused", at(0));
        assert_eq!(opened, Some(Change::Opened(at(1))));
        assert_eq!(breaker.unreachable("refused", at(0)), None, "they count once");
        assert_eq!(breaker.admits(at(1)), Admission::OneMessage);
        breaker.probe_begins();
        assert_eq!(breaker.admits(at(1)), Admission::Nothing(None));
        breaker.outcomes(30, 0, "", at(1));
        assert_eq!(breaker.state(at(1)), State::HalfOpen, "stragglers decide nothing");
        assert_eq!(breaker.probe_failed("refused", at(2)), Some(Change::Opened(at(4))));
        breaker.probe_begins();
        breaker.probe_withdrawn(at(5));
        assert_eq!(breaker.admits(at(5)), Admission::OneMessage);
        breaker.probe_begins();
        assert_eq!(breaker.probe_passed(), Some(Change::Closed));
        assert_eq!(breaker.admits(at(5)), Admission::All);
        assert_eq!(breaker.probe_passed(), None);
        // After that it begins anew.
        assert_eq!(breaker.unreachable("refused", at(9)), Some(Change::Opened(at(10))));
    }

    #[test]
    fn rests_double_up_to_a_minute() {
        let mut breaker = Breaker::new(Breakers::default());
        breaker.unreachable("refused", at(0));
        let mut lengths = Vec::new();
        for _ in 0..8 {
            breaker.probe_begins();
            match breaker.unreachable("refused", at(0)) {
                Some(Change::Opened(until)) => lengths.push(until.since(at(0)).as_secs()),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(lengths, [2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn a_rule_trips_at_its_threshold_within_its_time() {
        let mut breaker = Breaker::new(Breakers::default());
        let rule = hit(Trip::Open, 3);
        assert_eq!(breaker.hit(&rule, "blocked", at(0)), None);
        assert_eq!(breaker.hit(&rule, "blocked", at(1)), None);
        assert_eq!(breaker.hit(&rule, "blocked", at(601)), None, "too long after the first");
        assert_eq!(breaker.hit(&rule, "blocked", at(602)), None);
        assert_eq!(breaker.hit(&rule, "blocked", at(603)), Some(Change::Opened(at(903))));

        let mut breaker = Breaker::new(Breakers::default());
        let rule = hit(Trip::Throttle, 1);
        assert_eq!(breaker.hit(&rule, "slow", at(0)), Some(Change::Throttled(at(300))));
        assert_eq!(breaker.hit(&rule, "slow", at(10)), Some(Change::Throttled(at(310))));
    }

    #[test]
    fn a_clock_that_jumps_back_keeps_nothing_open_for_as_long() {
        let mut breaker = Breaker::new(Breakers::default());
        breaker.unreachable("refused", at(90_000));
        assert_eq!(breaker.admits(at(0)), Admission::OneMessage);
    }

    /// What can happen to a breaker.
    #[derive(Debug, Clone)]
    enum Step {
        Outcomes(u32, u32),
        Unreachable,
        Hit(bool, u32),
        Probe(bool),
        Withdrawn,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u32..30, 0u32..30).prop_map(|(fine, refused)| Step::Outcomes(fine, refused)),
            Just(Step::Unreachable),
            (any::<bool>(), 1u32..4).prop_map(|(open, threshold)| Step::Hit(open, threshold)),
            any::<bool>().prop_map(Step::Probe),
            Just(Step::Withdrawn),
        ]
    }

    proptest! {
        /// Whatever happens: an open breaker lets nothing pass before its time, a half-open one lets
        /// one message pass and no more, only that message closes it, and it never stays shut.
        #[test]
        fn it_keeps_to_its_states(steps in prop::collection::vec((step(), 0u64..200), 0..60)) {
            let mut breaker = Breaker::new(Breakers::default());
            let mut seconds = 0;
            for (step, wait) in steps {
                seconds += wait;
                let now = at(seconds);
                let before = breaker.state(now);
                let admitted = breaker.admits(now);
                let change = match step {
                    Step::Outcomes(fine, refused) => breaker.outcomes(fine, refused, "", now),
                    Step::Unreachable => breaker.unreachable("", now),
                    Step::Hit(open, threshold) => {
                        let trip = if open { Trip::Open } else { Trip::Throttle };
                        breaker.hit(&hit(trip, threshold), "", now)
                    }
                    Step::Probe(passed) => {
                        if admitted == Admission::OneMessage {
                            breaker.probe_begins();
                            prop_assert_eq!(breaker.admits(now), Admission::Nothing(None));
                        }
                        if passed { breaker.probe_passed() } else { breaker.probe_failed("", now) }
                    }
                    Step::Withdrawn => {
                        breaker.probe_withdrawn(now);
                        None
                    }
                };
                let after = breaker.state(now);
                match change {
                    Some(Change::Closed) => prop_assert_eq!(after, State::Closed),
                    Some(Change::Opened(until)) => {
                        prop_assert_eq!(after, State::Open(until));
                        prop_assert!(until > now && until <= now.plus(Duration::from_mins(5) * RULE_GROWTH_MAX));
                    }
                    Some(Change::Throttled(until)) => {
                        prop_assert_eq!(after, State::Throttled(until));
                        prop_assert!(breaker.is_passable(now));
                    }
                    None => {}
                }
                if matches!(before, State::Open(until) if until > now)
                    && !matches!(step, Step::Probe(_))
                {
                    prop_assert_eq!(before, after, "an open breaker waits");
                }
                if let State::Open(until) = after {
                    prop_assert_eq!(breaker.admits(until), Admission::OneMessage);
                }
            }
        }
    }
}
