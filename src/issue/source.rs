//! From the bytes of an issue file to the model, with everything that is wrong on the way.
//!
//! It always gives a document, as good as it can be made, so that a preview works while somebody
//! writes; whoever sends looks at the findings first. Time and memory are linear in the file, and
//! the file is bounded.

mod assemble;
mod byline;
mod front_matter;
mod handmade;
mod markdown;

use crate::{
    diagnostic::{Diagnostic, Findings, Source, Span, has_errors},
    issue::{
        model::{Content, IssueDocument},
        rule,
    },
};

/// The largest file that is read, in bytes. The longest issue of a weekly digest is a hundredth.
pub const FILE_BYTES_MAX: usize = 2 * 1024 * 1024;

/// The most items of one issue: beyond it is a mistake, and no mail client shows it anyway.
pub const ITEMS_MAX: usize = 2_000;

/// A file that was read.
#[derive(Debug, Clone)]
pub struct Parsed {
    /// The issue, as good as it could be made.
    pub document: IssueDocument,
    /// The text it was made from.
    pub source: Source,
    /// What is wrong with it, in the order of the file.
    pub diagnostics: Vec<Diagnostic>,
    /// Where the keys of the front matter stand.
    pub places: Places,
}

/// Where things of the front matter stand, for findings about them.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// The whole front matter, or the very beginning.
    pub front_matter: Span,
    /// The value of `number`.
    pub number: Option<Span>,
    /// The value of `date`.
    pub date: Option<Span>,
    /// The value of `subject`.
    pub subject: Option<Span>,
    /// The value of `preheader`.
    pub preheader: Option<Span>,
    /// The value of `title`.
    pub title: Option<Span>,
    /// The text after the front matter.
    pub body: Span,
}

impl Parsed {
    /// The document, or what is wrong when that blocks a send.
    pub fn into_document(self) -> Result<IssueDocument, Vec<Diagnostic>> {
        if has_errors(&self.diagnostics) { Err(self.diagnostics) } else { Ok(self.document) }
    }
}

/// Reads an issue file. `name` is what findings call it.
pub fn parse(name: &str, bytes: &[u8]) -> Parsed {
    let source = match text_of(name, bytes) {
        Ok(source) => source,
        Err((source, found)) => {
            return Parsed {
                document: IssueDocument::default(),
                source,
                diagnostics: vec![*found],
                places: Places::default(),
            };
        }
    };
    let mut findings = Findings::new(&source);
    let (mut document, mut places, format) = front_matter::read(&mut findings);
    document.content = match format {
        front_matter::Format::Markdown => {
            Content::Markdown { blocks: markdown_body(&mut findings, places.body) }
        }
        front_matter::Format::Mjml => handmade::take_mjml(&mut findings, places.body),
        front_matter::Format::Html => handmade::take_html(&mut findings, places.body),
    };
    places.body.end = source.text().len();
    if let 1.. = findings.unsaid() {
        let unsaid = findings.unsaid();
        let mut diagnostics = findings.into_sorted();
        diagnostics.push(source.diagnostic(
            rule::TOO_MANY_PROBLEMS,
            Span::new(source.text().len(), source.text().len()),
            format!("{unsaid} more problems are not listed; put these right first"),
        ));
        return Parsed { document, source, diagnostics, places };
    }
    let diagnostics = findings.into_sorted();
    Parsed { document, source, diagnostics, places }
}

fn markdown_body(findings: &mut Findings<'_>, body: Span) -> Vec<crate::issue::model::Block> {
    let text = findings.source().text();
    let body_text = &text[body.start..];
    if let Some(at) = item_over_limit(body_text) {
        let at = body.start + at;
        findings
            .add(
                rule::TOO_MANY_ITEMS,
                Span::new(at, at + 2),
                format!("this would be item {}; an issue has at most {ITEMS_MAX}", ITEMS_MAX + 1),
            )
            .suggest("split it into several issues");
        return Vec::new();
    }
    let blocks = markdown::read(findings, body.start);
    let blocks = assemble::assemble(findings, blocks);
    if blocks.is_empty() {
        findings
            .add(rule::EMPTY_ISSUE, Span::new(body.start, body.start), "the issue says nothing")
            .suggest("write an introduction, or an item: `## [Title](https://…)`");
    }
    blocks
}

/// The `##` heading past the limit: a cheap look at line starts before anything costly.
fn item_over_limit(body: &str) -> Option<usize> {
    let mut at = 0;
    let mut headings = 0;
    for line in body.split_inclusive('\n') {
        if line.starts_with("## ") {
            headings += 1;
            if headings > ITEMS_MAX {
                return Some(at);
            }
        }
        at += line.len();
    }
    None
}

/// The text of the file, or why there is none.
fn text_of(name: &str, bytes: &[u8]) -> Result<Source, (Source, Box<Diagnostic>)> {
    let refuse = |shown: &str, rule, span: Span, message: String, suggestion: &str| {
        let source = Source::new(name, shown);
        let found = source.diagnostic(rule, span, message).suggest(suggestion);
        Err((source, Box::new(found)))
    };
    if bytes.len() > FILE_BYTES_MAX {
        return refuse(
            "",
            rule::TOO_LARGE,
            Span::default(),
            format!(
                "the file has {:.1} MB; an issue file has at most {} MB",
                bytes.len() as f64 / 1_048_576.0,
                FILE_BYTES_MAX / 1_048_576
            ),
            "is this the right file? Images are linked, not embedded",
        );
    }
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let good = std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default();
            let message = format!("byte {:#04x} is not UTF-8", bytes[error.valid_up_to()]);
            return refuse(
                good,
                rule::NOT_TEXT,
                Span::new(good.len(), good.len()),
                message,
                "save the file as UTF-8",
            );
        }
    };
    let control = text.char_indices().find(|&(at, c)| {
        // A lone CR would be a line end to some readers and not to others.
        let lone_cr = c == '\r' && !text[at + 1..].starts_with('\n');
        lone_cr || (c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
    });
    if let Some((at, c)) = control {
        let message = format!("there is a control character here (U+{:04X})", u32::from(c));
        let span = Span::new(at, at + c.len_utf8());
        // Only the part before it is shown: the rest may be binary.
        return refuse(&text[..span.end], rule::NOT_TEXT, span, message, "remove it");
    }
    Ok(Source::new(name, text))
}

#[cfg(test)]
mod tests;
