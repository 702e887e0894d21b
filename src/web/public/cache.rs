//! Answers that clients may keep and ask about again (RFC 9110, section 13).

use aws_lc_rs::digest;
use axum::{
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use data_encoding::HEXLOWER;

use crate::timestamp::Timestamp;

/// An answer with its validators; without its body when the client has it already.
pub(super) fn cacheable(
    asked: &HeaderMap,
    content_type: &'static str,
    body: String,
    modified: Timestamp,
) -> Response {
    let digest = digest::digest(&digest::SHA256, body.as_bytes());
    let etag = format!("\"{}\"", HEXLOWER.encode(&digest.as_ref()[..16]));
    let date = modified.to_jiff().strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let unchanged = match text(asked, header::IF_NONE_MATCH) {
        Some(known) => names(known, &etag),
        None => {
            text(asked, header::IF_MODIFIED_SINCE).is_some_and(|since| not_after(modified, since))
        }
    };
    let mut response = if unchanged {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        ([(header::CONTENT_TYPE, content_type)], body).into_response()
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=300"));
    for (name, value) in [(header::ETAG, etag), (header::LAST_MODIFIED, date)] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    }
    response
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Whether `known`, the value of an `If-None-Match`, names `etag` (weakly).
fn names(known: &str, etag: &str) -> bool {
    known
        .split(',')
        .map(str::trim)
        .any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == etag)
}

/// Whether `modified`, to the second, is not after the date in `since`.
fn not_after(modified: Timestamp, since: &str) -> bool {
    let since = since.replace("GMT", "+0000");
    jiff::fmt::rfc2822::parse(&since)
        .is_ok_and(|date| modified.to_jiff().as_second() <= date.timestamp().as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_has_it_is_told_so() {
        let modified: Timestamp = "2026-03-02T10:00:00.5Z".parse().unwrap();
        let ask = |name: Option<(header::HeaderName, String)>| {
            let mut headers = HeaderMap::new();
            if let Some((name, value)) = name {
                headers.insert(name, value.parse().unwrap());
            }
            cacheable(&headers, "text/plain", "body".into(), modified)
        };
        let first = ask(None);
        assert_eq!(first.status(), StatusCode::OK);
        let etag = first.headers()[header::ETAG].to_str().unwrap().to_owned();
        let date = first.headers()[header::LAST_MODIFIED].to_str().unwrap().to_owned();
        assert_eq!(date, "Mon, 02 Mar 2026 10:00:00 GMT");
        for (name, value, status) in [
            (header::IF_NONE_MATCH, etag.clone(), StatusCode::NOT_MODIFIED),
            (header::IF_NONE_MATCH, format!("\"x\", W/{etag}"), StatusCode::NOT_MODIFIED),
            (header::IF_NONE_MATCH, "\"x\"".into(), StatusCode::OK),
            (header::IF_MODIFIED_SINCE, date, StatusCode::NOT_MODIFIED),
            (header::IF_MODIFIED_SINCE, "Mon, 02 Mar 2026 09:59:59 GMT".into(), StatusCode::OK),
            (header::IF_MODIFIED_SINCE, "yesterday".into(), StatusCode::OK),
        ] {
            assert_eq!(ask(Some((name, value.clone()))).status(), status, "{value}");
        }
    }
}
