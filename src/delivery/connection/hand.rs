//! What a worker has in hand: handed-off copies in the order in which they go out, and the slices
//! they came in, which the dispatch counts.

use std::collections::VecDeque;

use super::Shared;
use crate::{
    delivery::{lease::Term, limits::Way, policy, queue::Handed},
    timestamp::Timestamp,
};

/// Copies in hand.
#[derive(Debug, Default)]
pub(super) struct Hand {
    ready: VecDeque<Handed>,
    slices: VecDeque<Slice>,
}

/// One grant of the dispatch.
#[derive(Debug)]
struct Slice {
    /// The term of the lease in which it was handed off.
    term: Term,
    /// The limits that its copies were taken from.
    way: Way,
    /// Whether a copy of it was taken out.
    begun: bool,
    /// Copies that nothing has become of yet.
    left: usize,
    /// Copies that went well and that the dispatch has not been told of.
    fine: u32,
}

impl Hand {
    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.ready.len()
    }

    /// The copy that goes next.
    pub(super) fn front(&self) -> Option<&Handed> {
        self.ready.front()
    }

    /// The copies that wait, in their order.
    pub(super) fn ready(&self) -> impl Iterator<Item = &Handed> {
        self.ready.iter()
    }

    /// The term of the lease that the next copy belongs to.
    pub(super) fn term(&self) -> Option<Term> {
        self.slices.front().map(|slice| slice.term)
    }

    /// Whether the next copy is the first of its slice.
    pub(super) fn is_new_slice(&self) -> bool {
        self.slices.front().is_some_and(|slice| !slice.begun)
    }

    /// Adds a slice; one of which nothing was handed off is over at once.
    pub(super) fn add(&mut self, shared: &Shared, worker: usize, slice: (Way, Term, Vec<Handed>)) {
        let (way, term, handed) = slice;
        self.slices.push_back(Slice { way, term, begun: false, left: handed.len(), fine: 0 });
        self.ready.extend(handed);
        self.retire(shared, worker);
    }

    /// Takes the next copy out; it stays part of its slice until [`Hand::through`].
    pub(super) fn pop(&mut self) -> Option<Handed> {
        if let Some(slice) = self.slices.front_mut() {
            slice.begun = true;
        }
        self.ready.pop_front()
    }

    /// The copy that was taken out went well.
    pub(super) fn fine(&mut self) {
        if let Some(slice) = self.slices.front_mut() {
            slice.fine += 1;
        }
    }

    /// Copies that went well since this was asked last.
    pub(super) fn take_fine(&mut self) -> u32 {
        self.slices.front_mut().map_or(0, |slice| std::mem::take(&mut slice.fine))
    }

    /// The copy that was taken out is settled.
    pub(super) fn through(&mut self, shared: &Shared, worker: usize) {
        if let Some(slice) = self.slices.front_mut() {
            slice.left = slice.left.saturating_sub(1);
        }
        self.retire(shared, worker);
    }

    /// Queues again all copies but the first `keep`: they were handed off and not sent.
    pub(super) async fn give_back(&mut self, shared: &Shared, worker: usize, keep: usize) {
        while self.ready.len() > keep
            && let Some(handed) = self.ready.pop_back()
        {
            let last = self.slices.iter_mut().rev().find(|slice| slice.left > 0);
            if let Some(slice) = last {
                slice.left -= 1;
                shared.dispatch.refund(slice.way, 1);
            }
            shared.settle(&handed, policy::untried(Timestamp::now()), None).await;
        }
        self.retire(shared, worker);
    }

    /// The copy that was taken out does not go now: what it took of the limits is given back.
    pub(super) fn refund(&self, shared: &Shared) {
        if let Some(slice) = self.slices.front() {
            shared.dispatch.refund(slice.way, 1);
        }
    }

    /// Nothing is in hand any more, whatever was.
    pub(super) fn end(&mut self, shared: &Shared, worker: usize) {
        for slice in &mut self.slices {
            slice.left = 0;
        }
        self.retire(shared, worker);
    }

    /// Tells the dispatch of slices that are over.
    fn retire(&mut self, shared: &Shared, worker: usize) {
        while let Some(slice) = self.slices.pop_front_if(|slice| slice.left == 0) {
            shared.dispatch.done(worker, slice.fine);
        }
    }
}
