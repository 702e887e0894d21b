//! Plain text: the model's text wrapped for a screen of any width, with every link kept as a numbered
//! note below its block, quotes marked with `>` and code left as it is.

use crate::{
    diagnostic::Span,
    issue::{
        field::{self, Piece, Placeholder},
        model::{Byline, Inline, Name, Node, plain},
        render::weave::Fragment,
    },
    merge::Escape,
};

mod from_html;

pub(crate) use from_html::from_html;

/// The width that lines are wrapped at, in characters (RFC 5322, 2.1.1 asks for at most 78).
const WIDTH: usize = 72;

/// The room a reader field is taken to need: its value is not known yet.
const FIELD_WIDTH: usize = 16;

/// Writes plain text with notes that are numbered through the whole issue.
#[derive(Debug, Default)]
pub(crate) struct TextWriter {
    notes: usize,
}

/// A word or a reader field glued to its neighbours, and how wide it is.
#[derive(Debug, Default)]
struct Word {
    text: Fragment,
    width: usize,
    /// Whether a line must end after it.
    breaks: bool,
}

/// Text being laid out: finished lines, and the links met on the way.
struct Layout<'w> {
    out: Fragment,
    writer: &'w mut TextWriter,
    links: Vec<(usize, Fragment)>,
}

impl TextWriter {
    /// Blocks of text, wrapped, with their links below.
    pub(crate) fn nodes(&mut self, nodes: &[Node]) -> Fragment {
        let mut layout = Layout { out: Fragment::default(), writer: self, links: Vec::new() };
        layout.nodes(nodes, "", "", false);
        layout.finish()
    }

    /// One paragraph.
    pub(crate) fn paragraph(&mut self, content: &[Inline]) -> Fragment {
        let mut layout = Layout { out: Fragment::default(), writer: self, links: Vec::new() };
        layout.paragraph(content, "", "");
        layout.finish()
    }

    /// A byline with its links below.
    pub(crate) fn byline(&mut self, byline: &Byline) -> Fragment {
        let mut content = vec![text("— ")];
        let last = byline.authors.len().saturating_sub(1);
        for (index, author) in byline.authors.iter().enumerate() {
            content.push(text(match (index, last) {
                (0, _) => "",
                (1, 1) => " and ",
                (index, last) if index == last => ", and ",
                _ => ", ",
            }));
            content.push(name(author));
        }
        if let Some(organisation) = &byline.organisation {
            content.push(text(if byline.authors.is_empty() { "" } else { " — " }));
            content.push(name(organisation));
        }
        self.paragraph(&content)
    }
}

fn text(text: &str) -> Inline {
    Inline::Text { text: text.to_owned(), span: Span::default() }
}

fn name(name: &Name) -> Inline {
    match &name.url {
        Some(url) => Inline::Link {
            url: url.clone(),
            content: vec![text(&name.name)],
            span: Span::default(),
        },
        None => text(&name.name),
    }
}

impl Layout<'_> {
    fn finish(mut self) -> Fragment {
        if !self.links.is_empty() {
            self.out.push("\n");
            for (number, url) in std::mem::take(&mut self.links) {
                self.out.push(&format!("\n[{number}] "));
                self.out.append(&url);
            }
        }
        self.out
    }

    /// `first` opens the first line and `rest` every other one.
    fn nodes(&mut self, nodes: &[Node], first: &str, rest: &str, tight: bool) {
        let mut lead = first;
        for (index, node) in nodes.iter().enumerate() {
            if index > 0 {
                self.out.push("\n");
                if !tight {
                    self.out.push(rest.trim_end());
                    self.out.push("\n");
                }
            }
            self.node(node, lead, rest);
            lead = rest;
        }
        if nodes.is_empty() {
            self.out.push(first.trim_end());
        }
    }

    fn node(&mut self, node: &Node, first: &str, rest: &str) {
        match node {
            Node::Paragraph { content, .. } => self.paragraph(content, first, rest),
            Node::Heading { content, .. } => {
                self.paragraph(content, first, rest);
                let length = plain(content).trim().chars().count().min(WIDTH);
                self.out.push(&format!("\n{rest}{}", "-".repeat(length.max(3))));
            }
            Node::Quote { body } => {
                self.nodes(body, &format!("{first}> "), &format!("{rest}> "), false);
            }
            Node::List { start, tight, items } => self.list(*start, *tight, items, first, rest),
            Node::Code { text, .. } => {
                for (index, line) in text.split('\n').enumerate() {
                    let lead = if index == 0 { first } else { rest };
                    let newline = if index == 0 { "" } else { "\n" };
                    self.out.push(newline);
                    self.out.push(format!("{lead}    {line}").trim_end());
                }
            }
            Node::Table { head, rows, .. } => self.table(head, rows, first, rest),
            Node::Rule => self.out.push(&format!("{first}* * *")),
        }
    }

    fn list(
        &mut self,
        start: Option<u64>,
        tight: bool,
        items: &[Vec<Node>],
        first: &str,
        rest: &str,
    ) {
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.out.push("\n");
                if !tight {
                    self.out.push(rest.trim_end());
                    self.out.push("\n");
                }
            }
            let mark = match start {
                Some(number) => format!(" {}. ", number.saturating_add(index as u64)),
                None => " * ".to_owned(),
            };
            let lead = if index == 0 { first } else { rest };
            let under = format!("{rest}{}", " ".repeat(mark.len()));
            self.nodes(item, &format!("{lead}{mark}"), &under, tight);
        }
    }

    /// A table as one line a row, cells named by their column.
    fn table(&mut self, head: &[Vec<Inline>], rows: &[Vec<Vec<Inline>>], first: &str, rest: &str) {
        for (number, row) in rows.iter().enumerate() {
            if number > 0 {
                self.out.push("\n");
            }
            let mut content = Vec::new();
            for (index, cell) in row.iter().enumerate() {
                if index > 0 {
                    content.push(text("; "));
                }
                if let Some(name) =
                    head.get(index).map(|name| plain(name)).filter(|n| !n.is_empty())
                {
                    content.push(text(&format!("{name}: ")));
                }
                content.extend(cell.iter().cloned());
            }
            let lead = if number == 0 { first } else { rest };
            self.paragraph(&content, &format!("{lead} * "), &format!("{rest}   "));
        }
    }

    fn paragraph(&mut self, content: &[Inline], first: &str, rest: &str) {
        let mut words = vec![Word::default()];
        self.words(content, &mut words);
        self.wrap(words, first, rest);
    }

    /// Fills lines with words; a word longer than a line stands alone, whole.
    fn wrap(&mut self, words: Vec<Word>, first: &str, rest: &str) {
        self.out.push(first);
        let mut width = first.chars().count();
        let mut fresh = true;
        let mut break_before = false;
        for word in words {
            if word.text.is_empty() {
                break_before |= word.breaks;
                continue;
            }
            if !fresh && (break_before || width + 1 + word.width > WIDTH) {
                self.out.push("\n");
                self.out.push(rest);
                width = rest.chars().count();
                fresh = true;
            }
            if !fresh {
                self.out.push(" ");
                width += 1;
            }
            self.out.append(&word.text);
            width += word.width;
            fresh = false;
            break_before = word.breaks;
        }
    }

    fn words(&mut self, content: &[Inline], words: &mut Vec<Word>) {
        for inline in content {
            match inline {
                Inline::Text { text, .. } => add_text(words, text),
                Inline::Code { text } => add_text(words, &format!("`{text}`")),
                Inline::Emphasis { content } => self.marked(content, "_", words),
                Inline::Strong { content } => self.marked(content, "*", words),
                Inline::Strike { content } => self.marked(content, "~", words),
                Inline::Link { url, content, .. } => self.link(url, content, words),
                Inline::Image { url, alt, .. } => {
                    let shown = if alt.is_empty() { "image" } else { alt };
                    let note = self.note(url);
                    add_text(words, &format!("[{shown}] [{note}]"));
                }
                Inline::Field { field, fallback, .. } => {
                    let word = current(words);
                    word.text.slot(field.clone(), Escape::Text, fallback.clone());
                    word.width += FIELD_WIDTH;
                }
                Inline::SoftBreak => words.push(Word::default()),
                Inline::HardBreak => {
                    current(words).breaks = true;
                    words.push(Word::default());
                }
            }
        }
    }

    fn marked(&mut self, content: &[Inline], mark: &str, words: &mut Vec<Word>) {
        add_text(words, mark);
        self.words(content, words);
        add_text(words, mark);
    }

    /// A link whose text is its address stands as it is; another gets a note.
    fn link(&mut self, url: &str, content: &[Inline], words: &mut Vec<Word>) {
        let shown = plain(content);
        let target = url.strip_prefix("mailto:").unwrap_or(url);
        if shown == target {
            let word = current(words);
            word.width += target.chars().count();
            word.text.append(&url_text(target));
            return;
        }
        self.words(content, words);
        let note = self.note(url);
        add_text(words, &format!(" [{note}]"));
    }

    fn note(&mut self, url: &str) -> usize {
        self.writer.notes += 1;
        self.links.push((self.writer.notes, url_text(url)));
        self.writer.notes
    }
}

/// A URL in plain text.
pub(crate) fn url_text(url: &str) -> Fragment {
    let mut out = Fragment::default();
    for (range, piece) in field::pieces(url) {
        match piece {
            Piece::Field(Ok(Placeholder { field, fallback })) => {
                let escape =
                    if field::is_url(&field) { Escape::Text } else { Escape::UrlComponent };
                out.slot(field, escape, fallback);
            }
            _ => out.push(&crate::issue::render::body::ascii_url(&url[range])),
        }
    }
    out
}

fn current(words: &mut Vec<Word>) -> &mut Word {
    if words.is_empty() {
        words.push(Word::default());
    }
    let last = words.len() - 1;
    &mut words[last]
}

fn add_text(words: &mut Vec<Word>, text: &str) {
    for (index, piece) in text.split([' ', '\n', '\t']).enumerate() {
        if index > 0 {
            words.push(Word::default());
        }
        let word = current(words);
        word.text.push(piece);
        word.width += piece.chars().count();
    }
}
