//! What trips a breaker, what it lets through, and what it does over any course of events.

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
    let mut breaker = Breaker::new(Breakers::default());
    breaker.hit(&hit(Trip::Throttle, 1), "slow", at(90_000));
    assert_eq!(breaker.admits(at(90_000)), Admission::OneConnection);
    assert_eq!(breaker.admits(at(0)), Admission::All);
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
