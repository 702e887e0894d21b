//! The end of a send: nothing remains, time ran out, or it was cancelled.

use tracing::info;

use super::{Conductor, InMotion};
use crate::{
    db::{
        self, Db, Tx,
        state::{CopyState, EventKind, IssueState},
    },
    delivery::{queue, tally::Cell},
    event::{self, Event},
    fail_point,
    id::IssueId,
    timestamp::Timestamp,
};

// An issue that has work again is not done: somebody asked for a copy to be sent again after it was
// counted. The rows are found by the ledger's key.
const FINISH: &str = "UPDATE issue SET state = $2, finished_at = $3, accepted = $4 \
     WHERE id = $1 AND state = 2 AND NOT EXISTS \
     (SELECT 1 FROM delivery WHERE issue_id = $1 AND state IN (0, 1, 2))";
const FINISH_CANCELLED: &str = "UPDATE issue SET finished_at = $2 \
     WHERE id = $1 AND state = 5 AND NOT EXISTS \
     (SELECT 1 FROM delivery WHERE issue_id = $1 AND state IN (0, 1, 2))";

impl Conductor {
    pub(super) async fn expire(&self, issue: IssueId) -> db::Result<()> {
        self.withdraw(issue).await;
        let mut tx = self.db.begin().await?;
        let expired = queue::expire(&mut tx, issue).await?;
        if expired > 0 {
            let event = Event::new(EventKind::Expired, Timestamp::now())
                .about(Some(issue), None)
                .because(format!("{expired} copies were not accepted within the time to live"));
            event::record(&mut tx, &[event]).await?;
        }
        tx.commit().await
    }

    /// Calls an issue sent, if the ledger agrees that nothing remains.
    pub(super) async fn finish_if_done(&self, issue: &InMotion, now: Timestamp) -> db::Result<()> {
        let tally = self.audit(issue, None).await?.total();
        if tally.finished() != tally.total() {
            return Ok(());
        }
        if finish(&self.db, issue.id, &tally, now).await? {
            self.tallies.forget(issue.id);
            info!(issue = %issue.id, outcome = %outcome(&tally), "an issue is sent");
        }
        Ok(())
    }

    pub(super) async fn finish_cancelled(&self, issue: IssueId, now: Timestamp) -> db::Result<()> {
        self.withdraw(issue).await;
        let mut tx = self.db.begin().await?;
        queue::cancel(&mut tx, issue).await?;
        tx.query(FINISH_CANCELLED).bind(issue).bind(now).execute().await?;
        forget_held(&mut tx, issue).await?;
        tx.commit().await?;
        self.tallies.forget(issue);
        Ok(())
    }
}

/// Writes that an issue is sent, as `tally` counts it; false when it has work again, or is not
/// sending any more.
async fn finish(db: &Db, issue: IssueId, tally: &Cell, now: Timestamp) -> db::Result<bool> {
    let mut tx = db.begin().await?;
    let changed = tx
        .query(FINISH)
        .bind(issue)
        .bind(IssueState::Sent)
        .bind(now)
        .bind(tally.get(CopyState::Accepted))
        .execute()
        .await?;
    if changed == 0 {
        tx.rollback().await?;
        return Ok(false);
    }
    let event = Event::new(EventKind::Sent, now).about(Some(issue), None).because(outcome(tally));
    event::record(&mut tx, &[event]).await?;
    forget_held(&mut tx, issue).await?;
    fail_point::reach("issue.before_finish");
    tx.commit().await?;
    fail_point::reach("issue.finished");
    Ok(true)
}

/// At the end nobody is behind.
async fn forget_held(tx: &mut Tx, issue: IssueId) -> db::Result<u64> {
    tx.query("DELETE FROM held_provider WHERE issue_id = $1").bind(issue).execute().await
}

/// How a sent issue went, in the words operators read: `sent: 480 accepted, 3 uncertain`.
pub fn outcome(tally: &Cell) -> String {
    let others = [
        CopyState::Rejected,
        CopyState::Uncertain,
        CopyState::Expired,
        CopyState::Skipped,
        CopyState::Cancelled,
    ];
    let others = others.into_iter().filter(|state| tally.get(*state) > 0);
    std::iter::once(CopyState::Accepted)
        .chain(others)
        .map(|state| format!("{} {state}", tally.get(state)))
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{db::OpenOptions, delivery::tallies};

    const ISSUE: IssueId = IssueId(1);

    /// An issue of two copies, both accepted, among others.
    async fn sent_out() -> (tempfile::TempDir, Db) {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(&OpenOptions::new(folder.path().join("test.db"))).await.unwrap();
        for sql in [
            "INSERT INTO newsletter VALUES \
             (1, 'n', 'sre', 'SRE', '', '', 'a@example.org', '', '', 'en', '', '', NULL, 0)",
            "INSERT INTO issue (id, uid, newsletter_id, number, subject, state, model, source, \
             created_at, stage) VALUES (1, 'i', 1, 1, 'One', 2, '{}', '', 0, 0)",
            "INSERT INTO delivery (issue_id, subscriber_id, state, stage, provider) \
             VALUES (1, 1, 3, 0, 1), (1, 2, 3, 0, 1), (2, 1, 0, 0, 1)",
        ] {
            db.write(sql).execute().await.unwrap();
        }
        (folder, db)
    }

    async fn state(db: &Db) -> (i64, i64) {
        let sql = "SELECT state, (SELECT COUNT(*) FROM event WHERE issue_id = 1) FROM issue";
        db.query(sql).one().await.unwrap()
    }

    #[tokio::test]
    async fn an_issue_that_has_work_again_is_not_called_sent() {
        let (_folder, db) = sent_out().await;
        let now = Timestamp::now();
        let counted = tallies::load(&db, ISSUE).await.unwrap().total();
        assert_eq!(counted.finished(), counted.total());
        // Between the count and the end, a copy is to be sent again, is claimed, is handed off.
        for open in [CopyState::Waiting, CopyState::Claimed, CopyState::HandedOff] {
            let again = "UPDATE delivery SET state = $1 WHERE issue_id = 1 AND subscriber_id = 2";
            db.write(again).bind(open).execute().await.unwrap();
            assert!(!finish(&db, ISSUE, &counted, now).await.unwrap(), "{open}");
            assert_eq!(state(&db).await, (IssueState::Sending as i64, 0), "{open}");
        }
        let done = "UPDATE delivery SET state = 3 WHERE issue_id = 1";
        db.write(done).execute().await.unwrap();
        assert!(finish(&db, ISSUE, &counted, now).await.unwrap());
        assert_eq!(state(&db).await, (IssueState::Sent as i64, 1));
        assert!(!finish(&db, ISSUE, &counted, now).await.unwrap(), "it ends once");
        assert_eq!(state(&db).await, (IssueState::Sent as i64, 1));
    }

    #[tokio::test]
    async fn only_the_copies_of_the_issue_are_looked_at() {
        let (_folder, db) = sent_out().await;
        for sql in [FINISH, FINISH_CANCELLED] {
            let explained: &'static str = Box::leak(format!("EXPLAIN QUERY PLAN {sql}").into());
            let steps: Vec<(i64, i64, i64, String)> = db.query(explained).all().await.unwrap();
            assert!(steps.iter().any(|step| step.3.contains("delivery")), "{steps:?}");
            for (.., detail) in steps {
                assert!(!detail.starts_with("SCAN delivery"), "{detail}\n{sql}");
            }
        }
    }
}
