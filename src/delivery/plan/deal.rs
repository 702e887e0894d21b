//! How readers are dealt over the stages of an issue: each gets a place by their number, the places are
//! spread evenly over the readers whoever they are, and the next issue deals anew.
//!
//! A place is `(number × multiplier + offset) mod PLACES`. Which stage it falls into the statement that
//! queues copies decides.

use crate::id::IssueId;

/// Readers are dealt over this many places; a prime, so that every multiplier deals them all.
pub(super) const PLACES: i64 = 1_000_003;

/// The largest term that the continued fraction of a multiplier over the places may have.
///
/// A large one means that the places of readers who follow each other come back, after a few steps,
/// almost to where they were: multiplied by 1, or by half of the places, a thousand readers share two
/// corners of the table, and a stage has all of them or none. Without a large term a stage of any size
/// has its share of any run of readers up to a dozen or so, be it every reader or every seventh.
const TERM_MAX: i64 = 8;

/// The multiplier and the offset of an issue. One draw in eleven does, and another is soon made.
pub(super) fn deal(issue: IssueId) -> (i64, i64) {
    let mut state = issue.0 as u64;
    loop {
        // SplitMix64, whose output is as good as random for neighbouring inputs.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let places = PLACES as u64;
        let multiplier = 1 + (z % (places - 1)) as i64;
        if spreads(multiplier) {
            return (multiplier, ((z >> 32) % places) as i64);
        }
    }
}

/// Whether readers who follow each other get places far from each other.
fn spreads(multiplier: i64) -> bool {
    let (mut above, mut below) = (PLACES, multiplier);
    while below > 0 {
        if above / below > TERM_MAX {
            return false;
        }
        (above, below) = (below, above % below);
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How many of `readers` an issue puts into the first `percent` of its places.
    fn dealt(issue: i64, percent: i64, readers: impl Iterator<Item = i64>) -> i64 {
        let (multiplier, offset) = deal(IssueId(issue));
        let place = |reader: i64| (reader % PLACES * multiplier + offset) % PLACES;
        readers.filter(|reader| place(*reader) * 100 < PLACES * percent).count() as i64
    }

    /// By how many readers a stage may miss its share. The worst of a million draws was 19; without a
    /// bound on the terms it is a thousand.
    const OFF_MAX: i64 = 40;

    fn off(issue: i64, percent: i64, first: i64, step: i64, count: i64) -> i64 {
        let readers = (0..count).map(|nth| first + nth * step);
        (dealt(issue, percent, readers) - count * percent / 100).abs()
    }

    #[test]
    fn no_issue_deals_its_stages_unevenly() {
        for issue in 1..=3_000 {
            for (percent, step, count) in [(1, 1, 5_000), (10, 1, 2_000), (10, 3, 1_000)] {
                let off = off(issue, percent, 1, step, count);
                assert!(off <= OFF_MAX, "issue {issue}, {percent} %, every {step}: {off} off");
            }
        }
    }

    proptest! {
        #[test]
        fn a_stage_has_its_share_of_any_run_of_readers(
            issue in 1..i64::MAX,
            percent in 1..50_i64,
            first in 1..10_000_000_i64,
            // Readers of one provider stand in a row, or are every so many of a list.
            step in 1..8_i64,
            count in 100..5_000_i64,
        ) {
            let off = off(issue, percent, first, step, count);
            prop_assert!(off <= OFF_MAX, "{off} off");
        }
    }

    #[test]
    fn every_reader_is_dealt_a_place_and_another_one_each_issue() {
        let (first, second) = (deal(IssueId(1)), deal(IssueId(2)));
        assert_ne!(first, second);
        for (multiplier, offset) in [first, second] {
            assert!((1..PLACES).contains(&multiplier) && (0..PLACES).contains(&offset));
        }
        let canary = |issue: i64| {
            let (multiplier, offset) = deal(IssueId(issue));
            (1..=100_000_i64)
                .filter(move |id| (id * multiplier + offset) % PLACES < PLACES / 100)
                .collect::<std::collections::HashSet<_>>()
        };
        let (first, second) = (canary(1), canary(2));
        assert!((975..=1025).contains(&first.len()), "{}", first.len());
        assert!(first.intersection(&second).count() < 60);
    }

    #[test]
    fn multipliers_that_clump_are_not_taken() {
        for clumps in [1, 2, 1_000, PLACES / 2, PLACES / 3, PLACES * 2 / 5, PLACES - 1] {
            assert!(!spreads(clumps), "{clumps}");
        }
        // The golden section: every term is 1 or nearly.
        assert!(spreads(618_036));
    }
}
