//! Messages as they go after DATA: compiled once per issue or kind of service mail, composed once
//! per copy.
//!
//! [`MessageTemplate::compile`] encodes everything that is the same for every reader. Each slot is
//! fenced by soft line breaks, so that a copy costs the encoding of its own values and a few
//! copied slices. A composed message needs nothing more: no line begins with a dot, every line ends
//! in CRLF, the longest has 76 characters in the body and at most 998 in the header, and the only
//! octets outside ASCII are those of a `To` address that itself has them (RFC 6532).
//!
//! Owns MIME and header fields. Does not know the envelope (`smtp::verp`), signatures
//! (`smtp::dkim`), or how text and HTML were rendered (`issue`).

mod composed;
mod header;
mod message_id;
mod part;
mod quoted_printable;

use self::part::Body;
pub use self::{
    composed::ComposedMessage,
    header::{HeaderError, HeaderFault, Mailbox},
    message_id::{copy_of_message_id, message_id},
};
use crate::merge::{Field, MergeText, MissingField, Reader};

/// What all copies of a message have in common.
#[derive(Debug, Clone)]
pub struct MessageParts<'a> {
    /// Who writes; the address must be ASCII.
    pub from: Mailbox<'a>,
    /// A mailbox that people read; the address must be ASCII.
    pub reply_to: Option<Mailbox<'a>>,
    /// The subject, in any script.
    pub subject: &'a str,
    /// The plain-text part.
    pub text: &'a MergeText,
    /// The HTML part.
    pub html: &'a MergeText,
    /// What follows from being an issue or a service mail.
    pub kind: MessageKind<'a>,
}

/// An issue of a newsletter, or a mail that answers something a reader did.
#[derive(Debug, Clone, Copy)]
pub enum MessageKind<'a> {
    /// A copy of an issue: bulk mail to a list. Every copy must have a way to leave.
    Issue {
        /// The fields that mail programs show as a list's.
        list: ListFields<'a>,
        /// What Gmail's complaint figures are grouped by.
        feedback_id: FeedbackId<'a>,
    },
    /// A confirmation, welcome, goodbye, …: marked `Auto-Submitted` (RFC 3834, section 5).
    Service {
        /// What Gmail's complaint figures are grouped by.
        feedback_id: Option<FeedbackId<'a>>,
    },
}

/// The `List-*` fields that are the same in every copy (RFC 2919, RFC 2369).
#[derive(Debug, Clone, Copy)]
pub struct ListFields<'a> {
    /// The newsletter's name, in any script; may be empty.
    pub name: &'a str,
    /// The list's identifier in the manner of a domain: `sre.example.com`. It never changes.
    pub id: &'a str,
    /// `List-Help`: a page or mailbox that explains the list.
    pub help: &'a str,
    /// `List-Archive`: the page of past issues.
    pub archive: &'a str,
    /// `List-Owner`: how to reach the people who run it.
    pub owner: &'a str,
}

/// The four fields of `Feedback-ID`. None of them may be unique to a message; each is printable
/// ASCII without colons and spaces.
#[derive(Debug, Clone, Copy)]
pub struct FeedbackId<'a> {
    /// Which sending: `issue-437`.
    pub campaign: &'a str,
    /// Which newsletter: its slug.
    pub newsletter: &'a str,
    /// Which kind of mail: `issue`, `confirmation`.
    pub kind: &'a str,
    /// Who sends, the same in all mail of an installation.
    pub sender: &'a str,
}

/// What one copy has of its own.
#[derive(Debug)]
pub struct CopyFields<'a, R> {
    /// The reader's data for the slots.
    pub reader: &'a R,
    /// Who gets it: the only recipient named.
    pub to: Mailbox<'a>,
    /// The Message-ID without angle brackets; see [`message_id`].
    pub message_id: &'a str,
    /// The `Date` value (`Timestamp::to_rfc5322`).
    pub date: &'a str,
    /// The ways to leave; every copy of an issue has them.
    pub unsubscribe: Option<ListUnsubscribe<'a>>,
}

/// The two ways to leave that mail programs offer (RFC 2369, RFC 8058).
#[derive(Debug, Clone, Copy)]
pub struct ListUnsubscribe<'a> {
    /// The page, which is also the one-click target: an https URI.
    pub https: &'a str,
    /// The mailbox: a `mailto:` URI.
    pub mailto: &'a str,
}

/// Why a copy cannot be composed. Nothing of it may be sent; other copies are not concerned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ComposeError {
    /// The reader lacks a datum that has no fallback.
    #[error(transparent)]
    Missing(#[from] MissingField),
    /// A value of this copy may not stand in a header.
    #[error(transparent)]
    Header(#[from] HeaderError),
}

/// A message with everything encoded but the readers' own fields.
#[derive(Debug, Clone)]
pub struct MessageTemplate {
    /// The header fields that all copies share.
    head: Vec<u8>,
    body: Body,
    is_issue: bool,
}

impl MessageTemplate {
    /// Encodes all that `parts` has in common for every reader.
    pub fn compile(parts: &MessageParts<'_>) -> Result<Self, HeaderError> {
        // `=_` cannot occur in quoted-printable, so the boundary is in no body, whatever a reader's
        // data is; random, so that nobody can write a message that is cut by another's boundary.
        let boundary = format!("=_{}", crate::token::random_token());
        let head = compile_head(parts, &boundary)?;
        let body = Body::compile(parts.text, parts.html, &boundary);
        let is_issue = matches!(parts.kind, MessageKind::Issue { .. });
        Ok(Self { head, body, is_issue })
    }

    /// Makes one copy in `out`, ready to follow DATA: what is missing is only the final `.`. Whatever
    /// was in `out` is gone; on an error nothing is in it.
    pub fn compose<R: Reader>(
        &self,
        copy: &CopyFields<'_, R>,
        out: &mut ComposedMessage,
    ) -> Result<(), ComposeError> {
        let composed = self.try_compose(copy, out);
        if composed.is_err() {
            out.clear();
        }
        composed
    }

    /// An upper bound on a copy's octets when no value, name or URI of a reader is longer than
    /// `value_octets_max`. For buffers and limits; compose a copy to know its size.
    pub fn size_max(&self, value_octets_max: usize) -> usize {
        // A `To` name grows at most fourfold in encoded words with their frames and folds.
        let own_fields = 1_024 + 3 * crate::address::ADDRESS_OCTETS_MAX + 8 * value_octets_max;
        let slots = self.body.slots_len_max(value_octets_max);
        self.head.len() + self.body.constant().len() + own_fields + slots
    }

    fn try_compose<R: Reader>(
        &self,
        copy: &CopyFields<'_, R>,
        out: &mut ComposedMessage,
    ) -> Result<(), ComposeError> {
        out.begin(self.body.constant(), |header| self.compose_header(copy, header))?;
        self.body.compose(copy.reader, out)?;
        Ok(())
    }

    fn compose_header<R: Reader>(
        &self,
        copy: &CopyFields<'_, R>,
        out: &mut Vec<u8>,
    ) -> Result<(), ComposeError> {
        out.reserve(self.head.len() + 2_048);
        out.extend_from_slice(&self.head);
        header::push_ascii("Date", &[copy.date], out)?;
        header::push_mailbox("To", copy.to, out)?;
        header::push_message_id(copy.message_id, out)?;
        match copy.unsubscribe {
            Some(ListUnsubscribe { https, mailto }) => {
                header::push_uris("List-Unsubscribe", &[https, mailto], out)?;
                out.extend_from_slice(b"List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n");
            }
            None if self.is_issue => {
                return Err(MissingField { field: Field::UnsubscribeUrl }.into());
            }
            None => {}
        }
        Ok(())
    }
}

/// The header fields that all copies share.
fn compile_head(parts: &MessageParts<'_>, boundary: &str) -> Result<Vec<u8>, HeaderError> {
    let mut out = Vec::with_capacity(1_024);
    push_own_mailbox("From", parts.from, &mut out)?;
    if let Some(reply_to) = parts.reply_to {
        push_own_mailbox("Reply-To", reply_to, &mut out)?;
    }
    header::push_text("Subject", parts.subject, &mut out)?;
    header::push_ascii("MIME-Version", &["1.0"], &mut out)?;
    let content_type = ["multipart/alternative;\r\n boundary=\"", boundary, "\"\r\n"];
    out.extend_from_slice(b"Content-Type: ");
    for text in content_type {
        out.extend_from_slice(text.as_bytes());
    }
    let feedback_id = match parts.kind {
        MessageKind::Issue { list, feedback_id } => {
            header::push_list_id(list.name, list.id, &mut out)?;
            header::push_uris("List-Help", &[list.help], &mut out)?;
            header::push_uris("List-Archive", &[list.archive], &mut out)?;
            header::push_uris("List-Owner", &[list.owner], &mut out)?;
            Some(feedback_id)
        }
        MessageKind::Service { feedback_id } => {
            header::push_ascii("Auto-Submitted", &["auto-generated"], &mut out)?;
            feedback_id
        }
    };
    if let Some(FeedbackId { campaign, newsletter, kind, sender }) = feedback_id {
        header::push_feedback_id([campaign, newsletter, kind, sender], &mut out)?;
    }
    Ok(out)
}

fn push_own_mailbox(
    field: &'static str,
    mailbox: Mailbox<'_>,
    out: &mut Vec<u8>,
) -> Result<(), HeaderError> {
    if mailbox.address.needs_smtputf8() {
        return Err(HeaderError { field, fault: HeaderFault::NeedsSmtputf8 });
    }
    header::push_mailbox(field, mailbox, out)
}

#[cfg(test)]
mod tests;
