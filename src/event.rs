//! The delivery log: one event per fact, one schema for the table, the live page, the command line
//! and JSON. Owns the table `event`. Writing happens inside the transaction that made the fact true,
//! so the log can neither miss it nor claim it.

use std::sync::LazyLock;

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
                      node_id, relay, provider, session, phase, code, enhanced, text, class, rule, \
                      duration_us, bytes) VALUES";
const COLUMNS: usize = 18;
/// How many events one statement inserts: enough that the cost of a statement vanishes, and two
/// smaller numbers for what remains.
const ROWS: [usize; 3] = [64, 8, 1];

/// `INSERT … VALUES (…), (…), …` for `rows` rows.
///
/// The placeholders have no numbers: SQLite takes `$7` for a name, and the driver looks each name up
/// from the start of the list, which for a thousand of them took half of the writer's time.
fn insert_sql(rows: usize) -> String {
    let row = format!("({})", vec!["?"; COLUMNS].join(", "));
    format!("{INSERT} {}", vec![row; rows].join(", "))
}

/// Writes `events` as part of `tx`.
pub async fn record<'e>(
    tx: &mut Tx,
    events: impl IntoIterator<Item = &'e Event>,
) -> db::Result<()> {
    static STATEMENTS: LazyLock<[String; ROWS.len()]> = LazyLock::new(|| ROWS.map(insert_sql));
    let events: Vec<&Event> = events.into_iter().collect();
    let mut left = events.as_slice();
    while !left.is_empty() {
        let size = ROWS.iter().position(|rows| *rows <= left.len()).unwrap_or(ROWS.len() - 1);
        let (rows, others) = left.split_at(ROWS[size]);
        left = others;
        let sql = STATEMENTS[size].as_str();
        let mut query = tx.query(sql);
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
