//! Who may see what: one table of routes and the one layer that holds requests against it.

use aws_lc_rs::hmac;
use axum::{
    Form, Router,
    extract::{FromRequest, MatchedPath, Request, State},
    http::{HeaderMap, Method, header},
    middleware::Next,
    response::{IntoResponse, Redirect, Response},
    routing::{MethodRouter, get, post},
};
use axum_extra::extract::CookieJar;
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    AdminState, approval, assets, channels, dashboard, deliveries, issue, login, monitoring,
    problem::from_elsewhere, subscriber,
};
use crate::{
    account::{self, Role, Session},
    web::{
        client,
        error::{Code, Problem},
    },
};

/// Who a route is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Everybody who reaches the listener.
    Everybody,
    /// Those with this role, or one that may do more.
    Role(Role),
}

/// One route.
pub(super) struct Route {
    pub(super) method: Method,
    pub(super) path: &'static str,
    pub(super) access: Access,
    handler: fn() -> MethodRouter<AdminState>,
}

const fn route(
    method: Method,
    path: &'static str,
    access: Access,
    handler: fn() -> MethodRouter<AdminState>,
) -> Route {
    Route { method, path, access, handler }
}

/// Every route there is. HEAD is allowed where GET is.
pub(super) const ROUTES: &[Route] = {
    use Access::{Everybody, Role as For};
    use Role::{Operator, Viewer};
    &[
        route(Method::GET, "/healthz", Everybody, || get(monitoring::alive)),
        route(Method::GET, "/readyz", Everybody, || get(monitoring::ready)),
        route(Method::GET, "/metrics", Everybody, || get(monitoring::metrics)),
        route(Method::GET, "/-/style.css", Everybody, || get(assets::style)),
        route(Method::GET, "/-/live.js", Everybody, || get(assets::script)),
        route(Method::GET, "/login", Everybody, || get(login::form)),
        route(Method::POST, "/login", Everybody, || post(login::log_in)),
        route(Method::POST, "/logout", For(Viewer), || post(login::log_out)),
        route(Method::GET, "/", For(Viewer), || get(dashboard::show)),
        route(Method::GET, "/issues/{newsletter}/{number}", For(Viewer), || get(issue::show)),
        route(Method::POST, "/issues/{newsletter}/{number}/approve", For(Operator), || {
            post(approval::approve)
        }),
        route(Method::GET, "/deliveries", For(Viewer), || get(deliveries::show)),
        route(Method::GET, "/channels", For(Viewer), || get(channels::show)),
        route(Method::GET, "/subscribers", For(Operator), || get(subscriber::search)),
        route(Method::POST, "/subscribers", For(Operator), || post(subscriber::find)),
        route(Method::GET, "/subscribers/{who}", For(Operator), || get(subscriber::show)),
    ]
};

/// The router, made of the table.
pub(super) fn routes() -> Router<AdminState> {
    ROUTES.iter().fold(Router::new(), |router, route| router.route(route.path, (route.handler)()))
}

/// Somebody who is logged in, as pages get to know them.
#[derive(Debug, Clone)]
pub(super) struct Visitor {
    pub(super) session: Session,
    /// Has to come back with every form.
    pub(super) form_token: String,
    /// The session's token, to end it by.
    pub(super) token: String,
}

/// Lets a request through to its handler if the table says so.
pub(super) async fn authorise(
    State(state): State<AdminState>,
    mut request: Request,
    next: Next,
) -> Result<Response, Response> {
    let Some(access) = access_of(&request) else {
        // No such path, or not with this method: the router says which.
        return Ok(next.run(request).await);
    };
    let Access::Role(role) = access else { return Ok(next.run(request).await) };
    let visitor = visitor(&state, request.headers()).await.map_err(IntoResponse::into_response)?;
    let Some(visitor) = visitor else { return Err(log_in_first(&state, &request)) };
    if visitor.session.role < role {
        let detail = format!("It is for the role “{role}”; yours is “{}”.", visitor.session.role);
        return Err(Problem::new(Code::NotPermitted).saying(detail).into_response());
    }
    request.extensions_mut().insert(visitor);
    Ok(next.run(request).await)
}

fn access_of(request: &Request) -> Option<Access> {
    let path = request.extensions().get::<MatchedPath>()?.as_str();
    let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
    ROUTES.iter().find(|route| route.path == path && route.method == *method).map(|r| r.access)
}

async fn visitor(state: &AdminState, headers: &HeaderMap) -> Result<Option<Visitor>, Problem> {
    let jar = CookieJar::from_headers(headers);
    let Some(token) = login::session_token(&jar) else { return Ok(None) };
    let session = account::find_session(&state.db, &token, state.now()).await?;
    Ok(session.map(|session| Visitor { session, form_token: form_token(&token), token }))
}

fn log_in_first(state: &AdminState, request: &Request) -> Response {
    if client::wants_json(request.headers()) || request.method() != Method::GET {
        return Problem::new(Code::LoginRequired).into_response();
    }
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    // The cookie is not sent along with a link on another site; it is with the next click.
    if request.headers().get("sec-fetch-site").is_some_and(|site| site == "cross-site") {
        return from_elsewhere(state, path);
    }
    let query: String = url::form_urlencoded::byte_serialize(path.as_bytes()).collect();
    Redirect::to(&format!("/login?next={query}")).into_response()
}

/// The token that a form has to come back with: only who holds `secret` (the session's token, or
/// that of the login form) can make it.
pub(super) fn form_token(secret: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    data_encoding::HEXLOWER.encode(hmac::sign(&key, b"form").as_ref())
}

/// Whether `token` is the one that [`form_token`] makes; in constant time.
pub(super) fn is_form_token(secret: &str, token: &str) -> bool {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = data_encoding::HEXLOWER.decode(token.as_bytes()).unwrap_or_default();
    hmac::verify(&key, b"form", &tag).is_ok()
}

/// A form of ours that came back from a page of ours.
pub(super) struct OwnForm<T>(pub(super) T);

#[derive(Deserialize)]
struct WithToken<T> {
    form_token: String,
    #[serde(flatten)]
    fields: T,
}

impl<T: DeserializeOwned> FromRequest<AdminState> for OwnForm<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &AdminState) -> Result<Self, Problem> {
        let visitor = request.extensions().get::<Visitor>().cloned();
        let visitor = visitor.ok_or(Code::LoginRequired)?;
        let form = Form::<WithToken<T>>::from_request(request, state).await;
        let Form(form) = form.map_err(|_| Code::StaleForm)?;
        if is_form_token(&visitor.token, &form.form_token) {
            Ok(Self(form.fields))
        } else {
            Err(Code::StaleForm.into())
        }
    }
}

/// `no-store`: pages behind a login are for nobody else's cache.
pub(super) fn no_store(response: &mut Response) {
    let value = header::HeaderValue::from_static("no-store");
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(value);
}
