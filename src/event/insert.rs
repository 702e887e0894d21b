//! How events get into the table: many rows a statement, and once what they share.

use std::{collections::BTreeMap, sync::LazyLock};

use super::Event;
use crate::{
    db::{self, Tx, state::EventKind},
    id::{IssueId, NodeId},
};

const INSERT: &str = "INSERT INTO event (at, kind, issue_id, subscriber_id, service_id, attempt, \
                      node_id, relay, host, provider, session, phase, code, enhanced, text, class, rule, \
                      duration_us, bytes, due_us, claimed_us, handed_us)";
const COLUMNS: usize = 22;
/// How many events one statement inserts: enough that the cost of a statement vanishes, and two
/// smaller numbers for what remains.
const ROWS: [usize; 3] = [64, 8, 1];

/// `INSERT … VALUES (…), (…), …` for `rows` rows.
///
/// The placeholders have no numbers: SQLite takes `$7` for a name, and the driver looks each name up
/// from the start of the list, which for a thousand of them took half of the writer's time.
fn insert_any(rows: usize) -> String {
    format!("{INSERT} VALUES {}", lines(rows, COLUMNS))
}

/// The same for acceptances that have much in common ([`Common`]): what differs comes as rows, and the
/// rest once, which halves what an event costs.
fn insert_alike(rows: usize) -> String {
    let lines = lines(rows, 11);
    format!(
        "WITH copy (at, subscriber_id, attempt, provider, session, text, duration_us, bytes, due_us, \
         claimed_us, handed_us) AS (VALUES {lines}) {INSERT} SELECT at, ?, ?, subscriber_id, NULL, \
         attempt, ?, ?, ?, provider, session, ?, ?, ?, text, NULL, NULL, duration_us, bytes, due_us, \
         claimed_us, handed_us FROM copy"
    )
}

/// `rows` times as many placeholders as there are columns.
fn lines(rows: usize, columns: usize) -> String {
    vec![format!("({})", vec!["?"; columns].join(", ")); rows].join(", ")
}

/// What the acceptances of one relay share. Nearly every event of a send is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Common<'e> {
    issue: Option<IssueId>,
    node: Option<NodeId>,
    relay: Option<&'e str>,
    host: Option<&'e str>,
    phase: Option<&'e str>,
    code: Option<i64>,
    enhanced: Option<&'e str>,
}

impl Event {
    /// What it shares with others; nothing if it says more than an acceptance does.
    fn common(&self) -> Option<Common<'_>> {
        let is_plain = self.kind == EventKind::Accepted
            && self.service_id.is_none()
            && self.class.is_none()
            && self.rule.is_none();
        is_plain.then_some(Common {
            issue: self.issue_id,
            node: self.node_id,
            relay: self.relay.as_deref(),
            host: self.host.as_deref(),
            phase: self.phase.as_deref(),
            code: self.code,
            enhanced: self.enhanced.as_deref(),
        })
    }
}

/// Writes `events` as part of `tx`.
pub async fn record<'e>(
    tx: &mut Tx,
    events: impl IntoIterator<Item = &'e Event>,
) -> db::Result<()> {
    let mut alike: BTreeMap<Common<'_>, Vec<&Event>> = BTreeMap::new();
    let mut others = Vec::new();
    for event in events {
        match event.common() {
            Some(common) => alike.entry(common).or_default().push(event),
            None => others.push(event),
        }
    }
    for (common, events) in alike {
        record_alike(tx, common, &events).await?;
    }
    record_any(tx, &others).await
}

async fn record_alike(tx: &mut Tx, common: Common<'_>, events: &[&Event]) -> db::Result<()> {
    static STATEMENTS: LazyLock<[String; ROWS.len()]> = LazyLock::new(|| ROWS.map(insert_alike));
    let owned = |text: Option<&str>| text.map(str::to_owned);
    for (rows, statement) in pieces(events) {
        let mut query = tx.query(&STATEMENTS[statement]);
        for event in rows {
            query = query
                .bind(event.at)
                .bind(event.subscriber_id)
                .bind(event.attempt)
                .bind(event.provider)
                .bind(event.session)
                .bind(event.text.clone())
                .bind(event.duration_us)
                .bind(event.bytes)
                .bind(event.due_us)
                .bind(event.claimed_us)
                .bind(event.handed_us);
        }
        query
            .bind(EventKind::Accepted)
            .bind(common.issue)
            .bind(common.node)
            .bind(owned(common.relay))
            .bind(owned(common.host))
            .bind(owned(common.phase))
            .bind(common.code)
            .bind(owned(common.enhanced))
            .execute()
            .await?;
    }
    Ok(())
}

async fn record_any(tx: &mut Tx, events: &[&Event]) -> db::Result<()> {
    static STATEMENTS: LazyLock<[String; ROWS.len()]> = LazyLock::new(|| ROWS.map(insert_any));
    for (rows, statement) in pieces(events) {
        let mut query = tx.query(&STATEMENTS[statement]);
        for event in rows {
            query = query
                .bind(event.at)
                .bind(event.kind)
                .bind(event.issue_id)
                .bind(event.subscriber_id)
                .bind(event.service_id)
                .bind(event.attempt)
                .bind(event.node_id)
                .bind(event.relay.clone())
                .bind(event.host.clone())
                .bind(event.provider)
                .bind(event.session)
                .bind(event.phase.clone())
                .bind(event.code)
                .bind(event.enhanced.clone())
                .bind(event.text.clone())
                .bind(event.class.clone())
                .bind(event.rule.clone())
                .bind(event.duration_us)
                .bind(event.bytes)
                .bind(event.due_us)
                .bind(event.claimed_us)
                .bind(event.handed_us);
        }
        query.execute().await?;
    }
    Ok(())
}

/// `events` in pieces for which there is a statement, with its place in [`ROWS`].
fn pieces<'a>(mut events: &'a [&'a Event]) -> impl Iterator<Item = (&'a [&'a Event], usize)> {
    std::iter::from_fn(move || {
        let statement = ROWS.iter().position(|rows| *rows <= events.len())?;
        let (rows, others) = events.split_at(ROWS[statement]);
        events = others;
        Some((rows, statement))
    })
}
