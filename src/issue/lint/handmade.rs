//! Rules about a body made by hand: what no mail may hold, in places of the file.

use crate::{
    diagnostic::{Findings, Span},
    issue::{
        html::{self, Tag, Token},
        lint::content,
        rule,
    },
};

/// Elements that mail clients remove or that make a mail dangerous.
const FORBIDDEN: &[&str] = &[
    "script",
    "form",
    "input",
    "button",
    "select",
    "textarea",
    "iframe",
    "frame",
    "frameset",
    "object",
    "embed",
    "applet",
    "base",
    "audio",
    "video",
    "mj-include",
    "mj-font",
];

pub(super) fn check(findings: &mut Findings<'_>, body: Span) {
    let text = &findings.source().text()[body.start..];
    for (token, range) in html::tokens(text) {
        let span = Span::new(body.start + range.start, body.start + range.end);
        match token {
            Token::Open(tag) => {
                check_tag(findings, &tag, span);
                check_attributes(findings, &tag, span, body.start);
            }
            Token::Raw(raw) if raw.contains("@import") || raw.contains("@font-face") => {
                findings
                    .add(rule::FORBIDDEN_TAG, span, "a mail loads no styles or fonts")
                    .suggest("write the styles out, and use fonts that readers have");
            }
            Token::Text(written) => content::placeholder(findings, written, span),
            _ => {}
        }
    }
}

fn check_tag(findings: &mut Findings<'_>, tag: &Tag<'_>, span: Span) {
    let name = tag.name.as_str();
    let is_style_link = name == "link" && tag.value("rel").is_some_and(|rel| rel.contains("style"));
    let refreshes = name == "meta"
        && tag.raw("http-equiv").is_some_and(|of| of.eq_ignore_ascii_case("refresh"));
    if FORBIDDEN.contains(&name) || is_style_link || refreshes {
        findings
            .add(rule::FORBIDDEN_TAG, span, format!("a mail holds no <{name}>"))
            .suggest("remove it, or link to a page that has it");
    }
}

fn check_attributes(findings: &mut Findings<'_>, tag: &Tag<'_>, span: Span, start: usize) {
    for (name, value, place) in &tag.attributes {
        let place = Span::new(start + place.start, start + place.end);
        if name.starts_with("on") && name.len() > 2 {
            findings
                .add(rule::FORBIDDEN_TAG, place, format!("a mail runs no scripts, so no `{name}`"))
                .suggest("remove it");
        }
        let value = html::unescape(value.unwrap_or_default());
        let lower = value.trim().to_ascii_lowercase();
        match &**name {
            "href" if lower.starts_with("javascript:") || lower.starts_with("data:") => {
                findings.add(rule::LINK_SCHEME, place, "a mail does not link to scripts or data");
            }
            "href" if lower.starts_with("http:") => {
                findings
                    .add(
                        rule::LINK_HTTP,
                        place,
                        "this link is http, which anyone on the way can read and change",
                    )
                    .suggest("write https");
            }
            "href" if is_relative(&lower) => {
                findings
                    .add(
                        rule::LINK_RELATIVE,
                        place,
                        "this link is relative, and a mail stands nowhere",
                    )
                    .suggest("write the whole address, beginning with https://");
            }
            "href" => {
                if let Some((fixed, removed)) = super::without_tracking(&value) {
                    findings
                        .add(
                            rule::LINK_TRACKING,
                            place,
                            format!("this link follows readers with `{}`", removed.join("`, `")),
                        )
                        .suggest(format!("use {fixed}"));
                }
            }
            "src" if lower.starts_with("data:") => {
                findings.add(rule::IMAGE_DATA, place, "this picture is embedded as data");
            }
            _ => {}
        }
    }
    if matches!(&*tag.name, "img" | "mj-image") {
        if tag.raw("alt").is_none() {
            findings
                .add(rule::IMAGE_ALT, span, "this picture has no alternative text")
                .suggest("add `alt=\"…\"`; for a picture that only adorns, `alt=\"\"`");
        }
        if tag.raw("width").is_none() {
            findings
                .add(rule::IMAGE_SIZE, span, "this picture has no width")
                .suggest("add `width` (Outlook shows the picture's own size otherwise)");
        }
    }
}

/// Whether it is neither a whole address nor a reader field nor a place in the mail itself.
fn is_relative(url: &str) -> bool {
    let has_scheme = url.split_once(':').is_some_and(|(scheme, _)| {
        !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    });
    !has_scheme && !url.starts_with("{{") && !url.starts_with('#') && !url.is_empty()
}
