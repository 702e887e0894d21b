//! How pages are made: templates that are compiled once, one frame around all of them, and the style
//! sheet with a newsletter's colours.
//!
//! Templates are strict, and whatever is placed in them is escaped, but for the HTML that the issue
//! room made.

use axum::{
    extract::Query,
    http::{HeaderValue, header},
    response::{Html, IntoResponse, Response},
};
use handlebars::Handlebars;
use serde::{Deserialize, Serialize};
use url::Url;

use super::error::{IsPage, Problem};
use crate::{
    issue::render::palette::{ACCENT_DEFAULT, Mode, Palette},
    link::Links,
    newsletter::Newsletter,
};

const STYLE: &str = include_str!("pages/style.css");
const TEMPLATES: &[(&str, &str)] = &[
    ("layout", include_str!("pages/layout.hbs")),
    ("form", include_str!("pages/form.hbs")),
    ("message", include_str!("pages/message.hbs")),
    ("home", include_str!("pages/home.hbs")),
    ("newsletter", include_str!("pages/newsletter.hbs")),
    ("issue", include_str!("pages/issue.hbs")),
    ("sign_up", include_str!("pages/sign_up.hbs")),
    ("confirm", include_str!("pages/confirm.hbs")),
    ("expired", include_str!("pages/expired.hbs")),
    ("not_me", include_str!("pages/not_me.hbs")),
    ("unsubscribe", include_str!("pages/unsubscribe.hbs")),
    ("preferences", include_str!("pages/preferences.hbs")),
    ("my_data", include_str!("pages/my_data.hbs")),
];

/// The compiled templates.
pub(super) struct Pages {
    templates: Handlebars<'static>,
    /// Links as they stand on our own pages: paths, so that the pages work under any of our names.
    pub(super) paths: Links,
    /// Links for elsewhere: feeds, canonical addresses.
    pub(super) links: Links,
    /// Changes with the style sheet, so that browsers can keep it for ever.
    version: String,
}

/// What stands around every page.
#[derive(Debug, Serialize)]
pub(super) struct Frame {
    title: String,
    stylesheet: String,
    /// Whether search engines may list the page: pages with a token in their address must not be.
    index: bool,
    description: Option<String>,
    canonical: Option<String>,
    newsletter: Option<About>,
    /// Whether the newsletter's name stands above the page.
    masthead: bool,
}

#[derive(Debug, Serialize)]
struct About {
    name: String,
    language: String,
    home: String,
    atom: String,
    rss: String,
    postal_address: String,
}

impl Frame {
    /// The same frame for a page that search engines may list, at its public address.
    #[must_use]
    pub(super) fn listed(mut self, canonical: String, description: &str) -> Self {
        self.index = true;
        self.canonical = Some(canonical);
        self.description = (!description.is_empty()).then(|| description.to_owned());
        self
    }

    /// The same frame for a page that has the newsletter's name as its heading.
    #[must_use]
    pub(super) fn without_masthead(mut self) -> Self {
        self.masthead = false;
        self
    }
}

/// Where a message leads.
#[derive(Debug, Serialize)]
pub(super) struct Action {
    pub(super) label: &'static str,
    pub(super) url: String,
}

#[derive(Serialize)]
struct Message<'a> {
    paragraphs: &'a [&'a str],
    action: Option<Action>,
}

#[derive(Serialize)]
struct Framed<'a, T> {
    frame: &'a Frame,
    #[serde(flatten)]
    content: T,
}

/// A finished page.
#[derive(Debug)]
pub(super) struct Page(pub(super) String);

impl IntoResponse for Page {
    fn into_response(self) -> Response {
        let mut response = Html(self.0).into_response();
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response.extensions_mut().insert(IsPage);
        response
    }
}

impl Pages {
    pub(super) fn new(public_url: &Url) -> Self {
        let mut templates = Handlebars::new();
        templates.set_strict_mode(true);
        for (name, text) in TEMPLATES {
            templates
                .register_template_string(name, text)
                .expect("the built-in pages are compiled by a test");
        }
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, STYLE.as_bytes());
        Self {
            templates,
            paths: Links::on_site(public_url),
            links: Links::new(public_url),
            version: data_encoding::HEXLOWER.encode(&digest.as_ref()[..6]),
        }
    }

    /// The frame of a page that is about no newsletter.
    pub(super) fn frame(&self, title: impl Into<String>) -> Frame {
        Frame {
            title: title.into(),
            stylesheet: self.stylesheet(ACCENT_DEFAULT),
            index: false,
            description: None,
            canonical: None,
            newsletter: None,
            masthead: false,
        }
    }

    /// The frame of a page about `newsletter`.
    pub(super) fn frame_of(&self, newsletter: &Newsletter, title: impl Into<String>) -> Frame {
        let slug = &newsletter.slug;
        Frame {
            stylesheet: self.stylesheet(&newsletter.accent_color),
            newsletter: Some(About {
                name: newsletter.name.clone(),
                language: newsletter.language.clone(),
                home: self.paths.newsletter(slug),
                atom: self.paths.atom(slug),
                rss: self.paths.rss(slug),
                postal_address: newsletter.postal_address.clone(),
            }),
            masthead: true,
            ..self.frame(title)
        }
    }

    /// A page from its template.
    pub(super) fn page(
        &self,
        template: &'static str,
        frame: &Frame,
        content: impl Serialize,
    ) -> Result<Page, Problem> {
        let page = self.templates.render(template, &Framed { frame, content });
        page.map(Page).map_err(|error| anyhow::Error::new(error).into())
    }

    /// A page that says something.
    pub(super) fn message(
        &self,
        frame: &Frame,
        paragraphs: &[&str],
        action: Option<Action>,
    ) -> Result<Page, Problem> {
        self.page("message", frame, Message { paragraphs, action })
    }

    fn stylesheet(&self, accent: &str) -> String {
        let accent = accent.trim_start_matches('#');
        format!("{}-/style.css?accent={accent}&v={}", self.paths.home(), self.version)
    }
}

/// Which colours a style sheet is wanted in.
#[derive(Debug, Deserialize)]
pub(super) struct Style {
    #[serde(default)]
    accent: String,
}

/// The style sheet. Its address changes whenever it does.
pub(super) async fn style(Query(style): Query<Style>) -> Response {
    let palette = Palette::new(&format!("#{}", style.accent))
        .or_else(|| Palette::new(ACCENT_DEFAULT))
        .expect("the default accent is a colour");
    let css = sheet(&palette, "");
    let headers = [
        (header::CONTENT_TYPE, "text/css; charset=utf-8"),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ];
    (headers, css).into_response()
}

/// The style sheet in the colours of `palette`, with `more` at its end.
pub(super) fn sheet(palette: &Palette, more: &str) -> String {
    format!(
        ":root {{ color-scheme: light dark; {} --error: #b3261e; }}\n\
         @media (prefers-color-scheme: dark) {{ :root {{ {} --error: #ffb4ab; }} }}\n{STYLE}{more}",
        variables(&palette.light),
        variables(&palette.dark)
    )
}

fn variables(mode: &Mode) -> String {
    format!(
        "--page: {}; --card: {}; --tint: {}; --rule: {}; --text: {}; --muted: {}; --link: {}; \
         --button: {}; --button-text: {};",
        mode.page,
        mode.card,
        mode.tint,
        mode.rule,
        mode.text,
        mode.muted,
        mode.link,
        mode.button,
        mode.button_text
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_template_compiles() {
        let pages = Pages::new(&Url::parse("https://example.com/").unwrap());
        assert_eq!(pages.templates.get_templates().len(), TEMPLATES.len());
    }

    #[test]
    fn what_is_placed_in_a_page_is_escaped() {
        let pages = Pages::new(&Url::parse("https://example.com/news/").unwrap());
        let frame = pages.frame("<script>alert(1)</script>");
        let page = pages.message(&frame, &["a & b \"c\""], None).unwrap().0;
        assert!(page.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{page}");
        assert!(page.contains("a &amp; b &quot;c&quot;"), "{page}");
        assert!(page.contains("href=\"/news/-/style.css?accent&#x3D;0b5fa5&amp;v&#x3D;"), "{page}");
    }

    #[tokio::test]
    async fn a_style_sheet_takes_no_text_from_its_address() {
        let css = style(Query(Style { accent: "000;}body{display:none".into() })).await;
        let css = axum::body::to_bytes(css.into_body(), 1 << 20).await.unwrap();
        assert!(!std::str::from_utf8(&css).unwrap().contains("display:none"));
    }
}
