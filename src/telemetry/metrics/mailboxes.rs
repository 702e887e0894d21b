//! What became of the mails in mailboxes that returned mail is fetched from.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::{Registry, Unit},
};

use super::gauges::Seconds;
use crate::timestamp::Timestamp;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MailboxLabel {
    mailbox: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MailboxMailsLabels {
    mailbox: String,
    result: &'static str,
}

/// What came of the mails in one mailbox that returned mail is fetched from.
#[derive(Debug, Clone, Default)]
pub struct MailboxSeries {
    /// Mails that were fetched and applied.
    pub fetched: Counter,
    /// Mails with a token of ours, taken away.
    pub handled: Counter,
    /// Mails that were left.
    pub left: Counter,
    /// Mails that were put aside.
    pub aside: Counter,
    /// Looks that failed.
    pub failures: Counter,
    /// Whether the last look worked.
    pub up: Gauge,
    /// When one did, in seconds since 1970.
    pub last_success: Seconds,
    /// Whether the last look ended before it was through.
    pub more: Gauge,
    /// The last look that failed: when, and why.
    problem: Arc<Mutex<Option<(Timestamp, String)>>>,
}

impl MailboxSeries {
    /// Notes a look that failed.
    pub fn failed(&self, at: Timestamp, why: String) {
        self.failures.inc();
        self.up.set(0);
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = Some((at, why));
    }

    /// The last look that failed: when, and why.
    pub fn last_problem(&self) -> Option<(Timestamp, String)> {
        self.problem.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The series of all mailboxes.
#[derive(Debug, Default)]
pub(super) struct Mailboxes {
    mails: Family<MailboxMailsLabels, Counter>,
    failures: Family<MailboxLabel, Counter>,
    up: Family<MailboxLabel, Gauge>,
    last_success: Family<MailboxLabel, Seconds>,
    more: Family<MailboxLabel, Gauge>,
    known: Mutex<BTreeMap<String, MailboxSeries>>,
}

impl Mailboxes {
    pub(super) fn register(&self, registry: &mut Registry) {
        let mails =
            "Mails in mailboxes that returned mail is fetched from, and what became of them";
        registry.register("mailbox_mails", mails, self.mails.clone());
        let failures = "Looks into a mailbox that failed";
        registry.register("mailbox_failures", failures, self.failures.clone());
        let up = "Whether the last look into a mailbox worked";
        registry.register("mailbox_up", up, self.up.clone());
        let last = "When a look into a mailbox worked for the last time, since 1970";
        let name = "mailbox_last_success_timestamp";
        registry.register_with_unit(name, last, Unit::Seconds, self.last_success.clone());
        let more = "Whether the last look into a mailbox ended before it was through";
        registry.register("mailbox_more", more, self.more.clone());
    }

    /// The series of a mailbox, from now on shown.
    pub(super) fn of(&self, name: &str) -> MailboxSeries {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(name.to_owned()).or_insert_with(|| self.new_of(name)).clone()
    }

    fn new_of(&self, name: &str) -> MailboxSeries {
        let label = MailboxLabel { mailbox: name.to_owned() };
        let mails = |result| {
            let label = MailboxMailsLabels { mailbox: name.to_owned(), result };
            self.mails.get_or_create_owned(&label)
        };
        MailboxSeries {
            fetched: mails("fetched"),
            handled: mails("handled"),
            left: mails("left"),
            aside: mails("aside"),
            failures: self.failures.get_or_create_owned(&label),
            up: self.up.get_or_create_owned(&label),
            last_success: self.last_success.get_or_create_owned(&label),
            more: self.more.get_or_create_owned(&label),
            problem: Arc::default(),
        }
    }
}
