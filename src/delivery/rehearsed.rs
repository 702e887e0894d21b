//! The ledger of a rehearsal, which is a copy of the real one: what is put out of the way before, and
//! what is read from it afterwards. Nothing here may ever see the real database.

use serde::Serialize;

use crate::{
    db::{self, Db, Tx, record::record, state::EventKind},
    id::{IssueId, NewsletterId},
    timestamp::Timestamp,
};

/// Lets the system write the copy down when it likes: nobody reads it after a loss of power.
pub async fn need_not_last(copy: &Db) -> db::Result<()> {
    copy.write("PRAGMA synchronous = OFF").execute().await?;
    Ok(())
}

/// Makes a copied database ready for one send: whatever else is under way is given up, and the issue
/// with this number is as if it had never been asked for.
pub async fn make_ready(
    copy: &Db,
    newsletter: NewsletterId,
    number: i64,
    now: Timestamp,
) -> db::Result<()> {
    let mut tx = copy.begin().await?;
    tx.query("UPDATE issue SET state = 5, finished_at = $1 WHERE state IN (1, 2, 3, 4)")
        .bind(now)
        .execute()
        .await?;
    for statement in [
        "UPDATE service_mail SET state = 8 WHERE state IN (0, 1, 2)",
        "DELETE FROM rate_limit",
        "DELETE FROM meta WHERE name = 'engine_state'",
    ] {
        tx.query(statement).execute().await?;
    }
    let issue: Option<IssueId> = tx
        .query("SELECT id FROM issue WHERE newsletter_id = $1 AND number = $2")
        .bind(newsletter)
        .bind(number)
        .optional_scalar()
        .await?;
    if let Some(issue) = issue {
        forget(&mut tx, issue).await?;
    }
    tx.commit().await
}

async fn forget(tx: &mut Tx, issue: IssueId) -> db::Result<()> {
    for statement in [
        "DELETE FROM delivery WHERE issue_id = $1",
        "DELETE FROM issue_stage WHERE issue_id = $1",
        "DELETE FROM event WHERE issue_id = $1",
        "DELETE FROM held_provider WHERE issue_id = $1",
        "UPDATE issue SET state = 0, stage = -1, started_at = NULL, finished_at = NULL, \
         sends_at = NULL, expires_at = NULL, halt = NULL, acknowledged = '[]', warnings = '[]', \
         hold_after = NULL, first_event_id = NULL, accepted = NULL WHERE id = $1",
    ] {
        tx.query(statement).bind(issue).execute().await?;
    }
    Ok(())
}

record! {
    /// How many attempts came to one thing within one stretch of time.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Happened {
        /// Which stretch, from 0.
        pub stretch: i64,
        /// What they came to.
        pub kind: EventKind,
        /// How many.
        pub attempts: i64,
    }
}

record! {
    /// Something that happened to the send as a whole.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    pub struct Note {
        /// When.
        #[serde(skip)]
        pub at: Timestamp,
        /// What.
        pub kind: EventKind,
        /// The provider it is about.
        #[serde(skip)]
        pub provider: Option<i64>,
        /// The relay it is about.
        pub relay: Option<String>,
        /// In words.
        pub text: Option<String>,
    }
}

/// What became of copies of `issue` since `begin`, in stretches of so many microseconds.
pub async fn happened(
    copy: &Db,
    issue: IssueId,
    begin: Timestamp,
    stretch_us: i64,
) -> db::Result<Vec<Happened>> {
    copy.query(
        "SELECT max(at - $2, 0) / $3 AS stretch, kind, COUNT(*) AS attempts FROM event \
         WHERE issue_id = $1 AND subscriber_id IS NOT NULL AND kind BETWEEN 2 AND 10 \
         GROUP BY stretch, kind ORDER BY stretch, kind",
    )
    .bind(issue)
    .bind(begin)
    .bind(stretch_us)
    .all()
    .await
}

/// What happened to the send of `issue` as a whole, and to relays meanwhile.
pub async fn notes(copy: &Db, issue: IssueId, begin: Timestamp) -> db::Result<Vec<Note>> {
    copy.query(
        "SELECT at, kind, provider, relay, text FROM event \
         WHERE subscriber_id IS NULL AND service_id IS NULL AND at >= $2 \
         AND (issue_id = $1 OR issue_id IS NULL) AND kind <> 2 ORDER BY id LIMIT 1000",
    )
    .bind(issue)
    .bind(begin)
    .all()
    .await
}
