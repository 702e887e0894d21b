//! HTML made by hand, for a page of our own: only elements of text, links and pictures are kept, and
//! what is kept is closed. Styles, scripts, forms, frames and all other attributes go.

use std::fmt::{self, Write as _};

use crate::issue::{
    html::{self, Token},
    render::body::is_web_or_mail,
};

/// Elements that are kept.
const KEPT: &[&str] = &[
    "p",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "ul",
    "ol",
    "li",
    "blockquote",
    "pre",
    "code",
    "em",
    "strong",
    "b",
    "i",
    "s",
    "a",
    "img",
    "br",
    "hr",
    "sub",
    "sup",
];

/// Elements whose content goes with them.
const DROPPED_WHOLE: &[&str] = &[
    "head", "script", "style", "title", "template", "form", "iframe", "object", "svg", "math",
    "noscript", "select", "textarea", "button", "video", "audio",
];

/// Elements that end a run of text, where nothing else is kept of them.
const BREAKING: &[&str] =
    &["div", "td", "th", "tr", "table", "section", "article", "header", "footer"];

/// As deep as kept elements nest; deeper ones lose their tags.
const DEPTH_MAX: usize = 64;

/// The part of `html` that may stand on a page of ours.
pub(crate) fn page_html(html: &str) -> String {
    let mut out = String::with_capacity(html.len() / 2);
    let mut open: Vec<String> = Vec::new();
    let mut dropping: Option<(String, usize)> = None;
    for (token, _) in html::tokens(html) {
        if let Some((name, depth)) = &mut dropping {
            match token {
                Token::Open(tag) if tag.name == *name && !tag.closed => *depth += 1,
                Token::Close(closed) if closed == *name => {
                    *depth -= 1;
                    if *depth == 0 {
                        dropping = None;
                    }
                }
                _ => {}
            }
            continue;
        }
        match token {
            Token::Open(tag) if DROPPED_WHOLE.contains(&&*tag.name) => {
                dropping = (!tag.closed).then_some((tag.name, 1));
            }
            Token::Open(tag) if KEPT.contains(&&*tag.name) => open_tag(&mut out, &mut open, &tag),
            Token::Open(tag) if BREAKING.contains(&&*tag.name) => out.push('\n'),
            Token::Close(name) => close_tag(&mut out, &mut open, &name),
            // A bare `<` in text opens nothing here either.
            Token::Text(text) => out.push_str(&text.replace('<', "&lt;").replace('>', "&gt;")),
            _ => {}
        }
    }
    while let Some(name) = open.pop() {
        put(&mut out, format_args!("</{name}>"));
    }
    let lines: Vec<&str> = out.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    lines.join("\n")
}

fn open_tag(out: &mut String, open: &mut Vec<String>, tag: &html::Tag<'_>) {
    if open.len() >= DEPTH_MAX && !tag.is_void() {
        return;
    }
    out.push('<');
    out.push_str(&tag.name);
    let kept: &[&str] = match &*tag.name {
        "a" => &["href"],
        "img" => &["src", "alt", "width", "height"],
        "ol" => &["start"],
        _ => &[],
    };
    for (name, value, _) in &tag.attributes {
        let Some(value) = value.filter(|_| kept.contains(&&**name)) else { continue };
        let is_number = matches!(&**name, "width" | "height" | "start");
        if is_number && !value.bytes().all(|byte| byte.is_ascii_digit()) {
            continue;
        }
        let unescaped = html::unescape(value);
        let is_url = matches!(&**name, "href" | "src");
        // A marker of the weave stands for a URL that was checked when it was taken.
        if is_url && !is_web_or_mail(unescaped.trim()) && !is_marker(value) {
            continue;
        }
        put(out, format_args!(" {name}=\"{}\"", super::render::escape(unescaped.trim())));
    }
    out.push('>');
    if !tag.is_void() && !tag.closed {
        open.push(tag.name.clone());
    } else if !tag.is_void() {
        put(out, format_args!("</{}>", tag.name));
    }
}

/// Writing to a string cannot fail.
fn put(out: &mut String, text: fmt::Arguments<'_>) {
    let _infallible = out.write_fmt(text);
}

fn is_marker(value: &str) -> bool {
    value.starts_with("pr") && value.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn close_tag(out: &mut String, open: &mut Vec<String>, name: &str) {
    let Some(at) = open.iter().rposition(|opened| opened == name) else { return };
    for opened in open.drain(at..).rev() {
        put(out, format_args!("</{opened}>"));
    }
}
