//! When a mailbox that could not be looked into is tried again. Pure.

use std::time::Duration;

use super::MailboxError;

/// The first wait and the longest, where the trouble may pass by itself.
const PASSING: [Duration; 2] = [Duration::from_secs(1), Duration::from_mins(5)];
/// And where somebody has to do something: servers lock accounts after a few wrong passwords.
const STANDING: [Duration; 2] = [Duration::from_mins(1), Duration::from_hours(1)];

/// How often it went wrong in a row.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Retry {
    failures: u32,
}

impl Retry {
    /// Whether the last try failed.
    pub(super) const fn is_failing(self) -> bool {
        self.failures > 0
    }

    /// How long to wait after this failure.
    pub(super) fn next(&mut self, problem: &MailboxError) -> Duration {
        let [first, longest] = if problem.needs_somebody() { STANDING } else { PASSING };
        let wait = first.saturating_mul(2_u32.saturating_pow(self.failures)).min(longest);
        self.failures = self.failures.saturating_add(1);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_up_to_a_bound_and_a_wrong_password_waits_longest() {
        let waits = |problem: &MailboxError| {
            let mut retry = Retry::default();
            assert!(!retry.is_failing());
            let waits: Vec<u64> = (0..40).map(|_| retry.next(problem).as_secs()).collect();
            assert!(retry.is_failing());
            (waits[0], waits[1], waits[2], waits[39])
        };
        assert_eq!(waits(&MailboxError::TooSlow), (1, 2, 4, 300));
        assert_eq!(waits(&MailboxError::Login(String::new())), (60, 120, 240, 3_600));
    }
}
