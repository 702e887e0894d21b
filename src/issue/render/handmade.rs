//! Bodies made by hand: their reader fields become slots, MJML goes through mrml, and text part and
//! page are made from the HTML that comes out.

use crate::{
    issue::{
        brand::Brand,
        field::{self, Piece, Placeholder},
        html::{self, Token},
        render::{
            Parts, RenderError, mjml_to_html,
            weave::{Fragment, Weave},
        },
    },
    merge::Escape,
};

/// The attributes whose values are text or URLs and mean nothing to MJML: they go around it, as it
/// would write some characters of theirs differently.
const CARRIED: &[&str] = &["href", "src", "alt", "title", "background-url"];

/// The parts of a mail from an MJML body.
pub(super) fn from_mjml(body: &str, brand: &Brand) -> Result<Parts, RenderError> {
    let mut weave = Weave::new();
    let marked = mark(body, &mut weave, true);
    let html = mjml_to_html(&marked)?;
    parts(&html, &weave, brand)
}

/// The parts of a mail from an HTML body.
pub(super) fn from_html(body: &str, brand: &Brand) -> Result<Parts, RenderError> {
    let mut weave = Weave::new();
    let marked = mark(body, &mut weave, false);
    parts(&marked, &weave, brand)
}

fn parts(html: &str, weave: &Weave, brand: &Brand) -> Result<Parts, RenderError> {
    let text = super::tidy(&crate::issue::text::from_html(html));
    let text = weave.finish_with(&text, Fragment::as_text)?.into_merge_text();
    let web = crate::issue::sanitise::page_html(html);
    let web = weave.finish_with(&web, |fragment| fragment.for_anyone(&brand.site_url))?;
    let html = weave.finish(html)?.into_merge_text();
    Ok(Parts { html, text, web: super::literal(&web.into_merge_text()) })
}

/// Puts markers where reader fields stand, and, for MJML, where values are to go around it.
fn mark(body: &str, weave: &mut Weave, is_mjml: bool) -> String {
    let mut out = String::with_capacity(body.len());
    for (token, range) in html::tokens(body) {
        let Token::Open(tag) = token else {
            out.push_str(&marked_fields(&body[range], Escape::Html, weave));
            continue;
        };
        let mut at = range.start;
        for (name, value, place) in &tag.attributes {
            let Some(value) = value else { continue };
            let is_url = matches!(&**name, "href" | "src" | "background-url");
            let escape = if is_url { Escape::UrlComponent } else { Escape::Html };
            out.push_str(&body[at..place.start]);
            if is_mjml && CARRIED.contains(&&**name) && !value.is_empty() {
                let fragment = fragment(value, escape);
                out.push_str(&weave.marker(fragment));
            } else {
                out.push_str(&marked_fields(value, escape, weave));
            }
            at = place.end;
        }
        out.push_str(&body[at..range.end]);
    }
    out
}

fn marked_fields(text: &str, escape: Escape, weave: &mut Weave) -> String {
    if !text.contains("{{") {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len());
    for (range, piece) in field::pieces(text) {
        match piece {
            Piece::Field(Ok(placeholder)) => {
                let mut fragment = Fragment::default();
                push(&mut fragment, placeholder, escape);
                out.push_str(&weave.marker(fragment));
            }
            _ => out.push_str(&text[range]),
        }
    }
    out
}

fn fragment(text: &str, escape: Escape) -> Fragment {
    let mut out = Fragment::default();
    for (range, piece) in field::pieces(text) {
        match piece {
            Piece::Field(Ok(placeholder)) => push(&mut out, placeholder, escape),
            _ => out.push(&text[range]),
        }
    }
    out
}

fn push(fragment: &mut Fragment, placeholder: Placeholder, escape: Escape) {
    let Placeholder { field, fallback } = placeholder;
    let escape = if field::is_url(&field) { Escape::Html } else { escape };
    fragment.slot(field, escape, fallback);
}
