//! Markdown into the model's nodes: the events of `pulldown-cmark` with their places, folded into a
//! tree, with reader fields cut out of text and HTML refused.
//!
//! `:::` lines are not Markdown. They are masked as lines across (which end any block, as `:::` must)
//! in a copy of the same length, so that one pass over the whole body keeps every place.

mod tree;

use pulldown_cmark::{Options, Parser};

use crate::{
    diagnostic::{Findings, Span},
    issue::{field::FieldProblem, model::Node, rule, source::markdown::tree::Tree},
};

/// How deep quotes, lists and emphasis nest. Whoever walks the tree may recurse.
pub(super) const DEPTH_MAX: usize = 24;

/// What stands at the top level of a body.
#[derive(Debug)]
pub(super) enum Part {
    /// A block of Markdown.
    Node(Node, Span),
    /// `:::sponsor NAME`, with the name.
    SponsorStart(String, Span),
    /// `:::`.
    SponsorEnd(Span),
}

/// Reads the body that begins at byte `start` of the source.
pub(super) fn read(findings: &mut Findings<'_>, start: usize) -> Vec<Part> {
    let text = findings.source().text();
    let (masked, directives) = mask_directives(findings, &text[start..], start);
    let mut tree = Tree::new(findings, start);
    let options = Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TABLES;
    for (event, range) in Parser::new_ext(&masked, options).into_offset_iter() {
        tree.take(event, range);
    }
    let nodes = tree.finish();
    let mut directives = directives.into_iter().peekable();
    let mut parts = Vec::with_capacity(nodes.len());
    for (node, span) in nodes {
        match directives.peek() {
            Some((at, _)) if matches!(node, Node::Rule) && at.start == span.start => {
                parts.extend(directives.next().map(|(_, part)| part));
            }
            _ => parts.push(Part::Node(node, span)),
        }
    }
    for (at, _) in directives {
        // The line was swallowed, by an unclosed HTML block for instance.
        findings.add(rule::UNKNOWN_DIRECTIVE, at, "this `:::` line stands inside another block");
    }
    parts
}

/// The body with each `:::` line outside of code replaced by a line across.
fn mask_directives(
    findings: &mut Findings<'_>,
    body: &str,
    start: usize,
) -> (String, Vec<(Span, Part)>) {
    let mut masked = String::with_capacity(body.len());
    let mut directives = Vec::new();
    let mut fence: Option<(u8, usize)> = None;
    let mut at = start;
    for line in body.split_inclusive('\n') {
        let content = line.trim_end_matches(['\n', '\r']);
        if let Some(run) = fence_run(content) {
            match fence {
                None => fence = Some(run),
                Some((mark, length)) if run.0 == mark && run.1 >= length => fence = None,
                Some(_) => {}
            }
        }
        let span = Span::new(at, at + content.len());
        match content.strip_prefix(":::").filter(|_| fence.is_none()) {
            Some(rest) => {
                directives.push((span, directive(findings, rest.trim(), span)));
                masked.push_str("***");
                masked.extend(std::iter::repeat_n(' ', content.len() - 3));
                masked.push_str(&line[content.len()..]);
            }
            None => masked.push_str(line),
        }
        at += line.len();
    }
    (masked, directives)
}

/// The mark and length of a code fence, if the line is one.
fn fence_run(line: &str) -> Option<(u8, usize)> {
    let trimmed = line.trim_start_matches(' ');
    let mark = *trimmed.as_bytes().first()?;
    let length = trimmed.bytes().take_while(|&byte| byte == mark).count();
    let indented = line.len() - trimmed.len() > 3;
    (matches!(mark, b'`' | b'~') && length >= 3 && !indented).then_some((mark, length))
}

fn directive(findings: &mut Findings<'_>, rest: &str, span: Span) -> Part {
    if rest.is_empty() {
        return Part::SponsorEnd(span);
    }
    let (word, name) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let name = name.trim();
    if word == "sponsor" {
        if name.is_empty() {
            findings
                .add(
                    rule::SPONSOR_UNLABELLED,
                    span,
                    "the sponsor message does not name its sponsor",
                )
                .suggest("write `:::sponsor NAME`: readers are told who pays");
        } else if name.contains("{{") {
            findings.add(
                rule::FIELD_NOT_HERE,
                span,
                "a sponsor's name is the same for every reader",
            );
        }
        return Part::SponsorStart(name.to_owned(), span);
    }
    let shown: String = word.chars().take(40).collect();
    findings
        .add(rule::UNKNOWN_DIRECTIVE, span, format!("`:::{shown}` means nothing"))
        .suggest("`:::sponsor NAME` opens a sponsor message and `:::` closes it");
    Part::SponsorStart(name.to_owned(), span)
}

/// Notes what is wrong with a `{{…}}`.
pub(super) fn report(findings: &mut Findings<'_>, problem: &FieldProblem, span: Span) {
    match problem {
        FieldProblem::Unknown { written, nearest } => {
            let message = format!("`{{{{{written}}}}}` is no reader field");
            let mut noted = findings.add(rule::UNKNOWN_VARIABLE, span, message);
            match nearest {
                Some(name) => noted.suggest(format!("did you mean `{{{{{name}}}}}`?")),
                None => noted.suggest(
                    "fields are `{{name|…}}`, `{{address}}`, `{{attribute.KEY|…}}`; \
                     braces that are meant as such stand in `code`",
                ),
            };
        }
        FieldProblem::NoFallback { written } => {
            findings
                .add(
                    rule::FIELD_WITHOUT_FALLBACK,
                    span,
                    format!("some readers have no `{written}`, and nothing is said to stand in"),
                )
                .suggest(format!(
                    "write `{{{{{written}|reader}}}}`, or `{{{{{written}|}}}}` for nothing"
                ));
        }
        FieldProblem::Unclosed => {
            findings
                .add(rule::UNKNOWN_VARIABLE, span, "`{{` without `}}` in the same line")
                .suggest("close it, or put the braces in `code`");
        }
    }
}
