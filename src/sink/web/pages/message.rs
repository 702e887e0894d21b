//! The page of one message, in its several views.

use serde::Deserialize;

use crate::sink::{content::Content, mailbox::Received};

use super::{Escaped, put, size};

/// How a message is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::sink::web) enum View {
    /// Rendered.
    Html,
    /// On a phone's width, rendered.
    Phone,
    /// The text part.
    Text,
    /// All header fields.
    Headers,
    /// All links.
    Links,
    /// As it came.
    Source,
}

impl View {
    fn name(self) -> &'static str {
        match self {
            Self::Html => "html",
            Self::Phone => "phone",
            Self::Text => "text",
            Self::Headers => "headers",
            Self::Links => "links",
            Self::Source => "source",
        }
    }
}

/// What a message's page shows besides the message.
#[derive(Debug, Clone, Default)]
pub(in crate::sink::web) struct Around {
    /// The next older message still held.
    pub(in crate::sink::web) older: Option<u64>,
    /// The next newer one.
    pub(in crate::sink::web) newer: Option<u64>,
    /// Whether the one-click unsubscribe button can work here.
    pub(in crate::sink::web) one_click: bool,
    /// What pressing it led to, just now.
    pub(in crate::sink::web) notice: Option<String>,
}

/// One message.
pub(in crate::sink::web) fn page(
    message: &Received,
    content: &Content,
    view: View,
    around: &Around,
) -> String {
    let subject = if message.subject.is_empty() { "(no subject)" } else { &message.subject };
    let mut body = String::from(
        "<header class=\"bar\">\n<h1><a href=\"/\">Built-in mailbox</a></h1>\n</header>\n<main>\n",
    );
    navigation(&mut body, around);
    if let Some(notice) = &around.notice {
        put(
            &mut body,
            format_args!("<p class=\"notice\" role=\"status\">{}</p>\n", Escaped(notice)),
        );
    }
    put(&mut body, format_args!("<div class=\"heading\"><h2>{}</h2>\n", Escaped(subject)));
    if around.one_click {
        put(
            &mut body,
            format_args!(
                "<form action=\"/messages/{}/leave\" method=\"post\"><button class=\"quiet\" \
                 title=\"Posts to List-Unsubscribe as a mail client would\">Unsubscribe</button></form>\n",
                message.id
            ),
        );
    }
    body.push_str("</div>\n<dl class=\"envelope\">\n");
    let from = content.header("from").unwrap_or(&message.mail_from);
    let from = if message.from.is_empty() { from } else { &message.from };
    let to = message.rcpt_to.join(", ");
    let bounces = if message.mail_from.is_empty() { "<>" } else { &message.mail_from };
    let at = message.at.to_string();
    let when = format!("{at}, {}", size(message.raw.len() as u64));
    for (label, value) in
        [("From", from), ("To", to.as_str()), ("Bounces to", bounces), ("Received", when.as_str())]
    {
        put(&mut body, format_args!("<div><dt>{label}</dt><dd>{}</dd></div>\n", Escaped(value)));
    }
    body.push_str("</dl>\n");
    tabs(&mut body, message.id, content, view);
    show(&mut body, message, content, view);
    for attachment in &content.attachments {
        let (name, size) = (Escaped(&attachment.name), size(attachment.size as u64));
        put(&mut body, format_args!("<p class=\"attachment\">Attached: {name} ({size})</p>\n"));
    }
    body.push_str("</main>\n");
    super::page(subject, "", &body)
}

fn navigation(out: &mut String, around: &Around) {
    out.push_str("<nav class=\"back\" aria-label=\"Messages\"><a href=\"/\">All messages</a>");
    for (label, id) in [("Newer", around.newer), ("Older", around.older)] {
        match id {
            Some(id) => put(out, format_args!("<a href=\"/messages/{id}\">{label}</a>")),
            None => put(out, format_args!("<span>{label}</span>")),
        }
    }
    out.push_str("</nav>\n");
}

fn tabs(out: &mut String, id: u64, content: &Content, view: View) {
    out.push_str("<nav class=\"tabs\" aria-label=\"Views\">\n");
    for (tab, label, shown) in [
        (View::Html, "Desktop", content.html.is_some()),
        (View::Phone, "Phone", content.html.is_some()),
        (View::Text, "Text", content.text.is_some()),
        (View::Links, "Links", !content.links.is_empty()),
        (View::Headers, "Headers", true),
        (View::Source, "Source", true),
    ] {
        if shown {
            let current = if tab == view { " aria-current=\"page\"" } else { "" };
            let name = tab.name();
            put(out, format_args!("<a href=\"/messages/{id}?view={name}\"{current}>{label}</a>\n"));
        }
    }
    put(out, format_args!("<a class=\"aside\" href=\"/messages/{id}/raw\">Raw</a>\n</nav>\n"));
}

fn show(out: &mut String, message: &Received, content: &Content, view: View) {
    match view {
        View::Html | View::Phone if content.html.is_some() => {
            put(
                out,
                format_args!(
                    "<iframe class=\"mail {}\" title=\"The message as rendered\" src=\"/messages/{}/html\" \
                 sandbox=\"allow-popups allow-popups-to-escape-sandbox\" \
                 referrerpolicy=\"no-referrer\"></iframe>\n",
                    view.name(),
                    message.id
                ),
            );
        }
        View::Html | View::Phone | View::Text => {
            let text = content.text.as_deref().unwrap_or("(no text part)");
            put(out, format_args!("<pre class=\"text\">{}</pre>\n", Escaped(text)));
        }
        View::Headers => {
            out.push_str("<table class=\"headers\"><tbody>\n");
            for (name, value) in &content.headers {
                let (name, value) = (Escaped(name), Escaped(value));
                put(out, format_args!("<tr><th scope=\"row\">{name}</th><td>{value}</td></tr>\n"));
            }
            out.push_str("</tbody></table>\n");
        }
        View::Links => {
            out.push_str("<ul class=\"links\">\n");
            for link in &content.links {
                let text = Escaped(link);
                // Only what a mail client would follow becomes a link here.
                if ["https://", "http://", "mailto:"].iter().any(|scheme| link.starts_with(scheme))
                {
                    put(
                        out,
                        format_args!(
                            "<li><a href=\"{text}\" rel=\"noreferrer noopener\" target=\"_blank\">{text}</a></li>\n"
                        ),
                    );
                } else {
                    put(out, format_args!("<li>{text}</li>\n"));
                }
            }
            out.push_str("</ul>\n");
        }
        View::Source => {
            let source = String::from_utf8_lossy(&message.raw);
            put(out, format_args!("<pre class=\"source\">{}</pre>\n", Escaped(&source)));
        }
    }
}

/// A message's HTML with a base that opens its links in a new tab, as they cannot open in the
/// sandbox. Put inside the head, so that the document keeps its doctype and its rendering mode.
pub(in crate::sink::web) fn with_links_opening_elsewhere(html: &str) -> String {
    const BASE: &str = "<base target=\"_blank\">";
    let lower = html.to_ascii_lowercase();
    let after_tag = |tag: &str| {
        let start = lower.find(tag)?;
        let next = *lower.as_bytes().get(start + tag.len())?;
        if next != b'>' && !next.is_ascii_whitespace() {
            return None;
        }
        Some(start + lower[start..].find('>')? + 1)
    };
    match after_tag("<head").or_else(|| after_tag("<html")).or_else(|| after_tag("<!doctype")) {
        Some(at) => format!("{}{BASE}{}", &html[..at], &html[at..]),
        None => format!("{BASE}{html}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_keeps_the_doctype_first() {
        let base = with_links_opening_elsewhere;
        assert_eq!(
            base("<!DOCTYPE html><html><HEAD lang=x><p>"),
            "<!DOCTYPE html><html><HEAD lang=x><base target=\"_blank\"><p>"
        );
        assert!(base("<!doctype html><header>x").starts_with("<!doctype html><base"));
        assert!(base("<p>x").starts_with("<base"));
    }
}
