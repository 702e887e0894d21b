//! Rules about links and pictures.

use std::collections::HashMap;

use url::Url;

use crate::{
    diagnostic::{Findings, Span},
    issue::{
        lint::{
            LintContext,
            address::{host_of, link_key, without_fields, without_tracking},
        },
        model::{Block, Inline, IssueDocument, Name, plain},
        rule,
    },
};

/// Link texts that say nothing about where a link leads.
const GENERIC: &[&str] = &[
    "here",
    "click here",
    "click",
    "this",
    "link",
    "this link",
    "read more",
    "more",
    "learn more",
    "read on",
    "this article",
    "this post",
    "this page",
    "article",
    "page",
    "website",
    "see here",
    "read it",
    "details",
    "go",
];

/// A link or picture of an issue.
struct Site<'a> {
    url: &'a str,
    text: String,
    span: Span,
    block: usize,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Item,
    Link,
    Sponsor,
}

pub(super) fn check(findings: &mut Findings<'_>, document: &IssueDocument, context: &LintContext) {
    let mut first: HashMap<String, (usize, u32)> = HashMap::new();
    for site in sites(document) {
        let place = url_place(findings, &site);
        if !target(findings, site.url, place) {
            continue;
        }
        tracking(findings, site.url, place);
        link_text(findings, &site);
        let key = link_key(site.url);
        let line = findings.source().position(site.span.start).0;
        match first.get(&key) {
            // Within one block, a sponsor's for instance, a link may well stand twice.
            Some(&(block, _)) if block == site.block => {}
            Some((_, line)) => {
                findings
                    .add(
                        rule::LINK_DUPLICATE,
                        place,
                        format!("this link stands in line {line} already"),
                    )
                    .suggest("remove one of them, or link to something more particular");
            }
            None => {
                first.insert(key.clone(), (site.block, line));
            }
        }
        if let Some(number) = context.archive_links.get(&key).filter(|_| site.kind != Kind::Sponsor)
        {
            findings
                .add(rule::LINK_IN_ARCHIVE, place, format!("issue #{number} had this link"))
                .suggest("say in the commentary why it comes again, or drop it");
        }
    }
    document.each_inline(&mut |inline| {
        if let Inline::Image { url, alt, width, height, span } = inline {
            image(findings, url, alt, (*width, *height), *span);
        }
    });
}

pub(super) fn archive_keys(document: &IssueDocument) -> Vec<String> {
    let sites = sites(document);
    let kept = sites.iter().filter(|site| site.kind != Kind::Sponsor);
    let mut keys: Vec<String> =
        kept.filter(|site| host_of(site.url).is_some()).map(|site| link_key(site.url)).collect();
    keys.sort();
    keys.dedup();
    keys
}

fn sites(document: &IssueDocument) -> Vec<Site<'_>> {
    let mut out = Vec::new();
    for (block_index, block) in document.blocks().iter().enumerate() {
        let is_sponsor = matches!(block, Block::Sponsor(_));
        let kind = if is_sponsor { Kind::Sponsor } else { Kind::Link };
        if let Block::Item(item) = block {
            let text = plain(&item.title);
            out.push(Site {
                url: &item.url,
                text,
                span: item.span,
                block: block_index,
                kind: Kind::Item,
            });
        }
        block.each_inline(&mut |inline| {
            if let Inline::Link { url, content, span } = inline {
                out.push(Site { url, text: plain(content), span: *span, block: block_index, kind });
            }
        });
        if let Block::Item(item) = block
            && let Some(byline) = &item.byline
        {
            for Name { name, url } in byline.authors.iter().chain(&byline.organisation) {
                // People come again and again; their pages are no links of the archive.
                out.extend(url.as_deref().map(|url| Site {
                    url,
                    text: name.clone(),
                    span: byline.span,
                    block: block_index,
                    kind: Kind::Sponsor,
                }));
            }
        }
    }
    out
}

/// Where the URL itself stands, if it can be found in the text of the link.
fn url_place(findings: &Findings<'_>, site: &Site<'_>) -> Span {
    let text = findings.source().text();
    let found = text
        .get(site.span.start..site.span.end)
        .and_then(|written| written.rfind(site.url).filter(|_| !site.url.is_empty()));
    match found {
        Some(at) => {
            let start = site.span.start + at;
            Span::new(start, start + site.url.len())
        }
        None => site.span,
    }
}

/// Whether the target can be followed at all.
fn target(findings: &mut Findings<'_>, url: &str, place: Span) -> bool {
    if url.trim().is_empty() {
        findings
            .add(rule::LINK_EMPTY, place, "this link leads nowhere")
            .suggest("write where it leads between the parentheses");
        return false;
    }
    if is_reader_url(url) {
        return true;
    }
    let shown: String = url.chars().take(60).collect();
    let scheme = url.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase());
    match scheme.as_deref() {
        Some("https") => {
            if Url::parse(&without_fields(url)).is_err() {
                findings.add(rule::LINK_RELATIVE, place, format!("`{shown}` is no valid address"));
                return false;
            }
            true
        }
        Some("mailto") => true,
        Some("http") => {
            let https = format!("https{}", &url[4..]);
            findings
                .add(
                    rule::LINK_HTTP,
                    place,
                    "this link is http, which anyone on the way can read and change",
                )
                .suggest(format!("if it works, write {https}"))
                .replace_with(https);
            true
        }
        Some(scheme) if is_scheme(scheme) && !url.starts_with("localhost:") => {
            findings
                .add(rule::LINK_SCHEME, place, format!("a mail does not link to `{scheme}:`"))
                .suggest("link to a page with https");
            false
        }
        _ => {
            let noted = &mut findings.add(
                rule::LINK_RELATIVE,
                place,
                format!(
                    "`{shown}` is relative, and a mail stands nowhere that it could be relative to"
                ),
            );
            let like_host = url.split('/').next().is_some_and(|host| {
                host.contains('.')
                    && !host.starts_with('.')
                    && host.chars().all(|c| c.is_alphanumeric() || "-.".contains(c))
            });
            if like_host {
                let https = format!("https://{url}");
                noted.suggest(format!("write {https}")).replace_with(https);
            } else {
                noted.suggest("write the whole address, beginning with https://");
            }
            false
        }
    }
}

fn is_scheme(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

fn is_reader_url(url: &str) -> bool {
    crate::issue::render::body::is_web_or_mail(url) && url.starts_with("{{")
}

fn tracking(findings: &mut Findings<'_>, url: &str, place: Span) {
    let Some((fixed, removed)) = without_tracking(url) else { return };
    let names = removed.join("`, `");
    let noted = &mut findings.add(
        rule::LINK_TRACKING,
        place,
        format!("this link follows readers with `{names}`"),
    );
    noted.suggest(format!("use {fixed}"));
    if place.end - place.start == url.len() {
        noted.replace_with(fixed);
    }
}

fn link_text(findings: &mut Findings<'_>, site: &Site<'_>) {
    let text = site.text.trim();
    if text.is_empty() {
        findings
            .add(rule::LINK_EMPTY, site.span, "this link has no text")
            .suggest("write what it leads to between the brackets");
        return;
    }
    let bare = text.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase();
    if GENERIC.contains(&&*bare) {
        findings
            .add(rule::LINK_TEXT, site.span, format!("`{text}` does not say where the link leads"))
            .suggest(
                "link the words that name the target: people who hear the mail jump between links",
            );
    }
}

fn image(
    findings: &mut Findings<'_>,
    url: &str,
    alt: &str,
    size: (Option<u32>, Option<u32>),
    span: Span,
) {
    if url.trim().to_ascii_lowercase().starts_with("data:") {
        findings
            .add(
                rule::IMAGE_DATA,
                span,
                "this picture is embedded as data, which many clients do not show",
            )
            .suggest("put it on a web server and link to it with https");
    } else {
        target(findings, url, span);
    }
    if alt.is_empty() {
        findings.add(rule::IMAGE_ALT, span, "this picture has no alternative text").suggest(
            "write between the brackets what it shows: most clients hide pictures at first",
        );
    }
    if size.0.is_none() || size.1.is_none() {
        findings
            .add(
                rule::IMAGE_SIZE,
                span,
                "this picture has no width and height, so the text jumps when it comes",
            )
            .suggest("write `![…](…){width=600 height=300}`");
    }
}
