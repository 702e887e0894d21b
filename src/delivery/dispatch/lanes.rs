//! The copies that wait in memory: service mail in one queue, copies of issues in a lane for each
//! issue and provider, so that whatever holds one of them up holds nobody else up.

use std::collections::{BTreeSet, VecDeque};

use crate::{
    delivery::queue::Claimed,
    id::{CopyId, IssueId, NewsletterId},
};

/// Everything that waits.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    pub(super) service: VecDeque<Claimed>,
    issues: Vec<Lane>,
    /// The lane whose turn it is.
    turn: usize,
}

/// Copies of one issue to one provider. Never empty.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) issue: IssueId,
    pub(super) newsletter: NewsletterId,
    pub(super) provider: i64,
    copies: VecDeque<Claimed>,
}

impl Lane {
    pub(super) fn len(&self) -> usize {
        self.copies.len()
    }
}

impl Lanes {
    pub(super) fn is_empty(&self) -> bool {
        self.service.is_empty() && self.issues.is_empty()
    }

    pub(super) fn lanes(&self) -> &[Lane] {
        &self.issues
    }

    /// The numbers of all lanes, beginning with the one whose turn it is.
    pub(super) fn in_turn(&self) -> impl Iterator<Item = usize> + use<> {
        let (count, first) = (self.issues.len(), self.turn);
        (0..count).map(move |step| (first + step) % count)
    }

    /// Adds copies of one newsletter's issues.
    pub(super) fn add(
        &mut self,
        newsletter: NewsletterId,
        copies: impl IntoIterator<Item = Claimed>,
    ) {
        for copy in copies {
            let Some(issue) = issue_of(&copy) else {
                self.service.push_back(copy);
                continue;
            };
            self.lane(issue, newsletter, copy.provider).copies.push_back(copy);
        }
    }

    fn lane(&mut self, issue: IssueId, newsletter: NewsletterId, provider: i64) -> &mut Lane {
        let found =
            self.issues.iter().position(|lane| (lane.issue, lane.provider) == (issue, provider));
        let index = found.unwrap_or_else(|| {
            self.issues.push(Lane { issue, newsletter, provider, copies: VecDeque::new() });
            self.issues.len() - 1
        });
        &mut self.issues[index]
    }

    /// Puts the copy of a lane in front that was tried most often. Where first tries are refused on
    /// principle (greylisting), only such a one shows whether mail is taken.
    pub(super) fn most_tried_first(&mut self, index: usize) {
        let copies = &mut self.issues[index].copies;
        let most = (0..copies.len()).rev().max_by_key(|at| copies[*at].attempts);
        if let Some(copy) = most.and_then(|at| copies.remove(at)) {
            copies.push_front(copy);
        }
    }

    /// Takes the first `count` copies of a lane; the next lane has the next turn.
    pub(super) fn take(&mut self, index: usize, count: usize) -> Vec<Claimed> {
        let lane = &mut self.issues[index];
        let taken = lane.copies.drain(..count.min(lane.copies.len())).collect();
        self.turn = index + 1;
        if lane.copies.is_empty() {
            self.issues.remove(index);
            self.turn = index;
        }
        taken
    }

    /// Puts copies back in front, as they were taken.
    pub(super) fn put_back(&mut self, newsletter: Option<NewsletterId>, copies: Vec<Claimed>) {
        for copy in copies.into_iter().rev() {
            match (issue_of(&copy), newsletter) {
                (Some(issue), Some(newsletter)) => {
                    self.lane(issue, newsletter, copy.provider).copies.push_front(copy);
                }
                _ => self.service.push_front(copy),
            }
        }
    }

    /// Takes back every copy of an issue.
    pub(super) fn withdraw(&mut self, issue: IssueId) -> Vec<Claimed> {
        let mut withdrawn = Vec::new();
        self.issues.retain_mut(|lane| {
            if lane.issue == issue {
                withdrawn.extend(lane.copies.drain(..));
            }
            lane.issue != issue
        });
        withdrawn
    }

    /// How many copies of `issue` wait: those to `only`, or those to nobody in `but`.
    pub(super) fn waiting(&self, issue: IssueId, only: Option<i64>, but: &BTreeSet<i64>) -> usize {
        let counts = |lane: &&Lane| {
            lane.issue == issue
                && only.map_or_else(|| !but.contains(&lane.provider), |only| lane.provider == only)
        };
        self.issues.iter().filter(counts).map(Lane::len).sum()
    }
}

fn issue_of(copy: &Claimed) -> Option<IssueId> {
    match copy.copy {
        CopyId::Issue { issue, .. } => Some(issue),
        CopyId::Service(_) => None,
    }
}
