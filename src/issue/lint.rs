//! What a reader or a mail client would stumble over, found before a send. Errors block it, warnings
//! ask for an override. Only what can be known without the network is looked at here.
//!
//! Every rule has one function, and [`crate::issue::rule`] lists their names. What lies outside of the
//! file (numbers taken, links of the archive, today) comes as a [`LintContext`].

mod address;
mod content;
mod front;
mod handmade;
mod links;
mod rendered;

use std::collections::{BTreeSet, HashMap};

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

pub use address::{link_key, without_tracking};

use crate::{
    diagnostic::{Diagnostic, Findings},
    issue::{
        brand::Brand,
        model::{Content, IssueDocument},
        render::{RenderedIssue, Renderer},
        rule,
        source::{Parsed, parse},
    },
};

/// What the lint has to know beside the file. Whatever is left at its default is not checked.
#[derive(Debug, Clone, Default)]
pub struct LintContext {
    /// The newsletter.
    pub brand: Brand,
    /// The day of the send.
    pub today: Option<Date>,
    /// The numbers of the newsletter's other issues.
    pub taken_numbers: BTreeSet<u32>,
    /// The links of earlier issues by [`link_key`], with the number of the latest.
    pub archive_links: HashMap<String, u32>,
    /// Whose links need a disclosure.
    pub interests: Vec<Interest>,
    /// When the same audience was mailed last.
    pub last_mailed: Option<Date>,
    /// For how many days after that another issue is asked about; 0 for never.
    pub quiet_days: u32,
    /// The issue as it will be mailed.
    pub rendered: Option<RenderedIssue>,
}

/// Somebody whose links the editor has an interest in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interest {
    /// The name as it stands in bylines.
    pub name: String,
    /// Their host names; those below them count too.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// What the interest is.
    pub kind: InterestKind,
}

/// What an interest is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InterestKind {
    /// They pay, or have paid, for sponsor messages.
    Sponsor,
    /// The editor works for them.
    Employer,
}

/// Looks over an issue that was read; gives what [`parse`] found, and more, in the order of the file.
pub fn lint(parsed: &Parsed, context: &LintContext) -> Vec<Diagnostic> {
    let mut findings = Findings::new(&parsed.source);
    // Of a file that is no text, or far too long, nothing else is worth saying.
    let unreadable = [rule::TOO_LARGE, rule::NOT_TEXT, rule::TOO_MANY_ITEMS];
    let is_unreadable = parsed
        .diagnostics
        .iter()
        .any(|found| unreadable.iter().any(|rule| rule.code == found.code));
    if !is_unreadable {
        front::check(&mut findings, parsed, context);
        match &parsed.document.content {
            Content::Markdown { .. } => {
                content::check(&mut findings, &parsed.document, context);
                links::check(&mut findings, &parsed.document, context);
            }
            Content::Mjml { .. } | Content::Html { .. } => {
                handmade::check(&mut findings, parsed.places.body);
            }
        }
        if let Some(rendered) = &context.rendered {
            rendered::check(&mut findings, rendered, parsed.places.front_matter.start);
        }
    }
    let mut all = parsed.diagnostics.clone();
    all.extend(findings.into_sorted());
    all.sort_by_key(|found| (found.span.start, found.level));
    all
}

/// Reads, renders and looks over an issue file: what `issue lint` and the editor's page show. The
/// rendered issue is there when it could be made.
pub fn check(
    name: &str,
    bytes: &[u8],
    renderer: &Renderer,
    mut context: LintContext,
) -> (Parsed, Option<RenderedIssue>, Vec<Diagnostic>) {
    let parsed = parse(name, bytes);
    // What cannot be rendered, the parse has said with its place.
    context.rendered = renderer.preview(&parsed.document, &context.brand).ok();
    let diagnostics = lint(&parsed, &context);
    (parsed, context.rendered, diagnostics)
}

/// The links of an issue by [`link_key`], for the archive that later issues are held against.
/// Sponsors' links, which may come again, are not among them.
pub fn archive_keys(document: &IssueDocument) -> Vec<String> {
    links::archive_keys(document)
}

#[cfg(test)]
mod tests;
