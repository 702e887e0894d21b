//! The handoff gate, and what becomes of copies that it holds back.

use std::collections::HashMap;

use super::{Claimed, Handed, Withheld, json, json_array};
use crate::{
    db::{self, Tx, record::record, state::EventKind},
    event::{self, Event},
    id::{CopyId, IssueId, NodeId},
    timestamp::Timestamp,
};

// Which of a claim's copies are meant: all from one reader to another, or those in a list, which costs
// twice as much to look up.
macro_rules! gate {
    ($copies:literal) => {
        concat!(
            "UPDATE delivery SET state = 2 WHERE issue_id = $1 AND ",
            $copies,
            " AND state = 1 AND claim_id = $3 \
             AND EXISTS (SELECT 1 FROM claim c JOIN node n ON n.id = c.node_id \
               WHERE c.id = $3 AND n.id = $4 AND n.lease_until > $5) \
             AND stage <= (SELECT i.stage FROM issue i WHERE i.id = $1 AND i.state = 2) \
             AND NOT EXISTS (SELECT 1 FROM held_provider h WHERE h.issue_id = $1 \
               AND h.provider = delivery.provider AND h.stage < delivery.stage) \
             AND EXISTS (SELECT 1 FROM subscription s JOIN subscriber p ON p.id = s.subscriber_id \
               WHERE s.newsletter_id = (SELECT i.newsletter_id FROM issue i WHERE i.id = $1) \
               AND s.subscriber_id = delivery.subscriber_id AND s.state = 1 \
               AND (s.paused_until IS NULL OR s.paused_until <= $5) \
               AND p.address IS NOT NULL AND p.provider = delivery.provider \
               AND NOT EXISTS (SELECT 1 FROM suppression x WHERE x.address_hash = p.address_hash))"
        )
    };
}

macro_rules! handed {
    ($copies:literal) => {
        concat!(
            "SELECT json_group_array(json_array(p.id, p.address, p.name, p.attributes)) \
             FROM delivery d JOIN subscriber p ON p.id = d.subscriber_id WHERE d.issue_id = $1 AND ",
            $copies,
            " AND d.claim_id = $3 AND d.state = 2"
        )
    };
}

/// The handoff gate: the one statement after which a copy may be sent. It holds only for copies
/// whose claim is ours and whose lease has not run out, whose issue is sending, whose stage is
/// released (to the copy's provider too), and whose reader is subscribed, not paused, not suppressed
/// and still at the provider the limits were asked about. When it cannot be committed, nothing is
/// sent.
///
/// What it asks of the issue is asked once a statement, not once a copy.
pub(super) const HAND_OFF: &str = gate!("subscriber_id IN (SELECT value FROM json_each($2))");
pub(super) const HAND_OFF_RANGE: &str = gate!("subscriber_id BETWEEN $2 AND $6");

/// The copies that the gate let through, with their readers, as one JSON array: the driver hands
/// every row over between threads by itself, which costs more than the statement. A handoff that
/// is asked for again (its COMMIT was answered by an error, and stood) finds the same copies: nobody
/// else can hold them under this claim, and nobody else was told that they may go.
pub(super) const HANDED: &str = handed!("d.subscriber_id IN (SELECT value FROM json_each($2))");
pub(super) const HANDED_RANGE: &str = handed!("d.subscriber_id BETWEEN $2 AND $4");

/// Hands off `copies`, which are of `issue` and held by `claim`.
///
/// The address is read in the same transaction, so it is the reader's address at the handoff.
pub async fn hand_off(
    tx: &mut Tx,
    node: NodeId,
    issue: IssueId,
    claim: i64,
    mut copies: Vec<Claimed>,
    now: Timestamp,
) -> db::Result<(Vec<Handed>, Vec<(Claimed, Withheld)>)> {
    copies.sort_unstable_by_key(|copy| copy.place);
    let handed: String = if let Some((first, last)) = range(&copies) {
        let gate = tx.query(HAND_OFF_RANGE).bind(issue).bind(first).bind(claim).bind(node);
        gate.bind(now).bind(last).execute().await?;
        tx.query(HANDED_RANGE).bind(issue).bind(first).bind(claim).bind(last).scalar().await?
    } else {
        let ids = json_array(copies.iter().filter_map(|copy| subscriber_of(copy.copy)));
        let gate = tx.query(HAND_OFF).bind(issue).bind(ids.clone()).bind(claim).bind(node);
        gate.bind(now).execute().await?;
        tx.query(HANDED).bind(issue).bind(ids).bind(claim).scalar().await?
    };
    let readers: Vec<(i64, String, Option<String>, Option<String>)> = json(&handed)?;
    let mut readers: HashMap<i64, _> = readers
        .into_iter()
        .map(|(id, address, name, attributes)| (id, (address, name, attributes)))
        .collect();
    let (mut handed, mut rest) = (Vec::with_capacity(readers.len()), Vec::new());
    for claimed in copies {
        match subscriber_of(claimed.copy).and_then(|id| readers.remove(&id)) {
            Some((address, name, attributes)) => {
                handed.push(Handed { claimed, at: now, address, name, attributes });
            }
            None => rest.push(claimed),
        }
    }
    let withheld = withhold(tx, issue, claim, rest, now).await?;
    Ok((handed, withheld))
}

/// How many rows are walked over for each that is meant, at most: then a list costs less.
const SPARSE: i64 = 4;

/// The first and the last reader of `copies`, which are in the order of their places, if the claim has
/// no copy between them that is not among these: then nothing else is meant by the whole range. None
/// where they are far apart, as those of a small stage or of copies put off are.
fn range(copies: &[Claimed]) -> Option<(i64, i64)> {
    let first = subscriber_of(copies.first()?.copy)?;
    let last = subscriber_of(copies.last()?.copy)?;
    let is_whole = copies.windows(2).all(|two| two[0].place + 1 == two[1].place);
    let is_dense = last - first < SPARSE * copies.len() as i64;
    (is_whole && is_dense).then_some((first, last))
}

fn subscriber_of(copy: CopyId) -> Option<i64> {
    match copy {
        CopyId::Issue { subscriber, .. } => Some(subscriber.0),
        CopyId::Service(_) => None,
    }
}

record! {
    /// Why the gate did not let one copy through.
    struct Obstacle {
        subscriber_id: i64,
        sending: i64,
        subscribed: Option<i64>,
        paused: Option<i64>,
        erased: Option<i64>,
        provider: Option<i64>,
        suppressed: Option<String>,
    }
}

pub(super) const OBSTACLES: &str = "SELECT d.subscriber_id, \
     i.state = 2 AND d.stage <= coalesce((SELECT h.stage FROM held_provider h \
       WHERE h.issue_id = i.id AND h.provider = d.provider), i.stage) AS sending, s.state = 1 AS subscribed, \
     s.paused_until > $4 AS paused, p.address IS NULL AS erased, p.provider, \
     x.reason AS suppressed \
     FROM delivery d JOIN issue i ON i.id = d.issue_id \
     LEFT JOIN subscription s \
       ON s.newsletter_id = i.newsletter_id AND s.subscriber_id = d.subscriber_id \
     LEFT JOIN subscriber p ON p.id = d.subscriber_id \
     LEFT JOIN suppression x ON x.address_hash = p.address_hash \
     WHERE d.issue_id = $1 AND d.subscriber_id IN (SELECT value FROM json_each($2)) \
     AND d.state = 1 AND d.claim_id = $3";

/// Finds out why the gate held `copies` back, and writes it down.
async fn withhold(
    tx: &mut Tx,
    issue: IssueId,
    claim: i64,
    copies: Vec<Claimed>,
    now: Timestamp,
) -> db::Result<Vec<(Claimed, Withheld)>> {
    if copies.is_empty() {
        return Ok(Vec::new());
    }
    let ids = json_array(copies.iter().filter_map(|copy| subscriber_of(copy.copy)));
    let obstacles: Vec<Obstacle> =
        tx.query(OBSTACLES).bind(issue).bind(ids).bind(claim).bind(now).all().await?;
    let obstacles: HashMap<i64, Obstacle> =
        obstacles.into_iter().map(|obstacle| (obstacle.subscriber_id, obstacle)).collect();
    let mut withheld = Vec::with_capacity(copies.len());
    for copy in copies {
        let obstacle = subscriber_of(copy.copy).and_then(|id| obstacles.get(&id));
        let why = match obstacle {
            None => Withheld::Stale,
            Some(obstacle) => why(obstacle),
        };
        match (&why, obstacle) {
            (Withheld::Skipped(reason), _) => skip(tx, &copy, reason, now).await?,
            (Withheld::Waits, Some(obstacle)) => {
                requeue(tx, &copy, obstacle.provider.unwrap_or(copy.provider), now).await?;
            }
            _ => {}
        }
        withheld.push((copy, why));
    }
    Ok(withheld)
}

fn why(obstacle: &Obstacle) -> Withheld {
    if obstacle.sending == 0 {
        return Withheld::Waits;
    }
    if obstacle.erased != Some(0) {
        return Withheld::Skipped("erased".to_owned());
    }
    if obstacle.subscribed != Some(1) {
        return Withheld::Skipped("unsubscribed".to_owned());
    }
    if let Some(reason) = &obstacle.suppressed {
        return Withheld::Skipped(format!("suppressed: {reason}"));
    }
    if obstacle.paused == Some(1) {
        return Withheld::Skipped("paused by the reader".to_owned());
    }
    Withheld::Waits
}

async fn skip(tx: &mut Tx, copy: &Claimed, reason: &str, now: Timestamp) -> db::Result<()> {
    let CopyId::Issue { issue, subscriber } = copy.copy else { return Ok(()) };
    tx.query(
        "UPDATE delivery SET state = 6, reason = $4 \
         WHERE issue_id = $1 AND subscriber_id = $2 AND claim_id = $3 AND state = 1",
    )
    .bind(issue)
    .bind(subscriber)
    .bind(copy.claim)
    .bind(reason.to_owned())
    .execute()
    .await?;
    let mut event =
        Event::new(EventKind::Skipped, now).about(Some(issue), Some(subscriber)).because(reason);
    event.provider = Some(copy.provider);
    event.attempt = Some(copy.attempts + 1);
    event = event.after_claim(copy.due_at, copy.claimed_at);
    event::record(tx, &[event]).await
}

async fn requeue(tx: &mut Tx, copy: &Claimed, provider: i64, now: Timestamp) -> db::Result<()> {
    let CopyId::Issue { issue, subscriber } = copy.copy else { return Ok(()) };
    tx.query(
        "UPDATE delivery SET state = 0, due_at = $4, provider = $5 \
         WHERE issue_id = $1 AND subscriber_id = $2 AND claim_id = $3 AND state = 1",
    )
    .bind(issue)
    .bind(subscriber)
    .bind(copy.claim)
    .bind(now)
    .bind(provider)
    .execute()
    .await?;
    Ok(())
}
