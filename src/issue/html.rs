//! A small, total reader of HTML and MJML text: tags with their attributes, text and comments, each
//! with its place. It builds no tree and repairs nothing; it takes any text in linear time.

use std::{borrow::Cow, ops::Range};

/// A piece of markup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token<'a> {
    /// An opening or self-closing tag.
    Open(Tag<'a>),
    /// A closing tag, with its name in lower case.
    Close(String),
    /// Text between tags, with references as written.
    Text(&'a str),
    /// The content of `script`, `style`, `title` or `textarea`, which is not looked into.
    Raw(&'a str),
    /// A comment without its delimiters; conditional comments too.
    Comment(&'a str),
    /// `<!doctype …>` and the like.
    Declaration(&'a str),
}

/// An opening tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag<'a> {
    /// The name in lower case.
    pub name: String,
    /// Attribute names in lower case with their values as written, and the places of the values.
    pub attributes: Vec<(String, Option<&'a str>, Range<usize>)>,
    /// Whether it ends in `/>`.
    pub closed: bool,
}

impl<'a> Tag<'a> {
    /// The value of an attribute as written; empty when it has none.
    pub fn raw(&self, name: &str) -> Option<&'a str> {
        self.attributes
            .iter()
            .find(|(key, ..)| key == name)
            .map(|(_, value, _)| value.unwrap_or(""))
    }

    /// The value of an attribute with references resolved.
    pub fn value(&self, name: &str) -> Option<Cow<'a, str>> {
        self.raw(name).map(unescape)
    }

    /// Whether this element has no content and no closing tag in HTML.
    pub fn is_void(&self) -> bool {
        is_void(&self.name)
    }
}

/// Whether elements of this name have no content in HTML.
pub fn is_void(name: &str) -> bool {
    matches!(
        name,
        "area"
            | "base"
            | "br"
            | "col"
            | "embed"
            | "hr"
            | "img"
            | "input"
            | "link"
            | "meta"
            | "source"
            | "track"
            | "wbr"
    )
}

/// How deep elements may nest at most, told without reading the markup properly: whatever another
/// reader takes for an element counts, even inside comments and styles. For readers that recurse.
pub fn nesting_bound(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut depth, mut deepest, mut in_tag) = (0_usize, 0, false);
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            b'<' if bytes.get(at + 1) == Some(&b'/') => depth = depth.saturating_sub(1),
            b'<' if bytes.get(at + 1).is_some_and(u8::is_ascii_alphabetic) => {
                let name = &text[at + 1..];
                let end = name.bytes().take(10).position(|byte| !byte.is_ascii_alphanumeric());
                in_tag = !is_void(&name[..end.unwrap_or(0)].to_ascii_lowercase());
                depth += usize::from(in_tag);
                deepest = deepest.max(depth);
            }
            b'>' if in_tag => {
                depth -= usize::from(at > 0 && bytes[at - 1] == b'/' && depth > 0);
                in_tag = false;
            }
            _ => {}
        }
    }
    deepest
}

/// The tokens of `text` in order with their places.
pub fn tokens(text: &str) -> Tokens<'_> {
    Tokens { text, at: 0, raw_until: None }
}

/// See [`tokens`].
#[derive(Debug)]
pub struct Tokens<'a> {
    text: &'a str,
    at: usize,
    /// The element whose raw content comes next.
    raw_until: Option<String>,
}

impl<'a> Iterator for Tokens<'a> {
    type Item = (Token<'a>, Range<usize>);

    fn next(&mut self) -> Option<Self::Item> {
        let start = self.at;
        let rest = &self.text[start..];
        if rest.is_empty() {
            return None;
        }
        if let Some(name) = self.raw_until.take() {
            let end = find_close(rest, &name).unwrap_or(rest.len());
            if end > 0 {
                self.at += end;
                return Some((Token::Raw(&rest[..end]), start..self.at));
            }
        }
        let (token, length) = if let Some(comment) = rest.strip_prefix("<!--") {
            delimited(comment, "-->", 4, Token::Comment)
        } else if let Some(declaration) = rest.strip_prefix("<!") {
            delimited(declaration, ">", 2, Token::Declaration)
        } else if let Some(declaration) = rest.strip_prefix("<?") {
            delimited(declaration, ">", 2, Token::Declaration)
        } else if rest.starts_with("</") && starts_name(&rest[2..]) {
            let end = rest.find('>').map_or(rest.len(), |at| at + 1);
            let name = rest[2..end].trim_end_matches('>').trim_end().to_ascii_lowercase();
            (Token::Close(name), end)
        } else if rest.starts_with('<') && starts_name(&rest[1..]) {
            let (tag, length) = tag(rest, start);
            if !tag.closed && matches!(&*tag.name, "script" | "style" | "title" | "textarea") {
                self.raw_until = Some(tag.name.clone());
            }
            (Token::Open(tag), length)
        } else {
            // A `<` that opens nothing is text.
            let after_first = rest.chars().next().map_or(0, char::len_utf8);
            let end = rest[after_first..].find('<').map_or(rest.len(), |at| at + after_first);
            (Token::Text(&rest[..end]), end)
        };
        self.at += length;
        Some((token, start..self.at))
    }
}

fn delimited<'a>(
    rest: &'a str,
    end: &str,
    opening: usize,
    make: impl FnOnce(&'a str) -> Token<'a>,
) -> (Token<'a>, usize) {
    match rest.find(end) {
        Some(at) => (make(&rest[..at]), opening + at + end.len()),
        None => (make(rest), opening + rest.len()),
    }
}

fn starts_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
}

fn find_close(text: &str, name: &str) -> Option<usize> {
    text.match_indices("</").map(|(at, _)| at).find(|at| {
        text.as_bytes()
            .get(at + 2..at + 2 + name.len())
            .is_some_and(|found| found.eq_ignore_ascii_case(name.as_bytes()))
    })
}

/// Reads a tag at the start of `rest`, which stands at byte `offset` of the whole.
fn tag(rest: &str, offset: usize) -> (Tag<'_>, usize) {
    let bytes = rest.as_bytes();
    let mut at = 1;
    while at < bytes.len() && !bytes[at].is_ascii_whitespace() && !matches!(bytes[at], b'>' | b'/')
    {
        at += 1;
    }
    let name = rest[1..at].to_ascii_lowercase();
    let mut attributes = Vec::new();
    let mut closed = false;
    while at < bytes.len() {
        match bytes[at] {
            b'>' => {
                at += 1;
                break;
            }
            b'/' => {
                closed = bytes.get(at + 1) == Some(&b'>');
                at += 1;
            }
            byte if byte.is_ascii_whitespace() => at += 1,
            _ => {
                let key_start = at;
                while at < bytes.len()
                    && !bytes[at].is_ascii_whitespace()
                    && (at == key_start || bytes[at] != b'=')
                    && !matches!(bytes[at], b'>' | b'/')
                {
                    at += 1;
                }
                let key = rest[key_start..at].to_ascii_lowercase();
                let (value, next) = attribute_value(rest, at);
                at = next;
                let place = value.clone().unwrap_or(at..at);
                let value = value.map(|range| &rest[range]);
                attributes.push((key, value, place.start + offset..place.end + offset));
            }
        }
    }
    (Tag { name, attributes, closed }, at)
}

/// The place of the value behind an attribute's name, and where reading goes on.
fn attribute_value(rest: &str, mut at: usize) -> (Option<Range<usize>>, usize) {
    let bytes = rest.as_bytes();
    let after_name = at;
    while bytes.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    if bytes.get(at) != Some(&b'=') {
        return (None, after_name);
    }
    at += 1;
    while bytes.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    if let Some(&quote @ (b'"' | b'\'')) = bytes.get(at) {
        let start = at + 1;
        let end = rest[start..].find(char::from(quote)).map_or(rest.len(), |end| start + end);
        return (Some(start..end), (end + 1).min(rest.len()));
    }
    let start = at;
    while at < bytes.len() && !bytes[at].is_ascii_whitespace() && bytes[at] != b'>' {
        at += 1;
    }
    (Some(start..at), at)
}

/// Text with its character references resolved: numbers, and the names that mails use.
pub fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('&') {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        // No reference is longer; looking further would make a text of `&` quadratic.
        let end = rest.bytes().take(12).position(|byte| byte == b';');
        if let Some((c, end)) = end.and_then(|end| Some((reference(rest.get(1..end)?)?, end))) {
            out.push(c);
            rest = &rest[end + 1..];
        } else {
            out.push('&');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    Cow::Owned(out)
}

fn reference(name: &str) -> Option<char> {
    if let Some(number) = name.strip_prefix('#') {
        let code = match number.strip_prefix(['x', 'X']) {
            Some(hex) => u32::from_str_radix(hex, 16).ok()?,
            None => number.parse().ok()?,
        };
        return char::from_u32(code);
    }
    Some(match name {
        "amp" => '&',
        "lt" => '<',
        "gt" => '>',
        "quot" => '"',
        "apos" => '\'',
        "nbsp" => '\u{a0}',
        "zwnj" => '\u{200c}',
        "shy" => '\u{ad}',
        "mdash" => '—',
        "ndash" => '–',
        "hellip" => '…',
        "lsquo" => '‘',
        "rsquo" => '’',
        "ldquo" => '“',
        "rdquo" => '”',
        "middot" => '·',
        "bull" => '•',
        "copy" => '©',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let shown: Vec<String> = tokens(text)
            .map(|(token, _)| match token {
                Token::Open(tag) => {
                    let mut attributes = String::new();
                    for (key, value, place) in &tag.attributes {
                        assert_eq!(value.unwrap_or(""), &text[place.clone()]);
                        attributes += " ";
                        attributes += key;
                        attributes += "=";
                        attributes += value.unwrap_or("!");
                    }
                    format!("<{}{attributes}{}>", tag.name, if tag.closed { "/" } else { "" })
                }
                Token::Close(name) => format!("</{name}>"),
                Token::Text(text) => format!("'{text}'"),
                Token::Raw(text) => format!("raw'{text}'"),
                Token::Comment(text) => format!("comment'{text}'"),
                Token::Declaration(text) => format!("declaration'{text}'"),
            })
            .collect();
        assert_eq!(shown.join(" "), expected);
    }

    #[test]
    fn markup_is_read() {
        check(
            "<!doctype html><P Class='a b' id=x hidden>a &lt; b</P >",
            "declaration'doctype html' <p class=a b id=x hidden=!> 'a &lt; b' </p>",
        );
        check("<br/><img src=\"a>b\" />", "<br/> <img src=a>b/>");
        check("<!--[if mso]><td><![endif]-->x", "comment'[if mso]><td><![endif]' 'x'");
        check("<style>a<b{}</style>c", "<style> raw'a<b{}' </style> 'c'");
        check("a < b <3 </", "'a ' '< b ' '<3 ' '</'");
        check("<a href=\"unclosed", "<a href=unclosed>");
        check("<!-- unclosed", "comment' unclosed'");
    }

    #[test]
    fn references_are_resolved() {
        for (text, expected) in [
            ("a&amp;b", "a&b"),
            ("&#39;&#x27;", "''"),
            ("&nope; & &", "&nope; & &"),
            ("&#1114112;", "&#1114112;"),
        ] {
            assert_eq!(unescape(text), expected);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_covered_without_gaps(text in "(<|>|/|!|-|\"|'|=|&|a|style|[ é\n])*") {
            let mut at = 0;
            for (_, range) in tokens(&text) {
                prop_assert_eq!(range.start, at);
                prop_assert!(range.end > range.start);
                at = range.end;
            }
            prop_assert_eq!(at, text.len());
            let _ = unescape(&text);
        }
    }
}
