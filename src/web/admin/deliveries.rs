//! The delivery log with filters, in pages.

use axum::{
    Extension,
    extract::{Query, State},
};
use serde::{Deserialize, Serialize};

use super::{
    AdminState,
    access::Visitor,
    issue::edition,
    pages::Page,
    subscriber::row_of,
    words::{self, Instant},
};
use crate::{
    account::Role,
    db::state::EventKind,
    event::{Filter, Line},
    id::SubscriberId,
    newsletter,
    provider::{ProviderId, Providers},
    report::{self, LogPage, Start},
    timestamp::Timestamp,
    web::error::{Code, Problem},
};

/// Lines on one page.
const LINES: u32 = 100;
/// Seconds between two refreshes of the newest page.
const REFRESH: u32 = 3;
/// What a class can begin with: whose fault a refusal is.
const CLASSES: &[&str] = &[
    "recipient",
    "mailbox",
    "network",
    "reputation",
    "policy",
    "authentication",
    "content",
    "unknown",
];

/// What the form asks for, as it was typed.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
pub(super) struct Typed {
    #[serde(default)]
    issue: String,
    #[serde(default)]
    subscriber: String,
    #[serde(default)]
    provider: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    class: String,
    #[serde(default)]
    since: String,
    #[serde(default)]
    until: String,
    #[serde(default)]
    before: Option<i64>,
    #[serde(default)]
    after: Option<i64>,
}

#[derive(Serialize)]
struct LogView {
    now: Instant,
    sees_addresses: bool,
    typed: Typed,
    error: Option<String>,
    providers: Vec<Choice>,
    kinds: Vec<Choice>,
    classes: Vec<Choice>,
    lines: Vec<LineView>,
    newest_url: String,
    newer_url: String,
    older_url: Option<String>,
    stopped_early: bool,
    looked_through: String,
    filtered: bool,
}

#[derive(Serialize)]
struct Choice {
    value: String,
    label: String,
    chosen: bool,
}

/// One line, for a page.
#[derive(Debug, Serialize)]
pub(super) struct LineView {
    at: Instant,
    kind: EventKind,
    /// How it looks: `good`, `bad`, `warn` or `plain`.
    look: &'static str,
    issue: Option<String>,
    issue_url: Option<String>,
    who: Option<String>,
    who_url: Option<String>,
    provider: Option<String>,
    attempt: Option<i64>,
    relay: Option<String>,
    host: Option<String>,
    phase: Option<String>,
    reply: String,
    class: Option<String>,
    duration: Option<String>,
}

pub(super) async fn show(
    State(state): State<AdminState>,
    Extension(visitor): Extension<Visitor>,
    Query(typed): Query<Typed>,
) -> Result<Page, Problem> {
    let role = visitor.session.role;
    let (filter, error) = match filter(&state, &typed, role).await? {
        Ok(filter) => (filter, None),
        Err(error) => (Filter::default(), Some(error)),
    };
    let start = match (typed.before, typed.after) {
        (Some(before), _) => Start::Before(before),
        (None, Some(after)) => Start::After(after),
        (None, None) => Start::Newest,
    };
    let page = if error.is_some() {
        LogPage { lines: Vec::new(), newer: 0, older: None, stopped_early: false }
    } else {
        report::log_page(&state.db, &filter, start, LINES).await?
    };
    let mut frame = state.pages.frame("Deliveries", Some(&visitor)).at("/deliveries");
    if start == Start::Newest && error.is_none() {
        frame = frame.live(REFRESH);
    }
    state.pages.page("deliveries", &frame, view(&state, typed, &page, error, role))
}

fn view(
    state: &AdminState,
    typed: Typed,
    page: &LogPage,
    error: Option<String>,
    role: Role,
) -> LogView {
    let choice = |value: &str, label: &str, chosen: &str| Choice {
        value: value.to_owned(),
        label: label.to_owned(),
        chosen: value == chosen,
    };
    let providers = state.providers.iter();
    let lines = page.lines.iter().map(|line| line_view(line, &state.providers, role));
    let url =
        |before: Option<i64>, after: Option<i64>| url(&Typed { before, after, ..typed.clone() });
    LogView {
        now: words::instant(state.now()),
        sees_addresses: role.sees_addresses(),
        error,
        providers: providers
            .map(|provider| choice(&provider.name, &provider.title, &typed.provider))
            .collect(),
        kinds: EventKind::ALL
            .iter()
            .map(|kind| choice(kind.as_str(), &kind.as_str().replace('_', " "), &typed.kind))
            .collect(),
        classes: CLASSES.iter().map(|class| choice(class, class, &typed.class)).collect(),
        lines: lines.collect(),
        newest_url: url(None, None),
        newer_url: url(None, Some(page.newer)),
        older_url: page.older.map(|before| url(Some(before), None)),
        stopped_early: page.stopped_early,
        looked_through: words::count(report::LOOKED_THROUGH_MAX),
        filtered: url(None, None) != "/deliveries",
        typed,
    }
}

/// Where a page with these filters is.
fn url(typed: &Typed) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in [
        ("issue", &typed.issue),
        ("subscriber", &typed.subscriber),
        ("provider", &typed.provider),
        ("kind", &typed.kind),
        ("class", &typed.class),
        ("since", &typed.since),
        ("until", &typed.until),
    ] {
        if !value.is_empty() {
            query.append_pair(name, value);
        }
    }
    for (name, value) in [("before", typed.before), ("after", typed.after)] {
        if let Some(value) = value {
            query.append_pair(name, &value.to_string());
        }
    }
    let query = query.finish();
    if query.is_empty() { "/deliveries".to_owned() } else { format!("/deliveries?{query}") }
}

/// What was typed, as a filter; or what is wrong with it, in words for the form.
async fn filter(
    state: &AdminState,
    typed: &Typed,
    role: Role,
) -> Result<Result<Filter, String>, Problem> {
    let mut filter = Filter::default();
    if !typed.issue.is_empty() {
        match issue_of(state, typed.issue.trim()).await {
            Ok(issue) => filter.issue = Some(issue),
            Err(problem) if problem.code == Code::Internal => return Err(problem),
            Err(_) => return Ok(Err(format!("There is no issue “{}”.", typed.issue))),
        }
    }
    if !typed.subscriber.is_empty() {
        if !role.sees_addresses() {
            return Err(Code::NotPermitted.into());
        }
        match row_of(state, typed.subscriber.trim()).await? {
            Some(id) => filter.subscriber = Some(id),
            None => return Ok(Err(format!("There is no subscriber “{}”.", typed.subscriber))),
        }
    }
    if !typed.provider.is_empty() {
        match state.providers.by_name(&typed.provider) {
            Some(provider) => filter.provider = Some(provider.0),
            None => return Ok(Err(format!("There is no provider “{}”.", typed.provider))),
        }
    }
    if !typed.kind.is_empty() {
        match EventKind::by_name(&typed.kind) {
            Some(kind) => filter.kind = Some(kind),
            None => return Ok(Err(format!("There is no outcome “{}”.", typed.kind))),
        }
    }
    if !typed.class.is_empty() {
        filter.class = Some(typed.class.chars().take(100).collect());
    }
    for (text, bound) in [(&typed.since, &mut filter.since), (&typed.until, &mut filter.until)] {
        if !text.is_empty() {
            match time_of(text) {
                Some(at) => *bound = Some(at),
                None => return Ok(Err(format!("“{text}” is not a time like 2026-03-02 10:00."))),
            }
        }
    }
    Ok(Ok(filter))
}

/// `weekly/437`, or `437` where there is one newsletter only.
async fn issue_of(state: &AdminState, text: &str) -> Result<crate::id::IssueId, Problem> {
    let unknown = || Problem::from(Code::UnknownIssue);
    let (slug, number) = match text.rsplit_once(['/', '#']) {
        Some((slug, number)) => (slug.trim().to_owned(), number),
        None => match newsletter::list(&state.db).await?.as_slice() {
            [only] => (only.slug.clone(), text),
            _ => return Err(unknown()),
        },
    };
    let number = number.trim().parse().map_err(|_| unknown())?;
    Ok(edition(state, &slug, number).await?.id)
}

/// A time in UTC as browsers and people write it.
fn time_of(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if let Ok(at) = text.parse() {
        return Some(at);
    }
    let civil: jiff::civil::DateTime = text.trim_end_matches(['Z', 'z']).parse().ok()?;
    let at = civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
    Some(Timestamp::from_microseconds(at.as_microsecond()))
}

/// A line of the log, for somebody with `role`.
pub(super) fn line_view(line: &Line, providers: &Providers, role: Role) -> LineView {
    let issue = line.newsletter.as_ref().zip(line.issue);
    let code = line.code.map(|code| code.to_string());
    let text = line.text.as_deref().map(|text| words::text(text, role));
    let enhanced = line
        .enhanced
        .clone()
        .filter(|enhanced| !text.as_ref().is_some_and(|text| text.starts_with(enhanced.as_str())));
    let reply: Vec<String> = [code, enhanced, text].into_iter().flatten().collect();
    LineView {
        at: words::precise(line.at),
        kind: line.kind,
        look: look(line.kind),
        issue: issue.map(|(slug, number)| format!("{slug} #{number}")),
        issue_url: issue.map(|(slug, number)| format!("/issues/{slug}/{number}")),
        who: line.address.as_deref().map(|address| words::address(address, role)),
        who_url: line
            .subscriber_id
            .filter(|_| role >= Role::Operator)
            .map(|SubscriberId(id)| format!("/subscribers/{id}")),
        provider: line.provider.map(|id| providers.name(ProviderId(id)).to_owned()),
        attempt: line.attempt.filter(|attempt| *attempt > 1),
        relay: line.relay.clone(),
        host: line.host.clone(),
        phase: line.phase.clone(),
        reply: reply.join(" "),
        class: line.class.clone(),
        duration: line.duration_us.map(words::micros),
    }
}

fn look(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Accepted | EventKind::Sent | EventKind::Confirmed | EventKind::Resumed => "good",
        EventKind::Rejected
        | EventKind::Expired
        | EventKind::Bounced
        | EventKind::Complained
        | EventKind::Halted => "bad",
        EventKind::Deferred
        | EventKind::Uncertain
        | EventKind::Delayed
        | EventKind::BreakerOpened
        | EventKind::Paused
        | EventKind::Suppressed => "warn",
        _ => "plain",
    }
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn times_are_read_as_browsers_and_people_write_them() {
        let expected: Timestamp = "2026-03-02T10:05:00Z".parse().unwrap();
        for text in [
            "2026-03-02T10:05",
            "2026-03-02 10:05",
            "2026-03-02T10:05:00Z",
            "2026-03-02T12:05+02:00",
        ] {
            assert_eq!(time_of(text), Some(expected), "{text}");
        }
        for text in ["yesterday", "10:05", "2026-13-02T10:05"] {
            assert_eq!(time_of(text), None, "{text}");
        }
    }

    #[test]
    fn links_carry_every_filter() {
        let typed = Typed {
            issue: "weekly/437".into(),
            class: "a&b".into(),
            before: Some(7),
            ..Typed::default()
        };
        assert_eq!(url(&typed), "/deliveries?issue=weekly%2F437&class=a%26b&before=7");
        assert_eq!(url(&Typed::default()), "/deliveries");
    }
}
