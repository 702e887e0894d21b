//! Rate limits: a generic cell rate algorithm with an explicit burst, and the set of limits that
//! one copy has to pass. Pure: the time comes in as a value, what was used goes out as a value, so
//! that it can be kept with the handoffs it allowed and a restart grants nothing new.

use std::{collections::BTreeMap, time::Duration};

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
    fn notice_clock(&mut self, now: Timestamp) {
        let full = now.microseconds() as f64 + self.interval_us * f64::from(self.burst);
        self.tat_us = self.tat_us.min(full);
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

/// Which limit this is; its text is its name in the database and in what people read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LimitName {
    /// Everything that leaves.
    Total,
    /// Everything through one relay.
    Relay(String),
    /// Everything to one provider.
    Provider(i64),
}

impl LimitName {
    /// The name in the database.
    pub fn key(&self) -> String {
        match self {
            Self::Total => "total".to_owned(),
            Self::Relay(name) => format!("relay {name}"),
            Self::Provider(id) => format!("provider {id}"),
        }
    }
}

/// What stands in the way of a copy, or does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allowance {
    /// So many copies may go (already taken from every limit on their way).
    Granted(u32),
    /// None may go before `until`, because of this limit.
    Wait {
        /// When to ask again.
        until: Timestamp,
        /// The limit that is used up.
        limit: LimitName,
    },
}

/// All limits of one daemon.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    limits: BTreeMap<LimitName, Gcra>,
    changed: bool,
}

impl Limits {
    /// Adds a limit.
    pub fn add(&mut self, name: LimitName, limit: Gcra) {
        self.limits.insert(name, limit);
    }

    /// Takes over uses that were kept under [`LimitName::key`].
    pub fn restore(&mut self, kept: &[(String, Timestamp)], now: Timestamp) {
        for (name, limit) in &mut self.limits {
            if let Some((_, used_until)) = kept.iter().find(|(key, _)| *key == name.key()) {
                limit.restore(*used_until, now);
            }
        }
    }

    /// Whether a provider has a limit of its own.
    pub fn has_provider(&self, provider: i64) -> bool {
        self.limits.contains_key(&LimitName::Provider(provider))
    }

    /// Takes up to `wanted` copies from every limit on the way of mail through `relay` to
    /// `provider`: as many as the tightest of them allows.
    pub fn take(&mut self, relay: &str, provider: i64, wanted: u32, now: Timestamp) -> Allowance {
        let way = way(relay, provider);
        let mut granted = wanted;
        for name in &way {
            let Some(limit) = self.limits.get_mut(name) else { continue };
            limit.notice_clock(now);
            let available = limit.available(now);
            if available == 0 {
                return Allowance::Wait { until: limit.next_at(now), limit: name.clone() };
            }
            granted = granted.min(available);
        }
        for name in &way {
            if let Some(limit) = self.limits.get_mut(name) {
                limit.take(granted, now);
                self.changed = true;
            }
        }
        Allowance::Granted(granted)
    }

    /// How many copies each limit lets through at `now`.
    pub fn available(&self, now: Timestamp) -> impl Iterator<Item = (&LimitName, u32)> {
        self.limits.iter().map(move |(name, limit)| (name, limit.available(now)))
    }

    /// Gives back what was taken for copies that did not go.
    pub fn refund(&mut self, relay: &str, provider: i64, copies: u32) {
        for name in way(relay, provider) {
            if let Some(limit) = self.limits.get_mut(&name) {
                limit.refund(copies);
                self.changed = true;
            }
        }
    }

    /// The uses to keep, if any changed since the last call.
    pub fn to_keep(&mut self) -> Vec<(String, Timestamp)> {
        if !std::mem::take(&mut self.changed) {
            return Vec::new();
        }
        self.limits.iter().map(|(name, limit)| (name.key(), limit.used_until())).collect()
    }
}

fn way(relay: &str, provider: i64) -> [LimitName; 3] {
    [LimitName::Provider(provider), LimitName::Relay(relay.to_owned()), LimitName::Total]
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

    #[test]
    fn the_tightest_limit_on_the_way_decides_and_is_named() {
        let mut limits = Limits::default();
        limits.add(LimitName::Total, Gcra::new(100.0, None));
        limits.add(LimitName::Provider(1), Gcra::new(5.0, None));
        assert_eq!(limits.take("main", 1, 32, at(0)), Allowance::Granted(5));
        assert_eq!(limits.take("main", 2, 32, at(0)), Allowance::Granted(32));
        let Allowance::Wait { limit, until } = limits.take("main", 1, 32, at(0)) else {
            panic!("the provider's limit is used up")
        };
        assert_eq!((limit, until <= at(201)), (LimitName::Provider(1), true));
        limits.refund("main", 1, 2);
        assert_eq!(limits.take("main", 1, 32, at(0)), Allowance::Granted(2));
        assert_eq!(limits.to_keep().len(), 2);
        assert!(limits.to_keep().is_empty());
    }

    #[test]
    fn a_clock_that_is_set_back_costs_a_burst_and_not_a_day() {
        const DAY_MS: i64 = 86_400_000;
        let mut limits = Limits::default();
        limits.add(LimitName::Total, Gcra::new(10.0, Some(5)));
        assert_eq!(limits.take("main", 0, 5, at(DAY_MS)), Allowance::Granted(5));
        // Back by a day: as after a full use, and then as ever.
        assert!(matches!(limits.take("main", 0, 5, at(0)), Allowance::Wait { .. }));
        assert_eq!(limits.take("main", 0, 5, at(200)), Allowance::Granted(2));
        assert_eq!(limits.take("main", 0, 5, at(5000)), Allowance::Granted(5));
    }
}
