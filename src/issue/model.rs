//! The typed issue: what the mail, its text part, the archive page, the feed and the API all render
//! from. It holds no HTML and no Markdown, only structure and text as it was meant.
//!
//! Spans point into the source file for the lint; they are not part of the stored or published
//! form.

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::{diagnostic::Span, merge::Field};

/// One edition of a newsletter.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct IssueDocument {
    /// The number readers know it by.
    pub number: Option<u32>,
    /// The day it is dated.
    pub date: Option<Date>,
    /// The subject line; without one the newsletter's pattern makes it.
    pub subject: Option<String>,
    /// The line mail clients show beside the subject.
    pub preheader: Option<String>,
    /// The headline; without one the newsletter's name and the number stand there.
    pub title: Option<String>,
    /// The last part of its address in the archive.
    pub slug: Option<String>,
    /// Language (BCP 47), where it differs from the newsletter's.
    pub language: Option<String>,
    /// What it says.
    pub content: Content,
}

/// What an issue says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "format", rename_all = "snake_case")]
pub enum Content {
    /// Written in Markdown.
    Markdown {
        /// The parts in order.
        blocks: Vec<Block>,
    },
    /// A body made by hand as an MJML document.
    Mjml {
        /// The MJML source, with reader fields as `{{…}}`.
        body: String,
    },
    /// A body made by hand as an HTML document.
    Html {
        /// The HTML source, with reader fields as `{{…}}`.
        body: String,
    },
}

impl Default for Content {
    fn default() -> Self {
        Self::Markdown { blocks: Vec::new() }
    }
}

/// A part of an issue.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Block {
    /// What stands before everything else.
    Introduction {
        /// The text.
        body: Vec<Node>,
    },
    /// A heading under which items stand, and text of its own.
    Section {
        /// The heading.
        title: Vec<Inline>,
        /// What stands between the heading and the first item.
        body: Vec<Node>,
        /// Where the heading stands in the file.
        #[serde(skip)]
        span: Span,
    },
    /// An annotated link.
    Item(Item),
    /// A labelled paid block.
    Sponsor(Sponsor),
    /// Text that belongs to no item.
    Prose {
        /// Its heading, where it has one.
        title: Option<Vec<Inline>>,
        /// The text.
        body: Vec<Node>,
        /// Where it begins in the file.
        #[serde(skip)]
        span: Span,
    },
}

/// An annotated link.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// The title, which is the link's text.
    pub title: Vec<Inline>,
    /// Where it leads; may hold reader fields as `{{…}}`.
    pub url: String,
    /// The commentary.
    pub body: Vec<Node>,
    /// Who made what it links to.
    pub byline: Option<Byline>,
    /// The editor's own interest in it.
    pub disclosure: Option<Vec<Inline>>,
    /// Where the heading stands in the file.
    #[serde(skip)]
    pub span: Span,
}

/// A labelled paid block.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sponsor {
    /// Who pays.
    pub name: String,
    /// The message.
    pub body: Vec<Node>,
    /// Where it stands in the file.
    #[serde(skip)]
    pub span: Span,
}

/// Who made what an item links to. A lone name is kept as an author: nothing tells a company from a
/// person; `— — Organisation` says it outright.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Byline {
    /// The people, in order.
    pub authors: Vec<Name>,
    /// Where they wrote it.
    pub organisation: Option<Name>,
    /// Where it stands in the file.
    #[serde(skip)]
    pub span: Span,
}

/// A name, and a page about its bearer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    /// The name.
    pub name: String,
    /// The page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
}

/// A block of text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Node {
    /// A paragraph.
    Paragraph {
        /// Its text.
        content: Vec<Inline>,
        /// Where it stands in the file.
        #[serde(skip)]
        span: Span,
    },
    /// A heading inside a body.
    Heading {
        /// The level as written, 1 to 6.
        level: u8,
        /// Its text.
        content: Vec<Inline>,
        /// Where it stands in the file.
        #[serde(skip)]
        span: Span,
    },
    /// A quotation.
    Quote {
        /// What is quoted.
        body: Vec<Node>,
    },
    /// A list.
    List {
        /// The first number of a numbered list.
        start: Option<u64>,
        /// Whether its items stand without space between them.
        tight: bool,
        /// The items.
        items: Vec<Vec<Node>>,
    },
    /// A block of code or other text whose spaces matter.
    Code {
        /// What language it is in, if it says.
        language: Option<String>,
        /// The text, lines ended by LF.
        text: String,
        /// Where it stands in the file.
        #[serde(skip)]
        span: Span,
    },
    /// A table of data.
    Table {
        /// How each column is aligned.
        columns: Vec<Alignment>,
        /// The cells of the head.
        head: Vec<Vec<Inline>>,
        /// The cells of each row.
        rows: Vec<Vec<Vec<Inline>>>,
    },
    /// A line across.
    Rule,
}

/// How a column of a table is aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alignment {
    /// At the start of the line.
    Start,
    /// In the middle.
    Centre,
    /// At the end of the line.
    End,
}

/// A stretch of text in a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Inline {
    /// Plain text.
    Text {
        /// The text.
        text: String,
        /// Where it stands in the file.
        #[serde(skip)]
        span: Span,
    },
    /// Code in a line.
    Code {
        /// The text.
        text: String,
    },
    /// Emphasised text.
    Emphasis {
        /// What is emphasised.
        content: Vec<Inline>,
    },
    /// Strong text.
    Strong {
        /// What is strong.
        content: Vec<Inline>,
    },
    /// Struck text.
    Strike {
        /// What is struck.
        content: Vec<Inline>,
    },
    /// A link.
    Link {
        /// Where it leads; may hold reader fields as `{{…}}`.
        url: String,
        /// Its text.
        content: Vec<Inline>,
        /// Where it stands in the file.
        #[serde(skip)]
        span: Span,
    },
    /// An image.
    Image {
        /// Where it is fetched from.
        url: String,
        /// What stands for it where it is not shown.
        alt: String,
        /// Width in CSS pixels.
        width: Option<u32>,
        /// Height in CSS pixels.
        height: Option<u32>,
        /// Where it stands in the file.
        #[serde(skip)]
        span: Span,
    },
    /// A reader's datum.
    Field {
        /// Which one.
        field: Field,
        /// What stands there for a reader without it.
        fallback: Option<String>,
        /// Where it stands in the file.
        #[serde(skip)]
        span: Span,
    },
    /// A line end of the source that means no more than a space.
    SoftBreak,
    /// A line end that was asked for.
    HardBreak,
}

impl IssueDocument {
    /// The parts of an issue written in Markdown; a body made by hand has none.
    pub fn blocks(&self) -> &[Block] {
        match &self.content {
            Content::Markdown { blocks } => blocks,
            Content::Mjml { .. } | Content::Html { .. } => &[],
        }
    }

    /// The last part of its address in the archive: its slug, its number, or what is left of its
    /// title.
    pub fn slug(&self) -> String {
        if let Some(slug) = &self.slug {
            return slug.clone();
        }
        if let Some(number) = self.number {
            return number.to_string();
        }
        let title = self.title.as_deref().unwrap_or_default().to_lowercase();
        let words =
            title.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let slug: String = words.take(12).collect::<Vec<_>>().join("-").chars().take(100).collect();
        if slug.is_empty() { "issue".to_owned() } else { slug }
    }

    /// The annotated links in order.
    pub fn items(&self) -> impl Iterator<Item = &Item> {
        self.blocks().iter().filter_map(|block| match block {
            Block::Item(item) => Some(item),
            _ => None,
        })
    }

    /// Every stretch of text in the order of the issue, nested ones after what holds them.
    pub fn each_inline<'a>(&'a self, visit: &mut impl FnMut(&'a Inline)) {
        for block in self.blocks() {
            block.each_inline(visit);
        }
    }
}

impl Block {
    /// Every stretch of text of this block.
    pub fn each_inline<'a>(&'a self, visit: &mut impl FnMut(&'a Inline)) {
        match self {
            Self::Introduction { body } => each_in_nodes(body, visit),
            Self::Section { title, body, .. } => {
                each_in(title, visit);
                each_in_nodes(body, visit);
            }
            Self::Item(item) => {
                each_in(&item.title, visit);
                each_in_nodes(&item.body, visit);
                each_in(item.disclosure.iter().flatten(), visit);
            }
            Self::Sponsor(sponsor) => each_in_nodes(&sponsor.body, visit),
            Self::Prose { title, body, .. } => {
                each_in(title.iter().flatten(), visit);
                each_in_nodes(body, visit);
            }
        }
    }

    /// The text nodes of this block, without titles.
    pub fn body(&self) -> &[Node] {
        match self {
            Self::Introduction { body }
            | Self::Section { body, .. }
            | Self::Prose { body, .. }
            | Self::Item(Item { body, .. })
            | Self::Sponsor(Sponsor { body, .. }) => body,
        }
    }
}

/// Every stretch of text in `nodes`.
pub fn each_in_nodes<'a>(nodes: &'a [Node], visit: &mut impl FnMut(&'a Inline)) {
    for node in nodes {
        match node {
            Node::Paragraph { content, .. } | Node::Heading { content, .. } => {
                each_in(content, visit);
            }
            Node::Quote { body } => each_in_nodes(body, visit),
            Node::List { items, .. } => items.iter().for_each(|item| each_in_nodes(item, visit)),
            Node::Table { head, rows, .. } => {
                for cell in head.iter().chain(rows.iter().flatten()) {
                    each_in(cell, visit);
                }
            }
            Node::Code { .. } | Node::Rule => {}
        }
    }
}

/// Every stretch of text in `content`, those inside others too.
pub fn each_in<'a>(
    content: impl IntoIterator<Item = &'a Inline>,
    visit: &mut impl FnMut(&'a Inline),
) {
    for inline in content {
        visit(inline);
        match inline {
            Inline::Emphasis { content }
            | Inline::Strong { content }
            | Inline::Strike { content }
            | Inline::Link { content, .. } => each_in(content, visit),
            _ => {}
        }
    }
}

/// The text of `content` without its dress; a reader field is its fallback.
pub fn plain(content: &[Inline]) -> String {
    let mut out = String::new();
    each_in(content, &mut |inline| match inline {
        Inline::Text { text, .. } | Inline::Code { text } => out.push_str(text),
        Inline::Image { alt, .. } => out.push_str(alt),
        Inline::Field { fallback, .. } => out.push_str(fallback.as_deref().unwrap_or_default()),
        Inline::SoftBreak | Inline::HardBreak => out.push(' '),
        _ => {}
    });
    out
}

/// Where `content` stands in the file, as far as its parts say.
pub fn span_of(content: &[Inline]) -> Option<Span> {
    let mut all: Option<Span> = None;
    each_in(content, &mut |inline| match inline {
        Inline::Text { span, .. }
        | Inline::Link { span, .. }
        | Inline::Image { span, .. }
        | Inline::Field { span, .. } => all = Some(all.map_or(*span, |seen| seen.with(*span))),
        _ => {}
    });
    all
}
