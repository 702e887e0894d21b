//! The overview: issues and how far they have come, what limits mail now, the relays.

use axum::{Extension, extract::State};
use serde::Serialize;

use super::{
    AdminState,
    access::Visitor,
    pages::{EquationView, Page},
    words::{self, Instant},
};
use crate::{
    db::state::IssueState,
    delivery::status::{self, BreakerState, EngineState},
    report::{self, Equation, IssueLine},
    web::error::Problem,
};

/// How many issues are listed.
const ISSUES_MAX: u32 = 20;
/// Seconds between two refreshes.
const REFRESH: u32 = 5;

#[derive(Serialize)]
struct Overview {
    now: Instant,
    /// What holds mail back; none when no daemon runs.
    limited_by: Option<String>,
    /// Providers whose copies wait for something of their own.
    held_providers: Vec<HeldView>,
    relays: Vec<RelayView>,
    issues: Vec<IssueView>,
}

#[derive(Serialize)]
struct HeldView {
    provider: String,
    limited_by: String,
}

#[derive(Serialize)]
struct RelayView {
    name: String,
    address: String,
    /// `good`, `suspended`, `held` or `failing`.
    state: &'static str,
    failure: Option<FailureView>,
    /// What limits it.
    limited_by: String,
    /// How many connections have copies in hand, and how many may.
    in_use: u32,
    connections: u32,
    /// Breakers that are not closed and providers with fewer connections, in words.
    breakers: Vec<String>,
}

#[derive(Serialize)]
struct FailureView {
    at: Instant,
    what: String,
}

#[derive(Serialize)]
struct IssueView {
    url: String,
    newsletter: String,
    number: i64,
    subject: String,
    state: IssueState,
    equation: Option<EquationView>,
    outcome: Option<String>,
    audience: String,
    since: Option<Instant>,
    since_word: &'static str,
    /// Whether somebody has to do something.
    needs_attention: Option<String>,
}

pub(super) async fn show(
    State(state): State<AdminState>,
    Extension(visitor): Extension<Visitor>,
) -> Result<Page, Problem> {
    let engine = status::read(&state.db).await?;
    let issues = report::latest_issues(&state.db, ISSUES_MAX).await?;
    let overview = Overview {
        now: words::instant(state.now()),
        limited_by: engine.as_ref().map(|engine| engine.limited_by.clone()),
        held_providers: engine.as_ref().map_or_else(Vec::new, held),
        relays: engine.into_iter().flat_map(relays).collect(),
        issues: issues.into_iter().map(|issue| view(&state, issue)).collect(),
    };
    let frame = state.pages.frame("Overview", Some(&visitor)).at("/").live(REFRESH);
    state.pages.page("dashboard", &frame, overview)
}

/// What is said of providers beyond what holds for everything.
fn held(engine: &EngineState) -> Vec<HeldView> {
    let of_their_own = engine.providers.iter().filter(|held| held.limited_by != engine.limited_by);
    of_their_own
        .map(|held| HeldView {
            provider: held.provider.clone(),
            limited_by: held.limited_by.clone(),
        })
        .collect()
}

fn relays(engine: EngineState) -> impl Iterator<Item = RelayView> {
    engine.relays.into_iter().map(|relay| {
        let breaker = relay.breaker();
        let state = match (relay.suspended, relay.good) {
            (true, _) => "suspended",
            (false, false) => "failing",
            (false, true) if breaker.is_some() => "held",
            (false, true) => "good",
        };
        let breakers = relay.breakers.iter().filter(|found| found.is_notable());
        let breakers = breakers.map(BreakerState::describe).collect();
        let failure =
            relay.last_failure.map(|(at, what)| FailureView { at: words::instant(at), what });
        RelayView {
            name: relay.name,
            address: relay.address,
            state,
            failure,
            limited_by: relay.limited_by,
            in_use: relay.in_use,
            connections: relay.connections,
            breakers,
        }
    })
}

fn view(state: &AdminState, issue: IssueLine) -> IssueView {
    // Only what the engine has in memory: an overview must not count a million rows.
    let tally = state.engine.as_ref().and_then(|engine| engine.tally(issue.id));
    let equation = tally.map(|tally| Equation::of_tally(&tally, issue.stage));
    let needs_attention = match issue.state {
        IssueState::Halted => Some("a gate halted it: look at the figures".to_owned()),
        _ => equation.filter(|equation| equation.uncertain > 0).map(|equation| {
            format!("{} uncertain: settle them", words::copies(equation.uncertain))
        }),
    };
    let (since, since_word) = match (issue.finished_at, issue.started_at, issue.sends_at) {
        (Some(at), ..) => (Some(at), "done"),
        (None, Some(at), _) => (Some(at), "began"),
        (None, None, Some(at)) => (Some(at), "begins"),
        (None, None, None) => (None, ""),
    };
    IssueView {
        url: format!("/issues/{}/{}", issue.newsletter, issue.number),
        newsletter: issue.newsletter,
        number: issue.number,
        subject: issue.subject,
        state: issue.state,
        equation: equation.as_ref().map(EquationView::from),
        outcome: issue.outcome,
        audience: words::copies(issue.audience),
        since: since.map(words::instant),
        since_word,
        needs_attention,
    }
}
