//! Whether a relay can be reached: over all its connections, with growing rests in between.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU32, Ordering},
    },
    time::Duration,
};

use crate::{
    smtp::client::{Phase, SessionError, SessionErrorKind},
    timestamp::Timestamp,
};

const REST_MIN: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_mins(1);

/// What is known of one relay.
#[derive(Debug, Default)]
pub struct Health {
    failures: AtomicU32,
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
    /// Until when the relay is left alone.
    pub rests_until: Timestamp,
}

impl Health {
    /// A connection was made, logged in and greeted.
    pub fn reached(&self) {
        self.failures.store(0, Ordering::Relaxed);
        self.login_refused_at.store(0, Ordering::Relaxed);
    }

    /// A connection could not be made; returns how long to leave the relay alone. Connections that
    /// fail together count once.
    pub fn failed(&self, error: &SessionError, now: Timestamp) -> Duration {
        let refused = error.phase == Phase::Auth
            && matches!(&error.kind, SessionErrorKind::Refused(reply) if reply.is_permanent());
        if refused {
            self.login_refused_at.store(now.microseconds(), Ordering::Relaxed);
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = last.as_ref().filter(|last| last.rests_until > now) {
            return last.rests_until.since(now);
        }
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).min(10);
        let rest = (REST_MIN * 2_u32.pow(failures)).min(REST_MAX);
        *last = Some(Failure { at: now, what: error.to_string(), rests_until: now.plus(rest) });
        rest
    }

    /// Whether the relay is being left alone at `now`.
    pub fn rests(&self, now: Timestamp) -> bool {
        !self.is_good() && self.last_failure().is_some_and(|last| last.rests_until > now)
    }

    /// Whether the relay refused our login after `since`, and did not take it afterwards.
    pub fn login_refused(&self, since: Timestamp) -> bool {
        self.login_refused_at.load(Ordering::Relaxed) > since.microseconds()
    }

    /// Whether the last thing tried worked (or nothing was tried yet).
    pub fn is_good(&self) -> bool {
        self.failures.load(Ordering::Relaxed) == 0
    }

    /// The last failure.
    pub fn last_failure(&self) -> Option<Failure> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
