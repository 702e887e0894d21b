//! The one writer of the ledger: claims, handoffs, outcomes and releases that arrive together are
//! committed together, so one fsync serves all of them. What waits for it is bounded, and a sender
//! that is ahead of the disk waits here.
//!
//! A failed transaction is tried again as it was: outcomes are never dropped, and a handoff that
//! cannot be written is a handoff that did not happen.

mod group;
mod uses;

use std::{collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tokio::{
    sync::{Notify, mpsc, oneshot},
    time::{Instant, sleep, timeout_at},
};
use tracing::{error, warn};

use self::group::{BEFORE_COMMIT, COMMITTED, Done, Group, reach};
use super::{
    dispatch::Dispatch,
    journal::Journal,
    mark::{self, Mark},
    queue::{self, Claimed, Handed, Lane, Settlement, Withheld, service},
    tallies::Tallies,
};
use crate::{
    db::{self, Db, Tx, state::CopyState},
    id::{CopyId, IssueId, NodeId, SubscriberId},
    smtp::client::Timings,
    telemetry::{self, Attempt, Metrics, Step},
    timestamp::Timestamp,
};

pub use self::uses::kept_uses;

/// How many requests may wait: a few for every connection there can be.
const WAITING_MAX: usize = 2048;
/// How many requests one transaction takes: about what an fsync's time is worth.
const GROUP_MAX: usize = 1024;
/// How long acceptances wait for more of their kind while nobody waits for the writer. A transaction
/// costs as much for one of them as for a hundred, and the journal has them all already.
const LINGER: Duration = Duration::from_millis(10);

/// The exit code after a defect of our own (`EX_SOFTWARE` of `sysexits.h`).
const EXIT_DEFECT: i32 = 70;

/// Which copies to claim.
#[derive(Debug, Clone)]
pub enum Wanted {
    /// First tries of an issue.
    First {
        /// The issue.
        issue: IssueId,
        /// Which providers.
        lane: Lane,
        /// Behind which reader.
        after: SubscriberId,
        /// Up to which stage.
        stage: i64,
    },
    /// Tries of an issue that were put off and are due.
    Due {
        /// The issue.
        issue: IssueId,
        /// All providers but these, as a JSON array.
        but: String,
        /// Up to which stage.
        stage: i64,
    },
    /// Service mail that is due.
    Service,
}

/// What a claim brought.
#[derive(Debug, Default)]
pub struct Batch {
    /// The copies.
    pub copies: Vec<Claimed>,
    /// For service mail, what each is about, in the same order.
    pub mails: Vec<service::ServiceMail>,
}

enum Request {
    Claim { wanted: Wanted, limit: u32, reply: oneshot::Sender<Batch> },
    HandOff { copies: Vec<Claimed>, reply: oneshot::Sender<Vec<Handed>> },
    Settle(Box<Settlement>),
    Release(Vec<Claimed>),
}

impl Request {
    /// Whether it is written at once: because somebody can do nothing until it is answered, or because
    /// only the database will know it. Of outcomes the journal has the replies to final dots.
    fn is_urgent(&self) -> bool {
        match self {
            Self::Claim { .. } | Self::HandOff { .. } => true,
            Self::Settle(settlement) => settlement.state != CopyState::Accepted,
            Self::Release(_) => false,
        }
    }
}

/// A way to the ledger's writer.
#[derive(Debug, Clone)]
pub struct Ledger {
    requests: mpsc::Sender<Request>,
    /// Told of urgent requests, and when too many others wait.
    urgent: Arc<Notify>,
}

/// The writer has stopped; the daemon is going down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the ledger's writer has stopped")]
pub struct Stopped;

impl Ledger {
    /// Claims up to `limit` copies.
    pub async fn claim(&self, wanted: Wanted, limit: u32) -> Result<Batch, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::Claim { wanted, limit, reply }).await?;
        answer.await.map_err(|_| Stopped)
    }

    /// Hands off `copies`; those that come back may be sent.
    pub async fn hand_off(&self, copies: Vec<Claimed>) -> Result<Vec<Handed>, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::HandOff { copies, reply }).await?;
        answer.await.map_err(|_| Stopped)
    }

    /// Queues what became of a copy. Waits while too much waits already; does not wait for the disk.
    pub async fn settle(&self, settlement: Settlement) -> Result<(), Stopped> {
        self.send(Request::Settle(Box::new(settlement))).await
    }

    /// Gives claimed copies back.
    pub async fn release(&self, copies: Vec<Claimed>) -> Result<(), Stopped> {
        if copies.is_empty() {
            return Ok(());
        }
        self.send(Request::Release(copies)).await
    }

    async fn send(&self, request: Request) -> Result<(), Stopped> {
        let is_urgent = request.is_urgent();
        if self.requests.capacity() < WAITING_MAX / 2 {
            self.urgent.notify_one();
        }
        self.requests.send(request).await.map_err(|_| Stopped)?;
        if is_urgent {
            self.urgent.notify_one();
        }
        Ok(())
    }
}

/// What the writer works with.
pub struct Writer {
    /// Where it writes.
    pub db: Db,
    /// Whose claims it opens.
    pub node: NodeId,
    /// The record of final dots, told what is committed.
    pub journal: Arc<Journal>,
    /// How far the database has come, beside it.
    pub mark: Mark,
    /// The counts it keeps in step.
    pub tallies: Arc<Tallies>,
    /// Keeper of the limits whose use is kept with the handoffs.
    pub dispatch: Arc<Dispatch>,
    /// The share of one provider's copies over which suppressions are held, in percent.
    pub brake_percent: f64,
    /// Where outcomes are counted.
    pub metrics: Arc<Metrics>,
}

impl Writer {
    /// Starts the writer. It stops when every [`Ledger`] is dropped and all is written.
    pub fn start(self) -> (Ledger, tokio::task::JoinHandle<()>) {
        let (requests, inbox) = mpsc::channel(WAITING_MAX);
        let urgent = Arc::new(Notify::new());
        let writing = tokio::spawn(self.run_or_end(inbox, Arc::clone(&urgent)));
        (Ledger { requests, urgent }, writing)
    }

    /// A daemon that cannot write its ledger any more must not look alive. It ends as if it were
    /// killed, which loses nothing, and whoever supervises it starts it again.
    async fn run_or_end(self, inbox: mpsc::Receiver<Request>, urgent: Arc<Notify>) {
        if AssertUnwindSafe(self.run(inbox, &urgent)).catch_unwind().await.is_err() {
            error!(
                "the ledger's writer failed (a defect: please report it); the daemon ends here, and \
                 the next start settles what was under way"
            );
            std::process::exit(EXIT_DEFECT);
        }
    }

    async fn run(self, mut inbox: mpsc::Receiver<Request>, urgent: &Notify) {
        let mut requests = Vec::with_capacity(GROUP_MAX);
        while inbox.recv_many(&mut requests, GROUP_MAX).await > 0 {
            linger(&mut inbox, &mut requests, urgent).await;
            let group = Group::gather(requests.drain(..));
            // Nobody counts between the commit and its being told.
            let tallies = Arc::clone(&self.tallies);
            let _moving = tallies.still().await;
            let mut delay = Duration::from_millis(50);
            let done = loop {
                match self.commit(&group).await {
                    Ok(done) => break done,
                    Err(problem) => {
                        error!(
                            error = %problem,
                            retry_delay_ms = delay.as_millis() as u64,
                            "the ledger cannot be written: nothing is handed off until it can"
                        );
                        sleep(delay).await;
                        delay = (delay * 2).min(Duration::from_secs(5));
                    }
                }
            };
            self.publish(group, done);
        }
    }

    /// One transaction: outcomes first, so that a freed copy can be claimed again in the same one.
    async fn commit(&self, group: &Group) -> db::Result<Done> {
        let mut watch = self.metrics.work().watch();
        let mut tx = self.db.begin().await?;
        // Not before others have written: the clock may be set meanwhile.
        let now = Timestamp::now();
        let changed = queue::settle(&mut tx, &group.settlements, self.brake_percent, now).await?;
        if changed < group.settlements.len() as u64 {
            warn!(
                settlements = group.settlements.len(),
                changed, "outcomes arrived for copies that another claim holds by now"
            );
        }
        queue::release(&mut tx, &group.released, now).await?;
        watch.lap(Step::Outcome);
        let mut done = Done::default();
        for (key, copies) in &group.handoffs {
            self.hand_off(&mut tx, *key, copies.clone(), now, &mut done).await?;
        }
        if !done.handed.is_empty() {
            let handoffs = mark::count(&mut tx).await?;
            done.mark = Some(handoffs);
            // A handoff that the journal does not know of would make it unbelievable.
            self.journal.announce(handoffs)?;
        }
        watch.lap(Step::HandOff);
        for (wanted, limit) in &group.claims {
            done.batches.push(self.claim(&mut tx, wanted, *limit, now).await?);
        }
        watch.lap(Step::Claim);
        let uses = self.dispatch.limits_to_keep();
        if let Some(uses) = &uses {
            uses::keep_limits(&mut tx, uses).await?;
        }
        reach(group, &done, BEFORE_COMMIT);
        tx.commit().await?;
        watch.lap(Step::Commit);
        // Before the copies are given to those who send them.
        if let Some(handoffs) = done.mark
            && let Err(error) = self.mark.reach(handoffs)
        {
            warn!(%error, "the mark beside the database cannot be written; an older database that is put \
                   back by hand may not be noticed");
        }
        reach(group, &done, COMMITTED);
        if let Some(uses) = &uses {
            self.dispatch.limits_kept(uses);
        }
        Ok(done)
    }

    async fn hand_off(
        &self,
        tx: &mut Tx,
        (issue, claim): (Option<IssueId>, i64),
        copies: Vec<Claimed>,
        now: Timestamp,
        done: &mut Done,
    ) -> db::Result<()> {
        if let Some(issue) = issue {
            let (handed, withheld) =
                queue::hand_off(tx, self.node, issue, claim, copies, now).await?;
            done.handed.extend(handed);
            done.withheld.extend(withheld);
        } else {
            let (handed, withheld) = service::hand_off(tx, self.node, claim, copies, now).await?;
            done.handed.extend(handed);
            done.withheld.extend(withheld);
        }
        Ok(())
    }

    async fn claim(
        &self,
        tx: &mut Tx,
        wanted: &Wanted,
        limit: u32,
        now: Timestamp,
    ) -> db::Result<Batch> {
        let claim = queue::open_claim(tx, self.node, now).await?;
        let copies = match wanted {
            Wanted::First { issue, lane, after, stage } => {
                queue::claim_first_tries(tx, claim, *issue, lane, *after, *stage, limit).await?
            }
            Wanted::Due { issue, but, stage } => {
                queue::claim_due(tx, claim, *issue, but, *stage, limit).await?
            }
            Wanted::Service => {
                let mails = service::claim(tx, claim, limit).await?;
                let copies = mails.iter().map(|mail| Claimed {
                    copy: CopyId::Service(mail.id),
                    claim: claim.id,
                    place: 0,
                    claimed_at: claim.at,
                    due_at: mail.due_at,
                    first_due_at: mail.created_at,
                    provider: mail.provider,
                    stage: 0,
                    attempts: mail.attempt,
                });
                return Ok(Batch { copies: copies.collect(), mails });
            }
        };
        Ok(Batch { copies, mails: Vec::new() })
    }

    /// Tells everybody what is durable now.
    fn publish(&self, group: Group, done: Done) {
        self.journal.settled(group.settlements.iter().map(|settlement| settlement.copy));
        self.metrics.count(group.settlements.iter().filter_map(attempt));
        self.tallies.update(|tallies| {
            for settlement in &group.settlements {
                tallies.settled(settlement);
            }
            for copy in &group.released {
                tallies.moved(copy, CopyState::Claimed, CopyState::Waiting);
            }
            for handed in &done.handed {
                tallies.moved(&handed.claimed, CopyState::Claimed, CopyState::HandedOff);
            }
            for (copy, why) in &done.withheld {
                match why {
                    Withheld::Waits => tallies.moved(copy, CopyState::Claimed, CopyState::Waiting),
                    Withheld::Skipped(_) => {
                        tallies.moved(copy, CopyState::Claimed, CopyState::Skipped);
                    }
                    Withheld::Stale => {}
                }
            }
            for copy in done.batches.iter().flat_map(|batch| &batch.copies) {
                tallies.moved(copy, CopyState::Waiting, CopyState::Claimed);
            }
        });
        let mut handed: BTreeMap<CopyId, Handed> =
            done.handed.into_iter().map(|handed| (handed.claimed.copy, handed)).collect();
        for (copies, reply) in group.handoff_replies {
            let mine = copies.iter().filter_map(|copy| handed.remove(copy)).collect();
            // A sender that is gone leaves handed-off copies behind; recovery finds no dot in the
            // journal for them and queues them again.
            let _ = reply.send(mine);
        }
        for (reply, batch) in group.claim_replies.into_iter().zip(done.batches) {
            let _ = reply.send(batch);
        }
    }
}

/// Takes more requests in while none of those that are there is urgent, and there is room.
async fn linger(inbox: &mut mpsc::Receiver<Request>, requests: &mut Vec<Request>, urgent: &Notify) {
    let until = Instant::now() + LINGER;
    let mut is_urgent = requests.iter().any(Request::is_urgent);
    while !is_urgent && requests.len() < GROUP_MAX {
        let in_time = timeout_at(until, urgent.notified()).await.is_ok();
        while requests.len() < GROUP_MAX
            && let Ok(request) = inbox.try_recv()
        {
            is_urgent |= request.is_urgent();
            requests.push(request);
        }
        if !in_time {
            return;
        }
    }
}

/// An outcome as it is counted; none for a copy that never reached the wire.
fn attempt(settlement: &Settlement) -> Option<Attempt<'_>> {
    let event = settlement.event.as_ref()?;
    let micros = |us: i64| Duration::from_micros(u64::try_from(us).unwrap_or_default());
    let Timings { envelope_us, body_us, dot_us } = settlement.timings;
    let is_over = settlement.state.is_final();
    Some(Attempt {
        lane: match settlement.copy {
            CopyId::Issue { .. } => telemetry::Lane::Issue,
            CopyId::Service(_) => telemetry::Lane::Service,
        },
        outcome: event.kind,
        provider: settlement.provider,
        relay: event.relay.as_deref(),
        smtp: event.duration_us.map(micros),
        phases: [envelope_us, body_us, dot_us].map(Duration::from_micros),
        queue_wait: event.due_us.zip(event.handed_us).map(|(due, handed)| micros(due - handed)),
        end_to_end: settlement.first_due_at.filter(|_| is_over).map(|due| event.at.since(due)),
    })
}
