//! What is wrong in a file somebody wrote, and where: the type, the list of places in a source text,
//! and printing in the manner of a good compiler.
//!
//! This module knows nothing of issues; `issue::rule` lists the rules an issue file is held to.
//! It reads no files: the caller brings text and a name to show.

mod findings;

use std::fmt::Write as _;

use annotate_snippets::{
    AnnotationKind, Group, Level as Title, Origin, Renderer, Snippet, renderer::DecorStyle,
};
pub use findings::{Findings, Noted};
use serde::{Deserialize, Serialize};

/// How grave a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Blocks a send.
    Error,
    /// Needs an explicit override before a send.
    Warning,
}

/// A rule with a name that never changes, so that overrides and scripts can rely on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Rule {
    /// The stable name, in kebab case.
    pub code: &'static str,
    /// How grave breaking it is.
    pub level: Level,
    /// What it asks for, in one sentence.
    pub summary: &'static str,
}

/// A stretch of a source text, in bytes from its start; the end is exclusive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// The byte after the last one.
    pub end: usize,
}

impl Span {
    /// The stretch from `start` up to `end`.
    pub const fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// The smallest stretch that holds both.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self { start: self.start.min(other.start), end: self.end.max(other.end) }
    }
}

impl From<std::ops::Range<usize>> for Span {
    fn from(range: std::ops::Range<usize>) -> Self {
        Self { start: range.start, end: range.end }
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// The stable name of the rule.
    pub code: &'static str,
    /// How grave it is.
    pub level: Level,
    /// What is wrong, for a person.
    pub message: String,
    /// The name of the file as the caller gave it.
    pub file: String,
    /// Line, counted from 1.
    pub line: u32,
    /// Column in characters, counted from 1.
    pub column: u32,
    /// The stretch of the file it is about, in bytes.
    pub span: Span,
    /// What to do about it.
    pub suggestion: Option<String>,
    /// Text that may replace the span to put it right.
    pub replacement: Option<String>,
}

/// A text with a name, and the places of its lines.
#[derive(Debug, Clone)]
pub struct Source {
    name: String,
    text: String,
    line_starts: Vec<usize>,
}

impl Source {
    /// Takes `text`, to be shown under `name`.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        let line_starts =
            std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Self { name: name.into(), text, line_starts }
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The name to show.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Line and column (both from 1, the column in characters) of the byte at `offset`.
    pub fn position(&self, offset: usize) -> (u32, u32) {
        let offset = self.boundary(offset);
        let line = self.line_of(offset);
        let column = self.text[self.line_starts[line]..offset].chars().count();
        (line as u32 + 1, column as u32 + 1)
    }

    /// The byte at `line` and `column`, both from 1; past the end it is the end.
    pub fn offset(&self, line: usize, column: usize) -> usize {
        let Some(&start) = self.line_starts.get(line.saturating_sub(1)) else {
            return self.text.len();
        };
        let rest = &self.text[start..];
        rest.char_indices()
            .nth(column.saturating_sub(1))
            .map_or(self.text.len(), |(at, _)| start + at)
    }

    /// A finding at `span`.
    pub fn diagnostic(&self, rule: Rule, span: Span, message: impl Into<String>) -> Diagnostic {
        let start = self.boundary(span.start);
        let span = Span::new(start, self.boundary(span.end).max(start));
        let (line, column) = self.position(span.start);
        Diagnostic {
            code: rule.code,
            level: rule.level,
            message: message.into(),
            file: self.name.clone(),
            line,
            column,
            span,
            suggestion: None,
            replacement: None,
        }
    }

    fn line_of(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|&start| start <= offset) - 1
    }

    /// The nearest character boundary at or before `offset`, inside the text.
    fn boundary(&self, offset: usize) -> usize {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        offset
    }

    /// The whole lines around `span` and the number of the first, unless that is too much to show.
    fn excerpt(&self, span: Span) -> Option<(usize, usize, &str)> {
        const SHOWN_BYTES_MAX: usize = 4_096;
        if span.end > self.text.len() {
            return None;
        }
        let first = self.line_of(span.start);
        let start = self.line_starts[first];
        let last = self.line_of(span.end);
        let end = self.line_starts.get(last + 1).copied().unwrap_or(self.text.len());
        (end - start <= SHOWN_BYTES_MAX).then(|| (first + 1, start, &self.text[start..end]))
    }
}

impl Diagnostic {
    /// Adds what to do about it.
    #[must_use]
    pub fn suggest(mut self, suggestion: impl Into<String>) -> Self {
        self.suggestion = Some(suggestion.into());
        self
    }

    /// Adds the text that puts the span right.
    #[must_use]
    pub fn replace_with(mut self, replacement: impl Into<String>) -> Self {
        self.replacement = Some(replacement.into());
        self
    }
}

/// Whether a send is blocked by what was found.
pub fn has_errors(diagnostics: &[Diagnostic]) -> bool {
    diagnostics.iter().any(|found| found.level == Level::Error)
}

/// The findings as text for a terminal, each with the lines it is about, and a sum at the end.
pub fn pretty(diagnostics: &[Diagnostic], source: &Source, colour: bool) -> String {
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    let renderer =
        renderer.decor_style(if colour { DecorStyle::Unicode } else { DecorStyle::Ascii });
    let mut out = String::new();
    for found in diagnostics {
        out.push_str(&renderer.render(&[group(found, source)]));
        out.push_str("\n\n");
    }
    out.push_str(&summary(diagnostics));
    out
}

fn group<'a>(found: &'a Diagnostic, source: &'a Source) -> Group<'a> {
    let title = match found.level {
        Level::Error => Title::ERROR,
        Level::Warning => Title::WARNING,
    };
    let mut group = Group::with_title(title.primary_title(&found.message).id(found.code));
    group = match source.excerpt(found.span) {
        Some((line, start, lines)) => {
            group.element(Snippet::source(lines).line_start(line).path(&found.file).annotation(
                AnnotationKind::Primary.span(found.span.start - start..found.span.end - start),
            ))
        }
        None => group.element(
            Origin::path(&found.file).line(found.line as usize).char_column(found.column as usize),
        ),
    };
    if let Some(suggestion) = &found.suggestion {
        group = group.element(Title::HELP.message(suggestion));
    }
    group
}

fn summary(diagnostics: &[Diagnostic]) -> String {
    let errors = diagnostics.iter().filter(|found| found.level == Level::Error).count();
    let warnings = diagnostics.len() - errors;
    let mut out = String::new();
    for (count, noun) in [(errors, "error"), (warnings, "warning")] {
        if count > 0 {
            let comma = if out.is_empty() { "" } else { ", " };
            let plural = if count == 1 { "" } else { "s" };
            let _infallible = write!(out, "{comma}{count} {noun}{plural}");
        }
    }
    if out.is_empty() { "no problems found\n".to_owned() } else { out + "\n" }
}

/// The known name nearest to what was written, if one is near enough to be meant.
pub fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Longer words are no typing slip of ours, and comparing them costs their square.
    if written.len() > 64 {
        return None;
    }
    let lower = written.to_lowercase();
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&lower, name), name))
        .filter(|(distance, name)| *distance <= 1 + name.len() / 3)
        .min()
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULE: Rule = Rule { code: "test-rule", level: Level::Warning, summary: "for tests" };

    #[test]
    fn positions_count_characters_from_one() {
        let source = Source::new("f.md", "ä\nbü c\n");
        for (offset, expected) in [
            (0, (1, 1)),
            (2, (1, 2)),
            (3, (2, 1)),
            (6, (2, 3)),
            (7, (2, 4)),
            (8, (2, 5)),
            (99, (3, 1)),
        ] {
            assert_eq!(source.position(offset), expected, "{offset}");
        }
        assert_eq!(source.offset(2, 3), 6);
    }

    #[test]
    fn it_reads_like_a_compiler() {
        let source = Source::new("437.md", "one\nnumber: x\nthree\n");
        let found = [source
            .diagnostic(RULE, Span::new(12, 13), "`x` is not a number")
            .suggest("write the number of the issue")];
        insta::assert_snapshot!(pretty(&found, &source, false), @r"
        warning[test-rule]: `x` is not a number
         --> 437.md:2:9
          |
        2 | number: x
          |         ^
          |
          = help: write the number of the issue

        1 warning
        ");
        assert!(pretty(&found, &source, true).contains("\u{1b}["));
        assert_eq!(pretty(&[], &source, false), "no problems found\n");
    }

    #[test]
    fn a_flood_is_cut() {
        let source = Source::new("f.md", "text");
        let mut findings = Findings::new(&source);
        for _ in 0..1000 {
            findings.add(RULE, Span::default(), "again").suggest("stop");
        }
        assert_eq!(findings.unsaid(), 1000 - Findings::KEPT_MAX);
        assert_eq!(findings.into_sorted().len(), Findings::KEPT_MAX);
    }

    #[test]
    fn near_names_are_found() {
        for (written, expected) in
            [("prehaeder", Some("preheader")), ("Number", Some("number")), ("xyz", None)]
        {
            assert_eq!(nearest(written, ["number", "preheader"]), expected, "{written}");
        }
    }

    proptest! {
        #[test]
        fn any_span_of_any_text_can_be_shown(text in "\\PC{0,40}(\n\\PC{0,20}){0,3}", a in 0usize..90, b in 0usize..90) {
            let source = Source::new("any", text);
            let found = source.diagnostic(RULE, Span::new(a, b), "m");
            prop_assert!(found.span.end <= source.text().len());
            prop_assert!(pretty(&[found], &source, false).contains("test-rule"));
        }
    }
}
