//! Header fields (RFC 5322), folded, with words outside ASCII as RFC 2047 wants them.
//!
//! Everything that reaches a header comes through here, and what could end a field or begin another
//! (CR, LF, NUL, any control) is refused rather than repaired.

use data_encoding::BASE64;

use crate::address::Address;

/// Characters of a header line, where it can be folded (RFC 5322, section 2.1.1).
const LINE_LEN: usize = 78;
/// Characters of a line that has an encoded word (RFC 2047, section 2).
const ENCODED_LINE_LEN: usize = 76;
/// `=?utf-8?Q?` and `?=`; a word of at most 75 characters has room for 63.
const ENCODED_WORD_FRAME_LEN: usize = 12;
/// Octets of the longest value that cannot be folded; a line may have 998.
const VALUE_OCTETS_MAX: usize = 900;

/// A header field that cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {fault}")]
pub struct HeaderError {
    /// The name of the field.
    pub field: &'static str,
    /// What is wrong with the value.
    pub fault: HeaderFault,
}

/// What is wrong with a header's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// CR, LF, NUL or another control character: the value could forge a header.
    #[error("the value contains a control character (U+{:04X}), which no header may have", *.0 as u32)]
    Control(char),
    /// The field must have a value and has none.
    #[error("the value is empty")]
    Empty,
    /// An identifier or URI has something else in it.
    #[error("“{0}” is not allowed here; in a URI it has to be percent-encoded")]
    Character(char),
    /// Not a URI, or not one for a header.
    #[error("this must be a URI that begins with https:, http: or mailto:")]
    Uri,
    /// Longer than a header line can be.
    #[error("the value is too long for a header line")]
    TooLong,
    /// An address of ours that only SMTPUTF8 servers could take.
    #[error("the part before the @ must be ASCII: not every mail server takes anything else")]
    NeedsSmtputf8,
}

impl HeaderFault {
    fn of(self, field: &'static str) -> HeaderError {
        HeaderError { field, fault: self }
    }
}

/// An address with the name that is shown with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mailbox<'a> {
    /// The display name, in any script; empty is none.
    pub name: Option<&'a str>,
    /// The address.
    pub address: &'a Address,
}

/// Writes a field of free text (`Subject`).
pub(super) fn push_text(
    field: &'static str,
    value: &str,
    out: &mut Vec<u8>,
) -> Result<(), HeaderError> {
    check_no_control(field, value)?;
    if value.is_empty() {
        return Err(HeaderFault::Empty.of(field));
    }
    let mut column = push_name(field, out);
    if can_fold_as_it_is(value) {
        for (nth, word) in value.split(' ').enumerate() {
            if nth > 0 {
                column = push_space(column, word.len(), out);
            }
            out.extend_from_slice(word.as_bytes());
            column += word.len();
        }
    } else {
        push_encoded_words(value, column, out);
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Writes a field of one mailbox (`From`, `To`, `Reply-To`).
pub(super) fn push_mailbox(
    field: &'static str,
    mailbox: Mailbox<'_>,
    out: &mut Vec<u8>,
) -> Result<(), HeaderError> {
    let address = mailbox.address.as_str();
    let name = mailbox.name.unwrap_or_default();
    check_no_control(field, name)?;
    let column = push_name(field, out);
    if name.is_empty() {
        out.extend_from_slice(address.as_bytes());
    } else {
        let column = push_phrase(name, column, out);
        push_in_brackets(address, column, out);
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Writes `List-Id` (RFC 2919): a name for people and an identifier in the manner of a domain.
pub(super) fn push_list_id(name: &str, id: &str, out: &mut Vec<u8>) -> Result<(), HeaderError> {
    const FIELD: &str = "List-Id";
    check_no_control(FIELD, name)?;
    let is_label = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    check_octets(FIELD, id, is_label)?;
    if id.split('.').any(str::is_empty) {
        return Err(HeaderFault::Empty.of(FIELD));
    }
    if id.len() > 255 {
        return Err(HeaderFault::TooLong.of(FIELD));
    }
    let mut column = push_name(FIELD, out);
    if !name.is_empty() {
        column = push_phrase(name, column, out);
    }
    push_in_brackets(id, column, out);
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Writes a field of URIs in angle brackets (RFC 2369), one a line.
pub(super) fn push_uris(
    field: &'static str,
    uris: &[&str],
    out: &mut Vec<u8>,
) -> Result<(), HeaderError> {
    push_name(field, out);
    for (nth, uri) in uris.iter().enumerate() {
        check_uri(field, uri)?;
        out.extend_from_slice(if nth > 0 { b",\r\n <" } else { b"<" });
        out.extend_from_slice(uri.as_bytes());
        out.push(b'>');
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Writes a field whose value is printable ASCII that is not to be folded (`Date`, `MIME-Version`).
pub(super) fn push_ascii(
    field: &'static str,
    value: &[&str],
    out: &mut Vec<u8>,
) -> Result<(), HeaderError> {
    push_name(field, out);
    for part in value {
        check_octets(field, part, |octet| matches!(octet, b' '..=b'~'))?;
        out.extend_from_slice(part.as_bytes());
    }
    if value.iter().map(|part| part.len()).sum::<usize>() > VALUE_OCTETS_MAX {
        return Err(HeaderFault::TooLong.of(field));
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Writes `Message-ID` (RFC 5322, section 3.6.4); `id` comes without its angle brackets.
pub(super) fn push_message_id(id: &str, out: &mut Vec<u8>) -> Result<(), HeaderError> {
    const FIELD: &str = "Message-ID";
    check_octets(FIELD, id, is_between_brackets)?;
    if id.len() > VALUE_OCTETS_MAX {
        return Err(HeaderFault::TooLong.of(FIELD));
    }
    push_name(FIELD, out);
    out.push(b'<');
    out.extend_from_slice(id.as_bytes());
    out.extend_from_slice(b">\r\n");
    Ok(())
}

/// Writes `Feedback-ID`: identifiers with colons between them.
pub(super) fn push_feedback_id(ids: [&str; 4], out: &mut Vec<u8>) -> Result<(), HeaderError> {
    const FIELD: &str = "Feedback-ID";
    for id in ids {
        if id.is_empty() {
            return Err(HeaderFault::Empty.of(FIELD));
        }
        if id.len() > 200 {
            return Err(HeaderFault::TooLong.of(FIELD));
        }
        check_octets(FIELD, id, |octet| octet.is_ascii_graphic() && octet != b':')?;
    }
    let [campaign, newsletter, kind, sender] = ids;
    push_ascii(FIELD, &[campaign, ":", newsletter, ":", kind, ":", sender], out)
}

fn push_name(field: &'static str, out: &mut Vec<u8>) -> usize {
    out.extend_from_slice(field.as_bytes());
    out.extend_from_slice(b": ");
    field.len() + 2
}

/// A space before `len` characters, or a fold where they would not fit.
fn push_space(column: usize, len: usize, out: &mut Vec<u8>) -> usize {
    if column + 1 + len > LINE_LEN {
        out.extend_from_slice(b"\r\n ");
        1
    } else {
        out.push(b' ');
        column + 1
    }
}

fn push_in_brackets(text: &str, column: usize, out: &mut Vec<u8>) {
    if out.last() != Some(&b' ') {
        push_space(column, text.len() + 2, out);
    }
    out.push(b'<');
    out.extend_from_slice(text.as_bytes());
    out.push(b'>');
}

fn check_no_control(field: &'static str, value: &str) -> Result<(), HeaderError> {
    match value.chars().find(|c| c.is_control()) {
        Some(found) => Err(HeaderFault::Control(found).of(field)),
        None => Ok(()),
    }
}

/// One pass over what every copy has; why a value is refused is found out only then.
fn check_octets(
    field: &'static str,
    value: &str,
    is_allowed: impl Fn(u8) -> bool,
) -> Result<(), HeaderError> {
    let Some(at) = value.bytes().position(|octet| !is_allowed(octet)) else { return Ok(()) };
    check_no_control(field, value)?;
    // Octets before it were allowed, so they are ASCII and this one begins a character.
    let found = value[at..].chars().next().unwrap_or(char::REPLACEMENT_CHARACTER);
    Err(HeaderFault::Character(found).of(field))
}

fn is_between_brackets(octet: u8) -> bool {
    octet.is_ascii_graphic() && !matches!(octet, b'<' | b'>')
}

fn check_uri(field: &'static str, uri: &str) -> Result<(), HeaderError> {
    check_octets(field, uri, is_between_brackets)?;
    let scheme = uri.split_once(':').map_or("", |(scheme, _)| scheme);
    let known = ["https", "http", "mailto"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    if !known {
        return Err(HeaderFault::Uri.of(field));
    }
    if uri.len() > VALUE_OCTETS_MAX {
        return Err(HeaderFault::TooLong.of(field));
    }
    Ok(())
}

/// Printable ASCII in words that fit a line, with single spaces between them, and nothing that a
/// reader could take for an encoded word.
fn can_fold_as_it_is(value: &str) -> bool {
    value.bytes().all(|b| matches!(b, b' '..=b'~'))
        && !value.contains("=?")
        && value.split(' ').all(|word| (1..=60).contains(&word.len()))
}

/// Writes a display name: atoms, a quoted string, or encoded words.
fn push_phrase(name: &str, column: usize, out: &mut Vec<u8>) -> usize {
    let escapes = name.bytes().filter(|octet| matches!(octet, b'"' | b'\\')).count();
    if !can_fold_as_it_is(name) || name.len() + escapes > 60 {
        return push_encoded_words(name, column, out);
    }
    let is_atom = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~ ".contains(&b);
    if name.bytes().all(is_atom) {
        out.extend_from_slice(name.as_bytes());
        return column + name.len();
    }
    let start = out.len();
    out.push(b'"');
    for octet in name.bytes() {
        if matches!(octet, b'"' | b'\\') {
            out.push(b'\\');
        }
        out.push(octet);
    }
    out.push(b'"');
    column + out.len() - start
}

/// Writes `value` as encoded words, one a line; the shorter of the two encodings. Returns the column.
fn push_encoded_words(value: &str, mut column: usize, out: &mut Vec<u8>) -> usize {
    let q_len: usize = value.bytes().map(|b| if is_plain_in_q(b) { 1 } else { 3 }).sum();
    let use_q = q_len <= value.len().div_ceil(3) * 4;
    let mut rest = value;
    let mut first = true;
    while !rest.is_empty() {
        if !first {
            out.extend_from_slice(b"\r\n ");
            column = 1;
        }
        first = false;
        let room = (ENCODED_LINE_LEN - column - ENCODED_WORD_FRAME_LEN).min(63);
        let (word, later) = rest.split_at(word_len(rest, use_q, room));
        let start = out.len();
        if use_q {
            out.extend_from_slice(b"=?utf-8?Q?");
            word.bytes().for_each(|octet| push_q(octet, out));
        } else {
            out.extend_from_slice(b"=?utf-8?B?");
            out.extend_from_slice(BASE64.encode(word.as_bytes()).as_bytes());
        }
        out.extend_from_slice(b"?=");
        column += out.len() - start;
        rest = later;
    }
    column
}

/// How many octets of `text`, in whole characters, fit into `room` encoded characters; never none.
fn word_len(text: &str, use_q: bool, room: usize) -> usize {
    let (mut len, mut encoded) = (0, 0);
    for c in text.chars() {
        encoded +=
            if use_q && c.is_ascii() && is_plain_in_q(c as u8) { 1 } else { 3 * c.len_utf8() };
        let fits = if use_q { encoded <= room } else { len + c.len_utf8() <= room / 4 * 3 };
        if len > 0 && !fits {
            break;
        }
        len += c.len_utf8();
    }
    len
}

/// What stands for itself in every place an encoded word may stand in (RFC 2047, section 5 (3)).
const fn is_plain_in_q(octet: u8) -> bool {
    octet.is_ascii_alphanumeric() || matches!(octet, b' ' | b'!' | b'*' | b'+' | b'-' | b'/')
}

fn push_q(octet: u8, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    match octet {
        b' ' => out.push(b'_'),
        _ if is_plain_in_q(octet) => out.push(octet),
        _ => out.extend_from_slice(&[
            b'=',
            HEX[usize::from(octet >> 4)],
            HEX[usize::from(octet & 15)],
        ]),
    }
}

#[cfg(test)]
mod tests;
