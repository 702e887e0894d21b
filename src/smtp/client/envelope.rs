//! The envelope of one message: who it is from, whom it is for, and the commands that say so.

use std::fmt::Write;

use thiserror::Error;

use super::capabilities::Capabilities;

/// The longest path we put on the wire. RFC 5321 (4.5.3.1.3) lets servers stop at 256; this leaves
/// room for those that take more, and a server may refuse what it will.
const PATH_LEN_MAX: usize = 512;

/// The longest ENVID, in characters (RFC 3461, section 4.4).
const ENVID_LEN_MAX: usize = 100;

/// The longest ORCPT, in characters (RFC 3461, section 4.2).
const ORCPT_LEN_MAX: usize = 500;

/// One message's sender and recipient. One recipient each: copies are personal.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Envelope {
    /// The reverse path, without angle brackets; empty for the null sender of reports.
    pub mail_from: String,
    /// The forward path, without angle brackets.
    pub rcpt_to: String,
    /// The delivery report to ask for, where the server offers it.
    pub report: Option<ReportRequest>,
    /// Whether the message needs SMTPUTF8 although its addresses do not.
    pub smtputf8: bool,
    /// The size to announce in SIZE=, in bytes, where the server offers it.
    pub size: Option<u64>,
}

impl Envelope {
    /// An envelope without extras.
    pub fn new(mail_from: impl Into<String>, rcpt_to: impl Into<String>) -> Self {
        Self { mail_from: mail_from.into(), rcpt_to: rcpt_to.into(), ..Self::default() }
    }

    /// Whether this cannot go to a server without SMTPUTF8 (RFC 6531).
    pub fn needs_smtputf8(&self) -> bool {
        self.smtputf8 || !self.mail_from.is_ascii() || !self.rcpt_to.is_ascii()
    }

    /// Writes the commands into `commands`, or says why this server cannot be given the envelope.
    /// A `body_len` makes sure that the body fits, too.
    pub(super) fn render(
        &self,
        server: &Capabilities,
        body_len: Option<usize>,
        commands: &mut Commands,
    ) -> Result<(), Unsendable> {
        commands.clear();
        check_path("mail_from", &self.mail_from)?;
        check_path("rcpt_to", &self.rcpt_to)?;
        if self.rcpt_to.is_empty() {
            return Err(Unsendable::Address { field: "rcpt_to", why: "it is empty" });
        }
        let utf8 = self.needs_smtputf8();
        if utf8 && !server.smtputf8 {
            return Err(Unsendable::NeedsSmtpUtf8);
        }
        let size = self.size.into_iter().chain(body_len.map(|len| len as u64)).max();
        if let (Some(limit), Some(size)) = (server.size_max, size)
            && size > limit
        {
            return Err(Unsendable::TooBig { size, limit });
        }
        let text = &mut commands.text;
        for part in ["MAIL FROM:<", &self.mail_from, ">"] {
            text.push_str(part);
        }
        if let Some(size) = self.size.filter(|_| server.size) {
            // Writing to a String cannot fail.
            let _ = write!(text, " SIZE={size}");
        }
        if utf8 {
            text.push_str(" SMTPUTF8");
        }
        let report = self.report.as_ref().filter(|_| server.dsn);
        if let Some(report) = report {
            report.check()?;
            text.push_str(" RET=HDRS ENVID=");
            push_xtext(text, &report.envid);
        }
        text.push_str("\r\n");
        commands.mail_end = text.len();
        for part in ["RCPT TO:<", &self.rcpt_to, ">"] {
            text.push_str(part);
        }
        if let Some(report) = report {
            text.push_str(" NOTIFY=FAILURE ORCPT=rfc822;");
            push_xtext(text, &report.original_recipient);
        }
        text.push_str("\r\n");
        commands.rcpt_end = text.len();
        text.push_str("DATA\r\n");
        Ok(())
    }
}

/// What to ask of a server that offers delivery reports (RFC 3461): failures only, headers only.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReportRequest {
    /// The envelope id that comes back in the report; printable ASCII, encoded here.
    pub envid: String,
    /// The address as we knew it; comes back even when the mail was forwarded. ASCII.
    pub original_recipient: String,
}

impl ReportRequest {
    fn check(&self) -> Result<(), Unsendable> {
        let fields = [
            ("envid", &self.envid, ENVID_LEN_MAX),
            ("original_recipient", &self.original_recipient, ORCPT_LEN_MAX),
        ];
        for (field, text, len_max) in fields {
            if text.is_empty() || text.len() > len_max {
                return Err(Unsendable::Address { field, why: "it is empty or too long" });
            }
            if text.bytes().any(|byte| !(0x20..0x7f).contains(&byte)) {
                return Err(Unsendable::Address { field, why: "it is not printable ASCII" });
            }
        }
        Ok(())
    }
}

/// Why a message was not even offered to a server. Nothing was written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unsendable {
    /// An address cannot stand in a command; with CR or LF in it, it would be two commands.
    #[error("{field} cannot stand in an SMTP command: {why}")]
    Address {
        /// Which part of the envelope.
        field: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The address needs SMTPUTF8 and the server does not offer it.
    #[error("the address needs SMTPUTF8, which this server does not offer")]
    NeedsSmtpUtf8,
    /// The message is larger than the server's SIZE.
    #[error("the message has {size} bytes, and this server takes {limit} at most")]
    TooBig {
        /// The message's size in bytes.
        size: u64,
        /// The server's limit in bytes.
        limit: u64,
    },
    /// The body does not end with CRLF, so the final dot would not stand on a line of its own.
    #[error("the body does not end with CRLF")]
    UnfinishedBody,
    /// Another message's envelope was already opened on this session. The session is closed, as
    /// the server may be waiting for that message's body.
    #[error("another message's envelope is open on this session")]
    OtherEnvelopeOpen,
}

/// MAIL, RCPT and DATA of one envelope, ready for the wire.
#[derive(Debug, Default)]
pub(super) struct Commands {
    text: String,
    mail_end: usize,
    rcpt_end: usize,
}

impl Commands {
    fn clear(&mut self) {
        self.text.clear();
        (self.mail_end, self.rcpt_end) = (0, 0);
    }

    /// All three, for one write.
    pub(super) fn all(&self) -> &[u8] {
        self.text.as_bytes()
    }

    pub(super) fn mail(&self) -> &[u8] {
        &self.all()[..self.mail_end]
    }

    pub(super) fn rcpt(&self) -> &[u8] {
        &self.all()[self.mail_end..self.rcpt_end]
    }

    pub(super) fn data(&self) -> &[u8] {
        &self.all()[self.rcpt_end..]
    }
}

/// Makes sure that `path` stays one path: no controls anywhere, and outside of a quoted local part
/// nothing that would end it and begin a parameter.
fn check_path(field: &'static str, path: &str) -> Result<(), Unsendable> {
    let refuse = |why| Err(Unsendable::Address { field, why });
    if path.len() > PATH_LEN_MAX {
        return refuse("it is too long");
    }
    if path
        .bytes()
        .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'+' | b'@' | b'-'))
    {
        return Ok(());
    }
    let (mut quoted, mut escaped) = (false, false);
    for c in path.chars() {
        if c.is_control() {
            return refuse("it has a control character in it");
        }
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ' ' | '<' | '>' if !quoted => {
                return refuse("it has a space or an angle bracket in it");
            }
            _ => {}
        }
    }
    if quoted { refuse("a quotation mark is left open") } else { Ok(()) }
}

/// Appends `text` as xtext (RFC 3461, section 4).
fn push_xtext(out: &mut String, text: &str) {
    let stands = |byte: u8| (b'!'..=b'~').contains(&byte) && byte != b'+' && byte != b'=';
    if text.bytes().all(stands) {
        return out.push_str(text);
    }
    for byte in text.bytes() {
        if stands(byte) {
            out.push(byte as char);
        } else {
            let _ = write!(out, "+{byte:02X}");
        }
    }
}
