//! What goes in and out besides issues: service mail, mailboxes that returned mail is fetched from,
//! webhooks that events are posted to, and what is given up for want of something.

use axum::{Extension, extract::State};
use serde::Serialize;

use super::{
    AdminState,
    access::Visitor,
    pages::Page,
    words::{self, Instant},
};
use crate::{
    account::Role,
    config::{BounceMailbox, EventHook},
    delivery::view::View,
    telemetry::MailboxSeries,
    timestamp::Timestamp,
    web::error::Problem,
    webhook::{self, HookState},
};

/// Seconds between two refreshes.
const REFRESH: u32 = 5;

#[derive(Serialize)]
struct Channels {
    now: Instant,
    /// None where no engine runs in this process.
    engine: Option<EngineView>,
    mailboxes: Vec<MailboxView>,
    hooks: Vec<HookView>,
}

#[derive(Serialize)]
struct EngineView {
    shedding: String,
    service_waiting: String,
    service_oldest: Option<Instant>,
}

#[derive(Serialize)]
struct MailboxView {
    name: String,
    address: String,
    /// `good`, `failing` or `unknown`.
    state: &'static str,
    last_look: Option<Instant>,
    problem: Option<ProblemView>,
    fetched: String,
    handled: String,
    aside: String,
    /// Mails that were left where they are, as not ours.
    left: String,
    /// Whether the last look ended before it was through.
    more: bool,
}

#[derive(Serialize)]
struct ProblemView {
    at: Instant,
    what: String,
}

#[derive(Serialize)]
struct HookView {
    name: String,
    host: String,
    state: &'static str,
    events: String,
    waiting: String,
    last: Option<Instant>,
    problem: Option<ProblemView>,
}

pub(super) async fn show(
    State(state): State<AdminState>,
    Extension(visitor): Extension<Visitor>,
) -> Result<Page, Problem> {
    let role = visitor.session.role;
    let engine = match &state.engine {
        Some(engine) => Some(engine_view(&state, engine).await?),
        None => None,
    };
    let mut mailboxes = Vec::new();
    for settings in &state.config.bounces.mailbox {
        let left = crate::bounce::intake::mailbox::left_in(&state.db, &settings.name).await?;
        let series = state.engine.as_ref().map(|engine| engine.mailbox_series(&settings.name));
        mailboxes.push(mailbox_view(settings, series.as_ref(), left, role));
    }
    let states = webhook::list(&state.db).await?;
    let newest = webhook::newest_event(&state.db).await?;
    let hooks = state.config.webhooks.iter();
    let channels = Channels {
        now: words::instant(state.now()),
        engine,
        mailboxes,
        hooks: hooks.map(|hook| hook_view(hook, &states, newest, role)).collect(),
    };
    let frame = state.pages.frame("Channels", Some(&visitor)).at("/channels").live(REFRESH);
    state.pages.page("channels", &frame, channels)
}

async fn engine_view(state: &AdminState, engine: &View) -> Result<EngineView, Problem> {
    let (waiting, oldest) = engine.service_queue(&state.db).await?;
    Ok(EngineView {
        shedding: engine.shedding().in_words(),
        service_waiting: words::count(waiting),
        service_oldest: oldest.map(words::instant),
    })
}

fn mailbox_view(
    settings: &BounceMailbox,
    series: Option<&MailboxSeries>,
    left: i64,
    role: Role,
) -> MailboxView {
    let at = |seconds: f64| Timestamp::from_microseconds((seconds * 1e6) as i64);
    let last_look = series.map(|series| series.last_success.get()).filter(|at| *at > 0.0);
    let problem = series.and_then(MailboxSeries::last_problem);
    let is_up = series.is_some_and(|series| series.up.get() == 1);
    let count = |counted: Option<u64>| words::count(counted.unwrap_or_default() as i64);
    MailboxView {
        name: settings.name.clone(),
        address: settings.address(),
        state: match (is_up, &problem) {
            (true, _) => "good",
            (false, Some(_)) => "failing",
            (false, None) => "unknown",
        },
        last_look: last_look.map(|seconds| words::instant(at(seconds))),
        problem: problem.map(|(at, what)| ProblemView {
            at: words::instant(at),
            what: words::text(&what, role),
        }),
        fetched: count(series.map(|series| series.fetched.get())),
        handled: count(series.map(|series| series.handled.get())),
        aside: count(series.map(|series| series.aside.get())),
        left: words::count(left),
        more: series.is_some_and(|series| series.more.get() == 1),
    }
}

fn hook_view(hook: &EventHook, states: &[HookState], newest: i64, role: Role) -> HookView {
    let state = states.iter().find(|state| state.name == hook.name);
    let problem = state.and_then(|state| state.failing_since.zip(state.problem.as_deref()));
    HookView {
        name: hook.name.clone(),
        // The rest of the address may be a secret.
        host: hook.url.host_str().unwrap_or_default().to_owned(),
        state: match (state, &problem) {
            (None, _) => "unknown",
            (Some(_), None) => "good",
            (Some(_), Some(_)) => "failing",
        },
        events: words::count(state.map_or(0, |state| state.events)),
        waiting: words::count(state.map_or(0, |state| newest - state.sent_to).max(0)),
        last: state.and_then(|state| state.delivered_at).map(words::instant),
        problem: problem.map(|(at, what)| ProblemView {
            at: words::instant(at),
            what: words::text(what, role),
        }),
    }
}
