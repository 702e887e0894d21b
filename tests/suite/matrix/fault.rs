//! What misbehaves in a cell, and what must come of it.

use postrider::{
    sink::faults::profile::{FaultStage, Rule},
    smtp::client::Phase,
};

/// A step of SMTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    Connect,
    Tls,
    Greeting,
    Ehlo,
    StartTls,
    Auth,
    Mail,
    Rcpt,
    Data,
    Body,
    Dot,
    Rset,
    Quit,
    Idle,
}

impl At {
    pub(super) const ALL: [Self; 14] = [
        Self::Connect,
        Self::Tls,
        Self::Greeting,
        Self::Ehlo,
        Self::StartTls,
        Self::Auth,
        Self::Mail,
        Self::Rcpt,
        Self::Data,
        Self::Body,
        Self::Dot,
        Self::Rset,
        Self::Quit,
        Self::Idle,
    ];

    /// Where the sink can be told of it.
    pub(super) fn stage(self) -> FaultStage {
        match self {
            Self::Connect | Self::Tls => FaultStage::Connect,
            Self::Greeting => FaultStage::Greeting,
            Self::Ehlo => FaultStage::Hello,
            Self::StartTls => FaultStage::Starttls,
            Self::Auth => FaultStage::Auth,
            Self::Mail => FaultStage::Mail,
            Self::Rcpt => FaultStage::Rcpt,
            Self::Data => FaultStage::Data,
            Self::Body => FaultStage::Body,
            Self::Dot => FaultStage::Dot,
            Self::Rset => FaultStage::Rset,
            Self::Quit => FaultStage::Quit,
            Self::Idle => FaultStage::Idle,
        }
    }

    /// What the client calls it.
    pub(super) fn phase(self) -> Phase {
        match self {
            Self::Connect => Phase::Connect,
            Self::Tls => Phase::Tls,
            Self::Greeting => Phase::Greeting,
            Self::Ehlo => Phase::Ehlo,
            Self::StartTls => Phase::StartTls,
            Self::Auth => Phase::Auth,
            Self::Mail => Phase::MailFrom,
            Self::Rcpt => Phase::RcptTo,
            Self::Data => Phase::Data,
            Self::Body => Phase::Body,
            Self::Dot => Phase::Dot,
            Self::Rset => Phase::Rset,
            Self::Quit => Phase::Quit,
            Self::Idle => Phase::Idle,
        }
    }

    /// Whether it comes before there is a session.
    pub(super) fn is_opening(self) -> bool {
        matches!(
            self,
            Self::Connect | Self::Tls | Self::Greeting | Self::Ehlo | Self::StartTls | Self::Auth
        )
    }
}

/// What the server does there instead of answering as it should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    FourYz,
    FiveYz,
    FourTwentyOne,
    Fin,
    Rst,
    Silence,
    ByteByByte,
    NoEnhancedCode,
    DisagreeingCodes,
    ManyLines,
    ThousandLines,
    MegabyteLine,
    BareLf,
    Nul,
    InvalidUtf8,
    Truncated,
    ExtraReply,
    BeforeItsCommand,
    TwoYzFor354,
    TwoFiftyOne,
}

impl Fault {
    pub(super) const ALL: [Self; 20] = [
        Self::FourYz,
        Self::FiveYz,
        Self::FourTwentyOne,
        Self::Fin,
        Self::Rst,
        Self::Silence,
        Self::ByteByByte,
        Self::NoEnhancedCode,
        Self::DisagreeingCodes,
        Self::ManyLines,
        Self::ThousandLines,
        Self::MegabyteLine,
        Self::BareLf,
        Self::Nul,
        Self::InvalidUtf8,
        Self::Truncated,
        Self::ExtraReply,
        Self::BeforeItsCommand,
        Self::TwoYzFor354,
        Self::TwoFiftyOne,
    ];
}

/// What must become of the copy that is hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    /// Nothing comes of it: accepted at the first try.
    Accepted,
    /// Refused for now with this code, and accepted at the second try.
    Deferred(Phase, u16),
    /// Refused for good with this code.
    Rejected(Phase, u16),
    /// No reply in this phase: put off, and accepted at the second try.
    Lost(Phase),
    /// It reached nobody: no try is counted, and it is accepted at the first that is.
    Untried,
    /// The replies are out of step: untried or put off, but never believed.
    OutOfStep,
    /// Nobody knows: uncertain, whether or not the sink has it.
    Uncertain,
    /// As after a loss in the data, where the dot may or may not have left already.
    LostInTheBody(Option<u16>),
    /// No session comes about at first, and the relay rests; then all goes well.
    NoSession(Phase),
    /// The relay refuses the login: the gate halts the issue until an operator resumes it.
    LoginRefused,
}

/// What becomes of the connection on which it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It carries the next message.
    Kept,
    /// The next message goes over another.
    Closed,
    /// Either: it depends on when the end is seen.
    Any,
}

/// What a server has to offer for the cell to make sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offer {
    Plain,
    StartTls,
    Implicit,
    Login,
}

/// One cell, without its way of sending.
#[derive(Debug, Clone)]
pub(super) struct Script {
    pub(super) rules: Vec<Rule>,
    pub(super) expect: Expect,
    pub(super) fate: Fate,
    pub(super) offer: Offer,
    /// The deadline that is short, by its key in the section `[smtp]`, and how short.
    pub(super) short: Option<(&'static str, &'static str)>,
    /// Which of the three copies is hit, counted from none.
    pub(super) hit: usize,
    /// How many messages a connection carries.
    pub(super) messages: u32,
    /// What happens in front of the sink, to the first connection.
    pub(super) in_front: Option<Fault>,
}
