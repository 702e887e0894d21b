//! The release of a stage: one row.

use tracing::info;

use super::{Conductor, InMotion};
use crate::{
    db::{self, state::EventKind},
    event::{self, Event},
    timestamp::Timestamp,
};

impl Conductor {
    pub(super) async fn release_stage(&self, issue: &InMotion, now: Timestamp) -> db::Result<()> {
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
        if changed == 1 {
            let event = Event::new(EventKind::StageReleased, now)
                .about(Some(issue.id), None)
                .because(format!("stage {next}"));
            event::record(&mut tx, &[event]).await?;
        }
        tx.commit().await?;
        info!(issue = %issue.id, stage = next, "a stage was released");
        Ok(())
    }
}
