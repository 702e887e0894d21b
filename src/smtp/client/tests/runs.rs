//! What lies in pieces leaves as if it were one, wherever a write stops.

use proptest::prelude::*;

use super::super::wire::{Run, SLICES_MAX};

proptest! {
    #[test]
    fn pieces_leave_in_order_and_whole(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..5), 0..300),
        tail in proptest::collection::vec(any::<u8>(), 0..9),
        (from, to) in (0_usize..600, 0_usize..600),
        steps in proptest::collection::vec(1_usize..200, 1..20),
    ) {
        let whole = pieces.concat();
        let (from, to) = (from.min(to).min(whole.len()), from.max(to).min(whole.len()));
        let expected = [&whole[from..to], &tail].concat();
        let slices: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
        let run = Run { pieces: &slices, range: from..to, tail: &tail };
        prop_assert_eq!(run.len(), expected.len());
        let (mut left, mut steps) = (Vec::new(), steps.iter().cycle());
        while left.len() < expected.len() {
            let mut room = [std::io::IoSlice::new(&[]); SLICES_MAX];
            let offered: Vec<u8> =
                run.slices_from(left.len(), &mut room).iter().flat_map(|s| s.to_vec()).collect();
            prop_assert!(!offered.is_empty(), "a write that offers nothing would never end");
            let taken = offered.len().min(*steps.next().unwrap_or(&1));
            left.extend_from_slice(&offered[..taken]);
        }
        prop_assert_eq!(left, expected);
    }
}
