//! The inbox's pages, written out: values in, HTML out. Every value goes through [`Escaped`].

pub(super) mod message;

use std::fmt::{self, Display, Write};

use crate::{
    sink::{
        SinkStats,
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
    at.to_jiff().strftime("%-d %b %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::{message::View, *};

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
        let content = crate::sink::content::Content {
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
            all.push_str(&message::page(&received, &content, view, &message::Around::default()));
        }
        assert!(!all.contains("<script"), "{all}");
        assert!(!all.contains("href=\"javascript:"));
    }
}
