//! Bytes to a typed report. Owns the reading of returned mail: delivery status notifications
//! (RFC 3464), feedback reports (RFC 5965), free-text bounces of mail servers that never learned
//! the former, disposition notifications (RFC 8098), automatic replies (RFC 3834), mailto
//! unsubscribes (RFC 2369) and everything that is none of these.
//!
//! It only says what a mail *says*. Whose fault that is belongs to [`classify`](super::classify),
//! whether it is about one of our copies to the caller: the envelope recipient and the returned
//! headers carry the tokens, and a report without a valid one changes nothing.
//!
//! Any bytes give an answer in linear time and bounded memory; see the limits in each part.

mod automatic;
mod diagnostic;
mod dsn;
mod feedback;
#[cfg(test)]
mod hostile;
mod mime;
mod notification;
mod original;
mod plain;
#[cfg(test)]
mod tests;
mod text;

use mime::Tree;
use plain::{address, one_line};
use serde::{Deserialize, Serialize};

use super::classify::{Classification, Evidence, Fault, Permanence, Reason, classify};
use crate::{
    provider::ProviderId,
    smtp::{
        client::Phase,
        reply::EnhancedCode,
        verp::{self, TokenMailbox},
    },
};

/// The largest mail that is read, in octets; reports carry at most a copy of one of ours.
pub const SIZE_MAX: usize = 5 * 1024 * 1024;
/// Recipients taken from one report. Ours name one; a report on more is about other people's mail.
const RECIPIENTS_MAX: usize = 64;
/// Octets of diagnostic text kept per recipient.
const DIAGNOSTIC_MAX: usize = 2_048;

/// What a returned mail is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A copy could not be delivered and will not be tried again.
    Failed,
    /// A copy is late and still being tried: logged, nothing else.
    Delayed,
    /// A copy arrived (a success DSN).
    Delivered,
    /// The reader pressed "this is spam".
    Complaint,
    /// Our mail did not authenticate (RFC 6591): the operator's news, not the reader's.
    AuthFailure,
    /// A vacation notice, a read receipt and the like.
    AutoReply,
    /// A request to prove that a human sent the mail; nobody answers it.
    Challenge,
    /// A mail to the unsubscribe address.
    Unsubscribe,
    /// A mail from a person, or anything else.
    NotAReport,
}

/// What a report says happened to a recipient (RFC 3464, section 2.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Not delivered, not tried again.
    Failed,
    /// Not delivered yet.
    Delayed,
    /// Delivered, relayed on or expanded: no failure.
    Delivered,
}

/// One recipient of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportedRecipient {
    /// The address that failed, as the reporting server wrote it. May differ from the reader's
    /// when the reader forwards.
    pub address: String,
    /// The address that we had asked for, when the report says so (`Original-Recipient`).
    pub original: Option<String>,
    /// What happened.
    pub action: Option<Action>,
    /// The SMTP reply code in the diagnostic text (RFC 5321, section 4.2).
    pub code: Option<u16>,
    /// The most telling enhanced status code: the remote server's own before the report's
    /// `Status` field, and anything before `x.0.0` (RFC 3463).
    pub status: Option<EnhancedCode>,
    /// Whether any code of the evidence says that the failure is temporary.
    pub temporary: bool,
    /// The SMTP command that was refused, when the text says so.
    pub phase: Option<Phase>,
    /// What the remote server said, or what the reporting one says about it; at most 2 KiB.
    pub diagnostic: String,
    /// The prose of the report, when this is its only recipient; at most 2 KiB.
    pub notice: String,
    /// The server that refused (`Remote-MTA`).
    pub remote_mta: Option<String>,
    /// When it was last tried (`Last-Attempt-Date`), as written.
    pub last_attempt: Option<String>,
}

impl ReportedRecipient {
    /// A recipient of whom somebody other than a mail says what a server said.
    pub fn quoting(address: String, action: Option<Action>, said: &str) -> Self {
        let codes = diagnostic::codes(said);
        let diagnostic = one_line(said);
        Self {
            address,
            original: None,
            action,
            code: codes.reply,
            status: codes.enhanced,
            temporary: codes.temporary,
            phase: diagnostic::phase(&diagnostic),
            diagnostic,
            notice: String::new(),
            remote_mta: None,
            last_attempt: None,
        }
    }

    /// Whether a report that calls the copy delayed says that it was given up. OpenSMTPD calls what
    /// was too old for its queue so, because the status begins with 4; only the words tell.
    pub fn is_given_up(&self) -> bool {
        self.action == Some(Action::Delayed)
            && self.diagnostic.to_ascii_lowercase().contains("envelope expired")
    }

    /// Whose fault this recipient's failure is, and whether it lasts. Where the fields say "no such
    /// user" and the prose above them says "full" or "blocked", the prose wins: it is the more
    /// careful reading, and gateways put 5.1.1 on everything.
    pub fn classify(&self, provider: ProviderId) -> Classification {
        let evidence = |text| Evidence {
            phase: self.phase,
            code: self.code,
            enhanced: self.status,
            text,
            provider,
        };
        let mut class = classify(&evidence(&self.diagnostic));
        if class.fault == Fault::Unknown && !self.notice.is_empty() {
            class = classify(&evidence(&self.notice));
        }
        if class.fault == Fault::Recipient && !self.notice.is_empty() {
            let prose = Evidence { code: None, enhanced: None, ..evidence(&self.notice) };
            let said = classify(&prose);
            let milder =
                matches!(said.fault, Fault::Mailbox | Fault::Reputation | Fault::Authentication);
            if milder && said.reason != Reason::Filtered {
                class = said;
            }
        }
        // A report that gave up keeps its class 4 codes: "full for five days" is not "dead".
        if self.temporary || self.action == Some(Action::Delayed) {
            class.permanence = Permanence::Transient;
        }
        class
    }
}

/// The headers of the mail that came back, as far as they did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OriginalHeaders {
    /// `Message-ID`, without angle brackets.
    pub message_id: Option<String>,
    /// `To`, as written.
    pub to: Option<String>,
    /// `From`, as written.
    pub from: Option<String>,
    /// `List-Unsubscribe`, as written: our token stands in it.
    pub list_unsubscribe: Option<String>,
    /// `Date`, as written.
    pub date: Option<String>,
    /// `Return-Path`, as written: our VERP address, where the last server kept it.
    pub return_path: Option<String>,
}

/// A returned mail, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// What it is.
    pub kind: Kind,
    /// Whom it is about, in the report's order, each address once.
    pub recipients: Vec<ReportedRecipient>,
    /// The returned headers.
    pub original: Option<OriginalHeaders>,
    /// Where the mail went (the caller's envelope recipient): the first place to look for a token.
    pub envelope_recipient: Option<String>,
    /// `Original-Envelope-Id`: our ENVID, when the server kept it (RFC 3461).
    pub envelope_id: Option<String>,
    /// `Original-Mail-From` of a complaint (RFC 5965, section 3.2): our VERP address.
    pub original_mail_from: Option<String>,
    /// The server that wrote the report.
    pub reporting_mta: Option<String>,
    /// `Feedback-Type` of a complaint (RFC 5965, section 7.3).
    pub feedback_type: Option<String>,
    /// The subject, decoded: for logs and pages.
    pub subject: String,
    /// When the reporting server had taken the copy (`Arrival-Date`), as written.
    pub arrival_date: Option<String>,
    /// When the report was written (`Date`), as written.
    pub date: Option<String>,
    /// What made it the kind that it is.
    pub basis: Basis,
}

/// What in a mail made it the kind that it is: for explanations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Basis {
    /// Nothing was recognised.
    #[default]
    Nothing,
    /// A part of this type: `message/delivery-status`, `message/feedback-report` and so on.
    Part(&'static str),
    /// Status fields (RFC 3464) in a part that is not labelled as such.
    StatusText,
    /// A header field of this name.
    Field(&'static str),
    /// The sender writes such mails only, and this stands in the subject.
    Subject(&'static str),
    /// A mail system wrote it, and these words stand in it.
    Words(&'static str),
    /// The address that it was sent to.
    Mailbox,
}

impl std::fmt::Display for Basis {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing in it is known"),
            Self::Part(essence) => write!(f, "part {essence}"),
            Self::StatusText => f.write_str("status fields in a text part"),
            Self::Field(name) => write!(f, "field {name}"),
            Self::Subject(words) => write!(f, "subject `{words}`"),
            Self::Words(words) => write!(f, "words `{words}`"),
            Self::Mailbox => f.write_str("the address it was sent to"),
        }
    }
}

/// Why a mail was not read at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Larger than [`SIZE_MAX`].
    #[error("the mail has {0} octets and no more than {SIZE_MAX} are read")]
    TooLarge(usize),
}

/// Reads a returned mail. `envelope_recipient` is where it was sent (RCPT TO, or a `Delivered-To`
/// that the caller trusts): a local part `u` with a detail (`u+TOKEN`) marks an unsubscribe mail.
pub fn read(raw: &[u8], envelope_recipient: Option<&str>) -> Result<Report, ReadError> {
    if raw.len() > SIZE_MAX {
        return Err(ReadError::TooLarge(raw.len()));
    }
    let message = mime::with_lf(raw);
    let tree = Tree::read(&message);
    let mut report = Report {
        kind: Kind::NotAReport,
        recipients: Vec::new(),
        original: None,
        envelope_recipient: envelope_recipient.map(str::to_owned),
        envelope_id: None,
        original_mail_from: None,
        reporting_mta: None,
        feedback_type: None,
        subject: tree.fields.subject(),
        arrival_date: None,
        date: tree.fields.get("Date").map(one_line),
        basis: Basis::Nothing,
    };
    let recognised = feedback::read(&tree, &mut report)
        || dsn::read(&tree, &mut report)
        || notification::read(&tree, &mut report)
        || automatic::unsubscribe(&tree, &mut report)
        || text::read(&tree, &mut report)
        || automatic::reply(&tree, &mut report);
    if recognised && report.recipients.is_empty() {
        report_inside(&tree, &mut report);
    }
    if recognised && report.original.is_none() {
        report.original = original::find(&tree);
    }
    Ok(report)
}

/// A mail system that passes on what another one reported says nothing of its own: what came back
/// with its notice is the report. Looks one level deep.
fn report_inside(tree: &Tree<'_>, report: &mut Report) {
    if !matches!(report.kind, Kind::Failed | Kind::Delayed) {
        return;
    }
    let Some(returned) = original::whole(tree) else { return };
    let inner = Tree::read(&returned);
    if text::from_a_mail_system(&inner) && (dsn::read(&inner, report) || text::read(&inner, report))
    {
        report.original = original::find(&inner);
    }
}

/// Where a token was found: the envelope is set by the server that sent the report, the returned
/// headers may have been copied from any mail of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenPlace {
    /// In the address that the mail was sent to.
    Envelope,
    /// In what came back: `Original-Mail-From`, `Return-Path`, `List-Unsubscribe`.
    ReturnedHeaders,
}

impl Report {
    /// Tokens that the mail carries, the best witness first. None is proven here: the key ring
    /// says whether one is genuine, the caller whether the returned `Message-ID` is one of ours.
    pub fn tokens(&self) -> impl Iterator<Item = (TokenPlace, TokenMailbox, &str)> {
        let envelope = self.envelope_recipient.as_deref().and_then(verp::find);
        let original = self.original.as_ref();
        let paths =
            [self.original_mail_from.as_deref(), original.and_then(|o| o.return_path.as_deref())];
        let list = original.and_then(|o| o.list_unsubscribe.as_deref());
        let returned =
            paths.into_iter().chain(list.into_iter().flat_map(|l| l.split(',').map(Some)));
        envelope.map(|(mailbox, token)| (TokenPlace::Envelope, mailbox, token)).into_iter().chain(
            returned
                .flatten()
                .filter_map(verp::find)
                .map(|(mailbox, token)| (TokenPlace::ReturnedHeaders, mailbox, token)),
        )
    }

    /// What the report says about a reader whom a token named: the entry with that address, else
    /// the first one that failed, as the reader forwards and the failing address is another.
    pub fn about(&self, address: &str) -> Option<&ReportedRecipient> {
        let names = |r: &&ReportedRecipient| {
            r.address.eq_ignore_ascii_case(address)
                || r.original.as_ref().is_some_and(|o| o.eq_ignore_ascii_case(address))
        };
        let failed = |r: &&ReportedRecipient| r.action != Some(Action::Delivered);
        self.recipients.iter().find(names).or_else(|| self.recipients.iter().find(failed))
    }

    /// Adds a recipient, unless its address is already there or there are enough.
    fn add(&mut self, recipient: ReportedRecipient) {
        let known = |r: &ReportedRecipient| r.address.eq_ignore_ascii_case(&recipient.address);
        if self.recipients.len() < RECIPIENTS_MAX && !self.recipients.iter().any(known) {
            self.recipients.push(recipient);
        }
    }
}
