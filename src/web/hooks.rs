//! Webhooks of mail providers, at `POST /hooks/NAME` of the public pages: the HTTP around
//! [`bounce::intake::webhook`](crate::bounce::intake::webhook), which proves and reads, and
//! [`apply::provider_events`], which does what follows.
//!
//! These routes have no session, no role and no CSRF token; who may post is who has the provider's
//! secret. Everything is answered in JSON. A provider tries again what is answered by 5xx, so junk gets
//! 4xx, and only trouble of our own 503. GET and HEAD say that there is a webhook of that name, as some
//! providers ask for while one is set up, and do nothing.

mod fetch;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::to_bytes,
    extract::{Path, Request, State as Extract},
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::sync::Semaphore;

use super::{
    State,
    error::{Code, IsPage, Problem, problem_json},
};
use crate::{
    bounce::{
        apply::{self, Post},
        intake::webhook::{self, Certificate, Hook, Opened, Refusal},
    },
    config::Config,
};
use fetch::Fetch;

/// Requests whose bodies are in memory at once; more wait.
const AT_ONCE: usize = 16;
/// How long a body may take.
const BODY_WITHIN: Duration = Duration::from_secs(15);
/// Certificates that are remembered, and for how long. Amazon has one a region and changes it about
/// once a year.
const CERTIFICATES_MAX: usize = 16;
const CERTIFICATE_LIFETIME: Duration = Duration::from_hours(24);
/// How long it is remembered that a certificate could not be had.
const FAILURE_LIFETIME: Duration = Duration::from_secs(10);

/// The configured webhooks, and what was fetched for them.
pub(super) struct Hooks {
    hooks: HashMap<String, (Hook, Fetch)>,
    places: Semaphore,
    certificates: Mutex<HashMap<String, (Instant, Option<Certificate>)>>,
}

impl Hooks {
    pub(super) fn new(config: &Config) -> Self {
        let mut hooks = HashMap::new();
        for one in &config.bounces.webhook {
            match Hook::new(one, config.public_url.as_str()) {
                Ok(hook) => {
                    let fetch = Fetch::new(one.rehearsal_origin.clone());
                    hooks.insert(hook.name.clone(), (hook, fetch));
                }
                Err((key, problem)) => {
                    tracing::error!(key, problem, "a webhook cannot be used and is not served");
                }
            }
        }
        Self { hooks, places: Semaphore::new(AT_ONCE), certificates: Mutex::default() }
    }

    /// The certificate at `url`, fetched at most once a day.
    async fn certificate(&self, fetch: &Fetch, url: &str) -> Result<Certificate, Answer> {
        let known =
            self.certificates.lock().unwrap_or_else(PoisonError::into_inner).get(url).cloned();
        let lifetime = |found: bool| if found { CERTIFICATE_LIFETIME } else { FAILURE_LIFETIME };
        if let Some((at, certificate)) = known
            && at.elapsed() < lifetime(certificate.is_some())
        {
            return certificate.ok_or(Answer::Later);
        }
        let certificate = match fetch.get(url).await {
            Ok(pem) => Certificate::from_pem(&pem),
            Err(problem) => {
                tracing::warn!(problem, "the certificate behind a webhook cannot be fetched");
                None
            }
        };
        let mut known = self.certificates.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= CERTIFICATES_MAX {
            known.clear();
        }
        known.insert(url.to_owned(), (Instant::now(), certificate.clone()));
        certificate.ok_or(Answer::Later)
    }
}

/// The routes.
pub(super) fn routes() -> Router<State> {
    Router::new().route(PATH, get(probe).post(take).options(allow))
}

/// The pattern of the path, as the router names it.
pub(super) const PATH: &str = "/hooks/{name}";

/// What a provider is told.
enum Answer {
    /// It was taken; how many events had which outcome.
    Taken(serde_json::Value),
    /// An origin may post here.
    Allowed(HeaderValue),
    /// There is no such webhook.
    Unknown,
    Refused(Refusal),
    /// The body did not come in time.
    Slow,
    /// Something of ours is in the way: come again.
    Later,
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let refused = |status: StatusCode, code, detail: &str| {
            let problem = Problem::new(code).saying(detail);
            let mut response = problem_json(&problem);
            *response.status_mut() = status;
            response
        };
        let mut response = match self {
            Self::Taken(value) => axum::Json(value).into_response(),
            Self::Allowed(origin) => {
                let fields = [
                    (header::ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS, POST")),
                    (HeaderName::from_static("webhook-allowed-origin"), origin),
                    (
                        HeaderName::from_static("webhook-allowed-rate"),
                        HeaderValue::from_static("*"),
                    ),
                ];
                (fields, axum::Json(serde_json::json!({ "allowed": true }))).into_response()
            }
            Self::Unknown => {
                refused(StatusCode::NOT_FOUND, Code::NotFound, "No webhook has this name.")
            }
            Self::Refused(refusal) => {
                let (status, code) = match refusal {
                    Refusal::NotAuthentic(_) | Refusal::Stale => {
                        (StatusCode::UNAUTHORIZED, Code::NotAuthentic)
                    }
                    Refusal::Unreadable(_) => (StatusCode::BAD_REQUEST, Code::BadRequest),
                    Refusal::TooMuch => (StatusCode::PAYLOAD_TOO_LARGE, Code::TooLarge),
                };
                refused(status, code, &refusal.to_string())
            }
            Self::Slow => {
                refused(StatusCode::REQUEST_TIMEOUT, Code::Timeout, "The body took too long.")
            }
            Self::Later => refused(
                StatusCode::SERVICE_UNAVAILABLE,
                Code::NotReady,
                "The events cannot be taken now. Send them again.",
            ),
        };
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let status = response.status();
        if status == StatusCode::UNAUTHORIZED {
            // Some show their password only when they are asked for it.
            let asked = HeaderValue::from_static("Basic realm=\"webhook\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, asked);
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("60"));
        }
        if matches!(status, StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT) {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response.extensions_mut().insert(IsPage);
        response
    }
}

/// Says that there is a webhook of that name.
async fn probe(Extract(state): Extract<State>, Path(name): Path<String>) -> Answer {
    if state.hooks.hooks.contains_key(&name) {
        return Answer::Taken(serde_json::json!({ "webhook": name }));
    }
    Answer::Unknown
}

/// Allows an origin to post that shows the secret: how CloudEvents are agreed on ("HTTP 1.1 Web Hooks
/// for Event Delivery", section 4), which Azure can send.
async fn allow(
    Extract(state): Extract<State>,
    Path(name): Path<String>,
    request: Request,
) -> Answer {
    let Some((hook, _)) = state.hooks.hooks.get(&name) else { return Answer::Unknown };
    let headers = request.headers();
    let asked = webhook::Request { headers, query: request.uri().query(), body: &[] };
    if !hook.is_shown_a_secret(&asked) {
        return Answer::Refused(Refusal::NotAuthentic("it shows no secret, or a wrong one"));
    }
    match headers.get("webhook-request-origin") {
        Some(origin) => Answer::Allowed(origin.clone()),
        None => Answer::Refused(Refusal::Unreadable("it does not say which origin asks")),
    }
}

/// Takes what a provider posts.
async fn take(
    Extract(state): Extract<State>,
    Path(name): Path<String>,
    request: Request,
) -> Answer {
    let hooks = Arc::clone(&state.hooks);
    let Some((hook, fetch)) = hooks.hooks.get(&name) else { return Answer::Unknown };
    match post(&state, &hooks, hook, fetch, request).await {
        Ok(answer) => answer,
        Err(answer) => {
            if let Answer::Refused(refusal) = &answer {
                tracing::warn!(hook = name, %refusal, "a post to a webhook was refused");
            }
            answer
        }
    }
}

async fn post(
    state: &State,
    hooks: &Hooks,
    hook: &Hook,
    fetch: &Fetch,
    request: Request,
) -> Result<Answer, Answer> {
    let (parts, body) = request.into_parts();
    let query = parts.uri.query();
    let head = webhook::Request { headers: &parts.headers, query, body: &[] };
    if !hook.admits(&head) {
        let refusal = Refusal::NotAuthentic("it shows no secret, or a wrong one");
        return Err(Answer::Refused(refusal));
    }
    let _place = hooks.places.acquire().await.map_err(|_| Answer::Later)?;
    let reading = tokio::time::timeout(BODY_WITHIN, to_bytes(body, webhook::SIZE_MAX));
    let body = reading.await.map_err(|_| Answer::Slow)?;
    let body = body.map_err(|_| Answer::Refused(Refusal::TooMuch))?;
    let request = webhook::Request { body: &body, ..head };
    let certificate = match hook.certificate(&request).map_err(Answer::Refused)? {
        Some(url) => Some(hooks.certificate(fetch, &url).await?),
        None => None,
    };
    let now = state.now();
    let (opener, headers, octets) = (hook.clone(), parts.headers.clone(), body.clone());
    let query = parts.uri.query().map(str::to_owned);
    // Megabytes of signed JSON take long enough to keep them off the threads that send.
    let opening = tokio::task::spawn_blocking(move || {
        let query = query.as_deref();
        let request = webhook::Request { headers: &headers, query, body: &octets };
        opener.open(&request, certificate.as_ref(), now)
    });
    let opened =
        opening.await.map_err(|_| Answer::Refused(Refusal::Unreadable("reading broke off")))?;
    match opened.map_err(Answer::Refused)? {
        Opened::Events(events) => events_of(state, hook, &events).await,
        Opened::Handshake(code) => {
            Ok(Answer::Taken(serde_json::json!({ "validationResponse": code })))
        }
        Opened::Confirm(url) => match fetch.get(&url).await {
            Ok(_) => {
                tracing::info!(hook = hook.name, "the subscription to the topic was confirmed");
                Ok(Answer::Taken(serde_json::json!({ "confirmed": true })))
            }
            Err(problem) => {
                tracing::warn!(hook = hook.name, problem, "the subscription was not confirmed");
                Err(Answer::Later)
            }
        },
    }
}

async fn events_of(
    state: &State,
    hook: &Hook,
    events: &[webhook::HookEvent],
) -> Result<Answer, Answer> {
    let post = Post { hook: &hook.name, provider: hook.provider, relay: hook.relay.as_deref() };
    let (keyring, rules) = (&state.keyring, &state.config.bounces);
    let applied =
        apply::provider_events(&state.db, keyring, rules, post, events, state.now()).await;
    match applied {
        Ok(outcomes) => {
            Ok(Answer::Taken(serde_json::json!({ "events": events.len(), "outcomes": outcomes })))
        }
        Err(error) => {
            tracing::error!(hook = hook.name, %error, "events of a webhook were put off");
            Err(Answer::Later)
        }
    }
}
