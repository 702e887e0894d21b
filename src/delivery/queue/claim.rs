//! Claiming: a batch of waiting copies comes to belong to one node, under a lease.

use super::{Claimed, Lane};
use crate::{
    db::{self, Tx},
    id::{CopyId, IssueId, NodeId, SubscriberId},
    timestamp::Timestamp,
};

/// Opens a claim for `node`.
pub async fn open_claim(tx: &mut Tx, node: NodeId) -> db::Result<i64> {
    tx.query("INSERT INTO claim (node_id) VALUES ($1) RETURNING id").bind(node).scalar().await
}

macro_rules! claim_first {
    ($lane:literal) => {
        concat!(
            "UPDATE delivery SET state = 1, claim_id = $1 \
             WHERE issue_id = $2 AND state = 0 AND subscriber_id IN ( \
             SELECT subscriber_id FROM delivery WHERE issue_id = $2 AND subscriber_id > $3 \
             AND state = 0 AND due_at IS NULL AND stage <= $4 AND ",
            $lane,
            " ORDER BY subscriber_id LIMIT $6) \
             RETURNING subscriber_id, provider, stage, attempt"
        )
    };
}

pub(super) const CLAIM_PROVIDER: &str = claim_first!("provider = $5");
pub(super) const CLAIM_OTHERS: &str =
    claim_first!("provider NOT IN (SELECT value FROM json_each($5))");
pub(super) const CLAIM_DUE: &str = "UPDATE delivery SET state = 1, claim_id = $1 \
     WHERE issue_id = $2 AND state = 0 AND subscriber_id IN ( \
     SELECT subscriber_id FROM delivery INDEXED BY delivery_due \
     WHERE issue_id = $2 AND state = 0 AND due_at <= $3 AND stage <= $4 \
     ORDER BY due_at LIMIT $5) \
     RETURNING subscriber_id, provider, stage, attempt";

/// Claims up to `limit` first tries of `issue` in `lane` behind the reader `after`, in the order of
/// readers' ids, stages up to `stage`.
pub async fn claim_first_tries(
    tx: &mut Tx,
    claim: i64,
    issue: IssueId,
    lane: &Lane,
    after: SubscriberId,
    stage: i64,
    limit: u32,
) -> db::Result<Vec<Claimed>> {
    let query = match lane {
        Lane::Provider(provider) => {
            prepare(tx, CLAIM_PROVIDER, claim, issue, after, stage).bind(*provider)
        }
        Lane::AllBut(json) => {
            prepare(tx, CLAIM_OTHERS, claim, issue, after, stage).bind(json.clone())
        }
    };
    let rows = query.bind(i64::from(limit)).all::<(i64, i64, i64, i64)>().await?;
    Ok(claimed(rows, claim, issue))
}

fn prepare<'t>(
    tx: &'t mut Tx,
    sql: &'static str,
    claim: i64,
    issue: IssueId,
    after: SubscriberId,
    stage: i64,
) -> db::Query<'t> {
    tx.query(sql).bind(claim).bind(issue).bind(after).bind(stage)
}

/// Claims up to `limit` copies of `issue` whose next try is due.
pub async fn claim_due(
    tx: &mut Tx,
    claim: i64,
    issue: IssueId,
    now: Timestamp,
    stage: i64,
    limit: u32,
) -> db::Result<Vec<Claimed>> {
    let query = tx.query(CLAIM_DUE).bind(claim).bind(issue).bind(now).bind(stage);
    let rows = query.bind(i64::from(limit)).all::<(i64, i64, i64, i64)>().await?;
    Ok(claimed(rows, claim, issue))
}

/// Rows as values, in the order of readers' ids (`RETURNING` promises none).
fn claimed(rows: Vec<(i64, i64, i64, i64)>, claim: i64, issue: IssueId) -> Vec<Claimed> {
    let mut claimed: Vec<_> = rows
        .into_iter()
        .map(|(subscriber, provider, stage, attempts)| {
            let copy = CopyId::Issue { issue, subscriber: SubscriberId(subscriber) };
            Claimed { copy, claim, provider, stage, attempts }
        })
        .collect();
    claimed.sort_unstable_by_key(|claimed| claimed.copy);
    claimed
}
