//! Logging in and out: the form, the cookies, and nothing else.

use std::net::SocketAddr;

use axum::{
    Extension, Form,
    extract::{ConnectInfo, Query, State},
    http::{Extensions, HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};
use axum_extra::extract::{
    CookieJar,
    cookie::{Cookie, SameSite},
};
use serde::{Deserialize, Serialize};

use super::{
    AdminState,
    access::{OwnForm, Visitor, form_token, is_form_token},
};
use crate::{
    account::{self, LogIn, LoginError},
    web::{
        client,
        error::{Code, Problem},
    },
};

/// The session's cookie over HTTPS: the prefix keeps other hosts and unencrypted pages from setting
/// it (RFC 6265bis, section 4.1.3.2).
const SESSION_SECURE: &str = "__Host-postrider";
/// The session's cookie where there is no TLS: on this machine.
const SESSION: &str = "postrider";
/// What a login form is bound to before there is a session.
const FORM: &str = "postrider-form";
/// Octets of the longest path that a login leads on to.
const NEXT_OCTETS_MAX: usize = 500;

#[derive(Debug, Default, Deserialize)]
pub(super) struct Wanted {
    next: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Typed {
    #[serde(default)]
    name: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    next: String,
    #[serde(default)]
    form_token: String,
}

#[derive(Serialize)]
struct LoginPage<'a> {
    error: Option<String>,
    name: &'a str,
    next: &'a str,
    form_token: String,
    /// Nobody could log in: there is no user.
    nobody: bool,
}

/// The token in the session's cookie.
pub(super) fn session_token(jar: &CookieJar) -> Option<String> {
    let cookie = jar.get(SESSION_SECURE).or_else(|| jar.get(SESSION))?;
    Some(cookie.value().to_owned())
}

/// The form.
pub(super) async fn form(
    State(state): State<AdminState>,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let next = next_of(wanted.next.as_deref().unwrap_or("/")).to_owned();
    let jar = CookieJar::from_headers(&headers);
    if let Some(token) = session_token(&jar)
        && account::find_session(&state.db, &token, state.now()).await?.is_some()
    {
        return Ok(Redirect::to(&next).into_response());
    }
    show(&state, &headers, StatusCode::OK, "", &next, None).await
}

async fn show(
    state: &AdminState,
    headers: &HeaderMap,
    status: StatusCode,
    name: &str,
    next: &str,
    error: Option<String>,
) -> Result<Response, Problem> {
    let secret = data_encoding::HEXLOWER.encode(&rand::random::<[u8; 16]>());
    let nobody = !account::any(&state.db).await?;
    let content = LoginPage { error, name, next, form_token: form_token(&secret), nobody };
    let page = state.pages.page("login", &state.pages.frame("Log in", None), content)?;
    let jar = CookieJar::new().add(cookie(FORM, secret, is_https(headers)));
    Ok((status, jar, page).into_response())
}

/// A name and a password that came in.
pub(super) async fn log_in(
    State(state): State<AdminState>,
    peer: Option<Extension<ConnectInfo<SocketAddr>>>,
    headers: HeaderMap,
    form: Result<Form<Typed>, axum::extract::rejection::FormRejection>,
) -> Result<Response, Problem> {
    let Form(typed) = form.map_err(|_| Code::InvalidForm)?;
    let next = next_of(&typed.next);
    let jar = CookieJar::from_headers(&headers);
    let secret = jar.get(FORM).map(|cookie| cookie.value().to_owned());
    if !secret.is_some_and(|secret| is_form_token(&secret, &typed.form_token)) {
        let error = "The form was open for too long, or cookies are off. Please try again.";
        let status = StatusCode::FORBIDDEN;
        return show(&state, &headers, status, &typed.name, next, Some(error.to_owned())).await;
    }
    let mut extensions = Extensions::new();
    if let Some(Extension(peer)) = peer {
        extensions.insert(peer);
    }
    let trusted = &state.config.public.trusted_proxies;
    let ip = client::origin(&headers, &extensions, trusted, None).ip;
    let by = LogIn { name: &typed.name, password: &typed.password, ip };
    match state.logins.log_in(by, state.now()).await {
        Ok((_, token)) => {
            let secure = is_https(&headers);
            let name = if secure { SESSION_SECURE } else { SESSION };
            let mut session = cookie(name, token, secure);
            let lifetime = state.config.admin.session_lifetime;
            session.set_max_age(lifetime.try_into().ok().filter(|_| !lifetime.is_zero()));
            let jar = CookieJar::new().add(session).add(gone(FORM, secure));
            Ok((jar, Redirect::to(next)).into_response())
        }
        Err(LoginError::Database(error)) => Err(error.into()),
        Err(refused) => {
            tracing::info!(ip = ?ip, reason = %refused, "a login was refused");
            let status = match &refused {
                LoginError::TooMany(_) => StatusCode::TOO_MANY_REQUESTS,
                LoginError::Busy(_) => StatusCode::SERVICE_UNAVAILABLE,
                _ => StatusCode::UNAUTHORIZED,
            };
            let error = Some(sentence(&refused.to_string()));
            let mut response = show(&state, &headers, status, &typed.name, next, error).await?;
            if let LoginError::TooMany(wait) = refused {
                let seconds = HeaderValue::from(wait.as_secs().max(1));
                response.headers_mut().insert(header::RETRY_AFTER, seconds);
            }
            Ok(response)
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Nothing {}

/// Ends the session.
pub(super) async fn log_out(
    State(state): State<AdminState>,
    Extension(visitor): Extension<Visitor>,
    headers: HeaderMap,
    OwnForm(Nothing {}): OwnForm<Nothing>,
) -> Result<Response, Problem> {
    account::end(&state.db, &visitor.token).await?;
    let secure = is_https(&headers);
    let jar = CookieJar::new().add(gone(SESSION, secure)).add(gone(SESSION_SECURE, true));
    Ok((jar, Redirect::to("/login")).into_response())
}

fn cookie(name: &'static str, value: String, secure: bool) -> Cookie<'static> {
    Cookie::build((name, value))
        .path("/")
        .http_only(true)
        .same_site(SameSite::Strict)
        .secure(secure)
        .build()
}

fn gone(name: &'static str, secure: bool) -> Cookie<'static> {
    let mut cookie = cookie(name, String::new(), secure);
    cookie.make_removal();
    cookie
}

/// Whether the browser speaks HTTPS, to us or to a proxy before us: it says so with every form it
/// sends, and a page elsewhere cannot make it say otherwise.
fn is_https(headers: &HeaderMap) -> bool {
    let starts = |name: header::HeaderName| {
        headers.get(name).is_some_and(|value| value.as_bytes().starts_with(b"https://"))
    };
    starts(header::ORIGIN) || (!headers.contains_key(header::ORIGIN) && starts(header::REFERER))
}

/// A path on this site to go on to, whatever was asked for.
fn next_of(next: &str) -> &str {
    let path = next.len() <= NEXT_OCTETS_MAX
        && next.starts_with('/')
        && !next[1..].starts_with(['/', '\\'])
        && next.bytes().all(|b| b.is_ascii_graphic() && b != b'\\');
    if path { next } else { "/" }
}

/// An error's text as a sentence of its own.
fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", characters.as_str())
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn a_login_leads_on_to_this_site_only() {
        for (next, expected) in [
            ("/issues/weekly/437?a=b", "/issues/weekly/437?a=b"),
            ("//evil.example/", "/"),
            ("/\\evil.example/", "/"),
            ("https://evil.example/", "/"),
            ("/a\r\nb", "/"),
            ("", "/"),
        ] {
            assert_eq!(next_of(next), expected, "{next}");
        }
        assert_eq!(next_of(&format!("/{}", "a".repeat(500))), "/");
    }
}
