//! The end of a send: nothing remains, time ran out, or it was cancelled.

use tracing::info;

use super::{Conductor, InMotion};
use crate::{
    db::{
        self, Tx,
        state::{CopyState, EventKind, IssueState},
    },
    delivery::{queue, tally::Cell},
    event::{self, Event},
    fail_point,
    id::IssueId,
    timestamp::Timestamp,
};

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
        let mut tx = self.db.begin().await?;
        let changed = tx
            .query(
                "UPDATE issue SET state = $2, finished_at = $3, accepted = $4 \
                 WHERE id = $1 AND state = 2",
            )
            .bind(issue.id)
            .bind(IssueState::Sent)
            .bind(now)
            .bind(tally.get(CopyState::Accepted))
            .execute()
            .await?;
        if changed == 1 {
            let event = Event::new(EventKind::Sent, now)
                .about(Some(issue.id), None)
                .because(outcome(&tally));
            event::record(&mut tx, &[event]).await?;
            forget_held(&mut tx, issue.id).await?;
        }
        fail_point::reach("issue.before_finish");
        tx.commit().await?;
        fail_point::reach("issue.finished");
        self.tallies.forget(issue.id);
        info!(issue = %issue.id, outcome = %outcome(&tally), "an issue is sent");
        Ok(())
    }

    pub(super) async fn finish_cancelled(&self, issue: IssueId, now: Timestamp) -> db::Result<()> {
        self.withdraw(issue).await;
        let mut tx = self.db.begin().await?;
        queue::cancel(&mut tx, issue).await?;
        tx.query(
            "UPDATE issue SET finished_at = $2 WHERE id = $1 AND state = 5 AND NOT EXISTS \
             (SELECT 1 FROM delivery WHERE issue_id = $1 AND state IN (0, 1, 2))",
        )
        .bind(issue)
        .bind(now)
        .execute()
        .await?;
        forget_held(&mut tx, issue).await?;
        tx.commit().await?;
        self.tallies.forget(issue);
        Ok(())
    }
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
