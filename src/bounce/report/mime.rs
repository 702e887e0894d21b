//! A small MIME walker with hard limits: it cuts a message into its leaf parts and decodes them.
//!
//! `mail-parser` decodes transfer encodings and character sets here, but does not walk: its walk
//! has no limit on nesting, and a report is written by a stranger. This one looks at each byte at
//! most [`DEPTH_MAX`] times.

mod fields;

use std::{borrow::Cow, cell::OnceCell};

use mail_parser::decoders::{
    base64::base64_decode, charsets::map::charset_decoder, html::html_to_text,
    quoted_printable::quoted_printable_decode,
};

use super::text::Notice;
pub(super) use fields::Fields;
use fields::line_end;

/// Multiparts and messages inside each other; real reports need three.
const DEPTH_MAX: usize = 8;
/// Leaf parts of one message; real reports have four or five.
const PARTS_MAX: usize = 100;
/// Octets of a type and its parameters that are looked at.
const TYPE_MAX: usize = 4_000;
/// Octets of text decoded from one part: what a report says stands at its beginning.
const TEXT_MAX: usize = 256 * 1024;

/// The type of a part and the parameters that matter here.
#[derive(Debug, Default, Clone)]
pub(super) struct ContentType {
    /// `type/subtype` in lower case; `text/plain` when there is none.
    pub(super) essence: String,
    charset: Option<String>,
    boundary: Option<String>,
    /// `report-type` of a `multipart/report`, in lower case.
    pub(super) report_type: Option<String>,
}

impl ContentType {
    fn of(fields: &Fields<'_>) -> Self {
        let Some(value) = fields.get("Content-Type") else {
            return Self { essence: "text/plain".into(), ..Self::default() };
        };
        let value = &value[..value.floor_char_boundary(TYPE_MAX)];
        let (essence, rest) = value.split_once(';').unwrap_or((value, ""));
        let essence = essence.split_whitespace().next().unwrap_or("").to_ascii_lowercase();
        Self {
            essence: if essence.contains('/') { essence } else { "text/plain".into() },
            charset: parameter(rest, "charset"),
            boundary: parameter(rest, "boundary").filter(|b| !b.is_empty()),
            report_type: parameter(rest, "report-type").map(|t| t.to_ascii_lowercase()),
        }
    }
}

/// How a body was made fit for transfer (RFC 2045, section 6).
#[derive(Debug, Clone, Copy)]
enum Encoding {
    None,
    Base64,
    QuotedPrintable,
}

impl Encoding {
    fn of(fields: &Fields<'_>) -> Self {
        match fields.get("Content-Transfer-Encoding").map(str::trim) {
            Some(name) if name.eq_ignore_ascii_case("base64") => Self::Base64,
            Some(name) if name.eq_ignore_ascii_case("quoted-printable") => Self::QuotedPrintable,
            _ => Self::None,
        }
    }
}

/// A leaf of the message's tree.
#[derive(Debug)]
pub(super) struct Part<'a> {
    pub(super) content_type: ContentType,
    encoding: Encoding,
    /// The body as sent, before transfer decoding.
    raw: &'a [u8],
}

impl Part<'_> {
    /// The body as text: transfer encoding and character set undone, HTML reduced to its text,
    /// cut at [`TEXT_MAX`].
    pub(super) fn text(&self) -> String {
        let bytes = self.bytes();
        let text = decoded(&bytes, self.content_type.charset.as_deref());
        if self.content_type.essence == "text/html" { html_to_text(&text) } else { text }
    }

    /// The body with its transfer encoding undone, cut at [`TEXT_MAX`].
    pub(super) fn bytes(&self) -> Cow<'_, [u8]> {
        let raw = &self.raw[..self.raw.len().min(TEXT_MAX)];
        let decoded = match self.encoding {
            Encoding::Base64 => base64_decode(raw),
            Encoding::QuotedPrintable => quoted_printable_decode(raw),
            Encoding::None => None,
        };
        // What does not decode is read as it stands: broken labels are common in reports.
        match decoded {
            Some(decoded) => Cow::Owned(with_lf(&decoded).into_owned()),
            None => Cow::Borrowed(raw),
        }
    }
}

/// Text of a character set that may be missing or wrong. UTF-8 is taken for what it is, whatever the
/// label says; the seven-bit sets of ISO 2022 look like ASCII and are known by their escapes.
fn decoded(bytes: &[u8], charset: Option<&str>) -> String {
    let shifts = memchr::memmem::find(bytes, b"\x1b$").is_some() && bytes.is_ascii();
    let charset = match charset {
        Some(label) if !shifts || label.to_ascii_lowercase().starts_with("iso-2022") => label,
        _ if shifts => "iso-2022-jp",
        _ => "utf-8",
    };
    match (std::str::from_utf8(bytes), charset_decoder(charset.as_bytes())) {
        (Ok(text), _) if !shifts => text.to_owned(),
        (_, Some(decode)) => decode(bytes),
        (Ok(text), None) => text.to_owned(),
        (Err(_), None) => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// A message cut into pieces.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    /// The outer header.
    pub(super) fields: Fields<'a>,
    /// The outer content type.
    pub(super) content_type: ContentType,
    /// The leaves in order. A message inside the message is a leaf: it is what came back, not
    /// what is being said.
    pub(super) parts: Vec<Part<'a>>,
    /// Its prose, once somebody has asked for it.
    pub(super) notice: OnceCell<Option<Notice>>,
}

impl<'a> Tree<'a> {
    /// Cuts `message`, whose lines end in LF, into its leaves.
    pub(super) fn read(message: &'a [u8]) -> Self {
        let (fields, body_at) = Fields::read(message);
        let content_type = ContentType::of(&fields);
        let mut parts = Vec::new();
        // Depth first, with a stack of our own: recursion on a stranger's nesting is not safe.
        let whole = (content_type.clone(), Encoding::of(&fields));
        let mut pending = vec![(whole, &message[body_at..], 0)];
        while let Some(((content_type, encoding), body, depth)) = pending.pop() {
            if parts.len() + pending.len() >= PARTS_MAX {
                break;
            }
            let boundary = content_type
                .boundary
                .as_deref()
                .filter(|_| content_type.essence.starts_with("multipart/") && depth < DEPTH_MAX);
            let pieces = boundary.map(|b| cut(body, b.as_bytes())).unwrap_or_default();
            if pieces.is_empty() {
                let mut content_type = content_type;
                if content_type.essence.starts_with("multipart/") {
                    // Nothing to cut at: what is there is read as it stands.
                    content_type.essence = "text/plain".into();
                }
                parts.push(Part { content_type, encoding, raw: body });
                continue;
            }
            for piece in pieces.into_iter().rev() {
                let (fields, body_at) = Fields::read(piece);
                let form = (ContentType::of(&fields), Encoding::of(&fields));
                pending.push((form, &piece[body_at..], depth + 1));
            }
        }
        Self { fields, content_type, parts, notice: OnceCell::new() }
    }

    /// The first leaf of this type.
    pub(super) fn part(&self, essence: &str) -> Option<&Part<'a>> {
        self.parts.iter().find(|p| p.content_type.essence == essence)
    }
}

/// The message with every line end made LF: CRLF, a bare LF and a bare CR all occur in the wild.
pub(super) fn with_lf(raw: &[u8]) -> Cow<'_, [u8]> {
    let Some(first) = memchr::memchr(b'\r', raw) else { return Cow::Borrowed(raw) };
    let mut out = Vec::with_capacity(raw.len());
    let (mut from, mut at) = (0, first);
    loop {
        out.extend_from_slice(&raw[from..at]);
        out.push(b'\n');
        from = at + 1 + usize::from(raw.get(at + 1) == Some(&b'\n'));
        match memchr::memchr(b'\r', &raw[from..]) {
            Some(next) => at = from + next,
            None => break,
        }
    }
    out.extend_from_slice(&raw[from..]);
    Cow::Owned(out)
}

/// The pieces between the delimiter lines of a multipart (RFC 2046, section 5.1.1); empty when
/// there is no delimiter. A missing close delimiter ends the last piece at the end of the body.
fn cut<'a>(body: &'a [u8], boundary: &[u8]) -> Vec<&'a [u8]> {
    let delimiter = [b"--", boundary].concat();
    let mut pieces = Vec::new();
    let mut start = None;
    for at in memchr::memmem::find_iter(body, &delimiter) {
        if at > 0 && body[at - 1] != b'\n' {
            continue;
        }
        let end = line_end(body, at);
        let rest = &body[(at + delimiter.len()).min(end)..end];
        let close = rest.starts_with(b"--");
        if !close && !rest.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        if let Some(start) = start {
            pieces.push(&body[start..at.saturating_sub(1).max(start)]);
        }
        start = (!close).then_some((end + 1).min(body.len()));
        if close || pieces.len() >= PARTS_MAX {
            return pieces;
        }
    }
    if let Some(start) = start {
        pieces.push(&body[start..]);
    }
    pieces
}

/// A parameter of a structured field: `; name=value` or `; name="value"`.
fn parameter(text: &str, name: &str) -> Option<String> {
    let mut rest = text;
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        let after = after.trim_start();
        let (value, next) = if let Some(quoted) = after.strip_prefix('"') {
            let end = quoted.find('"').unwrap_or(quoted.len());
            (&quoted[..end], quoted.get(end + 1..).unwrap_or(""))
        } else {
            let end = after.find([';', ' ']).unwrap_or(after.len());
            (&after[..end], &after[end..])
        };
        if key.trim_matches([';', ' ', '\t']).eq_ignore_ascii_case(name) {
            return Some(value.to_owned());
        }
        rest = next.trim_start_matches([';', ' ', '\t']);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_a_multipart_keep_their_bodies() {
        let mail = with_lf(
            b"Content-Type: multipart/mixed;\r\n boundary=\"b=1\"\r\n\r\npreamble\r\n--b=1\r\n\r\nfirst\r\n\
              --b=1\r\nContent-Type: text/plain; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nsch=F6n\r\n--b=1--\r\nend\r\n",
        );
        let tree = Tree::read(&mail);
        let texts: Vec<String> = tree.parts.iter().map(Part::text).collect();
        assert_eq!(texts, ["first", "schön"]);
    }

    #[test]
    fn a_message_inside_is_a_leaf() {
        let mail = b"Content-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: message/rfc822\n\n\
              Content-Type: multipart/report; boundary=y\n\n--y\nContent-Type: message/delivery-status\n\nAction: failed\n--y--\n--x--\n";
        let tree = Tree::read(mail);
        assert_eq!(tree.parts.len(), 1);
        assert_eq!(tree.parts[0].content_type.essence, "message/rfc822");
    }

    #[test]
    fn nesting_and_counts_are_bounded() {
        let level = |n| format!("Content-Type: multipart/mixed; boundary=b{n}\n\n--b{n}\n");
        let mail: String = (0..5_000).map(level).collect();
        assert!(Tree::read(mail.as_bytes()).parts.len() <= PARTS_MAX);
        let many = format!(
            "Content-Type: multipart/mixed; boundary=b\n\n{}",
            "--b\n\nx\n".repeat(100_000)
        );
        assert!(Tree::read(many.as_bytes()).parts.len() <= PARTS_MAX + 1);
    }

    #[test]
    fn a_parameter_may_stand_unindented_below_its_type() {
        let mail =
            b"Content-Type: multipart/mixed;\nboundary=\"x\"\nSubject: s\n\n--x\n\nfirst\n--x--\n";
        let tree = Tree::read(mail);
        assert_eq!(tree.fields.get("subject"), Some("s"));
        assert_eq!(tree.parts[0].text(), "first");
    }

    #[test]
    fn text_is_decoded_whatever_its_label_says() {
        let jis = b"\x1b$B%(%i!<\x1b(B";
        for (label, bytes) in [
            (Some("iso-2022-jp"), &jis[..]),
            (None, jis),
            (Some("us-ascii"), jis),
            (Some("iso-2022-jp"), "エラー".as_bytes()),
            (Some("shift_jis"), b"\x83\x47\x83\x89\x81\x5b"),
            (Some("x-unheard-of"), "エラー".as_bytes()),
        ] {
            assert_eq!(decoded(bytes, label), "エラー", "{label:?}");
        }
        assert_eq!(decoded(b"caf\xe9", None), "caf\u{fffd}");
    }

    #[test]
    fn headers_survive_missing_blank_lines_and_folding() {
        let (fields, at) = Fields::read(b"Subject: a\n b\n\tc\nX-Y: z\nno field here\n");
        assert_eq!(fields.get("subject"), Some("a b c"));
        assert_eq!(fields.get("x-y"), Some("z"));
        assert_eq!(&b"Subject: a\n b\n\tc\nX-Y: z\nno field here\n"[at..], b"no field here\n");
        let (fields, _) = Fields::read(b"Subject: =?utf-8?q?sch=C3=B6n?=\n\n");
        assert_eq!(fields.subject(), "schön");
    }
}
