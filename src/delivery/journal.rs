//! The node's own append-only record of final dots: one line before a terminator is written, one
//! with the reply after it. It survives `kill -9` without any fsync, because what was written to
//! the page cache outlives the process; it does not survive a loss of power, which is why its head
//! names the boot it belongs to.
//!
//! Lines are text, so that an operator can read them:
//!
//! ```text
//! postrider-journal 1 <node uid> <boot id>
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
    /// The last word on each copy.
    pub entries: HashMap<CopyId, Entry>,
}

impl Journal {
    /// Starts a journal for the node `node_uid`, replacing what is at `path`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn create(path: &Path, node_uid: &str) -> io::Result<Self> {
        let head = format!("{MAGIC} {node_uid} {}\n", boot_id());
        let (file, bytes) = replace(path, &head, &HashMap::new())?;
        let (live, line) = (HashMap::new(), String::new());
        let state = State { file, bytes, live, line, torn: false };
        Ok(Self { path: path.to_owned(), head, state: Mutex::new(state) })
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
        let State { file, bytes, live, line, torn } = &mut *state;
        line.clear();
        if *torn {
            line.push('\n');
        }
        write_line(line, copy, attempt, entry.as_ref());
        *torn = true;
        file.write_all(line.as_bytes())?;
        *torn = false;
        *bytes += line.len() as u64;
        match entry {
            Some(entry) => live.insert(copy, entry),
            None => live.remove(&copy),
        };
        if *bytes > BYTES_MAX {
            (*file, *bytes) = replace(&self.path, &self.head, live)?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is a single step, so a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
    let mut entries = HashMap::new();
    for (copy, entry) in lines.filter_map(parse_line) {
        match entry {
            Some(entry) => entries.insert(copy, entry),
            None => entries.remove(&copy),
        };
    }
    // A file system that failed gives octets back that it never wrote to the disk as zeros.
    let survived_power_loss = boot != boot_id() || bytes.contains(&0);
    Ok(Some(Remains { node_uid: node_uid.to_owned(), survived_power_loss, entries }))
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

fn parse_line(line: &str) -> Option<(CopyId, Option<Entry>)> {
    let mut words = line.splitn(6, ' ');
    let kind = words.next()?;
    let copy = parse_copy(words.next()?)?;
    let attempt = words.next()?.parse().ok()?;
    let entry = match kind {
        "B" => return Some((copy, None)),
        "D" => Entry::Dot { attempt },
        "R" => {
            let code = words.next()?.parse().ok()?;
            let enhanced = words.next()?.parse().ok();
            Entry::Reply { attempt, code, enhanced, text: words.next()?.to_owned() }
        }
        _ => return None,
    };
    Some((copy, Some(entry)))
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
fn replace(path: &Path, head: &str, live: &HashMap<CopyId, Entry>) -> io::Result<(File, u64)> {
    let mut text = head.to_owned();
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
mod tests {
    use super::*;

    fn copy(subscriber: i64) -> CopyId {
        CopyId::Issue { issue: IssueId(7), subscriber: SubscriberId(subscriber) }
    }

    #[test]
    fn the_last_word_on_each_copy_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        assert_eq!(read(&path).unwrap(), None);
        let journal = Journal::create(&path, "node").unwrap();
        journal.dot(copy(1), 1).unwrap();
        journal.dot(copy(2), 3).unwrap();
        journal.dot(CopyId::Service(ServiceMailId(4)), 1).unwrap();
        journal.dot(copy(5), 1).unwrap();
        journal.body(copy(5), 1).unwrap();
        assert!(journal.verdict(copy(5), 1).is_none());
        let said = Reply::new(250, "2.0.0 queued\r\nas x");
        journal.reply(copy(2), 3, &said).unwrap();
        let remains = read(&path).unwrap().unwrap();
        assert_eq!((remains.node_uid.as_str(), remains.survived_power_loss), ("node", false));
        assert_eq!(remains.entries.len(), 3);
        assert_eq!(remains.entries[&copy(1)], Entry::Dot { attempt: 1 });
        let reply = Entry::Reply {
            attempt: 3,
            code: 250,
            enhanced: said.enhanced,
            text: "2.0.0 queued  as x".into(),
        };
        assert_eq!(remains.entries[&copy(2)], reply);
    }

    #[test]
    fn a_line_cut_short_never_took_effect() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let journal = Journal::create(&path, "node").unwrap();
        journal.dot(copy(1), 1).unwrap();
        let whole = fs::read(&path).unwrap();
        for cut in whole.len() - 8..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(read(&path).unwrap().unwrap().entries.len(), 0);
        }
    }

    #[test]
    fn half_a_line_that_a_full_disk_left_does_not_swallow_the_next() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let journal = Journal::create(&path, "node").unwrap();
        let full = OpenOptions::new().append(true).open("/dev/full").unwrap();
        let whole = std::mem::replace(&mut journal.lock().file, full);
        assert!(journal.dot(copy(1), 1).is_err());
        assert!(journal.verdict(copy(1), 1).is_none());
        journal.lock().file = whole;
        journal.lock().file.write_all(b"D 7.1").unwrap();
        journal.dot(copy(2), 1).unwrap();
        journal.dot(copy(3), 1).unwrap();
        let entries = read(&path).unwrap().unwrap().entries;
        assert_eq!(entries[&copy(2)], Entry::Dot { attempt: 1 });
        assert_eq!(entries.len(), 2, "half a line is none");
    }

    #[test]
    fn another_boot_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        fs::write(&path, format!("{MAGIC} node another-boot\nD 7.1 1\n")).unwrap();
        assert!(read(&path).unwrap().unwrap().survived_power_loss);
    }

    #[test]
    fn what_a_failed_disk_lost_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let journal = Journal::create(&path, "node").unwrap();
        journal.dot(copy(1), 1).unwrap();
        journal.dot(copy(2), 1).unwrap();
        assert!(!read(&path).unwrap().unwrap().survived_power_loss);
        let mut octets = fs::read(&path).unwrap();
        let lost = octets.len() - 8;
        octets[lost..].fill(0);
        fs::write(&path, &octets).unwrap();
        assert!(read(&path).unwrap().unwrap().survived_power_loss);
        // Of a file that lost its head nothing is believed.
        octets.fill(0);
        fs::write(&path, octets).unwrap();
        assert_eq!(read(&path).unwrap(), None);
    }

    #[test]
    fn a_grown_file_is_replaced_and_keeps_what_is_live() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        let journal = Journal::create(&path, "node").unwrap();
        journal.dot(copy(-1), 1).unwrap();
        let reply = Reply::new(250, "x".repeat(TEXT_BYTES_MAX));
        for subscriber in 0..20_000 {
            journal.reply(copy(subscriber), 1, &reply).unwrap();
            journal.settled([copy(subscriber)]);
        }
        assert!(fs::metadata(&path).unwrap().len() <= BYTES_MAX + 1024);
        assert_eq!(read(&path).unwrap().unwrap().entries[&copy(-1)], Entry::Dot { attempt: 1 });
    }
}
