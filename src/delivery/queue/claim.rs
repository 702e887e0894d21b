//! Claiming: a batch of waiting copies comes to belong to one node, under a lease.

use std::collections::HashMap;

use super::{Claimed, Lane, json, json_array};
use crate::{
    db::{self, Query, Tx},
    id::{CopyId, IssueId, NodeId, SubscriberId},
    timestamp::Timestamp,
};

/// A claim that a batch is taken under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opened {
    /// Its number.
    pub id: i64,
    /// When it was opened.
    pub at: Timestamp,
}

/// Opens a claim for `node`.
pub async fn open_claim(tx: &mut Tx, node: NodeId, at: Timestamp) -> db::Result<Opened> {
    let sql = "INSERT INTO claim (node_id, at) VALUES ($1, $2) RETURNING id";
    let id = tx.query(sql).bind(node).bind(at).scalar().await?;
    Ok(Opened { id, at })
}

// A batch comes as one JSON array: the driver hands every row over between threads by itself, which
// costs more than the statement.
macro_rules! first_tries {
    (find, $lane:literal) => {
        concat!(
            "SELECT json_group_array(json_array(subscriber_id, provider, stage, attempt, due_at)) \
             FROM (SELECT subscriber_id, provider, stage, attempt, due_at FROM delivery \
             WHERE issue_id = $1 AND subscriber_id > $2 \
             AND state = 0 AND due_at IS NULL AND stage <= $3 AND ",
            $lane,
            " ORDER BY subscriber_id LIMIT $5)"
        )
    };
    // The same copies, up to the last that was found: to walk over them once more costs half of what
    // it costs to look each up in a list.
    (claim, $lane:literal) => {
        concat!(
            "UPDATE delivery SET state = 1, claim_id = $6 \
             WHERE issue_id = $1 AND subscriber_id > $2 AND subscriber_id <= $5 \
             AND state = 0 AND due_at IS NULL AND stage <= $3 AND ",
            $lane
        )
    };
}

macro_rules! of_others {
    ($what:tt) => {
        first_tries!($what, "provider NOT IN (SELECT value FROM json_each($4))")
    };
}

pub(super) const FIRST_OF_PROVIDER: &str = first_tries!(find, "provider = $4");
pub(super) const CLAIM_OF_PROVIDER: &str = first_tries!(claim, "provider = $4");
pub(super) const FIRST_OF_OTHERS: &str = of_others!(find);
pub(super) const CLAIM_OF_OTHERS: &str = of_others!(claim);
pub(super) const DUE: &str = "SELECT json_group_array(json_array(subscriber_id, provider, stage, attempt, due_at)) FROM ( \
     SELECT subscriber_id, provider, stage, attempt, due_at FROM delivery INDEXED BY delivery_due \
     WHERE issue_id = $1 AND state = 0 AND due_at <= $2 AND stage <= $3 \
     AND provider NOT IN (SELECT value FROM json_each($5)) \
     AND NOT EXISTS (SELECT 1 FROM held_provider h WHERE h.issue_id = $1 \
       AND h.provider = delivery.provider AND h.stage < delivery.stage) \
     ORDER BY due_at LIMIT $4)";
pub(super) const CLAIM: &str = "UPDATE delivery SET state = 1, claim_id = $1 \
     WHERE issue_id = $2 AND subscriber_id IN (SELECT value FROM json_each($3)) AND state = 0";

/// Claims up to `limit` first tries of `issue` in `lane` behind the reader `after`, in the order of
/// readers' ids, stages up to `stage`.
pub async fn claim_first_tries(
    tx: &mut Tx,
    claim: Opened,
    issue: IssueId,
    lane: &Lane,
    after: SubscriberId,
    stage: i64,
    limit: u32,
) -> db::Result<Vec<Claimed>> {
    let (find, mark) = match lane {
        Lane::Provider(_) => (FIRST_OF_PROVIDER, CLAIM_OF_PROVIDER),
        Lane::AllBut(_) => (FIRST_OF_OTHERS, CLAIM_OF_OTHERS),
    };
    let found: String =
        of_lane(tx.query(find), issue, after, stage, lane).bind(i64::from(limit)).scalar().await?;
    let found: Vec<Found> = json(&found)?;
    let Some(last) = found.last() else { return Ok(Vec::new()) };
    let mark = of_lane(tx.query(mark), issue, after, stage, lane).bind(last.0).bind(claim.id);
    let changed = mark.execute().await?;
    claimed(tx, claim, issue, found, changed).await
}

/// Binds what finding and claiming first tries have in common.
fn of_lane<'c>(
    query: Query<'c>,
    issue: IssueId,
    after: SubscriberId,
    stage: i64,
    lane: &Lane,
) -> Query<'c> {
    let query = query.bind(issue).bind(after).bind(stage);
    match lane {
        Lane::Provider(provider) => query.bind(*provider),
        Lane::AllBut(json) => query.bind(json.clone()),
    }
}

/// Claims up to `limit` copies of `issue` whose next try is due, but for the providers in the JSON
/// array `but`.
pub async fn claim_due(
    tx: &mut Tx,
    claim: Opened,
    issue: IssueId,
    but: &str,
    stage: i64,
    limit: u32,
) -> db::Result<Vec<Claimed>> {
    let query = tx.query(DUE).bind(issue).bind(claim.at).bind(stage).bind(i64::from(limit));
    let found: String = query.bind(but.to_owned()).scalar().await?;
    let found: Vec<Found> = json(&found)?;
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let ids = json_array(found.iter().map(|row| row.0));
    let changed = tx.query(CLAIM).bind(claim.id).bind(issue).bind(ids).execute().await?;
    claimed(tx, claim, issue, found, changed).await
}

/// A waiting copy: its reader, provider, stage, tries, and when it is due.
type Found = (i64, i64, i64, i64, Option<i64>);

/// The copies that were found waiting and have been claimed: nobody else writes while `tx` is open.
async fn claimed(
    tx: &mut Tx,
    claim: Opened,
    issue: IssueId,
    mut found: Vec<Found>,
    changed: u64,
) -> db::Result<Vec<Claimed>> {
    if changed != found.len() as u64 {
        let problem = format!("{} copies were found waiting, {changed} claimed", found.len());
        return Err(sqlx::Error::Protocol(problem));
    }
    found.sort_unstable_by_key(|row| row.0);
    let released = releases(tx, issue).await?;
    let claimed = (0..)
        .zip(found)
        .map(|(place, (subscriber, provider, stage, attempts, due))| {
            let copy = CopyId::Issue { issue, subscriber: SubscriberId(subscriber) };
            // One that was never tried is due since its stage was released, also if it was claimed
            // and given back meanwhile.
            let released = released.get(&stage).copied();
            let due = due.map(Timestamp::from_microseconds);
            let due_at = released.filter(|_| attempts == 0).or(due).unwrap_or(claim.at);
            Claimed {
                copy,
                claim: claim.id,
                place,
                claimed_at: claim.at,
                due_at,
                first_due_at: released.unwrap_or(due_at),
                provider,
                stage,
                attempts,
            }
        })
        .collect();
    Ok(claimed)
}

/// Notes that `stage` of `issue` is released: from now on its copies are due.
pub async fn stage_released(
    tx: &mut Tx,
    issue: IssueId,
    stage: i64,
    at: Timestamp,
) -> db::Result<()> {
    tx.query("UPDATE issue_stage SET released_at = $3 WHERE issue_id = $1 AND stage = $2")
        .bind(issue)
        .bind(stage)
        .bind(at)
        .execute()
        .await?;
    Ok(())
}

/// When the stages of `issue` were released.
async fn releases(tx: &mut Tx, issue: IssueId) -> db::Result<HashMap<i64, Timestamp>> {
    let rows: Vec<(i64, Timestamp)> = tx
        .query(
            "SELECT stage, released_at FROM issue_stage \
             WHERE issue_id = $1 AND released_at IS NOT NULL",
        )
        .bind(issue)
        .all()
        .await?;
    Ok(rows.into_iter().collect())
}
