//! The delivery log in pages, whatever is asked of it and however long it is.
//!
//! A reader's lines and an issue's failures have an index. Everything else is a walk over a range of
//! ids (ids grow with time, so a time is a range too) that stops after a number of lines and says
//! where to go on: a page never costs more than that.

use std::time::Duration;

use serde::Serialize;

use crate::{
    db::{self, Db, state::EventKind},
    event::{Filter, Line, Step},
    timestamp::Timestamp,
};

/// How many lines one page looks through at most.
pub const LOOKED_THROUGH_MAX: i64 = 50_000;
/// Lines are written by several tasks: a line may be so much older than the one before it.
const DISORDER: Duration = Duration::from_mins(10);

/// Where a page begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the newest line.
    Newest,
    /// With the line before this one, going back.
    Before(i64),
    /// With the line after this one, going on.
    After(i64),
}

/// Some lines of the log, newest first.
#[derive(Debug, Clone, Serialize)]
pub struct LogPage {
    /// The lines.
    pub lines: Vec<Line>,
    /// Where newer lines begin: after this one.
    pub newer: i64,
    /// Where older lines begin: before this one; none when there are none.
    pub older: Option<i64>,
    /// Set when the walk stopped before the page was full: lines further on may fit too.
    pub stopped_early: bool,
}

macro_rules! select {
    ($from:literal, $what:literal, $rest:literal) => {
        concat!(
            "SELECT e.id, e.at, e.kind, n.slug AS newsletter, i.number AS issue, \
             e.subscriber_id, s.address, e.attempt, e.relay, e.host, e.provider, e.session, e.phase, \
             e.code, e.enhanced, e.text, e.class, e.rule, e.duration_us, e.bytes, \
             e.at - e.due_us AS due_at, e.at - e.claimed_us AS claimed_at, \
             e.at - e.handed_us AS handed_off_at FROM ",
            $from,
            " LEFT JOIN issue i ON i.id = e.issue_id \
             LEFT JOIN newsletter n ON n.id = i.newsletter_id \
             LEFT JOIN subscriber s ON s.id = e.subscriber_id \
             WHERE e.id > $1 AND e.id < $2 AND ($3 IS NULL OR e.issue_id = $3) \
             AND ($4 IS NULL OR e.subscriber_id = $4) AND ($5 IS NULL OR e.provider = $5) \
             AND ($7 IS NULL OR substr(e.class, 1, length($7)) = $7) ",
            $what,
            " ",
            $rest
        )
    };
}
macro_rules! select_lines {
    ($from:literal, $rest:literal) => {
        select!(
            $from,
            "AND ($6 IS NULL OR e.kind = $6) \
             AND ($8 IS NULL OR e.at >= $8) AND ($9 IS NULL OR e.at <= $9)",
            $rest
        )
    };
}
/// Lines that tell of a step before their outcome: `$6` is 0 for the claim and 1 for the handoff, the
/// numbers of these kinds. The times are the step's.
macro_rules! select_steps {
    ($from:literal, $rest:literal) => {
        select!(
            $from,
            "AND iif($6 = 0, e.claimed_us, e.handed_us) IS NOT NULL \
             AND ($8 IS NULL OR e.at - iif($6 = 0, e.claimed_us, e.handed_us) >= $8) \
             AND ($9 IS NULL OR e.at - iif($6 = 0, e.claimed_us, e.handed_us) <= $9)",
            $rest
        )
    };
}

pub(super) const WALK_BACK: &str = select_lines!("event e", "ORDER BY e.id DESC LIMIT $10");
pub(super) const WALK_ON: &str = select_lines!("event e", "ORDER BY e.id LIMIT $10");
pub(super) const OF_READER_BACK: &str = select_lines!(
    "event e INDEXED BY event_by_subscriber",
    "AND e.subscriber_id = $4 ORDER BY e.id DESC LIMIT $10"
);
pub(super) const OF_READER_ON: &str = select_lines!(
    "event e INDEXED BY event_by_subscriber",
    "AND e.subscriber_id = $4 ORDER BY e.id LIMIT $10"
);
pub(super) const OF_ISSUE_BACK: &str = select_lines!(
    "event e INDEXED BY event_by_issue",
    "AND e.issue_id = $3 AND e.kind = $6 AND e.kind <> 2 ORDER BY e.id DESC LIMIT $10"
);
pub(super) const OF_ISSUE_ON: &str = select_lines!(
    "event e INDEXED BY event_by_issue",
    "AND e.issue_id = $3 AND e.kind = $6 AND e.kind <> 2 ORDER BY e.id LIMIT $10"
);
pub(super) const STEPS_BACK: &str = select_steps!("event e", "ORDER BY e.id DESC LIMIT $10");
pub(super) const STEPS_ON: &str = select_steps!("event e", "ORDER BY e.id LIMIT $10");
pub(super) const STEPS_OF_READER_BACK: &str = select_steps!(
    "event e INDEXED BY event_by_subscriber",
    "AND e.subscriber_id = $4 ORDER BY e.id DESC LIMIT $10"
);
pub(super) const STEPS_OF_READER_ON: &str = select_steps!(
    "event e INDEXED BY event_by_subscriber",
    "AND e.subscriber_id = $4 ORDER BY e.id LIMIT $10"
);

/// Up to `limit` lines that `filter` lets through.
pub async fn log_page(db: &Db, filter: &Filter, start: Start, limit: u32) -> db::Result<LogPage> {
    let newest: i64 = db.query("SELECT coalesce(MAX(id), 0) FROM event").scalar().await?;
    let (first, last) = bounds(db, filter, newest).await?;
    let back = !matches!(start, Start::After(_));
    // The lines looked at are those between `over` and `under`, without them.
    let (mut over, mut under) = match start {
        Start::Newest => (first - 1, last + 1),
        Start::Before(id) => (first - 1, id.min(last + 1)),
        Start::After(id) => (id.max(first - 1), last + 1),
    };
    let indexed = filter.subscriber.is_some() || is_indexed_of_issue(filter);
    let whole = indexed || under - over - 1 <= LOOKED_THROUGH_MAX;
    if !whole && back {
        over = under - 1 - LOOKED_THROUGH_MAX;
    } else if !whole {
        under = over + 1 + LOOKED_THROUGH_MAX;
    }
    let mut lines = walk(db, filter, (over, under), back, limit).await?;
    let full = lines.len() as u64 >= u64::from(limit);
    if !back {
        lines.reverse();
    }
    let (top, bottom) = (lines.first().map(|line| line.id), lines.last().map(|line| line.id));
    let (newer, older) = if back {
        let older = if full { bottom } else { (!whole).then_some(over + 1) };
        // Going on from here means going on from the top of what was looked at.
        (if start == Start::Newest { newest } else { under - 1 }, older)
    } else {
        let newer = if full { top.unwrap_or(over) } else { under - 1 };
        (newer, Some(bottom.unwrap_or(over + 1)))
    };
    Ok(LogPage { lines, newer, older, stopped_early: !full && !whole })
}

/// The newest `limit` lines that `filter` lets through, newest first, however far back they are;
/// and behind which line following begins.
pub async fn latest_lines(db: &Db, filter: &Filter, limit: u32) -> db::Result<(Vec<Line>, i64)> {
    let mut page = log_page(db, filter, Start::Newest, limit).await?;
    let (mut lines, newest) = (page.lines, page.newer);
    while let Some(older) = page.older.filter(|_| lines.len() < limit as usize) {
        let left = limit - u32::try_from(lines.len()).unwrap_or(limit);
        page = log_page(db, filter, Start::Before(older), left).await?;
        lines.append(&mut page.lines);
    }
    Ok((lines, newest))
}

async fn walk(
    db: &Db,
    filter: &Filter,
    (over, under): (i64, i64),
    back: bool,
    limit: u32,
) -> db::Result<Vec<Line>> {
    let step = filter.kind.and_then(Step::of);
    let of_reader = filter.subscriber.is_some();
    let sql = match (step.is_some(), of_reader, is_indexed_of_issue(filter), back) {
        (true, true, _, true) => STEPS_OF_READER_BACK,
        (true, true, _, false) => STEPS_OF_READER_ON,
        (true, false, _, true) => STEPS_BACK,
        (true, false, _, false) => STEPS_ON,
        (false, true, _, true) => OF_READER_BACK,
        (false, true, _, false) => OF_READER_ON,
        (false, false, true, true) => OF_ISSUE_BACK,
        (false, false, true, false) => OF_ISSUE_ON,
        (false, false, false, true) => WALK_BACK,
        (false, false, false, false) => WALK_ON,
    };
    let lines: Vec<Line> = db
        .query(sql)
        .bind(over)
        .bind(under)
        .bind(filter.issue)
        .bind(filter.subscriber)
        .bind(filter.provider)
        .bind(filter.kind)
        .bind(filter.class.clone())
        .bind(filter.since)
        .bind(filter.until)
        .bind(i64::from(limit))
        .all()
        .await?;
    Ok(match step {
        Some(step) => lines.iter().filter_map(|line| line.step(step)).collect(),
        None => lines,
    })
}

/// Whether the issue's index leads to the lines: of acceptances it has none, and steps are told by the
/// lines of outcomes.
fn is_indexed_of_issue(filter: &Filter) -> bool {
    let has_index = |kind: EventKind| kind != EventKind::Accepted && Step::of(kind).is_none();
    filter.issue.is_some() && filter.kind.is_some_and(has_index)
}

/// The first and the last line that can fit: by time, and by the life of the issue.
async fn bounds(db: &Db, filter: &Filter, newest: i64) -> db::Result<(i64, i64)> {
    let (mut first, mut last) = (1, newest);
    if let Some(since) = filter.since {
        first = first_at(db, since.minus(DISORDER), newest).await?;
    }
    // The outcome that tells of a step may come much later.
    let until = filter.until.filter(|_| filter.kind.and_then(Step::of).is_none());
    if let Some(until) = until {
        last = last.min(first_at(db, until.plus(DISORDER), newest).await?);
    }
    if let Some(issue) = filter.issue {
        let begun: Option<Option<i64>> = db
            .query("SELECT first_event_id FROM issue WHERE id = $1")
            .bind(issue)
            .optional_scalar()
            .await?;
        first = first.max(begun.flatten().unwrap_or(1));
        // Failures, reports and settlements come later than the last acceptance, and have an index.
        if filter.kind == Some(EventKind::Accepted) {
            let done: Option<i64> =
                db.query(super::pace::LAST_OF_ISSUE).bind(issue).scalar().await?;
            let finished: Option<Option<i64>> = db
                .query("SELECT finished_at FROM issue WHERE id = $1")
                .bind(issue)
                .optional_scalar()
                .await?;
            if let (Some(done), Some(Some(_))) = (done, finished) {
                last = last.min(done);
            }
        }
    }
    Ok((first, last))
}

/// About the first line at or after `at`, by halving: ids grow with time.
async fn first_at(db: &Db, at: Timestamp, newest: i64) -> db::Result<i64> {
    let (mut low, mut high) = (1, newest + 1);
    while low < high {
        let middle = low + (high - low) / 2;
        let found: Option<Timestamp> = db
            .query("SELECT at FROM event WHERE id >= $1 ORDER BY id LIMIT 1")
            .bind(middle)
            .optional_scalar()
            .await?;
        if found.is_some_and(|found| found < at) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}
