//! What the log of a Postfix relay says about copies whose fate is not known. Pure: lines in, evidence
//! out; matched by Message-ID, which leads to queue ids, which lead to outcomes.
//!
//! A Message-ID alone proves nothing: Postfix logs it while a message comes in, also of one that was
//! broken off. What proves that it was taken is the queue manager's line, or an outcome.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use crate::db::state::CopyState;

/// As much of a line is kept at most.
const TEXT_MAX: usize = 300;

/// What became of a copy at the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It began to come in; whether it was taken, the log does not say.
    Begun,
    /// It came in and was not taken.
    Refused,
    /// It was taken and is in the relay's queue.
    Queued,
    /// It was taken, and the relay tries again.
    Deferred,
    /// The next server took it.
    Sent,
    /// The next server, or the relay, refused it for good.
    Bounced,
    /// The relay gave it up after trying for long.
    Expired,
}

impl Fate {
    /// The state of a copy with this fate; none while it stays unknown.
    pub fn settles(self) -> Option<CopyState> {
        match self {
            Self::Begun | Self::Refused => None,
            Self::Queued | Self::Deferred | Self::Sent => Some(CopyState::Accepted),
            Self::Bounced => Some(CopyState::Rejected),
            Self::Expired => Some(CopyState::Expired),
        }
    }

    /// The fate in words.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Refused => "refused",
            Self::Queued => "queued",
            Self::Deferred => "deferred",
            Self::Sent => "sent",
            Self::Bounced => "bounced",
            Self::Expired => "expired",
        }
    }

    /// Whether it outweighs what the log said before: an outcome is replaced by a later outcome
    /// (a content filter sends first, the next hop later), and by nothing else.
    fn replaces(self, earlier: Self) -> bool {
        let is_outcome = |fate: Self| fate >= Self::Deferred;
        is_outcome(self) || (!is_outcome(earlier) && self >= earlier)
    }
}

/// The line that says what became of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// What it says.
    pub fate: Fate,
    /// Its number, from 1, over all that was read.
    pub line: u64,
    /// Its text, without the time and the name of the program.
    pub text: String,
}

/// Goes through a log, line by line, and remembers what concerns the copies it looks for.
#[derive(Debug, Default)]
pub struct Search {
    wanted: HashSet<String>,
    queue: HashMap<String, String>,
    found: HashMap<String, Evidence>,
    line: u64,
}

impl Search {
    /// A search for messages with these Message-IDs (without angle brackets, in any case).
    pub fn new<'a>(wanted: impl IntoIterator<Item = &'a str>) -> Self {
        Self { wanted: wanted.into_iter().map(str::to_lowercase).collect(), ..Self::default() }
    }

    /// Reads the next line. What is not a line of Postfix is passed over.
    pub fn line(&mut self, text: &str) {
        self.line += 1;
        let Some((program, queue_id, words)) = parts(text) else { return };
        if program == "cleanup"
            && let Some(id) = words.strip_prefix("message-id=")
        {
            let id = id.trim().trim_matches(['<', '>']).to_lowercase();
            if self.wanted.contains(&id) {
                self.queue.insert(queue_id.to_owned(), id.clone());
                self.note(&id, Fate::Begun, queue_id, words);
            }
            return;
        }
        let Some(id) = self.queue.get(queue_id).cloned() else { return };
        if words == "removed" {
            // The queue id may be used again.
            self.queue.remove(queue_id);
        } else if let Some(fate) = fate(program, words) {
            self.note(&id, fate, queue_id, words);
        }
    }

    /// What the log says about the message with this Message-ID.
    pub fn evidence(&self, message_id: &str) -> Option<&Evidence> {
        self.found.get(&message_id.to_lowercase())
    }

    fn note(&mut self, id: &str, fate: Fate, queue_id: &str, words: &str) {
        if self.found.get(id).is_some_and(|earlier| !fate.replaces(earlier.fate)) {
            return;
        }
        let text: String = format!("{queue_id}: {words}").chars().take(TEXT_MAX).collect();
        self.found.insert(id.to_owned(), Evidence { fate, line: self.line, text });
    }
}

/// `… postfix/smtp[12]: 4XyZ: words` as program, queue id and words.
fn parts(line: &str) -> Option<(&str, &str, &str)> {
    let (head, rest) = line.split_once("]: ")?;
    let tag = head.rsplit(' ').next()?;
    let (path, _process) = tag.split_once('[')?;
    let (_instance, program) = path.rsplit_once('/')?;
    let (queue_id, words) = rest.split_once(": ")?;
    let is_id = (5..=24).contains(&queue_id.len())
        && queue_id.bytes().all(|byte| byte.is_ascii_alphanumeric())
        && queue_id != "NOQUEUE";
    is_id.then(|| (program, queue_id, words.trim_end()))
}

fn fate(program: &str, words: &str) -> Option<Fate> {
    if words.starts_with("to=<") {
        let status = words.split(", status=").nth(1)?.split([' ', ',']).next()?;
        return match status {
            "sent" => Some(Fate::Sent),
            "bounced" => Some(Fate::Bounced),
            "deferred" => Some(Fate::Deferred),
            _ => None,
        };
    }
    if words.starts_with("from=<") {
        if words.contains(", status=expired") {
            return Some(Fate::Expired);
        }
        return words.ends_with("(queue active)").then_some(Fate::Queued);
    }
    let verb = words.split(' ').next().unwrap_or_default();
    (program == "cleanup" && verb.ends_with("reject:")).then_some(Fate::Refused)
}

#[cfg(test)]
mod tests;
