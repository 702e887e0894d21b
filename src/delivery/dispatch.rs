//! Who sends what next: claimed copies on one side, workers that want work on the other; limits,
//! breakers and concurrency between them. All in memory and never waiting for anything but the clock.
//!
//! Workers pull. A slow relay's workers are busy and do not ask, so it attracts no work. Among relays
//! of one priority, scarce work goes by weight; relays of a later priority get work only for
//! providers that no earlier one can serve now. The worker that asked last is served first: it is
//! the one whose session is warm.

mod board;
mod lanes;
mod limited_by;
mod slots;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, oneshot};

use self::{board::Board, slots::Worker};
pub use self::{
    limited_by::{Explanation, IssueExplanation, LimitedBy, NOTHING, Names},
    slots::RelayTerms,
};
use super::{
    breaker::{Change, Hit, State},
    clock::Tempo,
    limits::{LimitName, Limits, Uses, Way},
    queue::Claimed,
};
use crate::{
    bounce::classify::Scope,
    id::{IssueId, NewsletterId},
    provider::Providers,
    timestamp::Timestamp,
};

/// How often limited copies are released at most: tokens gather meanwhile, so that a fast limit
/// does not cost a transaction a copy.
const PACE: Duration = Duration::from_millis(10);
/// The same when time runs faster: timers know nothing smaller.
const PACE_MIN: Duration = Duration::from_millis(1);
/// How long nobody looks at most: the wall clock may have been set back meanwhile.
const LOOK: Duration = Duration::from_secs(1);

/// A lane that holds fewer copies than this is filled up.
pub const LANE_LOW: usize = 2048;

/// The most relays there can be.
pub const RELAYS_MAX: usize = 64;

/// The meeting point of claimed copies and workers.
#[derive(Debug)]
pub struct Dispatch {
    board: Mutex<Board>,
    /// How the board's time runs: limits, breakers and warm-up ramps count by it.
    tempo: Tempo,
    relay_names: Vec<String>,
    /// A copy of the board's count, for workers to look at between copies.
    openings: AtomicU64,
    timer: Notify,
    hungry: Notify,
}

/// Copies for one worker: of one issue and to one provider, or one service mail.
#[derive(Debug, Default)]
pub struct Grant {
    /// The copies; none when the request was withdrawn.
    pub copies: Vec<Claimed>,
    /// Whose limit they count against.
    pub newsletter: Option<NewsletterId>,
}

/// A worker's word on something that did not go well.
#[derive(Debug, Clone)]
pub struct Report {
    /// Copies of the slice that went well and were not reported yet.
    pub fine: u32,
    /// What went wrong.
    pub wrong: Wrong,
    /// Whether the server announced that it closes the connection.
    pub closing: bool,
    /// What a reply rule says about it, and whom it concerns.
    pub hit: Option<(Hit, Scope)>,
    /// What was said, for people.
    pub cause: String,
}

/// Where something went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// Only this copy: its reader's mailbox, or a refusal for good.
    Copy,
    /// The provider refuses for now, not for the sake of one mailbox.
    Provider,
    /// The relay refuses for now before it knows the recipient, or the connection broke.
    Relay,
}

/// A breaker's change, for the log.
#[derive(Debug, Clone)]
pub struct Notice {
    /// When.
    pub at: Timestamp,
    /// The relay's number.
    pub relay: usize,
    /// The provider; none for the breaker of the whole relay.
    pub provider: Option<i64>,
    /// What it changed to.
    pub change: Change,
    /// Why, for people.
    pub cause: String,
}

/// Where one relay stands.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Whether an operator suspended it.
    pub suspended: bool,
    /// How many workers have copies in hand, and how many may.
    pub in_use: u32,
    /// See [`Standing::in_use`].
    pub connections: u32,
    /// Its breaker, and why it is not closed.
    pub breaker: (State, String),
    /// The same for every provider that is not free: provider, state, why, connections allowed.
    pub providers: Vec<(i64, State, String, u32)>,
}

impl Dispatch {
    /// A meeting point for the workers of `relays` (at most [`RELAYS_MAX`]), under `limits`.
    pub fn new(relays: impl IntoIterator<Item = RelayTerms>, limits: Limits) -> Self {
        let board = Board::new(relays, limits);
        Self {
            tempo: Tempo::REAL,
            relay_names: board.relays.iter().map(|slot| slot.terms.name.clone()).collect(),
            board: Mutex::new(board),
            openings: AtomicU64::new(0),
            timer: Notify::new(),
            hungry: Notify::new(),
        }
    }

    /// The same where limits, breakers and warm-up ramps live in a time of their own.
    #[must_use]
    pub fn at(self, tempo: Tempo) -> Self {
        Self { tempo, ..self }
    }

    fn now(&self) -> Timestamp {
        self.tempo.at(Timestamp::now())
    }

    /// The names of the relays, by number.
    pub fn relay_names(&self) -> &[String] {
        &self.relay_names
    }

    /// A new worker for relay number `relay`, with a number of its own; a reserved one gets service
    /// mail only.
    pub fn add_worker(&self, relay: usize, reserved: bool) -> usize {
        let mut board = self.lock();
        board.workers.push(Worker { relay, reserved, busy: None, next: None, probe: None });
        board.workers.len() - 1
    }

    /// Waits for up to `wanted` copies for a worker; none when the daemon is going down. One request
    /// of a worker at a time.
    pub async fn take(&self, worker: usize, wanted: u32) -> Option<Grant> {
        let (reply, answer) = oneshot::channel();
        {
            let mut board = self.lock();
            if board.draining {
                return None;
            }
            board.wait(worker, wanted, reply);
            self.pump(&mut board, self.now());
        }
        answer.await.ok()
    }

    /// Withdraws a worker's request, which then gets no copies.
    pub fn stop_waiting(&self, worker: usize) {
        self.lock().stop_waiting(worker);
    }

    /// A worker is through with the slice it sends, `fine` copies of which it has not reported.
    pub fn done(&self, worker: usize, fine: u32) {
        self.change(|board, now| board.done(worker, fine, now));
    }

    /// A worker's word on a copy that did not go well.
    pub fn report(&self, worker: usize, report: &Report) {
        self.change(|board, now| board.report(worker, report, now));
    }

    /// A relay has one session more.
    pub fn connected(&self, relay: usize) {
        self.lock().connected(relay);
    }

    /// A relay has one session less.
    pub fn disconnected(&self, relay: usize) {
        self.lock().disconnected(relay);
    }

    /// A worker could not connect.
    pub fn unreachable(&self, worker: usize, report: &Report) {
        self.change(|board, now| board.unreachable(worker, report, now));
    }

    /// How often breakers have opened. While this number stands, nobody has to ask
    /// [`Dispatch::is_held`].
    pub fn openings(&self) -> u64 {
        self.openings.load(Ordering::Relaxed)
    }

    /// Whether a breaker holds back what a worker has in hand.
    pub fn is_held(&self, worker: usize) -> bool {
        self.lock().is_held(worker, self.now())
    }

    /// Whether nothing can move to a provider though some relay works: a breaker is open to it, or its
    /// warm-up is used up, at every relay that works.
    pub fn is_held_up(&self, provider: i64) -> bool {
        self.lock().is_held_up(provider, self.now())
    }

    /// Adds claimed copies of a newsletter's issues.
    pub fn add(&self, newsletter: NewsletterId, copies: impl IntoIterator<Item = Claimed>) {
        self.change(|board, _| board.lanes.add(newsletter, copies));
    }

    /// Adds claimed service mail, which goes before everything else.
    pub fn add_service(&self, copies: impl IntoIterator<Item = Claimed>) {
        self.change(|board, _| board.lanes.service.extend(copies));
    }

    /// How many service mails wait.
    pub fn service_waiting(&self) -> usize {
        self.lock().lanes.service.len()
    }

    /// How many copies of an issue wait for the provider `only`; with none, for all but those in
    /// `apart`.
    pub fn waiting(&self, issue: IssueId, only: Option<i64>, apart: &BTreeSet<i64>) -> usize {
        self.lock().lanes.waiting(issue, only, apart)
    }

    /// Adds to `apart` the providers whose copies do not move freely, so that they are claimed apart
    /// from the others' and fill nobody else's place; and remembers the whole set.
    pub fn set_apart(&self, apart: &mut BTreeSet<i64>) {
        let mut board = self.lock();
        let slow: Vec<i64> = board.slow_providers(self.now()).collect();
        apart.extend(slow);
        if board.apart != *apart {
            board.apart.clone_from(apart);
        }
    }

    /// Returns when some lane may want more copies.
    pub async fn hungry(&self) {
        self.hungry.notified().await;
    }

    /// Says that there may be something new to claim.
    pub fn wake_feeder(&self) {
        self.hungry.notify_one();
    }

    /// Takes back every copy of an issue that is not sending any more.
    pub fn withdraw(&self, issue: IssueId) -> Vec<Claimed> {
        self.lock().lanes.withdraw(issue)
    }

    /// Gives back allowances of copies that were taken and will not go.
    pub fn refund(&self, way: Way, copies: u32) {
        self.lock().limits.refund(way, copies);
    }

    /// Sets or lifts the rate of a newsletter.
    pub fn limit_newsletter(&self, newsletter: NewsletterId, per_second: Option<f64>) {
        self.change(|board, now| board.newsletter_limit(newsletter, per_second, now));
    }

    /// Suspends or resumes a relay; returns whether that changed anything.
    pub fn set_suspended(&self, relay: usize, suspended: bool) -> bool {
        let mut board = self.lock();
        let Some(slot) = board.relays.get_mut(relay) else { return false };
        let changed = slot.suspended != suspended;
        slot.suspended = suspended;
        if changed {
            self.pump(&mut board, self.now());
        }
        changed
    }

    /// The limits' uses to write down, if any changed since [`Dispatch::limits_kept`].
    pub fn limits_to_keep(&self) -> Option<Uses> {
        self.lock().limits.to_keep()
    }

    /// Says that uses are durable.
    pub fn limits_kept(&self, uses: &Uses) {
        self.lock().limits.kept(uses.version);
    }

    /// How many copies each limit lets through now, and its name.
    pub fn limits_available(&self) -> Vec<(LimitName, u32)> {
        self.lock().limits.available(self.now()).collect()
    }

    /// Changes of breakers since the last call.
    pub fn take_notices(&self) -> Vec<Notice> {
        let mut notices = std::mem::take(&mut self.lock().notices);
        for notice in &mut notices {
            notice.at = self.tempo.wall(notice.at);
        }
        notices
    }

    /// Where every relay stands.
    pub fn standings(&self) -> Vec<Standing> {
        let now = self.now();
        let board = self.lock();
        let standing = |slot: &slots::RelaySlot| Standing {
            suspended: slot.suspended,
            in_use: slot.in_use,
            connections: slot.concurrency.limit(),
            breaker: (slot.breaker.state(now), slot.breaker.cause().to_owned()),
            providers: slot
                .pairs
                .iter()
                .filter(|(_, pair)| {
                    pair.breaker.state(now) != State::Closed
                        || pair.concurrency.limit() < pair.concurrency.cap()
                })
                .map(|(provider, pair)| {
                    let breaker = &pair.breaker;
                    let cause = breaker.cause().to_owned();
                    (*provider, breaker.state(now), cause, pair.concurrency.limit())
                })
                .collect(),
        };
        board.relays.iter().map(standing).collect()
    }

    /// What stands between the queue and the wire now, in words.
    pub fn limited_by(&self, providers: &Providers) -> String {
        let names = Names { relays: &self.relay_names, providers };
        self.explain().everything.describe(&names)
    }

    /// The same as values: for everything, and for each issue, relay and provider.
    pub fn explain(&self) -> Explanation {
        self.lock().explain(self.now())
    }

    /// Hands out nothing more; workers that wait for copies are let go.
    pub fn drain(&self) {
        let mut board = self.lock();
        board.draining = true;
        for relay in &mut board.relays {
            relay.waiting.clear();
        }
    }

    /// Hands out copies when a limit or a breaker lets them through again. Runs until dropped.
    pub async fn run_timer(&self) {
        loop {
            let wake_at = self.lock().wake_at;
            match wake_at {
                None => self.timer.notified().await,
                Some(at) => {
                    let wait = at.since(self.now());
                    let wait = self.tempo.wait(wait, Duration::ZERO);
                    let wait = wait.clamp(self.tempo.wait(PACE, PACE_MIN), LOOK);
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {
                            let mut board = self.lock();
                            self.pump(&mut board, self.now());
                        }
                        () = self.timer.notified() => {}
                    }
                }
            }
        }
    }

    fn change(&self, change: impl FnOnce(&mut Board, Timestamp)) {
        let now = self.now();
        let mut board = self.lock();
        change(&mut board, now);
        self.pump(&mut board, now);
    }

    fn pump(&self, board: &mut Board, now: Timestamp) {
        let before = board.wake_at;
        board.pump(now);
        self.openings.store(board.openings, Ordering::Relaxed);
        if board.wake_at.is_some_and(|at| before.is_none_or(|before| at < before)) {
            self.timer.notify_one();
        }
        if board.wants_more() {
            self.hungry.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Board> {
        // Each change leaves the state whole, so a panic elsewhere does no harm here.
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
