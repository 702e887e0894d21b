//! Claiming: a batch of waiting copies comes to belong to one node, under a lease.

use std::collections::HashMap;

use super::{Claimed, Lane, json, json_array};
use crate::{
    db::{self, Tx},
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
    ($lane:literal) => {
        concat!(
            "SELECT json_group_array(json_array(subscriber_id, provider, stage, attempt, due_at)) FROM ( \
             SELECT subscriber_id, provider, stage, attempt, due_at FROM delivery \
             WHERE issue_id = $1 AND subscriber_id > $2 \
             AND state = 0 AND due_at IS NULL AND stage <= $3 AND ",
            $lane,
            " ORDER BY subscriber_id LIMIT $5)"
        )
    };
}

pub(super) const FIRST_OF_PROVIDER: &str = first_tries!("provider = $4");
pub(super) const FIRST_OF_OTHERS: &str =
    first_tries!("provider NOT IN (SELECT value FROM json_each($4))");
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
    let sql = match lane {
        Lane::Provider(_) => FIRST_OF_PROVIDER,
        Lane::AllBut(_) => FIRST_OF_OTHERS,
    };
    let query = tx.query(sql).bind(issue).bind(after).bind(stage);
    let query = match lane {
        Lane::Provider(provider) => query.bind(*provider),
        Lane::AllBut(json) => query.bind(json.clone()),
    };
    let found = query.bind(i64::from(limit)).scalar().await?;
    take(tx, claim, issue, found).await
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
    let found = query.bind(but.to_owned()).scalar().await?;
    take(tx, claim, issue, found).await
}

/// Claims the copies that `found` lists, which are waiting: nobody else writes while `tx` is open.
async fn take(
    tx: &mut Tx,
    claim: Opened,
    issue: IssueId,
    found: String,
) -> db::Result<Vec<Claimed>> {
    let rows: Vec<(i64, i64, i64, i64, Option<i64>)> = json(&found)?;
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let ids = json_array(rows.iter().map(|row| row.0));
    let changed = tx.query(CLAIM).bind(claim.id).bind(issue).bind(ids).execute().await?;
    if changed != rows.len() as u64 {
        let problem = format!("{} copies were found waiting, {changed} claimed", rows.len());
        return Err(sqlx::Error::Protocol(problem));
    }
    let released = releases(tx, issue).await?;
    let mut claimed: Vec<_> = rows
        .into_iter()
        .map(|(subscriber, provider, stage, attempts, due)| {
            let copy = CopyId::Issue { issue, subscriber: SubscriberId(subscriber) };
            // One that was never tried is due since its stage was released, also if it was claimed
            // and given back meanwhile.
            let released = released.get(&stage).copied();
            let due = due.map(Timestamp::from_microseconds);
            let due_at = released.filter(|_| attempts == 0).or(due).unwrap_or(claim.at);
            Claimed {
                copy,
                claim: claim.id,
                claimed_at: claim.at,
                due_at,
                first_due_at: released.unwrap_or(due_at),
                provider,
                stage,
                attempts,
            }
        })
        .collect();
    claimed.sort_unstable_by_key(|claimed| claimed.copy);
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
