//! Outcomes of the last minutes, in parts that are dropped one by one.

use std::time::Duration;

use crate::timestamp::Timestamp;

/// The window has so many parts, the oldest of which is dropped as a whole.
const PARTS: usize = 10;
/// No share is judged on fewer outcomes than this.
const SAMPLE_MIN: u32 = 20;

/// Outcomes of the last minutes.
#[derive(Debug, Clone, Default)]
pub(super) struct Outcomes {
    /// Fine and refused ones of each part of the window.
    parts: [(u32, u32); PARTS],
    /// The number of the newest part, counted from the epoch.
    newest: i64,
}

impl Outcomes {
    /// Notes outcomes at `now`.
    pub(super) fn add(&mut self, fine: u32, refused: u32, window: Duration, now: Timestamp) {
        self.forget(window, now);
        let part = &mut self.parts[self.newest.rem_euclid(PARTS as i64) as usize];
        part.0 = part.0.saturating_add(fine);
        part.1 = part.1.saturating_add(refused);
    }

    /// Whether more than half of a sufficient number were refused.
    pub(super) fn trips(&mut self, window: Duration, now: Timestamp) -> bool {
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
