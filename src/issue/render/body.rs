//! The model's text as HTML: for a mail, with the styles that mail clients need on each element, or
//! for a page, bare. Every text and attribute is escaped here, for its place.

use crate::{
    diagnostic::Span,
    issue::{
        brand::Direction,
        field::{self, Piece, Placeholder},
        model::{Alignment, Byline, Inline, Name, Node},
        render::{
            palette::{Mode, Palette},
            weave::Fragment,
        },
    },
    merge::{Escape, Field},
};

/// What a text is dressed for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Dress<'a> {
    /// A mail to one reader.
    Mail(&'a Palette, Direction),
    /// A page or feed for anyone: no reader's data. A link to a reader's own page leads to this
    /// address instead.
    Web(&'a str),
}

/// Writes HTML.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    out: Fragment,
    dress: Dress<'a>,
    /// The level of the heading above, so that none is skipped below it.
    level: u8,
    /// Whether the nearest list is a tight one.
    in_list: bool,
}

/// The width of text in CSS pixels. A wider picture would be cut by Outlook, which knows no max-width.
const COLUMN_WIDTH: u32 = 552;

/// Monospaced fonts that systems have.
const MONO: &str = "ui-monospace,SFMono-Regular,Menlo,Consolas,monospace";

impl<'a> Writer<'a> {
    /// A writer below a heading of `level`.
    pub(crate) fn new(dress: Dress<'a>, level: u8) -> Self {
        Self { out: Fragment::default(), dress, level, in_list: false }
    }

    /// What was written.
    pub(crate) fn finish(self) -> Fragment {
        self.out
    }

    /// Writes blocks of text.
    pub(crate) fn nodes(&mut self, nodes: &[Node]) {
        for node in nodes {
            self.node(node);
        }
    }

    fn node(&mut self, node: &Node) {
        match node {
            Node::Paragraph { content, .. } => {
                self.element("p", "margin:0 0 16px", |w| w.inlines(content));
            }
            Node::Heading { level, content, .. } => self.heading(*level, content),
            Node::Quote { body } => {
                let style = match self.dress {
                    Dress::Mail(palette, direction) => {
                        let (padding, side) = match direction {
                            Direction::Ltr => ("2px 0 2px 16px", "left"),
                            Direction::Rtl => ("2px 16px 2px 0", "right"),
                        };
                        let Mode { rule, muted, .. } = &palette.light;
                        format!(
                            "margin:0 0 16px;padding:{padding};border-{side}:3px solid {rule};\
                             color:{muted}"
                        )
                    }
                    Dress::Web(_) => String::new(),
                };
                let outer = std::mem::replace(&mut self.in_list, false);
                self.element("blockquote", &style, |w| w.last_without_margin(body));
                self.in_list = outer;
            }
            Node::List { start, tight, items } => self.list(*start, *tight, items),
            Node::Code { text, .. } => self.code_block(text),
            Node::Table { columns, head, rows } => self.table(columns, head, rows),
            Node::Rule => match self.dress {
                Dress::Mail(palette, _) => self.raw(&format!(
                    "<hr style=\"margin:0 0 16px;border:0;border-top:1px solid {}\">",
                    palette.light.rule
                )),
                Dress::Web(_) => self.raw("<hr>"),
            },
        }
    }

    /// The level as written stands below a `##`; what comes out never skips one.
    fn heading(&mut self, written: u8, content: &[Inline]) {
        let level = (self.level + written.saturating_sub(2).max(1)).min(self.level + 1).min(6);
        let tag = ["h1", "h2", "h3", "h4", "h5", "h6"][usize::from(level.clamp(1, 6)) - 1];
        let style = "margin:0 0 8px;font-size:17px;line-height:1.35;font-weight:700";
        self.element(tag, style, |w| w.inlines(content));
    }

    fn list(&mut self, start: Option<u64>, tight: bool, items: &[Vec<Node>]) {
        let tag = if start.is_some() { "ol" } else { "ul" };
        let margin = if self.in_list { "margin:4px 0 0" } else { "margin:0 0 16px" };
        let padding = match self.dress {
            Dress::Mail(_, Direction::Rtl) => "0 28px 0 0",
            _ => "0 0 0 28px",
        };
        let style = self.style(&format!("{margin};padding:{padding}"));
        let start = match start {
            None | Some(1) => String::new(),
            Some(first) => format!(" start=\"{first}\""),
        };
        self.raw(&format!("<{tag}{start}{style}>"));
        let gap = if tight { "margin:0 0 4px" } else { "margin:0 0 12px" };
        let outer = std::mem::replace(&mut self.in_list, tight);
        for item in items {
            self.element("li", gap, |w| w.last_without_margin(item));
        }
        self.in_list = outer;
        self.raw(&format!("</{tag}>"));
    }

    /// Text in a box of its own: a lone paragraph needs no element, the last one no space below.
    fn last_without_margin(&mut self, nodes: &[Node]) {
        let Some((last, before)) = nodes.split_last() else { return };
        for (index, node) in before.iter().enumerate() {
            match node {
                // What a tight item says before a list inside it stands as close as the items do.
                Node::Paragraph { content, .. } if self.in_list && index == 0 => {
                    self.inlines(content);
                }
                node => self.node(node),
            }
        }
        match last {
            Node::Paragraph { content, .. } if before.is_empty() => self.inlines(content),
            Node::Paragraph { content, .. } => {
                self.element("p", "margin:0", |w| w.inlines(content));
            }
            other => self.node(other),
        }
    }

    fn code_block(&mut self, text: &str) {
        match self.dress {
            Dress::Mail(palette, _) => self.raw(&format!(
                "<pre style=\"margin:0 0 16px;padding:12px 14px;background:{};border-radius:4px;\
                 font-family:{MONO};font-size:14px;line-height:1.5;white-space:pre-wrap;\
                 overflow-wrap:anywhere\">",
                palette.light.tint
            )),
            Dress::Web(_) => self.raw("<pre><code>"),
        }
        self.text(text);
        self.raw(if matches!(self.dress, Dress::Web(_)) { "</code></pre>" } else { "</pre>" });
    }

    fn table(&mut self, columns: &[Alignment], head: &[Vec<Inline>], rows: &[Vec<Vec<Inline>>]) {
        let style = self.style("margin:0 0 16px;border-collapse:collapse;font-size:15px");
        self.raw(&format!("<table{style}><thead><tr>"));
        self.row("th scope=\"col\"", "th", columns, head);
        self.raw("</tr></thead><tbody>");
        for row in rows {
            self.raw("<tr>");
            self.row("td", "td", columns, row);
            self.raw("</tr>");
        }
        self.raw("</tbody></table>");
    }

    fn row(&mut self, open: &str, close: &str, columns: &[Alignment], cells: &[Vec<Inline>]) {
        let (start, end) = match self.dress {
            Dress::Mail(_, Direction::Ltr) => ("left", "right"),
            Dress::Mail(_, Direction::Rtl) => ("right", "left"),
            Dress::Web(_) => ("start", "end"),
        };
        for (index, cell) in cells.iter().enumerate() {
            let align = match columns.get(index) {
                Some(Alignment::Centre) => "center",
                Some(Alignment::End) => end,
                _ => start,
            };
            let style = match self.dress {
                Dress::Mail(palette, _) => format!(
                    " style=\"padding:6px 10px;border:1px solid {};text-align:{align}\"",
                    palette.light.rule
                ),
                Dress::Web(_) if align == "start" => String::new(),
                Dress::Web(_) => format!(" style=\"text-align:{align}\""),
            };
            self.raw(&format!("<{open}{style}>"));
            self.inlines(cell);
            self.raw(&format!("</{close}>"));
        }
    }

    /// Writes text of a line.
    pub(crate) fn inlines(&mut self, content: &[Inline]) {
        for inline in content {
            self.inline(inline);
        }
    }

    fn inline(&mut self, inline: &Inline) {
        match inline {
            Inline::Text { text, .. } => self.text(text),
            Inline::Code { text } => {
                let style = match self.dress {
                    Dress::Mail(palette, _) => format!(
                        "padding:1px 4px;background:{};border-radius:3px;font-family:{MONO};\
                         font-size:14px",
                        palette.light.tint
                    ),
                    Dress::Web(_) => String::new(),
                };
                self.element("code", &style, |w| w.text(text));
            }
            Inline::Emphasis { content } => self.element("em", "", |w| w.inlines(content)),
            Inline::Strong { content } => self.element("strong", "", |w| w.inlines(content)),
            Inline::Strike { content } => self.element("s", "", |w| w.inlines(content)),
            Inline::Link { url, content, .. } => self.link(url, content),
            Inline::Image { url, alt, width, height, .. } => self.image(url, alt, *width, *height),
            Inline::Field { field, fallback, .. } => self.field(field, fallback.as_deref()),
            Inline::SoftBreak => self.raw("\n"),
            Inline::HardBreak => self.raw("<br>"),
        }
    }

    fn link(&mut self, url: &str, content: &[Inline]) {
        if !is_web_or_mail(url) {
            // The lint says so; what is not a link for sure does not become one.
            self.inlines(content);
            return;
        }
        self.raw("<a href=\"");
        self.url(url);
        match self.dress {
            Dress::Mail(palette, _) => {
                self.raw(&format!("\" style=\"color:{}\">", palette.light.link));
            }
            Dress::Web(_) => self.raw("\">"),
        }
        self.inlines(content);
        self.raw("</a>");
    }

    fn image(&mut self, url: &str, alt: &str, width: Option<u32>, height: Option<u32>) {
        if !is_web_or_mail(url) {
            self.text(alt);
            return;
        }
        self.raw("<img src=\"");
        self.url(url);
        self.raw("\" alt=\"");
        self.text(alt);
        self.raw("\"");
        let (width, height) = match (width, height) {
            (Some(wide @ COLUMN_WIDTH..), Some(high)) => {
                let scaled = u64::from(high) * u64::from(COLUMN_WIDTH) / u64::from(wide);
                (Some(COLUMN_WIDTH), Some(scaled as u32))
            }
            (width, height) => (width.map(|width| width.min(COLUMN_WIDTH)), height),
        };
        for (name, value) in [("width", width), ("height", height)] {
            if let Some(value) = value {
                self.raw(&format!(" {name}=\"{value}\""));
            }
        }
        let style =
            self.style("display:block;max-width:100%;height:auto;border:0;border-radius:4px");
        self.raw(&format!("{style}>"));
    }

    /// Writes the value of an attribute that is a URL.
    pub(crate) fn url(&mut self, url: &str) {
        for (range, piece) in field::pieces(url) {
            match piece {
                Piece::Field(Ok(Placeholder { field, fallback })) => {
                    let escape =
                        if field::is_url(&field) { Escape::Html } else { Escape::UrlComponent };
                    match self.dress {
                        Dress::Mail(..) => self.out.slot(field, escape, fallback),
                        Dress::Web(home) if field::is_url(&field) => self.text(home),
                        Dress::Web(_) => {
                            let value = fallback.unwrap_or_default();
                            self.raw(&escape.apply(value.into()));
                        }
                    }
                }
                _ => self.text(&ascii_url(&url[range])),
            }
        }
    }

    fn field(&mut self, field: &Field, fallback: Option<&str>) {
        match self.dress {
            Dress::Mail(..) => {
                self.out.slot(field.clone(), Escape::Html, fallback.map(str::to_owned));
            }
            Dress::Web(home) if field::is_url(field) => self.text(home),
            Dress::Web(_) => self.text(fallback.unwrap_or("your address")),
        }
    }

    /// Writes a byline: names, and where they wrote.
    pub(crate) fn byline(&mut self, byline: &Byline) {
        let last = byline.authors.len().saturating_sub(1);
        for (index, author) in byline.authors.iter().enumerate() {
            let before = match (index, last) {
                (0, _) => "",
                (1, 1) => " and ",
                (index, last) if index == last => ", and ",
                _ => ", ",
            };
            self.text(before);
            self.name(author);
        }
        if let Some(organisation) = &byline.organisation {
            if !byline.authors.is_empty() {
                self.text(" — ");
            }
            self.name(organisation);
        }
    }

    fn name(&mut self, name: &Name) {
        match &name.url {
            Some(url) => {
                let text = Inline::Text { text: name.name.clone(), span: Span::default() };
                self.link(url, &[text]);
            }
            None => self.text(&name.name),
        }
    }

    fn element(&mut self, tag: &str, style: &str, content: impl FnOnce(&mut Self)) {
        let style = self.style(style);
        self.raw(&format!("<{tag}{style}>"));
        content(self);
        self.raw(&format!("</{tag}>"));
    }

    fn style(&self, style: &str) -> String {
        match self.dress {
            Dress::Mail(..) if !style.is_empty() => format!(" style=\"{style}\""),
            _ => String::new(),
        }
    }

    fn raw(&mut self, html: &str) {
        self.out.push(html);
    }

    /// Writes text, escaped for text and quoted attributes alike.
    pub(crate) fn text(&mut self, text: &str) {
        self.out.push(&escape(text));
    }
}

/// Text as HTML, for element content and quoted attributes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 16);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// Whether a mail may link there: https, http or mailto, or a reader field that is a whole URL.
pub(crate) fn is_web_or_mail(url: &str) -> bool {
    let scheme = url.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase());
    matches!(scheme.as_deref(), Some("https" | "http" | "mailto")) || is_url_field(url)
}

/// Whether the URL is a single reader field such as `{{issue_url}}`.
fn is_url_field(url: &str) -> bool {
    matches!(
        field::pieces(url).as_slice(),
        [(_, Piece::Field(Ok(placeholder)))] if field::is_url(&placeholder.field)
    )
}

/// The URL with everything outside of ASCII, and spaces and quotes, percent-encoded.
pub(crate) fn ascii_url(url: &str) -> String {
    let mut out = String::with_capacity(url.len());
    for c in url.chars() {
        if c.is_ascii_graphic() && !matches!(c, '"' | '<' | '>' | '\\' | '^' | '`' | '|') {
            out.push(c);
        } else {
            let mut utf8 = [0; 4];
            out.push_str(&Escape::UrlComponent.apply((&*c.encode_utf8(&mut utf8)).into()));
        }
    }
    out
}
