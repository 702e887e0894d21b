//! Warm-up ramps: how many copies may go through one relay to one provider on the first day that the
//! two are used together, on the second, and so on; after the last day of the table there is no limit
//! of this kind any more. Pure. Days are those of UTC; a day without mail counts like any other.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::timestamp::Timestamp;

const DAY_US: i64 = 86_400 * 1_000_000;

/// The ramps of every relay, and how far each pair has come.
#[derive(Debug, Clone, Default)]
pub struct WarmUps {
    ramps: Vec<Ramp>,
    pairs: BTreeMap<(usize, i64), Progress>,
}

/// A table of days for one relay.
#[derive(Debug, Clone)]
struct Ramp {
    relay: usize,
    /// None: every provider that no other ramp of the relay names.
    provider: Option<i64>,
    copies_per_day: Arc<[u32]>,
}

/// How far one relay and one provider have come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The first day, counted from the Unix epoch.
    pub first_day: i64,
    /// The day that `copies` are of.
    pub day: i64,
    /// How many copies went on that day.
    pub copies: u32,
}

impl WarmUps {
    /// Adds a table of days, for one provider or for all that have none of their own.
    pub fn add(&mut self, relay: usize, provider: Option<i64>, copies_per_day: &[u32]) {
        let copies_per_day = copies_per_day.into();
        self.ramps.push(Ramp { relay, provider, copies_per_day });
    }

    /// Takes over how far a pair had come.
    pub fn restore(&mut self, relay: usize, provider: i64, progress: Progress) {
        self.pairs.insert((relay, provider), progress);
    }

    /// How far every pair has come, to be kept.
    pub fn progress(&self) -> impl Iterator<Item = (usize, i64, Progress)> {
        self.pairs.iter().map(|((relay, provider), progress)| (*relay, *provider, *progress))
    }

    /// How many more copies may go today; none when no ramp applies (any more).
    pub fn available(&self, relay: usize, provider: i64, now: Timestamp) -> Option<u32> {
        let ramp = self.ramp(relay, provider)?;
        let today = day_of(now);
        let Some(progress) = self.pairs.get(&(relay, provider)) else {
            return ramp.first().copied();
        };
        // A clock that jumped back starts no day anew.
        let today = today.max(progress.day);
        let number = usize::try_from(today - progress.first_day).unwrap_or(0);
        let allowed = ramp.get(number)?;
        let used = if progress.day == today { progress.copies } else { 0 };
        Some(allowed.saturating_sub(used))
    }

    /// Uses `copies` of today's allowance. Returns whether a ramp applied.
    pub fn take(&mut self, relay: usize, provider: i64, copies: u32, now: Timestamp) -> bool {
        if self.available(relay, provider, now).is_none() {
            return false;
        }
        let today = day_of(now);
        let first = Progress { first_day: today, day: today, copies: 0 };
        let progress = self.pairs.entry((relay, provider)).or_insert(first);
        if today > progress.day {
            (progress.day, progress.copies) = (today, 0);
        }
        progress.copies = progress.copies.saturating_add(copies);
        true
    }

    /// Gives back `copies` that were taken and did not go. What was taken before midnight and comes
    /// back after it is lost: less mail on the old day is no harm.
    pub fn refund(&mut self, relay: usize, provider: i64, copies: u32) -> bool {
        let Some(progress) = self.pairs.get_mut(&(relay, provider)) else { return false };
        progress.copies = progress.copies.saturating_sub(copies);
        true
    }

    /// When the next day begins.
    pub fn next_at(now: Timestamp) -> Timestamp {
        let into_day = now.microseconds().rem_euclid(DAY_US);
        now.plus(Duration::from_micros((DAY_US - into_day) as u64))
    }

    fn ramp(&self, relay: usize, provider: i64) -> Option<&[u32]> {
        let of_relay = || self.ramps.iter().filter(|ramp| ramp.relay == relay);
        of_relay()
            .find(|ramp| ramp.provider == Some(provider))
            .or_else(|| of_relay().find(|ramp| ramp.provider.is_none()))
            .map(|ramp| &*ramp.copies_per_day)
    }
}

fn day_of(at: Timestamp) -> i64 {
    at.microseconds().div_euclid(DAY_US)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(day: i64, hour: i64) -> Timestamp {
        Timestamp::from_microseconds(20_000 * DAY_US + day * DAY_US + hour * 3_600_000_000)
    }

    #[test]
    fn each_day_has_its_allowance_from_the_day_of_the_first_use() {
        let mut ramps = WarmUps::default();
        ramps.add(0, Some(1), &[50, 100]);
        assert_eq!(ramps.available(0, 2, at(0, 0)), None, "another provider");
        assert_eq!(ramps.available(1, 1, at(0, 0)), None, "another relay");
        assert_eq!(ramps.available(0, 1, at(0, 9)), Some(50));
        // Nothing went on the days before: the ramp begins with the first copy.
        ramps.take(0, 1, 50, at(5, 9));
        assert_eq!(ramps.available(0, 1, at(5, 23)), Some(0));
        assert_eq!(WarmUps::next_at(at(5, 23)), at(6, 0));
        assert_eq!(ramps.available(0, 1, at(6, 0)), Some(100));
        ramps.take(0, 1, 60, at(6, 1));
        ramps.refund(0, 1, 10);
        assert_eq!(ramps.available(0, 1, at(6, 2)), Some(50));
        assert_eq!(ramps.available(0, 1, at(7, 0)), None, "the ramp is over");
    }

    #[test]
    fn a_ramp_for_all_is_counted_for_each_and_one_that_names_a_provider_wins() {
        let mut ramps = WarmUps::default();
        ramps.add(0, None, &[10]);
        ramps.add(0, Some(7), &[20]);
        ramps.take(0, 1, 10, at(0, 1));
        assert_eq!(ramps.available(0, 1, at(0, 2)), Some(0));
        assert_eq!(ramps.available(0, 2, at(0, 2)), Some(10));
        assert_eq!(ramps.available(0, 7, at(0, 2)), Some(20));
    }

    proptest! {
        /// On no day more than its allowance, whatever the clock and restarts do.
        #[test]
        fn no_day_sees_more_than_its_share(
            steps in prop::collection::vec((0i64..30, 1u32..40, any::<bool>()), 1..100),
        ) {
            const RAMP: [u32; 3] = [30, 60, 90];
            let mut ramps = WarmUps::default();
            ramps.add(0, None, &RAMP);
            let mut sent = BTreeMap::<i64, u32>::new();
            let mut hours = 0;
            for (wait, wanted, restart) in steps {
                hours += wait;
                if restart {
                    let kept: Vec<_> = ramps.progress().collect();
                    ramps = WarmUps::default();
                    ramps.add(0, None, &RAMP);
                    for (relay, provider, progress) in kept {
                        ramps.restore(relay, provider, progress);
                    }
                }
                let now = at(0, hours);
                if let Some(available) = ramps.available(0, 1, now) {
                    let copies = available.min(wanted);
                    ramps.take(0, 1, copies, now);
                    *sent.entry(hours / 24).or_default() += copies;
                }
            }
            if let Some(first) = sent.keys().next().copied() {
                for (day, copies) in &sent {
                    prop_assert!(*copies <= RAMP[(day - first) as usize], "{sent:?}");
                }
            }
        }
    }
}
