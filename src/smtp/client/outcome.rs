//! What can come of a connection and of a message, told so exactly that the caller need not guess.

use std::fmt;
use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::envelope::Unsendable;
use crate::smtp::reply::{Reply, ReplyError};

/// Where in the protocol something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Name lookup and TCP connection.
    Connect,
    /// The TLS handshake.
    Tls,
    /// Waiting for the server's first words.
    Greeting,
    /// EHLO, or HELO where that is all the server knows.
    Ehlo,
    /// The STARTTLS command.
    StartTls,
    /// Logging in.
    Auth,
    /// Between messages.
    Idle,
    /// Clearing away a refused message's envelope.
    Rset,
    /// The MAIL command.
    MailFrom,
    /// The RCPT command.
    RcptTo,
    /// The DATA command.
    Data,
    /// The message itself, up to the first byte of its terminator.
    Body,
    /// From the first byte of the terminator to the end of its reply.
    Dot,
    /// The QUIT command.
    Quit,
}

impl Phase {
    /// Its name in tables and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Greeting => "greeting",
            Self::Ehlo => "ehlo",
            Self::StartTls => "start_tls",
            Self::Auth => "auth",
            Self::Idle => "idle",
            Self::Rset => "rset",
            Self::MailFrom => "mail_from",
            Self::RcptTo => "rcpt_to",
            Self::Data => "data",
            Self::Body => "body",
            Self::Dot => "dot",
            Self::Quit => "quit",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why there is no reply, or none that counts.
#[derive(Debug, Error)]
pub enum WireError {
    /// The server closed the connection, perhaps in the middle of a reply.
    #[error("the server closed the connection")]
    Closed,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[source] io::Error),
    /// The command took longer than its deadline.
    #[error("not done within {} ms", .0.as_millis())]
    Deadline(Duration),
    /// What came is not a reply.
    #[error("the server does not speak SMTP: {0}")]
    Garbage(#[from] ReplyError),
    /// A complete reply that is no answer to what was asked.
    #[error("the server answered out of turn: {0}")]
    OutOfTurn(Reply),
    /// Bytes came that no command had asked for.
    #[error("the server spoke without being asked")]
    Unsolicited,
    /// The caller's `mark` failed, so the terminator was not sent.
    #[error("the final dot was withheld: {0}")]
    Withheld(#[source] io::Error),
    /// The session was closed before, or a transaction on it was dropped half-way.
    #[error("the session is closed")]
    SessionClosed,
}

/// Why there is no session.
#[derive(Debug, Error)]
#[error("{phase}: {kind}")]
pub struct SessionError {
    /// How far it came.
    pub phase: Phase,
    /// What happened there.
    #[source]
    pub kind: SessionErrorKind,
}

/// What went wrong on the way to a session.
#[derive(Debug, Error)]
pub enum SessionErrorKind {
    /// No reply, or none that counts.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The server said no.
    #[error("the server refused: {0}")]
    Refused(Reply),
    /// The TLS handshake failed: a certificate that is not trusted, say.
    #[error("no TLS: {0}")]
    Tls(#[source] io::Error),
    /// STARTTLS is required and not offered. Going on in clear text is never an option.
    #[error("the server does not offer STARTTLS, which this relay requires")]
    StartTlsMissing,
    /// Bytes came in clear text after the server agreed to STARTTLS: someone is injecting replies
    /// (CVE-2011-0411 and its many successors).
    #[error("clear text arrived after STARTTLS; someone may be tampering with the connection")]
    Injection,
    /// A login is configured, and the server offers no mechanism for it.
    #[error("the server offers none of the login mechanisms asked for")]
    MechanismMissing,
    /// A login is configured, the connection is not encrypted, and nobody said that is fine.
    #[error("the login would cross the network in clear text; use starttls or implicit TLS")]
    ClearTextLogin,
    /// The endpoint's own settings cannot work.
    #[error("{0}")]
    Settings(&'static str),
}

/// Whether a session can take another message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    /// It can.
    Usable,
    /// It is closed, and why.
    Closed(CloseReason),
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CloseReason {
    /// The server announced it with 421.
    Announced,
    /// The connection was closed or broke.
    Lost,
    /// A deadline passed.
    Deadline,
    /// The server broke the protocol, so its replies can no longer be told apart.
    Protocol,
    /// We gave it up with an envelope open, or a transaction was dropped half-way.
    Abandoned,
}

impl CloseReason {
    /// Its name in logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Announced => "announced",
            Self::Lost => "lost",
            Self::Deadline => "deadline",
            Self::Protocol => "protocol",
            Self::Abandoned => "abandoned",
        }
    }

    pub(super) fn of(error: &WireError) -> Self {
        match error {
            WireError::Closed | WireError::Io(_) => Self::Lost,
            WireError::Deadline(_) => Self::Deadline,
            WireError::OutOfTurn(reply) if reply.is_closing() => Self::Announced,
            WireError::Garbage(_) | WireError::OutOfTurn(_) | WireError::Unsolicited => {
                Self::Protocol
            }
            WireError::Withheld(_) | WireError::SessionClosed => Self::Abandoned,
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The truth about one message, as far as it can be known.
#[derive(Debug)]
pub enum Verdict {
    /// A complete 2yz reply to the final dot: the server has it.
    Accepted(Reply),
    /// A complete 4yz or 5yz reply: the server does not have it.
    Refused {
        /// The command that was refused.
        phase: Phase,
        /// What the server said.
        reply: Reply,
    },
    /// No reply decided, and not one byte of the terminator was handed to the kernel: the server
    /// cannot have it. Safe to send again.
    Failed {
        /// How far it came: never [`Phase::Dot`].
        phase: Phase,
        /// What happened there.
        error: WireError,
    },
    /// A byte of the terminator may have left and no complete reply came: the server may have it.
    Uncertain {
        /// What happened.
        error: WireError,
    },
    /// Nothing of it was sent: this server cannot be given this message.
    NotSent(Unsendable),
}

impl Verdict {
    /// The phase that decided; none when nothing was sent.
    pub fn phase(&self) -> Option<Phase> {
        match self {
            Self::Accepted(_) | Self::Uncertain { .. } => Some(Phase::Dot),
            Self::Refused { phase, .. } | Self::Failed { phase, .. } => Some(*phase),
            Self::NotSent(_) => None,
        }
    }

    /// The server's reply that decided, if one did.
    pub fn reply(&self) -> Option<&Reply> {
        match self {
            Self::Accepted(reply) | Self::Refused { reply, .. } => Some(reply),
            Self::Failed { .. } | Self::Uncertain { .. } | Self::NotSent(_) => None,
        }
    }

    /// Whether the server ended the session before it looked at the message: at MAIL, or at the RSET
    /// before it, by 421 or without a word.
    pub fn is_session_end(&self) -> bool {
        match self {
            Self::Refused { phase: Phase::MailFrom, reply } => reply.is_closing(),
            Self::Failed { phase, .. } => matches!(phase, Phase::MailFrom | Phase::Rset),
            _ => false,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accepted(reply) => write!(f, "accepted: {reply}"),
            Self::Refused { phase, reply } => write!(f, "refused at {phase}: {reply}"),
            Self::Failed { phase, error } => write!(f, "failed at {phase}: {error}"),
            Self::Uncertain { error } => write!(f, "uncertain: {error}"),
            Self::NotSent(why) => write!(f, "not sent: {why}"),
        }
    }
}

/// How long the parts of a transaction took, in microseconds. Zero for parts not reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timings {
    /// From the start to the reply to DATA. Short where the envelope was opened before.
    pub envelope_us: u64,
    /// Writing the body and the terminator.
    pub body_us: u64,
    /// From there to the reply.
    pub dot_us: u64,
}

/// How long the steps to a session took. Zero for those that were not needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Opening {
    /// Name lookup and TCP.
    pub connect: Duration,
    /// STARTTLS and the handshake.
    pub tls: Duration,
    /// The greeting and EHLO, both times where TLS begins between.
    pub hello: Duration,
    /// Logging in.
    pub auth: Duration,
}

impl Opening {
    /// The four, in their order.
    pub fn phases(&self) -> [Duration; 4] {
        [self.connect, self.tls, self.hello, self.auth]
    }
}

/// What came of one message on one session.
#[derive(Debug)]
pub struct Transaction {
    /// What became of the message.
    pub verdict: Verdict,
    /// Whether the session can go on.
    pub session: SessionState,
    /// Whether `next`'s envelope went out, so that the next transaction must be that message's.
    /// True as soon as a byte of it may have left, also if the session then closed.
    pub next_opened: bool,
    /// How long it took.
    pub timings: Timings,
    /// Bytes of the message that were written, terminator included.
    pub bytes: u64,
}
