//! Suppressions that wait for an operator. When over 5 % and at least 20 addresses of one provider
//! fail for good within one issue, the provider is the likelier patient: its readers go on getting
//! mail until somebody has looked.

use serde::Serialize;

use super::{
    cut,
    reader::{Reader, name_class},
};
use crate::{
    audit::{self, Act},
    bounce::classify::Classification,
    db::{self, Db, Tx, record::record, state::EventKind},
    event::{self, Event},
    id::{IssueId, SubscriberId},
    subscriber::suppression::{self, Reason},
    timestamp::Timestamp,
};

/// What the log says of a held suppression, before the server's words.
const WHY: &str = "suppression held for an operator: too many addresses of this provider failed";

/// Holds the suppression of a reader.
pub(super) async fn hold(
    tx: &mut Tx,
    reader: &Reader,
    class: &Classification,
    words: &str,
    now: Timestamp,
) -> db::Result<()> {
    let Some(issue) = reader.issue else { return Ok(()) };
    tx.query(
        "INSERT INTO held_suppression (subscriber_id, issue_id, provider, at, detail) \
         VALUES ($1, $2, $3, $4, $5) ON CONFLICT (subscriber_id) DO UPDATE SET \
         issue_id = excluded.issue_id, provider = excluded.provider, at = excluded.at, \
         detail = excluded.detail",
    )
    .bind(reader.subscriber)
    .bind(issue)
    .bind(reader.provider)
    .bind(now)
    .bind(cut(words))
    .execute()
    .await?;
    let text = format!("{WHY}; {}", cut(words));
    let mut event = reader.event(EventKind::SuppressionHeld, now).because(text);
    name_class(&mut event, class);
    event::record(tx, &[event]).await
}

/// Forgets that a reader's suppression waits, as it is decided.
pub(super) async fn settled(tx: &mut Tx, subscriber: SubscriberId) -> db::Result<()> {
    tx.query("DELETE FROM held_suppression WHERE subscriber_id = $1")
        .bind(subscriber)
        .execute()
        .await?;
    Ok(())
}

pub(super) const TAKE_BACK: &str = "INSERT INTO held_suppression (subscriber_id, issue_id, \
     provider, at, detail) SELECT s.id, e.issue_id, e.provider, $3, x.detail \
     FROM event e CROSS JOIN subscriber s ON s.id = e.subscriber_id \
     CROSS JOIN suppression x ON x.address_hash = s.address_hash \
     WHERE e.issue_id = $1 AND e.kind <> 2 AND e.kind = 15 AND e.provider = $2 \
     AND x.reason = 'bounce' AND x.created_at = e.at \
     ON CONFLICT (subscriber_id) DO NOTHING";

/// Takes back the suppressions that `issue` has brought to readers of `provider`, and holds them.
pub(super) async fn take_back(
    tx: &mut Tx,
    issue: IssueId,
    provider: i64,
    now: Timestamp,
) -> db::Result<()> {
    tx.query(TAKE_BACK).bind(issue).bind(provider).bind(now).execute().await?;
    let taken: Vec<(SubscriberId,)> = tx
        .query(
            "SELECT subscriber_id FROM held_suppression \
             WHERE issue_id = $1 AND provider = $2 AND at = $3",
        )
        .bind(issue)
        .bind(provider)
        .bind(now)
        .all()
        .await?;
    let ids = crate::delivery::queue::json_array(taken.iter().map(|(id,)| id.0));
    tx.query(
        "DELETE FROM suppression WHERE reason = 'bounce' AND address_hash IN \
         (SELECT address_hash FROM subscriber WHERE id IN (SELECT value FROM json_each($1)))",
    )
    .bind(ids)
    .execute()
    .await?;
    let events: Vec<Event> = taken
        .iter()
        .map(|(subscriber,)| {
            let mut event = Event::new(EventKind::SuppressionHeld, now)
                .about(Some(issue), Some(*subscriber))
                .because(format!("{WHY}; taken back"));
            event.provider = Some(provider);
            event
        })
        .collect();
    event::record(tx, &events).await
}

record! {
    /// How many suppressions of one issue and provider wait.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    pub struct HeldGroup {
        /// The issue.
        pub issue_id: IssueId,
        /// The provider.
        pub provider: i64,
        /// How many readers.
        pub readers: i64,
        /// Since when.
        pub since: Timestamp,
        /// What one of the servers said.
        pub example: String,
    }
}

/// What waits, the latest issue first.
pub async fn list(db: &Db) -> db::Result<Vec<HeldGroup>> {
    db.query(
        "SELECT issue_id, provider, COUNT(*) AS readers, MIN(at) AS since, MIN(detail) AS example \
         FROM held_suppression GROUP BY issue_id, provider ORDER BY issue_id DESC, provider",
    )
    .all()
    .await
}

/// What an operator makes of held suppressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The addresses are dead indeed.
    Suppress,
    /// The provider was broken; the readers stay.
    Dismiss,
}

record! {
    struct Waiting {
        subscriber_id: SubscriberId,
        address: Option<String>,
        address_hash: Vec<u8>,
        detail: String,
    }
}

/// How many held suppressions one transaction decides.
const BATCH: i64 = 1_000;

/// Decides what is held for one issue and provider; returns how many readers that was. The line in
/// the audit log is `act`, written with the first of them.
pub async fn decide(
    db: &Db,
    issue: IssueId,
    provider: i64,
    decision: Decision,
    act: Act<'_>,
    now: Timestamp,
) -> db::Result<u64> {
    let mut decided = 0;
    loop {
        let mut tx = db.begin().await?;
        let batch = decide_batch(&mut tx, issue, provider, decision, now).await?;
        if batch == 0 {
            tx.rollback().await?;
            return Ok(decided);
        }
        if decided == 0 {
            audit::record(&mut tx, act, now).await?;
        }
        tx.commit().await?;
        decided += batch;
    }
}

async fn decide_batch(
    tx: &mut Tx,
    issue: IssueId,
    provider: i64,
    decision: Decision,
    now: Timestamp,
) -> db::Result<u64> {
    let waiting: Vec<Waiting> = tx
        .query(
            "SELECT h.subscriber_id, s.address, s.address_hash, h.detail FROM held_suppression h \
             JOIN subscriber s ON s.id = h.subscriber_id \
             WHERE h.issue_id = $1 AND h.provider = $2 LIMIT $3",
        )
        .bind(issue)
        .bind(provider)
        .bind(BATCH)
        .all()
        .await?;
    for held in &waiting {
        settled(tx, held.subscriber_id).await?;
        if decision == Decision::Dismiss {
            continue;
        }
        let address = held.address.as_deref();
        let reason = Reason::Bounce;
        if suppression::add(tx, &held.address_hash, address, reason, &held.detail, now).await? {
            let mut event = Event::new(EventKind::Suppressed, now)
                .about(Some(issue), Some(held.subscriber_id))
                .because(format!("{reason}, as an operator decided: {}", held.detail));
            event.provider = Some(provider);
            event::record(tx, &[event]).await?;
        }
    }
    Ok(waiting.len() as u64)
}
