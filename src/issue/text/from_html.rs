//! Plain text from HTML that was made by hand: blocks on lines of their own, links with their addresses
//! behind them.

use crate::issue::{
    html::{self, Token},
    text::WIDTH,
};

/// HTML made by hand as plain text: blocks on lines of their own, links with their addresses behind.
pub(crate) fn from_html(html: &str) -> String {
    let mut out = String::new();
    let mut href: Option<(String, usize)> = None;
    let mut skip: Option<(String, usize)> = None;
    for (token, _) in html::tokens(html) {
        if let Some((name, depth)) = &mut skip {
            match token {
                Token::Open(tag) if tag.name == *name && !tag.closed => *depth += 1,
                Token::Close(closed) if closed == *name => *depth -= 1,
                _ => {}
            }
            if *depth == 0 {
                skip = None;
            }
            continue;
        }
        match token {
            Token::Open(tag) => match &*tag.name {
                "head" | "noscript" if !tag.closed => skip = Some((tag.name, 1)),
                _ if is_hidden(&tag) => skip = Some((tag.name, 1)),
                "br" => out.push('\n'),
                "li" => out.push_str("\n * "),
                "hr" => out.push_str("\n\n* * *\n\n"),
                "img" => out.push_str(&tag.value("alt").unwrap_or_default()),
                "a" => href = tag.value("href").map(|url| (url.into_owned(), out.len())),
                name if ends_line(name) => out.push_str("\n\n"),
                _ => {}
            },
            Token::Close(name) => match &*name {
                "a" => close_link(&mut out, href.take()),
                name if ends_line(name) => out.push_str("\n\n"),
                _ => {}
            },
            Token::Text(text) => push_words(&mut out, &html::unescape(text)),
            Token::Raw(_) | Token::Comment(_) | Token::Declaration(_) => {}
        }
    }
    close_link(&mut out, href);
    wrap_lines(&out)
}

fn close_link(out: &mut String, href: Option<(String, usize)>) {
    if let Some((url, from)) = href
        && !url.is_empty()
        && out.get(from..).is_some_and(|shown| shown.trim() != url)
    {
        for piece in [" <", &*url, ">"] {
            out.push_str(piece);
        }
    }
}

/// A preheader and the like: there for mail clients, not for readers.
fn is_hidden(tag: &html::Tag<'_>) -> bool {
    let style = tag.raw("style").unwrap_or_default().to_ascii_lowercase().replace(' ', "");
    !tag.closed && !tag.is_void() && style.contains("display:none")
}

fn ends_line(name: &str) -> bool {
    matches!(
        name,
        "p" | "div"
            | "h1"
            | "h2"
            | "h3"
            | "h4"
            | "h5"
            | "h6"
            | "ul"
            | "ol"
            | "table"
            | "tr"
            | "td"
            | "th"
            | "blockquote"
            | "pre"
            | "section"
            | "article"
            | "header"
            | "footer"
            | "body"
    )
}

/// Appends text with runs of white space as one space.
fn push_words(out: &mut String, text: &str) {
    for c in text.chars() {
        // No-break spaces hold words together; zero-width ones only fill preheaders.
        match c {
            '\u{200b}'..='\u{200d}' | '\u{34f}' | '\u{feff}' | '\u{ad}' => {}
            c if c.is_whitespace() => {
                if !out.ends_with([' ', '\n']) && !out.is_empty() {
                    out.push(' ');
                }
            }
            c => out.push(c),
        }
    }
}

/// Wraps each line by itself.
fn wrap_lines(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        if line.trim().is_empty() && (out.is_empty() || out.ends_with("\n\n")) {
            continue;
        }
        let mut width = 0;
        for word in line.split(' ').filter(|word| !word.is_empty()) {
            let length = word.chars().count();
            if width > 0 && width + 1 + length > WIDTH {
                out.push('\n');
                width = 0;
            }
            if width > 0 {
                out.push(' ');
                width += 1;
            }
            out.push_str(word);
            width += length;
        }
        out.push('\n');
    }
    out
}
