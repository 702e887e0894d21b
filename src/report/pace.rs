//! How fast a send goes: attempts a second now, how long copies wait and SMTP takes, when it will be
//! done. Read from
//! the newest lines of the log, so that it costs the same for every issue.

use std::time::Duration;

use serde::Serialize;

use crate::{
    db::{self, Db, record::record},
    delivery::control::Edition,
    id::IssueId,
    timestamp::Timestamp,
};

/// How many of the log's newest lines are looked at.
pub(super) const SAMPLE_MAX: i64 = 20_000;

/// Attempts over a stretch of time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rate {
    /// How long the stretch was, in seconds: shorter than asked for when the issue began later, or
    /// when so much happened that the sample does not reach back that far.
    pub seconds: f64,
    /// How many attempts came to something.
    pub attempts: i64,
    /// Attempts a second.
    pub per_second: f64,
}

/// How long something took, in microseconds, by nearest rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// How many attempts this is drawn from: the issue's newest, at most 20,000.
    pub sample: i64,
    /// Half took no longer.
    pub p50_us: i64,
    /// Nine of ten took no longer.
    pub p90_us: i64,
    /// 99 of a hundred took no longer.
    pub p99_us: i64,
}

/// How fast a send goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Pace {
    /// Over the last ten seconds.
    pub last_10_s: Option<Rate>,
    /// Over the last minute.
    pub last_60_s: Option<Rate>,
    /// How long SMTP takes.
    pub smtp: Option<Percentiles>,
    /// From when a try was due to its handoff.
    pub queue_wait: Option<Percentiles>,
    /// From the release of a copy's stage to its outcome.
    pub end_to_end: Option<Percentiles>,
}

record! {
    struct Recent {
        oldest: Option<Timestamp>,
        short: i64,
        long: i64,
    }
}

record! {
    struct Ranked {
        sample: i64,
        p50: i64,
        p90: i64,
        p99: i64,
    }
}

/// The newest line's number. An issue that is done has its last one before it, found by the line
/// that says so.
pub(super) const LAST_OF_ISSUE: &str = "SELECT MAX(id) FROM event INDEXED BY event_by_issue \
     WHERE issue_id = $1 AND kind IN (18, 19) AND kind <> 2";
pub(super) const RECENT: &str = "SELECT MIN(at) AS oldest, \
     coalesce(SUM(issue_id IS $2 AND kind IN (2, 3, 4, 5) AND at > $3), 0) AS short, \
     coalesce(SUM(issue_id IS $2 AND kind IN (2, 3, 4, 5) AND at > $4), 0) AS long \
     FROM event WHERE id > $1";
/// Percentiles, by nearest rank, of a value in the lines of an issue between two others.
macro_rules! ranked {
    ($value:literal, $joined:literal) => {
        concat!(
            "WITH ranked AS (SELECT took, row_number() OVER (ORDER BY took) AS place, \
               COUNT(*) OVER () AS sample FROM (SELECT ",
            $value,
            " AS took FROM event e ",
            $joined,
            " WHERE e.id > $1 AND e.id <= $2 AND e.issue_id = $3 AND ",
            $value,
            " IS NOT NULL)) \
             SELECT sample, MAX(iif(place = (sample * 50 + 99) / 100, took, 0)) AS p50, \
               MAX(iif(place = (sample * 90 + 99) / 100, took, 0)) AS p90, \
               MAX(iif(place = (sample * 99 + 99) / 100, took, 0)) AS p99 \
             FROM ranked HAVING sample > 0"
        )
    };
}
pub(super) const SMTP: &str = ranked!("e.duration_us", "");
pub(super) const QUEUE_WAIT: &str = ranked!("(e.due_us - e.handed_us)", "");
/// Of copies that are done: a copy is due when its stage is released.
pub(super) const END_TO_END: &str = ranked!(
    "(e.at - s.released_at)",
    "CROSS JOIN delivery d ON e.kind IN (2, 4, 5) AND d.issue_id = e.issue_id \
     AND d.subscriber_id = e.subscriber_id \
     CROSS JOIN issue_stage s ON s.issue_id = d.issue_id AND s.stage = d.stage"
);

/// The pace of `edition`, whose first line in the log is `first_event`.
pub(super) async fn pace(db: &Db, edition: &Edition, now: Timestamp) -> db::Result<Pace> {
    let Some(started_at) = edition.started_at else { return Ok(Pace::default()) };
    let newest: i64 = db.query("SELECT coalesce(MAX(id), 0) FROM event").scalar().await?;
    let done: Option<i64> = match edition.finished_at {
        Some(_) => db.query(LAST_OF_ISSUE).bind(edition.id).scalar().await?,
        None => None,
    };
    let last = done.unwrap_or(newest);
    let first: Option<i64> = db
        .query("SELECT first_event_id FROM issue WHERE id = $1")
        .bind(edition.id)
        .scalar()
        .await?;
    let from = (last - SAMPLE_MAX).max(first.unwrap_or(1) - 1);
    let of = (from, last, edition.id);
    let mut pace = Pace {
        smtp: percentiles(db, SMTP, of).await?,
        queue_wait: percentiles(db, QUEUE_WAIT, of).await?,
        end_to_end: percentiles(db, END_TO_END, of).await?,
        ..Pace::default()
    };
    if edition.finished_at.is_none() {
        let (last_10_s, last_60_s) = rates(db, edition.id, newest, started_at, now).await?;
        (pace.last_10_s, pace.last_60_s) = (Some(last_10_s), Some(last_60_s));
    }
    Ok(pace)
}

async fn percentiles(
    db: &Db,
    sql: &'static str,
    (from, last, issue): (i64, i64, IssueId),
) -> db::Result<Option<Percentiles>> {
    let ranked: Option<Ranked> = db.query(sql).bind(from).bind(last).bind(issue).optional().await?;
    Ok(ranked.map(|ranked| Percentiles {
        sample: ranked.sample,
        p50_us: ranked.p50,
        p90_us: ranked.p90,
        p99_us: ranked.p99,
    }))
}

async fn rates(
    db: &Db,
    issue: IssueId,
    newest: i64,
    started_at: Timestamp,
    now: Timestamp,
) -> db::Result<(Rate, Rate)> {
    let after = newest - SAMPLE_MAX;
    let windows = [Duration::from_secs(10), Duration::from_mins(1)];
    let recent: Recent = db
        .query(RECENT)
        .bind(after)
        .bind(issue)
        .bind(now.minus(windows[0]))
        .bind(now.minus(windows[1]))
        .one()
        .await?;
    // When lines were left out, the sample does not reach further back than its oldest one.
    let reaches = recent.oldest.filter(|_| after > 0).unwrap_or_default().max(started_at);
    let rate = |window: Duration, attempts| rate(window, attempts, now.since(reaches));
    Ok((rate(windows[0], recent.short), rate(windows[1], recent.long)))
}

/// Attempts a second over `window`, or over what is known of it.
fn rate(window: Duration, attempts: i64, known: Duration) -> Rate {
    let seconds = window.min(known).max(Duration::from_secs(1)).as_secs_f64();
    Rate { seconds, attempts, per_second: attempts as f64 / seconds }
}

/// When an issue is likely to be done: the copies that may go at the present rate, the soak times
/// to come, and the tries that are put off. None when nothing moves.
pub(super) fn eta(
    to_go: i64,
    per_second: f64,
    soaks: Duration,
    last_due: Option<Timestamp>,
    now: Timestamp,
) -> Option<Timestamp> {
    if to_go > 0 && per_second <= 0.0 {
        return None;
    }
    let seconds = if to_go > 0 { to_go as f64 / per_second } else { 0.0 };
    let sending = Duration::try_from_secs_f64(seconds).ok()?;
    let at = now.plus(sending).plus(soaks);
    Some(last_due.map_or(at, |due| at.max(due)))
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_microseconds(1_700_000_000_000_000);

    #[test]
    fn a_rate_is_over_the_time_that_is_known() {
        let (minute, second) = (Duration::from_mins(1), Duration::from_secs(1));
        for (attempts, known, expected) in [
            (600, minute * 5, 10.0),
            (600, second * 20, 30.0),
            (5, second / 10, 5.0),
            (0, minute, 0.0),
        ] {
            let found = rate(minute, attempts, known).per_second;
            assert!((found - expected).abs() < 1e-9, "{attempts} in {known:?}: {found}");
        }
    }

    #[test]
    fn the_end_waits_for_soak_times_and_retries_and_is_not_guessed() {
        let (minute, late) = (Duration::from_mins(1), NOW.plus(Duration::from_hours(2)));
        for (to_go, per_second, soaks, due, expected) in [
            (600, 10.0, Duration::ZERO, None, Some(NOW.plus(minute))),
            (600, 10.0, minute * 5, None, Some(NOW.plus(minute * 6))),
            (600, 10.0, minute, Some(late), Some(late)),
            (0, 0.0, Duration::ZERO, Some(late), Some(late)),
            (1, 0.0, Duration::ZERO, Some(late), None),
        ] {
            assert_eq!(eta(to_go, per_second, soaks, due, NOW), expected, "{to_go} {per_second}");
        }
    }
}
