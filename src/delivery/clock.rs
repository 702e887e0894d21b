//! Steps of the wall clock. Due times are wall-clock times, so that they outlive a restart; when the
//! clock is set back by a day, what was due in a minute would wait for a day. So steps back are
//! noticed, by a clock that never jumps, and due times go back with them. Steps forward need
//! nothing: what was due later is due now.

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

#[cfg(test)]
mod tests {
    use super::*;

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
