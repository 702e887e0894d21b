//! The course of every issue in motion: start when its time has come, release stage after stage,
//! halt when a gate trips, expire what was not taken in time, finish when nothing remains.
//!
//! All of it is read from and written to rows, so that a restart goes on where things stood, and
//! another process (the command line) changes the course by changing a row. A release or a halt is
//! one UPDATE that the handoff gate reads.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
    time::Duration,
};

use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    connection::Relay,
    dispatch::Dispatch,
    gates::{self, Gate, Halt},
    ledger::Ledger,
    plan::{self, Plan},
    queue,
    tallies::{self, Tallies},
    tally::Tally,
};
use crate::{
    config::Config,
    db::{
        self, Db,
        record::record,
        state::{CopyState, EventKind, IssueState},
    },
    event::{self, Event},
    id::{IssueId, NewsletterId},
    provider::Providers,
    telemetry::Metrics,
    timestamp::Timestamp,
};

/// How often the course is looked at when nothing calls for it.
const TICK: Duration = Duration::from_millis(250);
/// How often counts in memory are compared with the ledger.
const AUDIT: Duration = Duration::from_secs(30);
/// The share of a stage that has to be decided before its soak time begins, in percent.
const DECIDED_PERCENT: i64 = 95;

record! {
    /// An issue whose copies may be on their way.
    #[derive(Debug, Clone)]
    pub struct InMotion {
        /// The issue.
        pub id: IssueId,
        /// Its newsletter.
        pub newsletter_id: NewsletterId,
        /// Its number.
        pub number: i64,
        /// How far it has come.
        pub state: IssueState,
        /// The last released stage.
        pub stage: i64,
        /// How many stages it has; 0 before it started.
        pub stages: i64,
        /// When its first copy may leave.
        pub sends_at: Option<Timestamp>,
        /// When its send began.
        pub started_at: Option<Timestamp>,
        /// When its copies are given up.
        pub expires_at: Option<Timestamp>,
        /// Halts that an operator resumed, a JSON array.
        pub acknowledged: String,
    }
}

/// Issues in motion as the feeder sees them.
pub type Course = Arc<RwLock<Vec<InMotion>>>;

/// What the conductor works with.
pub struct Conductor {
    /// Where the rows are.
    pub db: Db,
    /// Stages, gates, times.
    pub config: Arc<Config>,
    /// Names for the plan.
    pub providers: Arc<Providers>,
    /// Copies in memory, to be withdrawn when an issue stops.
    pub dispatch: Arc<Dispatch>,
    /// Where withdrawn copies go back to.
    pub ledger: Ledger,
    /// The counts that gates read.
    pub tallies: Arc<Tallies>,
    /// The relays, for the gate that watches logins.
    pub relays: Vec<Arc<Relay>>,
    /// Told what is in motion.
    pub course: Course,
    /// Told since when.
    pub metrics: Arc<Metrics>,
    /// Rung when a row was changed in this process.
    pub bell: Arc<tokio::sync::Notify>,
}

/// What is remembered of an issue between two looks.
#[derive(Default)]
struct Memory {
    /// Since when it goes on; what relays said before that a person has seen.
    sending_since: Option<Timestamp>,
    /// The stage whose soak time runs, and since when.
    soaking: Option<(i64, Timestamp)>,
    audited_at: Timestamp,
}

impl Conductor {
    /// Looks at every issue in motion until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut memories: HashMap<IssueId, Memory> = HashMap::new();
        loop {
            if let Err(problem) = self.look(&mut memories).await {
                error!(error = %problem, "the course of issues cannot be read or written");
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(TICK) => {}
                () = self.bell.notified() => {}
            }
        }
    }

    async fn look(&self, memories: &mut HashMap<IssueId, Memory>) -> db::Result<()> {
        let issues = in_motion(&self.db).await?;
        memories.retain(|id, _| issues.iter().any(|issue| issue.id == *id));
        let now = Timestamp::now();
        for issue in &issues {
            let memory = memories.entry(issue.id).or_default();
            match issue.state {
                IssueState::Scheduled => self.start_when_due(issue, now).await?,
                IssueState::Sending => self.conduct(issue, memory, now).await?,
                IssueState::Paused | IssueState::Halted => {
                    memory.sending_since = None;
                    self.withdraw(issue.id).await;
                }
                IssueState::Cancelled => self.finish_cancelled(issue.id, now).await?,
                IssueState::Draft | IssueState::Sent => {}
            }
        }
        let issues = in_motion(&self.db).await?;
        self.metrics.follow(issues.iter().filter_map(|issue| Some((issue.id, issue.started_at?))));
        *self.course.write().unwrap_or_else(std::sync::PoisonError::into_inner) = issues;
        self.dispatch.wake_feeder();
        Ok(())
    }

    async fn start_when_due(&self, issue: &InMotion, now: Timestamp) -> db::Result<()> {
        if issue.sends_at.is_none_or(|at| at > now) {
            return Ok(());
        }
        let newsletter = issue.newsletter_id;
        let plan = plan::compute(&self.db, newsletter, &self.config, &self.providers, now).await?;
        let audience = plan::queue_copies(&self.db, issue.id, newsletter, &plan, now).await?;
        let sizes = stage_sizes(&self.db, issue.id).await?;
        let expires_at = now.plus(self.config.sending.time_to_live);
        if !begin(&self.db, issue.id, &plan, &sizes, expires_at, now).await? {
            return Ok(());
        }
        info!(issue = %issue.id, audience, stages = plan.stages.len(), "an issue's send begins");
        self.tallies.put(issue.id, tallies::load(&self.db, issue.id).await?);
        Ok(())
    }

    async fn conduct(
        &self,
        issue: &InMotion,
        memory: &mut Memory,
        now: Timestamp,
    ) -> db::Result<()> {
        let audit = now.since(memory.audited_at) >= AUDIT;
        let tally = match self.tallies.get(issue.id) {
            Some(tally) if !audit => tally,
            before => {
                memory.audited_at = now;
                self.audit(issue, before).await?
            }
        };
        let since = *memory.sending_since.get_or_insert(now);
        if let Some(halt) = self.gate(issue, &tally, since) {
            memory.sending_since = None;
            return self.halt(issue.id, halt, now).await;
        }
        if issue.expires_at.is_some_and(|at| at <= now) {
            self.expire(issue.id).await?;
            return self.finish_if_done(issue, now).await;
        }
        let released = tally.up_to_stage(issue.stage);
        let stage_cell = tally.stage(issue.stage);
        if issue.stage + 1 >= issue.stages {
            if released.finished() == released.total() {
                return self.finish_if_done(issue, now).await;
            }
            return Ok(());
        }
        let decided = stage_cell.finished() * 100 >= stage_cell.total() * DECIDED_PERCENT;
        if !decided {
            memory.soaking = None;
            return Ok(());
        }
        let soaking_since = match memory.soaking {
            Some((stage, since)) if stage == issue.stage => since,
            _ => {
                memory.soaking = Some((issue.stage, now));
                now
            }
        };
        let empty = stage_cell.total() == stage_cell.get(CopyState::Skipped);
        if empty || now.since(soaking_since) >= self.config.sending.soak {
            // Late signals first: complaints that came in while the stage soaked.
            let tally = self.audit(issue, None).await?;
            if let Some(halt) = self.gate(issue, &tally, since) {
                memory.sending_since = None;
                return self.halt(issue.id, halt, now).await;
            }
            self.release_stage(issue, now).await?;
        }
        Ok(())
    }

    /// Counts the ledger anew, and says so when the equation does not hold.
    async fn audit(&self, issue: &InMotion, before: Option<Tally>) -> db::Result<Tally> {
        let tally = tallies::load(&self.db, issue.id).await?;
        let audience: i64 = stage_total(&self.db, issue.id).await?;
        if tally.total().total() != audience {
            error!(
                issue = %issue.id,
                audience,
                counted = tally.total().total(),
                "the audience equation does not hold: copies were lost or added"
            );
        }
        if let Some(before) = before
            && before.total().finished() > tally.total().finished()
        {
            warn!(issue = %issue.id, "counts in memory were ahead of the ledger");
        }
        self.tallies.put(issue.id, tally.clone());
        Ok(tally)
    }

    fn gate(&self, issue: &InMotion, tally: &Tally, since: Timestamp) -> Option<Halt> {
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

    async fn halt(&self, issue: IssueId, mut halt: Halt, now: Timestamp) -> db::Result<()> {
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

    async fn withdraw(&self, issue: IssueId) {
        let copies = self.dispatch.withdraw(issue);
        // A ledger that has stopped releases every claim when the daemon ends.
        let _ = self.ledger.release(copies).await;
    }

    async fn release_stage(&self, issue: &InMotion, now: Timestamp) -> db::Result<()> {
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

    async fn expire(&self, issue: IssueId) -> db::Result<()> {
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
    async fn finish_if_done(&self, issue: &InMotion, now: Timestamp) -> db::Result<()> {
        let tally = self.audit(issue, None).await?.total();
        if tally.finished() != tally.total() {
            return Ok(());
        }
        let mut tx = self.db.begin().await?;
        let changed = tx
            .query("UPDATE issue SET state = $2, finished_at = $3 WHERE id = $1 AND state = 2")
            .bind(issue.id)
            .bind(IssueState::Sent)
            .bind(now)
            .execute()
            .await?;
        if changed == 1 {
            let event = Event::new(EventKind::Sent, now)
                .about(Some(issue.id), None)
                .because(outcome(&tally));
            event::record(&mut tx, &[event]).await?;
        }
        tx.commit().await?;
        self.tallies.forget(issue.id);
        info!(issue = %issue.id, outcome = %outcome(&tally), "an issue is sent");
        Ok(())
    }

    async fn finish_cancelled(&self, issue: IssueId, now: Timestamp) -> db::Result<()> {
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
        tx.commit().await?;
        self.tallies.forget(issue);
        Ok(())
    }
}

/// How a sent issue went, in the words operators read: `sent: 480 accepted, 3 uncertain`.
pub fn outcome(tally: &super::tally::Cell) -> String {
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

/// Every issue whose copies may be on their way.
pub async fn in_motion(db: &Db) -> db::Result<Vec<InMotion>> {
    db.query(
        "SELECT id, newsletter_id, number, state, stage, sends_at, started_at, expires_at, \
         acknowledged, (SELECT COUNT(*) FROM issue_stage WHERE issue_id = issue.id) AS stages \
         FROM issue INDEXED BY issue_in_motion \
         WHERE state > 0 AND finished_at IS NULL ORDER BY id",
    )
    .all()
    .await
}

async fn stage_sizes(db: &Db, issue: IssueId) -> db::Result<Vec<(i64, i64)>> {
    db.query("SELECT stage, COUNT(*) FROM delivery WHERE issue_id = $1 GROUP BY stage")
        .bind(issue)
        .all()
        .await
}

async fn stage_total(db: &Db, issue: IssueId) -> db::Result<i64> {
    db.query("SELECT coalesce(SUM(size), 0) FROM issue_stage WHERE issue_id = $1")
        .bind(issue)
        .scalar()
        .await
}

/// Turns a scheduled issue whose copies are queued into a sending one; false when it was undone
/// meanwhile, and then its queued copies are taken back.
async fn begin(
    db: &Db,
    issue: IssueId,
    plan: &Plan,
    sizes: &[(i64, i64)],
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
        let size = sizes.iter().find(|(number, _)| *number == stage.number).map_or(0, |row| row.1);
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
