//! The release of a stage: one row, and one for each provider that stays behind. A stage that an
//! operator let go alone is the last until they say so.

use tracing::info;

use super::{Conductor, InMotion};
use crate::{
    db::{self, state::EventKind},
    delivery::{
        gates::{Finding, Gate},
        queue,
    },
    event::{self, Event},
    fail_point,
    timestamp::Timestamp,
};

impl Conductor {
    pub(super) async fn release_stage(
        &self,
        issue: &InMotion,
        behind: &[i64],
        now: Timestamp,
    ) -> db::Result<()> {
        let next = issue.stage + 1;
        let mut tx = self.db.begin().await?;
        let changed = tx
            .query(
                "UPDATE issue SET stage = $2, stage_since = $3 \
                 WHERE id = $1 AND state = 2 AND stage = $2 - 1",
            )
            .bind(issue.id)
            .bind(next)
            .bind(now)
            .execute()
            .await?;
        if changed == 0 {
            // Somebody changed its course meanwhile.
            return tx.rollback().await;
        }
        queue::stage_released(&mut tx, issue.id, next, now).await?;
        let event = Event::new(EventKind::StageReleased, now)
            .about(Some(issue.id), None)
            .because(format!("stage {next}"));
        let mut events = vec![event];
        for provider in behind {
            events.push(self.hold_provider(&mut tx, issue, *provider, now).await?);
        }
        event::record(&mut tx, &events).await?;
        fail_point::reach("stage.before_release");
        tx.commit().await?;
        fail_point::reach("stage.released");
        info!(issue = %issue.id, stage = next, "a stage was released");
        Ok(())
    }

    /// Halts again after a stage that an operator released alone. It need not soak for that: what
    /// comes back meanwhile is there when somebody looks.
    pub(super) async fn hold_widened(&self, issue: &InMotion, now: Timestamp) -> db::Result<()> {
        let said = format!("stage {} is through; the next one needs an operator", issue.stage);
        let finding = Finding::without_figures(Gate::Widened, issue.stage, said);
        self.halt(issue, finding, now).await
    }
}
