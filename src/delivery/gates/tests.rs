use proptest::prelude::*;

use super::*;
use crate::delivery::tally::Fault;

static NOBODY: BTreeMap<i64, i64> = BTreeMap::new();

fn tally(decided: i64, refuse: impl Fn(&mut Tally)) -> Tally {
    let mut tally = Tally::default();
    accept(&mut tally, 1, 1, decided);
    refuse(&mut tally);
    tally
}

fn accept(tally: &mut Tally, stage: i64, provider: i64, copies: i64) {
    for _ in 0..copies {
        tally.move_copy(stage, provider, CopyState::HandedOff, CopyState::Accepted);
    }
}

fn look<'a>(tally: &'a Tally, gates: &'a Gates) -> Look<'a> {
    Look { tally, stage: 1, last_stage: 3, held: &NOBODY, gates, normal: None, late: false }
}

fn gate(tally: &Tally, last_stage: i64) -> Option<Gate> {
    let gates = Gates::default();
    check(&Look { last_stage, ..look(tally, &gates) }, &[]).map(|found| found.gate)
}

#[test]
fn shares_need_a_sample_and_a_bound_above_the_limit() {
    for (decided, recipients, expected) in [
        (10, 9, None),
        (20, 1, None),
        (20, 2, None),
        (20, 4, Some(Gate::Recipients)),
        (1000, 55, None),
        (1000, 65, Some(Gate::Recipients)),
        (100_000, 5_100, None),
        (100_000, 5_200, Some(Gate::Recipients)),
    ] {
        let tally = tally(decided, |t| t.refuse(1, 1, Fault::Recipient, recipients));
        assert_eq!(gate(&tally, 3), expected, "{recipients} of {decided}");
    }
}

#[test]
fn one_copy_of_unknown_fate_or_one_complaint_halts_no_canary() {
    let gates = Gates::default();
    let mut uncertain = tally(19, |_| ());
    uncertain.move_copy(1, 1, CopyState::HandedOff, CopyState::Uncertain);
    assert_eq!(check(&look(&uncertain, &gates), &[]), None);
    for (complaints, expected) in [(1, None), (2, Some(Gate::Complaints))] {
        let tally = tally(50, |t| t.set_complaints(1, 1, complaints));
        let late = Look { late: true, ..look(&tally, &gates) };
        assert_eq!(check(&late, &[]).map(|found| found.gate), expected, "{complaints}");
    }
}

#[test]
fn a_canary_halts_at_the_third_policy_refusal_whatever_the_share() {
    let three = tally(1000, |t| t.refuse(1, 1, Fault::Policy, 3));
    assert_eq!(gate(&three, 3), Some(Gate::Policy));
    assert_eq!(gate(&three, 1), None);
    let two = tally(1000, |t| t.refuse(1, 1, Fault::Policy, 2));
    assert_eq!(gate(&two, 3), None);
}

#[test]
fn one_authentication_failure_is_enough_and_a_provider_is_named_first() {
    let tally = tally(1, |t| t.refuse(1, 1, Fault::Authentication, 1));
    let found = check(&look(&tally, &Gates::default()), &[]).unwrap();
    assert_eq!((found.gate, found.provider), (Gate::Authentication, Some(1)));
}

#[test]
fn small_samples_of_providers_add_up_to_the_issue() {
    let mut tally = Tally::default();
    for provider in 1..=4 {
        accept(&mut tally, 1, provider, 15);
        tally.refuse(1, provider, Fault::Recipient, 3);
    }
    let found = check(&look(&tally, &Gates::default()), &[]).unwrap();
    assert_eq!((found.provider, found.hits, found.sample), (None, 12, 60));
}

#[test]
fn late_signals_count_over_every_stage_so_far_and_only_between_stages() {
    let gates = Gates::default();
    let mut tally = Tally::default();
    accept(&mut tally, 1, 1, 60);
    accept(&mut tally, 2, 1, 40);
    tally.set_complaints(1, 1, 4);
    let within = Look { stage: 2, ..look(&tally, &gates) };
    assert_eq!(check(&within, &[]), None);
    let between = Look { late: true, ..within };
    let found = check(&between, &[]).unwrap();
    let figures = (found.gate, found.provider, found.hits, found.sample);
    assert_eq!(figures, (Gate::Complaints, Some(1), 4, 100));
    let not_released = Look { stage: 0, ..between };
    assert_eq!(check(&not_released, &[]), None);
}

#[test]
fn leaving_is_held_against_what_is_normal_for_the_newsletter() {
    let gates = Gates::default();
    for (left, normal, expected) in [
        (40, None, None),
        (12, Some(1.0), None),
        (38, Some(1.0), None),
        (45, Some(1.0), Some(Gate::Unsubscribes)),
        (45, Some(2.0), None),
    ] {
        let tally = tally(1000, |t| t.set_unsubscribed(1, 1, left));
        let late = Look { late: true, normal, ..look(&tally, &gates) };
        let found = check(&late, &[]).map(|found| found.gate);
        assert_eq!(found, expected, "{left} of 1000, normal {normal:?}");
    }
}

#[test]
fn warnings_come_before_halts_and_once_until_they_double() {
    let gates = Gates::default();
    let forty = tally(1000, |t| t.refuse(1, 1, Fault::Recipient, 40));
    assert_eq!(check(&look(&forty, &gates), &[]), None);
    let said = warnings(&look(&forty, &gates), &[]);
    let of = |found: &Finding| (found.gate, found.provider, found.hits, found.limit);
    let expected = [(Gate::Recipients, Some(1), 40, 2.0), (Gate::Recipients, None, 40, 2.0)];
    assert_eq!(said.iter().map(of).collect::<Vec<_>>(), expected);
    let more = tally(1000, |t| t.refuse(1, 1, Fault::Recipient, 79));
    assert_eq!(warnings(&look(&more, &gates), &said), []);
    let double = tally(1000, |t| t.refuse(1, 1, Fault::Recipient, 80));
    assert_eq!(warnings(&look(&double, &gates), &said).len(), 2);
    let complaints = tally(1000, |t| t.set_complaints(1, 1, 4));
    assert_eq!(warnings(&look(&complaints, &gates), &[]), []);
    let late = Look { late: true, ..look(&complaints, &gates) };
    assert_eq!(warnings(&late, &[]).first().map(|found| found.gate), Some(Gate::Complaints));
}

#[test]
fn a_halt_that_was_resumed_comes_again_when_its_hits_have_doubled() {
    let gates = Gates::default();
    let three = tally(100, |t| t.refuse(1, 1, Fault::Policy, 3));
    let mut seen = Vec::new();
    while let Some(found) = check(&look(&three, &gates), &seen) {
        seen.push(found);
    }
    assert!(!seen.is_empty());
    let five = tally(100, |t| t.refuse(1, 1, Fault::Policy, 5));
    assert_eq!(check(&look(&five, &gates), &seen), None);
    let six = tally(100, |t| t.refuse(1, 1, Fault::Policy, 6));
    assert_eq!(check(&look(&six, &gates), &seen).map(|found| found.hits), Some(6));
}

/// The exact interval's lower ends, from published tables of the binomial distribution.
#[test]
fn the_bound_is_the_exact_one_for_few_hits() {
    for (hits, sample, bound_percent) in
        [(1, 20, 0.2561), (1, 50, 0.1025), (4, 20, 7.135), (10, 100, 5.526)]
    {
        assert!(is_over(hits, sample, bound_percent - 0.01), "{hits} of {sample}");
        assert!(!is_over(hits, sample, bound_percent + 0.01), "{hits} of {sample}");
    }
}

proptest! {
    #[test]
    fn what_is_over_has_a_larger_share_and_stays_over_with_more_hits(
        sample in 1i64..100_000,
        hits in 1i64..1000,
        more in 0i64..1000,
        percent in 0.01f64..20.0,
    ) {
        let hits = hits.min(sample);
        if is_over(hits, sample, percent) {
            prop_assert!(100.0 * hits as f64 / sample as f64 > percent);
            prop_assert!(is_over((hits + more).min(sample), sample, percent));
            prop_assert!(is_over(hits, sample, percent / 2.0));
        }
    }
}
