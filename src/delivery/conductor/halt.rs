//! Halts: a gate that trips changes one row, which the handoff gate reads.

use std::sync::Arc;

use tracing::warn;

use super::{Conductor, InMotion};
use crate::{
    db::{
        self, Db,
        state::{EventKind, IssueState},
    },
    delivery::{
        connection::Relay,
        gates::{self, Gate, Halt},
        tally::Tally,
    },
    event::{self, Event},
    id::IssueId,
    timestamp::Timestamp,
};

impl Conductor {
    pub(super) fn gate(&self, issue: &InMotion, tally: &Tally, since: Timestamp) -> Option<Halt> {
        let refuses = |relay: &Arc<Relay>| relay.health.login_refused(since);
        if !self.relays.is_empty() && self.relays.iter().all(refuses) {
            let replies = self.relays.iter().filter_map(|relay| relay.health.last_failure());
            return Some(Halt {
                gate: Gate::RelayLogin,
                provider: None,
                stage: issue.stage,
                hits: self.relays.len() as i64,
                sample: self.relays.len() as i64,
                limit: 0.0,
                replies: replies.map(|failure| failure.what).collect(),
            });
        }
        let acknowledged: Vec<Halt> = serde_json::from_str(&issue.acknowledged).unwrap_or_default();
        gates::check(tally, issue.stage, issue.stages - 1, &self.config.gates, &acknowledged)
    }

    pub(super) async fn halt(
        &self,
        issue: IssueId,
        mut halt: Halt,
        now: Timestamp,
    ) -> db::Result<()> {
        if halt.replies.is_empty() {
            halt.replies = commonest_replies(&self.db, issue).await?;
        }
        let json = serde_json::to_string(&halt).unwrap_or_default();
        let mut tx = self.db.begin().await?;
        let changed = tx
            .query("UPDATE issue SET state = $2, halt = $3 WHERE id = $1 AND state = 2")
            .bind(issue)
            .bind(IssueState::Halted)
            .bind(json)
            .execute()
            .await?;
        if changed == 0 {
            return tx.rollback().await;
        }
        let mut event = Event::new(EventKind::Halted, now)
            .about(Some(issue), None)
            .because(format!("{}: {} of {}", halt.gate.describe(), halt.hits, halt.sample));
        event.provider = halt.provider;
        event::record(&mut tx, &[event]).await?;
        tx.commit().await?;
        warn!(
            issue = %issue,
            gate = ?halt.gate,
            hits = halt.hits,
            sample = halt.sample,
            "a gate halted an issue"
        );
        self.withdraw(issue).await;
        Ok(())
    }
}

async fn commonest_replies(db: &Db, issue: IssueId) -> db::Result<Vec<String>> {
    let rows: Vec<(String, i64)> = db
        .query(
            "SELECT coalesce(code || ' ', '') || substr(coalesce(text, ''), 1, 200) AS reply, \
             COUNT(*) AS times \
             FROM event WHERE issue_id = $1 AND kind <> 2 AND kind IN (4, 5) \
             GROUP BY reply ORDER BY times DESC LIMIT 3",
        )
        .bind(issue)
        .all()
        .await?;
    Ok(rows.into_iter().map(|(reply, times)| format!("{reply} ({times} times)")).collect())
}
