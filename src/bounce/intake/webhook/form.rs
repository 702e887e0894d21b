//! Payloads that are forms: `application/x-www-form-urlencoded` and `multipart/form-data`
//! (RFC 7578). The form shows itself by its first octets, so that a kept payload reads as it did when
//! it came.

use super::Refusal;

/// Fields in a form.
const FIELDS_MAX: usize = 1_000;

/// The fields of a form in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    /// Reads a form of either kind.
    pub(super) fn read(octets: &[u8]) -> Result<Self, Refusal> {
        let fields = if octets.starts_with(b"--") { multipart(octets) } else { encoded(octets) };
        if fields.len() > FIELDS_MAX {
            return Err(Refusal::TooMuch);
        }
        Ok(Self(fields))
    }

    /// The first field of that name.
    pub(super) fn first(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(field, _)| field == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// The last field of that name.
    pub(super) fn last(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().rev().find(|(field, _)| field == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// The fields by name, the last one of each, sorted.
    pub(super) fn sorted(&self) -> std::collections::BTreeMap<&str, &str> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }
}

fn encoded(octets: &[u8]) -> Vec<(String, String)> {
    url::form_urlencoded::parse(octets).into_owned().take(FIELDS_MAX + 1).collect()
}

/// Splits at the boundary, which is the first line.
fn multipart(octets: &[u8]) -> Vec<(String, String)> {
    let end = octets.iter().position(|octet| *octet == b'\n').unwrap_or(octets.len());
    let boundary = octets[..end].trim_ascii_end();
    // A boundary has at most 70 characters (RFC 2046, section 5.1.1).
    if boundary.len() < 3 || boundary.len() > 72 {
        return Vec::new();
    }
    let finder = memchr::memmem::Finder::new(boundary);
    let mut starts = finder.find_iter(octets).filter(|at| *at == 0 || octets[at - 1] == b'\n');
    let mut fields = Vec::new();
    let Some(mut start) = starts.next() else { return fields };
    for next in starts {
        fields.extend(part(&octets[start + boundary.len()..next]));
        start = next;
        if fields.len() > FIELDS_MAX {
            break;
        }
    }
    fields
}

/// One part: from the rest of the boundary's line to the line end before the next boundary.
fn part(octets: &[u8]) -> Option<(String, String)> {
    let body = octets.strip_prefix(b"\r\n").or_else(|| octets.strip_prefix(b"\n"))?;
    let (head, value) = [&b"\r\n\r\n"[..], b"\n\n"]
        .iter()
        .filter_map(|blank| Some((memchr::memmem::find(body, blank)?, blank.len())))
        .min()
        .map(|(at, blank)| (&body[..at], &body[at + blank..]))?;
    let value = value.strip_suffix(b"\n").unwrap_or(value);
    let value = value.strip_suffix(b"\r").unwrap_or(value);
    let head = String::from_utf8_lossy(head);
    let line = head.lines().find(|line| {
        line.get(..20).is_some_and(|name| name.eq_ignore_ascii_case("content-disposition:"))
    })?;
    let (_, name) = line.split_once(" name=").or_else(|| line.split_once(";name="))?;
    let name = name.split(';').next().unwrap_or_default().trim().trim_matches('"');
    Some((name.to_owned(), String::from_utf8_lossy(value).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_form_say_the_same() {
        let lines = "--b\nContent-Disposition: form-data; name=\"a\"\n\n1 & 2\n--b\n\
                     Content-Type: text/plain\nContent-Disposition: form-data; name=b; x=y\n\n\
                     two\nlines\n--b\nContent-Disposition: form-data; name=\"a\"\n\n3\n--b--\n";
        let forms =
            [lines.to_owned(), lines.replace('\n', "\r\n"), "a=1+%26+2&b=two%0Alines&a=3".into()];
        for form in forms {
            let read = Form::read(form.as_bytes()).unwrap();
            assert_eq!((read.first("a"), read.last("a")), (Some("1 & 2"), Some("3")), "{form}");
            let b = read.first("b").map(|text| text.replace('\r', ""));
            assert_eq!(b.as_deref(), Some("two\nlines"));
            assert_eq!(read.sorted().keys().copied().collect::<Vec<_>>(), ["a", "b"]);
        }
    }

    #[test]
    fn broken_forms_have_no_fields() {
        for form in ["--", "--\n", "--b", "--b\n--b\n--b--", "--b\nname=x\n--b--", "--b\n\n\n--b--"]
        {
            assert_eq!(Form::read(form.as_bytes()), Ok(Form::default()), "{form}");
        }
        let many = "a=1&".repeat(FIELDS_MAX + 1);
        assert_eq!(Form::read(many.as_bytes()), Err(Refusal::TooMuch));
    }
}
