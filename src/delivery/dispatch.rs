//! Who sends what next: claimed copies on one side, connections that want work on the other, limits
//! between them. All in memory and never waiting for anything but the clock.
//!
//! Connections pull. A slow relay's connections are busy and do not ask, so it attracts no work.
//! The connection that asked last is served first: it is the one whose session is warm.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, oneshot};

use super::{
    limits::{Allowance, LimitName, Limits},
    queue::Claimed,
};
use crate::{id::IssueId, timestamp::Timestamp};

/// How often limited copies are released at most: tokens gather meanwhile, so that a fast limit
/// does not cost a transaction a copy.
const PACE: Duration = Duration::from_millis(10);

/// The meeting point of claimed copies and connections.
#[derive(Debug)]
pub struct Dispatch {
    inner: Mutex<Inner>,
    timer: Notify,
    hungry: Notify,
}

#[derive(Debug)]
struct Inner {
    limits: Limits,
    service: VecDeque<Claimed>,
    lanes: BTreeMap<Option<i64>, VecDeque<Claimed>>,
    turn: usize,
    relays: Vec<RelaySlot>,
    wake_at: Option<Timestamp>,
    limited_by: Option<LimitName>,
    draining: bool,
}

#[derive(Debug)]
struct RelaySlot {
    name: String,
    waiting: Vec<Waiting>,
    waiting_for_service: Vec<Waiting>,
    suspended: bool,
    resting_until: Option<Timestamp>,
}

#[derive(Debug)]
struct Waiting {
    wanted: u32,
    reserved: bool,
    reply: oneshot::Sender<Vec<Claimed>>,
}

/// What stands between the queue and the wire at this moment.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitedBy {
    /// Nothing is waiting to be sent.
    NothingToSend,
    /// A rate limit.
    Rate(String),
    /// Every connection is at work: the relays' speed.
    Connections,
    /// Relays are suspended or rest after failures; none is left.
    Relays,
    /// Copies are being claimed.
    Claiming,
}

impl LimitedBy {
    /// The limit in one word, for programs; all there are in [`LimitedBy::WORDS`].
    pub fn word(&self) -> &'static str {
        match self {
            Self::NothingToSend => "nothing",
            Self::Rate(_) => "rate",
            Self::Connections => "connections",
            Self::Relays => "relays",
            Self::Claiming => "claiming",
        }
    }

    /// Every [`LimitedBy::word`].
    pub const WORDS: &[&str] = &["nothing", "rate", "connections", "relays", "claiming"];

    /// The limit in words.
    pub fn describe(&self) -> String {
        match self {
            Self::NothingToSend => "nothing is waiting to be sent".to_owned(),
            Self::Rate(name) => format!("the rate limit of {name}"),
            Self::Connections => "the relays: every connection is at work".to_owned(),
            Self::Relays => {
                "no relay takes mail: each is suspended or rests after failures".to_owned()
            }
            Self::Claiming => "claiming from the ledger".to_owned(),
        }
    }
}

impl Dispatch {
    /// A meeting point for the connections of `relays`, under `limits`.
    pub fn new(relays: impl IntoIterator<Item = String>, limits: Limits) -> Self {
        let slot = |name| RelaySlot {
            name,
            waiting: Vec::new(),
            waiting_for_service: Vec::new(),
            suspended: false,
            resting_until: None,
        };
        let inner = Inner {
            limits,
            service: VecDeque::new(),
            lanes: BTreeMap::new(),
            turn: 0,
            relays: relays.into_iter().map(slot).collect(),
            wake_at: None,
            limited_by: None,
            draining: false,
        };
        Self { inner: Mutex::new(inner), timer: Notify::new(), hungry: Notify::new() }
    }

    /// Waits for up to `wanted` copies to send through relay number `relay`; none when the daemon
    /// is going down. `reserved` connections get service mail only.
    pub async fn take(&self, relay: usize, wanted: u32, reserved: bool) -> Option<Vec<Claimed>> {
        let (reply, answer) = oneshot::channel();
        {
            let mut inner = self.lock();
            if inner.draining {
                return None;
            }
            let waiting = Waiting { wanted, reserved, reply };
            let slot = inner.relays.get_mut(relay)?;
            if reserved { &mut slot.waiting_for_service } else { &mut slot.waiting }.push(waiting);
            self.pump(&mut inner);
        }
        answer.await.ok()
    }

    /// Adds claimed copies: service mail in front of everything, others to their provider's lane.
    pub fn add(&self, lane: Lane, copies: impl IntoIterator<Item = Claimed>) {
        let mut inner = self.lock();
        match lane {
            Lane::Service => inner.service.extend(copies),
            Lane::Issues(key) => inner.lanes.entry(key).or_default().extend(copies),
        }
        self.pump(&mut inner);
    }

    /// The lane that copies to `provider` wait in.
    pub fn lane_of(&self, provider: i64) -> Lane {
        Lane::Issues(self.lock().limits.has_provider(provider).then_some(provider))
    }

    /// How many copies wait in `lane`.
    pub fn waiting_in(&self, lane: Lane) -> usize {
        let inner = self.lock();
        match lane {
            Lane::Service => inner.service.len(),
            Lane::Issues(key) => inner.lanes.get(&key).map_or(0, VecDeque::len),
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
        let of_issue = |copy: &Claimed| matches!(copy.copy, crate::id::CopyId::Issue { issue: of, .. } if of == issue);
        let mut inner = self.lock();
        let mut withdrawn = Vec::new();
        for lane in inner.lanes.values_mut() {
            let (out, stay) = std::mem::take(lane).into_iter().partition::<Vec<_>, _>(of_issue);
            withdrawn.extend(out);
            lane.extend(stay);
        }
        withdrawn
    }

    /// Gives back allowances of copies that were taken and will not go.
    pub fn refund(&self, relay: usize, provider: i64, copies: u32) {
        let mut inner = self.lock();
        if let Some(name) = inner.relays.get(relay).map(|slot| slot.name.clone()) {
            inner.limits.refund(&name, provider, copies);
        }
    }

    /// Leaves a relay alone until `until`.
    pub fn rest(&self, relay: usize, until: Timestamp) {
        let mut inner = self.lock();
        if let Some(slot) = inner.relays.get_mut(relay) {
            slot.resting_until = Some(until);
        }
        self.pump(&mut inner);
    }

    /// Suspends or resumes a relay; returns whether that changed anything.
    pub fn set_suspended(&self, relay: usize, suspended: bool) -> bool {
        let mut inner = self.lock();
        let Some(slot) = inner.relays.get_mut(relay) else { return false };
        let changed = slot.suspended != suspended;
        slot.suspended = suspended;
        if changed {
            self.pump(&mut inner);
        }
        changed
    }

    /// The limits' uses to write down, if any changed.
    pub fn limits_to_keep(&self) -> Vec<(String, Timestamp)> {
        self.lock().limits.to_keep()
    }

    /// How many copies each limit lets through now, and its name.
    pub fn limits_available(&self) -> Vec<(LimitName, u32)> {
        let now = Timestamp::now();
        let inner = self.lock();
        inner.limits.available(now).map(|(name, copies)| (name.clone(), copies)).collect()
    }

    /// Whether an operator suspended relay number `relay`.
    pub fn is_suspended(&self, relay: usize) -> bool {
        self.lock().relays.get(relay).is_some_and(|slot| slot.suspended)
    }

    /// What stands between the queue and the wire now.
    pub fn limited_by(&self) -> LimitedBy {
        let inner = self.lock();
        let now = Timestamp::now();
        if inner.service.is_empty() && inner.lanes.values().all(VecDeque::is_empty) {
            return LimitedBy::NothingToSend;
        }
        if inner.relays.iter().all(|relay| !relay.takes_mail(now)) {
            return LimitedBy::Relays;
        }
        match &inner.limited_by {
            Some(name) => LimitedBy::Rate(name.key()),
            None if inner.relays.iter().all(|relay| relay.waiting.is_empty()) => {
                LimitedBy::Connections
            }
            None => LimitedBy::Claiming,
        }
    }

    /// Hands out nothing more; connections that wait for work are let go.
    pub fn drain(&self) {
        let mut inner = self.lock();
        inner.draining = true;
        for relay in &mut inner.relays {
            relay.waiting.clear();
            relay.waiting_for_service.clear();
        }
    }

    /// Hands out copies when a limit or a rest ends. Runs until dropped.
    pub async fn run_timer(&self) {
        loop {
            let wake_at = self.lock().wake_at;
            match wake_at {
                None => self.timer.notified().await,
                Some(at) => {
                    let wait = at.since(Timestamp::now()).max(PACE);
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {
                            let mut inner = self.lock();
                            self.pump(&mut inner);
                        }
                        () = self.timer.notified() => {}
                    }
                }
            }
        }
    }

    fn pump(&self, inner: &mut Inner) {
        let before = inner.wake_at;
        inner.pump(Timestamp::now());
        if inner.wake_at.is_some_and(|at| before.is_none_or(|before| at < before)) {
            self.timer.notify_one();
        }
        if inner.wants_more() {
            self.hungry.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Each change leaves the state whole, so a panic elsewhere does no harm here.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where copies wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Service mail.
    Service,
    /// Copies of issues: to one provider with a limit of its own, or to all others.
    Issues(Option<i64>),
}

/// A lane that holds fewer copies than this is filled up.
pub const LANE_LOW: usize = 2048;

impl RelaySlot {
    fn takes_mail(&self, now: Timestamp) -> bool {
        !self.suspended && self.resting_until.is_none_or(|until| until <= now)
    }
}

impl Inner {
    fn wants_more(&self) -> bool {
        !self.draining && self.lanes.values().any(|lane| lane.len() < LANE_LOW)
    }

    fn pump(&mut self, now: Timestamp) {
        self.wake_at = None;
        self.limited_by = None;
        for relay in 0..self.relays.len() {
            if self.relays[relay].suspended {
                continue;
            }
            if let Some(until) = self.relays[relay].resting_until.filter(|until| *until > now) {
                self.wake_not_after(until);
                continue;
            }
            self.serve(relay, now);
        }
    }

    /// Serves the waiting connections of one relay until either side runs out.
    fn serve(&mut self, relay: usize, now: Timestamp) {
        loop {
            let slot = &mut self.relays[relay];
            let service = !self.service.is_empty();
            // A reserved connection can only take service mail: let it, and keep the others free.
            let waiting = match slot.waiting_for_service.pop() {
                Some(waiting) if service => waiting,
                reserved => {
                    slot.waiting_for_service.extend(reserved);
                    match slot.waiting.pop() {
                        Some(waiting) => waiting,
                        None => return,
                    }
                }
            };
            if waiting.reply.is_closed() {
                continue;
            }
            let name = slot.name.clone();
            match self.slice(&name, &waiting, now) {
                Ok((lane, copies)) => {
                    let count = copies.len() as u32;
                    if let Err(copies) = waiting.reply.send(copies) {
                        self.put_back(&name, lane, copies, count);
                    }
                }
                Err(until) => {
                    let slot = &mut self.relays[relay];
                    let reserved = waiting.reserved;
                    if reserved {
                        slot.waiting_for_service.push(waiting);
                    } else {
                        slot.waiting.push(waiting);
                    }
                    if let Some(until) = until {
                        self.wake_not_after(until);
                    }
                    return;
                }
            }
        }
    }

    /// The next copies for a connection to `relay`, or when to ask again (never, if nothing waits).
    fn slice(
        &mut self,
        relay: &str,
        waiting: &Waiting,
        now: Timestamp,
    ) -> Result<(Lane, Vec<Claimed>), Option<Timestamp>> {
        let mut until: Option<Timestamp> = None;
        let keys: Vec<Option<i64>> =
            if waiting.reserved { Vec::new() } else { self.lanes.keys().copied().collect() };
        self.turn = self.turn.wrapping_add(1);
        let rotated = keys.iter().cycle().skip(self.turn % keys.len().max(1)).take(keys.len());
        let lanes = std::iter::once(Lane::Service).chain(rotated.map(|key| Lane::Issues(*key)));
        for lane in lanes {
            let queue = match lane {
                Lane::Service => Some(&self.service),
                Lane::Issues(key) => self.lanes.get(&key),
            };
            let Some((provider, length)) =
                queue.and_then(|queue| Some((queue.front()?.provider, queue.len())))
            else {
                continue;
            };
            let most = match lane {
                // One at a time: each service mail may be for another provider.
                Lane::Service => 1,
                Lane::Issues(_) => waiting.wanted.min(u32::try_from(length).unwrap_or(u32::MAX)),
            };
            match self.limits.take(relay, provider, most, now) {
                Allowance::Granted(granted) => {
                    let queue = self.queue(lane);
                    return Ok((lane, queue.drain(..granted as usize).collect()));
                }
                Allowance::Wait { until: at, limit } => {
                    until = Some(until.map_or(at, |until| until.min(at)));
                    self.limited_by = Some(limit);
                }
            }
        }
        Err(until)
    }

    fn queue(&mut self, lane: Lane) -> &mut VecDeque<Claimed> {
        match lane {
            Lane::Service => &mut self.service,
            Lane::Issues(key) => self.lanes.entry(key).or_default(),
        }
    }

    fn put_back(&mut self, relay: &str, lane: Lane, copies: Vec<Claimed>, count: u32) {
        if let Some(first) = copies.first() {
            self.limits.refund(relay, first.provider, count);
        }
        let queue = self.queue(lane);
        for copy in copies.into_iter().rev() {
            queue.push_front(copy);
        }
    }

    fn wake_not_after(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |wake_at| wake_at.min(at)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        delivery::limits::Gcra,
        id::{CopyId, SubscriberId},
    };

    fn copies(provider: i64, subscribers: std::ops::Range<i64>) -> Vec<Claimed> {
        let claimed = |subscriber| Claimed {
            copy: CopyId::Issue { issue: IssueId(1), subscriber: SubscriberId(subscriber) },
            claim: 1,
            provider,
            stage: 1,
            attempts: 0,
        };
        subscribers.map(claimed).collect()
    }

    #[tokio::test]
    async fn a_relay_that_rests_gets_nothing_and_another_takes_over() {
        let dispatch = Dispatch::new(["a".to_owned(), "b".to_owned()], Limits::default());
        dispatch.rest(0, Timestamp::now().plus(Duration::from_hours(1)));
        dispatch.add(Lane::Issues(None), copies(0, 0..10));
        let (from_a, from_b) = tokio::join!(
            tokio::time::timeout(Duration::from_millis(20), dispatch.take(0, 4, false)),
            dispatch.take(1, 4, false)
        );
        assert!(from_a.is_err());
        assert_eq!(from_b.unwrap().len(), 4);
    }

    #[tokio::test]
    async fn service_mail_goes_first_and_reserved_connections_take_nothing_else() {
        let dispatch = Dispatch::new(["a".to_owned()], Limits::default());
        dispatch.add(Lane::Issues(None), copies(0, 0..10));
        let reserved = dispatch.take(0, 8, true);
        let other = async {
            let issue_copies = dispatch.take(0, 8, false).await.unwrap();
            assert_eq!(issue_copies.len(), 8);
            dispatch.add(Lane::Service, copies(0, 90..91));
        };
        let (service, ()) = tokio::join!(reserved, other);
        assert_eq!(service.unwrap(), copies(0, 90..91));
    }

    #[tokio::test]
    async fn a_limited_provider_holds_up_nobody_else() {
        let mut limits = Limits::default();
        limits.add(LimitName::Provider(1), Gcra::new(0.001, Some(1)));
        let dispatch = Dispatch::new(["a".to_owned()], limits);
        dispatch.add(dispatch.lane_of(1), copies(1, 0..10));
        dispatch.add(dispatch.lane_of(2), copies(2, 10..20));
        let mut sent = Vec::new();
        while sent.len() < 11 {
            sent.extend(dispatch.take(0, 4, false).await.unwrap());
        }
        assert_eq!(sent.iter().filter(|copy| copy.provider == 2).count(), 10);
        assert_eq!(dispatch.waiting_in(Lane::Issues(Some(1))), 9);
    }

    #[tokio::test]
    async fn draining_lets_waiting_connections_go() {
        let dispatch = Dispatch::new(["a".to_owned()], Limits::default());
        let (taken, ()) = tokio::join!(dispatch.take(0, 4, false), async { dispatch.drain() });
        assert_eq!(taken, None);
        assert_eq!(dispatch.take(0, 4, false).await, None);
    }
}
