//! What the dispatch knows of relays and of the workers that send through them: who waits, who works
//! for whom, how many may.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::oneshot;

use super::Grant;
use crate::{
    config::Breakers,
    delivery::{
        breaker::{Admission, Breaker},
        concurrency::Concurrency,
    },
    timestamp::Timestamp,
};

/// A relay as the configuration has it.
#[derive(Debug, Clone)]
pub struct RelayTerms {
    /// What operators call it.
    pub name: String,
    /// Relays with the lowest number are used first.
    pub priority: u32,
    /// Its share among relays of the same priority; more than 0.
    pub weight: f64,
    /// How many connections it may have.
    pub connections: u32,
    /// The most connections for single providers.
    pub provider_connections: Arc<BTreeMap<i64, u32>>,
    /// When its breakers trip, and for how long.
    pub breakers: Breakers,
}

/// One relay.
#[derive(Debug)]
pub(super) struct RelaySlot {
    pub(super) terms: RelayTerms,
    pub(super) waiting: Vec<Waiting>,
    pub(super) suspended: bool,
    pub(super) breaker: Breaker,
    /// Over all providers.
    pub(super) concurrency: Concurrency,
    /// How many workers have copies in hand.
    pub(super) in_use: u32,
    /// How many sessions stand.
    pub(super) sessions: u32,
    /// Connections in a row that could not be made, with nothing sent in between.
    pub(super) failures: u32,
    /// Copies given to it, divided by its weight.
    pub(super) served: f64,
    pub(super) pairs: BTreeMap<i64, Pair>,
}

/// One provider at one relay.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) breaker: Breaker,
    pub(super) concurrency: Concurrency,
    /// How many workers have its copies in hand.
    pub(super) in_use: u32,
}

/// A worker that wants copies.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) worker: usize,
    pub(super) wanted: u32,
    pub(super) reply: oneshot::Sender<Grant>,
}

/// One worker. It sends one slice and may have the next one already.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) relay: usize,
    /// Whether it takes service mail only.
    pub(super) reserved: bool,
    /// The provider of the slice that it sends.
    pub(super) busy: Option<i64>,
    /// The provider of the slice after that.
    pub(super) next: Option<i64>,
    /// What its one message tries out.
    pub(super) probe: Option<Probe>,
}

/// Which half-open breakers wait for a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Probe {
    pub(super) relay: bool,
    pub(super) pair: bool,
}

impl RelaySlot {
    pub(super) fn new(terms: RelayTerms) -> Self {
        Self {
            concurrency: Concurrency::new(terms.connections),
            breaker: Breaker::new(terms.breakers),
            terms,
            waiting: Vec::new(),
            suspended: false,
            in_use: 0,
            sessions: 0,
            failures: 0,
            served: 0.0,
            pairs: BTreeMap::new(),
        }
    }

    /// The state kept for a provider.
    pub(super) fn pair(&mut self, provider: i64) -> &mut Pair {
        let cap = self.terms.connections;
        let cap = self.terms.provider_connections.get(&provider).map_or(cap, |own| cap.min(*own));
        let times = self.terms.breakers;
        self.pairs.entry(provider).or_insert_with(|| Pair {
            breaker: Breaker::new(times),
            concurrency: Concurrency::new(cap),
            in_use: 0,
        })
    }

    /// How much passes to a provider.
    pub(super) fn admits(&self, provider: i64, now: Timestamp) -> (Admission, Admission) {
        let pair = self.pairs.get(&provider);
        (self.breaker.admits(now), pair.map_or(Admission::All, |pair| pair.breaker.admits(now)))
    }

    /// Whether mail for a provider goes this way as if nothing were.
    pub(super) fn is_passable(&self, provider: i64, now: Timestamp) -> bool {
        let pair = self.pairs.get(&provider);
        !self.suspended
            && self.breaker.is_passable(now)
            && pair.is_none_or(|pair| pair.breaker.is_passable(now))
    }

    /// Whether another worker may begin to work here at all.
    pub(super) fn has_room(&self) -> bool {
        self.in_use < self.concurrency.limit()
    }

    /// Whether another worker may begin to work for a provider.
    pub(super) fn has_room_for(&self, provider: i64, one_connection: bool) -> bool {
        match self.pairs.get(&provider) {
            None => true,
            Some(pair) if one_connection => pair.in_use == 0,
            Some(pair) => pair.in_use < pair.concurrency.limit(),
        }
    }
}
