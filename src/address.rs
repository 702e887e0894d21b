//! Mail addresses: what is accepted, how two are compared, and how one is shown in a process log.
//!
//! Owns the rules of RFC 5321 and 5322 for one address without a display name, with the choices a
//! newsletter makes: domains must be names (no `[192.0.2.1]`, no `localhost`), comments and folded
//! whitespace are refused. Whether anybody reads mail there is not known here.

mod redaction;

use std::{borrow::Cow, fmt, str::FromStr};

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use serde::{Deserialize, Serialize};

pub use redaction::redacted_text;

/// Octets before the `@` (RFC 5321, section 4.5.3.1.1).
pub const LOCAL_PART_OCTETS_MAX: usize = 64;
/// Octets of a whole address (RFC 5321, section 4.5.3.1.3, less the angle brackets).
pub const ADDRESS_OCTETS_MAX: usize = 254;

/// One mail address, valid and ready to be sent to.
///
/// The local part stands as it was typed, the domain in lower case and A-labels. Equality is that of
/// the text; compare [`Address::key`] to find out whether two spellings mean one mailbox.
/// `Debug` is redacted, so that an address does not reach a process log by accident.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Address {
    text: Box<str>,
    /// Where the `@` stands; at most [`LOCAL_PART_OCTETS_MAX`].
    at: u8,
}

/// Why a text is not an address. The messages are written for the person who typed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Nothing was typed.
    #[error("no e-mail address was given")]
    Empty,
    /// A control character (CR, LF and NUL among them) or one that cannot be seen.
    #[error("the address contains a character that cannot be seen (U+{:04X})", *.0 as u32)]
    Invisible(char),
    /// No `@`.
    #[error("the address has no @; it should look like name@example.com")]
    NoAt,
    /// Nothing before the `@`.
    #[error("nothing stands before the @")]
    LocalPartEmpty,
    /// More than [`LOCAL_PART_OCTETS_MAX`] octets before the `@`.
    #[error("the part before the @ is {0} octets long; {LOCAL_PART_OCTETS_MAX} are allowed")]
    LocalPartTooLong(usize),
    /// A dot at an end of the local part, or two in a row.
    #[error("the part before the @ begins or ends with a dot, or has two dots in a row")]
    LocalPartDots,
    /// A character that only a quoted local part may have.
    #[error("“{0}” is not allowed before the @")]
    LocalPartCharacter(char),
    /// A local part that begins with a quote and does not end as one.
    #[error("the quotes before the @ do not match")]
    LocalPartQuotes,
    /// Nothing after the `@`.
    #[error("nothing stands after the @")]
    DomainEmpty,
    /// An IP address instead of a domain.
    #[error("the part after the @ must be a domain name, not an IP address")]
    DomainIsIpAddress,
    /// A domain of one label.
    #[error("the domain has no dot; it should look like example.com")]
    DomainWithoutDot,
    /// Not a domain name (IDNA 2008 as UTS #46 processes it, RFC 1035 lengths).
    #[error("“{0}” is not a domain name")]
    Domain(String),
    /// More than [`ADDRESS_OCTETS_MAX`] octets in all.
    #[error("the address is {0} octets long; {ADDRESS_OCTETS_MAX} are allowed")]
    TooLong(usize),
}

impl Address {
    /// Reads an address as a person types it: surrounding whitespace is dropped.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(AddressError::Empty);
        }
        let is_visible = text.bytes().all(|octet| octet.is_ascii_graphic());
        if !is_visible && let Some(found) = text.chars().find(|&c| is_invisible(c)) {
            return Err(AddressError::Invisible(found));
        }
        let (local_part, domain) = text.rsplit_once('@').ok_or(AddressError::NoAt)?;
        check_local_part(local_part)?;
        let domain = domain_to_ascii(domain)?;
        let octets = local_part.len() + 1 + domain.len();
        if octets > ADDRESS_OCTETS_MAX {
            return Err(AddressError::TooLong(octets));
        }
        let at = local_part.len() as u8; // checked: at most 64
        Ok(Self { text: [local_part, "@", &domain].concat().into_boxed_str(), at })
    }

    /// The address as it is mailed.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What stands before the `@`, as it was typed (quotes included).
    pub fn local_part(&self) -> &str {
        &self.text[..usize::from(self.at)]
    }

    /// The domain, in lower case and A-labels.
    pub fn domain(&self) -> &str {
        &self.text[usize::from(self.at) + 1..]
    }

    /// The form in which addresses are compared and indexed: lower case, without quotes that are not
    /// needed. Two addresses with one key are taken for one mailbox. It is for comparing only and
    /// must never be mailed: a server may tell cases apart.
    pub fn key(&self) -> Cow<'_, str> {
        let typed = self.local_part();
        let local_part = unquoted_if_plain(typed);
        if local_part.len() == typed.len()
            && self.text.bytes().all(|b| b.is_ascii() && !b.is_ascii_uppercase())
        {
            return Cow::Borrowed(&self.text);
        }
        let mut key = String::with_capacity(self.text.len());
        // Character by character: `str::to_lowercase` treats a sigma by what surrounds it.
        key.extend(local_part.chars().flat_map(char::to_lowercase));
        key.push('@');
        key.push_str(self.domain());
        Cow::Owned(key)
    }

    /// Whether only a server that offers SMTPUTF8 (RFC 6531) can take mail for this address.
    pub fn needs_smtputf8(&self) -> bool {
        !self.local_part().is_ascii()
    }

    /// Whether this is a function's mailbox rather than a person's (RFC 2142 and the field's habits),
    /// sub-addresses (`abuse+x`) included. Imports skip these; whoever signs up may use one.
    pub fn is_role_account(&self) -> bool {
        let key = self.key();
        let local_part = key.split(['@', '+']).next().unwrap_or_default();
        ROLE_ACCOUNTS.binary_search(&local_part).is_ok()
    }

    /// The form for process logs: `a…@example.com`.
    pub fn redacted(&self) -> Redacted<'_> {
        Redacted(self)
    }
}

/// The mailboxes that are nobody's own, sorted.
const ROLE_ACCOUNTS: &[&str] = &[
    "abuse",
    "admin",
    "administrator",
    "all",
    "billing",
    "bounce",
    "bounces",
    "compliance",
    "contact",
    "devnull",
    "dns",
    "do-not-reply",
    "donotreply",
    "ftp",
    "help",
    "hostmaster",
    "info",
    "inoc",
    "ispfeedback",
    "ispsupport",
    "jobs",
    "list",
    "list-request",
    "listserv",
    "maildaemon",
    "mailer-daemon",
    "mailerdaemon",
    "majordomo",
    "marketing",
    "network",
    "news",
    "no-reply",
    "noc",
    "noreply",
    "null",
    "office",
    "phish",
    "phishing",
    "post",
    "postmaster",
    "privacy",
    "registrar",
    "remove",
    "root",
    "sales",
    "security",
    "spam",
    "subscribe",
    "support",
    "sysadmin",
    "trouble",
    "unsubscribe",
    "usenet",
    "uucp",
    "webmaster",
    "www",
];

/// Controls, and format characters that make two addresses look alike.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}')
}

/// RFC 5321 `Local-part`, widened by RFC 6531 to everything outside ASCII but spaces.
fn check_local_part(local_part: &str) -> Result<(), AddressError> {
    if local_part.is_empty() {
        return Err(AddressError::LocalPartEmpty);
    }
    if local_part.len() > LOCAL_PART_OCTETS_MAX {
        return Err(AddressError::LocalPartTooLong(local_part.len()));
    }
    if let Some(rest) = local_part.strip_prefix('"') {
        let content = rest.strip_suffix('"').ok_or(AddressError::LocalPartQuotes)?;
        return check_quoted(content);
    }
    if let Some(found) = local_part.chars().find(|&c| c != '.' && !is_atext(c)) {
        return Err(AddressError::LocalPartCharacter(found));
    }
    if local_part.split('.').any(str::is_empty) {
        return Err(AddressError::LocalPartDots);
    }
    Ok(())
}

fn check_quoted(content: &str) -> Result<(), AddressError> {
    let mut chars = content.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => return Err(AddressError::LocalPartQuotes),
            '\\' => match chars.next() {
                Some(escaped) if escaped.is_ascii() => {} // controls were refused before
                _ => return Err(AddressError::LocalPartQuotes),
            },
            _ => {}
        }
    }
    Ok(())
}

fn is_atext(c: char) -> bool {
    if c.is_ascii() {
        c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c)
    } else {
        !c.is_whitespace()
    }
}

/// `"ada.l"` means what `ada.l` means; quotes that are needed stay.
fn unquoted_if_plain(local_part: &str) -> &str {
    let inside = local_part.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match inside {
        Some(inside)
            if inside.chars().all(|c| c == '.' || is_atext(c))
                && !inside.split('.').any(str::is_empty) =>
        {
            inside
        }
        _ => local_part,
    }
}

/// Whether nothing can be wrong with this domain and nothing has to change: lower-case labels of
/// letters, digits and single hyphens inside, of which the last begins with a letter. Nearly all
/// are, and IDNA processing takes a microsecond.
fn is_plain_domain(domain: &str) -> bool {
    let mut labels = 0;
    let mut before = b'.';
    let mut label_len = 0;
    let mut last_label_begins_with = b'.';
    for byte in domain.bytes() {
        match byte {
            b'.' if before != b'.' && before != b'-' => {
                labels += 1;
                label_len = 0;
            }
            b'a'..=b'z' | b'0'..=b'9' => label_len += 1,
            b'-' if before != b'.' && before != b'-' => label_len += 1,
            _ => return false,
        }
        if before == b'.' {
            last_label_begins_with = byte;
        }
        if label_len > 63 {
            return false;
        }
        before = byte;
    }
    labels > 0
        && domain.len() <= 253
        && before != b'.'
        && before != b'-'
        && last_label_begins_with.is_ascii_lowercase()
}

/// A domain in lower case and A-labels (RFC 5891, as UTS #46 maps what people type).
fn domain_to_ascii(domain: &str) -> Result<Cow<'_, str>, AddressError> {
    if domain.is_empty() {
        return Err(AddressError::DomainEmpty);
    }
    if domain.starts_with('[') {
        return Err(AddressError::DomainIsIpAddress);
    }
    if is_plain_domain(domain) {
        return Ok(Cow::Borrowed(domain));
    }
    processed_domain(domain).map(Cow::Owned)
}

fn processed_domain(domain: &str) -> Result<String, AddressError> {
    let ascii = Uts46::new()
        .to_ascii(
            domain.as_bytes(),
            AsciiDenyList::STD3,
            Hyphens::CheckFirstLast,
            DnsLength::Verify,
        )
        .map_err(|_| AddressError::Domain(domain.to_owned()))?;
    match ascii.rsplit_once('.') {
        None => Err(AddressError::DomainWithoutDot),
        Some((_, last)) if last.bytes().all(|b| b.is_ascii_digit()) => {
            Err(AddressError::DomainIsIpAddress)
        }
        Some(_) => Ok(ascii.into_owned()),
    }
}

/// An address in the form for process logs; see [`Address::redacted`].
#[derive(Clone, Copy)]
pub struct Redacted<'a>(&'a Address);

impl fmt::Display for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.0.local_part().trim_start_matches('"').chars().next().unwrap_or('?');
        write!(f, "{first}…@{}", self.0.domain())
    }
}

impl fmt::Debug for Redacted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.redacted(), f)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.text.into()
    }
}

impl AsRef<str> for Address {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

#[cfg(test)]
mod tests;
