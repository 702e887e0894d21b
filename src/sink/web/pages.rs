//! The inbox's pages, written out: values in, HTML out. Every value goes through [`Escaped`].

use std::fmt::{self, Display, Write};

use serde::Deserialize;

use crate::{
    sink::{
        SinkStats,
        content::Content,
        mailbox::{Filter, Received},
    },
    timestamp::Timestamp,
};

/// A text made safe for HTML text and quoted attributes.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// How a message is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum View {
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

fn put(out: &mut String, text: fmt::Arguments<'_>) {
    out.write_fmt(text).expect("a string takes any text");
}

fn page(title: &str, head: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n\
         <link rel=\"icon\" href=\"data:,\">\n<link rel=\"stylesheet\" href=\"/inbox.css\">\n{head}\
         </head>\n<body>\n{body}</body>\n</html>\n",
        title = Escaped(title),
    )
}

/// The list of messages.
pub(super) fn list(
    messages: &[std::sync::Arc<Received>],
    filter: &Filter,
    stats: &SinkStats,
    discard: bool,
    live: bool,
) -> String {
    let mut body = String::new();
    top(&mut body, filter, stats, live);
    body.push_str("<main>\n");
    if messages.is_empty() {
        body.push_str(&empty(filter, discard));
    } else {
        rows(&mut body, messages);
        older(&mut body, messages, filter);
    }
    body.push_str("</main>\n");
    foot(&mut body, stats);
    let refresh = if live { "<meta http-equiv=\"refresh\" content=\"3\">\n" } else { "" };
    page(&format!("Inbox ({})", stats.held), refresh, &body)
}

fn top(out: &mut String, filter: &Filter, stats: &SinkStats, live: bool) {
    let value = |field: &Option<String>| Escaped(field.as_deref().unwrap_or_default()).to_string();
    let (label, href) = if live { ("Live: on", "/") } else { ("Live: off", "/?live=1") };
    let live_class = if live { " on" } else { "" };
    put(
        out,
        format_args!(
            "<header class=\"bar\">\n<h1><a href=\"/\">Built-in mailbox</a></h1>\n\
         <form class=\"search\" role=\"search\" action=\"/\">\n\
         <label class=\"unseen\" for=\"q\">Search subject, sender and recipient</label>\n\
         <input id=\"q\" type=\"search\" name=\"q\" value=\"{q}\" placeholder=\"Subject, sender, recipient\">\n\
         <label class=\"unseen\" for=\"to\">Recipient</label>\n\
         <input id=\"to\" type=\"search\" name=\"to\" value=\"{to}\" placeholder=\"Only to…\">\n\
         <button>Search</button>\n</form>\n\
         <a class=\"live{live_class}\" href=\"{href}\">{label}</a>\n\
         <form action=\"/clear\" method=\"post\"><button class=\"quiet\"{disabled}>Empty</button></form>\n\
         </header>\n",
            q = value(&filter.q),
            to = value(&filter.to),
            disabled = if stats.held == 0 { " disabled" } else { "" },
        ),
    );
}

fn empty(filter: &Filter, discard: bool) -> String {
    let (title, hint) = if filter != &Filter::default() {
        ("Nothing matches", "Try fewer words, or <a href=\"/\">see everything</a>.")
    } else if discard {
        ("Messages are counted, not kept", "The mailbox runs in discard mode.")
    } else {
        ("No mail yet", "What is sent to this mailbox appears here. It goes no further.")
    };
    format!("<div class=\"empty\"><h2>{title}</h2><p>{hint}</p></div>\n")
}

fn rows(out: &mut String, messages: &[std::sync::Arc<Received>]) {
    out.push_str("<ol class=\"messages\">\n");
    for message in messages {
        let subject = if message.subject.is_empty() { "(no subject)" } else { &message.subject };
        put(
            out,
            format_args!(
                "<li><a class=\"row\" href=\"/messages/{id}\"><span class=\"from\">{from}</span>\
             <span class=\"subject\">{subject}</span>\
             <span class=\"size\">{size}</span><time datetime=\"{at}\">{clock}</time></a>",
                id = message.id,
                from = Escaped(sender(message)),
                subject = Escaped(subject),
                size = size(message.raw.len() as u64),
                at = message.at,
                clock = clock(message.at),
            ),
        );
        out.push_str("<span class=\"to\">to ");
        for (index, address) in message.rcpt_to.iter().take(3).enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            let query: String = url::form_urlencoded::byte_serialize(address.as_bytes()).collect();
            put(out, format_args!("{comma}<a href=\"/?to={query}\">{}</a>", Escaped(address)));
        }
        if message.rcpt_to.len() > 3 {
            put(out, format_args!(" and {} more", message.rcpt_to.len() - 3));
        }
        out.push_str("</span></li>\n");
    }
    out.push_str("</ol>\n");
}

fn older(out: &mut String, messages: &[std::sync::Arc<Received>], filter: &Filter) {
    let Some(last) = messages.last().filter(|last| last.id > 1 && messages.len() >= 50) else {
        return;
    };
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in [("q", &filter.q), ("to", &filter.to), ("subject", &filter.subject)] {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    query.append_pair("before", &last.id.to_string());
    let query = query.finish();
    put(
        out,
        format_args!(
            "<nav><a class=\"more\" href=\"/?{}\">Older messages</a></nav>\n",
            Escaped(&query)
        ),
    );
}

fn foot(out: &mut String, stats: &SinkStats) {
    out.push_str("<footer>\n<dl class=\"counts\">\n");
    for (label, value) in [
        ("accepted", stats.accepted.to_string()),
        ("deferred", stats.deferred.to_string()),
        ("rejected", stats.rejected.to_string()),
        ("broken off", stats.broken.to_string()),
        ("held", format!("{} ({})", stats.held, size(stats.held_bytes))),
        ("dropped for room", stats.dropped.to_string()),
        ("connections", format!("{} open, {} in all", stats.connections_open, stats.connections)),
    ] {
        put(out, format_args!("<div><dt>{label}</dt><dd>{value}</dd></div>\n"));
    }
    out.push_str("</dl>\n<p><a href=\"/api/messages\">JSON</a> · <a href=\"/api/stats\">counts as JSON</a></p>\n</footer>\n");
}

/// One message.
pub(super) fn message(message: &Received, content: &Content, view: View) -> String {
    let subject = if message.subject.is_empty() { "(no subject)" } else { &message.subject };
    let mut body = String::from(
        "<header class=\"bar\">\n<h1><a href=\"/\">Built-in mailbox</a></h1>\n</header>\n<main>\n",
    );
    put(
        &mut body,
        format_args!(
            "<p class=\"back\"><a href=\"/\">← All messages</a></p>\n<h2 class=\"title\">{}</h2>\n\
         <dl class=\"envelope\">\n",
            Escaped(subject)
        ),
    );
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
    page(subject, "", &body)
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
pub(super) fn with_links_opening_elsewhere(html: &str) -> String {
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

/// The page for what is not there.
pub(super) fn not_found() -> String {
    page(
        "Not here",
        "",
        "<main><div class=\"empty\"><h2>Not here</h2><p>That message does not exist, or was dropped \
         to make room. <a href=\"/\">All messages</a></p></div></main>\n",
    )
}

fn sender(message: &Received) -> &str {
    let name = message.from.split(" <").next().unwrap_or_default();
    if name.is_empty() { &message.mail_from } else { name }
}

fn size(bytes: u64) -> String {
    match bytes {
        0..1000 => format!("{bytes} B"),
        1000..1_000_000 => format!("{:.1} KB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

fn clock(at: Timestamp) -> String {
    at.to_jiff().strftime("%H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_a_sender_wrote_is_escaped() {
        let evil = "\"><script>alert('x')</script>".to_owned();
        let received = Received {
            id: 1,
            at: Timestamp::default(),
            connection: 1,
            mail_from: evil.clone(),
            rcpt_to: vec![evil.clone(); 2],
            from: evil.clone(),
            subject: evil.clone(),
            message_id: Some(evil.clone()),
            raw: evil.clone().into_bytes(),
        };
        let content = Content {
            headers: vec![(evil.clone(), evil.clone())],
            text: Some(evil.clone()),
            html: None,
            links: vec![evil.clone(), format!("https://{evil}"), "javascript:alert(1)".into()],
            attachments: vec![crate::sink::content::Attachment { name: evil.clone(), size: 1 }],
        };
        let filter = Filter { q: Some(evil.clone()), to: Some(evil), ..Filter::default() };
        let stats = SinkStats::default();
        let mut all = list(&[std::sync::Arc::new(received.clone())], &filter, &stats, false, true);
        for view in [View::Html, View::Text, View::Headers, View::Links, View::Source] {
            all.push_str(&message(&received, &content, view));
        }
        assert!(!all.contains("<script"), "{all}");
        assert!(!all.contains("href=\"javascript:"));
    }

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
