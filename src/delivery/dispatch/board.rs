//! Who gets which copies: lanes on one side, relays and their waiting workers on the other, limits,
//! breakers and concurrency in between. No clock and no waiting: times come in as values.

mod reports;

use std::collections::BTreeSet;

use tokio::sync::oneshot;

use super::{
    Grant, LANE_LOW, Notice,
    lanes::Lanes,
    slots::{Probe, RelaySlot, RelayTerms, Waiting, Worker},
};
use crate::{
    delivery::{
        breaker::Admission,
        limits::{Allowance, Limits, Way},
    },
    id::NewsletterId,
    timestamp::Timestamp,
};

/// How many copies a worker of a throttled breaker gets at once.
const THROTTLED_SLICE: u32 = 8;
/// How far a relay may fall behind its share, in copies over weight: what it did not take while it
/// was slow or away is not owed to it for long.
const SHARE_LAG: f64 = 256.0;
/// How many changes of breakers are kept for those who write them down.
const NOTICES_MAX: usize = 1000;

/// The state behind the dispatch.
#[derive(Debug)]
pub(super) struct Board {
    pub(super) limits: Limits,
    pub(super) lanes: Lanes,
    pub(super) relays: Vec<RelaySlot>,
    pub(super) workers: Vec<Worker>,
    pub(super) wake_at: Option<Timestamp>,
    pub(super) draining: bool,
    /// Providers whose copies are claimed apart from the others'.
    pub(super) apart: BTreeSet<i64>,
    pub(super) notices: Vec<Notice>,
    /// Counts openings of breakers: whoever has copies in hand looks again.
    pub(super) openings: u64,
}

/// How a lane's copies may pass through a relay.
pub(super) struct Opening {
    most: u32,
    /// The whole relay is throttled to one connection.
    one_at_relay: bool,
    /// The provider is, at this relay.
    pub(super) one_connection: bool,
    probe: Option<Probe>,
}

/// Why a lane's copies may not pass through a relay.
pub(super) enum Obstacle {
    Suspended,
    Breaker {
        provider: Option<i64>,
        until: Option<Timestamp>,
    },
    /// A relay that is used first takes them.
    Better,
}

impl Board {
    pub(super) fn new(relays: impl IntoIterator<Item = RelayTerms>, limits: Limits) -> Self {
        Self {
            limits,
            lanes: Lanes::default(),
            relays: relays.into_iter().map(RelaySlot::new).collect(),
            workers: Vec::new(),
            wake_at: None,
            draining: false,
            apart: BTreeSet::new(),
            notices: Vec::new(),
            openings: 0,
        }
    }

    /// Whether the feeder should look for more.
    pub(super) fn wants_more(&self) -> bool {
        let mut common = 0;
        for lane in self.lanes.lanes() {
            if !self.apart.contains(&lane.provider) {
                common += lane.len();
            } else if lane.len() < LANE_LOW / 2 {
                return !self.draining;
            }
        }
        !self.draining && common < LANE_LOW
    }

    /// Serves waiting workers until nothing more can be given: those of the relays to use first
    /// before others, and among equals the one that had the least of its share.
    pub(super) fn pump(&mut self, now: Timestamp) {
        self.wake_at = None;
        if self.lanes.is_empty() {
            return;
        }
        let mut dry = 0u64;
        loop {
            let wants = |(index, slot): &(usize, &RelaySlot)| {
                dry & (1 << index) == 0 && !slot.suspended && !slot.waiting.is_empty()
            };
            let next = self.relays.iter().enumerate().filter(wants).min_by(|(_, a), (_, b)| {
                let priority = a.terms.priority.cmp(&b.terms.priority);
                priority.then(a.served.total_cmp(&b.served))
            });
            let Some((relay, _)) = next else { return };
            let mut until = None;
            if !self.serve(relay, now, &mut until) {
                dry |= 1 << relay;
                if let Some(until) = until {
                    self.wake_not_after(until);
                }
            }
        }
    }

    /// Gives copies to one worker of a relay; false when none can be given before `until`.
    fn serve(&mut self, relay: usize, now: Timestamp, until: &mut Option<Timestamp>) -> bool {
        self.relays[relay].waiting.retain(|waiting| !waiting.reply.is_closed());
        for index in 0..self.lanes.service.len() {
            let provider = self.lanes.service[index].provider;
            let way = Way { relay, provider, newsletter: None };
            let Some((opening, at)) = self.find(way, true, now, until) else { continue };
            if self.allowance(way, 1, now, until) == 0 {
                continue;
            }
            let copies = self.lanes.service.remove(index).into_iter().collect();
            self.give(way, &opening, at, copies);
            return true;
        }
        for index in self.lanes.in_turn() {
            let lane = &self.lanes.lanes()[index];
            let (provider, newsletter) = (lane.provider, Some(lane.newsletter));
            let length = u32::try_from(lane.len()).unwrap_or(u32::MAX);
            let way = Way { relay, provider, newsletter };
            let Some((opening, at)) = self.find(way, false, now, until) else { continue };
            let wanted = self.relays[relay].waiting[at].wanted.min(opening.most).min(length);
            let granted = self.allowance(way, wanted, now, until);
            if granted == 0 {
                continue;
            }
            if opening.probe.is_some() {
                self.lanes.most_tried_first(index);
            }
            let copies = self.lanes.take(index, granted as usize);
            self.give(way, &opening, at, copies);
            return true;
        }
        false
    }

    /// How copies may pass, and the worker that would take them.
    fn find(
        &self,
        way: Way,
        service: bool,
        now: Timestamp,
        until: &mut Option<Timestamp>,
    ) -> Option<(Opening, usize)> {
        match self.opening(way.relay, way.provider, now) {
            Ok(opening) => {
                let at = self.worker_for(way, service, &opening)?;
                Some((opening, at))
            }
            Err(Obstacle::Breaker { until: Some(at), .. }) => {
                *until = Some(until.map_or(at, |until| until.min(at)));
                None
            }
            Err(_) => None,
        }
    }

    fn allowance(
        &mut self,
        way: Way,
        wanted: u32,
        now: Timestamp,
        until: &mut Option<Timestamp>,
    ) -> u32 {
        match self.limits.take(way, wanted, now) {
            Allowance::Granted(granted) => granted,
            Allowance::Wait { until: at, .. } => {
                *until = Some(until.map_or(at, |until| until.min(at)));
                0
            }
        }
    }

    /// Whether and how copies to `provider` may pass through `relay`.
    pub(super) fn opening(
        &self,
        relay: usize,
        provider: i64,
        now: Timestamp,
    ) -> Result<Opening, Obstacle> {
        let slot = &self.relays[relay];
        if slot.suspended {
            return Err(Obstacle::Suspended);
        }
        let (at_relay, at_pair) = slot.admits(provider, now);
        for (admission, provider) in [(at_relay, None), (at_pair, Some(provider))] {
            if let Admission::Nothing(until) = admission {
                return Err(Obstacle::Breaker { provider, until });
            }
        }
        let better = |(index, other): (usize, &RelaySlot)| {
            other.terms.priority < slot.terms.priority
                && other.is_passable(provider, now)
                && !self.limits.is_warm_up_used_up(index, provider, now)
        };
        if self.relays.iter().enumerate().any(better) {
            return Err(Obstacle::Better);
        }
        let one = |admission| admission == Admission::OneMessage;
        let probe = Probe { relay: one(at_relay), pair: one(at_pair) };
        let probe = (probe.relay || probe.pair).then_some(probe);
        let one_at_relay = at_relay == Admission::OneConnection;
        let one_connection = at_pair == Admission::OneConnection;
        let most = match &probe {
            Some(_) => 1,
            None if one_at_relay || one_connection => THROTTLED_SLICE,
            None => u32::MAX,
        };
        Ok(Opening { most, one_at_relay, one_connection, probe })
    }

    /// The waiting worker that may take copies for a provider. The one that asked last comes first:
    /// its session is the warmest.
    fn worker_for(&self, way: Way, service: bool, opening: &Opening) -> Option<usize> {
        let slot = &self.relays[way.relay];
        // Confirmations do not stand in line: they are few.
        let room = service || (slot.has_room() && (!opening.one_at_relay || slot.in_use == 0));
        let room_here = service || slot.has_room_for(way.provider, opening.one_connection);
        let may = |waiting: &Waiting| {
            let worker = &self.workers[waiting.worker];
            let idle = worker.busy.is_none();
            let works_here = worker.busy == Some(way.provider);
            (service || !worker.reserved)
                && (room || !idle)
                && (room_here || works_here)
                && (opening.probe.is_none() || idle)
        };
        // Reserved connections take nothing else: they keep the others free.
        let reserved = |waiting: &Waiting| self.workers[waiting.worker].reserved;
        let of_reserved = service.then(|| slot.waiting.iter().rposition(reserved)).flatten();
        of_reserved
            .filter(|at| may(&slot.waiting[*at]))
            .or_else(|| slot.waiting.iter().rposition(may))
    }

    /// Gives copies, already taken from the limits, to a waiting worker.
    fn give(
        &mut self,
        way: Way,
        opening: &Opening,
        at: usize,
        copies: Vec<crate::delivery::queue::Claimed>,
    ) {
        let count = copies.len() as u32;
        let waiting = self.relays[way.relay].waiting.remove(at);
        let worker = waiting.worker;
        let grant = Grant { copies, newsletter: way.newsletter };
        if let Err(grant) = waiting.reply.send(grant) {
            self.limits.refund(way, count);
            self.lanes.put_back(grant.newsletter, grant.copies);
            return;
        }
        let priority = self.relays[way.relay].terms.priority;
        let peers = self.relays.iter().filter(|slot| slot.terms.priority == priority);
        let lead = peers.map(|slot| slot.served).fold(0.0, f64::max);
        let slot = &mut self.relays[way.relay];
        slot.served = slot.served.max(lead - SHARE_LAG) + f64::from(count) / slot.terms.weight;
        let hands = &mut self.workers[worker];
        let worked_here = hands.busy == Some(way.provider);
        if hands.busy.is_none() {
            hands.busy = Some(way.provider);
            slot.in_use += 1;
        } else {
            hands.next = Some(way.provider);
        }
        let pair = slot.pair(way.provider);
        if !worked_here {
            pair.in_use += 1;
        }
        if let Some(probe) = opening.probe {
            hands.probe = Some(probe);
            if probe.pair {
                pair.breaker.probe_begins();
            }
            if probe.relay {
                slot.breaker.probe_begins();
            }
        }
    }

    /// A worker wants copies.
    pub(super) fn wait(&mut self, worker: usize, wanted: u32, reply: oneshot::Sender<Grant>) {
        let relay = self.workers[worker].relay;
        self.relays[relay].waiting.push(Waiting { worker, wanted, reply });
    }

    /// A worker wants no copies for now.
    pub(super) fn stop_waiting(&mut self, worker: usize) {
        let slot = &mut self.relays[self.workers[worker].relay];
        if let Some(at) = slot.waiting.iter().position(|waiting| waiting.worker == worker) {
            let waiting = slot.waiting.remove(at);
            let _ = waiting.reply.send(Grant::default());
        }
    }

    /// Whether what a worker has in hand has to go back: a breaker opened that it does not try out.
    pub(super) fn is_held(&self, worker: usize, now: Timestamp) -> bool {
        let hands = &self.workers[worker];
        let Some(provider) = hands.busy else { return false };
        let (at_relay, at_pair) = self.relays[hands.relay].admits(provider, now);
        let shut = |admission| !matches!(admission, Admission::All | Admission::OneConnection);
        hands.probe.is_none() && (shut(at_relay) || shut(at_pair))
    }

    /// Providers whose many copies in memory do not move freely at any relay.
    pub(super) fn slow_providers(&self, now: Timestamp) -> impl Iterator<Item = i64> {
        let slow = move |provider: i64| {
            self.relays.iter().enumerate().all(|(index, slot)| {
                let pair = slot.pairs.get(&provider);
                let narrowed = pair.is_some_and(|pair| {
                    pair.breaker.admits(now) != Admission::All
                        || pair.concurrency.limit() < pair.concurrency.cap()
                });
                narrowed
                    || !slot.is_passable(provider, now)
                    || self.limits.is_warm_up_used_up(index, provider, now)
            })
        };
        let long = self.lanes.lanes().iter().filter(|lane| lane.len() >= LANE_LOW / 4);
        long.map(|lane| lane.provider).filter(move |provider| slow(*provider))
    }

    pub(super) fn newsletter_limit(
        &mut self,
        newsletter: NewsletterId,
        per_second: Option<f64>,
        now: Timestamp,
    ) {
        self.limits.set_newsletter(newsletter, per_second, now);
    }

    fn wake_not_after(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |wake_at| wake_at.min(at)));
    }
}
