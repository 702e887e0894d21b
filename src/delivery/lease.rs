//! This node's own view of its lease: until when it holds, and whether it ever ran out.
//!
//! The row in the table `node` is what the handoff gate reads. Between the handoff and the wire
//! there is only this: a process that was suspended past its lease must not send what it had handed
//! off before, because another node may have decided about those copies meanwhile. Renewing does
//! not help: what matters is that the lease ran out in between. So every handoff belongs to a
//! [`Term`], and a term ends when the lease runs out.
//!
//! Pure: the time comes in as a value.

use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use crate::timestamp::Timestamp;

/// A time during which the lease never ran out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term(u64);

/// See the module.
#[derive(Debug)]
pub struct Lease {
    length: Duration,
    /// In microseconds since the Unix epoch.
    until: AtomicI64,
    lapses: AtomicU64,
}

impl Lease {
    /// A lease that was taken at `now` for `length`.
    pub fn new(length: Duration, now: Timestamp) -> Self {
        let until = AtomicI64::new(now.plus(length).microseconds());
        Self { length, until, lapses: AtomicU64::new(0) }
    }

    /// Until when a renewal at `now` holds.
    pub fn renewal(&self, now: Timestamp) -> Timestamp {
        now.plus(self.length)
    }

    /// The renewal that was asked for at `now` is durable. If the lease ran out before it, the term
    /// ended.
    pub fn renewed(&self, now: Timestamp) {
        if now >= self.until() {
            self.lapses.fetch_add(1, Ordering::SeqCst);
        }
        self.until.store(self.renewal(now).microseconds(), Ordering::SeqCst);
    }

    /// Whether a quarter of it is over, or the clock was set: then it says nothing any more.
    pub fn wants_renewal(&self, now: Timestamp) -> bool {
        let until = self.until();
        until > self.renewal(now) || until <= now.plus(self.length * 3 / 4)
    }

    /// The present term.
    pub fn term(&self) -> Term {
        Term(self.lapses.load(Ordering::SeqCst))
    }

    /// Whether what was handed off in `term` may be sent at `now`.
    pub fn holds(&self, term: Term, now: Timestamp) -> bool {
        now < self.until() && self.term() == term
    }

    fn until(&self) -> Timestamp {
        Timestamp::from_microseconds(self.until.load(Ordering::SeqCst))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: Duration = Duration::from_secs(40);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_microseconds((1_700_000_000 + seconds) * 1_000_000)
    }

    #[test]
    fn a_lease_that_is_renewed_in_time_keeps_its_term() {
        let lease = Lease::new(LENGTH, at(0));
        let term = lease.term();
        assert!(!lease.wants_renewal(at(9)) && lease.wants_renewal(at(10)));
        for second in [10, 20, 59] {
            lease.renewed(at(second));
            assert!(lease.holds(term, at(second + 39)));
        }
        assert!(!lease.holds(term, at(59 + 40)));
    }

    #[test]
    fn what_was_handed_off_before_a_lapse_stays_unsendable_after_the_renewal() {
        let lease = Lease::new(LENGTH, at(0));
        let before = lease.term();
        assert!(!lease.holds(before, at(40)));
        lease.renewed(at(41));
        assert!(!lease.holds(before, at(41)));
        assert!(lease.holds(lease.term(), at(41)));
    }

    #[test]
    fn a_clock_that_was_set_asks_for_a_renewal() {
        const DAY: i64 = 86_400;
        let lease = Lease::new(LENGTH, at(0));
        assert!(lease.wants_renewal(at(DAY)) && lease.wants_renewal(at(-DAY)));
        lease.renewed(at(-DAY));
        assert!(!lease.wants_renewal(at(1 - DAY)));
        assert!(lease.holds(lease.term(), at(1 - DAY)));
    }
}
