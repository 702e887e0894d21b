//! The ledger's statements: claim, hand off, settle, release. Every statement that moves a copy from
//! one state to another is in this room and names the claim under which it acts, so that a stale
//! claim changes no row.
//!
//! Nothing here decides anything: `ledger` groups the calls into transactions, `policy` chooses the
//! next state, `recovery` mends what a crash left.

mod claim;
mod handoff;
pub mod service;
mod settle;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use super::clock;
use crate::{
    bounce::classify::Classification,
    db::{self, Db, Tx, state::CopyState},
    event::Event,
    id::{CopyId, IssueId},
    smtp::client::Timings,
    timestamp::Timestamp,
};

pub use claim::{Opened, claim_due, claim_first_tries, open_claim, stage_released};
pub use handoff::hand_off;
pub use settle::{release, settle, settle_uncertain};

/// A copy held under a claim; nothing was sent yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// Which copy.
    pub copy: CopyId,
    /// The claim that holds it.
    pub claim: i64,
    /// Which of the claim's copies it is, in the order of readers.
    pub place: u32,
    /// Since when.
    pub claimed_at: Timestamp,
    /// Since when this try is due: the first since its stage was released.
    pub due_at: Timestamp,
    /// Since when the copy is due, over all its tries.
    pub first_due_at: Timestamp,
    /// The provider of its address.
    pub provider: i64,
    /// Its stage; 0 for service mail.
    pub stage: i64,
    /// How often it was tried before.
    pub attempts: i64,
}

/// Where first tries are looked for: one lane per provider with a limit of its own, one for all the
/// others, so that a slow provider's copies do not fill the window of everybody's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Lane {
    /// One provider.
    Provider(i64),
    /// All providers but these, as a JSON array.
    AllBut(String),
}

/// A copy that may be sent now: the mark is durable, the address is the one of that moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handed {
    /// The copy and its claim.
    pub claimed: Claimed,
    /// When it was handed off.
    pub at: Timestamp,
    /// Where it goes.
    pub address: String,
    /// The reader's name.
    pub name: Option<String>,
    /// The reader's attributes, a JSON object.
    pub attributes: Option<String>,
}

/// Why a copy was not handed off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Withheld {
    /// Its issue is not sending, its stage is not released, or the lease ran out: it waits.
    Waits,
    /// Its reader must not or cannot get it; the text says why.
    Skipped(String),
    /// The claim no longer holds it: somebody else decides.
    Stale,
}

/// What becomes of a copy that was handed off.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// Which copy.
    pub copy: CopyId,
    /// The claim under which it was handed off.
    pub claim: i64,
    /// Its next state: final, or waiting for another try.
    pub state: CopyState,
    /// How often it was tried by now.
    pub attempts: i64,
    /// When a waiting copy is due.
    pub due_at: Option<Timestamp>,
    /// When that was decided: the clock may have been set since.
    pub decided_at: Timestamp,
    /// Why, for states other than accepted.
    pub reason: Option<String>,
    /// The line for the delivery log; none for a copy that never reached the wire.
    pub event: Option<Event>,
    /// Whose fault a refusal is: the recipient's own suppresses the address with the outcome.
    pub class: Option<Classification>,
    /// Since when the copy was due, over all its tries; for the figures.
    pub first_due_at: Option<Timestamp>,
    /// How long the parts of its transaction took.
    pub timings: Timings,
    /// Its stage, for the tallies.
    pub stage: i64,
    /// The provider of its address.
    pub provider: i64,
}

impl Settlement {
    /// When the copy is due, by a clock that shows `now` and may have been set since that was decided.
    fn due_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.due_at.map(|due| clock::due_now(due, self.decided_at, now))
    }
}

/// `[1,2,3]`, for `json_each`.
pub(crate) fn json_array(ids: impl IntoIterator<Item = i64>) -> String {
    use std::fmt::Write as _;
    let mut json = String::from("[");
    for id in ids {
        let comma = if json.len() > 1 { "," } else { "" };
        let _ = write!(json, "{comma}{id}");
    }
    json.push(']');
    json
}

/// How many copies of an issue are in one state, by stage and provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// The stage.
    pub stage: i64,
    /// The provider.
    pub provider: i64,
    /// The state.
    pub state: CopyState,
    /// Whether these copies wait for another try.
    pub deferred: i64,
    /// How many there are.
    pub copies: i64,
}

/// Reads what a statement gathered into one JSON text.
fn json<T: serde::de::DeserializeOwned>(text: &str) -> db::Result<T> {
    serde_json::from_str(text).map_err(|error| sqlx::Error::Decode(Box::new(error)))
}

/// How many copies are counted at once. Grouping sorts, and what is sorted is held in memory.
const COUNT_CHUNK: i64 = 10_000;

/// Groups by one number that says provider, stage, state and whether a copy was deferred: SQLite
/// sorts numbers in two thirds of the time that it takes for rows of four.
const COUNT: &str = "SELECT kind, COUNT(*) AS copies, MAX(subscriber_id) AS last \
     FROM (SELECT ((provider * 16 + stage) * 16 + state) * 2 \
         + CASE WHEN state = 0 AND attempt > 0 THEN 1 ELSE 0 END AS kind, subscriber_id \
       FROM delivery \
       WHERE issue_id = $1 AND subscriber_id > $2 ORDER BY subscriber_id LIMIT $3) \
     GROUP BY kind";

/// Counts an issue's copies: the left-hand side of the audience equation.
pub async fn count(db: &Db, issue: IssueId) -> db::Result<Vec<Count>> {
    count_in(&mut db.snapshot().await?, issue).await
}

/// The same, as a transaction sees them.
pub async fn count_in(tx: &mut Tx, issue: IssueId) -> db::Result<Vec<Count>> {
    count_by(tx, issue, COUNT_CHUNK).await
}

async fn count_by(tx: &mut Tx, issue: IssueId, chunk: i64) -> db::Result<Vec<Count>> {
    let mut counts: BTreeMap<i64, i64> = BTreeMap::new();
    let mut after = 0;
    loop {
        let rows: Vec<(i64, i64, i64)> =
            tx.query(COUNT).bind(issue).bind(after).bind(chunk).all().await?;
        for (kind, copies, _) in &rows {
            *counts.entry(*kind).or_default() += copies;
        }
        if rows.iter().map(|(_, copies, _)| copies).sum::<i64>() < chunk {
            break;
        }
        after = rows.iter().map(|(_, _, last)| *last).max().unwrap_or(after);
    }
    counts.into_iter().map(|(kind, copies)| Count::of_kind(kind, copies)).collect()
}

impl Count {
    /// Takes apart the number that [`COUNT`] groups by.
    fn of_kind(kind: i64, copies: i64) -> db::Result<Self> {
        let (kind, deferred) = (kind.div_euclid(2), kind.rem_euclid(2));
        let (kind, state) = (kind.div_euclid(16), kind.rem_euclid(16));
        let (provider, stage) = (kind.div_euclid(16), kind.rem_euclid(16));
        let state =
            CopyState::try_from(state).map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok(Self { stage, provider, state, deferred, copies })
    }
}

/// When the next put-off copy of an issue is due, up to `stage` and to what its provider may have.
pub async fn next_due(db: &Db, issue: IssueId, stage: i64) -> db::Result<Option<Timestamp>> {
    db.query(
        "SELECT MIN(due_at) FROM delivery INDEXED BY delivery_due \
         WHERE issue_id = $1 AND state = 0 AND due_at IS NOT NULL AND stage <= $2 \
         AND NOT EXISTS (SELECT 1 FROM held_provider h WHERE h.issue_id = $1 \
           AND h.provider = delivery.provider AND h.stage < delivery.stage)",
    )
    .bind(issue)
    .bind(stage)
    .scalar()
    .await
}

/// Gives every waiting copy of `issue` that ran out of time its final state; returns how many.
pub async fn expire(tx: &mut Tx, issue: IssueId) -> db::Result<u64> {
    tx.query(
        "UPDATE delivery SET state = 7, reason = 'not accepted within the time to live' \
         WHERE issue_id = $1 AND state = 0",
    )
    .bind(issue)
    .execute()
    .await
}

/// Gives every copy of a cancelled issue that was not handed off its final state; returns how many.
pub async fn cancel(tx: &mut Tx, issue: IssueId) -> db::Result<u64> {
    tx.query("UPDATE delivery SET state = 8 WHERE issue_id = $1 AND state IN (0, 1)")
        .bind(issue)
        .execute()
        .await
}
