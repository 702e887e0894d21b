//! What stands before every page: size and time of a request, the host it names, and the headers
//! that tell browsers what our pages never do.

use std::{net::IpAddr, time::Duration};

use axum::{
    extract::{MatchedPath, Request, State as Extract},
    http::{HeaderMap, HeaderName, HeaderValue, Uri, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{
    State,
    error::{Code, Problem},
    hooks,
};
use crate::bounce::intake::webhook::SIZE_MAX;

/// Octets of the largest request body: forms here have some hundred.
pub(super) const BODY_OCTETS_MAX: usize = 64 * 1024;
/// How long a request may take, its body included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Nothing is loaded but our own style sheet and the pictures of issues, nothing runs, nobody frames
/// the pages, and forms go to ourselves only.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; img-src https: 'self'; \
     form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const HEADERS: &[(&str, &str)] = &[
    ("content-security-policy", CONTENT_SECURITY_POLICY),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    // Tokens stand in paths: no other site is to see them.
    ("referrer-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
];

/// Refuses what no page takes, and gives every request its time.
pub(super) async fn guard(
    Extract(state): Extract<State>,
    request: Request,
    next: Next,
) -> Response {
    let method = request.method().clone();
    // The pattern, not the path: paths hold tokens.
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let response = match refusal(&state, &request) {
        Some(code) => {
            let mut response = Problem::new(code).into_response();
            if code == Code::TooLarge {
                // The rest of the body is not read, so the connection is of no use any more.
                response
                    .headers_mut()
                    .insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
        None => match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
            Ok(response) => response,
            Err(_) => Problem::new(Code::Timeout).into_response(),
        },
    };
    let status = response.status().as_u16();
    tracing::debug!(%method, route = route.as_deref().unwrap_or("-"), status, "request");
    response
}

/// Gives an answer the headers that every answer has.
pub(super) fn protect(state: &State, response: &mut Response) {
    for &(name, value) in HEADERS {
        let name = HeaderName::from_static(name);
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    if state.config.public_url.scheme() == "https" {
        let year = HeaderValue::from_static("max-age=31536000");
        response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, year);
    }
}

/// Whether a request is for a webhook: larger than a form, and a program's.
pub(super) fn is_hook(request: &Request) -> bool {
    let route = request.extensions().get::<MatchedPath>();
    route.is_some_and(|route| route.as_str().ends_with(hooks::PATH))
}

fn refusal(state: &State, request: &Request) -> Option<Code> {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok());
    let max = if is_hook(request) { SIZE_MAX } else { BODY_OCTETS_MAX };
    if length.and_then(|text| text.parse::<u64>().ok()) > Some(max as u64) {
        return Some(Code::TooLarge);
    }
    let ours = state.config.public_url.host_str().unwrap_or_default();
    match host(request.headers(), request.uri()) {
        Some(host) if is_ours(&host, ours) => None,
        _ => Some(Code::WrongHost),
    }
}

/// The host that a request names, without its port.
fn host(headers: &HeaderMap, uri: &Uri) -> Option<String> {
    let named = match uri.authority() {
        Some(authority) => authority.as_str(),
        None => headers.get(header::HOST)?.to_str().ok()?,
    };
    let name = match named.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => named,
    };
    Some(name.to_ascii_lowercase())
}

/// Our public name, or the machine itself: proxies and health checks ask for that.
fn is_ours(host: &str, ours: &str) -> bool {
    let ip = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == ours || host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_for_other_hosts_are_refused() {
        for (named, ours) in [
            ("news.example.com", true),
            ("News.Example.com:8080", true),
            ("localhost:8080", true),
            ("127.0.0.1", true),
            ("[::1]:8080", true),
            ("192.0.2.1:8080", false),
            ("evil.example", false),
            ("news.example.com.evil.example", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, named.parse().unwrap());
            let found = host(&headers, &Uri::from_static("/")).unwrap();
            assert_eq!(is_ours(&found, "news.example.com"), ours, "{named}");
        }
        assert_eq!(host(&HeaderMap::new(), &Uri::from_static("/")), None);
    }
}
