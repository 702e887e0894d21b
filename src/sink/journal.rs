//! The sink's own account of what it accepted, refused and saw broken off: one JSON line per
//! transaction, written before the reply leaves. Tests and rehearsals hold it against the sender's
//! ledger, so it has to survive a kill at any moment: nothing is buffered in the process.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use serde::{Deserialize, Serialize};

use crate::timestamp::Timestamp;

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The sink took the message, whether or not its reply got out (see [`Record::reply_sent`]).
    Accepted,
    /// The sink answered 4yz or 5yz in [`Record::phase`].
    Refused,
    /// The message had come, and the sink ended the connection without taking it.
    Dropped,
    /// The connection ended in the data.
    Aborted,
}

/// Where in the dialogue a transaction was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// At `MAIL`.
    Mail,
    /// At `RCPT`; the record names the one recipient.
    Rcpt,
    /// At `DATA`.
    Data,
    /// In the data.
    Body,
    /// At the final dot.
    Dot,
}

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Counts up from 1 in one run of the sink, in the order of the lines' making.
    pub sequence: u64,
    /// When, by the wall clock, in microseconds since the Unix epoch.
    pub wall_us: i64,
    /// When, in microseconds since the sink started, by a clock that never jumps.
    pub monotonic_us: u64,
    /// The connection's number in this run.
    pub connection: u64,
    /// What became of it.
    pub verdict: Verdict,
    /// Where it was decided.
    pub phase: Phase,
    /// The code of the reply; none where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<u16>,
    /// Whether a whole reply was sent. False: the client cannot know the verdict.
    pub reply_sent: bool,
    /// The envelope sender.
    pub mail_from: String,
    /// The recipients concerned.
    pub rcpt_to: Vec<String>,
    /// The `Message-ID` field without its brackets, where the sink saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message_id: Option<String>,
    /// The size in bytes on the wire.
    pub size: u64,
    /// SHA-256 of the whole message in hexadecimal; none in discard mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

impl Record {
    /// When, by the wall clock.
    pub fn at(&self) -> Timestamp {
        Timestamp::from_microseconds(self.wall_us)
    }
}

/// An open journal file.
#[derive(Debug)]
pub struct Journal {
    file: Mutex<File>,
    started: Instant,
    sequence: AtomicU64,
}

impl Journal {
    /// Opens the file for appending, creating it if need be.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        Ok(Self { file: Mutex::new(file), started: Instant::now(), sequence: AtomicU64::new(0) })
    }

    /// Appends `record`, its number and times filled in. When this returns, the line is with the
    /// kernel and outlives the process.
    ///
    /// This calls write(2) on the spot: one line into the page cache takes a few microseconds,
    /// less than handing it to a thread that may block, and leaves no gap between the verdict and
    /// the line.
    pub fn append(&self, mut record: Record) -> io::Result<()> {
        record.sequence = self.sequence.fetch_add(1, Ordering::Relaxed) + 1;
        record.wall_us = Timestamp::now().microseconds();
        record.monotonic_us = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let mut line = serde_json::to_vec(&record)?;
        line.push(b'\n');
        self.file.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line)
    }
}

/// Reads a journal. A last line without its end (the sink was killed, or is writing it now) is left
/// out; any other line that is not a record is an error naming the line.
pub fn read(path: &Path) -> io::Result<Vec<Record>> {
    let bytes = std::fs::read(path)?;
    let mut records = Vec::new();
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    for (index, line) in bytes[..whole].split(|byte| *byte == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        records.push(serde_json::from_slice(line).map_err(|error| {
            let place = format!("{}:{}: not a journal record: {error}", path.display(), index + 1);
            io::Error::new(io::ErrorKind::InvalidData, place)
        })?);
    }
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            sequence: 0,
            wall_us: 0,
            monotonic_us: 0,
            connection: 1,
            verdict: Verdict::Accepted,
            phase: Phase::Dot,
            code: Some(250),
            reply_sent: true,
            mail_from: "b@bounce.example".into(),
            rcpt_to: vec!["a@example.org".into()],
            message_id: Some("1@example.org".into()),
            size: 10,
            sha256: None,
        }
    }

    #[test]
    fn what_is_appended_is_read_without_closing_the_journal() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let journal = Journal::open(&path).unwrap();
        journal.append(record()).unwrap();
        journal.append(Record { verdict: Verdict::Refused, ..record() }).unwrap();
        let records = read(&path).unwrap();
        assert_eq!(records.len(), 2);
        assert_eq!((records[0].sequence, records[1].sequence), (1, 2));
        assert_eq!(records[1].verdict, Verdict::Refused);
        assert!(records[0].monotonic_us <= records[1].monotonic_us);
        // A second run goes on in the same file.
        Journal::open(&path).unwrap().append(record()).unwrap();
        assert_eq!(read(&path).unwrap().len(), 3);
    }

    #[test]
    fn a_torn_last_line_is_left_out_and_a_broken_one_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        Journal::open(&path).unwrap().append(record()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, [&whole[..], &whole[..20]].concat()).unwrap();
        assert_eq!(read(&path).unwrap().len(), 1);
        std::fs::write(&path, [&whole[..], b"nonsense\n"].concat()).unwrap();
        assert!(read(&path).unwrap_err().to_string().contains(":2:"));
    }
}
