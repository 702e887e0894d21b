//! What people do to an issue's course: schedule, undo, pause, resume, cancel; settle an uncertain
//! copy. Each is a conditional change of a row, with its line in the audit log, in one transaction;
//! the conductor and the handoff gate see it at once, in whichever process they run.

use crate::{
    audit::{self, Act},
    db::{
        self, Db, Tx,
        record::record,
        state::{CopyState, EventKind, IssueState},
    },
    event::{self, Event},
    id::{IssueId, NewsletterId, SubscriberId},
    timestamp::Timestamp,
};

use super::content::Content;

record! {
    /// An issue's row, without its texts.
    #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
    pub struct Edition {
        /// Its row.
        pub id: IssueId,
        /// What the outside knows it by.
        pub uid: String,
        /// Its newsletter.
        pub newsletter_id: NewsletterId,
        /// Its number.
        pub number: i64,
        /// Its subject.
        pub subject: String,
        /// How far it has come.
        pub state: IssueState,
        /// When it was first stored.
        pub created_at: Timestamp,
        /// When its first copy may leave.
        pub sends_at: Option<Timestamp>,
        /// When its send began.
        pub started_at: Option<Timestamp>,
        /// When its copies are given up.
        pub expires_at: Option<Timestamp>,
        /// When nothing remained.
        pub finished_at: Option<Timestamp>,
        /// The last released stage.
        pub stage: i64,
        /// Why it is halted, a JSON object.
        pub halt: Option<String>,
        /// Its plan at the start, a JSON object.
        pub plan: Option<String>,
    }
}

const COLUMNS: &str = "SELECT id, uid, newsletter_id, number, subject, state, created_at, \
     sends_at, started_at, expires_at, finished_at, stage, halt, plan FROM issue ";

macro_rules! edition_sql {
    ($rest:literal) => {{
        static SQL: std::sync::LazyLock<String> =
            std::sync::LazyLock::new(|| format!("{COLUMNS}{}", $rest));
        SQL.as_str()
    }};
}

/// Why an act on an issue is refused.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// There is no such issue.
    #[error("there is no issue {0}; `postrider issue list` shows those there are")]
    Unknown(i64),
    /// The issue is in a state in which this cannot be done.
    #[error("issue {number} is {state}: {problem}")]
    WrongState {
        /// The issue's number.
        number: i64,
        /// How far it has come.
        state: IssueState,
        /// What cannot be done, and what can.
        problem: &'static str,
    },
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
}

/// What is stored of an issue before it is sent.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Its newsletter.
    pub newsletter: NewsletterId,
    /// Its number.
    pub number: i64,
    /// The typed model, as JSON.
    pub model: String,
    /// The file's text.
    pub source: String,
    /// What copies are made from.
    pub content: Content,
}

/// What came of asking for a send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scheduled {
    /// The send was asked for now; its first copy leaves at this time.
    New(Edition),
    /// It had been asked for before: nothing was started.
    Already(Edition),
}

/// The issue of `newsletter` with this number.
pub async fn find(db: &Db, newsletter: NewsletterId, number: i64) -> db::Result<Option<Edition>> {
    db.query(edition_sql!("WHERE newsletter_id = $1 AND number = $2"))
        .bind(newsletter)
        .bind(number)
        .optional()
        .await
}

/// The issues of `newsletter`, latest first.
pub async fn list(db: &Db, newsletter: NewsletterId, limit: u32) -> db::Result<Vec<Edition>> {
    db.query(edition_sql!("WHERE newsletter_id = $1 ORDER BY number DESC LIMIT $2"))
        .bind(newsletter)
        .bind(i64::from(limit))
        .all()
        .await
}

/// Stores `draft` and asks for its send, the first copy at `sends_at`. The number is the key: the
/// same trigger twice (a double click, a retried call) starts one send.
pub async fn schedule(
    db: &Db,
    draft: &Draft,
    sends_at: Timestamp,
    actor: &str,
    now: Timestamp,
) -> Result<Scheduled, ControlError> {
    let mut tx = db.begin().await?;
    let sql = edition_sql!("WHERE newsletter_id = $1 AND number = $2");
    let before: Option<Edition> =
        tx.query(sql).bind(draft.newsletter).bind(draft.number).optional().await?;
    if let Some(edition) = before.filter(|edition| edition.state != IssueState::Draft) {
        return Ok(Scheduled::Already(edition));
    }
    store(&mut tx, draft, now).await?;
    tx.query("UPDATE issue SET state = 1, sends_at = $3 WHERE newsletter_id = $1 AND number = $2")
        .bind(draft.newsletter)
        .bind(draft.number)
        .bind(sends_at)
        .execute()
        .await?;
    let edition: Edition = tx.query(sql).bind(draft.newsletter).bind(draft.number).one().await?;
    let act = Act {
        actor,
        action: "issue.schedule",
        target: &edition.uid,
        detail: &format!("issue {}, first copy at {sends_at}", draft.number),
    };
    audit::record(&mut tx, act, now).await?;
    tx.commit().await?;
    Ok(Scheduled::New(edition))
}

async fn store(tx: &mut Tx, draft: &Draft, now: Timestamp) -> db::Result<()> {
    let id: IssueId = tx
        .query(
            "INSERT INTO issue (uid, newsletter_id, number, subject, state, model, source, \
             created_at) VALUES ($1, $2, $3, $4, 0, $5, $6, $7) \
             ON CONFLICT (newsletter_id, number) DO UPDATE SET subject = excluded.subject, \
             model = excluded.model, source = excluded.source RETURNING id",
        )
        .bind(uuid::Uuid::now_v7().to_string())
        .bind(draft.newsletter)
        .bind(draft.number)
        .bind(draft.content.subject.clone())
        .bind(draft.model.clone())
        .bind(draft.source.clone())
        .bind(now)
        .scalar()
        .await?;
    let content = serde_json::to_string(&draft.content).unwrap_or_default();
    tx.query(
        "INSERT INTO issue_content (issue_id, content) VALUES ($1, $2) \
         ON CONFLICT (issue_id) DO UPDATE SET content = excluded.content",
    )
    .bind(id)
    .bind(content)
    .execute()
    .await?;
    Ok(())
}

/// One thing that can be done to an issue's course.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// Take back a send whose first copy has not left.
    Undo,
    /// Stop for now.
    Pause,
    /// Go on after a pause or a halt.
    Resume,
    /// Give up what has not left.
    Cancel,
}

impl Move {
    const fn action(self) -> &'static str {
        match self {
            Self::Undo => "issue.undo",
            Self::Pause => "issue.pause",
            Self::Resume => "issue.resume",
            Self::Cancel => "issue.cancel",
        }
    }

    const fn from(self) -> &'static [IssueState] {
        match self {
            Self::Undo => &[IssueState::Scheduled],
            Self::Pause => &[IssueState::Sending],
            Self::Resume => &[IssueState::Paused, IssueState::Halted],
            Self::Cancel => &[
                IssueState::Scheduled,
                IssueState::Sending,
                IssueState::Paused,
                IssueState::Halted,
            ],
        }
    }

    const fn to(self) -> IssueState {
        match self {
            Self::Undo => IssueState::Draft,
            Self::Pause => IssueState::Paused,
            Self::Resume => IssueState::Sending,
            Self::Cancel => IssueState::Cancelled,
        }
    }

    const fn event(self) -> Option<EventKind> {
        match self {
            Self::Undo => None,
            Self::Pause => Some(EventKind::Paused),
            Self::Resume => Some(EventKind::Resumed),
            Self::Cancel => Some(EventKind::Cancelled),
        }
    }

    const fn problem(self) -> &'static str {
        match self {
            Self::Undo => {
                "only a send whose first copy has not left can be undone; `issue cancel` \
                           stops one under way"
            }
            Self::Pause => "only a send under way can be paused",
            Self::Resume => "only a paused or halted send can be resumed",
            Self::Cancel => "only a send that is asked for or under way can be cancelled",
        }
    }
}

/// Changes the course of `edition`. Doing again what is done already succeeds and changes nothing.
pub async fn change_course(
    db: &Db,
    edition: &Edition,
    step: Move,
    actor: &str,
    reason: &str,
    now: Timestamp,
) -> Result<IssueState, ControlError> {
    let mut tx = db.begin().await?;
    let state: Option<IssueState> = tx
        .query("SELECT state FROM issue WHERE id = $1")
        .bind(edition.id)
        .optional_scalar()
        .await?;
    let state = state.ok_or(ControlError::Unknown(edition.number))?;
    if state == step.to() && step != Move::Resume {
        return Ok(state);
    }
    if !step.from().contains(&state) {
        let number = edition.number;
        return Err(ControlError::WrongState { number, state, problem: step.problem() });
    }
    tx.query(
        "UPDATE issue SET state = $2, \
         sends_at = CASE WHEN $2 = 0 THEN NULL ELSE sends_at END WHERE id = $1",
    )
    .bind(edition.id)
    .bind(step.to())
    .execute()
    .await?;
    if state == IssueState::Halted && step == Move::Resume {
        acknowledge(&mut tx, edition).await?;
    }
    if let Some(kind) = step.event() {
        let event = Event::new(kind, now).about(Some(edition.id), None).because(reason);
        event::record(&mut tx, &[event]).await?;
    }
    let act = Act { actor, action: step.action(), target: &edition.uid, detail: reason };
    audit::record(&mut tx, act, now).await?;
    tx.commit().await?;
    Ok(step.to())
}

/// Remembers that an operator saw the figures of a halt, so that the same figures do not halt again.
async fn acknowledge(tx: &mut Tx, edition: &Edition) -> db::Result<()> {
    tx.query(
        "UPDATE issue SET halt = NULL, \
         acknowledged = json_insert(acknowledged, '$[#]', json(halt)) \
         WHERE id = $1 AND halt IS NOT NULL",
    )
    .bind(edition.id)
    .execute()
    .await?;
    Ok(())
}

/// How an operator settles an uncertain copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// It arrived.
    Accepted,
    /// Send it again.
    Resend,
}

/// Settles the uncertain copy of `edition` to `subscriber`; false when it is not uncertain.
pub async fn resolve(
    db: &Db,
    edition: &Edition,
    subscriber: SubscriberId,
    how: Resolution,
    actor: &str,
    reason: &str,
    now: Timestamp,
) -> db::Result<bool> {
    let mut tx = db.begin().await?;
    let (state, due_at, word) = match how {
        Resolution::Accepted => (CopyState::Accepted, None, "accepted"),
        Resolution::Resend => (CopyState::Waiting, Some(now), "to be sent again"),
    };
    let changed = tx
        .query(
            "UPDATE delivery SET state = $3, due_at = $4, reason = NULL \
             WHERE issue_id = $1 AND subscriber_id = $2 AND state = 5",
        )
        .bind(edition.id)
        .bind(subscriber)
        .bind(state)
        .bind(due_at)
        .execute()
        .await?;
    if changed == 0 {
        tx.rollback().await?;
        return Ok(false);
    }
    if how == Resolution::Resend {
        // An issue that was called sent has a copy to send again; time to live begins anew for it.
        tx.query(
            "UPDATE issue SET state = 2, finished_at = NULL, \
             expires_at = MAX(coalesce(expires_at, 0), $2) WHERE id = $1 AND state = 6",
        )
        .bind(edition.id)
        .bind(now.plus(std::time::Duration::from_hours(24)))
        .execute()
        .await?;
    }
    let event = Event::new(EventKind::Resolved, now)
        .about(Some(edition.id), Some(subscriber))
        .because(format!("{word}: {reason}"));
    event::record(&mut tx, &[event]).await?;
    let target = format!("{} {subscriber}", edition.uid);
    let act = Act { actor, action: "delivery.resolve", target: &target, detail: word };
    audit::record(&mut tx, act, now).await?;
    tx.commit().await?;
    Ok(true)
}
