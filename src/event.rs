//! The delivery log: one event per fact, one schema for the table, the live page, the command line
//! and JSON. Owns the table `event`. Writing happens inside the transaction that made the fact true,
//! so the log can neither miss it nor claim it.

use std::{collections::BTreeMap, sync::LazyLock};

use serde::Serialize;

use crate::{
    db::{self, Tx, record::record, state::EventKind},
    id::{IssueId, NodeId, ServiceMailId, SubscriberId},
    timestamp::Timestamp,
};

record! {
    /// One line of the log. What does not apply is empty.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    pub struct Event {
        /// When it happened.
        pub at: Timestamp,
        /// What happened.
        pub kind: EventKind,
        /// The issue it is about.
        pub issue_id: Option<IssueId>,
        /// The reader it is about.
        pub subscriber_id: Option<SubscriberId>,
        /// The service mail it is about.
        pub service_id: Option<ServiceMailId>,
        /// Which try of the copy.
        pub attempt: Option<i64>,
        /// The daemon that did it.
        pub node_id: Option<NodeId>,
        /// The relay it was tried at.
        pub relay: Option<String>,
        /// The mail server of the reader's domain, with its address, where it was brought there
        /// directly.
        pub host: Option<String>,
        /// The provider of the address.
        pub provider: Option<i64>,
        /// The connection, numbered within the daemon's life.
        pub session: Option<i64>,
        /// The SMTP phase that decided.
        pub phase: Option<String>,
        /// The reply's code.
        pub code: Option<i64>,
        /// The reply's enhanced code (RFC 3463).
        pub enhanced: Option<String>,
        /// The reply's text, or why.
        pub text: Option<String>,
        /// Whose fault, and whether for good.
        pub class: Option<String>,
        /// The rule that decided the class.
        pub rule: Option<String>,
        /// From the first byte of the envelope to the deciding reply, in microseconds.
        pub duration_us: Option<i64>,
        /// The message's size on the wire.
        pub bytes: Option<i64>,
    }
}

impl Event {
    /// An event that names nothing but its kind and time yet.
    pub fn new(kind: EventKind, at: Timestamp) -> Self {
        Self {
            at,
            kind,
            issue_id: None,
            subscriber_id: None,
            service_id: None,
            attempt: None,
            node_id: None,
            relay: None,
            host: None,
            provider: None,
            session: None,
            phase: None,
            code: None,
            enhanced: None,
            text: None,
            class: None,
            rule: None,
            duration_us: None,
            bytes: None,
        }
    }

    /// The same event about a reader.
    #[must_use]
    pub fn about(mut self, issue: Option<IssueId>, subscriber: Option<SubscriberId>) -> Self {
        self.issue_id = issue;
        self.subscriber_id = subscriber;
        self
    }

    /// The same event with a reason.
    #[must_use]
    pub fn because(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }
}

const INSERT: &str = "INSERT INTO event (at, kind, issue_id, subscriber_id, service_id, attempt, \
                      node_id, relay, host, provider, session, phase, code, enhanced, text, class, rule, \
                      duration_us, bytes)";
const COLUMNS: usize = 19;
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
    let lines = lines(rows, 8);
    format!(
        "WITH copy (at, subscriber_id, attempt, provider, session, text, duration_us, bytes) \
         AS (VALUES {lines}) {INSERT} SELECT at, ?, ?, subscriber_id, NULL, attempt, ?, ?, ?, provider, \
         session, ?, ?, ?, text, NULL, NULL, duration_us, bytes FROM copy"
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
                .bind(event.bytes);
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
                .bind(event.bytes);
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

/// Which lines of the log are wanted; what is empty does not narrow.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of one issue.
    pub issue: Option<IssueId>,
    /// Of one reader.
    pub subscriber: Option<SubscriberId>,
    /// Of one provider.
    pub provider: Option<i64>,
    /// Of one kind.
    pub kind: Option<EventKind>,
    /// Whose class starts like this (`recipient`, `policy`, …).
    pub class: Option<String>,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Not after.
    pub until: Option<Timestamp>,
}

record! {
    /// A line of the log as people see it.
    #[derive(Debug, Clone, Serialize)]
    pub struct Line {
        /// Grows with every event: where to go on reading.
        pub id: i64,
        /// When it happened.
        pub at: Timestamp,
        /// What happened.
        pub kind: EventKind,
        /// The issue's newsletter.
        pub newsletter: Option<String>,
        /// The issue's number.
        pub issue: Option<i64>,
        /// The reader it is about.
        pub subscriber_id: Option<SubscriberId>,
        /// The reader's address.
        pub address: Option<String>,
        /// Which try of the copy.
        pub attempt: Option<i64>,
        /// The relay it was tried at.
        pub relay: Option<String>,
        /// The mail server of the reader's domain, where it was brought there directly.
        pub host: Option<String>,
        /// The provider of the address.
        pub provider: Option<i64>,
        /// The connection, numbered within the daemon's life.
        pub session: Option<i64>,
        /// The SMTP phase that decided.
        pub phase: Option<String>,
        /// The reply's code.
        pub code: Option<i64>,
        /// The reply's enhanced code.
        pub enhanced: Option<String>,
        /// The reply's text, or why.
        pub text: Option<String>,
        /// Whose fault, and whether for good.
        pub class: Option<String>,
        /// The rule that decided the class.
        pub rule: Option<String>,
        /// From the first byte of the envelope to the deciding reply, in microseconds.
        pub duration_us: Option<i64>,
        /// The message's size on the wire.
        pub bytes: Option<i64>,
    }
}
