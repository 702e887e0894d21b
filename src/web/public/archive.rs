//! The list of newsletters, a newsletter's home with its archive, and the page of an issue.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    extract::{Path, Query, State as Extract},
    http::HeaderMap,
    response::{IntoResponse, Redirect, Response},
};
use serde::{Deserialize, Serialize};

use super::{Answer, cache::cacheable, find_newsletter, sign_up::FormView};
use crate::{
    archive::{self, ArchivedIssue},
    id::IssueId,
    newsletter::{self, Newsletter},
    web::{State, error::Code},
};

/// Issues on one page of an archive.
const PAGE_ISSUES: u32 = 50;
/// Rendered issues that are kept.
const RENDERED_MAX: usize = 64;

/// Issues that were rendered before: published ones do not change, so only their newsletter's looks
/// can make them old.
#[derive(Debug, Default)]
pub(in crate::web) struct Rendered(Mutex<VecDeque<(Key, Arc<str>)>>);

type Key = (IssueId, u64);

/// The HTML of an issue, from memory where possible.
pub(super) async fn web_html(
    state: &State,
    newsletter: &Newsletter,
    issue: IssueId,
) -> Answer<Arc<str>> {
    let mut hasher = DefaultHasher::new();
    format!("{newsletter:?}").hash(&mut hasher);
    let key = (issue, hasher.finish());
    let kept = |state: &State| {
        let kept = state.rendered.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|(found, _)| *found == key).map(|(_, html)| Arc::clone(html))
    };
    if let Some(html) = kept(state) {
        return Ok(html);
    }
    let about = (newsletter, &state.pages.links);
    let html = archive::web_html(&state.db, &state.renderer, about, issue).await;
    let html: Arc<str> = html.map_err(anyhow::Error::new)?.into();
    let mut kept = state.rendered.0.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.len() >= RENDERED_MAX {
        kept.pop_front();
    }
    kept.push_back((key, Arc::clone(&html)));
    Ok(html)
}

/// An issue as pages name it.
#[derive(Debug, Serialize)]
struct IssueView {
    number: i64,
    subject: String,
    url: String,
    date: String,
    day: String,
}

impl IssueView {
    fn new(state: &State, newsletter: &Newsletter, issue: &ArchivedIssue) -> Self {
        let at = issue.started_at.to_jiff();
        Self {
            number: issue.number,
            subject: issue.subject.clone(),
            url: state.pages.paths.issue(&newsletter.slug, issue.number),
            date: at.strftime("%Y-%m-%d").to_string(),
            day: at.strftime("%-d %B %Y").to_string(),
        }
    }
}

#[derive(Serialize)]
struct Listed {
    name: String,
    language: String,
    description: String,
    home: String,
}

/// All newsletters; with only one, its home.
pub(super) async fn home(Extract(state): Extract<State>) -> Answer<Response> {
    let all = newsletter::list(&state.db).await?;
    if let [only] = all.as_slice() {
        let home = state.pages.paths.newsletter(&only.slug);
        return Ok(Redirect::temporary(&home).into_response());
    }
    let listed = |newsletter: Newsletter| Listed {
        home: state.pages.paths.newsletter(&newsletter.slug),
        name: newsletter.name,
        language: newsletter.language,
        description: newsletter.description,
    };
    let newsletters: Vec<Listed> = all.into_iter().map(listed).collect();
    let frame = state.pages.frame("Newsletters").listed(state.pages.links.home(), "");
    let content = serde_json::json!({ "newsletters": newsletters });
    Ok(state.pages.page("home", &frame, content)?.into_response())
}

/// Where a page of the archive ends.
#[derive(Debug, Deserialize)]
pub(super) struct Before {
    before: Option<i64>,
}

#[derive(Serialize)]
struct Home {
    form: Option<FormView>,
    latest: Option<IssueView>,
    issues: Vec<IssueView>,
    older_than: Option<i64>,
    older: Option<String>,
}

/// A newsletter's home: what it is, the form, the latest issue, the archive.
pub(super) async fn newsletter(
    Extract(state): Extract<State>,
    Path(slug): Path<String>,
    Query(Before { before }): Query<Before>,
) -> Answer {
    let newsletter = find_newsletter(&state, &slug).await?;
    let upto = before.unwrap_or(i64::MAX);
    let found = archive::published(&state.db, newsletter.id, upto, PAGE_ISSUES + 1).await?;
    let more = found.len() > PAGE_ISSUES as usize;
    let shown = found.iter().take(PAGE_ISSUES as usize);
    let mut issues: Vec<IssueView> =
        shown.map(|issue| IssueView::new(&state, &newsletter, issue)).collect();
    let last = issues.last().map(|issue| issue.number);
    let latest = (before.is_none() && !issues.is_empty()).then(|| issues.remove(0));
    let home = state.pages.paths.newsletter(&slug);
    let content = Home {
        form: before.is_none().then(|| FormView::new(&state, &newsletter, "", None)),
        latest,
        issues,
        older_than: before,
        older: last.filter(|_| more).map(|last| format!("{home}?before={last}")),
    };
    let canonical = state.pages.links.newsletter(&slug);
    let frame = state.pages.frame_of(&newsletter, newsletter.name.clone()).without_masthead();
    state.pages.page("newsletter", &frame.listed(canonical, &newsletter.description), content)
}

#[derive(Serialize)]
struct IssuePage<'a> {
    issue: IssueView,
    content: &'a str,
    previous: Option<String>,
    next: Option<String>,
}

/// The page of an issue.
pub(super) async fn issue(
    Extract(state): Extract<State>,
    Path((slug, number)): Path<(String, String)>,
    headers: HeaderMap,
) -> Answer<Response> {
    let newsletter = find_newsletter(&state, &slug).await?;
    let number: i64 = number.parse().map_err(|_| Code::NotFound)?;
    let found = archive::find(&state.db, newsletter.id, number).await?;
    let found = found.ok_or(Code::UnknownIssue)?;
    let content = web_html(&state, &newsletter, found.id).await?;
    let page_of = |number: i64| state.pages.paths.issue(&slug, number);
    let previous = archive::published(&state.db, newsletter.id, number, 1).await?.pop();
    let next = archive::next(&state.db, newsletter.id, number).await?;
    let view = IssuePage {
        issue: IssueView::new(&state, &newsletter, &found),
        content: &content,
        previous: previous.map(|issue| page_of(issue.number)),
        next: next.map(page_of),
    };
    let title = format!("{} · {}", found.subject, newsletter.name);
    let canonical = state.pages.links.issue(&slug, number);
    let frame = state.pages.frame_of(&newsletter, title).listed(canonical, "");
    let page = state.pages.page("issue", &frame, view)?;
    Ok(cacheable(&headers, "text/html; charset=utf-8", page.0, found.started_at))
}
