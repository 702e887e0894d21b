//! What monitoring asks: whether the process lives, whether it can do its work, and its figures.

use std::time::{Duration, Instant};

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tokio::sync::Mutex;

use super::AdminState;
use crate::{
    db::{self, Db},
    delivery::{shedding::Level, view::View},
    timestamp::Timestamp,
    web::error::{Code, Problem},
};

/// How long a write may take before the database counts as not writable.
const DATABASE_DEADLINE: Duration = Duration::from_secs(2);
/// How long an answer is good for: whoever asks more often causes no more writes.
const FRESH: Duration = Duration::from_secs(1);

/// The last answer to `/readyz`. Who asks while it is being found waits for it.
#[derive(Debug, Default)]
pub(super) struct Readiness {
    last: Mutex<Option<(Instant, Vec<Check>)>>,
}

#[derive(Debug, Clone, Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    detail: String,
}

#[derive(Serialize)]
struct Ready<'a> {
    status: &'static str,
    checks: &'a [Check],
}

#[derive(Serialize)]
struct NotReady<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    code: Code,
    detail: String,
    checks: &'a [Check],
}

/// The process is alive: it answers.
pub(super) async fn alive() -> Response {
    let headers = [(header::CONTENT_TYPE, "text/plain"), (header::CACHE_CONTROL, "no-store")];
    (headers, "ok\n").into_response()
}

/// Whether mail can be sent: the ledger can be written, and a relay can be used.
pub(super) async fn ready(State(state): State<AdminState>) -> Response {
    let mut last = state.readiness.last.lock().await;
    let checks = match &*last {
        Some((at, checks)) if at.elapsed() < FRESH => checks.clone(),
        _ => {
            let checks = vec![database(&state).await, relay(&state), resources(&state)];
            *last = Some((Instant::now(), checks.clone()));
            checks
        }
    };
    drop(last);
    let failed: Vec<&Check> = checks.iter().filter(|check| !check.ok).collect();
    if failed.is_empty() {
        let body = json(&Ready { status: "ready", checks: &checks });
        return ([(header::CONTENT_TYPE, "application/json")], body).into_response();
    }
    let detail: Vec<String> =
        failed.iter().map(|check| format!("{}: {}", check.name, check.detail)).collect();
    let body = json(&NotReady {
        r#type: "about:blank",
        title: Code::NotReady.title(),
        status: StatusCode::SERVICE_UNAVAILABLE.as_u16(),
        code: Code::NotReady,
        detail: detail.join("; "),
        checks: &checks,
    });
    let content_type = [(header::CONTENT_TYPE, "application/problem+json")];
    let mut response = (StatusCode::SERVICE_UNAVAILABLE, content_type, body).into_response();
    response.extensions_mut().insert(crate::web::error::IsPage);
    response
}

fn json(body: &impl Serialize) -> String {
    serde_json::to_string(body).unwrap_or_default()
}

async fn database(state: &AdminState) -> Check {
    let written = tokio::time::timeout(DATABASE_DEADLINE, write(&state.db, state.now())).await;
    let (ok, detail) = match written {
        Ok(Ok(())) => (true, "can be written".to_owned()),
        Ok(Err(error)) => {
            tracing::error!(%error, "the database cannot be written");
            (false, "cannot be written; the log says why".to_owned())
        }
        Err(_) => (false, format!("was not written within {} s", DATABASE_DEADLINE.as_secs())),
    };
    Check { name: "database", ok, detail }
}

/// A write like any other: it waits for the writer and for the disk.
async fn write(db: &Db, now: Timestamp) -> db::Result<()> {
    db.write(
        "INSERT INTO meta (name, value) VALUES ('ready_at', $1) \
         ON CONFLICT (name) DO UPDATE SET value = excluded.value",
    )
    .bind(now.to_string())
    .execute()
    .await?;
    Ok(())
}

/// Whether copies of issues are sent, or held back for want of something.
fn resources(state: &AdminState) -> Check {
    let verdict = state.engine.as_ref().map(View::shedding).unwrap_or_default();
    Check { name: "resources", ok: verdict.level < Level::Issues, detail: verdict.in_words() }
}

fn relay(state: &AdminState) -> Check {
    let (ok, detail) = match &state.engine {
        Some(engine) if engine.has_usable_relay() => (true, "one or more can be used"),
        Some(_) => (false, "none can be used: each is suspended or failed when last tried"),
        None => (false, "the delivery engine does not run in this process"),
    };
    Check { name: "relays", ok, detail: detail.to_owned() }
}

/// The figures, as OpenMetrics 1.0 text.
pub(super) async fn metrics(State(state): State<AdminState>) -> Result<Response, Problem> {
    let Some(engine) = &state.engine else {
        let detail = "The delivery engine does not run in this process.";
        return Err(Problem::new(Code::NotReady).saying(detail));
    };
    let text = engine.metrics(&state.db, &state.providers, state.now()).await?;
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, content_type)], text).into_response())
}
