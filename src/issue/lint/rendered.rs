//! Rules about what comes out: sizes, the text part against the HTML, and what screen readers need.

use std::collections::HashSet;

use crate::{
    diagnostic::{Findings, Span},
    issue::{
        html::{self, Tag, Token},
        render::RenderedIssue,
        rule,
    },
    merge::{Field, MergeText, Segment},
};

/// The HTML that is asked about, in bytes.
const HTML_BYTES_WARNING: usize = 80 * 1024;

/// Where Gmail cuts a message and shows a link to the rest, in bytes.
const HTML_BYTES_MAX: usize = 102 * 1024;

/// The smallest text, in CSS pixels.
const FONT_PIXELS_MIN: f32 = 14.0;

/// How deep elements are followed; mails nest some twenty deep.
const DEPTH_MAX: usize = 256;

/// `at` is where findings are shown: they are about no place of the file.
pub(super) fn check(findings: &mut Findings<'_>, issue: &RenderedIssue, at: usize) {
    let place = Span::new(at, at);
    sizes(findings, issue, place);
    let html = with_names(&issue.html);
    let text = with_names(&issue.text);
    unsubscribe(findings, issue, place);
    links_in_text(findings, &html, &text, place);
    page(findings, &html, place);
}

/// What screen readers need of any mail.
pub(super) fn page(findings: &mut Findings<'_>, html: &str, place: Span) {
    Page::default().check(findings, html, place);
}

fn sizes(findings: &mut Findings<'_>, issue: &RenderedIssue, place: Span) {
    let bytes = issue.html_bytes();
    let kilobytes = bytes.div_ceil(1024);
    if bytes >= HTML_BYTES_MAX {
        let message =
            format!("the HTML has {kilobytes} KB; Gmail cuts it at 102 KB, footer and all");
        findings.add(rule::HTML_TOO_LARGE, place, message).suggest("move items to another issue");
    } else if bytes > HTML_BYTES_WARNING {
        let message = format!("the HTML has {kilobytes} KB; at 102 KB Gmail cuts it");
        findings.add(rule::HTML_LARGE, place, message).suggest("shorten the issue");
    }
    let text: usize = issue
        .text
        .segments
        .iter()
        .map(|segment| match segment {
            Segment::Literal(text) => text.chars().filter(|c| c.is_alphanumeric()).count(),
            Segment::Slot { .. } => 0,
        })
        .sum();
    if text == 0 {
        findings.add(rule::TEXT_EMPTY, place, "the text part is empty");
    }
}

/// The text with a name for each slot, the same in HTML and text, whatever its escape.
fn with_names(text: &MergeText) -> String {
    let mut out = String::new();
    for segment in &text.segments {
        match segment {
            Segment::Literal(text) => out.push_str(text),
            Segment::Slot { field, .. } => {
                let name = match field {
                    Field::Address => "address",
                    Field::Name => "name",
                    Field::UnsubscribeUrl => "https://reader.invalid/unsubscribe",
                    Field::UnsubscribeMailto => "mailto:unsubscribe@reader.invalid",
                    Field::PreferencesUrl => "https://reader.invalid/preferences",
                    Field::IssueUrl => "https://reader.invalid/issue",
                    Field::Attribute(key) => key,
                };
                out.push_str(name);
            }
        }
    }
    out
}

fn unsubscribe(findings: &mut Findings<'_>, issue: &RenderedIssue, place: Span) {
    let has = |text: &MergeText| {
        text.segments
            .iter()
            .any(|segment| matches!(segment, Segment::Slot { field: Field::UnsubscribeUrl, .. }))
    };
    if !has(&issue.html) || !has(&issue.text) {
        findings
            .add(rule::UNSUBSCRIBE_MISSING, place, "the mail has no link to leave")
            .suggest("put `<a href=\"{{unsubscribe_url}}\">Unsubscribe</a>` into the body");
    }
}

fn links_in_text(findings: &mut Findings<'_>, html: &str, text: &str, place: Span) {
    // Words rather than a search: that would take links times text.
    let in_text: HashSet<&str> = text
        .split(|c: char| c.is_whitespace() || c == '<' || c == '>')
        .flat_map(|word| {
            let bare = word.trim_matches(|c: char| "()[],.;:!?\"'*_~".contains(c));
            [word, bare, word.trim_end_matches(['.', ','])]
        })
        .collect();
    let mut told = HashSet::new();
    for (token, _) in html::tokens(html) {
        let Token::Open(tag) = token else { continue };
        if tag.name != "a" {
            continue;
        }
        let Some(href) = tag.value("href") else { continue };
        let href = href.trim();
        let shown = href.strip_prefix("mailto:").unwrap_or(href);
        let counts = href.starts_with("http") || href.starts_with("mailto:");
        if counts
            && !in_text.contains(shown)
            && !in_text.contains(href)
            && told.insert(href.to_owned())
        {
            findings
                .add(rule::TEXT_LINK_MISSING, place, format!("the text part lacks the link {href}"))
                .suggest("is there a template that leaves it out?");
        }
    }
}

/// What is gathered while reading the HTML once.
#[derive(Default)]
struct Page {
    html_said: bool,
    wrapper_said: bool,
    in_body: bool,
    h1: usize,
    level: u8,
    /// Open elements with the font size in them and whether they are hidden.
    open: Vec<(String, f32, bool)>,
    tables: Vec<(bool, bool)>,
    bare_tables: usize,
    small: Option<f32>,
}

impl Page {
    fn check(mut self, findings: &mut Findings<'_>, html: &str, place: Span) {
        for (token, _) in html::tokens(html) {
            match token {
                Token::Open(tag) => self.open(findings, &tag, place),
                Token::Close(name) => self.close(&name),
                Token::Text(text) if self.in_body && !html::unescape(text).trim().is_empty() => {
                    if let Some((_, size, false)) = self.open.last()
                        && *size < FONT_PIXELS_MIN
                    {
                        self.small = Some(self.small.map_or(*size, |small| small.min(*size)));
                    }
                }
                _ => {}
            }
        }
        self.conclude(findings, place);
    }

    fn open(&mut self, findings: &mut Findings<'_>, tag: &Tag<'_>, place: Span) {
        let says = |name: &str| tag.value(name).is_some_and(|value| !value.trim().is_empty());
        let says_both = says("lang") && says("dir");
        match &*tag.name {
            "html" => self.html_said = says_both,
            "body" => self.in_body = true,
            "img" if tag.raw("alt").is_none() => {
                findings.add(rule::HTML_ALT, place, "a picture of the mail has no `alt`");
            }
            "table" => {
                let role = tag.value("role");
                let is_layout = matches!(role.as_deref(), Some("presentation" | "none"));
                self.tables.push((is_layout, false));
            }
            "th" => {
                if let Some(table) = self.tables.last_mut() {
                    table.1 = true;
                }
            }
            "h1" | "h2" | "h3" | "h4" | "h5" | "h6" => self.heading(findings, &tag.name, place),
            _ => {}
        }
        self.wrapper_said |= self.in_body && says_both;
        if !tag.is_void() && !tag.closed && self.open.len() < DEPTH_MAX {
            let (_, size, hidden) =
                self.open.last().cloned().unwrap_or((String::new(), 16.0, false));
            let style =
                tag.value("style").unwrap_or_default().to_ascii_lowercase().replace(' ', "");
            let size = pixels(&style).unwrap_or(size);
            let hidden = hidden || style.contains("display:none");
            self.open.push((tag.name.clone(), size, hidden));
        }
    }

    fn heading(&mut self, findings: &mut Findings<'_>, name: &str, place: Span) {
        let level = name.as_bytes()[1] - b'0';
        self.h1 += usize::from(level == 1);
        if level > self.level + 1 {
            let message = format!("an h{level} follows an h{} in the mail", self.level);
            findings.add(rule::HTML_HEADINGS, place, message).suggest("do not skip a level");
        }
        self.level = level;
    }

    fn close(&mut self, name: &str) {
        if name == "table"
            && let Some((false, false)) = self.tables.pop()
        {
            self.bare_tables += 1;
        }
        if let Some(at) = self.open.iter().rposition(|(open, ..)| open == name) {
            self.open.truncate(at);
        }
    }

    fn conclude(self, findings: &mut Findings<'_>, place: Span) {
        if !self.html_said || !self.wrapper_said {
            findings
                .add(rule::HTML_LANG, place, "the mail does not say its language and direction")
                .suggest(
                    "`lang` and `dir` stand on <html> and on an element that wraps the body: \
                          some clients drop <html>",
                );
        }
        if self.h1 != 1 {
            let message = format!("the mail has {} headings of level 1", self.h1);
            findings.add(rule::HTML_HEADINGS, place, message).suggest("it has one, its headline");
        }
        if self.bare_tables > 0 {
            let message =
                format!("{} tables of the mail have neither a role nor headers", self.bare_tables);
            findings.add(rule::HTML_TABLES, place, message).suggest(
                "tables for layout have `role=\"presentation\"`, tables of data have <th>",
            );
        }
        if let Some(size) = self.small {
            let message = format!("some text of the mail is {size} px");
            findings.add(rule::HTML_TEXT_SMALL, place, message).suggest("make it at least 14 px");
        }
    }
}

/// The font size that a style sets, in CSS pixels.
fn pixels(style: &str) -> Option<f32> {
    let (_, value) = style
        .split(';')
        .filter_map(|pair| pair.split_once(':'))
        .find(|(name, _)| *name == "font-size")?;
    value.strip_suffix("px").or((value == "0").then_some("0"))?.parse().ok()
}
