//! Whether the last released stage of a send is decided, and which providers stay behind when the
//! next one is released to the others. Pure: counts in, a decision out.
//!
//! A provider that is down, or that puts every copy off, says nothing about the issue for hours; the
//! other providers' readers do not wait for it. It stays at its stage, and goes on stage by stage
//! once that one is decided: nothing reaches it that its own small stage has not tried out. Only what
//! the other providers decided lets anybody go on.

use std::collections::HashMap;

use super::tally::Cell;

/// The share of a stage that has to be decided before its soak time begins, in percent.
const DECIDED_PERCENT: i64 = 95;

/// Whether so many of a stage's copies have their outcome that the rest need not be waited for.
pub(super) fn is_decided(cell: &Cell) -> bool {
    cell.finished() * 100 >= cell.total() * DECIDED_PERCENT
}

/// Whether every copy that has no outcome was tried, and put off.
pub(super) fn is_put_off(cell: &Cell) -> bool {
    let open = cell.total() - cell.finished();
    open > 0 && open == cell.deferred
}

/// The providers that stay behind when a stage with these `cells` (without those that stayed behind
/// before) is left; none when it is not decided. `is_held_up` says of a provider that nothing can
/// move to it, or that it has put everything off.
pub(super) fn behind(
    cells: &HashMap<i64, Cell>,
    is_held_up: impl Fn(i64) -> bool,
) -> Option<Vec<i64>> {
    let mut behind: Vec<i64> = cells
        .iter()
        .filter(|(provider, cell)| !is_decided(cell) && is_held_up(**provider))
        .map(|(provider, _)| *provider)
        .collect();
    behind.sort_unstable();
    let mut others = Cell::default();
    for (_, cell) in cells.iter().filter(|(provider, _)| !behind.contains(provider)) {
        others.add(cell);
    }
    let speaks = behind.is_empty() || others.decided() > 0;
    (speaks && is_decided(&others)).then_some(behind)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::db::state::CopyState;

    fn cell(accepted: i64, put_off: i64, fresh: i64) -> Cell {
        let mut cell = Cell { deferred: put_off, ..Cell::default() };
        cell.states[CopyState::Accepted as usize] = accepted;
        cell.states[CopyState::Waiting as usize] = put_off + fresh;
        cell
    }

    #[test]
    fn others_wait_for_a_slow_provider_but_not_for_one_that_is_held_up() {
        let (fine, open) = (cell(100, 0, 0), cell(10, 5, 25));
        let of = |cells: &[(i64, Cell)], held: &[i64]| {
            behind(&cells.iter().copied().collect(), |provider| held.contains(&provider))
        };
        for (cells, held, expected) in [
            (vec![(1, fine), (2, fine)], vec![], Some(vec![])),
            (vec![(1, fine), (2, open)], vec![], None),
            (vec![(1, fine), (2, open)], vec![2], Some(vec![2])),
            // What is decided goes on, held up or not.
            (vec![(1, fine), (2, fine)], vec![2], Some(vec![])),
            // A few copies never kept the others waiting; held up, their provider still stays.
            (vec![(1, cell(1000, 0, 0)), (2, open)], vec![], Some(vec![])),
            (vec![(1, cell(1000, 0, 0)), (2, open)], vec![2], Some(vec![2])),
            // Nobody is left to say that all is well.
            (vec![(1, open)], vec![1], None),
            (vec![(1, open), (2, open)], vec![1, 2], None),
            (vec![(1, open), (2, open)], vec![2], None),
            (vec![], vec![], Some(vec![])),
        ] {
            assert_eq!(of(&cells, &held), expected, "{cells:?} {held:?}");
        }
        let mut skipped = Cell::default();
        skipped.states[CopyState::Skipped as usize] = 9;
        assert_eq!(of(&[(1, skipped), (2, open)], &[2]), None, "skipped copies tell nothing");
    }

    #[test]
    fn a_provider_has_put_off_all_when_nothing_of_it_is_untried() {
        for (cell, expected) in [
            (cell(0, 0, 0), false),
            (cell(5, 0, 0), false),
            (cell(5, 3, 0), true),
            (cell(5, 3, 1), false),
        ] {
            assert_eq!(is_put_off(&cell), expected, "{cell:?}");
        }
    }

    proptest! {
        /// Whoever stays behind is undecided and held up, and the others are decided without it.
        #[test]
        fn only_the_held_up_stay_behind(
            counts in prop::collection::hash_map(0i64..6, (0i64..50, 0i64..50, 0i64..50), 0..6),
            held in prop::collection::hash_set(0i64..6, 0..6),
        ) {
            let cells: HashMap<i64, Cell> =
                counts.into_iter().map(|(id, (a, b, c))| (id, cell(a, b, c))).collect();
            if let Some(behind) = behind(&cells, |provider| held.contains(&provider)) {
                let mut others = Cell::default();
                for (provider, cell) in &cells {
                    if behind.contains(provider) {
                        prop_assert!(held.contains(provider) && !is_decided(cell));
                    } else {
                        others.add(cell);
                    }
                }
                prop_assert!(is_decided(&others));
            }
        }
    }
}
