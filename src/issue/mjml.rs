//! What MJML is made of: the elements there are, and whether those of a text fit into each other. mrml
//! lets unknown elements pass in silence, and does not say where one is not closed.

use std::ops::Range;

use crate::{
    diagnostic::nearest,
    issue::html::{self, Token},
};

/// The MJML elements that mrml knows; it lets others pass in silence.
pub(crate) const TAGS: &[&str] = &[
    "mjml",
    "mj-head",
    "mj-body",
    "mj-accordion",
    "mj-accordion-element",
    "mj-accordion-text",
    "mj-accordion-title",
    "mj-all",
    "mj-attributes",
    "mj-breakpoint",
    "mj-button",
    "mj-carousel",
    "mj-carousel-image",
    "mj-class",
    "mj-column",
    "mj-divider",
    "mj-font",
    "mj-group",
    "mj-hero",
    "mj-image",
    "mj-navbar",
    "mj-navbar-link",
    "mj-preview",
    "mj-raw",
    "mj-section",
    "mj-social",
    "mj-social-element",
    "mj-spacer",
    "mj-style",
    "mj-table",
    "mj-text",
    "mj-title",
    "mj-wrapper",
];

/// How deep MJML may nest: mrml recurses.
pub(crate) const DEPTH_MAX: usize = 64;

/// The first element that does not exist or does not fit, with its place.
pub(crate) fn misfit(text: &str) -> Option<(Range<usize>, String)> {
    let mut open: Vec<(String, Range<usize>)> = Vec::new();
    for (token, range) in html::tokens(text) {
        match token {
            Token::Open(tag) => {
                if let Some(message) = unknown(&tag.name) {
                    return Some((range, message));
                }
                if !tag.closed && !tag.is_void() {
                    open.push((tag.name, range));
                }
            }
            Token::Close(name) => match open.pop() {
                Some((opened, _)) if opened == name => {}
                Some((opened, _)) => {
                    let message = format!("</{name}> stands here, but <{opened}> is still open");
                    return Some((range, message));
                }
                None => return Some((range, format!("</{name}> closes nothing"))),
            },
            _ => {}
        }
    }
    open.pop().map(|(name, range)| (range, format!("<{name}> is not closed")))
}

/// What to say of an element that claims to be MJML's and is not.
fn unknown(name: &str) -> Option<String> {
    if !name.starts_with("mj-") || TAGS.contains(&name) {
        return None;
    }
    let hint = nearest(name, TAGS.iter().copied())
        .map_or_else(String::new, |near| format!("; did you mean <{near}>?"));
    Some(format!("MJML has no <{name}>{hint}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<(usize, &str)>) {
        let found = misfit(text).map(|(range, message)| (range.start, message));
        assert_eq!(found, expected.map(|(at, message)| (at, message.to_owned())));
    }

    #[test]
    fn misfits_are_found() {
        check("<mj-text>a<br>b<img src='x'/></mj-text>", None);
        check("<mj-txt></mj-txt>", Some((0, "MJML has no <mj-txt>; did you mean <mj-text>?")));
        check("<p>a</b>", Some((4, "</b> stands here, but <p> is still open")));
        check("a</p>", Some((1, "</p> closes nothing")));
        check("\n<p>", Some((1, "<p> is not closed")));
    }
}
