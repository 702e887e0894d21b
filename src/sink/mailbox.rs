//! The messages that the sink holds, in memory, newest kept: bounded by count and by bytes, the
//! oldest dropped and counted.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::timestamp::Timestamp;

use super::content::Content;

/// How much a [`Mailbox`] holds.
#[derive(Debug, Clone, Copy)]
pub struct MailboxLimits {
    /// Messages.
    pub messages: usize,
    /// Bytes of raw messages.
    pub bytes: usize,
}

impl Default for MailboxLimits {
    /// Ten thousand messages or 256 MB, whichever comes first: enough to rehearse with, and no
    /// machine minds.
    fn default() -> Self {
        Self { messages: 10_000, bytes: 256_000_000 }
    }
}

/// A message as the sink received it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// Counts from 1 in one run of the sink; larger is newer.
    pub id: u64,
    /// When its final dot came.
    pub at: Timestamp,
    /// The connection it came on.
    pub connection: u64,
    /// The envelope sender.
    pub mail_from: String,
    /// The envelope recipients.
    pub rcpt_to: Vec<String>,
    /// The `From` field, decoded.
    pub from: String,
    /// The `Subject` field, decoded.
    pub subject: String,
    /// The `Message-ID` without brackets.
    pub message_id: Option<String>,
    /// The message itself.
    pub raw: Vec<u8>,
}

impl Received {
    /// The message taken apart.
    pub fn content(&self) -> Content {
        Content::parse(&self.raw)
    }
}

/// Which messages are wanted. Everything set must match; texts match anywhere, in any case.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(default)]
pub struct Filter {
    /// In an envelope recipient.
    pub to: Option<String>,
    /// In the subject.
    pub subject: Option<String>,
    /// In a recipient, the sender or the subject.
    pub q: Option<String>,
    /// Received at this time or later.
    pub since: Option<Timestamp>,
    /// With a smaller id, to page on.
    pub before: Option<u64>,
    /// At most so many; 50 unless set, 1,000 at most.
    pub limit: Option<usize>,
}

impl Filter {
    fn limit(&self) -> usize {
        self.limit.unwrap_or(50).min(1000)
    }

    fn matches(&self, message: &Received) -> bool {
        let within = |text: &str, part: &str| text.to_lowercase().contains(part);
        let has = |part: &Option<String>, test: &dyn Fn(&str) -> bool| {
            part.as_deref().is_none_or(|part| test(&part.trim().to_lowercase()))
        };
        let to = |part: &str| message.rcpt_to.iter().any(|address| within(address, part));
        let anywhere =
            |part: &str| to(part) || within(&message.from, part) || within(&message.subject, part);
        self.before.is_none_or(|before| message.id < before)
            && self.since.is_none_or(|since| message.at >= since)
            && has(&self.to, &to)
            && has(&self.subject, &|part| within(&message.subject, part))
            && has(&self.q, &anywhere)
    }
}

/// The messages held.
#[derive(Debug)]
pub struct Mailbox {
    limits: MailboxLimits,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// Oldest first.
    messages: VecDeque<Arc<Received>>,
    bytes: usize,
    last_id: u64,
    dropped: u64,
}

impl Mailbox {
    /// An empty mailbox.
    pub fn new(limits: MailboxLimits) -> Self {
        Self { limits, held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a message in, gives it its id, and drops the oldest ones as far as the limits ask.
    pub fn put(&self, mut message: Received) -> u64 {
        let mut held = self.held();
        held.last_id += 1;
        message.id = held.last_id;
        held.bytes += message.raw.len();
        held.messages.push_back(Arc::new(message));
        while held.messages.len() > self.limits.messages || held.bytes > self.limits.bytes {
            let Some(oldest) = held.messages.pop_front() else { break };
            held.bytes -= oldest.raw.len();
            held.dropped += 1;
        }
        held.last_id
    }

    /// One message, unless it was dropped.
    pub fn get(&self, id: u64) -> Option<Arc<Received>> {
        let held = self.held();
        let at = held.messages.binary_search_by_key(&id, |message| message.id).ok()?;
        held.messages.get(at).cloned()
    }

    /// The messages that `filter` lets through, newest first.
    pub fn find(&self, filter: &Filter) -> Vec<Arc<Received>> {
        let everything: Vec<_> = self.held().messages.iter().rev().cloned().collect();
        everything
            .into_iter()
            .filter(|message| filter.matches(message))
            .take(filter.limit())
            .collect()
    }

    /// How many messages are held.
    pub fn len(&self) -> usize {
        self.held().messages.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes are held.
    pub fn bytes(&self) -> usize {
        self.held().bytes
    }

    /// How many messages were dropped for want of room.
    pub fn dropped(&self) -> u64 {
        self.held().dropped
    }

    /// Forgets every message; ids go on.
    pub fn clear(&self) {
        let mut held = self.held();
        held.messages.clear();
        held.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(to: &str, subject: &str, size: usize) -> Received {
        Received {
            id: 0,
            at: Timestamp::default(),
            connection: 1,
            mail_from: String::new(),
            rcpt_to: vec![to.to_owned()],
            from: "SRE <sre@example.org>".into(),
            subject: subject.to_owned(),
            message_id: None,
            raw: vec![b'x'; size],
        }
    }

    #[test]
    fn the_oldest_go_when_room_is_short_and_are_counted() {
        let mailbox = Mailbox::new(MailboxLimits { messages: 3, bytes: 100 });
        for _ in 0..4 {
            mailbox.put(message("a@example.org", "s", 10));
        }
        assert_eq!((mailbox.len(), mailbox.bytes(), mailbox.dropped()), (3, 30, 1));
        mailbox.put(message("a@example.org", "s", 75));
        assert_eq!((mailbox.len(), mailbox.bytes(), mailbox.dropped()), (3, 95, 2));
        mailbox.put(message("a@example.org", "s", 101));
        assert_eq!((mailbox.len(), mailbox.bytes()), (0, 0));
        assert!(mailbox.get(5).is_none());
    }

    #[test]
    fn messages_are_found_newest_first() {
        let mailbox = Mailbox::new(MailboxLimits::default());
        for (to, subject) in [
            ("ada@example.org", "Confirm"),
            ("bob@example.org", "Issue 1"),
            ("ada@x.example", "Issue 2"),
        ] {
            mailbox.put(message(to, subject, 1));
        }
        let ids = |filter| mailbox.find(&filter).iter().map(|m| m.id).collect::<Vec<_>>();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(ids(Filter::default()), [3, 2, 1]);
        assert_eq!(ids(Filter { to: some("ADA@"), ..Filter::default() }), [3, 1]);
        assert_eq!(ids(Filter { subject: some("issue"), ..Filter::default() }), [3, 2]);
        assert_eq!(ids(Filter { q: some("bob"), ..Filter::default() }), [2]);
        assert_eq!(ids(Filter { before: Some(3), limit: Some(1), ..Filter::default() }), [2]);
        let later = Timestamp::from_microseconds(1);
        assert_eq!(ids(Filter { since: Some(later), ..Filter::default() }), [0_u64; 0]);
        assert_eq!(mailbox.get(2).unwrap().subject, "Issue 1");
    }
}
