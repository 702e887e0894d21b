//! Replies of SMTP servers: what one is, and how it is cut out of a stream of bytes.
//!
//! Reading is tolerant where servers are sloppy and harmless (no enhanced code, a bare LF, text that
//! is not UTF-8, codes that differ from line to line) and strict where a guess could lose or double
//! a copy: a line that does not start with a reply code, a NUL, or a reply beyond the bounds ends
//! the session. What a reply *means* for a reader is decided elsewhere.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// The longest reply that is read, in bytes, over all its lines.
pub const REPLY_BYTES_MAX: usize = 64 * 1024;

/// The most lines of one reply that are read.
pub const REPLY_LINES_MAX: usize = 100;

/// How many bytes are asked of the connection at once.
const READ_CHUNK: usize = 4 * 1024;

/// An enhanced status code, `class.subject.detail` (RFC 3463, section 2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct EnhancedCode(pub u8, pub u16, pub u16);

impl EnhancedCode {
    /// Reads a code that opens `text` and is followed by a space or the end.
    pub fn at_start_of(text: &str) -> Option<Self> {
        text.split([' ', '\t', '\n']).next()?.parse().ok()
    }
}

impl fmt::Display for EnhancedCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// The text is not an enhanced status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not an enhanced status code, which is written like 5.1.1 (RFC 3463)")]
pub struct InvalidEnhancedCode;

impl FromStr for EnhancedCode {
    type Err = InvalidEnhancedCode;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |part: &str| match part.len() {
            1..=3 if part.bytes().all(|byte| byte.is_ascii_digit()) => part.parse::<u16>().ok(),
            _ => None,
        };
        let mut parts = text.split('.');
        let class = match parts.next() {
            Some("2") => 2,
            Some("4") => 4,
            Some("5") => 5,
            _ => return Err(InvalidEnhancedCode),
        };
        match (parts.next().and_then(number), parts.next().and_then(number), parts.next()) {
            (Some(subject), Some(detail), None) => Ok(Self(class, subject, detail)),
            _ => Err(InvalidEnhancedCode),
        }
    }
}

/// One complete reply of a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The code of the last line, 200 to 599. Where lines disagree the last one decides.
    pub code: u16,
    /// The enhanced status code of the last line, or of the first line that has one.
    pub enhanced: Option<EnhancedCode>,
    /// The lines without their codes, joined by LF, an enhanced code left where it stood. Bytes
    /// that are not UTF-8 and control characters are replaced, so the text is fit for a log.
    pub text: String,
    /// Whether some lines say yes and others no (say, 250 and 550), so that it is neither.
    #[serde(default)]
    pub contradictory: bool,
}

impl Reply {
    /// A reply of one line, for tests and for replies that are told rather than read.
    pub fn new(code: u16, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { code, enhanced: EnhancedCode::at_start_of(&text), text, contradictory: false }
    }

    /// 2yz: the server did what was asked.
    pub fn is_positive(&self) -> bool {
        self.code / 100 == 2
    }

    /// 3yz: the server waits for more.
    pub fn is_intermediate(&self) -> bool {
        self.code / 100 == 3
    }

    /// 4yz: not now.
    pub fn is_transient(&self) -> bool {
        self.code / 100 == 4
    }

    /// 5yz: not so.
    pub fn is_permanent(&self) -> bool {
        self.code / 100 == 5
    }

    /// 4yz or 5yz.
    pub fn is_negative(&self) -> bool {
        self.is_transient() || self.is_permanent()
    }

    /// 421: the server closes the connection, at whatever command it says so (RFC 5321, 3.8).
    pub fn is_closing(&self) -> bool {
        self.code == 421
    }
}

impl fmt::Display for Reply {
    /// One line, fit for a log: `550 5.1.1 No such user`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        for line in self.text.lines() {
            write!(f, " {line}")?;
        }
        Ok(())
    }
}

/// Why bytes from a server cannot be a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ReplyError {
    /// More than [`REPLY_BYTES_MAX`] bytes.
    #[error("a reply is longer than {REPLY_BYTES_MAX} bytes")]
    TooLong,
    /// More than [`REPLY_LINES_MAX`] lines.
    #[error("a reply has more than {REPLY_LINES_MAX} lines")]
    TooManyLines,
    /// A line that does not start with a code from 200 to 599, then a space, a hyphen or the end.
    #[error("a line does not start with a reply code")]
    NoCode,
    /// A NUL byte.
    #[error("a reply has a NUL byte in it")]
    Nul,
}

/// Bytes from a server on their way to becoming replies.
///
/// Takes them in any cut, gives the same replies for every cut, holds at most one reply's bound and
/// one read more, and looks at each byte a fixed number of times, so that a server that sends byte
/// by byte costs no more than any other. After an error it repeats that error.
#[derive(Debug)]
pub struct ReplyBuffer {
    /// Always initialised in full; only `start..end` is unread.
    bytes: Vec<u8>,
    /// The first byte of the reply being read.
    start: usize,
    /// The first byte of the line being read.
    line: usize,
    /// Up to where no line end was found.
    scanned: usize,
    /// One past the last byte received.
    end: usize,
    /// Complete lines of the reply being read.
    lines: usize,
    error: Option<ReplyError>,
}

impl Default for ReplyBuffer {
    fn default() -> Self {
        Self {
            bytes: vec![0; READ_CHUNK],
            start: 0,
            line: 0,
            scanned: 0,
            end: 0,
            lines: 0,
            error: None,
        }
    }
}

impl ReplyBuffer {
    /// Whether bytes were received that no reply has taken yet.
    pub fn has_unread(&self) -> bool {
        self.start < self.end
    }

    /// Room for the next read; empty when the bound is reached and replies must be taken first.
    pub fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.line, self.scanned, self.end) = (0, 0, 0, 0);
        }
        if self.bytes.len() - self.end < READ_CHUNK / 2 {
            if self.start > 0 {
                self.bytes.copy_within(self.start..self.end, 0);
                self.line -= self.start;
                self.scanned -= self.start;
                self.end -= self.start;
                self.start = 0;
            }
            if self.bytes.len() - self.end < READ_CHUNK / 2 {
                let room = (self.bytes.len() * 2).min(REPLY_BYTES_MAX + READ_CHUNK);
                self.bytes.resize(room, 0);
            }
        }
        &mut self.bytes[self.end..]
    }

    /// Says that the first `count` bytes of [`Self::space`] are now filled.
    pub fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.bytes.len());
    }

    /// Takes the next complete reply; `None` when more bytes are needed.
    pub fn next_reply(&mut self) -> Result<Option<Reply>, ReplyError> {
        if let Some(error) = self.error {
            return Err(error);
        }
        let taken = self.take();
        self.error = taken.as_ref().err().copied();
        taken
    }

    fn take(&mut self) -> Result<Option<Reply>, ReplyError> {
        loop {
            let found = memchr::memchr(b'\n', &self.bytes[self.scanned..self.end]);
            let line_end = found.map(|offset| self.scanned + offset);
            if line_end.map_or(self.end, |end| end + 1) - self.start > REPLY_BYTES_MAX {
                return Err(ReplyError::TooLong);
            }
            let Some(line_end) = line_end else {
                self.scanned = self.end;
                return Ok(None);
            };
            let line = Line::read(&self.bytes[self.line..line_end])?;
            self.lines += 1;
            if self.lines > REPLY_LINES_MAX {
                return Err(ReplyError::TooManyLines);
            }
            let is_last = line.is_last;
            self.line = line_end + 1;
            self.scanned = self.line;
            if is_last {
                let reply = match self.lines {
                    1 => single(&line),
                    _ => assemble(&self.bytes[self.start..self.line])?,
                };
                self.start = self.line;
                self.lines = 0;
                return Ok(Some(reply));
            }
        }
    }
}

/// One line of a reply, without its line end.
struct Line<'a> {
    code: u16,
    is_last: bool,
    text: &'a [u8],
}

impl<'a> Line<'a> {
    fn read(line: &'a [u8]) -> Result<Self, ReplyError> {
        if memchr::memchr(0, line).is_some() {
            return Err(ReplyError::Nul);
        }
        let ends = line.iter().rev().take_while(|&&byte| byte == b'\r').count();
        let line = &line[..line.len() - ends];
        let (code, rest) = match line {
            [a @ b'2'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9', rest @ ..] => {
                let digit = |byte: u8| u16::from(byte - b'0');
                (digit(*a) * 100 + digit(*b) * 10 + digit(*c), rest)
            }
            _ => return Err(ReplyError::NoCode),
        };
        match rest {
            [] => Ok(Self { code, is_last: true, text: rest }),
            [b' ' | b'\t', text @ ..] => Ok(Self { code, is_last: true, text }),
            [b'-', text @ ..] => Ok(Self { code, is_last: false, text }),
            _ => Err(ReplyError::NoCode),
        }
    }
}

/// The reply of one line, as nearly all are.
fn single(line: &Line<'_>) -> Reply {
    let mut text = String::with_capacity(line.text.len());
    push_text(&mut text, line.text);
    let enhanced = EnhancedCode::at_start_of(&text);
    Reply { code: line.code, enhanced, text, contradictory: false }
}

/// Builds the reply from the bytes of all its lines.
fn assemble(bytes: &[u8]) -> Result<Reply, ReplyError> {
    let mut reply = Reply {
        code: 0,
        enhanced: None,
        text: String::with_capacity(bytes.len().saturating_sub(6)),
        contradictory: false,
    };
    for (index, line) in
        bytes.strip_suffix(b"\n").unwrap_or(bytes).split(|&b| b == b'\n').enumerate()
    {
        let line = Line::read(line)?;
        if index > 0 {
            reply.contradictory |= sense(line.code) != sense(reply.code);
            reply.text.push('\n');
        }
        reply.code = line.code;
        let from = reply.text.len();
        push_text(&mut reply.text, line.text);
        let enhanced = EnhancedCode::at_start_of(&reply.text[from..]);
        if reply.enhanced.is_none() || line.is_last {
            reply.enhanced = enhanced.or(reply.enhanced);
        }
    }
    Ok(reply)
}

/// Yes, go on, or no: 4yz and 5yz are both a no.
fn sense(code: u16) -> u16 {
    (code / 100).min(4)
}

/// Appends text from the wire so that it can stand in a log.
fn push_text(out: &mut String, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(text) if bytes.iter().all(|byte| (0x20..0x7f).contains(byte)) => out.push_str(text),
        _ => out.extend(
            String::from_utf8_lossy(bytes).chars().map(|c| if c.is_control() { ' ' } else { c }),
        ),
    }
}

#[cfg(test)]
mod tests;
