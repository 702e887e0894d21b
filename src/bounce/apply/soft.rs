//! Failed issues that count: at most one per issue and reader, in a row until a copy is accepted
//! and does not come back.

use super::reader::Failed;
use crate::{
    bounce::policy::{History, PastFailure},
    db::{self, Tx, record::record},
    id::{IssueId, SubscriberId},
    timestamp::Timestamp,
};

/// Counts the failure of `failed`'s issue. The first failure of an issue keeps its time.
pub(super) async fn count(
    tx: &mut Tx,
    failed: &Failed<'_>,
    half: bool,
    worded_dead: bool,
) -> db::Result<()> {
    let Some(issue) = failed.reader.issue else { return Ok(()) };
    tx.query(
        "INSERT INTO soft_bounce (subscriber_id, issue_id, at, half, worded_dead, fault) \
         VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (subscriber_id, issue_id) DO UPDATE SET \
         half = min(half, excluded.half), worded_dead = max(worded_dead, excluded.worded_dead)",
    )
    .bind(failed.reader.subscriber)
    .bind(issue)
    .bind(failed.at)
    .bind(half)
    .bind(worded_dead)
    .bind(crate::delivery::policy::class_name(failed.class))
    .execute()
    .await?;
    Ok(())
}

record! {
    struct Past {
        issue_id: IssueId,
        at: Timestamp,
        half: bool,
        worded_dead: bool,
        began: Timestamp,
    }
}

pub(super) const FAILURES: &str = "SELECT b.issue_id, b.at, b.half, b.worded_dead, \
     coalesce(i.started_at, i.created_at) AS began FROM soft_bounce b \
     JOIN issue i ON i.id = b.issue_id WHERE b.subscriber_id = $1 AND b.issue_id <> $2 \
     ORDER BY b.at";
/// The issues since `$3` whose copy was accepted and never came back. Issues are few; of each, one
/// ledger row is looked up.
pub(super) const SUCCESSES: &str = "SELECT coalesce(i.started_at, i.created_at) \
     FROM issue i CROSS JOIN delivery d ON d.issue_id = i.id AND d.subscriber_id = $1 \
     WHERE d.state = 3 AND i.id <> $2 AND coalesce(i.started_at, i.created_at) >= $3 \
     AND i.id NOT IN (SELECT e.issue_id FROM event e WHERE e.subscriber_id = $1 AND e.kind = 8 \
       AND e.issue_id IS NOT NULL)";

/// The failures in a row of which `issue`'s is one.
///
/// The row is one of issues, in the order of their sends, not of reports: a report may come days
/// after its copy was accepted, when later issues have been accepted too and may yet come back.
pub(super) async fn history(
    tx: &mut Tx,
    subscriber: SubscriberId,
    issue: IssueId,
) -> db::Result<History> {
    let past: Vec<Past> = tx.query(FAILURES).bind(subscriber).bind(issue).all().await?;
    let Some(oldest) = past.iter().map(|failure| failure.began).min() else {
        return Ok(History::default());
    };
    let began: Option<Timestamp> = tx
        .query("SELECT coalesce(started_at, created_at) FROM issue WHERE id = $1")
        .bind(issue)
        .optional_scalar()
        .await?;
    let Some(began) = began else { return Ok(History::default()) };
    let successes: Vec<(Timestamp,)> =
        tx.query(SUCCESSES).bind(subscriber).bind(issue).bind(oldest).all().await?;
    let successes = || successes.iter().map(|(at,)| *at);
    let after = successes().filter(|at| *at <= began).max();
    let before = successes().filter(|at| *at > began).min();
    let in_row = past.into_iter().filter(|failure| {
        after.is_none_or(|at| failure.began > at) && before.is_none_or(|at| failure.began < at)
    });
    let failures = in_row.map(|failure| PastFailure {
        issue: failure.issue_id,
        at: failure.at,
        half: failure.half,
        worded_dead: failure.worded_dead,
    });
    Ok(History { failures: failures.collect() })
}
