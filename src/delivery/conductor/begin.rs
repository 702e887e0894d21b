//! The beginning of a send: the audience becomes rows, the seed list is released.

use tracing::info;

use super::{Conductor, InMotion};
use crate::{
    config::MissedSchedule,
    db::{self, Db, state::EventKind},
    delivery::{
        gates::{Finding, Gate},
        plan::{self, Plan},
        shedding::Level,
        tallies,
        tally::Tally,
    },
    event::{self, Event},
    fail_point,
    id::IssueId,
    timestamp::Timestamp,
};

impl Conductor {
    pub(super) async fn start_when_due(&self, issue: &InMotion, now: Timestamp) -> db::Result<()> {
        let Some(sends_at) = issue.sends_at.filter(|at| *at <= now) else { return Ok(()) };
        let sending = &self.config.sending;
        if self.shedding.level() >= Level::Stages {
            return Ok(());
        }
        if sending.approval && issue.approved_at.is_none() {
            return Ok(());
        }
        let late = now.since(sends_at);
        if sending.missed_schedule == MissedSchedule::Hold && late > sending.missed_after {
            return self.hold_missed(issue, sends_at, now).await;
        }
        let newsletter = issue.newsletter_id;
        if let Some(grouping) = &self.grouping
            && !grouping.is_done(issue.id, newsletter)
        {
            return Ok(());
        }
        let plan = plan::compute(&self.db, newsletter, &self.config, &self.providers, now).await?;
        plan::queue_copies(&self.db, issue.id, newsletter, &plan, now).await?;
        let tally = tallies::load(&self.db, issue.id).await?;
        let terms =
            Terms { expires_at: now.plus(sending.time_to_live), needs_approval: sending.approval };
        if !begin(&self.db, issue.id, &plan, &tally, terms, now).await? {
            return Ok(());
        }
        fail_point::reach("plan.begun");
        let audience = tally.total().total();
        info!(issue = %issue.id, audience, stages = plan.stages.len(), "an issue's send begins");
        self.tallies.put(issue.id, tally);
        Ok(())
    }

    /// Halts an issue whose time has long passed: nobody was there to begin, and its readers may
    /// not want it at this hour.
    async fn hold_missed(
        &self,
        issue: &InMotion,
        sends_at: Timestamp,
        now: Timestamp,
    ) -> db::Result<()> {
        let said = format!("it was to begin at {sends_at:.0}");
        let finding = Finding::without_figures(Gate::MissedSchedule, issue.stage, said);
        self.halt(issue, finding, now).await
    }
}

/// On what terms a send begins.
#[derive(Debug, Clone, Copy)]
struct Terms {
    expires_at: Timestamp,
    needs_approval: bool,
}

/// Turns a scheduled issue whose copies are queued into a sending one; false when it was undone
/// meanwhile, and then its queued copies are taken back.
async fn begin(
    db: &Db,
    issue: IssueId,
    plan: &Plan,
    tally: &Tally,
    terms: Terms,
    now: Timestamp,
) -> db::Result<bool> {
    let mut tx = db.begin().await?;
    let changed = tx
        .query(
            "UPDATE issue SET state = 2, stage = 0, stage_since = $2, started_at = $2, \
             planned_at = $2, expires_at = $3, plan = $4, \
             first_event_id = (SELECT coalesce(MAX(id), 0) + 1 FROM event) \
             WHERE id = $1 AND state = 1 AND sends_at <= $2 \
             AND ($5 = 0 OR approved_at IS NOT NULL)",
        )
        .bind(issue)
        .bind(now)
        .bind(terms.expires_at)
        .bind(serde_json::to_string(plan).unwrap_or_default())
        .bind(i64::from(terms.needs_approval))
        .execute()
        .await?;
    if changed == 0 {
        tx.query("DELETE FROM delivery WHERE issue_id = $1").bind(issue).execute().await?;
        tx.commit().await?;
        return Ok(false);
    }
    for stage in &plan.stages {
        let size = tally.stage(stage.number).total();
        tx.query(
            "INSERT INTO issue_stage (issue_id, stage, name, size, released_at) \
             VALUES ($1, $2, $3, $4, CASE $2 WHEN 0 THEN $5 END)",
        )
        .bind(issue)
        .bind(stage.number)
        .bind(stage.name.clone())
        .bind(size)
        .bind(now)
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
