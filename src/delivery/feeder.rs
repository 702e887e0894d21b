//! Keeps the dispatch supplied: claims copies in batches before the connections run out of them,
//! service mail first, then first tries and retries of every sending issue.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use super::{
    compose::Composer,
    conductor::{Course, InMotion},
    dispatch::{Dispatch, LANE_LOW, Lane},
    ledger::{Ledger, Stopped, Wanted},
    queue,
    shedding::{Level, Shedding},
};
use crate::{
    db::{self, Db, state::IssueState},
    id::{CopyId, IssueId, SubscriberId},
    timestamp::Timestamp,
};

/// How often the tables are looked at when nobody asks for more.
const TICK: Duration = Duration::from_millis(200);
/// How many copies one claim takes.
const BATCH: u32 = 1024;
/// How many service mails are held at most.
const SERVICE_MAX: usize = 128;

/// What the feeder works with.
pub struct Feeder {
    /// Where it looks for work.
    pub db: Db,
    /// Where claimed copies go.
    pub dispatch: Arc<Dispatch>,
    /// Where copies are claimed.
    pub ledger: Ledger,
    /// Told what claimed service mails are about.
    pub composer: Arc<Composer>,
    /// Which issues are sending.
    pub course: Course,
    /// Whether copies of issues may be claimed.
    pub shedding: Arc<Shedding>,
    /// Providers with a limit of their own, each a lane.
    pub limited_providers: Vec<i64>,
}

/// How far the first tries of one issue have been claimed in one lane.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    after: SubscriberId,
    stage: i64,
    exhausted: bool,
}

impl Feeder {
    /// Feeds until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut cursors: HashMap<(IssueId, Option<i64>), Cursor> = HashMap::new();
        loop {
            match self.feed(&mut cursors).await {
                Ok(true) => {}
                Ok(false) => {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = self.dispatch.hungry() => {}
                        () = tokio::time::sleep(TICK) => {}
                    }
                }
                Err(Trouble::Stopped) => return,
                Err(Trouble::Database(problem)) => {
                    error!(error = %problem, "work cannot be looked for");
                    tokio::time::sleep(TICK).await;
                }
            }
            if stop.is_cancelled() {
                return;
            }
        }
    }

    /// Claims what is wanted; whether there may be more to claim at once.
    async fn feed(
        &self,
        cursors: &mut HashMap<(IssueId, Option<i64>), Cursor>,
    ) -> Result<bool, Trouble> {
        self.feed_service().await?;
        if self.shedding.level() >= Level::Issues {
            return Ok(false);
        }
        let issues = self.course.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        cursors.retain(|(id, _), _| issues.iter().any(|issue| issue.id == *id));
        let mut more = false;
        for issue in issues.iter().filter(|issue| issue.state == IssueState::Sending) {
            let others = std::iter::once(None);
            for key in self.limited_providers.iter().copied().map(Some).chain(others) {
                more |= self.feed_lane(issue, key, cursors).await?;
            }
            self.feed_due(issue).await?;
        }
        Ok(more)
    }

    async fn feed_service(&self) -> Result<(), Trouble> {
        let waiting = self.dispatch.waiting_in(Lane::Service);
        if waiting >= SERVICE_MAX || !service_mail_is_due(&self.db).await? {
            return Ok(());
        }
        let batch = self.ledger.claim(Wanted::Service, (SERVICE_MAX - waiting) as u32).await?;
        self.composer.remember(batch.mails);
        self.dispatch.add(Lane::Service, batch.copies);
        Ok(())
    }

    /// Fills one lane with first tries of one issue; whether it may want more at once.
    async fn feed_lane(
        &self,
        issue: &InMotion,
        key: Option<i64>,
        cursors: &mut HashMap<(IssueId, Option<i64>), Cursor>,
    ) -> Result<bool, Trouble> {
        let start = Cursor { after: SubscriberId(0), stage: issue.stage, exhausted: false };
        let cursor = cursors.entry((issue.id, key)).or_insert(start);
        if cursor.stage != issue.stage {
            *cursor = start;
        }
        let lane = Lane::Issues(key);
        if cursor.exhausted || self.dispatch.waiting_in(lane) >= LANE_LOW {
            return Ok(false);
        }
        let claimed_lane = match key {
            Some(provider) => queue::Lane::Provider(provider),
            None => queue::Lane::AllBut(queue::json_array(self.limited_providers.iter().copied())),
        };
        let wanted = Wanted::First {
            issue: issue.id,
            lane: claimed_lane,
            after: cursor.after,
            stage: issue.stage,
        };
        let batch = self.ledger.claim(wanted, BATCH).await?;
        cursor.exhausted = batch.copies.len() < BATCH as usize;
        if let Some(CopyId::Issue { subscriber, .. }) = batch.copies.last().map(|last| last.copy) {
            cursor.after = subscriber;
        }
        debug!(issue = %issue.id, copies = batch.copies.len(), "claimed first tries");
        self.dispatch.add(lane, batch.copies);
        Ok(!cursor.exhausted && self.dispatch.waiting_in(lane) < LANE_LOW)
    }

    async fn feed_due(&self, issue: &InMotion) -> Result<(), Trouble> {
        let lanes = self.limited_providers.iter().copied().map(Some).chain([None]);
        let waiting: usize = lanes.map(|key| self.dispatch.waiting_in(Lane::Issues(key))).sum();
        if waiting >= 4 * LANE_LOW {
            return Ok(());
        }
        let due = queue::next_due(&self.db, issue.id, issue.stage).await?;
        if due.is_none_or(|due| due > Timestamp::now()) {
            return Ok(());
        }
        let wanted = Wanted::Due { issue: issue.id, stage: issue.stage };
        let batch = self.ledger.claim(wanted, BATCH / 2).await?;
        let mut by_lane: HashMap<Lane, Vec<_>> = HashMap::new();
        for copy in batch.copies {
            by_lane.entry(self.dispatch.lane_of(copy.provider)).or_default().push(copy);
        }
        for (lane, copies) in by_lane {
            self.dispatch.add(lane, copies);
        }
        Ok(())
    }
}

async fn service_mail_is_due(db: &Db) -> db::Result<bool> {
    let due: i64 = db
        .query(
            "SELECT EXISTS (SELECT 1 FROM service_mail INDEXED BY service_mail_due \
             WHERE state = 0 AND due_at <= $1)",
        )
        .bind(Timestamp::now())
        .scalar()
        .await?;
    Ok(due != 0)
}

enum Trouble {
    Stopped,
    Database(sqlx::Error),
}

impl From<Stopped> for Trouble {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

impl From<sqlx::Error> for Trouble {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}
