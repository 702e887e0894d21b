//! Keeps the dispatch supplied: claims copies in batches before the connections run out of them,
//! service mail first, then first tries and retries of every sending issue.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use tracing::{debug, error};

use super::{
    clock::Tempo,
    compose::Composer,
    conductor::{Course, InMotion},
    dispatch::{Dispatch, LANE_LOW},
    ledger::{Ledger, Stopped, Wanted},
    queue,
    shedding::{Level, Shedding},
};
use crate::{
    db::{self, Db, state::IssueState},
    id::{CopyId, IssueId, SubscriberId},
    timestamp::Timestamp,
};

/// How often the tables are looked at when nobody asks for more, and at most when time runs faster.
const TICK: Duration = Duration::from_millis(200);
const TICK_MIN: Duration = Duration::from_millis(20);
/// How many copies one claim takes.
const BATCH: u32 = 1024;
/// How soon retries are looked for again when only held-up ones were found.
const DUE_LATER: Duration = Duration::from_secs(5);
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
    /// Providers with a limit of their own: their copies are claimed apart from the others', and so
    /// are those of providers that something holds up.
    pub limited_providers: BTreeSet<i64>,
    /// How fast the send's time runs.
    pub tempo: Tempo,
}

/// How far the first tries of one issue have been claimed: of one provider, or of all that are not
/// claimed apart.
#[derive(Debug, Clone, Copy)]
struct Cursor {
    after: SubscriberId,
    stage: i64,
    exhausted: bool,
}

/// What the feeder remembers between two looks.
#[derive(Default)]
struct Memory {
    cursors: HashMap<(IssueId, Option<i64>), Cursor>,
    apart: BTreeSet<i64>,
    /// When retries are looked for again after a look that found only held-up ones.
    due_later: HashMap<IssueId, Timestamp>,
}

impl Feeder {
    /// Feeds until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut memory = Memory { apart: self.limited_providers.clone(), ..Memory::default() };
        loop {
            // A claim may wait for a database that cannot be written; a stop does not. What was claimed
            // and is not taken any more is released when the daemon signs off, or at the next start.
            let Some(fed) = stop.run_until_cancelled(self.feed(&mut memory)).await else { return };
            match fed {
                Ok(true) => {}
                Ok(false) => {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = self.dispatch.hungry() => {}
                        () = tokio::time::sleep(self.tempo.wait(TICK, TICK_MIN)) => {}
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
    async fn feed(&self, memory: &mut Memory) -> Result<bool, Trouble> {
        self.feed_service().await?;
        if self.shedding.level() >= Level::Issues {
            return Ok(false);
        }
        let issues = self.course.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        memory.cursors.retain(|(id, _), _| issues.iter().any(|issue| issue.id == *id));
        memory.due_later.retain(|id, _| issues.iter().any(|issue| issue.id == *id));
        if issues.is_empty() {
            memory.apart.clone_from(&self.limited_providers);
        }
        for issue in &issues {
            self.composer.set_expiry(issue.id, issue.expires_at.unwrap_or_default());
        }
        self.set_apart(&issues, memory);
        let mut more = false;
        for issue in issues.iter().filter(|issue| issue.state == IssueState::Sending) {
            let apart: Vec<i64> = memory.apart.iter().copied().collect();
            for only in std::iter::once(None).chain(apart.into_iter().map(Some)) {
                more |= self.feed_first(issue, only, memory).await?;
            }
            self.feed_due(issue, memory).await?;
        }
        Ok(more)
    }

    /// Sees who is held up and has to be claimed apart from now on. Those begin where the others
    /// stand: up to there they were claimed together.
    fn set_apart(&self, issues: &[InMotion], memory: &mut Memory) {
        let before = memory.apart.clone();
        memory.apart.extend(issues.iter().flat_map(|issue| issue.held_providers().into_keys()));
        self.dispatch.set_apart(&mut memory.apart);
        for provider in memory.apart.difference(&before) {
            for issue in issues {
                if let Some(common) = memory.cursors.get(&(issue.id, None)).copied() {
                    let cursor = Cursor { exhausted: false, ..common };
                    memory.cursors.insert((issue.id, Some(*provider)), cursor);
                }
            }
        }
    }

    async fn feed_service(&self) -> Result<(), Trouble> {
        let waiting = self.dispatch.service_waiting();
        if waiting >= SERVICE_MAX || !service_mail_is_due(&self.db).await? {
            return Ok(());
        }
        let batch = self.ledger.claim(Wanted::Service, (SERVICE_MAX - waiting) as u32).await?;
        self.composer.remember(batch.mails);
        self.dispatch.add_service(batch.copies);
        Ok(())
    }

    /// Claims first tries of one issue, to one provider or to all that are not claimed apart; whether
    /// there may be more to claim at once.
    async fn feed_first(
        &self,
        issue: &InMotion,
        only: Option<i64>,
        memory: &mut Memory,
    ) -> Result<bool, Trouble> {
        let held = only.and_then(|provider| issue.held_providers().get(&provider).copied());
        let stage = held.unwrap_or(issue.stage);
        let start = Cursor { after: SubscriberId(0), stage, exhausted: false };
        let cursor = memory.cursors.entry((issue.id, only)).or_insert(start);
        if cursor.stage != stage {
            *cursor = start;
        }
        if cursor.exhausted || self.dispatch.waiting(issue.id, only, &memory.apart) >= LANE_LOW {
            return Ok(false);
        }
        let lane = match only {
            Some(provider) => queue::Lane::Provider(provider),
            None => queue::Lane::AllBut(queue::json_array(memory.apart.iter().copied())),
        };
        let wanted = Wanted::First { issue: issue.id, lane, after: cursor.after, stage };
        let batch = self.ledger.claim(wanted, BATCH).await?;
        cursor.exhausted = batch.copies.len() < BATCH as usize;
        if let Some(CopyId::Issue { subscriber, .. }) = batch.copies.last().map(|last| last.copy) {
            cursor.after = subscriber;
        }
        let exhausted = cursor.exhausted;
        debug!(issue = %issue.id, copies = batch.copies.len(), "claimed first tries");
        self.dispatch.add(issue.newsletter_id, batch.copies);
        let waiting = self.dispatch.waiting(issue.id, only, &memory.apart);
        Ok(!exhausted && waiting < LANE_LOW)
    }

    /// Claims retries of one issue, but for providers of which enough wait in memory already.
    async fn feed_due(&self, issue: &InMotion, memory: &mut Memory) -> Result<(), Trouble> {
        let now = Timestamp::now();
        let later = memory.due_later.get(&issue.id).copied();
        if later.is_some_and(|at| at > now && at.since(now) <= DUE_LATER)
            || self.dispatch.waiting(issue.id, None, &memory.apart) >= LANE_LOW
        {
            return Ok(());
        }
        let due = queue::next_due(&self.db, issue.id, issue.stage).await?;
        if due.is_none_or(|due| due > now) {
            return Ok(());
        }
        let is_full = |provider: &i64| {
            self.dispatch.waiting(issue.id, Some(*provider), &memory.apart) >= LANE_LOW
        };
        let full: Vec<i64> = memory.apart.iter().copied().filter(is_full).collect();
        let held_up = !full.is_empty();
        let but = queue::json_array(full);
        let wanted = Wanted::Due { issue: issue.id, but, stage: issue.stage };
        let batch = self.ledger.claim(wanted, BATCH / 2).await?;
        if held_up && batch.copies.is_empty() {
            // The same copies would be passed over again and again.
            memory.due_later.insert(issue.id, now.plus(DUE_LATER));
        }
        self.dispatch.add(issue.newsletter_id, batch.copies);
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
