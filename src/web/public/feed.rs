//! Feeds: Atom (RFC 4287) and RSS 2.0, with the latest issues whole.

use atom_syndication as atom;
use axum::{
    extract::{Path, State as Extract},
    http::HeaderMap,
    response::Response,
};

use super::{Answer, archive::web_html, cache::cacheable, find_newsletter};
use crate::{
    archive::{self, ArchivedIssue},
    newsletter::Newsletter,
    timestamp::Timestamp,
    web::State,
};

/// Issues in a feed.
const FEED_ISSUES: u32 = 20;

struct Entry {
    issue: ArchivedIssue,
    url: String,
    html: String,
}

async fn entries(state: &State, newsletter: &Newsletter) -> Answer<Vec<Entry>> {
    let mut entries = Vec::new();
    for issue in archive::published(&state.db, newsletter.id, i64::MAX, FEED_ISSUES).await? {
        let url = state.pages.links.issue(&newsletter.slug, issue.number);
        let html = xml_text(&web_html(state, newsletter, issue.id).await?);
        entries.push(Entry { issue, url, html });
    }
    Ok(entries)
}

/// When anything in the feed changed last.
fn updated(newsletter: &Newsletter, entries: &[Entry]) -> Timestamp {
    let issues = entries.iter().map(|entry| entry.issue.started_at);
    issues.max().unwrap_or(newsletter.created_at)
}

/// The Atom feed.
pub(super) async fn atom(
    Extract(state): Extract<State>,
    Path(slug): Path<String>,
    headers: HeaderMap,
) -> Answer<Response> {
    let newsletter = find_newsletter(&state, &slug).await?;
    let entries = entries(&state, &newsletter).await?;
    let updated = updated(&newsletter, &entries);
    let links = &state.pages.links;
    let link = |rel: &str, href: String, mime: &str| atom::Link {
        href,
        rel: rel.into(),
        mime_type: Some(mime.into()),
        ..atom::Link::default()
    };
    let feed = atom::Feed {
        title: xml_text(&newsletter.name).into(),
        id: format!("urn:uuid:{}", newsletter.uid),
        updated: date(updated),
        subtitle: (!newsletter.description.is_empty())
            .then(|| xml_text(&newsletter.description).into()),
        lang: Some(newsletter.language.clone()),
        authors: vec![atom::Person {
            name: xml_text(&newsletter.from_name),
            ..atom::Person::default()
        }],
        links: vec![
            link("self", links.atom(&slug), "application/atom+xml"),
            link("alternate", links.newsletter(&slug), "text/html"),
        ],
        entries: entries
            .iter()
            .map(|entry| atom::Entry {
                title: xml_text(&entry.issue.subject).into(),
                id: format!("urn:uuid:{}", entry.issue.uid),
                updated: date(entry.issue.started_at),
                published: Some(date(entry.issue.started_at)),
                links: vec![link("alternate", entry.url.clone(), "text/html")],
                content: Some(atom::Content {
                    value: Some(entry.html.clone()),
                    content_type: Some("html".into()),
                    ..atom::Content::default()
                }),
                ..atom::Entry::default()
            })
            .collect(),
        ..atom::Feed::default()
    };
    Ok(cacheable(&headers, "application/atom+xml; charset=utf-8", feed.to_string(), updated))
}

/// The RSS feed.
pub(super) async fn rss(
    Extract(state): Extract<State>,
    Path(slug): Path<String>,
    headers: HeaderMap,
) -> Answer<Response> {
    let newsletter = find_newsletter(&state, &slug).await?;
    let entries = entries(&state, &newsletter).await?;
    let updated = updated(&newsletter, &entries);
    let item = |entry: &Entry| rss::Item {
        title: Some(xml_text(&entry.issue.subject)),
        link: Some(entry.url.clone()),
        guid: Some(rss::Guid { value: format!("urn:uuid:{}", entry.issue.uid), permalink: false }),
        pub_date: Some(entry.issue.started_at.to_rfc5322()),
        content: Some(entry.html.clone()),
        ..rss::Item::default()
    };
    let mut channel = rss::Channel {
        title: xml_text(&newsletter.name),
        link: state.pages.links.newsletter(&slug),
        description: xml_text(&newsletter.description),
        language: Some(newsletter.language.clone()),
        last_build_date: Some(updated.to_rfc5322()),
        items: entries.iter().map(item).collect(),
        ..rss::Channel::default()
    };
    let content = "http://purl.org/rss/1.0/modules/content/".to_owned();
    channel.namespaces.insert("content".to_owned(), content);
    let feed = format!("<?xml version=\"1.0\" encoding=\"utf-8\"?>{}", body(&channel));
    Ok(cacheable(&headers, "application/rss+xml; charset=utf-8", feed, updated))
}

/// The channel without a declaration of its own.
fn body(channel: &rss::Channel) -> String {
    let text = channel.to_string();
    text.split_once("?>").map_or(text.clone(), |(_, rest)| rest.trim_start().to_owned())
}

/// A date as Atom has it.
fn date(at: Timestamp) -> atom::FixedDateTime {
    at.to_string().parse().unwrap_or_default()
}

/// Text without the characters that no XML document may have (XML 1.0, section 2.2).
fn xml_text(text: &str) -> String {
    text.chars()
        .filter(|&c| {
            matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}')
        })
        .collect()
}
