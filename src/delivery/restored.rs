//! What is done to a database that was restored from a backup, before any daemon sees it.
//!
//! A backup knows nothing of the copies that left after it was made, so every send it shows under way
//! may have gone on: going on from there would mail readers twice. So sends are held until an
//! operator, who knows, lets them go on; sends that were only asked for have to be asked for anew.

use crate::{
    audit::{self, Act},
    db::{
        self, Db,
        record::record,
        state::{EventKind, IssueState},
    },
    event::{self, Event},
    id::IssueId,
    timestamp::Timestamp,
    webhook,
};

record! {
    /// An issue whose send was under way, or asked for, when the backup was made.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Held {
        /// Its row.
        pub id: IssueId,
        /// Its newsletter's slug.
        pub newsletter: String,
        /// Its number.
        pub number: i64,
        /// How far it had come; a scheduled one is a draft again, others are paused.
        pub state: IssueState,
    }
}

const UNDER_WAY: &str = "restored from a backup: copies that left after the backup was made are not \
     in this ledger and would be sent a second time; resume only if none did, else cancel";
const ASKED_FOR: &str = "restored from a backup: the send was taken back; ask for it anew if it did \
     not go out since the backup was made";

/// Holds every send of a restored database. Returns those that were held or were standing still.
pub async fn hold_sends(db: &Db, actor: &str, now: Timestamp) -> db::Result<Vec<Held>> {
    let mut tx = db.begin().await?;
    let held: Vec<Held> = tx
        .query(
            "SELECT i.id, n.slug AS newsletter, i.number, i.state FROM issue i \
             JOIN newsletter n ON n.id = i.newsletter_id \
             WHERE i.state IN (1, 2, 3, 4) ORDER BY i.id",
        )
        .all()
        .await?;
    for issue in &held {
        let (state, why) = match issue.state {
            IssueState::Scheduled => (IssueState::Draft, ASKED_FOR),
            // One that is halted stays so, with its figures.
            IssueState::Halted => (IssueState::Halted, UNDER_WAY),
            _ => (IssueState::Paused, UNDER_WAY),
        };
        tx.query(
            "UPDATE issue SET state = $2, \
             sends_at = CASE WHEN $2 = 0 THEN NULL ELSE sends_at END WHERE id = $1",
        )
        .bind(issue.id)
        .bind(state)
        .execute()
        .await?;
        let event = Event::new(EventKind::Paused, now).about(Some(issue.id), None).because(why);
        event::record(&mut tx, &[event]).await?;
    }
    webhook::begin_anew(&mut tx).await?;
    let detail = format!("{} sends held", held.len());
    let act = Act { actor, action: "database.restore", target: "database", detail: &detail };
    audit::record(&mut tx, act, now).await?;
    tx.commit().await?;
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::OpenOptions;

    #[tokio::test]
    async fn no_send_of_a_restored_database_goes_on_by_itself() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(&OpenOptions::new(folder.path().join("test.db"))).await.unwrap();
        db.write(
            "INSERT INTO newsletter VALUES \
             (1, 'u', 'sre', 'SRE', '', 'SRE', 'a@b.example', '', '', 'en', '', '', NULL, 0)",
        )
        .execute()
        .await
        .unwrap();
        for state in IssueState::ALL {
            db.write(
                "INSERT INTO issue (uid, newsletter_id, number, subject, state, model, source, \
                 created_at, sends_at) VALUES ($1, 1, $2, '', $2, '', '', 0, 5)",
            )
            .bind(state.as_str())
            .bind(*state)
            .execute()
            .await
            .unwrap();
        }
        let held = hold_sends(&db, "test", Timestamp::default()).await.unwrap();
        let numbers: Vec<i64> = held.iter().map(|issue| issue.number).collect();
        assert_eq!(numbers, [1, 2, 3, 4]);
        let states: Vec<(i64, i64)> =
            db.query("SELECT number, state FROM issue ORDER BY number").all().await.unwrap();
        assert_eq!(states, [(0, 0), (1, 0), (2, 3), (3, 3), (4, 4), (5, 5), (6, 6)]);
        let events: i64 =
            db.query("SELECT count(*) FROM event WHERE kind = 17").scalar().await.unwrap();
        assert_eq!(events, 4);
    }
}
