//! Markdown into the model's nodes: the events of `pulldown-cmark` with their places, folded into a
//! tree, with reader fields cut out of text and HTML refused.
//!
//! `:::` lines are not Markdown. They are masked as lines across (which end any block, as `:::` must)
//! in a copy of the same length, so that one pass over the whole body keeps every place.

use std::ops::Range;

use pulldown_cmark::{
    Alignment as Column, CodeBlockKind, Event, HeadingLevel, LinkType, Options, Parser, Tag,
};

use crate::{
    diagnostic::{Findings, Span},
    issue::{
        field::{self, FieldProblem, Piece, Placeholder},
        model::{Alignment, Inline, Node},
        rule,
    },
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
    let mut tree =
        Tree { findings, start, frames: vec![Frame::root()], too_deep: 0, told_deep: false };
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

/// What is being built at one depth.
struct Frame {
    tag: Open,
    span: Span,
    nodes: Vec<(Node, Span)>,
    inlines: Vec<Inline>,
    /// Whether a paragraph of its own stands in it (a loose list item).
    loose: bool,
    items: Vec<Vec<Node>>,
    cells: Vec<Vec<Inline>>,
    rows: Vec<Vec<Vec<Inline>>>,
    head: Vec<Vec<Inline>>,
}

/// The tags that are told apart while building.
enum Open {
    Root,
    Paragraph,
    Heading(u8),
    Quote,
    List(Option<u64>),
    Item,
    Code(Option<String>),
    Html,
    Table(Vec<Alignment>),
    TableHead,
    TableRow,
    TableCell,
    Emphasis,
    Strong,
    Strike,
    Link(String),
    Image(String),
}

impl Frame {
    fn new(tag: Open, span: Span) -> Self {
        Self {
            tag,
            span,
            nodes: Vec::new(),
            inlines: Vec::new(),
            loose: false,
            items: Vec::new(),
            cells: Vec::new(),
            rows: Vec::new(),
            head: Vec::new(),
        }
    }

    fn root() -> Self {
        Self::new(Open::Root, Span::default())
    }

    /// Text of a tight list item becomes a paragraph.
    fn close_line(&mut self) {
        if !self.inlines.is_empty() && matches!(self.tag, Open::Item | Open::Quote | Open::Root) {
            let content = std::mem::take(&mut self.inlines);
            let span = crate::issue::model::span_of(&content).unwrap_or(self.span);
            self.nodes.push((Node::Paragraph { content, span }, span));
        }
    }

    fn body(&mut self) -> Vec<Node> {
        self.close_line();
        std::mem::take(&mut self.nodes).into_iter().map(|(node, _)| node).collect()
    }
}

struct Tree<'a, 'f> {
    findings: &'f mut Findings<'a>,
    start: usize,
    frames: Vec<Frame>,
    /// How many open tags beyond the deepest are being skipped.
    too_deep: usize,
    told_deep: bool,
}

impl Tree<'_, '_> {
    fn take(&mut self, event: Event<'_>, range: Range<usize>) {
        let span = Span::new(range.start + self.start, range.end + self.start);
        match event {
            Event::Start(tag) => self.open(tag, span),
            Event::End(_) if self.too_deep > 0 => self.too_deep -= 1,
            Event::End(_) => self.close(),
            _ if self.too_deep > 0 => {}
            Event::Text(text) => self.text(&text, span),
            Event::Code(text) => {
                self.inline(Inline::Code { text: text.replace(['\r', '\n'], " ") });
            }
            Event::Html(text) | Event::InlineHtml(text) => self.html(&text, span),
            Event::SoftBreak => self.inline(Inline::SoftBreak),
            Event::HardBreak => self.inline(Inline::HardBreak),
            Event::Rule => self.node(Node::Rule, span),
            // Extensions that are not switched on.
            Event::InlineMath(_)
            | Event::DisplayMath(_)
            | Event::FootnoteReference(_)
            | Event::TaskListMarker(_) => {}
        }
    }

    fn open(&mut self, tag: Tag<'_>, span: Span) {
        if self.too_deep > 0 || self.frames.len() > DEPTH_MAX {
            self.too_deep += 1;
            if !self.told_deep {
                self.told_deep = true;
                let message = format!("this nests more than {DEPTH_MAX} deep");
                self.findings.add(rule::TOO_DEEP, span, message).suggest("flatten it");
            }
            return;
        }
        let tag = match tag {
            Tag::Heading { level, .. } => Open::Heading(level_of(level)),
            Tag::BlockQuote(_) => Open::Quote,
            Tag::CodeBlock(CodeBlockKind::Fenced(info)) => Open::Code(
                info.split_whitespace().next().map(str::to_owned).filter(|word| !word.is_empty()),
            ),
            Tag::CodeBlock(CodeBlockKind::Indented) => Open::Code(None),
            Tag::HtmlBlock => Open::Html,
            Tag::List(start) => Open::List(start),
            Tag::Item => Open::Item,
            Tag::Table(columns) => Open::Table(columns.into_iter().map(alignment).collect()),
            Tag::TableHead => Open::TableHead,
            Tag::TableRow => Open::TableRow,
            Tag::TableCell => Open::TableCell,
            Tag::Emphasis => Open::Emphasis,
            Tag::Strong => Open::Strong,
            Tag::Strikethrough => Open::Strike,
            Tag::Link { link_type, dest_url, .. } => {
                let url = if link_type == LinkType::Email {
                    format!("mailto:{dest_url}")
                } else {
                    dest_url.into_string()
                };
                self.check_fields(&url, span);
                Open::Link(url)
            }
            Tag::Image { dest_url, .. } => {
                self.check_fields(&dest_url, span);
                Open::Image(dest_url.into_string())
            }
            // Paragraphs, and extensions that are not switched on.
            _ => Open::Paragraph,
        };
        if matches!(tag, Open::Paragraph)
            && let Some(parent) = self.frames.last_mut()
        {
            parent.loose = true;
        }
        self.frames.push(Frame::new(tag, span));
    }

    fn close(&mut self) {
        // The root stays: every end follows its start.
        if self.frames.len() < 2 {
            return;
        }
        let Some(mut frame) = self.frames.pop() else { return };
        let span = frame.span;
        match std::mem::replace(&mut frame.tag, Open::Root) {
            Open::Root => {}
            Open::Paragraph | Open::Html => {
                let content = self.with_fields(frame.inlines);
                if !content.is_empty() {
                    self.node(Node::Paragraph { content, span }, span);
                }
            }
            Open::Heading(level) => {
                let content = self.with_fields(frame.inlines);
                self.node(Node::Heading { level, content, span }, span);
            }
            Open::Quote => {
                frame.tag = Open::Quote;
                let body = frame.body();
                self.node(Node::Quote { body }, span);
            }
            Open::List(start) => {
                let tight = !frame.loose;
                self.node(Node::List { start, tight, items: frame.items }, span);
            }
            Open::Item => {
                frame.tag = Open::Item;
                frame.inlines = self.with_fields(frame.inlines);
                let loose = frame.loose;
                let body = frame.body();
                if let Some(list) = self.frames.last_mut() {
                    list.loose |= loose;
                    list.items.push(body);
                }
            }
            Open::Code(language) => {
                let text = literal(&frame.inlines);
                self.node(Node::Code { language, text, span }, span);
            }
            Open::Table(columns) => {
                self.node(Node::Table { columns, head: frame.head, rows: frame.rows }, span);
            }
            Open::TableHead => {
                if let Some(table) = self.frames.last_mut() {
                    table.head = frame.cells;
                }
            }
            Open::TableRow => {
                if let Some(table) = self.frames.last_mut() {
                    table.rows.push(frame.cells);
                }
            }
            Open::TableCell => {
                let content = self.with_fields(frame.inlines);
                if let Some(row) = self.frames.last_mut() {
                    row.cells.push(content);
                }
            }
            Open::Emphasis => self.wrap(frame.inlines, |content| Inline::Emphasis { content }),
            Open::Strong => self.wrap(frame.inlines, |content| Inline::Strong { content }),
            Open::Strike => self.wrap(frame.inlines, |content| Inline::Strike { content }),
            Open::Link(url) => {
                self.wrap(frame.inlines, |content| Inline::Link { url, content, span });
            }
            Open::Image(url) => {
                let alt = crate::issue::model::plain(&frame.inlines).trim().to_owned();
                self.inline(Inline::Image { url, alt, width: None, height: None, span });
            }
        }
    }

    fn wrap(&mut self, content: Vec<Inline>, make: impl FnOnce(Vec<Inline>) -> Inline) {
        let content = self.with_fields(content);
        self.inline(make(content));
    }

    /// Text as it comes, in as many pieces as Markdown makes of it; a link's text or a paragraph is
    /// looked through for fields only when it is whole.
    fn text(&mut self, text: &str, span: Span) {
        let Some(frame) = self.frames.last_mut() else { return };
        let verbatim = matches!(frame.tag, Open::Code(_));
        match frame.inlines.last_mut() {
            Some(Inline::Text { text: before, span: place }) => {
                before.push_str(text);
                place.end = span.end;
            }
            last => {
                if !verbatim
                    && let Some(Inline::Image { width, height, .. }) = last
                    && let Some((size, rest)) = image_size(text)
                {
                    (*width, *height) = size;
                    if !rest.is_empty() {
                        let span = Span::new(span.end.saturating_sub(rest.len()), span.end);
                        frame.inlines.push(Inline::Text { text: rest.to_owned(), span });
                    }
                    return;
                }
                frame.inlines.push(Inline::Text { text: text.to_owned(), span });
            }
        }
    }

    fn inline(&mut self, inline: Inline) {
        if let Some(frame) = self.frames.last_mut() {
            frame.inlines.push(inline);
        }
    }

    fn node(&mut self, node: Node, span: Span) {
        let Some(mut frame) = self.frames.pop() else { return };
        frame.inlines = self.with_fields(frame.inlines);
        frame.close_line();
        frame.nodes.push((node, span));
        self.frames.push(frame);
    }

    /// HTML is not passed through. Comments are the editor's own and vanish; the rest is shown as it
    /// was typed, so that a preview shows what is meant by the finding.
    fn html(&mut self, text: &str, span: Span) {
        let trimmed = text.trim();
        if trimmed.starts_with("<!--") && trimmed.ends_with("-->") {
            return;
        }
        let shown: String = trimmed.chars().take(40).collect();
        self.findings
            .add(
                rule::HTML_IN_MARKDOWN,
                Span::new(span.start, span.start + text.trim_end().len()),
                format!("HTML does not pass through: `{shown}`"),
            )
            .suggest(
                "write it in Markdown, or put it in `code`; for a body made by hand see `format: html`",
            );
        self.text(text, span);
    }

    /// Cuts `{{…}}` out of whole texts, and says what is wrong with them.
    fn with_fields(&mut self, inlines: Vec<Inline>) -> Vec<Inline> {
        let mut out = Vec::with_capacity(inlines.len());
        for inline in inlines {
            match inline {
                Inline::Text { text, span } if text.contains("{{") => {
                    self.cut_fields(&text, span, &mut out);
                }
                other => out.push(other),
            }
        }
        out
    }

    fn cut_fields(&mut self, text: &str, span: Span, out: &mut Vec<Inline>) {
        // Where escapes or entities stand between, only the whole stretch has a known place.
        let exact = self.findings.source().text().get(span.start..span.end) == Some(text);
        for (range, piece) in field::pieces(text) {
            let place = if exact {
                Span::new(span.start + range.start, span.start + range.end)
            } else {
                span
            };
            match piece {
                Piece::Field(Ok(Placeholder { field, fallback })) => {
                    out.push(Inline::Field { field, fallback, span: place });
                }
                Piece::Field(Err(problem)) => {
                    report(self.findings, &problem, place);
                    out.push(Inline::Text { text: text[range].to_owned(), span: place });
                }
                Piece::Text => out.push(Inline::Text { text: text[range].to_owned(), span: place }),
            }
        }
    }

    fn check_fields(&mut self, url: &str, span: Span) {
        for (_, piece) in field::pieces(url) {
            if let Piece::Field(Err(problem)) = piece {
                report(self.findings, &problem, span);
            }
        }
    }

    fn finish(mut self) -> Vec<(Node, Span)> {
        while self.frames.len() > 1 {
            self.close();
        }
        self.frames.pop().map(|root| root.nodes).unwrap_or_default()
    }
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

/// Width and height.
type ImageSize = (Option<u32>, Option<u32>);

/// `{width=600 height=300}` right behind an image, and what follows it.
fn image_size(text: &str) -> Option<(ImageSize, &str)> {
    let (inside, rest) = text.strip_prefix('{')?.split_once('}')?;
    let mut size = (None, None);
    for pair in inside.split_whitespace() {
        let (key, value) = pair.split_once('=')?;
        let value = value.trim_matches('"').trim_end_matches("px").parse().ok()?;
        match key {
            "width" => size.0 = Some(value),
            "height" => size.1 = Some(value),
            _ => return None,
        }
    }
    Some((size, rest))
}

fn literal(inlines: &[Inline]) -> String {
    let text = crate::issue::model::plain(inlines);
    text.replace("\r\n", "\n").replace('\r', "\n").trim_end_matches('\n').to_owned()
}

fn level_of(level: HeadingLevel) -> u8 {
    match level {
        HeadingLevel::H1 => 1,
        HeadingLevel::H2 => 2,
        HeadingLevel::H3 => 3,
        HeadingLevel::H4 => 4,
        HeadingLevel::H5 => 5,
        HeadingLevel::H6 => 6,
    }
}

fn alignment(column: Column) -> Alignment {
    match column {
        Column::None | Column::Left => Alignment::Start,
        Column::Center => Alignment::Centre,
        Column::Right => Alignment::End,
    }
}
