//! What a daemon does before it sends anything: it settles what an earlier one left behind.
//!
//! Copies that were claimed go back to the queue: nothing was sent. For copies that were handed off
//! the journal decides: no dot, back to the queue; a reply, that outcome; a dot alone, uncertain.
//! Without a journal to trust (a loss of power, an end that a failing disk swallowed, another node's
//! copies) they are uncertain.

use std::collections::HashMap;

use tracing::info;

use super::{
    journal::{Entry, Remains},
    policy::{self, Schedule},
    queue::{self, Settlement},
};
use crate::{
    db::{
        self, Db, Tx,
        record::record,
        state::{CopyState, EventKind},
    },
    event::Event,
    fail_point,
    id::{CopyId, IssueId, NodeId, ServiceMailId, SubscriberId},
    provider::ProviderId,
    smtp::client::{Phase, Timings},
    timestamp::Timestamp,
};

/// What recovery found and did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Claimed copies that went back to the queue.
    pub released: u64,
    /// Handed-off copies that never reached their dot: queued again.
    pub requeued: u64,
    /// Handed-off copies whose reply was in the journal.
    pub settled: u64,
    /// Copies whose fate is not known.
    pub uncertain: u64,
}

record! {
    struct Left {
        issue_id: Option<i64>,
        subscriber_id: Option<i64>,
        service_id: Option<i64>,
        stage: i64,
        provider: i64,
        attempt: i64,
        claim_id: i64,
        claimed_at: Option<Timestamp>,
        node_uid: Option<String>,
        expires_at: Timestamp,
    }
}

const LEFT_COPIES: &str = "SELECT d.issue_id, d.subscriber_id, NULL AS service_id, d.stage, \
     d.provider, d.attempt, d.claim_id, c.at AS claimed_at, n.uid AS node_uid, \
     coalesce(i.expires_at, 0) AS expires_at \
     FROM delivery d JOIN issue i ON i.id = d.issue_id \
     LEFT JOIN claim c ON c.id = d.claim_id LEFT JOIN node n ON n.id = c.node_id \
     WHERE d.issue_id IN (SELECT id FROM issue WHERE state > 0 AND finished_at IS NULL) \
     AND d.state = 2";
const LEFT_MAILS: &str = "SELECT NULL AS issue_id, NULL AS subscriber_id, m.id AS service_id, \
     0 AS stage, m.provider, m.attempt, m.claim_id, c.at AS claimed_at, n.uid AS node_uid, m.expires_at \
     FROM service_mail m LEFT JOIN claim c ON c.id = m.claim_id LEFT JOIN node n ON n.id = c.node_id \
     WHERE m.state = 2";

/// What recovery goes by.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// Waits between the tries of one copy.
    pub retry_delays: &'a [std::time::Duration],
    /// The share of one provider's copies over which suppressions are held, in percent.
    pub brake_percent: f64,
}

/// Settles what earlier daemons on this database left, in one transaction.
///
/// To be called with the daemon's lock held: a claim found now is a dead one's.
pub async fn recover(
    db: &Db,
    remains: Option<&Remains>,
    node: NodeId,
    rules: Rules<'_>,
    now: Timestamp,
) -> db::Result<Recovered> {
    let mut recovered = Recovered::default();
    let mut tx = db.begin().await?;
    recovered.released = release_claims(&mut tx, now).await?;
    let mut left: Vec<Left> = tx.query(LEFT_COPIES).all().await?;
    left.extend(tx.query(LEFT_MAILS).all::<Left>().await?);
    let handoffs: Option<i64> = tx.query("SELECT handoffs FROM lineage").optional_scalar().await?;
    // A journal that was not told of the last handoff has lost its end.
    let remains = remains.filter(|remains| {
        !remains.survived_power_loss && remains.handoffs >= handoffs.unwrap_or_default()
    });
    let empty = HashMap::new();
    let mut settlements = Vec::with_capacity(left.len());
    for row in &left {
        let Some(copy) = copy_of(row) else { continue };
        let trusted =
            remains.filter(|remains| row.node_uid.as_deref() == Some(remains.node_uid.as_str()));
        let entry = trusted.map_or(&empty, |remains| &remains.entries).get(&copy);
        let schedule = Schedule { delays: rules.retry_delays.into(), expires_at: row.expires_at };
        let settlement = settle(row, copy, trusted.is_some(), entry, &schedule, node, now);
        match settlement.state {
            CopyState::Uncertain => recovered.uncertain += 1,
            CopyState::Waiting if settlement.event.is_none() => recovered.requeued += 1,
            _ => recovered.settled += 1,
        }
        settlements.push(settlement);
    }
    queue::settle(&mut tx, &settlements, rules.brake_percent, now).await?;
    tx.query("DELETE FROM claim WHERE node_id <> $1").bind(node).execute().await?;
    fail_point::reach("recovery.before_commit");
    tx.commit().await?;
    fail_point::reach("recovery.committed");
    if recovered != Recovered::default() {
        info!(
            released = recovered.released,
            requeued = recovered.requeued,
            settled = recovered.settled,
            uncertain = recovered.uncertain,
            "settled what an earlier daemon left behind"
        );
    }
    Ok(recovered)
}

/// Queues every claimed copy again; nothing of them was sent.
pub async fn release_claims(tx: &mut Tx, now: Timestamp) -> db::Result<u64> {
    let copies = tx
        .query(
            "UPDATE delivery SET state = 0, due_at = $1 WHERE issue_id IN \
             (SELECT id FROM issue WHERE state > 0 AND finished_at IS NULL) AND state = 1",
        )
        .bind(now)
        .execute()
        .await?;
    let mails = tx.query("UPDATE service_mail SET state = 0 WHERE state = 1").execute().await?;
    Ok(copies + mails)
}

fn copy_of(row: &Left) -> Option<CopyId> {
    match (row.issue_id, row.subscriber_id, row.service_id) {
        (Some(issue), Some(subscriber), _) => {
            Some(CopyId::Issue { issue: IssueId(issue), subscriber: SubscriberId(subscriber) })
        }
        (_, _, Some(id)) => Some(CopyId::Service(ServiceMailId(id))),
        _ => None,
    }
}

fn settle(
    row: &Left,
    copy: CopyId,
    trusted: bool,
    entry: Option<&Entry>,
    schedule: &Schedule,
    node: NodeId,
    now: Timestamp,
) -> Settlement {
    let this_try = row.attempt + 1;
    // A word about an earlier try says nothing of this one.
    let entry = entry.filter(|entry| entry.attempt() == this_try);
    let mut settlement = Settlement {
        copy,
        claim: row.claim_id,
        state: CopyState::Waiting,
        attempts: row.attempt,
        due_at: Some(now),
        decided_at: now,
        reason: None,
        event: None,
        class: None,
        first_due_at: None,
        timings: Timings::default(),
        stage: row.stage,
        provider: row.provider,
    };
    let event = |kind| {
        let mut event = Event::new(kind, now);
        match copy {
            CopyId::Issue { issue, subscriber } => {
                event = event.about(Some(issue), Some(subscriber));
            }
            CopyId::Service(id) => event.service_id = Some(id),
        }
        event.attempt = Some(this_try);
        event.node_id = Some(node);
        event.provider = Some(row.provider);
        event.phase = Some(Phase::Dot.to_string());
        // When it was handed off nobody wrote down.
        let claimed = row.claimed_at.map(|at| now.since(at).as_micros());
        event.claimed_us = claimed.and_then(|us| i64::try_from(us).ok());
        event
    };
    match entry {
        None if trusted => {}
        Some(reply @ Entry::Reply { code, enhanced, text, .. }) => {
            let verdict = reply.verdict();
            let provider = ProviderId(row.provider);
            let decision =
                policy::decide(&verdict, row.attempt, true, provider, schedule, now, 0.0);
            settlement.state = decision.state;
            settlement.due_at = decision.due_at;
            settlement.attempts = this_try;
            settlement.reason = decision.reason;
            settlement.event = decision.event.map(|kind| {
                let mut event = event(kind).because(text.clone());
                event.code = Some(i64::from(*code));
                event.enhanced = enhanced.map(|code| code.to_string());
                event.class = decision.class.as_ref().map(policy::class_name);
                event.rule = decision.class.as_ref().map(|class| class.rule.to_owned());
                event
            });
            settlement.class = decision.class;
        }
        None | Some(Entry::Dot { .. }) => {
            let reason = if trusted {
                "the daemon stopped between the final dot and its reply"
            } else {
                "the daemon stopped, and no journal says how far this copy came"
            };
            // Somebody waits for a service mail: twice is better than never, but only once.
            let again = matches!(copy, CopyId::Service(_)) && row.attempt == 0;
            settlement.attempts = this_try;
            settlement.reason = Some(reason.to_owned());
            settlement.event = Some(event(EventKind::Uncertain).because(reason));
            if !again {
                settlement.state = CopyState::Uncertain;
                settlement.due_at = None;
            }
        }
    }
    settlement
}
