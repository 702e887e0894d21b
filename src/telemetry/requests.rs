//! An id for every HTTP request: in its answer, and in every log line that it causes.

use std::time::Instant;

use axum::{
    Router,
    extract::{MatchedPath, Request},
    http::{HeaderMap, HeaderName, HeaderValue},
    middleware::{self, Next},
    response::Response,
};
use tracing::Instrument as _;

const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Characters of the longest id that is taken over from a proxy.
const ID_CHARS_MAX: usize = 64;

/// The id of a request, in its extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(pub String);

/// Gives every request of `router` an id, or keeps the one that a proxy gave it, and a line in the
/// log. The line has the route and not the path, because paths hold tokens.
pub fn trace_requests(router: Router) -> Router {
    router.layer(middleware::from_fn(trace))
}

async fn trace(mut request: Request, next: Next) -> Response {
    let id = given(request.headers()).unwrap_or_else(|| uuid::Uuid::now_v7().simple().to_string());
    request.extensions_mut().insert(RequestId(id.clone()));
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let span = tracing::info_span!("request", request_id = %id);
    async move {
        let started = Instant::now();
        let mut response = next.run(request).await;
        tracing::debug!(
            %method,
            route = route.as_deref().unwrap_or("-"),
            status = response.status().as_u16(),
            duration_ms = started.elapsed().as_millis() as u64,
            "request"
        );
        if let Ok(value) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(HEADER, value);
        }
        response
    }
    .instrument(span)
    .await
}

fn given(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(HEADER)?.to_str().ok()?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=ID_CHARS_MAX).contains(&id.len()).then_some(())?;
    id.bytes().all(plain).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, routing::get};
    use tower::ServiceExt as _;

    use super::*;

    #[tokio::test]
    async fn a_proxys_id_is_kept_unless_it_could_do_harm_in_a_log() {
        let router = trace_requests(Router::new().route("/", get(|| async { "x" })));
        for (given, kept) in [
            (Some("abc-123"), true),
            (Some("a b"), false),
            (Some("\"}"), false),
            (Some(""), false),
            (Some(&*"x".repeat(65)), false),
            (None, false),
        ] {
            let mut request = Request::new(Body::empty());
            if let Some(id) = given {
                request.headers_mut().insert(HEADER, HeaderValue::from_str(id).unwrap());
            }
            let response = router.clone().oneshot(request).await.unwrap();
            let id = response.headers()[HEADER].to_str().unwrap();
            assert_eq!(Some(id) == given, kept, "{given:?}");
            assert!(!id.is_empty() && id.len() <= 64);
        }
    }
}
