//! What shares a transaction of the ledger's writer: the requests, sorted by what they need, and what
//! they brought.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use super::{Batch, Request, Wanted};
use crate::{
    delivery::queue::{Claimed, Handed, Settlement, Withheld},
    fail_point,
    id::{CopyId, IssueId},
};

/// Requests that share a transaction, sorted by what they need.
#[derive(Default)]
pub(super) struct Group {
    pub(super) settlements: Vec<Settlement>,
    pub(super) released: Vec<Claimed>,
    pub(super) handoffs: BTreeMap<(Option<IssueId>, i64), Vec<Claimed>>,
    pub(super) handoff_replies: Vec<(Vec<CopyId>, oneshot::Sender<Vec<Handed>>)>,
    pub(super) claims: Vec<(Wanted, u32)>,
    pub(super) claim_replies: Vec<oneshot::Sender<Batch>>,
}

/// What a transaction brought.
#[derive(Default)]
pub(super) struct Done {
    pub(super) handed: Vec<Handed>,
    pub(super) withheld: Vec<(Claimed, Withheld)>,
    pub(super) batches: Vec<Batch>,
    /// How far the database has come, if copies were handed off.
    pub(super) mark: Option<i64>,
}

impl Group {
    pub(super) fn gather(requests: impl Iterator<Item = Request>) -> Self {
        let mut group = Self::default();
        for request in requests {
            match request {
                Request::Settle(settlement) => group.settlements.push(*settlement),
                Request::Release(copies) => group.released.extend(copies),
                Request::Claim { wanted, limit, reply } => {
                    group.claims.push((wanted, limit));
                    group.claim_replies.push(reply);
                }
                Request::HandOff { copies, reply } => {
                    let ids = copies.iter().map(|copy| copy.copy).collect();
                    group.handoff_replies.push((ids, reply));
                    for copy in copies {
                        let issue = match copy.copy {
                            CopyId::Issue { issue, .. } => Some(issue),
                            CopyId::Service(_) => None,
                        };
                        group.handoffs.entry((issue, copy.claim)).or_default().push(copy);
                    }
                }
            }
        }
        group
    }
}

/// The steps of a commit by what is in it: claims, handoffs, outcomes.
pub(super) const BEFORE_COMMIT: [&str; 3] =
    ["claim.before_commit", "handoff.before_commit", "outcome.before_commit"];
pub(super) const COMMITTED: [&str; 3] =
    ["claim.committed", "handoff.committed", "outcome.committed"];

pub(super) fn reach(group: &Group, done: &Done, [claim, handoff, outcome]: [&'static str; 3]) {
    fail_point::reach_if(done.batches.iter().any(|batch| !batch.copies.is_empty()), claim);
    fail_point::reach_if(!done.handed.is_empty(), handoff);
    fail_point::reach_if(!group.settlements.is_empty(), outcome);
}
