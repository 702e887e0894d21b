//! The sink's web side: the inbox for people and the JSON API for tests. It shows mail that anyone
//! may have written, so every text is escaped, a message's HTML lives in a sandbox without scripts
//! or remote content, and requests for other hosts than the sink's own are refused (a page on the
//! internet must not read the inbox by DNS rebinding).

mod leave;
mod pages;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path, Query, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{Html, IntoResponse, Redirect, Response},
    routing::{get, post},
};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::timestamp::Timestamp;

use super::{
    Shared, SinkStats,
    content::Content,
    mailbox::{Filter, Received},
};

use self::pages::message::{self, Around, View};

/// For the inbox's own pages: no script, no foreign resource, in no one's frame.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'self'; frame-src 'self'; \
    img-src 'self' data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
/// For a message's HTML: styles as mail has them, nothing fetched, links open elsewhere.
const MAIL_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; \
    form-action 'none'; base-uri 'none'; frame-ancestors 'self'; \
    sandbox allow-popups allow-popups-to-escape-sandbox";

/// How long requests under way may go on after shutdown began.
const DRAIN: Duration = Duration::from_secs(2);

/// Serves the inbox until shutdown.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>, shutdown: CancellationToken) {
    let own_ip = listener.local_addr().map(|address: SocketAddr| address.ip()).ok();
    let router = router(shared, own_ip);
    let draining = shutdown.clone().cancelled_owned();
    let served = axum::serve(listener, router).with_graceful_shutdown(draining);
    let out_of_time = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = served => if let Err(error) = served {
            tracing::error!(%error, "the sink's web inbox failed");
        },
        () = out_of_time => {}
    }
}

fn router(shared: Arc<Shared>, own_ip: Option<IpAddr>) -> Router {
    Router::new()
        .route("/", get(list))
        .route("/clear", post(clear))
        .route("/inbox.css", get(style))
        .route("/messages/{id}", get(show))
        .route("/messages/{id}/html", get(html))
        .route("/messages/{id}/leave", post(leave))
        .route("/messages/{id}/raw", get(raw))
        .route("/api/messages", get(api_list).delete(api_clear))
        .route("/api/messages/{id}", get(api_show))
        .route("/api/messages/{id}/raw", get(raw))
        .route("/api/stats", get(api_stats))
        .fallback(|| async { not_found() })
        .layer(middleware::from_fn(move |request, next| guard(own_ip, request, next)))
        .with_state(shared)
}

/// Lets in requests that are meant for this server and not another site's idea.
async fn guard(own_ip: Option<IpAddr>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    if !is_own_host(headers, own_ip) {
        let hint = "This inbox answers under localhost and its own address only.\n";
        return (StatusCode::MISDIRECTED_REQUEST, hint).into_response();
    }
    let site = headers.get("sec-fetch-site").and_then(|site| site.to_str().ok());
    if !request.method().is_safe()
        && site.is_some_and(|site| !matches!(site, "same-origin" | "none"))
    {
        return (StatusCode::FORBIDDEN, "Other sites cannot change this inbox.\n").into_response();
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, PAGE_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

fn is_own_host(headers: &HeaderMap, own_ip: Option<IpAddr>) -> bool {
    let Some(host) = headers.get(header::HOST).and_then(|host| host.to_str().ok()) else {
        return false;
    };
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((ipv6, _)) => ipv6,
        None => host.split(':').next().unwrap_or_default(),
    };
    // Names under .localhost are loopback by definition (RFC 6761, section 6.3).
    let name = name.to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| {
            ip.is_loopback() || own_ip.is_some_and(|own| own == ip || own.is_unspecified())
        })
}

fn not_found() -> Response {
    (StatusCode::NOT_FOUND, Html(pages::not_found())).into_response()
}

/// Fields that a search form leaves empty count as not given.
fn cleaned(mut filter: Filter) -> Filter {
    for field in [&mut filter.to, &mut filter.subject, &mut filter.q] {
        if field.as_deref().is_some_and(|text| text.trim().is_empty()) {
            *field = None;
        }
    }
    filter
}

/// The inbox's address line: a filter as forms and links write it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ListQuery {
    #[serde(flatten)]
    filter: TextFilter,
    /// Reload by itself.
    live: Option<String>,
}

/// As [`Filter`], from a query string: numbers come as text through `flatten`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TextFilter {
    to: Option<String>,
    subject: Option<String>,
    q: Option<String>,
    before: Option<String>,
}

async fn list(State(shared): State<Arc<Shared>>, Query(query): Query<ListQuery>) -> Html<String> {
    let TextFilter { to, subject, q, before } = query.filter;
    let before = before.and_then(|before| before.parse().ok());
    let filter = cleaned(Filter { to, subject, q, before, ..Filter::default() });
    let messages = shared.mailbox.find(&filter);
    Html(pages::list(&messages, &filter, &shared.stats(), shared.discard, query.live.is_some()))
}

async fn clear(State(shared): State<Arc<Shared>>) -> Redirect {
    shared.mailbox.clear();
    Redirect::to("/")
}

async fn style() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("web/inbox.css"))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ShowQuery {
    view: Option<View>,
    /// What the sender answered to the unsubscribe button just pressed; 0 for nothing.
    left: Option<u16>,
}

/// A message and its parts, taken apart where that holds nobody up.
async fn open(shared: &Shared, id: u64) -> Option<(Arc<Received>, Content)> {
    let message = shared.mailbox.get(id)?;
    let parsing = tokio::task::spawn_blocking(move || (message.content(), message));
    let (content, message) = parsing.await.ok()?;
    Some((message, content))
}

async fn show(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<u64>,
    Query(query): Query<ShowQuery>,
) -> Response {
    let Some((message, content)) = open(&shared, id).await else { return not_found() };
    let default = if content.html.is_some() { View::Html } else { View::Text };
    let held = |id: u64| shared.mailbox.get(id).map(|message| message.id);
    let around = Around {
        older: id.checked_sub(1).and_then(held),
        newer: id.checked_add(1).and_then(held),
        one_click: one_click(&shared, &content).is_some(),
        notice: query.left.map(|status| match status {
            0 => "The sender did not answer.".to_owned(),
            200..300 => format!("Unsubscribed: the sender answered {status}."),
            _ => format!("Not unsubscribed: the sender answered {status}."),
        }),
    };
    Html(message::page(&message, &content, query.view.unwrap_or(default), &around)).into_response()
}

fn one_click(shared: &Shared, content: &Content) -> Option<Url> {
    leave::target(content, shared.one_click_base.as_ref()?)
}

async fn leave(State(shared): State<Arc<Shared>>, Path(id): Path<u64>) -> Response {
    let opened = open(&shared, id).await;
    let Some(target) = opened.and_then(|(_, content)| one_click(&shared, &content)) else {
        return not_found();
    };
    let status = leave::press(target).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "the unsubscribe button led nowhere");
        0
    });
    Redirect::to(&format!("/messages/{id}?left={status}")).into_response()
}

async fn html(State(shared): State<Arc<Shared>>, Path(id): Path<u64>) -> Response {
    let opened = open(&shared, id).await;
    let Some(html) = opened.and_then(|(_, content)| content.html) else { return not_found() };
    let policy = [(header::CONTENT_SECURITY_POLICY, MAIL_POLICY)];
    (policy, Html(message::with_links_opening_elsewhere(&html))).into_response()
}

async fn raw(State(shared): State<Arc<Shared>>, Path(id): Path<u64>) -> Response {
    let Some(message) = shared.mailbox.get(id) else { return not_found() };
    let kind = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    (kind, message.raw.clone()).into_response()
}

/// A message in the API's list.
#[derive(Debug, Serialize)]
struct Summary<'a> {
    id: u64,
    at: Timestamp,
    connection: u64,
    mail_from: &'a str,
    rcpt_to: &'a [String],
    from: &'a str,
    subject: &'a str,
    message_id: Option<&'a str>,
    size: usize,
}

impl<'a> Summary<'a> {
    fn of(message: &'a Received) -> Self {
        Self {
            id: message.id,
            at: message.at,
            connection: message.connection,
            mail_from: &message.mail_from,
            rcpt_to: &message.rcpt_to,
            from: &message.from,
            subject: &message.subject,
            message_id: message.message_id.as_deref(),
            size: message.raw.len(),
        }
    }
}

/// A whole message in the API.
#[derive(Debug, Serialize)]
struct Detail<'a> {
    #[serde(flatten)]
    summary: Summary<'a>,
    #[serde(flatten)]
    content: Content,
}

async fn api_list(State(shared): State<Arc<Shared>>, Query(filter): Query<Filter>) -> Response {
    let messages = shared.mailbox.find(&cleaned(filter));
    let summaries: Vec<_> = messages.iter().map(|message| Summary::of(message)).collect();
    Json(serde_json::json!({ "messages": summaries, "held": shared.mailbox.len() })).into_response()
}

async fn api_clear(State(shared): State<Arc<Shared>>) -> StatusCode {
    shared.mailbox.clear();
    StatusCode::NO_CONTENT
}

async fn api_show(State(shared): State<Arc<Shared>>, Path(id): Path<u64>) -> Response {
    let Some((message, content)) = open(&shared, id).await else {
        let error = serde_json::json!({ "error": "no such message, or dropped for want of room" });
        return (StatusCode::NOT_FOUND, Json(error)).into_response();
    };
    Json(Detail { summary: Summary::of(&message), content }).into_response()
}

async fn api_stats(State(shared): State<Arc<Shared>>) -> Json<SinkStats> {
    Json(shared.stats())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_names_are_answered() {
        let own: Option<IpAddr> = "192.0.2.7".parse().ok();
        let answered = |host: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            is_own_host(&headers, own)
        };
        for host in [
            "localhost",
            "LOCALHOST:8025",
            "127.0.0.1:1",
            "[::1]:80",
            "192.0.2.7:80",
            "mail.localhost",
        ] {
            assert!(answered(host), "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "192.0.2.8", ""]
        {
            assert!(!answered(host), "{host}");
        }
    }
}
