//! The audience equation: every copy in exactly one state, and their sum the audience.

use serde::Serialize;

use crate::{
    db::state::CopyState,
    delivery::tally::{Cell, Tally},
};

/// How many copies are in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Equation {
    /// In a stage that is not released.
    pub planned: i64,
    /// May go now.
    pub queued: i64,
    /// Held by the engine; nothing was sent.
    pub claimed: i64,
    /// Marked just before their envelopes.
    pub handed_off: i64,
    /// Wait for another try.
    pub deferred: i64,
    /// Taken by a relay.
    pub accepted: i64,
    /// Refused for good.
    pub rejected: i64,
    /// Perhaps taken: the reply was never seen.
    pub uncertain: i64,
    /// Not sent, for a reason found before.
    pub skipped: i64,
    /// Not taken in time.
    pub expired: i64,
    /// Given up before they left.
    pub cancelled: i64,
}

impl Equation {
    /// The counts of `cell`, whose stage is `released` or not.
    pub fn of(cell: &Cell, released: bool) -> Self {
        let waiting = cell.get(CopyState::Waiting) - cell.deferred;
        let (planned, queued) = if released { (0, waiting) } else { (waiting, 0) };
        Self {
            planned,
            queued,
            claimed: cell.get(CopyState::Claimed),
            handed_off: cell.get(CopyState::HandedOff),
            deferred: cell.deferred,
            accepted: cell.get(CopyState::Accepted),
            rejected: cell.get(CopyState::Rejected),
            uncertain: cell.get(CopyState::Uncertain),
            skipped: cell.get(CopyState::Skipped),
            expired: cell.get(CopyState::Expired),
            cancelled: cell.get(CopyState::Cancelled),
        }
    }

    /// The counts of a whole issue whose stages up to `stage` are released.
    pub fn of_tally(tally: &Tally, stage: i64) -> Self {
        let all = Self::of(&tally.total(), true);
        let released = Self::of(&tally.up_to_stage(stage), true);
        Self { planned: all.queued - released.queued, queued: released.queued, ..all }
    }

    /// Every state's word and count, in the order in which copies go through them.
    pub const fn entries(&self) -> [(&'static str, i64); 11] {
        [
            ("planned", self.planned),
            ("queued", self.queued),
            ("claimed", self.claimed),
            ("handed off", self.handed_off),
            ("deferred", self.deferred),
            ("accepted", self.accepted),
            ("rejected", self.rejected),
            ("uncertain", self.uncertain),
            ("skipped", self.skipped),
            ("expired", self.expired),
            ("cancelled", self.cancelled),
        ]
    }

    /// The sum of all states.
    pub fn total(&self) -> i64 {
        self.entries().iter().map(|(_, copies)| copies).sum()
    }

    /// Copies that something will still happen to by itself.
    pub const fn remaining(&self) -> i64 {
        self.planned + self.queued + self.claimed + self.handed_off + self.deferred
    }

    /// Copies that an attempt decided.
    pub const fn decided(&self) -> i64 {
        self.accepted + self.rejected + self.uncertain
    }
}

impl std::ops::AddAssign for Equation {
    fn add_assign(&mut self, other: Self) {
        self.planned += other.planned;
        self.queued += other.queued;
        self.claimed += other.claimed;
        self.handed_off += other.handed_off;
        self.deferred += other.deferred;
        self.accepted += other.accepted;
        self.rejected += other.rejected;
        self.uncertain += other.uncertain;
        self.skipped += other.skipped;
        self.expired += other.expired;
        self.cancelled += other.cancelled;
    }
}
