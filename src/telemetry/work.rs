//! Where the engine's time goes, step by step: counters that add up what each step took, for
//! `/metrics` and for the bench's profile. A step costs two looks at the clock.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::{Registry, Unit},
};

/// A step of a copy's way that does its work without waiting for a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Claiming batches in the ledger.
    Claim,
    /// Handing copies off: the gate, and reading whom they go to.
    HandOff,
    /// Writing outcomes and their lines of the log.
    Outcome,
    /// Committing: the wait for the disk, which serves a whole group.
    Commit,
    /// Making a reader's values: address, links, Message-ID. Where nobody asks for the details, all of
    /// the copy's making but the signature.
    Merge,
    /// Encoding them into the message that is encoded already.
    Encode,
    /// Signing.
    Sign,
    /// Handing the message to the kernel, with the wait for a peer that does not take it.
    Write,
}

impl Step {
    /// Every step, in the order of a copy's way.
    pub const ALL: [Self; 8] = [
        Self::Claim,
        Self::HandOff,
        Self::Merge,
        Self::Encode,
        Self::Sign,
        Self::Write,
        Self::Outcome,
        Self::Commit,
    ];

    /// The step in one word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Claim => "claim",
            Self::HandOff => "handoff",
            Self::Outcome => "outcome",
            Self::Commit => "commit",
            Self::Merge => "merge",
            Self::Encode => "encode",
            Self::Write => "write",
            Self::Sign => "sign",
        }
    }
}

type Seconds = Counter<f64, AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabel {
    step: &'static str,
}

/// The time that every step has taken so far; clones count together.
#[derive(Debug, Clone, Default)]
pub struct Work {
    steps: [Seconds; Step::ALL.len()],
    /// Whether steps are told apart that cost another look at the clock for each copy.
    details: Arc<AtomicBool>,
}

impl Work {
    pub(super) fn registered(registry: &mut Registry) -> Self {
        let family: Family<StepLabel, Seconds> = Family::default();
        registry.register_with_unit(
            "work",
            "Time that the steps of copies' ways took",
            Unit::Seconds,
            family.clone(),
        );
        let mut work = Self::default();
        for step in Step::ALL {
            work.steps[step as usize] =
                family.get_or_create_owned(&StepLabel { step: step.word() });
        }
        work
    }

    /// Adds what `step` took.
    pub fn add(&self, step: Step, took: Duration) {
        self.steps[step as usize].inc_by(took.as_secs_f64());
    }

    /// What `step` has taken so far.
    pub fn taken(&self, step: Step) -> Duration {
        Duration::from_secs_f64(self.steps[step as usize].get())
    }

    /// Tells all steps apart from now on, for a profile.
    pub fn tell_details(&self) {
        self.details.store(true, Ordering::Relaxed);
    }

    /// A watch that starts now.
    pub fn watch(&self) -> Watch<'_> {
        Watch { work: self, since: Instant::now() }
    }
}

/// Tells one step's time from the next one's.
#[derive(Debug)]
pub struct Watch<'a> {
    work: &'a Work,
    since: Instant,
}

impl Watch<'_> {
    /// Says that `step` ends here, where that is of interest; else its time counts for the next.
    pub fn detail(&mut self, step: Step) {
        if self.work.details.load(Ordering::Relaxed) {
            self.lap(step);
        }
    }

    /// Says that `step` ends here; `whole` where the steps before it were not told apart.
    pub fn lap_detail(&mut self, step: Step, whole: Step) {
        let is_told = self.work.details.load(Ordering::Relaxed);
        self.lap(if is_told { step } else { whole });
    }

    /// Says that `step` ends here, and another begins.
    pub fn lap(&mut self, step: Step) {
        let now = Instant::now();
        self.work.add(step, now - self.since);
        self.since = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn laps_add_up_and_clones_count_together() {
        let work = Work::default();
        let clone = work.clone();
        let begin = Instant::now();
        let mut watch = clone.watch();
        watch.lap(Step::Merge);
        watch.lap(Step::Sign);
        work.add(Step::Sign, Duration::from_secs(2));
        let taken = work.taken(Step::Merge) + work.taken(Step::Sign);
        assert!(taken >= Duration::from_secs(2));
        assert!(taken <= Duration::from_secs(2) + begin.elapsed());
        assert_eq!(work.taken(Step::Claim), Duration::ZERO);
    }

    #[test]
    fn details_are_told_apart_only_where_they_are_asked_for() {
        let work = Work::default();
        let spend = || {
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_micros(50) {}
        };
        let make = || {
            let mut watch = work.watch();
            spend();
            watch.detail(Step::Merge);
            spend();
            watch.lap_detail(Step::Encode, Step::Merge);
        };
        make();
        assert_eq!(work.taken(Step::Encode), Duration::ZERO);
        assert!(work.taken(Step::Merge) >= Duration::from_micros(100));
        work.tell_details();
        make();
        assert!(work.taken(Step::Encode) >= Duration::from_micros(50));
        assert!(work.taken(Step::Merge) >= Duration::from_micros(150));
    }
}
