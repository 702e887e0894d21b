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
    delivery::status::{self, EngineState, RelayState},
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
    relays: Vec<RelayView>,
    issues: Vec<IssueView>,
}

#[derive(Serialize)]
struct RelayView {
    name: String,
    address: String,
    /// `good`, `suspended` or `failing`.
    state: &'static str,
    failure: Option<FailureView>,
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
        limited_by: engine
            .as_ref()
            .map(|engine| report::name_provider(&engine.limited_by, &state.providers)),
        relays: engine.into_iter().flat_map(relays).collect(),
        issues: issues.into_iter().map(|issue| view(&state, issue)).collect(),
    };
    let frame = state.pages.frame("Overview", Some(&visitor)).at("/").live(REFRESH);
    state.pages.page("dashboard", &frame, overview)
}

fn relays(engine: EngineState) -> impl Iterator<Item = RelayView> {
    engine.relays.into_iter().map(|relay| {
        let RelayState { name, address, suspended, good, last_failure } = relay;
        let state = match (suspended, good) {
            (true, _) => "suspended",
            (false, true) => "good",
            (false, false) => "failing",
        };
        let failure = last_failure.map(|(at, what)| FailureView { at: words::instant(at), what });
        RelayView { name, address, state, failure }
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
