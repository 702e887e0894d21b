//! The headers of the mail that came back: in a part of its own, or pasted below a free-text
//! notice. They are claims of a stranger until a token in them proves true.

use super::{
    OriginalHeaders, address,
    mime::{Fields, Tree},
    text,
};

/// Part types that carry the returned mail or its header.
const RETURNED: [&str; 5] = [
    "message/rfc822",
    "text/rfc822-headers",
    "message/rfc822-headers",
    "message/global",
    "message/global-headers",
];

/// Finds the returned headers.
pub(super) fn find(tree: &Tree<'_>) -> Option<OriginalHeaders> {
    with_fields(tree, headers)
}

/// The returned mail itself, as far as it came back.
pub(super) fn whole(tree: &Tree<'_>) -> Option<Vec<u8>> {
    let part = tree.parts.iter().find(|p| p.content_type.essence == "message/rfc822");
    part.map(|part| part.bytes().into_owned()).or_else(|| {
        let below = text::notice(tree)?.below();
        (!below.trim().is_empty()).then(|| below.trim_start().as_bytes().to_vec())
    })
}

/// Finds the returned header fields and takes from them what is wanted.
pub(super) fn with_fields<T>(tree: &Tree<'_>, take: impl Fn(&Fields<'_>) -> T) -> Option<T> {
    for part in tree.parts.iter().filter(|p| RETURNED.contains(&p.content_type.essence.as_str())) {
        let bytes = part.bytes();
        let fields = read(&bytes);
        if !fields.is_empty() {
            return Some(take(&fields));
        }
    }
    let below = text::notice(tree)?.below();
    let fields = read(below.as_bytes());
    let returned = fields.get("Message-ID").is_some() || fields.get("From").is_some();
    returned.then(|| take(&fields))
}

/// Reads fields after whatever empty or ruled lines stand before them.
fn read(block: &[u8]) -> Fields<'_> {
    let mut rest = block;
    for _ in 0..8 {
        let (fields, at) = Fields::read(rest);
        if fields.get("From").is_some() || fields.get("Message-ID").is_some() || at >= rest.len() {
            return fields;
        }
        // A line that is no field ends a header: step over it and try again.
        let line = rest.iter().position(|b| *b == b'\n').map_or(rest.len(), |n| n + 1);
        rest = &rest[at.max(line)..];
    }
    Fields::default()
}

fn headers(fields: &Fields<'_>) -> OriginalHeaders {
    let owned = |name: &str| fields.get(name).filter(|v| !v.is_empty()).map(super::one_line);
    OriginalHeaders {
        message_id: fields.get("Message-ID").and_then(address),
        to: owned("To"),
        from: owned("From"),
        list_unsubscribe: owned("List-Unsubscribe"),
        date: owned("Date"),
        return_path: owned("Return-Path"),
    }
}
