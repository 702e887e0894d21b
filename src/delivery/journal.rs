//! The node's own append-only record of final dots: one line before a terminator is written, one
//! with the reply after it. It survives `kill -9` without any fsync, because what was written to
//! the page cache outlives the process; it does not survive a loss of power, which is why its head
//! names the boot it belongs to.
//!
//! Nor does it survive a disk that failed and was mounted anew in the same boot: its end may be gone
//! then, though the database, which is written through to the disk, has all of it. So every transaction
//! that hands copies off is announced here before its commit, by the number that the database counts it
//! under (see [`mark`](super::mark)). A journal that does not have the number that the database has come
//! to has lost its end, and is not believed either.
//!
//! Lines are text, so that an operator can read them:
//!
//! ```text
//! postrider-journal 1 <node uid> <boot id>
//! H <handoffs>
//! D <copy> <attempt>
//! B <copy> <attempt>
//! R <copy> <attempt> <code> <enhanced code or -> <text>
//! ```
//!
//! `B` takes a `D` back: the write ended within the body, and the terminator is still here. A record is
//! live until its outcome is committed to the database. When the file has grown, it is
//! replaced by one that holds the live records only.

use std::{
    collections::HashMap,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    id::{CopyId, IssueId, ServiceMailId, SubscriberId},
    smtp::{
        client::{Phase, Verdict, WireError},
        reply::{EnhancedCode, Reply},
    },
};

const MAGIC: &str = "postrider-journal 1";
/// The size at which the file is replaced: large enough to be rare, small enough to read at once.
const BYTES_MAX: u64 = 8 << 20;
/// How much of a reply's text is kept: what a classifier needs, not a novel.
const TEXT_BYTES_MAX: usize = 500;

/// What the journal knows of one copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// The terminator may have left; no reply was seen.
    Dot {
        /// Which try of the copy.
        attempt: i64,
    },
    /// The reply to the terminator.
    Reply {
        /// Which try of the copy.
        attempt: i64,
        /// The reply's code.
        code: u16,
        /// The reply's enhanced code.
        enhanced: Option<EnhancedCode>,
        /// The beginning of the reply's text.
        text: String,
    },
}

impl Entry {
    /// Which try of the copy it is about.
    pub fn attempt(&self) -> i64 {
        match self {
            Self::Dot { attempt } | Self::Reply { attempt, .. } => *attempt,
        }
    }

    /// What is known of the copy: the reply's word, or that there was none.
    pub fn verdict(&self) -> Verdict {
        let Self::Reply { code, text, .. } = self else {
            return Verdict::Uncertain { error: WireError::SessionClosed };
        };
        let reply = Reply::new(*code, text.clone());
        if reply.is_positive() {
            Verdict::Accepted(reply)
        } else {
            Verdict::Refused { phase: Phase::Dot, reply }
        }
    }
}

/// The journal of a running node.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    head: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    bytes: u64,
    live: HashMap<CopyId, Entry>,
    line: String,
    /// The last number that was announced.
    handoffs: i64,
    /// Whether it is still to be written: then it goes before whatever is written next.
    owes_handoffs: bool,
    /// Whether a write failed: the file may end in half a line, which must not swallow the next.
    torn: bool,
}

/// What a journal that an earlier node left says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Remains {
    /// The node that wrote it.
    pub node_uid: String,
    /// Whether the machine was started anew since, or part of the file is gone, as after an error of
    /// the disk: then a missing line proves nothing.
    pub survived_power_loss: bool,
    /// The last transaction that was announced before it handed copies off.
    pub handoffs: i64,
    /// The last word on each copy.
    pub entries: HashMap<CopyId, Entry>,
}

impl Journal {
    /// Starts a journal for the node `node_uid`, replacing what is at `path`. So many transactions handed
    /// copies off until now.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn create(path: &Path, node_uid: &str, handoffs: i64) -> io::Result<Self> {
        let head = format!("{MAGIC} {node_uid} {}\n", boot_id());
        let (live, line) = (HashMap::new(), String::new());
        let (file, bytes) = replace(path, &head, handoffs, &live)?;
        let state = State { file, bytes, live, line, handoffs, owes_handoffs: false, torn: false };
        Ok(Self { path: path.to_owned(), head, state: Mutex::new(state) })
    }

    /// Announces the transaction that hands copies off, by its number; to be called before its commit.
    ///
    /// # Errors
    /// When the line cannot be written: then nothing may be handed off. It is written before any other
    /// line.
    pub fn announce(&self, handoffs: i64) -> io::Result<()> {
        let mut state = self.lock();
        state.handoffs = handoffs;
        state.owes_handoffs = true;
        state.begin_line();
        state.write_out()
    }

    /// Notes that the terminator of this copy is about to be written.
    ///
    /// The write goes to the page cache and takes about a microsecond, which is why it may be
    /// called on the async runtime.
    ///
    /// # Errors
    /// When the line cannot be written: then the terminator must not be either.
    pub fn dot(&self, copy: CopyId, attempt: i64) -> io::Result<()> {
        self.append(copy, attempt, Some(Entry::Dot { attempt }))
    }

    /// Notes that the terminator of this copy has not left after all: the write that could have carried
    /// it ended within the body.
    ///
    /// # Errors
    /// When the line cannot be written: then the copy counts as one whose terminator may have left.
    pub fn body(&self, copy: CopyId, attempt: i64) -> io::Result<()> {
        self.append(copy, attempt, None)
    }

    /// Notes the reply to the terminator of this copy.
    ///
    /// # Errors
    /// When the line cannot be written. The outcome itself is not lost by that: it is on its way
    /// to the database.
    pub fn reply(&self, copy: CopyId, attempt: i64, reply: &Reply) -> io::Result<()> {
        let Reply { code, enhanced, ref text, .. } = *reply;
        let text = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
        let text = if text.bytes().any(|byte| !(b' '..=b'~').contains(&byte)) {
            text.replace(|c: char| c.is_control(), " ")
        } else {
            text.to_owned()
        };
        self.append(copy, attempt, Some(Entry::Reply { attempt, code, enhanced, text }))
    }

    /// Forgets copies whose outcomes are committed to the database.
    pub fn settled(&self, copies: impl IntoIterator<Item = CopyId>) {
        let mut state = self.lock();
        for copy in copies {
            state.live.remove(&copy);
        }
    }

    /// What is known of a try whose outcome is not committed yet; nothing if it had no dot.
    pub fn verdict(&self, copy: CopyId, attempt: i64) -> Option<Verdict> {
        let state = self.lock();
        let entry = state.live.get(&copy).filter(|entry| entry.attempt() == attempt);
        entry.map(Entry::verdict)
    }

    /// Writes what is known of a copy now; nothing, if its terminator has not left after all.
    fn append(&self, copy: CopyId, attempt: i64, entry: Option<Entry>) -> io::Result<()> {
        let mut state = self.lock();
        state.begin_line();
        write_line(&mut state.line, copy, attempt, entry.as_ref());
        state.write_out()?;
        match entry {
            Some(entry) => state.live.insert(copy, entry),
            None => state.live.remove(&copy),
        };
        if state.bytes > BYTES_MAX {
            (state.file, state.bytes) =
                replace(&self.path, &self.head, state.handoffs, &state.live)?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is a single step, so a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// What has to stand before the next line.
    fn begin_line(&mut self) {
        self.line.clear();
        if self.torn {
            self.line.push('\n');
        }
        if self.owes_handoffs {
            write_handoffs(&mut self.line, self.handoffs);
        }
    }

    fn write_out(&mut self) -> io::Result<()> {
        self.torn = true;
        self.file.write_all(self.line.as_bytes())?;
        self.torn = false;
        self.owes_handoffs = false;
        self.bytes += self.line.len() as u64;
        Ok(())
    }
}

/// Reads what an earlier node left at `path`; nothing when there is no journal.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn read(path: &Path) -> io::Result<Option<Remains>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let text = String::from_utf8_lossy(&bytes);
    // A line without its end was being written when the process died: it never took effect.
    let mut lines = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    let Some((node_uid, boot)) =
        lines.next().and_then(|head| head.strip_prefix(MAGIC)?.trim_start().split_once(' '))
    else {
        return Ok(None);
    };
    let (mut entries, mut handoffs) = (HashMap::new(), 0);
    for line in lines {
        match parse_line(line) {
            Some(Line::Handoffs(number)) => handoffs = number,
            Some(Line::Entry(copy, entry)) => {
                entries.insert(copy, entry);
            }
            Some(Line::Body(copy)) => {
                entries.remove(&copy);
            }
            None => {}
        }
    }
    // A file system that failed gives octets back that it never wrote to the disk as zeros.
    let survived_power_loss = boot != boot_id() || bytes.contains(&0);
    let node_uid = node_uid.to_owned();
    Ok(Some(Remains { node_uid, survived_power_loss, handoffs, entries }))
}

fn write_handoffs(line: &mut String, handoffs: i64) {
    line.push_str("H ");
    push_number(line, handoffs);
    line.push('\n');
}

fn write_line(line: &mut String, copy: CopyId, attempt: i64, entry: Option<&Entry>) {
    line.push_str(match entry {
        Some(Entry::Dot { .. }) => "D ",
        Some(Entry::Reply { .. }) => "R ",
        None => "B ",
    });
    match copy {
        CopyId::Issue { issue, subscriber } => {
            push_number(line, issue.0);
            line.push('.');
            push_number(line, subscriber.0);
        }
        CopyId::Service(id) => {
            line.push('s');
            push_number(line, id.0);
        }
    }
    line.push(' ');
    push_number(line, attempt);
    if let Some(Entry::Reply { code, enhanced, text, .. }) = entry {
        line.push(' ');
        push_number(line, *code);
        line.push(' ');
        match enhanced {
            Some(EnhancedCode(class, subject, detail)) => {
                push_number(line, *class);
                line.push('.');
                push_number(line, *subject);
                line.push('.');
                push_number(line, *detail);
            }
            None => line.push('-'),
        }
        line.push(' ');
        line.push_str(text);
    }
    line.push('\n');
}

/// Every copy has some ten numbers here, which the formatter would take a microsecond for.
fn push_number(line: &mut String, number: impl itoa::Integer) {
    line.push_str(itoa::Buffer::new().format(number));
}

/// What a line says.
enum Line {
    Handoffs(i64),
    Entry(CopyId, Entry),
    Body(CopyId),
}

fn parse_line(line: &str) -> Option<Line> {
    let mut words = line.splitn(6, ' ');
    let kind = words.next()?;
    if kind == "H" {
        return words.next()?.parse().ok().map(Line::Handoffs);
    }
    let copy = parse_copy(words.next()?)?;
    let attempt = words.next()?.parse().ok()?;
    let entry = match kind {
        "B" => return Some(Line::Body(copy)),
        "D" => Entry::Dot { attempt },
        "R" => {
            let code = words.next()?.parse().ok()?;
            let enhanced = words.next()?.parse().ok();
            Entry::Reply { attempt, code, enhanced, text: words.next()?.to_owned() }
        }
        _ => return None,
    };
    Some(Line::Entry(copy, entry))
}

fn parse_copy(word: &str) -> Option<CopyId> {
    if let Some(id) = word.strip_prefix('s') {
        return Some(CopyId::Service(ServiceMailId(id.parse().ok()?)));
    }
    let (issue, subscriber) = word.split_once('.')?;
    Some(CopyId::Issue {
        issue: IssueId(issue.parse().ok()?),
        subscriber: SubscriberId(subscriber.parse().ok()?),
    })
}

/// Writes a new file beside `path` and moves it there, so that at any moment one of the two is
/// whole.
fn replace(
    path: &Path,
    head: &str,
    handoffs: i64,
    live: &HashMap<CopyId, Entry>,
) -> io::Result<(File, u64)> {
    let mut text = head.to_owned();
    write_handoffs(&mut text, handoffs);
    for (copy, entry) in live {
        write_line(&mut text, *copy, entry.attempt(), Some(entry));
    }
    let new = path.with_added_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().create_new(true).append(true).open(&new)?;
    file.write_all(text.as_bytes())?;
    fs::rename(&new, path)?;
    Ok((file, text.len() as u64))
}

/// What tells one start of the machine from another; empty where the system does not say, and then
/// a restart of the machine cannot be told from one of the process.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests;
