//! What people do to an issue's course: ask for its send, approve, undo, pause, halt, widen, resume,
//! cancel; settle an uncertain copy. Each is a conditional change of a row, with its line in the audit
//! log, in one transaction; the conductor and the handoff gate see it at once, in whichever process
//! they run.

mod approval;
mod course;
mod resolution;
mod trigger;

use crate::{
    db::{self, Db, Tx, record::record, state::IssueState},
    id::{IssueId, NewsletterId},
    timestamp::Timestamp,
};

pub use approval::{approve, is_same_person};
pub use course::{Move, change_course, widen};
pub use resolution::{Resolution, resolve, settle_by_evidence};
pub use trigger::{Draft, Scheduled, Trigger, ask, schedule};

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
        /// What gates warned of, a JSON array.
        pub warnings: String,
        /// Its plan at the start, a JSON object.
        pub plan: Option<String>,
        /// Who asked for its send.
        pub asked_by: Option<String>,
        /// Who approved of it.
        pub approved_by: Option<String>,
        /// The stage after which it halts again, when an operator widened a halted send.
        pub hold_after: Option<i64>,
    }
}

const COLUMNS: &str = "SELECT id, uid, newsletter_id, number, subject, state, created_at, \
     sends_at, started_at, expires_at, finished_at, stage, halt, warnings, plan, \
     asked_by, approved_by, hold_after FROM issue ";

/// `SELECT` of [`Edition`]s, with the rest of the statement.
macro_rules! edition_sql {
    ($rest:literal) => {{
        static SQL: std::sync::LazyLock<String> =
            std::sync::LazyLock::new(|| format!("{}{}", $crate::delivery::control::COLUMNS, $rest));
        SQL.as_str()
    }};
}

use edition_sql;

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
    /// A halt is no light matter: whoever ends or makes one says why.
    #[error("say why: the reason is kept in the delivery log and the audit log")]
    NoReason,
    /// Every stage is released.
    #[error("issue {0} has no stage left to release: its last one is under way")]
    NoStage(i64),
    /// Whoever asked for a send approves of it.
    #[error(
        "issue {number} was asked for by {by}, who cannot approve of it too; somebody else has to"
    )]
    OwnSend {
        /// The issue's number.
        number: i64,
        /// Who asked for it.
        by: String,
    },
    /// The key came with another issue or text before.
    #[error(
        "this idempotency key was used for issue {number}{}; \
         nothing was started. Use a key of its own for every send",
        another_text(*.same_number)
    )]
    KeyUsed {
        /// The issue it was used for.
        number: i64,
        /// Whether it is the same issue.
        same_number: bool,
    },
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
}

fn another_text(same_number: bool) -> &'static str {
    if same_number { " with another text" } else { "" }
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

/// The issue with this row, as part of `tx`.
async fn current(tx: &mut Tx, edition: &Edition) -> Result<Edition, ControlError> {
    let found = tx.query(edition_sql!("WHERE id = $1")).bind(edition.id).optional().await?;
    found.ok_or(ControlError::Unknown(edition.number))
}
