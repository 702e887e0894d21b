//! A received message taken apart for people and for the API: headers, text, HTML, links.

use std::collections::HashSet;

use mail_parser::{MessageParser, MimeHeaders};
use serde::Serialize;

/// A message's parts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Content {
    /// Header fields in their order, name and unfolded value as sent.
    pub headers: Vec<(String, String)>,
    /// The plain text body, if there is one.
    pub text: Option<String>,
    /// The HTML body, if there is one.
    pub html: Option<String>,
    /// The links of both bodies, each once, in their order.
    pub links: Vec<String>,
    /// Names and sizes of attachments.
    pub attachments: Vec<Attachment>,
}

/// An attachment's outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attachment {
    /// Its file name, or its type where it has none.
    pub name: String,
    /// Its decoded size in bytes.
    pub size: usize,
}

impl Content {
    /// Takes a raw message apart. Anything can be taken apart; what makes no sense is left out.
    pub fn parse(raw: &[u8]) -> Self {
        let headers = headers(raw);
        let Some(message) = MessageParser::default().parse(raw) else {
            return Self { headers, ..Self::default() };
        };
        // `body_html` makes HTML of plain text and the other way round: only real parts are shown.
        let html = message
            .html_bodies()
            .find(|part| matches!(part.body, mail_parser::PartType::Html(_)))
            .and_then(|part| part.text_contents())
            .map(str::to_owned);
        let text = message
            .text_bodies()
            .find(|part| matches!(part.body, mail_parser::PartType::Text(_)))
            .and_then(|part| part.text_contents())
            .map(str::to_owned);
        let mut links = Vec::new();
        collect_hrefs(html.as_deref().unwrap_or_default(), &mut links);
        collect_urls(text.as_deref().unwrap_or_default(), &mut links);
        let mut seen = HashSet::new();
        links.retain(|link| seen.insert(link.clone()));
        let attachments = message
            .attachments()
            .map(|part| Attachment {
                name: part
                    .attachment_name()
                    .map(str::to_owned)
                    .or_else(|| part.content_type().map(|kind| kind.ctype().to_owned()))
                    .unwrap_or_else(|| "unnamed".to_owned()),
                size: part.len(),
            })
            .collect();
        Self { headers, text, html, links, attachments }
    }

    /// The first header field of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        let named = |(field, _): &&(String, String)| field.eq_ignore_ascii_case(name);
        self.headers.iter().find(named).map(|(_, value)| value.as_str())
    }
}

/// The header fields of a message, or of as much of it as is there.
pub(super) fn headers(raw: &[u8]) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in raw.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() {
            break;
        }
        let line = String::from_utf8_lossy(line);
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((name, value)) = line.split_once(':') {
            fields.push((name.trim().to_owned(), value.trim().to_owned()));
        }
    }
    fields
}

/// The `Message-ID` without brackets, looked for in a message's first bytes.
pub(super) fn message_id(raw: &[u8]) -> Option<String> {
    const NAME: &[u8] = b"message-id:";
    let mut lines =
        raw.split(|byte| *byte == b'\n').take_while(|line| !matches!(*line, b"" | b"\r"));
    while let Some(line) = lines.next() {
        let Some((name, value)) = line.split_at_checked(NAME.len()) else { continue };
        if !name.eq_ignore_ascii_case(NAME) {
            continue;
        }
        // The identifier may stand on a continuation line.
        let value =
            if value.trim_ascii().is_empty() { lines.next().unwrap_or_default() } else { value };
        let value = String::from_utf8_lossy(value.trim_ascii()).into_owned();
        return Some(value.trim_matches(['<', '>']).to_owned());
    }
    None
}

/// Finds the targets of `href` attributes. Not a full parser: what it reads is what senders write.
fn collect_hrefs(html: &str, links: &mut Vec<String>) {
    let lower = html.to_ascii_lowercase();
    for (at, found) in lower.match_indices("href=") {
        let rest = &html[at + found.len()..];
        let Some(quote) = rest.chars().next().filter(|c| matches!(c, '"' | '\'')) else { continue };
        if let Some(end) = rest[1..].find(quote) {
            let link = unescape(&rest[1..=end]);
            if !link.starts_with('#') {
                links.push(link);
            }
        }
    }
}

fn unescape(text: &str) -> String {
    text.replace("&#x3D;", "=")
        .replace("&#61;", "=")
        .replace("&#39;", "'")
        .replace("&quot;", "\"")
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&amp;", "&")
}

fn collect_urls(text: &str, links: &mut Vec<String>) {
    for word in text.split(|c: char| c.is_whitespace() || matches!(c, '<' | '>' | '"')) {
        let Some(at) = word.find("https://").or_else(|| word.find("http://")) else { continue };
        let mut link = word[at..].trim_end_matches(['.', ',', ';', ':', '!', '?', '\'']);
        while link.ends_with(')') && link.matches(')').count() > link.matches('(').count() {
            link = &link[..link.len() - 1];
        }
        links.push(link.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUE: &str = "From: SRE <sre@example.org>\r\nSubject: =?utf-8?q?caf=C3=A9?=\r\n\
        Message-ID:\r\n <1@example.org>\r\nX-Long: a\r\n\tb\r\nMIME-Version: 1.0\r\n\
        Content-Type: multipart/alternative; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\n\
        Read https://example.org/a. (Also <http://example.org/b_(c)>)\r\n--b\r\n\
        Content-Type: text/html\r\n\r\n<a href=\"https://example.org/x?a=1&amp;b=2\">x</a>\
        <a HREF='#top'>top</a>\r\n--b--\r\n";

    #[test]
    fn a_message_is_taken_apart() {
        let content = Content::parse(ISSUE.as_bytes());
        assert_eq!(content.header("x-long"), Some("a b"));
        assert!(content.text.as_deref().unwrap().starts_with("Read"));
        assert!(content.html.as_deref().unwrap().starts_with("<a"));
        assert_eq!(
            content.links,
            ["https://example.org/x?a=1&b=2", "https://example.org/a", "http://example.org/b_(c)"]
        );
        assert_eq!(message_id(ISSUE.as_bytes()).as_deref(), Some("1@example.org"));
    }

    #[test]
    fn a_plain_message_has_no_html() {
        let content = Content::parse(b"Subject: x\r\n\r\nhello\r\n");
        assert_eq!((content.text.as_deref(), content.html), (Some("hello\r\n"), None));
        assert_eq!(message_id(b"Subject: x\r\n\r\nMessage-ID: <no>\r\n"), None);
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics(raw in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = Content::parse(&raw);
            let _ = message_id(&raw);
        }
    }
}
