//! How the pages are made: templates that are compiled once, and one frame around all of them.
//! Templates are strict, and whatever is placed in them is escaped.

use axum::response::{Html, IntoResponse, Response};
use handlebars::Handlebars;
use serde::Serialize;

use super::{access::Visitor, assets::VERSION, words};
use crate::{
    account::Role,
    web::error::{IsPage, Problem},
};

const TEMPLATES: &[(&str, &str)] = &[
    ("layout", include_str!("../pages/admin/layout.hbs")),
    ("equation", include_str!("../pages/admin/equation.hbs")),
    ("lines", include_str!("../pages/admin/lines.hbs")),
    ("time", include_str!("../pages/admin/time.hbs")),
    ("message", include_str!("../pages/admin/message.hbs")),
    ("login", include_str!("../pages/admin/login.hbs")),
    ("dashboard", include_str!("../pages/admin/dashboard.hbs")),
    ("issue", include_str!("../pages/admin/issue.hbs")),
    ("deliveries", include_str!("../pages/admin/deliveries.hbs")),
    ("channels", include_str!("../pages/admin/channels.hbs")),
    ("search", include_str!("../pages/admin/search.hbs")),
    ("subscriber", include_str!("../pages/admin/subscriber.hbs")),
];

/// The compiled templates.
pub(super) struct Pages {
    templates: Handlebars<'static>,
}

/// What stands around every page.
#[derive(Debug, Serialize)]
pub(super) struct Frame {
    title: String,
    version: &'static str,
    user: Option<FrameUser>,
    places: Vec<Place>,
    /// Seconds between two refreshes; none for a page that stays as it is.
    live: Option<u32>,
}

#[derive(Debug, Serialize)]
struct FrameUser {
    name: String,
    role: Role,
    form_token: String,
}

/// A place in the navigation.
#[derive(Debug, Serialize)]
struct Place {
    url: &'static str,
    label: &'static str,
    here: bool,
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
        response.extensions_mut().insert(IsPage);
        response
    }
}

impl Frame {
    /// The same frame for a page that refreshes itself, if there is JavaScript.
    #[must_use]
    pub(super) fn live(mut self, seconds: u32) -> Self {
        self.live = Some(seconds);
        self
    }

    /// The same frame for a page at `url` in the navigation.
    #[must_use]
    pub(super) fn at(mut self, url: &str) -> Self {
        for place in &mut self.places {
            place.here = place.url == url;
        }
        self
    }
}

impl Pages {
    pub(super) fn new() -> Self {
        let mut templates = Handlebars::new();
        templates.set_strict_mode(true);
        for (name, text) in TEMPLATES {
            templates
                .register_template_string(name, text)
                .expect("the built-in pages are compiled by a test");
        }
        Self { templates }
    }

    /// The frame of a page; without a visitor there is nothing to go to.
    #[expect(clippy::unused_self, reason = "pages and their frames come from one place")]
    pub(super) fn frame(&self, title: impl Into<String>, visitor: Option<&Visitor>) -> Frame {
        let place = |url, label| Place { url, label, here: false };
        let mut places = Vec::new();
        if let Some(visitor) = visitor {
            places.push(place("/", "Overview"));
            places.push(place("/deliveries", "Deliveries"));
            places.push(place("/channels", "Channels"));
            if visitor.session.role >= Role::Operator {
                places.push(place("/subscribers", "Subscribers"));
            }
        }
        Frame {
            title: title.into(),
            version: VERSION.as_str(),
            user: visitor.map(|visitor| FrameUser {
                name: visitor.session.name.clone(),
                role: visitor.session.role,
                form_token: visitor.form_token.clone(),
            }),
            places,
            live: None,
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
}

/// An equation as a bar and a list of its parts.
#[derive(Debug, Serialize)]
pub(super) struct EquationView {
    total: String,
    parts: Vec<Part>,
    done_percent: i64,
}

#[derive(Debug, Serialize)]
struct Part {
    word: &'static str,
    /// The word as the name of a style.
    class: String,
    copies: String,
    some: bool,
    /// Where its piece of the bar begins, and how wide it is, of 1,000.
    from: i64,
    width: i64,
}

impl From<&crate::report::Equation> for EquationView {
    fn from(equation: &crate::report::Equation) -> Self {
        let total = equation.total();
        // Done parts first in the bar, so that it fills from the left.
        let mut entries = equation.entries();
        let order = ["accepted", "rejected", "uncertain", "skipped", "expired", "cancelled"];
        let rank = |word: &str| order.iter().position(|it| *it == word).unwrap_or(order.len());
        let mut sum = 0;
        entries.sort_by_key(|(word, _)| rank(word));
        let parts = entries.map(|(word, copies)| {
            let from = per_mille(sum, total);
            sum += copies;
            Part {
                word,
                class: word.replace(' ', "-"),
                copies: words::count(copies),
                some: copies != 0,
                from,
                width: per_mille(sum, total) - from,
            }
        });
        let done = total - equation.remaining();
        Self {
            total: words::count(total),
            parts: parts.into(),
            done_percent: per_mille(done, total) / 10,
        }
    }
}

fn per_mille(part: i64, whole: i64) -> i64 {
    if whole <= 0 { 0 } else { part.clamp(0, whole) * 1000 / whole }
}

#[cfg(test)]
mod unit_tests {
    use super::*;
    use crate::report::Equation;

    #[test]
    fn every_template_compiles() {
        assert_eq!(Pages::new().templates.get_templates().len(), TEMPLATES.len());
    }

    #[test]
    fn the_pieces_of_a_bar_fill_it() {
        let equation = Equation {
            planned: 1,
            accepted: 333_333,
            rejected: 7,
            deferred: 9,
            ..Equation::default()
        };
        let view = EquationView::from(&equation);
        let mut at = 0;
        for part in &view.parts {
            assert_eq!(part.from, at);
            at += part.width;
        }
        assert_eq!((at, view.total.as_str(), view.done_percent), (1000, "333,350", 99));
        let empty = EquationView::from(&Equation::default());
        assert!(empty.parts.iter().all(|part| part.width == 0));
    }
}
