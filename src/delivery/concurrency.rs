//! How many connections may work for one destination at once: grows by one for every full round of
//! successes, halves when the destination says or shows that it is too much. Pure.

use std::time::Duration;

use crate::timestamp::Timestamp;

/// Signs of too much that come within this time are one sign: what was under way then was sent under
/// the old number.
const ONE_SIGN: Duration = Duration::from_secs(1);

/// A number of connections that adapts, from 1 to a cap.
#[derive(Debug, Clone, PartialEq)]
pub struct Concurrency {
    current: f64,
    cap: u32,
    lowered_at: Option<Timestamp>,
}

impl Concurrency {
    /// Starts at `cap` (at least 1), which an operator or the provider table gave: it is the number
    /// that is expected to work.
    pub fn new(cap: u32) -> Self {
        let cap = cap.max(1);
        Self { current: f64::from(cap), cap, lowered_at: None }
    }

    /// How many connections may work now.
    pub fn limit(&self) -> u32 {
        (self.current as u32).clamp(1, self.cap)
    }

    /// The most there can be.
    pub fn cap(&self) -> u32 {
        self.cap
    }

    /// Notes `count` successes: each adds one part in as many as there are connections, which makes
    /// one more for a success on every connection.
    pub fn succeeded(&mut self, count: u32) {
        // dn = 1/n a success adds up to n = sqrt(n² + 2 · successes).
        let grown = (self.current * self.current + 2.0 * f64::from(count)).sqrt();
        self.current = grown.min(f64::from(self.cap));
    }

    /// Notes a sign of too much: half of the connections, at most once a second.
    pub fn lower(&mut self, now: Timestamp) {
        // A clock that jumped back must not keep the number up.
        let again = |at: Timestamp| at > now || now.since(at) >= ONE_SIGN;
        if self.lowered_at.is_none_or(again) {
            self.current = (self.current / 2.0).max(1.0);
            self.lowered_at = Some(now);
        }
    }

    /// Starts again from one connection.
    pub fn restart(&mut self) {
        self.current = 1.0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_microseconds(1_700_000_000_000_000).plus(Duration::from_millis(ms))
    }

    #[test]
    fn a_round_of_successes_adds_one_connection_and_signs_of_one_second_halve_once() {
        let mut concurrency = Concurrency::new(8);
        for ms in [0, 10, 900] {
            concurrency.lower(at(ms));
        }
        assert_eq!(concurrency.limit(), 4);
        concurrency.lower(at(1000));
        assert_eq!(concurrency.limit(), 2);
        for _ in 0..3 {
            concurrency.succeeded(1);
        }
        assert_eq!(concurrency.limit(), 3);
        concurrency.succeeded(1000);
        assert_eq!(concurrency.limit(), 8);
        concurrency.restart();
        assert_eq!(concurrency.limit(), 1);
    }

    proptest! {
        #[test]
        fn it_stays_between_one_and_its_cap(
            cap in 0u32..100,
            steps in prop::collection::vec((any::<bool>(), 0u32..500, 0u64..100_000), 0..100),
        ) {
            let mut concurrency = Concurrency::new(cap);
            for (good, count, ms) in steps {
                let before = concurrency.limit();
                if good {
                    concurrency.succeeded(count);
                    prop_assert!(concurrency.limit() >= before);
                } else {
                    concurrency.lower(at(ms));
                    prop_assert!(concurrency.limit() <= before);
                }
                prop_assert!((1..=cap.max(1)).contains(&concurrency.limit()));
            }
        }
    }
}
