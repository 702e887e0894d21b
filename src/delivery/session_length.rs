//! How many messages a relay's sessions carry before the relay ends them, learned from when it does.
//!
//! Some servers say 421 to the next MAIL, or just close, after a number of messages that they tell
//! nobody. By then the next envelope has left behind the last body, and a reset of the connection
//! could swallow the reply to that body. Once two sessions in a row were ended at the same count,
//! later ones are ended by us, in order, one message before it could happen.
//!
//! Pure but for its own lock; the clock is the caller's.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

/// For how long what was learned holds: then a session may show that it carries more by now.
const HOLDS: Duration = Duration::from_mins(30);
/// How many sessions in a row must end at the same count.
const REPEATS: u32 = 2;

/// What is known of one relay's sessions.
#[derive(Debug)]
pub struct SessionLength {
    /// The count that is known; [`u64::MAX`] for none.
    known: AtomicU64,
    observed: Mutex<Observed>,
}

#[derive(Debug, Default)]
struct Observed {
    /// How many messages the session carried that was ended last, and how many before it in a row.
    last: u64,
    times: u32,
    until: Option<Instant>,
}

impl Default for SessionLength {
    fn default() -> Self {
        Self { known: AtomicU64::new(u64::MAX), observed: Mutex::default() }
    }
}

impl SessionLength {
    /// The relay ended a session that had carried `messages` and was not idle.
    pub fn was_ended(&self, messages: u64, now: Instant) {
        let mut observed = self.lock();
        observed.times = if observed.last == messages { observed.times + 1 } else { 1 };
        observed.last = messages;
        if observed.times >= REPEATS && messages > 0 {
            observed.until = Some(now + HOLDS);
            self.known.store(messages, Ordering::Relaxed);
        }
    }

    /// How many messages a session may carry; [`u64::MAX`] when nothing is known.
    pub fn known(&self, now: Instant) -> u64 {
        let known = self.known.load(Ordering::Relaxed);
        if known < u64::MAX && self.lock().until.is_none_or(|until| now >= until) {
            *self.lock() = Observed::default();
            self.known.store(u64::MAX, Ordering::Relaxed);
            return u64::MAX;
        }
        known
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Observed> {
        // Nothing in here can panic half-way.
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_ends_at_the_same_count_are_a_habit_and_one_is_none() {
        let (length, now) = (SessionLength::default(), Instant::now());
        for messages in [100, 7, 100] {
            length.was_ended(messages, now);
            assert_eq!(length.known(now), u64::MAX, "once is no habit");
        }
        length.was_ended(100, now);
        assert_eq!(length.known(now), 100);
    }

    #[test]
    fn what_was_learned_is_tried_again_after_a_while() {
        let (length, now) = (SessionLength::default(), Instant::now());
        (0..2).for_each(|_| length.was_ended(20, now));
        assert_eq!(length.known(now + HOLDS - Duration::from_secs(1)), 20);
        assert_eq!(length.known(now + HOLDS), u64::MAX);
        length.was_ended(20, now + HOLDS);
        assert_eq!(length.known(now + HOLDS), u64::MAX, "it begins anew");
    }

    #[test]
    fn a_session_that_carried_nothing_teaches_nothing() {
        let (length, now) = (SessionLength::default(), Instant::now());
        (0..5).for_each(|_| length.was_ended(0, now));
        assert_eq!(length.known(now), u64::MAX);
    }
}
