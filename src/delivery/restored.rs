//! What is done to a database that was restored from a backup, before any daemon sees it, and to one that
//! was put back by hand, when a daemon finds it older than the mark beside it.
//!
//! A backup knows nothing of the copies that left after it was made, so every send it shows under way
//! may have gone on: going on from there would mail readers twice. So sends are held until an
//! operator, who knows, lets them go on; sends that were only asked for have to be asked for anew.

use tracing::error;

use super::mark::{self, Lineage};
use crate::{
    audit::{self, Act},
    db::{
        self, Db, Tx,
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

const OLDER: &str = "the data file was replaced by an older one: copies that left since are not in this \
     ledger and would be sent a second time; resume only if none did, else cancel";
const OLDER_ASKED_FOR: &str = "the data file was replaced by an older one: the send was taken back; ask \
     for it anew if it did not go out since";

/// Holds every send of a restored database. Returns those that were held or were standing still.
pub async fn hold_sends(db: &Db, actor: &str, now: Timestamp) -> db::Result<Vec<Held>> {
    let mut tx = db.begin().await?;
    let held = hold(&mut tx, (UNDER_WAY, ASKED_FOR), now).await?;
    let detail = format!("{} sends held", held.len());
    let act = Act { actor, action: "database.restore", target: "database", detail: &detail };
    audit::record(&mut tx, act, now).await?;
    tx.commit().await?;
    Ok(held)
}

/// Holds the file of `db` against the mark beside it. When it is behind (an older file was put in its
/// place by hand) every send is held, once. Returns how far the data has come, and whether it was behind.
pub async fn look(db: &Db, kept: Option<&Lineage>, now: Timestamp) -> db::Result<(Lineage, bool)> {
    let lineage = Lineage::of(db).await?;
    let Some(kept) = kept.filter(|kept| lineage.is_behind(Some(kept))) else {
        return Ok((lineage, false));
    };
    let mut tx = db.begin().await?;
    let held = hold(&mut tx, (OLDER, OLDER_ASKED_FOR), now).await?;
    mark::catch_up(&mut tx, kept.handoffs).await?;
    let detail =
        format!("handoff {} of {}: {} sends held", lineage.handoffs, kept.handoffs, held.len());
    let act =
        Act { actor: "postrider", action: "database.older", target: "database", detail: &detail };
    audit::record(&mut tx, act, now).await?;
    tx.commit().await?;
    error!(
        handoffs = lineage.handoffs,
        marked = kept.handoffs,
        held = held.len(),
        "the data file is older than what was sent from it: its sends are held until an operator resumes \
         or cancels them"
    );
    Ok((kept.clone(), true))
}

async fn hold(
    tx: &mut Tx,
    (under_way, asked_for): (&'static str, &'static str),
    now: Timestamp,
) -> db::Result<Vec<Held>> {
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
            IssueState::Scheduled => (IssueState::Draft, asked_for),
            // One that is halted stays so, with its figures.
            IssueState::Halted => (IssueState::Halted, under_way),
            _ => (IssueState::Paused, under_way),
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
        event::record(tx, &[event]).await?;
    }
    webhook::begin_anew(tx).await?;
    Ok(held)
}

/// Why an issue that stands still was held here, if it was and nobody has let it go on since.
pub async fn why_held(db: &Db, issue: IssueId) -> db::Result<Option<&'static str>> {
    let said: Option<Option<String>> = db.query(WHY_HELD).bind(issue).optional_scalar().await?;
    let said = said.flatten();
    Ok([UNDER_WAY, OLDER].into_iter().find(|why| said.as_deref() == Some(*why)))
}

/// Every issue that stands still because of that.
pub async fn still_held(db: &Db) -> db::Result<Vec<(Held, &'static str)>> {
    let standing: Vec<Held> = db
        .query(
            "SELECT i.id, n.slug AS newsletter, i.number, i.state FROM issue i \
             JOIN newsletter n ON n.id = i.newsletter_id WHERE i.state IN (3, 4) \
             AND i.finished_at IS NULL ORDER BY i.id",
        )
        .all()
        .await?;
    let mut held = Vec::new();
    for issue in standing {
        if let Some(why) = why_held(db, issue.id).await? {
            held.push((issue, why));
        }
    }
    Ok(held)
}

/// The last that was said of an issue's standing still or going on.
const WHY_HELD: &str = "SELECT text FROM event INDEXED BY event_by_issue \
     WHERE issue_id = $1 AND kind IN (11, 12, 17) AND kind <> 2 ORDER BY id DESC LIMIT 1";

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
