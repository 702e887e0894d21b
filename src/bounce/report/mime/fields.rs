//! Header fields (RFC 5322, section 2.2), read from whatever a stranger wrote.

use std::borrow::Cow;

use super::TEXT_MAX;

/// Header fields read of one part.
const FIELDS_MAX: usize = 500;
/// Octets of a subject that are decoded and kept.
const SUBJECT_MAX: usize = 2_000;
/// Octets before the colon of a field; the longest registered name has 42.
const NAME_MAX: usize = 80;

/// The header fields of a message or part, in order, unfolded, not decoded.
#[derive(Debug, Default)]
pub(in crate::bounce::report) struct Fields<'a>(Vec<(&'a str, Cow<'a, str>)>);

impl<'a> Fields<'a> {
    /// Reads fields up to the first empty line; returns them and where the body starts. A line
    /// that is neither field nor continuation ends the header too, as old mailers leave out the
    /// empty line.
    pub(in crate::bounce::report) fn read(block: &'a [u8]) -> (Self, usize) {
        let mut fields: Vec<(&str, Cow<'_, str>)> = Vec::new();
        let mut at = 0;
        while at < block.len() {
            let end = line_end(block, at);
            let line = &block[at..end];
            let next = (end + 1).min(block.len());
            let indented = matches!(line.first(), None | Some(b' ' | b'\t'));
            if indented && line.iter().all(|b| matches!(b, b' ' | b'\t')) {
                return (Self(fields), next);
            }
            if indented {
                if let Some((_, value)) = fields.last_mut()
                    && value.len() < TEXT_MAX
                {
                    fold(value, line);
                }
            } else if let Some((_, value)) = fields.last_mut().filter(|(_, v)| v.ends_with(';'))
                && is_parameter(line)
            {
                // Some mailers forget to indent `boundary=` below a type.
                fold(value, line);
            } else if let Some((name, value)) = field(line) {
                if fields.len() < FIELDS_MAX {
                    fields.push((name, value));
                }
            } else if !(fields.is_empty() && line.starts_with(b"From ")) {
                return (Self(fields), at);
            }
            at = next;
        }
        (Self(fields), block.len())
    }

    /// The first field of this name.
    pub(in crate::bounce::report) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| &**v)
    }

    /// All fields of this name.
    pub(in crate::bounce::report) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| &**v)
    }

    /// The fields in groups, a new one beginning wherever one of `keys` comes a second time.
    pub(in crate::bounce::report) fn split_at(self, keys: &[&str]) -> Vec<Self> {
        let mut groups = vec![Self::default()];
        for (name, value) in self.0 {
            let key = keys.iter().any(|k| k.eq_ignore_ascii_case(name));
            if key && groups.last().is_some_and(|g| g.get(name).is_some()) {
                groups.push(Self::default());
            }
            if let Some(group) = groups.last_mut() {
                group.0.push((name, value));
            }
        }
        groups
    }

    /// Whether there is no field at all.
    pub(in crate::bounce::report) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The subject with its encoded words decoded (RFC 2047).
    pub(in crate::bounce::report) fn subject(&self) -> String {
        let Some(raw) = self.get("Subject") else { return String::new() };
        let raw = &raw[..raw.floor_char_boundary(SUBJECT_MAX)];
        if !raw.contains("=?") {
            return raw.to_owned();
        }
        let field = format!("Subject: {raw}\r\n\r\n");
        mail_parser::MessageParser::new()
            .with_mime_headers()
            .header_text(mail_parser::HeaderName::Subject)
            .parse_headers(field.as_bytes())
            .and_then(|m| m.subject().map(str::to_owned))
            .unwrap_or_else(|| raw.to_owned())
    }
}

/// Where the line that starts at `at` ends: the place of its LF, or the end of the block.
pub(super) fn line_end(block: &[u8], at: usize) -> usize {
    memchr::memchr(b'\n', &block[at..]).map_or(block.len(), |n| at + n)
}

/// `name=value` and nothing before it.
fn is_parameter(line: &[u8]) -> bool {
    let name = line.iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b'-').count();
    name > 0 && line.get(name) == Some(&b'=')
}

/// `Name: value`, when the line has that form (RFC 5322, section 2.2).
fn field(line: &[u8]) -> Option<(&str, Cow<'_, str>)> {
    let colon = memchr::memchr(b':', &line[..line.len().min(NAME_MAX)])?;
    let name = line[..colon].trim_ascii_end();
    if name.is_empty() || !name.iter().all(u8::is_ascii_graphic) {
        return None;
    }
    match std::str::from_utf8(line) {
        Ok(line) => Some((&line[..name.len()], Cow::Borrowed(line[colon + 1..].trim()))),
        Err(_) => {
            let value = String::from_utf8_lossy(&line[colon + 1..]).trim().to_owned();
            Some((std::str::from_utf8(name).ok()?, Cow::Owned(value)))
        }
    }
}

/// Adds a continuation line to the value that it continues.
fn fold(value: &mut Cow<'_, str>, line: &[u8]) {
    let value = value.to_mut();
    value.push(' ');
    value.push_str(String::from_utf8_lossy(line).trim());
}
