//! One connection's worker: takes copies that may go, hands them off, makes and sends them one after
//! the other, and reports what became of each.
//!
//! While one slice of copies is being sent the next one is handed off, so the wire does not wait for
//! the disk. A slice is a fifth of a second of this connection's work at most, so that a pause, a stop
//! or a lost connection finds few copies on their way; and when a server takes its time over one copy,
//! or a breaker opens, the others go back, to be sent by somebody else.

mod ahead;
mod direct;
mod hand;
mod patience;
mod transmit;

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use self::{ahead::Ahead, hand::Hand};
use super::{
    compose::Composer,
    dispatch::{Dispatch, Report, Wrong},
    journal::Journal,
    lease::{Lease, Term},
    ledger::Ledger,
    limits::Way,
    mx::Destination,
    policy::{self, Decision},
    queue::{Handed, Settlement},
    relay::{ConnectError, Relay},
    rule_halts::RuleHalts,
};
use crate::{
    event::Event,
    id::{CopyId, NodeId},
    provider::ProviderId,
    smtp::{
        client::{
            CloseReason, Envelope, Phase, Session, SessionState, Timings, Transaction, Verdict,
            WireError,
        },
        message::ComposedMessage,
    },
    telemetry::Metrics,
    timestamp::Timestamp,
};

/// The most copies that one slice has: enough that a fast relay's connections do not wait for the
/// disk, few enough that a loss of power leaves little in doubt.
const SLICE_MAX: u32 = 256;
/// How much work a slice should be.
const SLICE_TIME: Duration = Duration::from_millis(200);

/// What all connections of all relays share.
pub struct Shared {
    /// Where copies come from.
    pub dispatch: Arc<Dispatch>,
    /// Where they are marked and their outcomes go.
    pub ledger: Ledger,
    /// The record of final dots.
    pub journal: Arc<Journal>,
    /// What copies are made from.
    pub composer: Arc<Composer>,
    /// This daemon.
    pub node: NodeId,
    /// For how long what it handed off may be sent.
    pub lease: Arc<Lease>,
    /// Waits between tries.
    pub retry_delays: Arc<[Duration]>,
    /// How long an idle connection stays open.
    pub idle: Duration,
    /// Numbers connections.
    pub sessions: std::sync::atomic::AtomicI64,
    /// Told how long it takes to open sessions.
    pub metrics: Arc<Metrics>,
    /// Halts that reply rules ask for.
    pub rule_halts: Arc<RuleHalts>,
    /// Cancelled when the daemon goes down: whoever has no connection yet needs none.
    pub stop: CancellationToken,
}

impl Shared {
    /// Writes what became of a copy.
    async fn settle(&self, handed: &Handed, decision: Decision, event: Option<Event>) {
        self.settle_timed(handed, decision, event, Timings::default()).await;
    }

    /// The same of a copy whose transaction took so long.
    async fn settle_timed(
        &self,
        handed: &Handed,
        decision: Decision,
        event: Option<Event>,
        timings: Timings,
    ) {
        let claimed = &handed.claimed;
        if let CopyId::Service(mail) = claimed.copy {
            // Before its row can be claimed again, which brings it again.
            self.composer.forget(mail);
        }
        let settlement = Settlement {
            copy: claimed.copy,
            claim: claimed.claim,
            state: decision.state,
            attempts: claimed.attempts + i64::from(decision.counts),
            due_at: decision.due_at,
            decided_at: event.as_ref().map_or_else(Timestamp::now, |event| event.at),
            reason: decision.reason,
            event,
            class: decision.class,
            first_due_at: Some(claimed.first_due_at),
            timings,
            stage: claimed.stage,
            provider: claimed.provider,
        };
        if self.ledger.settle(settlement).await.is_err() {
            debug!(copy = %claimed.copy, "the ledger has stopped; the journal keeps the outcome");
        }
    }
}

/// A slice that was handed off, in which term of the lease, and the limits it was taken from; none
/// when the request was withdrawn. Nothing at all when there will be no more.
type Fetched = Option<Option<(Way, Term, Vec<Handed>)>>;

/// One worker; see the module.
pub struct Connection {
    shared: Arc<Shared>,
    relay: Arc<Relay>,
    /// Its number in the dispatch.
    worker: usize,
    session: Option<Session>,
    number: i64,
    hand: Hand,
    coming: Option<JoinHandle<Fetched>>,
    per_copy: Duration,
    message: ComposedMessage,
    /// Messages that were made before their turn.
    ahead: Ahead,
    /// The envelope that went out with the last body, for the copy that comes next.
    opened: Option<(CopyId, Envelope)>,
    /// The copy that is being made or sent, until its outcome is with the ledger.
    current: Option<Arc<Handed>>,
    /// How often breakers had opened when they were asked last.
    openings: u64,
    /// Where the session leads, and where a copy is tried that had its turn there; for relays of kind
    /// `mx`.
    to: Option<Arc<Destination>>,
    trying: Option<Arc<Destination>>,
    /// With which of the destination's hosts the session is.
    host: Option<Arc<str>>,
}

impl Connection {
    /// A worker for `relay` without a session yet; a reserved one sends service mail only.
    pub fn new(shared: Arc<Shared>, relay: Arc<Relay>, reserved: bool) -> Self {
        Self {
            worker: shared.dispatch.add_worker(relay.index, reserved),
            shared,
            relay,
            session: None,
            number: 0,
            hand: Hand::default(),
            coming: None,
            per_copy: Duration::from_millis(20),
            message: ComposedMessage::default(),
            ahead: Ahead::default(),
            opened: None,
            current: None,
            openings: 0,
            to: None,
            trying: None,
            host: None,
        }
    }

    /// Works until the daemon drains. A panic costs the session and puts off one copy; no copy is
    /// forgotten, and the connection's place is not lost.
    pub async fn run(mut self) {
        while AssertUnwindSafe(self.work()).catch_unwind().await.is_err() {
            error!(
                relay = %self.relay.name,
                session = self.number,
                "a connection's task failed (a defect: please report it); it begins anew"
            );
            self.after_panic().await;
        }
        self.give_back_all().await;
        self.close().await;
    }

    async fn work(&mut self) {
        while self.fill().await {
            let held = self.is_held();
            if held && self.is_next_opened() {
                // Its envelope is on the wire, and its reply may be: it ends as it does.
                self.send_next(false).await;
            }
            match self.relay.direct.clone() {
                Some(direct) if !held => {
                    if !self.reached(&direct).await {
                        continue;
                    }
                }
                None if !held && self.connected().await => {}
                _ => {
                    self.give_back_all().await;
                    continue;
                }
            }
            self.send_next(true).await;
        }
    }

    /// Settles the copy that was under way when this task failed, by what the journal knows of it,
    /// as after a crash; queues the others again.
    async fn after_panic(&mut self) {
        self.hang_up();
        if let Some(handed) = self.current.take() {
            let (copy, attempt) = (handed.claimed.copy, handed.claimed.attempts + 1);
            let verdict = self
                .shared
                .journal
                .verdict(copy, attempt)
                .unwrap_or(Verdict::Failed { phase: Phase::Body, error: WireError::SessionClosed });
            let transaction = Transaction {
                verdict,
                session: SessionState::Closed(CloseReason::Abandoned),
                next_opened: false,
                timings: Timings::default(),
                bytes: 0,
            };
            self.conclude(&handed, &transaction, true, Duration::ZERO).await;
            self.hand.through(&self.shared, self.worker);
        }
        self.give_back_all().await;
    }

    /// Makes sure a copy is in hand; false when there will be none any more.
    async fn fill(&mut self) -> bool {
        while self.hand.is_empty() {
            self.park();
            let mut coming = match self.coming.take() {
                Some(coming) => coming,
                None => self.fetch(),
            };
            let came = if let Ok(came) = timeout(self.shared.idle, &mut coming).await {
                came
            } else {
                self.close().await;
                coming.await
            };
            match came {
                Ok(Some(Some(slice))) => {
                    self.hand.add(&self.shared, self.worker, slice);
                }
                Ok(Some(None)) => {}
                Ok(None) => return false,
                Err(error) if error.is_cancelled() => return false,
                Err(error) => error!(%error, "a task that fetches copies failed; another is begun"),
            }
        }
        true
    }

    /// Asks for the next slice and hands it off, aside.
    fn fetch(&self) -> JoinHandle<Fetched> {
        let shared = Arc::clone(&self.shared);
        let (relay, worker) = (self.relay.index, self.worker);
        let fitting = SLICE_TIME.as_micros() / self.per_copy.as_micros().max(1);
        let direct = self.relay.direct.clone();
        let least = if direct.is_some() { direct::SLICE_MIN } else { 1 };
        let wanted = u32::try_from(fitting).unwrap_or(SLICE_MAX).clamp(least, SLICE_MAX);
        tokio::spawn(async move {
            let grant = shared.dispatch.take(worker, wanted).await?;
            let Some(provider) = grant.copies.first().map(|copy| copy.provider) else {
                return Some(None);
            };
            let count = grant.copies.len() as u32;
            let term = shared.lease.term();
            let mut handed = shared.ledger.hand_off(grant.copies).await.ok()?;
            if let Some(direct) = direct {
                direct.arrange(&mut handed).await;
            }
            let way = Way { relay, provider, newsletter: grant.newsletter };
            shared.dispatch.refund(way, count - handed.len() as u32);
            Some(Some((way, term, handed)))
        })
    }

    /// Takes the slice that is being fetched, if it is there already.
    async fn top_up(&mut self) {
        if self.coming.is_none() {
            self.coming = Some(self.fetch());
        }
        if self.hand.len() < 2
            && let Some(coming) = self.coming.take_if(|coming| coming.is_finished())
            && let Ok(Some(Some(slice))) = coming.await
        {
            self.hand.add(&self.shared, self.worker, slice);
        }
    }

    /// Whether a breaker has opened for what is in hand.
    fn is_held(&mut self) -> bool {
        let openings = self.shared.dispatch.openings();
        if self.openings == openings && !self.hand.is_new_slice() {
            return false;
        }
        self.openings = openings;
        openings > 0 && self.shared.dispatch.is_held(self.worker)
    }

    /// Whether the envelope of the next copy went out with the last body.
    fn is_next_opened(&self) -> bool {
        let next = self.hand.front().map(|handed| handed.claimed.copy);
        let opened = self.opened.as_ref().map(|(copy, _)| *copy);
        opened.is_some()
            && opened == next
            && self.session.as_ref().is_some_and(Session::holds_envelope)
    }

    /// Makes sure there is a session that can take a copy; false when the relay cannot be reached.
    async fn connected(&mut self) -> bool {
        if let Some(session) = &mut self.session {
            let envelope_is_out = session.holds_envelope();
            if envelope_is_out || (!self.relay.is_worn(session) && session.is_alive().await) {
                return true;
            }
            self.close().await;
        }
        let (relay, stop) = (Arc::clone(&self.relay), self.shared.stop.clone());
        let connect = Box::pin(stop.run_until_cancelled(relay.connect()));
        match self.patiently(connect).await {
            None => false,
            Some(Ok(session)) => {
                self.relay.health.reached();
                self.shared.dispatch.connected(self.relay.index);
                self.shared.metrics.opened(&self.relay.name, session.opening().phases());
                self.number =
                    self.shared.sessions.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                self.session = Some(session);
                true
            }
            Some(Err(error)) => {
                self.unreachable(&error);
                false
            }
        }
    }

    fn unreachable(&mut self, error: &ConnectError) {
        self.relay.health.failed(error, Timestamp::now());
        warn!(
            relay = %self.relay.name,
            error = %error,
            "a relay cannot be used; it is left alone for a while"
        );
        let report = Report {
            fine: self.hand.take_fine(),
            wrong: Wrong::Relay,
            closing: false,
            hit: error.reply().and_then(|(phase, reply)| {
                policy::hit(&policy::classify_reply(phase, reply, ProviderId::OTHER))
            }),
            cause: error.to_string(),
        };
        self.shared.dispatch.unreachable(self.worker, &report);
    }

    /// Says goodbye, if there is anybody to say it to.
    async fn close(&mut self) {
        if let Some(session) = self.session.take() {
            self.shared.dispatch.disconnected(self.relay.index);
            session.quit().await;
            self.left();
        }
    }

    /// Drops the session as it is.
    fn hang_up(&mut self) {
        if self.session.take().is_some() {
            self.shared.dispatch.disconnected(self.relay.index);
            self.left();
        }
    }

    /// Queues again what was handed off and not sent.
    async fn give_back_all(&mut self) {
        self.shared.dispatch.stop_waiting(self.worker);
        self.not_tried();
        if let Some(coming) = self.coming.take_if(|coming| coming.is_finished())
            && let Ok(Some(Some(slice))) = coming.await
        {
            self.hand.add(&self.shared, self.worker, slice);
        }
        self.opened = None;
        if self.session.as_ref().is_some_and(Session::holds_envelope) {
            self.hang_up();
        }
        self.hand.give_back(&self.shared, self.worker, 0).await;
        self.hand.end(&self.shared, self.worker);
        self.ahead = Ahead::default();
    }
}
