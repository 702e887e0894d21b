//! The notation for a reader's datum: `{{name|friend}}`, `{{address}}`, `{{attribute.city|town}}`.
//! Finding it in a text and telling what is wrong with it; it fills nothing in.

use std::ops::Range;

use crate::{diagnostic::nearest, merge::Field};

/// The names that need no key; `attribute.KEY` comes beside them.
const NAMES: &[(&str, Field)] = &[
    ("address", Field::Address),
    ("name", Field::Name),
    ("unsubscribe_url", Field::UnsubscribeUrl),
    ("unsubscribe_mailto", Field::UnsubscribeMailto),
    ("preferences_url", Field::PreferencesUrl),
    ("issue_url", Field::IssueUrl),
];

/// A reader field as written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placeholder {
    /// Which datum.
    pub field: Field,
    /// What stands there for a reader without it.
    pub fallback: Option<String>,
}

/// What is wrong with a `{{…}}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldProblem {
    /// No such field; perhaps another was meant.
    Unknown {
        /// What was written.
        written: String,
        /// The known name nearest to it.
        nearest: Option<&'static str>,
    },
    /// A field that a reader may lack, without a fallback.
    NoFallback {
        /// What was written.
        written: String,
    },
    /// `{{` without `}}`.
    Unclosed,
}

/// A piece of a text with reader fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Text.
    Text,
    /// A reader field, or what is wrong with it.
    Field(Result<Placeholder, FieldProblem>),
}

/// Cuts `text` into text and `{{…}}`; the ranges cover all of it in order.
pub fn pieces(text: &str) -> Vec<(Range<usize>, Piece)> {
    let mut out = Vec::new();
    let mut rest = 0;
    // Up to here no `}}` was found: looking again from every `{{` would take the square of the line.
    let mut barren = 0;
    while let Some(open) = text[rest..].find("{{").map(|at| rest + at) {
        if open > rest {
            out.push((rest..open, Piece::Text));
        }
        let inner = open + 2;
        // A field stands in one line; an unclosed one must not swallow the rest of the text.
        let line_end = if inner < barren {
            barren
        } else {
            text[inner..].find('\n').map_or(text.len(), |at| inner + at)
        };
        let close = if inner < barren { None } else { text[inner..line_end].find("}}") };
        let Some(close) = close.map(|at| inner + at) else {
            barren = line_end;
            out.push((open..inner, Piece::Field(Err(FieldProblem::Unclosed))));
            rest = inner;
            continue;
        };
        out.push((open..close + 2, Piece::Field(parse(&text[inner..close]))));
        rest = close + 2;
    }
    if rest < text.len() {
        out.push((rest..text.len(), Piece::Text));
    }
    out
}

/// Whether the field is a whole URL rather than a part of one.
pub fn is_url(field: &Field) -> bool {
    matches!(
        field,
        Field::UnsubscribeUrl | Field::UnsubscribeMailto | Field::PreferencesUrl | Field::IssueUrl
    )
}

fn parse(inner: &str) -> Result<Placeholder, FieldProblem> {
    let (written, fallback) = match inner.split_once('|') {
        Some((name, fallback)) => (name.trim(), Some(fallback.trim().to_owned())),
        None => (inner.trim(), None),
    };
    let field = if let Some(key) = written.strip_prefix("attribute.") {
        if !is_key(key) {
            return Err(FieldProblem::Unknown { written: written.to_owned(), nearest: None });
        }
        Field::Attribute(key.to_owned())
    } else {
        match NAMES.iter().find(|(name, _)| *name == written) {
            Some((_, field)) => field.clone(),
            None => {
                return Err(FieldProblem::Unknown {
                    written: written.chars().take(64).collect(),
                    nearest: nearest(written, NAMES.iter().map(|(name, _)| *name)),
                });
            }
        }
    };
    if fallback.is_none() && matches!(field, Field::Name | Field::Attribute(_)) {
        return Err(FieldProblem::NoFallback { written: written.to_owned() });
    }
    Ok(Placeholder { field, fallback })
}

fn is_key(key: &str) -> bool {
    !key.is_empty()
        && key.len() <= 64
        && key.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let found: Vec<String> = pieces(text)
            .into_iter()
            .map(|(range, piece)| match piece {
                Piece::Text => format!("{:?}", &text[range]),
                Piece::Field(Ok(Placeholder { field, fallback })) => {
                    format!("{field:?}/{}", fallback.as_deref().unwrap_or("!"))
                }
                Piece::Field(Err(FieldProblem::Unknown { written, nearest })) => {
                    format!("unknown {written}>{}", nearest.unwrap_or("?"))
                }
                Piece::Field(Err(FieldProblem::NoFallback { written })) => {
                    format!("no fallback {written}")
                }
                Piece::Field(Err(FieldProblem::Unclosed)) => "unclosed".to_owned(),
            })
            .collect();
        assert_eq!(found.join(" "), expected);
    }

    #[test]
    fn fields_are_found() {
        check("Hi {{ name | dear reader }}!", r#""Hi " Name/dear reader "!""#);
        check("{{address}}", "Address/!");
        check("{{attribute.city|}}{{name|x}}", r#"Attribute("city")/ Name/x"#);
        check("{{name}}", "no fallback name");
        check("{{nmae|x}}", "unknown nmae>name");
        check("{{attribute.a b|x}}", "unknown attribute.a b>?");
        check("a {{ b\n}} c", r#""a " unclosed " b\n}} c""#);
        check("plain } text {", r#""plain } text {""#);
        check("", "");
    }
}
