//! Text that is the same for every reader but for a few slots.
//!
//! Rendering makes a [`MergeText`] once per issue; a copy then costs only its own fields. Values are
//! data: they are escaped for the place they stand in and are never parsed as template, MJML or
//! Markdown. This leaf knows nothing of mail; `smtp::message` splices the same segments into parts
//! that are already encoded.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// A reader's datum that can stand in an issue or a service mail.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Field {
    /// The reader's address as it is mailed.
    Address,
    /// The reader's name, where one is known.
    Name,
    /// The page to leave (`https`), which is also the RFC 8058 one-click target.
    UnsubscribeUrl,
    /// The `mailto:` form of leaving.
    UnsubscribeMailto,
    /// The preferences page.
    PreferencesUrl,
    /// The permanent page of this issue on the web.
    IssueUrl,
    /// A custom attribute of the subscriber, by its name.
    Attribute(String),
}

/// How a value is made safe for the place it stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Escape {
    /// HTML text or a quoted attribute: `& < > " '` become references.
    Html,
    /// A component of a URL inside HTML: percent-encoded, everything but unreserved characters.
    UrlComponent,
    /// Plain text: line breaks and controls become spaces.
    Text,
}

/// A piece of a [`MergeText`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Segment {
    /// The same for every reader; already escaped for its place.
    Literal(String),
    /// A place for one reader's value.
    Slot {
        /// Which datum stands here.
        field: Field,
        /// How it is made safe here.
        escape: Escape,
        /// What stands here when the reader has no such datum; without one the copy is refused.
        fallback: Option<String>,
    },
}

/// Text with slots.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MergeText {
    /// The pieces in order.
    pub segments: Vec<Segment>,
}

/// One reader's data while one copy is made.
pub trait Reader {
    /// The reader's value for `field`, or `None` when there is none.
    fn value(&self, field: &Field) -> Option<Cow<'_, str>>;
}

/// A slot without a value and without a fallback.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the reader has no value for {field:?}, and the text gives no fallback")]
pub struct MissingField {
    /// The datum that is missing.
    pub field: Field,
}

impl MergeText {
    /// Text without slots.
    pub fn literal(text: impl Into<String>) -> Self {
        Self { segments: vec![Segment::Literal(text.into())] }
    }

    /// Appends this text with `reader`'s values to `out`.
    pub fn write(&self, reader: &impl Reader, out: &mut String) -> Result<(), MissingField> {
        for segment in &self.segments {
            match segment {
                Segment::Literal(text) => out.push_str(text),
                Segment::Slot { field, escape, fallback } => {
                    out.push_str(&slot_value(reader, field, *escape, fallback.as_deref())?);
                }
            }
        }
        Ok(())
    }
}

/// The value of one slot for one reader, escaped for its place.
pub fn slot_value<'a>(
    reader: &'a impl Reader,
    field: &Field,
    escape: Escape,
    fallback: Option<&'a str>,
) -> Result<Cow<'a, str>, MissingField> {
    let value = match (reader.value(field), fallback) {
        (Some(value), _) => value,
        (None, Some(fallback)) => Cow::Borrowed(fallback),
        (None, None) => return Err(MissingField { field: field.clone() }),
    };
    Ok(escape.apply(value))
}

impl Escape {
    /// Makes `value` safe for the place this names; borrows when nothing has to change.
    pub fn apply(self, value: Cow<'_, str>) -> Cow<'_, str> {
        // Most values are short plain words: octets are quicker to look at than characters.
        if value.bytes().all(|octet| self.leaves_octet(octet)) {
            return value;
        }
        let harmless: fn(char) -> bool = match self {
            Self::Html => |c| !matches!(c, '&' | '<' | '>' | '"' | '\'') && !c.is_control(),
            Self::UrlComponent => {
                |c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~')
            }
            Self::Text => |c| !c.is_control(),
        };
        if value.chars().all(harmless) {
            return value;
        }
        let mut out = String::with_capacity(value.len() + 16);
        for c in value.chars() {
            match self {
                _ if harmless(c) => out.push(c),
                Self::UrlComponent => {
                    let mut utf8 = [0; 4];
                    for byte in c.encode_utf8(&mut utf8).bytes() {
                        out.push('%');
                        out.push(char::from(HEX[usize::from(byte >> 4)]));
                        out.push(char::from(HEX[usize::from(byte & 15)]));
                    }
                }
                Self::Html => match c {
                    '&' => out.push_str("&amp;"),
                    '<' => out.push_str("&lt;"),
                    '>' => out.push_str("&gt;"),
                    '"' => out.push_str("&quot;"),
                    '\'' => out.push_str("&#39;"),
                    _ => out.push(' '),
                },
                Self::Text => out.push(' '),
            }
        }
        Cow::Owned(out)
    }

    /// Whether a character of ASCII stands as it is.
    fn leaves_octet(self, octet: u8) -> bool {
        match self {
            Self::Html => {
                matches!(octet, b' '..=b'~') && !matches!(octet, b'&' | b'<' | b'>' | b'"' | b'\'')
            }
            Self::UrlComponent => {
                octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_' | b'~')
            }
            Self::Text => matches!(octet, b' '..=b'~'),
        }
    }
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

#[cfg(test)]
mod tests {
    use super::*;

    struct Ada;
    impl Reader for Ada {
        fn value(&self, field: &Field) -> Option<Cow<'_, str>> {
            matches!(field, Field::Name).then_some(Cow::Borrowed("Ada <b>\r\nBcc: x"))
        }
    }

    fn slot(field: Field, escape: Escape, fallback: Option<&str>) -> MergeText {
        let fallback = fallback.map(str::to_owned);
        MergeText { segments: vec![Segment::Slot { field, escape, fallback }] }
    }

    fn merged(text: &MergeText) -> Result<String, MissingField> {
        let mut out = String::new();
        text.write(&Ada, &mut out).map(|()| out)
    }

    #[test]
    fn values_are_escaped_for_where_they_stand() {
        for (escape, expected) in [
            (Escape::Html, "Ada &lt;b&gt;  Bcc: x"),
            (Escape::UrlComponent, "Ada%20%3Cb%3E%0D%0ABcc%3A%20x"),
            (Escape::Text, "Ada <b>  Bcc: x"),
        ] {
            assert_eq!(merged(&slot(Field::Name, escape, None)).unwrap(), expected);
        }
    }

    #[test]
    fn a_missing_value_needs_a_fallback() {
        let field = Field::Attribute("city".into());
        assert_eq!(merged(&slot(field.clone(), Escape::Text, Some("town"))).unwrap(), "town");
        assert_eq!(
            merged(&slot(field.clone(), Escape::Text, None)).unwrap_err(),
            MissingField { field }
        );
    }
}
