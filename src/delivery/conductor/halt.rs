//! Halts and warnings: a gate that trips changes one row, which the handoff gate reads.

use std::sync::Arc;

use tracing::warn;

use super::{Conductor, InMotion, Memory, Normal};
use crate::{
    db::{
        self, Db,
        state::{EventKind, IssueState},
    },
    delivery::{
        gates::{self, Finding, Gate, Look},
        history,
        relay::Relay,
        tally::Tally,
    },
    event::{self, Event},
    id::IssueId,
    timestamp::Timestamp,
};

impl Conductor {
    /// Lets the gates judge `issue`; whether it is halted now. Late signals count when `late`.
    pub(super) async fn judge(
        &self,
        issue: &InMotion,
        memory: &mut Memory,
        tally: &Tally,
        late: bool,
        now: Timestamp,
    ) -> db::Result<bool> {
        let since = *memory.sending_since.get_or_insert(now);
        let Normal(normal) = match memory.normal {
            Some(known) => known,
            None => {
                let sample_min = self.config.gates.sample_min;
                let (newsletter, id) = (issue.newsletter_id, issue.id);
                let normal =
                    history::normal_unsubscribes(&self.db, newsletter, id, sample_min).await?;
                *memory.normal.insert(Normal(normal))
            }
        };
        let held = issue.held_providers();
        let look = Look {
            tally,
            stage: issue.stage,
            last_stage: issue.stages - 1,
            held: &held,
            gates: &self.config.gates,
            normal,
            late,
        };
        let halt = self.login_refused(issue, since).or_else(|| self.rule_says_so(issue));
        let halt = halt.or_else(|| {
            let acknowledged: Vec<Finding> =
                serde_json::from_str(&issue.acknowledged).unwrap_or_default();
            gates::check(&look, &acknowledged)
        });
        if let Some(finding) = halt {
            memory.sending_since = None;
            self.halt(issue, finding, now).await?;
            return Ok(true);
        }
        self.warn(issue, &look, now).await?;
        Ok(false)
    }

    fn login_refused(&self, issue: &InMotion, since: Timestamp) -> Option<Finding> {
        let refuses = |relay: &Arc<Relay>| relay.health.login_refused(since);
        if self.relays.is_empty() || !self.relays.iter().all(refuses) {
            return None;
        }
        let replies = self.relays.iter().filter_map(|relay| relay.health.last_failure());
        Some(Finding {
            gate: Gate::RelayLogin,
            provider: None,
            stage: issue.stage,
            hits: self.relays.len() as i64,
            sample: self.relays.len() as i64,
            limit: 0.0,
            replies: replies.map(|failure| failure.what).collect(),
            said: None,
        })
    }

    fn rule_says_so(&self, issue: &InMotion) -> Option<Finding> {
        let count = self.rule_halts.take(issue.id)?;
        Some(Finding {
            gate: Gate::ReplyRule,
            provider: Some(count.provider),
            stage: issue.stage,
            hits: i64::from(count.hits),
            sample: i64::from(count.hits),
            limit: f64::from(count.threshold),
            replies: vec![count.reply],
            said: Some(format!("the rule `{}`", count.rule)),
        })
    }

    /// Writes down what gates warn of and did not before.
    async fn warn(&self, issue: &InMotion, look: &Look<'_>, now: Timestamp) -> db::Result<()> {
        let mut said: Vec<Finding> = serde_json::from_str(&issue.warnings).unwrap_or_default();
        let new = gates::warnings(look, &said);
        if new.is_empty() {
            return Ok(());
        }
        let events: Vec<Event> = new
            .iter()
            .map(|finding| {
                let mut event = Event::new(EventKind::Warned, now)
                    .about(Some(issue.id), None)
                    .because(format!("{} (warns at {} %)", finding.in_words(), finding.limit));
                event.provider = finding.provider;
                event
            })
            .collect();
        for finding in new {
            warn!(
                issue = %issue.id,
                gate = ?finding.gate,
                hits = finding.hits,
                sample = finding.sample,
                "a gate warns"
            );
            // The later figures say more.
            said.retain(|old| (old.gate, old.provider) != (finding.gate, finding.provider));
            said.push(finding);
        }
        let mut tx = self.db.begin().await?;
        tx.query("UPDATE issue SET warnings = $2 WHERE id = $1")
            .bind(issue.id)
            .bind(serde_json::to_string(&said).unwrap_or_default())
            .execute()
            .await?;
        event::record(&mut tx, &events).await?;
        tx.commit().await
    }

    /// Halts an issue, if it is still as it was looked at.
    pub(super) async fn halt(
        &self,
        issue: &InMotion,
        mut finding: Finding,
        now: Timestamp,
    ) -> db::Result<()> {
        if finding.replies.is_empty() && finding.gate.counts() {
            finding.replies = commonest_replies(&self.db, issue.id).await?;
        }
        let json = serde_json::to_string(&finding).unwrap_or_default();
        let mut tx = self.db.begin().await?;
        let changed = tx
            .query(
                "UPDATE issue SET state = $2, halt = $3, hold_after = NULL \
                 WHERE id = $1 AND state = $4 AND stage = $5",
            )
            .bind(issue.id)
            .bind(IssueState::Halted)
            .bind(json)
            .bind(issue.state)
            .bind(issue.stage)
            .execute()
            .await?;
        if changed == 0 {
            return tx.rollback().await;
        }
        let mut event = Event::new(EventKind::Halted, now)
            .about(Some(issue.id), None)
            .because(finding.in_words());
        event.provider = finding.provider;
        event::record(&mut tx, &[event]).await?;
        tx.commit().await?;
        warn!(
            issue = %issue.id,
            gate = ?finding.gate,
            hits = finding.hits,
            sample = finding.sample,
            "an issue is halted"
        );
        self.withdraw(issue.id).await;
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
