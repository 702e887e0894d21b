//! Folds the flat run of Markdown events into a tree of nodes.

use std::ops::Range;

use pulldown_cmark::{Alignment as Column, CodeBlockKind, Event, HeadingLevel, LinkType, Tag};

use crate::{
    diagnostic::{Findings, Span},
    issue::{
        field::{self, Piece, Placeholder},
        model::{Alignment, Inline, Node, plain, span_of},
        rule,
        source::markdown::{DEPTH_MAX, report},
    },
};

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
            let span = span_of(&content).unwrap_or(self.span);
            self.nodes.push((Node::Paragraph { content, span }, span));
        }
    }

    fn body(&mut self) -> Vec<Node> {
        self.close_line();
        std::mem::take(&mut self.nodes).into_iter().map(|(node, _)| node).collect()
    }
}

/// The blocks read so far, and the elements that are open.
pub(super) struct Tree<'a, 'f> {
    findings: &'f mut Findings<'a>,
    start: usize,
    frames: Vec<Frame>,
    /// How many open tags beyond the deepest are being skipped.
    too_deep: usize,
    told_deep: bool,
}

impl<'a, 'f> Tree<'a, 'f> {
    /// An empty tree for a body that begins at byte `start` of the source.
    pub(super) fn new(findings: &'f mut Findings<'a>, start: usize) -> Self {
        Self { findings, start, frames: vec![Frame::root()], too_deep: 0, told_deep: false }
    }

    /// Takes the next event.
    pub(super) fn take(&mut self, event: Event<'_>, range: Range<usize>) {
        let span = Span::new(range.start + self.start, range.end + self.start);
        match event {
            Event::Start(tag) => self.open(tag, span),
            Event::End(_) if self.too_deep > 0 => self.too_deep -= 1,
            Event::End(_) => self.close(),
            _ if self.too_deep > 0 => {}
            Event::Code(text) => {
                self.inline(Inline::Code { text: text.replace(['\r', '\n'], " ") });
            }
            // A block of HTML comes in lines, and is judged when it is whole.
            Event::Text(text) | Event::Html(text) => self.text(&text, span),
            Event::InlineHtml(text) => self.html(&text, span),
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
            Open::Html => self.html_block(&frame, span),
            Open::Paragraph => {
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
                let alt = plain(&frame.inlines).trim().to_owned();
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
        let without_comments = strip_comments(text);
        let shown = without_comments.trim();
        if shown.is_empty() {
            return;
        }
        let first_line = shown.lines().next().unwrap_or_default();
        // Behind leading comments the place of the rest is not kept; the block's own will do.
        let at = text.find(first_line).map_or(span.start, |at| span.start + at);
        let begin: String = first_line.chars().take(40).collect();
        self.findings
            .add(
                rule::HTML_IN_MARKDOWN,
                Span::new(at, at + first_line.len()),
                format!("HTML does not pass through: `{begin}`"),
            )
            .suggest(
                "write it in Markdown, or put it in `code`; \
                 for a body made by hand see `format: html`",
            );
        self.text(shown, span);
    }

    fn html_block(&mut self, frame: &Frame, span: Span) {
        let text = plain(&frame.inlines);
        self.open(Tag::Paragraph, span);
        self.html(&text, span);
        self.close();
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

    /// The blocks of the top level with their places.
    pub(super) fn finish(mut self) -> Vec<(Node, Span)> {
        while self.frames.len() > 1 {
            self.close();
        }
        self.frames.pop().map(|root| root.nodes).unwrap_or_default()
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

/// The text without `<!-- … -->`; one that is not closed goes to the end.
fn strip_comments(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("<!--") {
        out.push_str(before);
        rest = after.split_once("-->").map_or("", |(_, behind)| behind);
    }
    out + rest
}

fn literal(inlines: &[Inline]) -> String {
    let text = plain(inlines);
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
