//! The beginning of a send: the audience becomes rows, the seed list is released.

use tracing::info;

use super::{Conductor, InMotion};
use crate::{
    db::{self, Db, state::EventKind},
    delivery::{
        plan::{self, Plan},
        tallies,
        tally::Tally,
    },
    event::{self, Event},
    id::IssueId,
    timestamp::Timestamp,
};

impl Conductor {
    pub(super) async fn start_when_due(&self, issue: &InMotion, now: Timestamp) -> db::Result<()> {
        if issue.sends_at.is_none_or(|at| at > now) {
            return Ok(());
        }
        let newsletter = issue.newsletter_id;
        let plan = plan::compute(&self.db, newsletter, &self.config, &self.providers, now).await?;
        let audience = plan::queue_copies(&self.db, issue.id, newsletter, &plan, now).await?;
        let tally = tallies::load(&self.db, issue.id).await?;
        let expires_at = now.plus(self.config.sending.time_to_live);
        if !begin(&self.db, issue.id, &plan, &tally, expires_at, now).await? {
            return Ok(());
        }
        info!(issue = %issue.id, audience, stages = plan.stages.len(), "an issue's send begins");
        self.tallies.put(issue.id, tally);
        Ok(())
    }
}

/// Turns a scheduled issue whose copies are queued into a sending one; false when it was undone
/// meanwhile, and then its queued copies are taken back.
async fn begin(
    db: &Db,
    issue: IssueId,
    plan: &Plan,
    tally: &Tally,
    expires_at: Timestamp,
    now: Timestamp,
) -> db::Result<bool> {
    let mut tx = db.begin().await?;
    let changed = tx
        .query(
            "UPDATE issue SET state = 2, stage = 0, stage_since = $2, started_at = $2, \
             planned_at = $2, expires_at = $3, plan = $4, \
             first_event_id = (SELECT coalesce(MAX(id), 0) + 1 FROM event) \
             WHERE id = $1 AND state = 1 AND sends_at <= $2",
        )
        .bind(issue)
        .bind(now)
        .bind(expires_at)
        .bind(serde_json::to_string(plan).unwrap_or_default())
        .execute()
        .await?;
    if changed == 0 {
        tx.query("DELETE FROM delivery WHERE issue_id = $1").bind(issue).execute().await?;
        tx.commit().await?;
        return Ok(false);
    }
    for stage in &plan.stages {
        let size = tally.stage(stage.number).total();
        tx.query("INSERT INTO issue_stage (issue_id, stage, name, size) VALUES ($1, $2, $3, $4)")
            .bind(issue)
            .bind(stage.number)
            .bind(stage.name.clone())
            .bind(size)
            .execute()
            .await?;
    }
    let event = Event::new(EventKind::StageReleased, now)
        .about(Some(issue), None)
        .because("the send begins with the seed list");
    event::record(&mut tx, &[event]).await?;
    tx.commit().await?;
    Ok(true)
}
