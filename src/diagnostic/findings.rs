//! The findings of one source while they are gathered.

use crate::diagnostic::{Diagnostic, Rule, Source, Span};

/// What was found in one source, with a ceiling: a broken file must not make a flood.
#[derive(Debug)]
pub struct Findings<'a> {
    source: &'a Source,
    found: Vec<Diagnostic>,
    unsaid: usize,
}

impl<'a> Findings<'a> {
    /// As many findings of one file are kept; a person fixes these first and runs it again.
    pub const KEPT_MAX: usize = 200;

    /// Nothing found yet in `source`.
    pub fn new(source: &'a Source) -> Self {
        Self { source, found: Vec::new(), unsaid: 0 }
    }

    /// The text that is being looked at.
    pub fn source(&self) -> &'a Source {
        self.source
    }

    /// Notes a finding and returns it, so that a suggestion can be added.
    pub fn add(&mut self, rule: Rule, span: Span, message: impl Into<String>) -> Noted<'_> {
        if self.found.len() >= Self::KEPT_MAX {
            self.unsaid += 1;
            return Noted(None);
        }
        self.found.push(self.source.diagnostic(rule, span, message));
        Noted(self.found.last_mut())
    }

    /// How many findings came after the ceiling.
    pub fn unsaid(&self) -> usize {
        self.unsaid
    }

    /// The findings in the order of the file.
    pub fn into_sorted(mut self) -> Vec<Diagnostic> {
        self.found.sort_by_key(|found| (found.span.start, found.level));
        self.found
    }
}

/// A finding that was just noted, or one past the ceiling.
#[derive(Debug)]
pub struct Noted<'a>(Option<&'a mut Diagnostic>);

impl Noted<'_> {
    /// Adds what to do about it.
    pub fn suggest(&mut self, suggestion: impl Into<String>) -> &mut Self {
        if let Some(found) = &mut self.0 {
            found.suggestion = Some(suggestion.into());
        }
        self
    }

    /// Adds the text that puts the span right.
    pub fn replace_with(&mut self, replacement: impl Into<String>) -> &mut Self {
        if let Some(found) = &mut self.0 {
            found.replacement = Some(replacement.into());
        }
        self
    }
}
