//! The delivery log: one event per fact, one schema for the table, the live page, the command line
//! and JSON. Owns the table `event`. Writing happens inside the transaction that made the fact true,
//! so the log can neither miss it nor claim it.
//!
//! A try of a copy is one row: that of its outcome. Claim and handoff are facts too, but rows of their
//! own would triple what a send writes; how long before the outcome they happened stands in its row,
//! and [`Line::step`] tells them from there.

mod insert;

use serde::Serialize;

pub use insert::record;

use crate::{
    db::{record::record, state::EventKind},
    id::{IssueId, NodeId, ServiceMailId, SubscriberId},
    timestamp::Timestamp,
};

record! {
    /// One line of the log. What does not apply is empty.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    pub struct Event {
        /// When it happened.
        pub at: Timestamp,
        /// What happened.
        pub kind: EventKind,
        /// The issue it is about.
        pub issue_id: Option<IssueId>,
        /// The reader it is about.
        pub subscriber_id: Option<SubscriberId>,
        /// The service mail it is about.
        pub service_id: Option<ServiceMailId>,
        /// Which try of the copy.
        pub attempt: Option<i64>,
        /// The daemon that did it.
        pub node_id: Option<NodeId>,
        /// The relay it was tried at.
        pub relay: Option<String>,
        /// The mail server of the reader's domain, with its address, where it was brought there
        /// directly.
        pub host: Option<String>,
        /// The provider of the address.
        pub provider: Option<i64>,
        /// The connection, numbered within the daemon's life.
        pub session: Option<i64>,
        /// The SMTP phase that decided.
        pub phase: Option<String>,
        /// The reply's code.
        pub code: Option<i64>,
        /// The reply's enhanced code (RFC 3463).
        pub enhanced: Option<String>,
        /// The reply's text, or why.
        pub text: Option<String>,
        /// Whose fault, and whether for good.
        pub class: Option<String>,
        /// The rule that decided the class.
        pub rule: Option<String>,
        /// From the first byte of the envelope to the deciding reply, in microseconds.
        pub duration_us: Option<i64>,
        /// The message's size on the wire.
        pub bytes: Option<i64>,
        /// How long before `at` this try was due, in microseconds.
        pub due_us: Option<i64>,
        /// How long before `at` the copy was claimed for it.
        pub claimed_us: Option<i64>,
        /// How long before `at` it was handed off.
        pub handed_us: Option<i64>,
    }
}

impl Event {
    /// An event that names nothing but its kind and time yet.
    pub fn new(kind: EventKind, at: Timestamp) -> Self {
        Self {
            at,
            kind,
            issue_id: None,
            subscriber_id: None,
            service_id: None,
            attempt: None,
            node_id: None,
            relay: None,
            host: None,
            provider: None,
            session: None,
            phase: None,
            code: None,
            enhanced: None,
            text: None,
            class: None,
            rule: None,
            duration_us: None,
            bytes: None,
            due_us: None,
            claimed_us: None,
            handed_us: None,
        }
    }

    /// The same event of a copy that was due and claimed at these times.
    #[must_use]
    pub fn after_claim(mut self, due_at: Timestamp, claimed_at: Timestamp) -> Self {
        self.due_us = Some(micros(due_at, self.at));
        self.claimed_us = Some(micros(claimed_at, self.at));
        self
    }

    /// The same event of a copy that was handed off at this time.
    #[must_use]
    pub fn after_handoff(mut self, handed_off_at: Timestamp) -> Self {
        self.handed_us = Some(micros(handed_off_at, self.at));
        self
    }

    /// The same event about a reader.
    #[must_use]
    pub fn about(mut self, issue: Option<IssueId>, subscriber: Option<SubscriberId>) -> Self {
        self.issue_id = issue;
        self.subscriber_id = subscriber;
        self
    }

    /// The same event with a reason.
    #[must_use]
    pub fn because(mut self, text: impl Into<String>) -> Self {
        self.text = Some(text.into());
        self
    }
}

/// Microseconds from one time to another; none if the clock was set back between them.
fn micros(from: Timestamp, to: Timestamp) -> i64 {
    (to.microseconds() - from.microseconds()).max(0)
}

/// Which lines of the log are wanted; what is empty does not narrow.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of one issue.
    pub issue: Option<IssueId>,
    /// Of one reader.
    pub subscriber: Option<SubscriberId>,
    /// Of one provider.
    pub provider: Option<i64>,
    /// Of one kind.
    pub kind: Option<EventKind>,
    /// Whose class starts like this (`recipient`, `policy`, …).
    pub class: Option<String>,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Not after.
    pub until: Option<Timestamp>,
}

record! {
    /// A line of the log as people see it.
    #[derive(Debug, Clone, Serialize)]
    pub struct Line {
        /// Grows with every event: where to go on reading.
        pub id: i64,
        /// When it happened.
        pub at: Timestamp,
        /// What happened.
        pub kind: EventKind,
        /// The issue's newsletter.
        pub newsletter: Option<String>,
        /// The issue's number.
        pub issue: Option<i64>,
        /// The reader it is about.
        pub subscriber_id: Option<SubscriberId>,
        /// The reader's address.
        pub address: Option<String>,
        /// Which try of the copy.
        pub attempt: Option<i64>,
        /// The relay it was tried at.
        pub relay: Option<String>,
        /// The mail server of the reader's domain, where it was brought there directly.
        pub host: Option<String>,
        /// The provider of the address.
        pub provider: Option<i64>,
        /// The connection, numbered within the daemon's life.
        pub session: Option<i64>,
        /// The SMTP phase that decided.
        pub phase: Option<String>,
        /// The reply's code.
        pub code: Option<i64>,
        /// The reply's enhanced code.
        pub enhanced: Option<String>,
        /// The reply's text, or why.
        pub text: Option<String>,
        /// Whose fault, and whether for good.
        pub class: Option<String>,
        /// The rule that decided the class.
        pub rule: Option<String>,
        /// From the first byte of the envelope to the deciding reply, in microseconds.
        pub duration_us: Option<i64>,
        /// The message's size on the wire.
        pub bytes: Option<i64>,
        /// Since when the try was due that this line is about.
        pub due_at: Option<Timestamp>,
        /// When the copy was claimed for it.
        pub claimed_at: Option<Timestamp>,
        /// When it was handed off.
        pub handed_off_at: Option<Timestamp>,
    }
}

/// What happened to a copy before the outcome of a try; its row tells them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It was taken under a lease.
    Claimed,
    /// It was marked, durably, just before its envelope.
    HandedOff,
}

impl Step {
    /// The step that a kind of line is about; none for lines that have a row of their own.
    pub const fn of(kind: EventKind) -> Option<Self> {
        match kind {
            EventKind::Claimed => Some(Self::Claimed),
            EventKind::HandedOff => Some(Self::HandedOff),
            _ => None,
        }
    }
}

impl Line {
    /// The line of a step before this line's outcome, with what was known then; none if this line
    /// does not tell of it. It has the number of this line: it came to the log with it.
    pub fn step(&self, step: Step) -> Option<Self> {
        let (kind, at) = match step {
            Step::Claimed => (EventKind::Claimed, self.claimed_at?),
            Step::HandedOff => (EventKind::HandedOff, self.handed_off_at?),
        };
        Some(Self {
            at,
            kind,
            relay: self.relay.clone().filter(|_| step == Step::HandedOff),
            host: None,
            session: None,
            phase: None,
            code: None,
            enhanced: None,
            text: None,
            class: None,
            rule: None,
            duration_us: None,
            bytes: None,
            handed_off_at: self.handed_off_at.filter(|_| step == Step::HandedOff),
            ..self.clone()
        })
    }

    /// This line and the steps before it, newest first.
    pub fn with_steps(self) -> impl Iterator<Item = Self> {
        let before = [Step::HandedOff, Step::Claimed].map(|step| self.step(step));
        std::iter::once(self).chain(before.into_iter().flatten())
    }
}
