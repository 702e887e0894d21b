//! From a flat run of Markdown blocks to the parts of an issue: introduction, sections, items with
//! byline and disclosure, sponsor messages.

use crate::{
    diagnostic::{Findings, Span},
    issue::{
        model::{Block, Inline, Item, Node, Sponsor, each_in, plain},
        rule,
        source::{byline, markdown::Part},
    },
};

/// Puts the parts of an issue together.
pub(super) fn assemble(findings: &mut Findings<'_>, parts: Vec<Part>) -> Vec<Block> {
    let is_digest = parts.iter().any(|part| match part {
        Part::Node(Node::Heading { level: 2, content, .. }, _) => !links(content).is_empty(),
        _ => false,
    });
    let mut issue = Assembly { blocks: Vec::new(), sponsor: None, is_digest };
    for part in parts {
        match part {
            Part::SponsorStart(name, span) => issue.open_sponsor(findings, name, span),
            Part::SponsorEnd(span) => issue.close_sponsor(findings, span),
            Part::Node(node, span) => issue.take(findings, node, span),
        }
    }
    issue.finish(findings)
}

struct Assembly {
    blocks: Vec<Block>,
    /// The sponsor message that is open.
    sponsor: Option<Sponsor>,
    is_digest: bool,
}

impl Assembly {
    fn open_sponsor(&mut self, findings: &mut Findings<'_>, name: String, span: Span) {
        if let Some(open) = self.sponsor.take() {
            unclosed(findings, &open);
            self.blocks.push(Block::Sponsor(open));
        }
        self.sponsor = Some(Sponsor { name, body: Vec::new(), span });
    }

    fn close_sponsor(&mut self, findings: &mut Findings<'_>, span: Span) {
        match self.sponsor.take() {
            Some(sponsor) => {
                if sponsor.body.is_empty() {
                    findings
                        .add(rule::EMPTY_ISSUE, sponsor.span, "the sponsor message says nothing")
                        .suggest("write the message between `:::sponsor NAME` and `:::`");
                }
                self.blocks.push(Block::Sponsor(sponsor));
            }
            None => {
                findings
                    .add(rule::UNKNOWN_DIRECTIVE, span, "this `:::` closes nothing")
                    .suggest("`:::sponsor NAME` opens a sponsor message");
            }
        }
    }

    fn take(&mut self, findings: &mut Findings<'_>, node: Node, span: Span) {
        if let Some(sponsor) = &mut self.sponsor {
            sponsor.body.push(node);
            return;
        }
        match node {
            Node::Heading { level: level @ (1 | 2), content, .. } => {
                if plain(&content).trim().is_empty() {
                    findings.add(rule::EMPTY_HEADING, span, "this heading is empty");
                }
                let block = if level == 1 {
                    Block::Section { title: content, body: Vec::new(), span }
                } else {
                    self.second_level(findings, content, span)
                };
                self.blocks.push(block);
            }
            node => self.body(span).push(node),
        }
    }

    /// A `##` heading: an item when it is a link.
    fn second_level(&self, findings: &mut Findings<'_>, content: Vec<Inline>, span: Span) -> Block {
        let links = links(&content);
        let Some((url, _)) = links.first().cloned() else {
            if self.is_digest {
                findings
                    .add(
                        rule::HEADING_WITHOUT_LINK,
                        span,
                        "this heading is no link, so it opens no item",
                    )
                    .suggest("write `## [Title](https://…)`, or `#` for a section");
            }
            return Block::Prose { title: Some(content), body: Vec::new(), span };
        };
        if let Some((_, second)) = links.get(1) {
            findings
                .add(rule::ITEM_WITH_TWO_LINKS, *second, "the heading of an item is one link")
                .suggest("move the second link into the commentary");
        }
        Block::Item(Item { title: unlinked(content), url, span, ..Item::default() })
    }

    /// Where text that follows goes.
    fn body(&mut self, span: Span) -> &mut Vec<Node> {
        let fresh = match self.blocks.last() {
            None => Some(Block::Introduction { body: Vec::new() }),
            Some(Block::Sponsor(_)) => Some(Block::Prose { title: None, body: Vec::new(), span }),
            Some(_) => None,
        };
        self.blocks.extend(fresh);
        match self.blocks.last_mut() {
            Some(
                Block::Introduction { body }
                | Block::Section { body, .. }
                | Block::Prose { body, .. }
                | Block::Item(Item { body, .. })
                | Block::Sponsor(Sponsor { body, .. }),
            ) => body,
            None => unreachable!("a block was just added"),
        }
    }

    fn finish(mut self, findings: &mut Findings<'_>) -> Vec<Block> {
        if let Some(open) = self.sponsor.take() {
            unclosed(findings, &open);
            self.blocks.push(Block::Sponsor(open));
        }
        for block in &mut self.blocks {
            if let Block::Item(item) = block {
                take_byline(item);
                take_disclosure(item);
            }
        }
        self.blocks
    }
}

fn unclosed(findings: &mut Findings<'_>, sponsor: &Sponsor) {
    findings
        .add(rule::SPONSOR_UNCLOSED, sponsor.span, "this sponsor message does not end")
        .suggest("close it with a line of `:::`");
}

/// The links in a heading with their places.
fn links(content: &[Inline]) -> Vec<(String, Span)> {
    let mut out = Vec::new();
    each_in(content, &mut |inline| {
        if let Inline::Link { url, span, .. } = inline {
            out.push((url.clone(), *span));
        }
    });
    out
}

/// The content with the text of links in their place.
fn unlinked(content: Vec<Inline>) -> Vec<Inline> {
    content
        .into_iter()
        .flat_map(|inline| match inline {
            Inline::Link { content, .. } => content,
            other => vec![other],
        })
        .collect()
}

/// The last paragraph that starts with a dash.
fn take_byline(item: &mut Item) {
    let found = item.body.iter().rposition(
        |node| matches!(node, Node::Paragraph { content, .. } if byline::is_byline(content)),
    );
    if let Some(index) = found
        && let Node::Paragraph { content, span } = item.body.remove(index)
    {
        item.byline = Some(byline::read(&content, span));
    }
}

/// The first paragraph that says `Full disclosure:` or `Disclosure:`.
fn take_disclosure(item: &mut Item) {
    let found = item.body.iter().position(|node| match node {
        Node::Paragraph { content, .. } => {
            let text = plain(content).trim_start().to_lowercase();
            text.starts_with("full disclosure:") || text.starts_with("disclosure:")
        }
        _ => false,
    });
    if let Some(index) = found
        && let Node::Paragraph { content, .. } = item.body.remove(index)
    {
        item.disclosure = Some(content);
    }
}
