//! Steps of the wall clock. Due times are wall-clock times, so that they outlive a restart; when the
//! clock is set back by a day, what was due in a minute would wait for a day. So steps back are
//! noticed, by a clock that never jumps, and due times go back with them. Steps forward need
//! nothing: what was due later is due now.
//!
//! A rehearsal's time runs faster than the wall clock: [`Tempo`] leads from the one to the other.

use std::time::{Duration, Instant};

use crate::{
    db::{self, Db},
    timestamp::Timestamp,
};

/// Smaller steps are what time servers do all day.
const STEP_MIN: Duration = Duration::from_secs(10);

/// The two clocks at the last look.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    wall: Timestamp,
    at: Instant,
}

impl Clock {
    /// Begins to watch.
    pub fn new(wall: Timestamp, at: Instant) -> Self {
        Self { wall, at }
    }

    /// How far the wall clock was set back since the last look, if it was.
    pub fn set_back(&mut self, wall: Timestamp, at: Instant) -> Option<Duration> {
        let expected = self.wall.plus(at.saturating_duration_since(self.at));
        *self = Self { wall, at };
        Some(expected.since(wall)).filter(|back| *back >= STEP_MIN)
    }
}

/// The time `due`, which was found at `decided`, by a clock that shows `now` and may have been set back
/// since. Steps back are made good once, in the ledger; what is on its way there then comes later.
pub fn due_now(due: Timestamp, decided: Timestamp, now: Timestamp) -> Timestamp {
    let back = decided.since(now);
    if back < STEP_MIN { due } else { now.plus(due.since(decided)) }
}

/// Brings what waits for a later time forward by `back`: `now` is the time after the step. Returns
/// how many rows that were.
pub async fn bring_forward(db: &Db, back: Duration, now: Timestamp) -> db::Result<u64> {
    let back = back.as_micros() as i64;
    let mut tx = db.begin().await?;
    let copies = tx
        .query(
            "UPDATE delivery SET due_at = due_at - $1 WHERE issue_id IN \
             (SELECT id FROM issue WHERE state > 0 AND finished_at IS NULL) \
             AND state = 0 AND due_at IS NOT NULL AND due_at > $2",
        )
        .bind(back)
        .bind(now)
        .execute()
        .await?;
    let mails = tx
        .query("UPDATE service_mail SET due_at = due_at - $1 WHERE state = 0 AND due_at > $2")
        .bind(back)
        .bind(now)
        .execute()
        .await?;
    tx.commit().await?;
    Ok(copies + mails)
}

/// How a time runs whose seconds are not those of the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tempo {
    /// When both clocks showed the same.
    origin: Timestamp,
    /// How many seconds pass in one second of the wall clock; at least 1.
    speed: u32,
}

impl Tempo {
    /// The wall clock's own.
    pub const REAL: Self = Self { origin: Timestamp::from_microseconds(0), speed: 1 };

    /// `speed` times as fast from `origin` on.
    pub fn new(origin: Timestamp, speed: u32) -> Self {
        Self { origin, speed: speed.max(1) }
    }

    /// What this time shows when the wall clock shows `wall`.
    pub fn at(self, wall: Timestamp) -> Timestamp {
        if self.speed == 1 {
            return wall;
        }
        self.origin.plus(wall.since(self.origin) * self.speed)
    }

    /// What the wall clock shows when this time shows `at`.
    pub fn wall(self, at: Timestamp) -> Timestamp {
        if self.speed == 1 {
            return at;
        }
        self.origin.plus(at.since(self.origin) / self.speed)
    }

    /// How long a stretch of this time is by the wall clock, but at least `min` of it.
    pub fn wait(self, stretch: Duration, min: Duration) -> Duration {
        (stretch / self.speed).max(min.min(stretch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_faster_time_passes_as_many_times_and_leads_back() {
        let at = |ms: i64| Timestamp::from_microseconds(1_700_000_000_000_000 + ms * 1000);
        let fast = Tempo::new(at(0), 60);
        assert_eq!(fast.at(at(1000)), at(60_000));
        assert_eq!(fast.wall(at(60_000)), at(1000));
        assert_eq!(Tempo::REAL.at(at(7)), at(7));
        assert_eq!(Tempo::REAL.wall(at(7)), at(7));
        let (minute, ms) = (Duration::from_mins(1), Duration::from_millis(5));
        assert_eq!(fast.wait(minute, ms), Duration::from_secs(1));
        assert_eq!(fast.wait(Duration::from_millis(100), ms), ms);
        assert_eq!(fast.wait(Duration::from_millis(1), ms), Duration::from_millis(1));
        assert_eq!(Tempo::REAL.wait(minute, ms), minute);
    }

    #[test]
    fn what_was_decided_before_a_step_back_waits_as_long_as_it_was_to() {
        const DAY: i64 = 86_400;
        let at = |seconds: i64| Timestamp::from_microseconds((1_700_000_000 + seconds) * 1_000_000);
        assert_eq!(due_now(at(300), at(0), at(1)), at(300));
        // Time servers do that all day.
        assert_eq!(due_now(at(300), at(0), at(-5)), at(300));
        assert_eq!(due_now(at(DAY + 300), at(DAY), at(0)), at(300));
        assert_eq!(due_now(at(DAY), at(DAY), at(0)), at(0));
        // A day forward: what was due later is due.
        assert_eq!(due_now(at(300), at(0), at(DAY)), at(300));
    }

    #[test]
    fn only_a_step_back_is_one() {
        const DAY: Duration = Duration::from_hours(24);
        let at = |seconds: i64| {
            Timestamp::from_microseconds(1_700_000_000_000_000 + seconds * 1_000_000)
        };
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut clock = Clock::new(at(0), start);
        assert_eq!(clock.set_back(at(1), start + second), None);
        // A little drift, and a day forward.
        assert_eq!(clock.set_back(at(0), start + second * 2), None);
        assert_eq!(clock.set_back(at(86_401), start + second * 3), None);
        assert_eq!(clock.set_back(at(2), start + second * 4), Some(DAY));
        assert_eq!(clock.set_back(at(3), start + second * 5), None);
        // Suspended for an hour: both clocks may or may not have gone on.
        assert_eq!(clock.set_back(at(3603), start + second * 6), None);
    }
}
