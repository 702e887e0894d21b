//! The front matter of an issue file: a flat YAML mapping with known keys.
//!
//! The YAML events are read directly, so that each value keeps its place, and so that anchors,
//! aliases and nesting (which could grow without bound) are refused before they are built.

use std::borrow::Cow;

use jiff::civil::Date;
use saphyr_parser::{Event, Marker, Parser};

use crate::{
    diagnostic::{Findings, Source, Span, nearest},
    issue::{model::IssueDocument, rule, source::Places},
};

/// The longest front matter that is read, in bytes.
const BYTES_MAX: usize = 16 * 1024;

/// Every key there is, for the nearest match.
const KEYS: &[&str] =
    &["number", "date", "subject", "preheader", "title", "slug", "format", "language"];

/// What the body is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Markdown, the usual.
    Markdown,
    /// An MJML document.
    Mjml,
    /// An HTML document.
    Html,
}

struct Entry<'a> {
    key: Cow<'a, str>,
    key_span: Span,
    value: Cow<'a, str>,
    span: Span,
}

/// Reads the front matter. The document it gives has everything but content.
pub(super) fn read(findings: &mut Findings<'_>) -> (IssueDocument, Places, Format) {
    let mut document = IssueDocument::default();
    let mut format = Format::Markdown;
    let text = findings.source().text();
    let start = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    let Some((yaml, body)) = fences(text, start) else {
        let first_line = text[start..].lines().next().map_or(start, |line| start + line.len());
        let suggestion = if text[start..].trim_start().starts_with("---") {
            "the file begins with a line of exactly `---`, and another one closes the front matter"
        } else {
            "begin the file with `---`, `number: …`, `date: …` and `---`, each on its own line"
        };
        findings
            .add(
                rule::FRONT_MATTER_MISSING,
                Span::new(start, first_line),
                "there is no front matter",
            )
            .suggest(suggestion);
        let body = Span::new(start, text.len());
        return (document, Places { body, ..Places::default() }, format);
    };
    let mut places = Places { front_matter: yaml, body, ..Places::default() };
    let mut seen: Vec<Cow<'_, str>> = Vec::new();
    for entry in entries(findings, yaml) {
        if seen.contains(&entry.key) {
            let message = format!("`{}` stands here a second time", entry.key);
            findings
                .add(rule::DUPLICATE_KEY, entry.key_span, message)
                .suggest("remove one of them");
            continue;
        }
        seen.push(entry.key.clone());
        set(findings, &mut document, &mut places, &mut format, &entry);
    }
    (document, places, format)
}

/// The text between the two `---` lines, and what follows them.
fn fences(text: &str, start: usize) -> Option<(Span, Span)> {
    let is_fence = |line: &str| line.trim_end() == "---";
    let mut at = start;
    let mut yaml_start = None;
    for line in text[start..].split_inclusive('\n') {
        match yaml_start {
            None if is_fence(line) => yaml_start = Some(at + line.len()),
            None => return None,
            Some(yaml) if is_fence(line) => {
                return Some((Span::new(yaml, at), Span::new(at + line.len(), text.len())));
            }
            Some(_) => {}
        }
        at += line.len();
    }
    None
}

fn entries<'a>(findings: &mut Findings<'a>, yaml: Span) -> Vec<Entry<'a>> {
    let source = findings.source();
    let text = &source.text()[yaml.start..yaml.end];
    if text.len() > BYTES_MAX {
        let message = format!("the front matter has more than {BYTES_MAX} bytes");
        findings.add(rule::FRONT_MATTER_INVALID, Span::new(yaml.start, yaml.start), message);
        return Vec::new();
    }
    let place = Place::new(source, yaml.start);
    let mut entries: Vec<Entry<'a>> = Vec::new();
    let mut key: Option<(Cow<'a, str>, Span)> = None;
    let mut in_mapping = false;
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = match event {
            Ok((event, span)) => (event, place.span(span.start, span.end)),
            Err(error) => {
                yaml_error(findings, &place, &error);
                break;
            }
        };
        match event {
            Event::Scalar(value, _, 0, None) if in_mapping => match key.take() {
                None => key = Some((value, span)),
                Some((key, key_span)) => entries.push(Entry { key, key_span, value, span }),
            },
            Event::MappingStart(0, None) if !in_mapping => in_mapping = true,
            Event::StreamStart
            | Event::DocumentStart(false)
            | Event::MappingEnd
            | Event::DocumentEnd
            | Event::StreamEnd
            | Event::Nothing => {}
            _ => {
                let message = "the front matter is a flat list of `key: value`; \
                               lists, nested keys, tags and anchors mean nothing here";
                findings.add(rule::FRONT_MATTER_INVALID, span, message).suggest(
                    "put a value that begins with `[`, `{`, `&`, `*`, `!` or `-` in quotes",
                );
                break;
            }
        }
    }
    entries
}

fn yaml_error(findings: &mut Findings<'_>, place: &Place<'_>, error: &saphyr_parser::ScanError) {
    let at = place.span(*error.marker(), *error.marker());
    let message = format!("this is not valid YAML: {}", error.info());
    findings
        .add(rule::FRONT_MATTER_INVALID, at, message)
        .suggest("put values that hold `: `, ` #` or quotes in quotes: `title: \"A: b\"`");
}

/// Turns the parser's markers into bytes of the file.
struct Place<'a> {
    source: &'a Source,
    first_line: usize,
    start: usize,
}

impl<'a> Place<'a> {
    fn new(source: &'a Source, start: usize) -> Self {
        Self { source, first_line: source.position(start).0 as usize, start }
    }

    fn span(&self, start: Marker, end: Marker) -> Span {
        let byte = |marker: Marker| {
            let line = self.first_line + marker.line().saturating_sub(1);
            self.source.offset(line, marker.col() + 1).max(self.start)
        };
        let start = byte(start);
        Span::new(start, byte(end).max(start))
    }
}

fn set(
    findings: &mut Findings<'_>,
    document: &mut IssueDocument,
    places: &mut Places,
    format: &mut Format,
    entry: &Entry<'_>,
) {
    let span = entry.span;
    let value = entry.value.trim();
    match &*entry.key {
        "number" => {
            places.number = Some(span);
            match value.parse::<u32>() {
                Ok(number) if number > 0 => document.number = Some(number),
                _ => invalid(findings, entry, "a whole number from 1", "number: 437"),
            }
        }
        "date" => {
            places.date = Some(span);
            match value.parse::<Date>() {
                Ok(date) if value.len() == 10 => document.date = Some(date),
                _ => invalid(findings, entry, "a date, as year-month-day", "date: 2024-08-11"),
            }
        }
        "subject" => {
            places.subject = Some(span);
            document.subject = Some(line(findings, entry));
        }
        "preheader" => {
            places.preheader = Some(span);
            document.preheader = Some(line(findings, entry));
        }
        "title" => {
            places.title = Some(span);
            document.title = Some(line(findings, entry)).filter(|title| !title.is_empty());
        }
        "slug" => {
            document.slug = Some(value.to_owned());
            if !is_slug(value) {
                invalid(
                    findings,
                    entry,
                    "small letters, digits and single hyphens",
                    "slug: the-july-outage",
                );
            }
        }
        "language" => {
            document.language = Some(value.to_owned());
            if !is_language(value) {
                invalid(findings, entry, "a language tag (BCP 47)", "language: en-GB");
            }
        }
        "format" => {
            *format = match value {
                "markdown" => Format::Markdown,
                "mjml" => Format::Mjml,
                "html" => Format::Html,
                _ => {
                    invalid(findings, entry, "`markdown`, `mjml` or `html`", "format: mjml");
                    Format::Markdown
                }
            }
        }
        unknown => {
            let shown: String = unknown.chars().take(64).collect();
            let message = format!("the front matter has no key `{shown}`");
            let mut noted = findings.add(rule::UNKNOWN_KEY, entry.key_span, message);
            match nearest(unknown, KEYS.iter().copied()) {
                Some(known) => {
                    noted.suggest(format!("did you mean `{known}`?")).replace_with(known)
                }
                None => noted.suggest(format!("the keys are {}", KEYS.join(", "))),
            };
        }
    }
}

fn invalid(findings: &mut Findings<'_>, entry: &Entry<'_>, form: &str, example: &str) {
    let shown: String = entry.value.chars().take(80).collect();
    findings
        .add(
            rule::INVALID_VALUE,
            entry.span,
            format!("`{shown}` is not a valid {}: it is {form}", entry.key),
        )
        .suggest(format!("for example `{example}`"));
}

/// A value that stands in one line and holds no reader fields; it may reach a header.
fn line(findings: &mut Findings<'_>, entry: &Entry<'_>) -> String {
    let value = entry.value.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some(c) = value.chars().find(|c| c.is_control()) {
        let message = format!("`{}` holds a control character (U+{:04X})", entry.key, u32::from(c));
        findings.add(rule::NOT_TEXT, entry.span, message).suggest("remove it");
    }
    if value.contains("{{") {
        let message = format!("`{}` is the same for every reader", entry.key);
        findings
            .add(rule::FIELD_NOT_HERE, entry.span, message)
            .suggest("move the reader field into the text");
    }
    value.chars().filter(|c| !c.is_control()).collect()
}

fn is_slug(value: &str) -> bool {
    value.len() <= 100
        && value.split('-').all(|part| {
            !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
        })
}

fn is_language(value: &str) -> bool {
    value.len() <= 35
        && value.split('-').all(|part| {
            (1..=8).contains(&part.len()) && part.chars().all(|c| c.is_ascii_alphanumeric())
        })
        && value.split('-').next().is_some_and(|first| {
            (2..=3).contains(&first.len()) && first.chars().all(|c| c.is_ascii_alphabetic())
        })
}
