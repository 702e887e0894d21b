//! What somebody is told when something is wrong: a page for browsers, `application/problem+json`
//! (RFC 9457) for programs. The codes are those of the public pages.

use axum::{
    extract::{Request, State},
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{AdminState, access::no_store};
use crate::{
    telemetry::RequestId,
    web::{
        client,
        error::{Code, Problem, bare, problem_json},
    },
};

/// Nothing is loaded or run but our own style sheet and script, nobody frames the pages, and forms go
/// to ourselves only.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; \
     connect-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; \
     frame-ancestors 'none'";

const HEADERS: &[(&str, &str)] = &[
    ("content-security-policy", CONTENT_SECURITY_POLICY),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
    ("x-robots-tag", "noindex, nofollow"),
];

#[derive(Serialize)]
struct Message<'a> {
    detail: &'a str,
    request_id: Option<&'a str>,
    action: Option<Action<'a>>,
}

#[derive(Serialize)]
struct Action<'a> {
    label: &'a str,
    url: &'a str,
}

/// Gives problems their form and every answer the headers that all have.
pub(super) async fn shape(
    State(state): State<AdminState>,
    request: Request,
    next: Next,
) -> Response {
    let json = client::wants_json(request.headers());
    let id = request.extensions().get::<RequestId>().cloned();
    let mut response = next.run(request).await;
    let problem = response.extensions().get::<Problem>().cloned();
    if let Some(problem) = problem.or_else(|| bare(&response).map(Problem::new)) {
        if let Some(inside) = &problem.inside {
            tracing::error!(error = %inside, "a request failed");
        }
        let mut shaped =
            if json { problem_json(&problem) } else { page(&state, &problem, id.as_ref()) };
        *shaped.status_mut() = problem.code.status();
        for name in [header::ALLOW, header::RETRY_AFTER, header::CONNECTION] {
            if let Some(value) = response.headers().get(&name) {
                shaped.headers_mut().insert(name, value.clone());
            }
        }
        response = shaped;
    }
    for &(name, value) in HEADERS {
        let name = HeaderName::from_static(name);
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    no_store(&mut response);
    response
}

fn page(state: &AdminState, problem: &Problem, id: Option<&RequestId>) -> Response {
    let inside = problem.code == Code::Internal;
    let message = Message {
        detail: problem.detail.as_deref().unwrap_or(problem.code.advice()),
        // What was written down is found by this.
        request_id: id.filter(|_| inside).map(|id| id.0.as_str()),
        action: Some(Action { label: "To the overview", url: "/" }),
    };
    message_page(state, problem.code.title(), &message)
}

/// The answer to a link on another site, whose click came without the cookie.
pub(super) fn from_elsewhere(state: &AdminState, path: &str) -> Response {
    let message = Message {
        detail: "You came here from another site.",
        request_id: None,
        action: Some(Action { label: "Continue", url: path }),
    };
    let mut response = message_page(state, "Postrider", &message);
    *response.status_mut() = StatusCode::OK;
    response
}

fn message_page(state: &AdminState, title: &str, message: &Message<'_>) -> Response {
    let frame = state.pages.frame(title, None);
    let page = state.pages.page("message", &frame, message);
    page.map_or_else(|_| message.detail.to_owned().into_response(), IntoResponse::into_response)
}
