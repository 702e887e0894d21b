//! Rules about what the text says: bylines, commentary, disclosures, placeholders, headings.

use crate::{
    diagnostic::{Findings, Span},
    issue::{
        lint::{
            InterestKind, LintContext,
            address::{host_of, is_own_host},
        },
        model::{Block, Inline, IssueDocument, Item, Name, Node, Sponsor, each_in_nodes, plain},
        rule,
    },
};

pub(super) fn check(findings: &mut Findings<'_>, document: &IssueDocument, context: &LintContext) {
    let sponsors = sponsors(document);
    for block in document.blocks() {
        match block {
            Block::Item(item) => {
                byline(findings, item);
                commentary(findings, item);
                disclosure(findings, item, &sponsors, context);
            }
            Block::Sponsor(sponsor) => placeholder(findings, &sponsor.name, sponsor.span),
            _ => {}
        }
        heading_order(findings, block.body());
    }
    document.each_inline(&mut |inline| {
        if let Inline::Text { text, span } = inline {
            placeholder(findings, text, *span);
            if text.contains("](") {
                findings
                    .add(
                        rule::LINK_UNREAD,
                        *span,
                        "this looks like a link, and Markdown does not read it as one",
                    )
                    .suggest("an address with spaces stands between angle brackets: `[text](<…>)`");
            }
        }
    });
}

fn byline(findings: &mut Findings<'_>, item: &Item) {
    match &item.byline {
        Some(byline) if byline.authors.is_empty() && byline.organisation.is_none() => {
            findings
                .add(rule::ITEM_WITHOUT_BYLINE, byline.span, "the byline names nobody")
                .suggest("write `— Author, Author — Organisation`");
        }
        Some(_) => {}
        None => {
            let suggestion = if dash_in_last_paragraph(item) {
                "the line that begins with a dash belongs to the paragraph above; \
                 put an empty line before it"
            } else {
                "end it with a paragraph such as `— Author, Author — Organisation`"
            };
            findings
                .add(rule::ITEM_WITHOUT_BYLINE, item.span, "this item does not say who made it")
                .suggest(suggestion);
        }
    }
}

/// Whether a line of the last paragraph looks like a byline.
fn dash_in_last_paragraph(item: &Item) -> bool {
    let Some(Node::Paragraph { content, .. }) = item.body.last() else { return false };
    content.windows(2).any(|pair| match pair {
        [Inline::SoftBreak, Inline::Text { text, .. }] => {
            text.starts_with(['—', '–']) || text.starts_with("-- ")
        }
        _ => false,
    })
}

fn commentary(findings: &mut Findings<'_>, item: &Item) {
    let mut has_text = false;
    each_in_nodes(&item.body, &mut |inline| {
        has_text |= matches!(inline, Inline::Text { text, .. } if !text.trim().is_empty());
    });
    if !has_text && !item.body.iter().any(|node| matches!(node, Node::Code { .. })) {
        findings
            .add(rule::ITEM_WITHOUT_COMMENTARY, item.span, "this item has no commentary")
            .suggest("say in a sentence why it is worth reading");
    }
}

/// A sponsor of this very issue: name and hosts of its links.
struct Payer<'a> {
    name: &'a str,
    hosts: Vec<String>,
}

fn sponsors(document: &IssueDocument) -> Vec<Payer<'_>> {
    let payer = |sponsor: &'_ Sponsor| {
        let mut hosts = Vec::new();
        each_in_nodes(&sponsor.body, &mut |inline| {
            if let Inline::Link { url, .. } = inline {
                hosts.extend(host_of(url).filter(|host| is_own_host(host)));
            }
        });
        hosts
    };
    document
        .blocks()
        .iter()
        .filter_map(|block| match block {
            Block::Sponsor(sponsor) => Some(Payer { name: &sponsor.name, hosts: payer(sponsor) }),
            _ => None,
        })
        .collect()
}

fn disclosure(
    findings: &mut Findings<'_>,
    item: &Item,
    sponsors: &[Payer<'_>],
    context: &LintContext,
) {
    if item.disclosure.is_some() {
        return;
    }
    let host = host_of(&item.url);
    let concerns = |name: &str, hosts: &[String]| {
        let by_host = host.as_ref().is_some_and(|host| hosts.iter().any(|of| is_below(host, of)));
        by_host || is_by(item, name)
    };
    let of_issue = sponsors.iter().find(|payer| concerns(payer.name, &payer.hosts));
    let of_rules =
        context.interests.iter().find(|interest| concerns(&interest.name, &interest.hosts));
    let (name, what) = match (of_issue, of_rules) {
        (Some(payer), _) => (payer.name, "sponsors this issue"),
        (None, Some(interest)) => {
            let what = match interest.kind {
                InterestKind::Sponsor => "is a sponsor",
                InterestKind::Employer => "is the editor's employer",
            };
            (interest.name.as_str(), what)
        }
        (None, None) => return,
    };
    findings
        .add(
            rule::DISCLOSURE_MISSING,
            item.span,
            format!("this item is from {name}, who {what}, and does not say so"),
        )
        .suggest(format!(
            "add a paragraph: `Full disclosure: {name} {}.`",
            what.replace("the editor's", "my")
        ));
}

fn is_below(host: &str, of: &str) -> bool {
    let of = of.trim_start_matches("www.");
    host.strip_suffix(of).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

fn is_by(item: &Item, name: &str) -> bool {
    let same = |found: &Name| found.name.eq_ignore_ascii_case(name);
    !name.is_empty()
        && item.byline.as_ref().is_some_and(|byline| {
            byline.organisation.as_ref().is_some_and(same) || byline.authors.iter().any(same)
        })
}

/// Words that stand for text to come. `TK` is printers' shorthand for it.
const PLACEHOLDERS: &[&str] = &["TODO", "TBD", "FIXME", "XXX", "TK", "TKTK"];

/// Finds words that stand for text to come.
pub(super) fn placeholder(findings: &mut Findings<'_>, text: &str, span: Span) {
    let mut words = text.split(|c: char| !c.is_alphanumeric());
    let found = words.find(|word| PLACEHOLDERS.contains(word)).map(|word| {
        let at = word.as_ptr() as usize - text.as_ptr() as usize;
        (at, word.len())
    });
    let lower = text.to_ascii_lowercase();
    let found = found.or_else(|| lower.find("lorem ipsum").map(|at| (at, "lorem ipsum".len())));
    let Some((at, length)) = found else { return };
    let exact = findings.source().text().get(span.start..span.end) == Some(text);
    let place = if exact { Span::new(span.start + at, span.start + at + length) } else { span };
    findings
        .add(
            rule::PLACEHOLDER,
            place,
            format!("`{}` stands for text to come", &text[at..at + length]),
        )
        .suggest("write the text; a word that is meant as such stands in `code`");
}

fn heading_order(findings: &mut Findings<'_>, body: &[Node]) {
    // Bodies stand below a `##`, or may as well.
    let mut above = 2;
    for node in body {
        if let Node::Heading { level, content, span } = node {
            if *level > above + 1 {
                let message =
                    format!("this heading is of level {level}, and the one above of {above}");
                findings
                    .add(rule::HEADING_ORDER, *span, message)
                    .suggest(format!("write `{} …`", "#".repeat(usize::from(above) + 1)));
            }
            if plain(content).trim().is_empty() {
                findings.add(rule::EMPTY_HEADING, *span, "this heading is empty");
            }
            above = *level;
        }
    }
}
