//! How many copies of an issue stand where: kept in memory while the daemon sends, so that gates,
//! stages and pages need no count over a million rows, and compared with the ledger now and then.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::queue::Count;
use crate::db::state::CopyState;

/// Counts of one provider's copies within one stage.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// By state, in the order of [`CopyState::ALL`].
    pub states: [i64; CopyState::ALL.len()],
    /// Of the waiting ones, those that were tried before.
    pub deferred: i64,
    /// Refused for good because of the recipient.
    pub refused_recipient: i64,
    /// Refused for good because of reputation, policy or content.
    pub refused_policy: i64,
    /// Refused because the mail did not authenticate.
    pub refused_authentication: i64,
    /// Called spam by their readers.
    pub complaints: i64,
    /// Followed by their readers' leaving.
    pub unsubscribed: i64,
}

/// Whose fault a refusal was, as far as gates care.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The recipient's: no such mailbox.
    Recipient,
    /// Ours: reputation, policy, content.
    Policy,
    /// Ours: authentication.
    Authentication,
}

impl Cell {
    /// How many copies are in `state`.
    pub fn get(&self, state: CopyState) -> i64 {
        self.states[state as usize]
    }

    /// How many copies there are.
    pub fn total(&self) -> i64 {
        self.states.iter().sum()
    }

    /// How many copies have an outcome of an attempt.
    pub fn decided(&self) -> i64 {
        [CopyState::Accepted, CopyState::Rejected, CopyState::Uncertain]
            .map(|state| self.get(state))
            .iter()
            .sum()
    }

    /// How many copies nothing more will happen to by itself.
    pub fn finished(&self) -> i64 {
        CopyState::ALL.iter().filter(|state| state.is_final()).map(|state| self.get(*state)).sum()
    }

    /// Adds other copies' counts.
    pub fn add(&mut self, other: &Self) {
        self.change(other, 1);
    }

    fn change(&mut self, other: &Self, sign: i64) {
        for (sum, more) in self.states.iter_mut().zip(other.states) {
            *sum += sign * more;
        }
        self.deferred += sign * other.deferred;
        self.refused_recipient += sign * other.refused_recipient;
        self.refused_policy += sign * other.refused_policy;
        self.refused_authentication += sign * other.refused_authentication;
        self.complaints += sign * other.complaints;
        self.unsubscribed += sign * other.unsubscribed;
    }
}

/// All counts of one issue.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    cells: BTreeMap<(i64, i64), Cell>,
}

impl Tally {
    /// The tally that `counts` of the ledger add up to; refusals come by [`Tally::refuse`].
    pub fn from_counts(counts: &[Count]) -> Self {
        let mut tally = Self::default();
        for count in counts {
            let cell = tally.cells.entry((count.stage, count.provider)).or_default();
            cell.states[count.state as usize] += count.copies;
            if count.deferred != 0 {
                cell.deferred += count.copies;
            }
        }
        tally
    }

    /// Adds what changed from `before` to `after`.
    pub fn add_changes(&mut self, before: &Self, after: &Self) {
        for (tally, sign) in [(after, 1), (before, -1)] {
            for (key, cell) in &tally.cells {
                self.cells.entry(*key).or_default().change(cell, sign);
            }
        }
    }

    /// Moves one copy.
    pub fn move_copy(&mut self, stage: i64, provider: i64, from: CopyState, to: CopyState) {
        let cell = self.cells.entry((stage, provider)).or_default();
        cell.states[from as usize] -= 1;
        cell.states[to as usize] += 1;
    }

    /// Notes that waiting copies became (or stopped being) ones that were tried before.
    pub fn deferred(&mut self, stage: i64, provider: i64, change: i64) {
        self.cells.entry((stage, provider)).or_default().deferred += change;
    }

    /// Notes `count` refusals for `fault`.
    pub fn refuse(&mut self, stage: i64, provider: i64, fault: Fault, count: i64) {
        let cell = self.cells.entry((stage, provider)).or_default();
        *match fault {
            Fault::Recipient => &mut cell.refused_recipient,
            Fault::Policy => &mut cell.refused_policy,
            Fault::Authentication => &mut cell.refused_authentication,
        } += count;
    }

    /// Sets how many complaints there are.
    pub fn set_complaints(&mut self, stage: i64, provider: i64, complaints: i64) {
        self.cells.entry((stage, provider)).or_default().complaints = complaints;
    }

    /// Sets how many readers left because of their copy.
    pub fn set_unsubscribed(&mut self, stage: i64, provider: i64, unsubscribed: i64) {
        self.cells.entry((stage, provider)).or_default().unsubscribed = unsubscribed;
    }

    /// The counts of everything.
    pub fn total(&self) -> Cell {
        self.sum(|_, _| true)
    }

    /// The counts of one stage.
    pub fn stage(&self, stage: i64) -> Cell {
        self.sum(|of, _| of == stage)
    }

    /// The counts of one provider in one stage.
    pub fn cell(&self, stage: i64, provider: i64) -> Cell {
        self.cells.get(&(stage, provider)).copied().unwrap_or_default()
    }

    /// The counts of the stages up to `stage`.
    pub fn up_to_stage(&self, stage: i64) -> Cell {
        self.sum(|of, _| of <= stage)
    }

    /// The counts of one stage by provider.
    pub fn providers_of_stage(&self, stage: i64) -> HashMap<i64, Cell> {
        let of_stage = self.cells.iter().filter(|((of, _), _)| *of == stage);
        of_stage.map(|((_, provider), cell)| (*provider, *cell)).collect()
    }

    /// The counts of the whole issue by provider.
    pub fn providers(&self) -> BTreeMap<i64, Cell> {
        self.providers_up_to_stage(i64::MAX)
    }

    /// The counts of the stages up to `stage` by provider.
    pub fn providers_up_to_stage(&self, stage: i64) -> BTreeMap<i64, Cell> {
        let mut providers: BTreeMap<i64, Cell> = BTreeMap::new();
        for ((of, provider), cell) in &self.cells {
            if *of <= stage {
                providers.entry(*provider).or_default().add(cell);
            }
        }
        providers
    }

    fn sum(&self, wanted: impl Fn(i64, i64) -> bool) -> Cell {
        let mut sum = Cell::default();
        for (_, cell) in
            self.cells.iter().filter(|((stage, provider), _)| wanted(*stage, *provider))
        {
            sum.add(cell);
        }
        sum
    }
}
