//! What can happen to copies, and what the contract says becomes of them.

use postrider::{
    db::state::CopyState,
    id::{CopyId, IssueId},
    timestamp::Timestamp,
};
use proptest::prelude::*;

pub(super) const READERS: usize = 6;
pub(super) const ISSUE: IssueId = IssueId(1);
/// All of it happens at one moment: time is in the leases and the due times.
pub(super) const NOW: i64 = 1_700_000_000_000_000;

pub(super) fn now() -> Timestamp {
    Timestamp::from_microseconds(NOW)
}

/// What a try comes to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Try {
    Accepted,
    Rejected,
    Deferred,
    Uncertain,
    Untried,
    Skipped,
}

/// What the journal of a daemon that died says of a copy.
#[derive(Debug, Clone, Copy)]
pub(super) enum Word {
    Nothing,
    Dot,
    Yes,
    NotNow,
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    ClaimFirst(u32),
    ClaimDue,
    HandOff(prop::sample::Index),
    Settle(prop::sample::Index, prop::sample::Index, Try),
    Release(prop::sample::Index),
    ReleaseStage,
    /// The readers' provider stays at the first stage, or comes after.
    StayBehind(bool),
    Pause,
    Resume,
    Cancel,
    Leave(prop::sample::Index),
    Suppress(prop::sample::Index),
    LeaseRunsOut,
    LeaseIsRenewed,
    Restart {
        words: Vec<Word>,
        power_lost: bool,
    },
    Resend(prop::sample::Index),
    Expire,
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let index = || any::<prop::sample::Index>();
    let tries = prop_oneof![
        4 => Just(Try::Accepted),
        1 => Just(Try::Rejected),
        2 => Just(Try::Deferred),
        1 => Just(Try::Uncertain),
        1 => Just(Try::Untried),
        1 => Just(Try::Skipped),
    ];
    let words =
        prop_oneof![Just(Word::Nothing), Just(Word::Dot), Just(Word::Yes), Just(Word::NotNow)];
    prop_oneof![
        6 => (1u32..4).prop_map(Step::ClaimFirst),
        3 => Just(Step::ClaimDue),
        9 => index().prop_map(Step::HandOff),
        12 => (index(), index(), tries).prop_map(|(a, b, c)| Step::Settle(a, b, c)),
        2 => index().prop_map(Step::Release),
        2 => Just(Step::ReleaseStage),
        2 => any::<bool>().prop_map(Step::StayBehind),
        1 => Just(Step::Pause),
        2 => Just(Step::Resume),
        1 => index().prop_map(Step::Leave),
        1 => index().prop_map(Step::Suppress),
        1 => Just(Step::LeaseRunsOut),
        2 => Just(Step::LeaseIsRenewed),
        2 => (prop::collection::vec(words, READERS), prop::bool::weighted(0.2))
            .prop_map(|(words, power_lost)| Step::Restart { words, power_lost }),
        1 => index().prop_map(Step::Resend),
    ]
}

/// A course with at most one end in it: after a cancel or an expiry little can happen.
pub(super) fn course() -> impl Strategy<Value = Vec<Step>> {
    let end =
        prop_oneof![3 => Just(None), 1 => Just(Some(Step::Cancel)), 1 => Just(Some(Step::Expire))];
    let steps = prop::collection::vec(step(), 1..60);
    (steps, end, any::<prop::sample::Index>()).prop_map(|(mut steps, end, at)| {
        if let Some(end) = end {
            steps.insert(at.index(steps.len()), end);
        }
        steps
    })
}

/// One copy as the model sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Copy {
    pub(super) state: CopyState,
    pub(super) attempts: i64,
    pub(super) claim: Option<i64>,
    /// Whether it was tried or given back before, and is claimed by its due time.
    pub(super) due: bool,
    /// How often the relay took it, and how often an operator had it sent again.
    pub(super) taken: u32,
    pub(super) resends: u32,
}

/// The model: what the contract says, and nothing of how it is done.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) copies: Vec<Copy>,
    pub(super) left: [bool; READERS],
    pub(super) suppressed: [bool; READERS],
    pub(super) sending: bool,
    pub(super) stage: i64,
    /// Whether the provider of all readers stays at the first stage.
    pub(super) behind: bool,
    /// The node at work, and whether its lease holds.
    pub(super) node: i64,
    pub(super) leased: bool,
}

pub(super) fn stage_of(reader: usize) -> i64 {
    i64::from(reader >= READERS / 2)
}

pub(super) fn id_of(copy: CopyId) -> usize {
    match copy {
        CopyId::Issue { subscriber, .. } => subscriber.0 as usize - 1,
        CopyId::Service(_) => unreachable!("the model has issues only"),
    }
}

impl Model {
    pub(super) fn new(node: i64) -> Self {
        let copy = Copy {
            state: CopyState::Waiting,
            attempts: 0,
            claim: None,
            due: false,
            taken: 0,
            resends: 0,
        };
        Self {
            copies: vec![copy; READERS],
            left: [false; READERS],
            suppressed: [false; READERS],
            sending: true,
            stage: 0,
            behind: false,
            node,
            leased: true,
        }
    }

    /// The last stage that is released to the readers' provider.
    fn released(&self) -> i64 {
        if self.behind { 0 } else { self.stage }
    }

    pub(super) fn claims(&mut self, claim: i64, due: bool, limit: usize) -> Vec<usize> {
        // First tries are looked for at a provider's own stage; a due time may have come with a reader
        // who was with another provider before.
        let stage = if due { self.released() } else { self.stage };
        let eligible = self.copies.iter().enumerate().filter(|(reader, copy)| {
            copy.state == CopyState::Waiting && copy.due == due && stage_of(*reader) <= stage
        });
        let taken: Vec<usize> = eligible.map(|(reader, _)| reader).take(limit).collect();
        for reader in &taken {
            self.copies[*reader].state = CopyState::Claimed;
            self.copies[*reader].claim = Some(claim);
        }
        taken
    }

    /// Hands off what `claim` of `node` still holds; returns which may be sent.
    pub(super) fn hands_off(&mut self, node: i64, claim: i64, readers: &[usize]) -> Vec<usize> {
        let released = self.released();
        let mut handed = Vec::new();
        for &reader in readers {
            let copy = &mut self.copies[reader];
            if copy.claim != Some(claim) {
                continue;
            }
            if copy.state == CopyState::HandedOff {
                // Asked for again, as after a COMMIT whose answer was lost.
                handed.push(reader);
            }
            if copy.state != CopyState::Claimed {
                continue;
            }
            let going = self.sending && stage_of(reader) <= released;
            if going && (self.left[reader] || self.suppressed[reader]) {
                copy.state = CopyState::Skipped;
            } else if going && self.leased && node == self.node {
                copy.state = CopyState::HandedOff;
                handed.push(reader);
            } else {
                copy.state = CopyState::Waiting;
                copy.due = true;
            }
        }
        handed
    }

    pub(super) fn settles(&mut self, claim: i64, reader: usize, what: Try, attempts: i64) {
        let copy = &mut self.copies[reader];
        if copy.state != CopyState::HandedOff || copy.claim != Some(claim) {
            return;
        }
        copy.state = state_of(what);
        copy.attempts = attempts;
        copy.due = copy.state == CopyState::Waiting;
        copy.taken += u32::from(matches!(what, Try::Accepted | Try::Uncertain));
    }

    pub(super) fn gives_back(&mut self, claim: Option<i64>) {
        for copy in &mut self.copies {
            let held = claim.is_none() || copy.claim == claim;
            if copy.state == CopyState::Claimed && held {
                copy.state = CopyState::Waiting;
                copy.due = true;
            }
        }
    }

    pub(super) fn restarts(&mut self, words: &[Word], power_lost: bool, node: i64) {
        self.gives_back(None);
        for (copy, word) in self.copies.iter_mut().zip(words) {
            if copy.state != CopyState::HandedOff {
                continue;
            }
            let word = if power_lost { Word::Dot } else { *word };
            (copy.state, copy.due) = match word {
                Word::Nothing | Word::NotNow => (CopyState::Waiting, true),
                Word::Dot => (CopyState::Uncertain, false),
                Word::Yes => (CopyState::Accepted, false),
            };
            copy.attempts += i64::from(!matches!(word, Word::Nothing));
            copy.taken += u32::from(copy.state != CopyState::Waiting);
        }
        self.node = node;
        self.leased = true;
    }
}

pub(super) fn state_of(what: Try) -> CopyState {
    match what {
        Try::Accepted => CopyState::Accepted,
        Try::Rejected => CopyState::Rejected,
        Try::Deferred | Try::Untried => CopyState::Waiting,
        Try::Uncertain => CopyState::Uncertain,
        Try::Skipped => CopyState::Skipped,
    }
}
