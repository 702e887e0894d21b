//! What a template sees: names for values, where every value that is content is only a marker.

use serde_json::{Map, Value, json};

use crate::{
    issue::{
        brand::{Brand, Direction, long_date},
        model::{Block, Inline, IssueDocument, Item, Node, plain},
        render::{
            body::{Dress, Writer, escape, is_web_or_mail},
            palette::Palette,
            weave::{Fragment, Weave},
        },
        text::{self, TextWriter},
    },
    merge::{Escape, Field},
};

/// What is being made.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target<'a> {
    /// The HTML part of a mail.
    Mail(&'a Palette),
    /// The text part of a mail.
    Text,
    /// A page for anyone, with the newsletter's home page.
    Web(&'a str),
}

/// Turns content into markers.
pub(crate) struct Markers<'w, 'a> {
    weave: &'w mut Weave,
    target: Target<'a>,
    direction: Direction,
    text: TextWriter,
}

impl<'w, 'a> Markers<'w, 'a> {
    /// Markers of `weave` for text that runs in `direction`.
    pub(crate) fn new(weave: &'w mut Weave, target: Target<'a>, direction: Direction) -> Self {
        Self { weave, target, direction, text: TextWriter::default() }
    }

    /// A plain text, escaped for the target.
    pub(crate) fn plain(&mut self, text: &str) -> Value {
        let fragment = match self.target {
            Target::Text => Fragment::literal(text),
            Target::Mail(_) | Target::Web(_) => Fragment::literal(&escape(text)),
        };
        self.marker(fragment)
    }

    /// A plain text, or null.
    pub(crate) fn optional(&mut self, text: Option<&str>) -> Value {
        text.filter(|text| !text.is_empty()).map_or(Value::Null, |text| self.plain(text))
    }

    /// A reader's datum that stands alone.
    pub(crate) fn slot(&mut self, field: Field) -> Value {
        let escape = match self.target {
            Target::Text => Escape::Text,
            Target::Mail(_) | Target::Web(_) => Escape::Html,
        };
        let mut fragment = Fragment::default();
        fragment.slot(field, escape, None);
        self.marker(fragment)
    }

    fn marker(&mut self, fragment: Fragment) -> Value {
        Value::String(self.weave.marker(fragment))
    }

    fn writer(&self, level: u8) -> Option<Writer<'a>> {
        match self.target {
            Target::Mail(palette) => Some(Writer::new(Dress::Mail(palette, self.direction), level)),
            Target::Web(home) => Some(Writer::new(Dress::Web(home), level)),
            Target::Text => None,
        }
    }

    fn written(&mut self, level: u8, write: impl FnOnce(&mut Writer<'a>)) -> Option<Value> {
        let mut writer = self.writer(level)?;
        write(&mut writer);
        Some(self.marker(writer.finish()))
    }

    fn nodes(&mut self, nodes: &[Node], level: u8) -> Value {
        if nodes.is_empty() {
            return Value::Null;
        }
        if let Some(marker) = self.written(level, |writer| writer.nodes(nodes)) {
            return marker;
        }
        let fragment = self.text.nodes(nodes);
        self.marker(fragment)
    }

    fn line(&mut self, content: &[Inline]) -> Value {
        if let Some(marker) = self.written(1, |writer| writer.inlines(content)) {
            return marker;
        }
        let fragment = self.text.paragraph(content);
        self.marker(fragment)
    }

    fn url(&mut self, url: &str) -> Value {
        let url = if is_web_or_mail(url) { url } else { "#" };
        if let Some(marker) = self.written(1, |writer| writer.url(url)) {
            return marker;
        }
        self.marker(text::url_text(url))
    }

    fn byline(&mut self, item: &Item) -> Value {
        let Some(byline) = &item.byline else { return Value::Null };
        if let Some(marker) = self.written(1, |writer| writer.byline(byline)) {
            return marker;
        }
        let fragment = self.text.byline(byline);
        self.marker(fragment)
    }
}

/// What stands around every mail.
pub(crate) fn frame(
    markers: &mut Markers<'_, '_>,
    brand: &Brand,
    palette: &Palette,
) -> Map<String, Value> {
    let logo = brand.logo.as_ref().map_or(Value::Null, |logo| {
        json!({ "url": markers.plain(&logo.url), "width": logo.width, "height": logo.height })
    });
    let start = match brand.direction {
        Direction::Ltr => "left",
        Direction::Rtl => "right",
    };
    let site_name = brand.site_url.split("://").last().unwrap_or_default().trim_end_matches('/');
    let mut frame = Map::new();
    for (name, value) in [
        ("newsletter", markers.plain(&brand.name)),
        ("description", markers.optional(brand.description.as_deref())),
        ("site_url", markers.plain(&brand.site_url)),
        ("site_name", markers.plain(site_name)),
        ("postal_address", markers.optional(brand.postal_address.as_deref())),
        ("direction", json!(brand.direction.as_str())),
        ("start", json!(start)),
        ("logo", logo),
        ("palette", json!(palette)),
        ("reader", Value::Null),
        ("preheader", Value::Null),
        // Fills the rest of the line that clients show, so that no other text gets there.
        ("preheader_filler", json!(vec![true; 40])),
    ] {
        frame.insert(name.to_owned(), value);
    }
    frame
}

/// An issue as a template sees it.
pub(crate) fn issue(
    weave: &mut Weave,
    document: &IssueDocument,
    brand: &Brand,
    palette: &Palette,
    target: Target<'_>,
) -> Value {
    let mut markers = Markers::new(weave, target, brand.direction);
    let mut view = frame(&mut markers, brand, palette);
    let headline = brand.headline(document);
    let dateline = dateline(document, brand, matches!(target, Target::Text));
    let language = document.language.as_deref().unwrap_or(&brand.language);
    let reader = json!({
        "address": markers.slot(Field::Address),
        "unsubscribe": markers.slot(Field::UnsubscribeUrl),
        "preferences": markers.slot(Field::PreferencesUrl),
        "issue": markers.slot(Field::IssueUrl),
    });
    for (name, value) in [
        ("template", json!("issue")),
        ("language", json!(language)),
        ("title", markers.plain(&headline)),
        ("headline", markers.plain(&headline)),
        ("headline_rule", json!(rule('=', &headline))),
        ("dateline", markers.optional(Some(&dateline))),
        ("preheader", markers.optional(document.preheader.as_deref())),
        ("reader", reader),
        ("blocks", Value::Array(blocks(&mut markers, document))),
    ] {
        view.insert(name.to_owned(), value);
    }
    Value::Object(view)
}

fn blocks(markers: &mut Markers<'_, '_>, document: &IssueDocument) -> Vec<Value> {
    let mut in_section = false;
    let mut after_item = false;
    let mut out = Vec::new();
    for block in document.blocks() {
        in_section |= matches!(block, Block::Section { .. });
        let level = if in_section { 3 } else { 2 };
        let mut view = json!({
            "introduction": false, "section": false, "item": false, "sponsor": false, "prose": false,
            "heading": format!("h{level}"), "title": null, "title_rule": null, "url": null,
            "body": null, "byline": null, "disclosure": null, "name": null,
            "ruled": after_item, "label_rule": "-".repeat(72),
        });
        let (kind, values) = match block {
            Block::Introduction { body } => {
                ("introduction", vec![("body", markers.nodes(body, 1))])
            }
            Block::Section { title, body, .. } => (
                "section",
                vec![
                    ("title", markers.line(title)),
                    ("title_rule", json!(rule('=', &plain(title)))),
                    ("body", markers.nodes(body, 2)),
                ],
            ),
            Block::Item(item) => ("item", self::item(markers, item, level)),
            Block::Sponsor(sponsor) => (
                "sponsor",
                vec![
                    ("name", markers.plain(&sponsor.name)),
                    ("body", markers.nodes(&sponsor.body, level - 1)),
                ],
            ),
            Block::Prose { title, body, .. } => (
                "prose",
                vec![
                    ("title", title.as_ref().map_or(Value::Null, |title| markers.line(title))),
                    ("title_rule", json!(rule('-', &plain(title.as_deref().unwrap_or_default())))),
                    ("body", markers.nodes(body, if title.is_some() { level } else { level - 1 })),
                ],
            ),
        };
        view[kind] = json!(true);
        for (name, value) in values {
            view[name] = value;
        }
        after_item = matches!(block, Block::Item(_));
        out.push(view);
    }
    out
}

fn item(markers: &mut Markers<'_, '_>, item: &Item, level: u8) -> Vec<(&'static str, Value)> {
    let disclosure = item.disclosure.as_ref().map_or(Value::Null, |content| markers.line(content));
    vec![
        ("title", markers.line(&item.title)),
        ("url", markers.url(&item.url)),
        ("body", markers.nodes(&item.body, level)),
        ("byline", markers.byline(item)),
        ("disclosure", disclosure),
    ]
}

fn dateline(document: &IssueDocument, brand: &Brand, with_name: bool) -> String {
    let titled = document.title.is_some();
    let parts = [
        (with_name && titled).then(|| brand.name.clone()),
        document.number.filter(|_| titled).map(|number| format!("Issue #{number}")),
        document.date.map(long_date),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
}

/// A line under a heading of plain text.
fn rule(mark: char, heading: &str) -> String {
    let width = heading.trim().chars().count().clamp(3, 72);
    std::iter::repeat_n(mark, width).collect()
}
