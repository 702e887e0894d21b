//! The course of every issue in motion: start when its time has come, release stage after stage,
//! halt when a gate trips, expire what was not taken in time, finish when nothing remains.
//!
//! All of it is read from and written to rows, so that a restart goes on where things stood, and
//! another process (the command line) changes the course by changing a row. A release or a halt is
//! one UPDATE that the handoff gate reads.

mod begin;
mod end;
mod halt;
mod motion;
mod release;
mod stay;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

pub use self::{
    end::outcome,
    motion::{Course, InMotion, in_motion},
};
use super::{
    clock::Tempo,
    dispatch::Dispatch,
    grouping::Grouping,
    ledger::Ledger,
    relay::Relay,
    rule_halts::RuleHalts,
    shedding::{Level, Shedding},
    tallies::Tallies,
    tally::{Cell, Tally},
};
use crate::{
    config::Config,
    db::{
        self, Db,
        state::{CopyState, IssueState},
    },
    id::IssueId,
    provider::Providers,
    telemetry::Metrics,
    timestamp::Timestamp,
};

/// How often the course is looked at when nothing calls for it, and at most when time runs faster.
const TICK: Duration = Duration::from_millis(250);
const TICK_MIN: Duration = Duration::from_millis(20);
/// How often counts in memory are compared with the ledger.
const AUDIT: Duration = Duration::from_secs(30);

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
    /// Halts that reply rules ask for.
    pub rule_halts: Arc<RuleHalts>,
    /// Finds the providers of domains before an issue begins, where that is asked for.
    pub grouping: Option<Arc<Grouping>>,
    /// The relays, for the gate that watches logins.
    pub relays: Vec<Arc<Relay>>,
    /// Told what is in motion.
    pub course: Course,
    /// Told since when.
    pub metrics: Arc<Metrics>,
    /// Whether sends may grow.
    pub shedding: Arc<Shedding>,
    /// Rung when a row was changed in this process.
    pub bell: Arc<tokio::sync::Notify>,
    /// How fast the send's time runs.
    pub tempo: Tempo,
}

/// What is remembered of an issue between two looks.
#[derive(Default)]
struct Memory {
    /// Since when it goes on; what relays said before that a person has seen.
    sending_since: Option<Timestamp>,
    /// The stage whose soak time runs, and since when: of the issue, and of each provider that stays
    /// behind. By a clock that nobody sets.
    soaking: HashMap<Option<i64>, (i64, Instant)>,
    /// The providers that have put off every undecided copy of the last stage.
    put_off: (i64, BTreeSet<i64>),
    /// What is normal for its newsletter, once that was looked up.
    normal: Option<Normal>,
    /// When its copies were counted last, by a clock that nobody sets.
    audited_at: Option<Instant>,
}

/// The share of readers who usually leave after an issue, in percent, if that is known.
#[derive(Debug, Clone, Copy)]
struct Normal(Option<f64>);

impl Conductor {
    /// Looks at every issue in motion until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut memories: HashMap<IssueId, Memory> = HashMap::new();
        loop {
            // A look may wait for a database that cannot be written; a stop does not. What it leaves
            // half done is undone, as after a crash.
            match stop.run_until_cancelled(self.look(&mut memories)).await {
                None => return,
                Some(Ok(())) => {}
                Some(Err(problem)) => {
                    error!(error = %problem, "the course of issues cannot be read or written");
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.tempo.wait(TICK, TICK_MIN)) => {}
                () = self.bell.notified() => {}
            }
        }
    }

    async fn look(&self, memories: &mut HashMap<IssueId, Memory>) -> db::Result<()> {
        let issues = in_motion(&self.db).await?;
        memories.retain(|id, _| issues.iter().any(|issue| issue.id == *id));
        let now = Timestamp::now();
        for issue in &issues {
            self.dispatch.limit_newsletter(issue.newsletter_id, issue.per_second);
            let memory = memories.entry(issue.id).or_default();
            // What is wrong with one issue stops neither the others nor what the feeder is told.
            if let Err(problem) = self.look_at(issue, memory, now).await {
                error!(
                    issue = %issue.id,
                    error = %problem,
                    "the course of an issue cannot be read or written; it is tried again"
                );
            }
        }
        let issues = in_motion(&self.db).await?;
        *self.course.write().unwrap_or_else(std::sync::PoisonError::into_inner) = issues;
        self.dispatch.wake_feeder();
        Ok(())
    }

    async fn look_at(
        &self,
        issue: &InMotion,
        memory: &mut Memory,
        now: Timestamp,
    ) -> db::Result<()> {
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
        Ok(())
    }

    async fn conduct(
        &self,
        issue: &InMotion,
        memory: &mut Memory,
        now: Timestamp,
    ) -> db::Result<()> {
        let audit = memory.audited_at.is_none_or(|at| at.elapsed() >= AUDIT);
        let tally = match self.tallies.get(issue.id) {
            Some(tally) if !audit => tally,
            before => {
                memory.audited_at = Some(Instant::now());
                self.audit(issue, before).await?
            }
        };
        if self.judge(issue, memory, &tally, audit, now).await? {
            return Ok(());
        }
        if issue.expires_at.is_some_and(|at| at <= now) {
            self.expire(issue.id).await?;
            return self.finish_if_done(issue, now).await;
        }
        if self.catch_up(issue, memory, &tally, now).await? {
            return Ok(());
        }
        if issue.stage + 1 >= issue.stages {
            let released = tally.up_to_stage(issue.stage);
            if released.finished() == released.total() {
                return self.finish_if_done(issue, now).await;
            }
            return Ok(());
        }
        if self.behind(issue, memory, &tally).is_none() {
            memory.soaking.remove(&None);
            return Ok(());
        }
        if issue.hold_after.is_some_and(|stage| stage <= issue.stage) {
            return self.hold_widened(issue, now).await;
        }
        if self.shedding.level() >= Level::Stages {
            return Ok(());
        }
        if !self.has_soaked(memory, None, issue.stage, &tally.stage(issue.stage)) {
            return Ok(());
        }
        // Late signals first: what came in while the stage soaked.
        let tally = self.audit(issue, None).await?;
        if self.judge(issue, memory, &tally, true, now).await? {
            return Ok(());
        }
        let Some(behind) = self.behind(issue, memory, &tally) else { return Ok(()) };
        if self.halt_if_blamed(issue, &behind, &tally, now).await? {
            return Ok(());
        }
        self.release_stage(issue, &behind, now).await
    }

    /// Whether a stage that is decided, by all or `only` by a provider that stays behind, was watched
    /// for long enough.
    fn has_soaked(&self, memory: &mut Memory, only: Option<i64>, stage: i64, cell: &Cell) -> bool {
        let begun = memory.soaking.entry(only).or_insert_with(|| (stage, Instant::now()));
        if begun.0 != stage {
            *begun = (stage, Instant::now());
        }
        let empty = cell.total() == cell.get(CopyState::Skipped);
        empty || begun.1.elapsed() >= self.config.sending.soak
    }

    /// Counts the ledger anew, and says so when the equation does not hold.
    async fn audit(&self, issue: &InMotion, before: Option<Tally>) -> db::Result<Tally> {
        let tally = self.tallies.recount(&self.db, issue.id).await?;
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
        Ok(tally)
    }

    async fn withdraw(&self, issue: IssueId) {
        let copies = self.dispatch.withdraw(issue);
        // A ledger that has stopped releases every claim when the daemon ends.
        let _ = self.ledger.release(copies).await;
    }
}

async fn stage_total(db: &Db, issue: IssueId) -> db::Result<i64> {
    db.query("SELECT coalesce(SUM(size), 0) FROM issue_stage WHERE issue_id = $1")
        .bind(issue)
        .scalar()
        .await
}
