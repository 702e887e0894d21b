//! Returned mail from standard input: one message, as a mail server's pipe delivers it, or an mbox
//! file. Memory is bounded by one message of [`SIZE_MAX`].

use std::{collections::BTreeMap, io, sync::Arc};

use serde::Serialize;
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _};

use crate::{
    bounce::{
        apply::{Applied, ApplyError, ReturnedMail, Source, is_genuine, returned_mail},
        report::{ReadError, SIZE_MAX},
    },
    config,
    db::Db,
    smtp::verp,
    timestamp::Timestamp,
    token::Keyring,
};

/// Octets of a message in which its first header fields are looked for.
const HEADER_MAX: usize = 64 * 1024;
/// Octets of an mbox file that are looked at together; longer lines are read in pieces.
const PIECE_MAX: u64 = 64 * 1024;

/// Why a mail was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// There was nothing.
    #[error("standard input is empty: give it one message, or an mbox file with --mbox")]
    Empty,
    /// It is no mbox file.
    #[error(
        "this is no mbox file: it does not begin with `From `; leave --mbox out for one message"
    )]
    NotMbox,
    /// The input cannot be read.
    #[error("the mail cannot be read: {0}")]
    Read(#[from] io::Error),
    /// The mail was not applied.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

impl IngestError {
    /// What a mail server's pipe makes of it (`sysexits.h`): 65, the mail is at fault and need not
    /// come again; 75, it should come again later.
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Empty | Self::NotMbox | Self::Apply(ApplyError::Unreadable(_)) => 65,
            Self::Read(_) | Self::Apply(ApplyError::Database(_) | ApplyError::Broken) => 75,
        }
    }
}

/// Takes in the one message that `reader` holds. `recipient` is the address it came to; without
/// one, the fields that mail servers add at delivery say so.
pub async fn ingest<R: AsyncRead + Unpin>(
    db: &Db,
    keyring: &Keyring,
    rules: &config::Bounces,
    reader: R,
    recipient: Option<&str>,
) -> Result<Applied, IngestError> {
    let mut raw = Vec::new();
    reader.take(SIZE_MAX as u64 + 1).read_to_end(&mut raw).await?;
    if raw.is_empty() {
        return Err(IngestError::Empty);
    }
    // Delivery agents write an mbox line before the message, which is no part of it.
    if raw.starts_with(b"From ") {
        let end = raw.iter().position(|byte| *byte == b'\n').map_or(raw.len(), |at| at + 1);
        raw.drain(..end);
    }
    let mail = with_envelope(keyring, raw, recipient, Source::Pipe);
    Ok(returned_mail(db, keyring, rules, mail, Timestamp::now()).await?)
}

/// What became of an mbox file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Ingested {
    /// Messages in it.
    pub messages: u64,
    /// Of those, the ones that are too large to be read.
    pub too_large: u64,
    /// Of the others, how many had which outcome ([`Outcome`](crate::bounce::apply::Outcome)).
    pub outcomes: BTreeMap<&'static str, u64>,
}

/// Takes in every message of the mbox file that `reader` holds. Stops at the first one that the
/// database does not take; what was taken in before counts once, however often the file is read.
pub async fn ingest_mbox<R: AsyncBufRead + Unpin>(
    db: &Db,
    keyring: &Keyring,
    rules: &config::Bounces,
    reader: R,
    recipient: Option<&str>,
) -> Result<Ingested, IngestError> {
    let mut mbox = Mbox::open(reader).await?;
    let mut done = Ingested::default();
    while let Some(message) = mbox.next().await? {
        done.messages += 1;
        let Some(raw) = message else {
            done.too_large += 1;
            continue;
        };
        let mail = with_envelope(keyring, raw, recipient, Source::Mbox);
        match returned_mail(db, keyring, rules, mail, Timestamp::now()).await {
            Ok(applied) => *done.outcomes.entry(applied.outcome.as_str()).or_default() += 1,
            Err(ApplyError::Unreadable(ReadError::TooLarge(_))) => done.too_large += 1,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(done)
}

/// An mbox file (the `mboxrd` form, which reads the others well enough), message by message.
struct Mbox<R> {
    reader: R,
    piece: Vec<u8>,
    /// Whether the next piece begins a line.
    at_line_start: bool,
}

impl<R: AsyncBufRead + Unpin> Mbox<R> {
    async fn open(reader: R) -> Result<Self, IngestError> {
        let mut mbox = Self { reader, piece: Vec::new(), at_line_start: true };
        mbox.read_piece().await?;
        match mbox.piece.as_slice() {
            [] => Err(IngestError::Empty),
            piece if piece.starts_with(b"From ") => Ok(mbox),
            _ => Err(IngestError::NotMbox),
        }
    }

    /// The next message; `Some(None)` for one that is too large. Stands at a `From ` line or at
    /// the end.
    async fn next(&mut self) -> io::Result<Option<Option<Vec<u8>>>> {
        if self.piece.is_empty() {
            return Ok(None);
        }
        // The separator itself, which may come in several pieces.
        while !self.piece.ends_with(b"\n") && !self.piece.is_empty() {
            self.read_piece().await?;
        }
        let (mut message, mut too_large, mut after_blank) = (Vec::new(), false, false);
        loop {
            let starts_line = self.at_line_start;
            self.read_piece().await?;
            let separator = starts_line && after_blank && self.piece.starts_with(b"From ");
            if self.piece.is_empty() || separator {
                return Ok(Some((!too_large).then_some(message)));
            }
            after_blank = starts_line && matches!(self.piece.as_slice(), b"\n" | b"\r\n");
            let text = if starts_line { unquoted(&self.piece) } else { &self.piece };
            if message.len() + text.len() > SIZE_MAX {
                (message, too_large) = (Vec::new(), true);
            }
            if !too_large {
                message.extend_from_slice(text);
            }
        }
    }

    /// Reads up to the end of the line, or as much of it as is looked at together.
    async fn read_piece(&mut self) -> io::Result<()> {
        self.piece.clear();
        let mut bounded = (&mut self.reader).take(PIECE_MAX);
        bounded.read_until(b'\n', &mut self.piece).await?;
        self.at_line_start = self.piece.ends_with(b"\n");
        Ok(())
    }
}

/// `>From ` as it was before the file was written.
fn unquoted(line: &[u8]) -> &[u8] {
    let marks = line.iter().take_while(|byte| **byte == b'>').count();
    if marks > 0 && line[marks..].starts_with(b"From ") { &line[1..] } else { line }
}

/// The fields in which mail servers write the envelope recipient, the most trustworthy first.
const RECIPIENT_FIELDS: [&str; 6] =
    ["delivered-to", "x-original-to", "envelope-to", "x-envelope-to", "x-delivered-to", "to"];

/// Fills in the envelope from the header where the caller does not know it. A field only counts
/// for its token, so one that a stranger wrote does no harm.
pub(super) fn with_envelope(
    keyring: &Keyring,
    raw: Vec<u8>,
    recipient: Option<&str>,
    source: Source,
) -> ReturnedMail {
    let fields = first_fields(&raw);
    let return_path = fields.iter().find(|(name, _)| name == "return-path");
    let mail_from = return_path.map(|(_, value)| bare(value).to_owned());
    let rcpt_to = recipient.map(str::to_owned).or_else(|| noted_in(&fields, keyring));
    ReturnedMail {
        raw: Arc::from(raw),
        mail_from: mail_from.unwrap_or_default(),
        rcpt_to: rcpt_to.unwrap_or_default(),
        source,
    }
}

/// Where a mail was sent, as its header notes it: an address with a genuine token of ours, else
/// what the last server delivered it to.
pub fn noted_recipient(raw: &[u8], keyring: &Keyring) -> Option<String> {
    noted_in(&first_fields(raw), keyring)
}

fn noted_in(fields: &[(String, String)], keyring: &Keyring) -> Option<String> {
    let now = Timestamp::now();
    let named = |name: &'static str| fields.iter().filter(move |(field, _)| field == name);
    let mut written = RECIPIENT_FIELDS.iter().flat_map(|name| named(name)).map(|(_, value)| value);
    let genuine = |value: &&String| {
        verp::find(value).is_some_and(|(mailbox, token)| is_genuine(keyring, mailbox, token, now))
    };
    let delivered = || named("delivered-to").map(|(_, value)| value).next();
    written.find(genuine).or_else(delivered).map(|value| bare(value).to_owned())
}

/// An address without its brackets.
fn bare(value: &str) -> &str {
    value.trim().trim_start_matches('<').trim_end_matches('>')
}

/// The unfolded fields of the header (RFC 5322, section 2.2.3), names in lower case.
fn first_fields(raw: &[u8]) -> Vec<(String, String)> {
    let header = String::from_utf8_lossy(&raw[..raw.len().min(HEADER_MAX)]);
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in header.lines() {
        if line.is_empty() {
            break;
        }
        match (line.starts_with([' ', '\t']), fields.last_mut(), line.split_once(':')) {
            (true, Some((_, value)), _) => {
                value.push(' ');
                value.push_str(line.trim());
            }
            (false, _, Some((name, value))) => {
                fields.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
            }
            _ => {}
        }
    }
    fields
}
