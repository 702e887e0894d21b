//! Exports: one person's data for themselves, and a newsletter's subscribers as CSV. Both read
//! row by row where there can be many.

use futures_util::StreamExt;
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::{
    Subscription, consent,
    list::{ListedSubscriber, select_listed},
};
use crate::{
    db::{self, Db, record::record, state::EventKind},
    id::{NewsletterId, SubscriberId},
    timestamp::Timestamp,
};

/// Everything that is kept about one person.
#[derive(Debug, Serialize)]
pub struct OwnData {
    /// Their address.
    pub address: Option<String>,
    /// Their name.
    pub name: Option<String>,
    /// Further data.
    pub attributes: Option<Value>,
    /// When they were first seen.
    pub created_at: Timestamp,
    /// What they subscribed to.
    pub subscriptions: Vec<Subscription>,
    /// The evidence behind that.
    pub consent: Vec<consent::Consent>,
    /// Why they must not be mailed, if so.
    pub suppression: Option<super::suppression::Suppression>,
    /// What happened to mail for them, newest first.
    pub events: Vec<OwnEvent>,
}

record! {
    /// One line of the delivery log about a person.
    #[derive(Debug, Serialize)]
    pub struct OwnEvent {
        /// When.
        pub at: Timestamp,
        /// What.
        pub kind: EventKind,
        /// The newsletter of the issue it is about.
        pub newsletter: Option<String>,
        /// The issue it is about.
        pub issue: Option<i64>,
        /// What a server replied, or why.
        pub text: Option<String>,
    }
}

/// Events that an export of one person holds: far more than anybody has.
const EVENTS_MAX: i64 = 10_000;

/// Everything that is kept about `subscriber`, or `None` when there is no such row.
pub async fn own_data(db: &Db, subscriber: SubscriberId) -> db::Result<Option<OwnData>> {
    let Some(person) = super::get(db, subscriber).await? else { return Ok(None) };
    let suppression = db
        .query(
            "SELECT x.address, x.reason, x.detail, x.created_at FROM suppression x \
             WHERE x.address_hash = (SELECT address_hash FROM subscriber WHERE id = $1)",
        )
        .bind(subscriber)
        .optional()
        .await?;
    let events = db
        .query(
            "SELECT e.at, e.kind, n.slug AS newsletter, i.number AS issue, e.text FROM event e \
             LEFT JOIN issue i ON i.id = e.issue_id \
             LEFT JOIN newsletter n ON n.id = i.newsletter_id \
             WHERE e.subscriber_id = $1 ORDER BY e.id DESC LIMIT $2",
        )
        .bind(subscriber)
        .bind(EVENTS_MAX)
        .all()
        .await?;
    Ok(Some(OwnData {
        address: person.address,
        name: person.name,
        attributes: person.attributes.and_then(|text| serde_json::from_str(&text).ok()),
        created_at: person.created_at,
        subscriptions: super::subscriptions(db, subscriber).await?,
        consent: consent::of(db, subscriber).await?,
        suppression,
        events,
    }))
}

const CSV_HEAD: [&str; 9] = [
    "address",
    "name",
    "state",
    "created_at",
    "confirmed_at",
    "ended_at",
    "end_reason",
    "paused_until",
    "suppressed",
];
/// Octets that are gathered before they are written.
const CHUNK: usize = 64 * 1024;

/// Writes the subscribers of `newsletter` as CSV (RFC 4180, UTF-8), erased ones left out. Returns
/// how many.
pub async fn export_csv(
    db: &Db,
    newsletter: NewsletterId,
    out: &mut (impl AsyncWrite + Unpin),
) -> anyhow::Result<u64> {
    let mut rows = db
        .query(select_listed!("AND s.address IS NOT NULL ORDER BY b.subscriber_id"))
        .bind(newsletter)
        .bind(SubscriberId(0))
        .stream::<ListedSubscriber>();
    let mut lines = csv::Writer::from_writer(Vec::with_capacity(CHUNK + 1024));
    lines.write_record(CSV_HEAD)?;
    let mut count = 0;
    while let Some(row) = rows.next().await {
        write_row(&mut lines, &row?)?;
        count += 1;
        if count % 256 == 0 {
            out.write_all(&flushed(&mut lines)?).await?;
        }
    }
    out.write_all(&flushed(&mut lines)?).await?;
    out.flush().await?;
    Ok(count)
}

/// What was written so far; the writer goes on with an empty buffer.
fn flushed(lines: &mut csv::Writer<Vec<u8>>) -> anyhow::Result<Vec<u8>> {
    let next = csv::Writer::from_writer(Vec::with_capacity(CHUNK));
    Ok(std::mem::replace(lines, next).into_inner()?)
}

fn write_row(lines: &mut csv::Writer<Vec<u8>>, row: &ListedSubscriber) -> csv::Result<()> {
    let time = |at: Option<Timestamp>| at.map(|at| at.to_string()).unwrap_or_default();
    lines.write_record([
        // An address may begin so too: =1+1@example.com is valid.
        &defused(row.address.as_deref().unwrap_or_default()),
        &defused(row.name.as_deref().unwrap_or_default()),
        row.state.as_str(),
        &time(Some(row.created_at)),
        &time(row.confirmed_at),
        &time(row.ended_at),
        &defused(row.end_reason.as_deref().unwrap_or_default()),
        &time(row.paused_until),
        row.suppressed.as_deref().unwrap_or_default(),
    ])
}

/// A reader's text that a spreadsheet does not take for a formula. The import takes the apostrophe
/// off again.
fn defused(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@']) { format!("'{text}") } else { text.to_owned() }
}

/// The text that [`defused`] was given.
pub(super) fn original(text: &str) -> &str {
    match text.strip_prefix('\'') {
        Some(rest) if rest.starts_with(['=', '+', '-', '@']) => rest,
        _ => text,
    }
}
