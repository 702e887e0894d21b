//! How the last attempts to reach a relay went, for people and for the gate that watches logins. When
//! a relay is left alone is the business of its breaker.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, AtomicI64, Ordering},
};

use super::relay::ConnectError;
use crate::timestamp::Timestamp;

/// What is known of one relay.
#[derive(Debug, Default)]
pub struct Health {
    fails: AtomicBool,
    /// When our login was refused last, in microseconds; 0 once it was not.
    login_refused_at: AtomicI64,
    last: Mutex<Option<Failure>>,
}

/// The last time a relay could not be used.
#[derive(Debug, Clone)]
pub struct Failure {
    /// When.
    pub at: Timestamp,
    /// What happened, for people.
    pub what: String,
}

impl Health {
    /// A connection was made, logged in and greeted.
    pub fn reached(&self) {
        self.fails.store(false, Ordering::Relaxed);
        self.login_refused_at.store(0, Ordering::Relaxed);
    }

    /// A connection could not be made.
    pub fn failed(&self, error: &ConnectError, now: Timestamp) {
        if error.is_login_refused() {
            self.login_refused_at.store(now.microseconds(), Ordering::Relaxed);
        }
        self.fails.store(true, Ordering::Relaxed);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        *last = Some(Failure { at: now, what: error.to_string() });
    }

    /// Whether the relay refused our login after `since`, and did not take it afterwards.
    pub fn login_refused(&self, since: Timestamp) -> bool {
        self.login_refused_at.load(Ordering::Relaxed) > since.microseconds()
    }

    /// Whether the last thing tried worked (or nothing was tried yet).
    pub fn is_good(&self) -> bool {
        !self.fails.load(Ordering::Relaxed)
    }

    /// The last failure.
    pub fn last_failure(&self) -> Option<Failure> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
