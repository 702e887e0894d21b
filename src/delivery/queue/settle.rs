//! Settling: the outcome of a copy that was handed off, and the return of one that was only claimed.

use std::collections::{BTreeMap, BTreeSet};

use super::{Claimed, Settlement, json_array, service};
use crate::{
    bounce::apply,
    db::{self, Tx, state::CopyState},
    event,
    id::{CopyId, IssueId, SubscriberId},
    timestamp::Timestamp,
};

pub(super) const ACCEPT: &str = "UPDATE delivery SET state = 3, attempt = attempt + 1, \
     due_at = NULL, reason = NULL \
     WHERE issue_id = $1 AND subscriber_id IN (SELECT value FROM json_each($2)) \
     AND claim_id = $3 AND state = 2";
pub(super) const SETTLE: &str = "UPDATE delivery SET state = $4, attempt = $5, due_at = $6, reason = $7 \
     WHERE issue_id = $1 AND subscriber_id = $2 AND claim_id = $3 AND state = 2";

/// Writes what became of copies that were handed off, with their lines for the log. Returns how
/// many rows changed: fewer than settlements when another node has taken copies over meanwhile.
///
/// A refusal does to its reader what follows from it (`bounce::apply`) in the same transaction;
/// accepted copies cost nothing there.
pub async fn settle(
    tx: &mut Tx,
    settlements: &[Settlement],
    brake_percent: f64,
    now: Timestamp,
) -> db::Result<u64> {
    let mut accepted: BTreeMap<(IssueId, i64), Vec<i64>> = BTreeMap::new();
    let mut refused = Vec::new();
    let mut stale = BTreeSet::new();
    let mut changed = 0;
    for settlement in settlements {
        let changed_before = changed;
        match settlement.copy {
            CopyId::Issue { issue, subscriber } if settlement.state == CopyState::Accepted => {
                accepted.entry((issue, settlement.claim)).or_default().push(subscriber.0);
            }
            CopyId::Issue { issue, subscriber } => {
                changed += tx
                    .query(SETTLE)
                    .bind(issue)
                    .bind(subscriber)
                    .bind(settlement.claim)
                    .bind(settlement.state)
                    .bind(settlement.attempts)
                    .bind(settlement.due_at(now))
                    .bind(settlement.reason.clone())
                    .execute()
                    .await?;
            }
            CopyId::Service(id) => changed += service::settle(tx, id, settlement, now).await?,
        }
        let took_effect = changed > changed_before;
        if settlement.class.is_some() && took_effect {
            refused.push(settlement);
        }
        if settlement.state != CopyState::Accepted && !took_effect {
            stale.insert(settlement.copy);
        }
    }
    for ((issue, claim), mut subscribers) in accepted {
        // A list that is in order is put into SQLite's in less time.
        subscribers.sort_unstable();
        let ids = json_array(subscribers.iter().copied());
        let query = tx.query(ACCEPT).bind(issue).bind(ids.clone()).bind(claim);
        let took_effect = query.execute().await?;
        changed += took_effect;
        if took_effect < subscribers.len() as u64 {
            stale.extend(not_accepted(tx, issue, claim, ids, subscribers).await?);
        }
    }
    // Whoever took a copy over wrote its line for that try already.
    let told = settlements.iter().filter(|settlement| !stale.contains(&settlement.copy));
    let events = told.filter_map(|settlement| settlement.event.as_ref());
    event::record(tx, events).await?;
    for settlement in refused {
        apply::own_refusal(tx, settlement, brake_percent, now).await?;
    }
    Ok(changed)
}

/// Which of `subscribers` another claim holds by now, so that accepting them changed nothing.
async fn not_accepted(
    tx: &mut Tx,
    issue: IssueId,
    claim: i64,
    ids: String,
    subscribers: Vec<i64>,
) -> db::Result<Vec<CopyId>> {
    let accepted: Vec<(i64,)> = tx
        .query(
            "SELECT subscriber_id FROM delivery WHERE issue_id = $1 \
             AND subscriber_id IN (SELECT value FROM json_each($2)) AND claim_id = $3 AND state = 3",
        )
        .bind(issue)
        .bind(ids)
        .bind(claim)
        .all()
        .await?;
    let accepted: BTreeSet<i64> = accepted.into_iter().map(|(id,)| id).collect();
    let others = subscribers.into_iter().filter(|id| !accepted.contains(id));
    Ok(others.map(|id| CopyId::Issue { issue, subscriber: SubscriberId(id) }).collect())
}

/// Settles an uncertain copy by what a report says; false when it is not uncertain.
pub async fn settle_uncertain(
    tx: &mut Tx,
    copy: CopyId,
    state: CopyState,
    reason: Option<&str>,
) -> db::Result<bool> {
    let reason = reason.map(str::to_owned);
    let query = match copy {
        CopyId::Issue { issue, subscriber } => tx
            .query(
                "UPDATE delivery SET state = $1, reason = $2 \
                 WHERE issue_id = $3 AND subscriber_id = $4 AND state = 5",
            )
            .bind(state)
            .bind(reason)
            .bind(issue)
            .bind(subscriber),
        CopyId::Service(id) => tx
            .query("UPDATE service_mail SET state = $1, reason = $2 WHERE id = $3 AND state = 5")
            .bind(state)
            .bind(reason)
            .bind(id),
    };
    Ok(query.execute().await? > 0)
}

/// Gives claimed copies back that will not be handed off now, to be claimed again at once.
pub async fn release(tx: &mut Tx, copies: &[Claimed], now: Timestamp) -> db::Result<()> {
    let mut groups: BTreeMap<(IssueId, i64), Vec<i64>> = BTreeMap::new();
    for copy in copies {
        match copy.copy {
            CopyId::Issue { issue, subscriber } => {
                groups.entry((issue, copy.claim)).or_default().push(subscriber.0);
            }
            CopyId::Service(id) => service::release(tx, id, copy.claim).await?,
        }
    }
    for ((issue, claim), subscribers) in groups {
        tx.query(
            "UPDATE delivery SET state = 0, due_at = $4 \
             WHERE issue_id = $1 AND subscriber_id IN (SELECT value FROM json_each($2)) \
             AND claim_id = $3 AND state = 1",
        )
        .bind(issue)
        .bind(json_array(subscribers))
        .bind(claim)
        .bind(now)
        .execute()
        .await?;
    }
    Ok(())
}
