//! One rate limit: a generic cell rate algorithm with an explicit burst. Pure: the time comes in as
//! a value, what was used goes out as a value.

use std::time::Duration;

use crate::timestamp::Timestamp;

/// One limit: so many copies a second, and so many at once after a quiet time.
#[derive(Debug, Clone, PartialEq)]
pub struct Gcra {
    /// Microseconds between two copies at the full rate.
    interval_us: f64,
    /// How many copies may go at once.
    burst: u32,
    /// The theoretical arrival time: when everything allowed so far would have gone at the rate.
    tat_us: f64,
}

impl Gcra {
    /// A limit of `per_second` copies (more than 0), holding `burst` of them or one second's worth.
    pub fn new(per_second: f64, burst: Option<u32>) -> Self {
        let burst =
            burst.unwrap_or_else(|| per_second.ceil().clamp(1.0, f64::from(u32::MAX)) as u32);
        Self { interval_us: 1e6 / per_second, burst: burst.max(1), tat_us: 0.0 }
    }

    /// The same limit at another rate; what was used stays used.
    pub fn change(&mut self, per_second: f64, burst: Option<u32>) {
        let used = self.tat_us;
        *self = Self::new(per_second, burst);
        self.tat_us = used;
    }

    /// Takes over how far the limit had been used, as [`Gcra::used_until`] told it.
    ///
    /// A value further ahead than a whole burst can only come from a clock that jumped back: it is
    /// cut to a full use, so that a wrong clock delays mail by one burst and not by its whole error.
    pub fn restore(&mut self, used_until: Timestamp, now: Timestamp) {
        let full = now.microseconds() as f64 + self.interval_us * f64::from(self.burst);
        self.tat_us = (used_until.microseconds() as f64).min(full);
    }

    /// How far the limit has been used.
    pub fn used_until(&self) -> Timestamp {
        Timestamp::from_microseconds(self.tat_us as i64)
    }

    /// Forgets a use that lies further ahead than a whole burst: the clock was set back. From here
    /// on the limit fills up as it always does, instead of when the clock is where it was.
    pub fn notice_clock(&mut self, now: Timestamp) {
        let full = now.microseconds() as f64 + self.interval_us * f64::from(self.burst);
        self.tat_us = self.tat_us.min(full);
    }

    /// The time between two copies at the full rate.
    pub fn interval(&self) -> Duration {
        Duration::from_micros(self.interval_us as u64)
    }

    /// How many copies may go now.
    pub fn available(&self, now: Timestamp) -> u32 {
        let now_us = now.microseconds() as f64;
        let full = self.interval_us * f64::from(self.burst);
        // A clock that jumped back must not shut the gate for as long as the jump.
        let used = (self.tat_us - now_us).clamp(0.0, full);
        // The tolerance keeps float dust from hiding a copy that is due.
        (((full - used) / self.interval_us + 1e-6) as u32).min(self.burst)
    }

    /// Uses `copies` of what is available.
    pub fn take(&mut self, copies: u32, now: Timestamp) {
        let now_us = now.microseconds() as f64;
        let full = self.interval_us * f64::from(self.burst);
        let start = self.tat_us.clamp(now_us, now_us + full);
        self.tat_us = start + self.interval_us * f64::from(copies);
    }

    /// Gives back `copies` that were taken and did not go.
    pub fn refund(&mut self, copies: u32) {
        self.tat_us -= self.interval_us * f64::from(copies);
    }

    /// When the next copy may go, if none may go now.
    pub fn next_at(&self, now: Timestamp) -> Timestamp {
        if self.available(now) > 0 {
            return now;
        }
        let full = self.interval_us * f64::from(self.burst);
        let at = self.tat_us.min(now.microseconds() as f64 + full) - full + self.interval_us;
        Timestamp::from_microseconds(at.ceil() as i64 + 1).max(now.plus(Duration::from_micros(1)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_microseconds(1_700_000_000_000_000 + ms * 1000)
    }

    proptest! {
        /// I5: over any window, at most rate × window + burst.
        #[test]
        fn no_window_sees_more_than_its_share(
            per_second in 0.5f64..2000.0,
            burst in 1u32..100,
            steps in prop::collection::vec((0i64..500, 1u32..80), 1..200),
        ) {
            let mut limit = Gcra::new(per_second, Some(burst));
            let mut sent: Vec<(i64, u32)> = Vec::new();
            let mut ms = 0;
            for (wait, wanted) in steps {
                ms += wait;
                let granted = limit.available(at(ms)).min(wanted);
                limit.take(granted, at(ms));
                sent.push((ms, granted));
            }
            for (index, (start, _)) in sent.iter().enumerate() {
                let mut sum = 0;
                for (time, count) in &sent[index..] {
                    sum += count;
                    let seconds = (time - start) as f64 / 1000.0;
                    prop_assert!(f64::from(sum) <= per_second * seconds + f64::from(burst) + 0.01);
                }
            }
        }

        /// Whoever waits until `next_at` gets a copy then.
        #[test]
        fn next_at_keeps_its_word(per_second in 0.1f64..5000.0, burst in 1u32..50) {
            let mut limit = Gcra::new(per_second, Some(burst));
            let now = at(0);
            limit.take(limit.available(now), now);
            let next = limit.next_at(now);
            prop_assert!(next > now);
            prop_assert!(limit.available(next) >= 1);
        }
    }

    #[test]
    fn a_restart_grants_no_new_allowance() {
        let mut limit = Gcra::new(10.0, None);
        limit.take(10, at(0));
        let mut again = Gcra::new(10.0, None);
        again.restore(limit.used_until(), at(50));
        assert_eq!(again.available(at(50)), 0);
        assert_eq!(again.available(at(100)), 1);
    }

    #[test]
    fn a_clock_that_jumps_back_a_day_delays_one_burst_only() {
        let mut limit = Gcra::new(10.0, None);
        limit.take(10, at(86_400_000));
        assert_eq!(limit.available(at(0)), 0);
        assert!(limit.next_at(at(0)) <= at(101));
        limit.take(1, at(0));
        assert!(limit.used_until() <= at(1_200));
    }
}
