//! One issue while it is being sent, and afterwards.

use axum::{
    Extension,
    extract::{Path, State},
};
use serde::Serialize;

use super::{
    AdminState,
    access::Visitor,
    approval::{self, ApprovalForm},
    pages::{EquationView, Page},
    words::{self, Instant},
};
use crate::{
    account::Role,
    db::state::{EventKind, IssueState},
    delivery::control::{self, Edition},
    newsletter::{self, NewsletterError},
    report::{
        self, HaltStatus, IssueStatus, Pace, Percentiles, Rate, ReplyGroup, Scope, Uncertain,
    },
    timestamp::Timestamp,
    web::error::{Code, Problem},
};

/// Seconds between two refreshes while something moves.
const REFRESH: u32 = 3;

#[derive(Serialize)]
struct IssuePage {
    now: Instant,
    newsletter: String,
    newsletter_slug: String,
    number: i64,
    subject: String,
    state: IssueState,
    sends_at: Option<Instant>,
    started_at: Option<Instant>,
    finished_at: Option<Instant>,
    expires_at: Option<Instant>,
    audience: String,
    begun: bool,
    holds: bool,
    equation: EquationView,
    providers: Vec<Row>,
    stages: Vec<Row>,
    rates: Vec<RateView>,
    times: Vec<TimesView>,
    limited_by: String,
    eta: Option<EtaView>,
    next: String,
    approval: Option<String>,
    approve: Option<ApprovalForm>,
    halt: Option<HaltView>,
    warnings: Vec<HaltView>,
    replies: Vec<ReplyView>,
    uncertain: Vec<UncertainView>,
    log_url: String,
}

/// One line of the tables by provider and by stage.
#[derive(Serialize)]
struct Row {
    name: String,
    note: Option<String>,
    total: String,
    accepted: String,
    waiting: String,
    deferred: String,
    rejected: String,
    uncertain: String,
    other: String,
    bar: EquationView,
    log_url: Option<String>,
}

#[derive(Serialize)]
struct RateView {
    window: String,
    per_second: String,
}

#[derive(Serialize)]
struct TimesView {
    of: &'static str,
    p50: String,
    p90: String,
    p99: String,
    sample: String,
}

#[derive(Serialize)]
struct EtaView {
    at: Instant,
    left: String,
}

#[derive(Serialize)]
struct HaltView {
    what: &'static str,
    provider: Option<String>,
    stage: i64,
    hits: String,
    sample: String,
    percent: String,
    limit: String,
    counts: bool,
    said: Option<String>,
    replies: Vec<String>,
}

#[derive(Serialize)]
struct ReplyView {
    kind: EventKind,
    reply: String,
    class: Option<String>,
    attempts: String,
    providers: i64,
    log_url: String,
}

#[derive(Serialize)]
struct UncertainView {
    who: String,
    url: Option<String>,
    at: Instant,
    relay: Option<String>,
    text: Option<String>,
}

/// The issue behind a path.
pub(super) async fn edition(
    state: &AdminState,
    slug: &str,
    number: i64,
) -> Result<Edition, Problem> {
    let newsletter = newsletter::find(&state.db, slug).await.map_err(|error| match error {
        NewsletterError::Database(error) => Problem::from(error),
        _ => Code::UnknownNewsletter.into(),
    })?;
    let edition = control::find(&state.db, newsletter.id, number).await?;
    edition.ok_or_else(|| Code::UnknownIssue.into())
}

pub(super) async fn show(
    State(state): State<AdminState>,
    Extension(visitor): Extension<Visitor>,
    Path((slug, number)): Path<(String, i64)>,
) -> Result<Page, Problem> {
    let edition = edition(&state, &slug, number).await?;
    let now = state.now();
    let scope = Scope {
        config: &state.config,
        providers: &state.providers,
        tally: state.engine.as_ref().and_then(|engine| engine.tally(edition.id)),
        now,
    };
    let status = report::issue_status(&state.db, &edition, &scope).await?;
    let title = format!("{} #{number}", status.newsletter_name);
    let mut frame = state.pages.frame(title, Some(&visitor));
    if edition.finished_at.is_none() {
        frame = frame.live(REFRESH);
    }
    state.pages.page("issue", &frame, view(status, &visitor, now))
}

fn view(status: IssueStatus, visitor: &Visitor, now: Timestamp) -> IssuePage {
    let role = visitor.session.role;
    let approve = approval::form(&status, visitor);
    let log_url = format!("/deliveries?issue={}%2F{}", status.newsletter, status.number);
    let providers = status.providers.iter().map(|provider| {
        let url = format!("{log_url}&provider={}", provider.provider);
        let note = provider.stays_at.map(|stage| format!("stays at stage {stage}"));
        row(provider.title.clone(), note, &provider.equation, Some(url))
    });
    let stages = status.stages.iter().map(|stage| {
        let note = if stage.released { "released" } else { "not released" };
        row(stage.name.clone(), Some(note.to_owned()), &stage.equation, None)
    });
    IssuePage {
        now: words::instant(now),
        newsletter: status.newsletter_name,
        newsletter_slug: status.newsletter,
        number: status.number,
        subject: status.subject,
        state: status.state,
        sends_at: status.sends_at.map(words::instant),
        started_at: status.started_at.map(words::instant),
        finished_at: status.finished_at.map(words::instant),
        expires_at: status.expires_at.map(words::instant),
        audience: words::count(status.audience),
        begun: status.started_at.is_some(),
        holds: status.holds,
        equation: EquationView::from(&status.equation),
        providers: providers.collect(),
        stages: stages.collect(),
        rates: [status.pace.last_10_s, status.pace.last_60_s]
            .into_iter()
            .flatten()
            .map(rate)
            .collect(),
        times: times(&status.pace),
        limited_by: status.limited_by,
        eta: status
            .eta
            .map(|at| EtaView { at: words::instant(at), left: words::span(at.since(now)) }),
        next: status.next,
        approve,
        approval: status.approval.approved_by.map(|by| format!("approved by {by}")),
        warnings: status.warnings.into_iter().map(|warning| halt_view(warning, role)).collect(),
        halt: status.halt.map(|halt| halt_view(halt, role)),
        replies: status.replies.iter().map(|group| reply(group, role, &log_url)).collect(),
        uncertain: status.uncertain.into_iter().map(|copy| uncertain(copy, role)).collect(),
        log_url,
    }
}

fn row(
    name: String,
    note: Option<String>,
    equation: &report::Equation,
    log_url: Option<String>,
) -> Row {
    let moving = equation.planned + equation.queued + equation.claimed + equation.handed_off;
    Row {
        name,
        note,
        total: words::count(equation.total()),
        accepted: words::count(equation.accepted),
        waiting: words::count(moving),
        deferred: words::count(equation.deferred),
        rejected: words::count(equation.rejected),
        uncertain: words::count(equation.uncertain),
        other: words::count(equation.skipped + equation.expired + equation.cancelled),
        bar: EquationView::from(equation),
        log_url,
    }
}

fn times(pace: &Pace) -> Vec<TimesView> {
    let times = [
        ("Wait in the queue", pace.queue_wait),
        ("SMTP time", pace.smtp),
        ("Due to outcome", pace.end_to_end),
    ];
    let view = |(of, found): (&'static str, Option<Percentiles>)| {
        found.map(|found| TimesView {
            of,
            p50: words::micros(found.p50_us),
            p90: words::micros(found.p90_us),
            p99: words::micros(found.p99_us),
            sample: words::count(found.sample),
        })
    };
    times.into_iter().filter_map(view).collect()
}

fn rate(rate: Rate) -> RateView {
    RateView { window: format!("{:.0} s", rate.seconds), per_second: words::rate(rate.per_second) }
}

fn halt_view(halt: HaltStatus, role: Role) -> HaltView {
    HaltView {
        what: halt.what,
        provider: halt.provider,
        stage: halt.stage,
        hits: words::count(halt.hits),
        sample: words::count(halt.sample),
        percent: format!("{:.1}", halt.percent),
        limit: format!("{}", halt.limit),
        counts: halt.gate.counts(),
        said: halt.said.map(|said| words::text(&said, role)),
        replies: halt.replies.iter().map(|reply| words::text(reply, role)).collect(),
    }
}

fn reply(group: &ReplyGroup, role: Role, log_url: &str) -> ReplyView {
    let code = group.code.map(|code| code.to_string());
    let text = group.example.as_deref().map(|text| words::text(text, role));
    // Most servers begin the text with the enhanced code: it need not stand there twice.
    let enhanced = group
        .enhanced
        .clone()
        .filter(|enhanced| !text.as_ref().is_some_and(|text| text.starts_with(enhanced.as_str())));
    let words: Vec<String> = [code, enhanced, text].into_iter().flatten().collect();
    ReplyView {
        kind: group.kind,
        reply: words.join(" "),
        class: group.class.clone(),
        attempts: words::count(group.attempts),
        providers: group.providers,
        log_url: format!("{log_url}&kind={}", group.kind),
    }
}

fn uncertain(copy: Uncertain, role: Role) -> UncertainView {
    let address = copy.address.as_deref();
    UncertainView {
        who: address.map_or_else(|| "erased".to_owned(), |it| words::address(it, role)),
        url: (role >= Role::Operator).then(|| format!("/subscribers/{}", copy.subscriber_id)),
        at: words::instant(copy.at),
        relay: copy.relay,
        text: copy.text.map(|text| words::text(&text, role)),
    }
}
