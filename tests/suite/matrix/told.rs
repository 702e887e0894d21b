//! What the ledger, the log and the sink say in the end.

use std::{path::Path, time::Duration};

use postrider::{
    cli::Context,
    db::state::{CopyState, EventKind},
    sink::journal::{self, Record, Verdict},
    timestamp::Timestamp,
};

/// What the ledger and the log say of one copy in the end.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) state: CopyState,
    pub(super) attempts: i64,
    pub(super) events: Vec<Line>,
    /// How often the sink accepted it.
    pub(super) accepted: usize,
    /// On which of its connections, last.
    pub(super) connection: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Line {
    pub(super) kind: EventKind,
    pub(super) phase: Option<String>,
    pub(super) code: Option<i64>,
    pub(super) class: Option<String>,
}

/// For how long the relay's breaker opened first, as the log has it.
pub(super) async fn first_rest(context: &Context) -> Option<Duration> {
    let row: Option<(Timestamp, String)> = context
        .db
        .query(
            "SELECT at, text FROM event WHERE kind = $1 AND provider IS NULL ORDER BY id LIMIT 1",
        )
        .bind(EventKind::BreakerOpened)
        .optional()
        .await
        .unwrap();
    let (at, text) = row?;
    let (until, _) = text.strip_prefix("until ")?.split_once(": ")?;
    Some(until.parse::<Timestamp>().ok()?.since(at))
}

pub(super) async fn told(context: &Context, sink: &Path) -> Vec<Told> {
    let records: Vec<Record> = journal::read(sink).unwrap_or_default();
    // Copies are claimed in the order of readers' ids.
    let copies: Vec<(i64, i64, String)> = context
        .db
        .query(
            "SELECT d.state, d.attempt, s.address FROM delivery d \
             JOIN subscriber s ON s.id = d.subscriber_id ORDER BY d.subscriber_id",
        )
        .all()
        .await
        .unwrap();
    let mut told = Vec::new();
    for (state, attempts, address) in copies {
        type Row = (i64, Option<String>, Option<i64>, Option<String>);
        let rows: Vec<Row> = context
            .db
            .query(
                "SELECT kind, phase, code, class FROM event WHERE kind IN (2, 3, 4, 5, 7) \
                 AND subscriber_id = (SELECT id FROM subscriber WHERE address = $1) ORDER BY id",
            )
            .bind(address.clone())
            .all()
            .await
            .unwrap();
        let line = |(kind, phase, code, class)| {
            let kind = EventKind::try_from(kind).unwrap();
            Line { kind, phase, code, class }
        };
        let mut accepted = records.iter().filter(|record| {
            record.verdict == Verdict::Accepted && record.rcpt_to == [address.clone()]
        });
        told.push(Told {
            state: CopyState::try_from(state).unwrap(),
            attempts,
            events: rows.into_iter().map(line).collect(),
            accepted: accepted.clone().count(),
            connection: accepted.next_back().map(|record| record.connection),
        });
    }
    told
}
