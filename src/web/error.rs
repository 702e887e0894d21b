//! What a client is told when something is wrong: a page for browsers, `application/problem+json`
//! (RFC 9457) for programs, both with the same stable code.
//!
//! Handlers return a [`Problem`]; [`shape`] gives it its form once the request's wishes are known.
//! What went wrong inside is logged there, once, and shown to nobody.

use std::any::Any;

use axum::{
    extract::{Request, State as Extract},
    http::{HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{State, client, guard};

/// What is wrong, for programs. A code, once released, keeps its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// There is no such page.
    NotFound,
    /// There is no such newsletter.
    UnknownNewsletter,
    /// There is no such published issue.
    UnknownIssue,
    /// A link's token is not one of ours.
    UnknownLink,
    /// A link's time is over.
    LinkExpired,
    /// A link was used.
    LinkUsed,
    /// The address is blocked until an operator lifts that.
    AddressBlocked,
    /// What was typed is not an address.
    InvalidAddress,
    /// The form came without the time it was served, too soon after it or too late.
    FormTime,
    /// Something about the form is missing or wrong.
    InvalidForm,
    /// Too many sign-ups today.
    TooManySignUps,
    /// The page does not take this method.
    MethodNotAllowed,
    /// The request is larger than any form.
    TooLarge,
    /// The request took too long.
    Timeout,
    /// The request names a host that is not ours.
    WrongHost,
    /// A form was sent from somebody else's page.
    CrossOrigin,
    /// The request cannot be understood.
    BadRequest,
    /// The page is for those who are logged in.
    LoginRequired,
    /// Nothing proves that the request comes from whom it claims to come from.
    NotAuthentic,
    /// The page is for another role.
    NotPermitted,
    /// What was asked for cannot be done as things stand.
    WrongState,
    /// A form's token is missing, wrong or of an earlier login.
    StaleForm,
    /// There is no such subscriber.
    UnknownSubscriber,
    /// The daemon cannot do its work now.
    NotReady,
    /// Something failed on our side.
    Internal,
}

impl Code {
    /// The status that goes with it.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::NotFound
            | Self::UnknownNewsletter
            | Self::UnknownIssue
            | Self::UnknownLink
            | Self::UnknownSubscriber => StatusCode::NOT_FOUND,
            Self::LinkExpired | Self::LinkUsed => StatusCode::GONE,
            Self::AddressBlocked | Self::WrongState => StatusCode::CONFLICT,
            Self::InvalidAddress | Self::FormTime | Self::InvalidForm => {
                StatusCode::UNPROCESSABLE_ENTITY
            }
            Self::TooManySignUps => StatusCode::TOO_MANY_REQUESTS,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Timeout => StatusCode::REQUEST_TIMEOUT,
            Self::WrongHost => StatusCode::MISDIRECTED_REQUEST,
            Self::CrossOrigin | Self::NotPermitted | Self::StaleForm => StatusCode::FORBIDDEN,
            Self::LoginRequired | Self::NotAuthentic => StatusCode::UNAUTHORIZED,
            Self::NotReady => StatusCode::SERVICE_UNAVAILABLE,
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The heading of the page.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::NotFound => "There is nothing here",
            Self::UnknownNewsletter => "There is no such newsletter",
            Self::UnknownIssue => "There is no such issue",
            Self::UnknownLink => "This link is not valid",
            Self::LinkExpired => "This link is too old",
            Self::LinkUsed => "This link was used already",
            Self::AddressBlocked => "This address is blocked",
            Self::InvalidAddress => "Please look at the address again",
            Self::FormTime | Self::StaleForm => "Please send the form once more",
            Self::InvalidForm => "Please look at the form again",
            Self::TooManySignUps => "Too many sign-ups",
            Self::MethodNotAllowed => "This cannot be done here",
            Self::TooLarge => "That is too much",
            Self::Timeout => "That took too long",
            Self::WrongHost => "This is not the right address",
            Self::CrossOrigin => "This form came from another site",
            Self::BadRequest => "The request cannot be understood",
            Self::LoginRequired => "Please log in",
            Self::NotAuthentic => "This request proves nothing",
            Self::NotPermitted => "Your role does not permit this",
            Self::WrongState => "This cannot be done now",
            Self::UnknownSubscriber => "There is no such subscriber",
            Self::NotReady => "Not ready",
            Self::Internal => "Something went wrong here",
        }
    }

    /// What to do about it.
    pub(super) const fn advice(self) -> &'static str {
        match self {
            Self::NotFound => "The address may have been mistyped or shortened.",
            Self::UnknownNewsletter => "It may have another name now.",
            Self::UnknownIssue => "It may not have been published yet.",
            Self::UnknownLink => {
                "It may have been cut off on its way. Copy the whole link from the mail, and try \
                 again."
            }
            Self::LinkExpired => "Ask for a new one.",
            Self::LinkUsed => "Links like this work once.",
            Self::AddressBlocked => {
                "No mail is sent to it any more. Write to us if that should change."
            }
            Self::InvalidAddress => "It should look like name@example.com.",
            Self::FormTime => "It was open for a long time, or was sent by a program.",
            Self::InvalidForm => "Something is missing or wrong in it.",
            Self::TooManySignUps => "No more are taken today. Please try again tomorrow.",
            Self::MethodNotAllowed => "This page does not take such requests.",
            Self::TooLarge => "Forms of this site are much smaller.",
            Self::Timeout => "Please try again.",
            Self::WrongHost => "This server does not answer under that name.",
            Self::CrossOrigin => "Open the page on this site, and send its form from there.",
            Self::BadRequest => "It is not what a browser would send.",
            Self::LoginRequired => "This page is for those who are logged in.",
            Self::NotAuthentic => "Its signature or secret is missing, wrong or too old.",
            Self::NotPermitted => "Somebody with another role can do it, or give you that role.",
            Self::WrongState => "Things have moved on meanwhile. Look at the page again.",
            Self::StaleForm => {
                "It was opened before you logged in. Go back, reload the page, and send it again."
            }
            Self::UnknownSubscriber => "The address may have been mistyped, or never signed up.",
            Self::NotReady => "The daemon cannot do its work now.",
            Self::Internal => {
                "It is not your fault, and it was written down. Please try again in a while."
            }
        }
    }
}

/// Marks a response that is a page of ours already, whatever its status.
#[derive(Debug, Clone, Copy)]
pub(super) struct IsPage;

/// What went wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What, for programs.
    pub code: Code,
    /// What, in words for the one who asked; without them the code's own stand.
    pub detail: Option<String>,
    /// What really happened, for the log only.
    pub(super) inside: Option<String>,
    /// A fresh `form_time`, for programs that came without one.
    form_time: Option<String>,
}

impl Problem {
    /// A problem that its code says all about.
    pub const fn new(code: Code) -> Self {
        Self { code, detail: None, inside: None, form_time: None }
    }

    /// The same, with words for the one who asked.
    #[must_use]
    pub fn saying(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// The same, with a form time to come back with.
    #[must_use]
    pub(super) fn with_form_time(mut self, token: String) -> Self {
        self.form_time = Some(token);
        self
    }

    fn internal(inside: String) -> Self {
        Self { inside: Some(inside), ..Self::new(Code::Internal) }
    }
}

impl From<Code> for Problem {
    fn from(code: Code) -> Self {
        Self::new(code)
    }
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        Self::internal(error.to_string())
    }
}

impl From<anyhow::Error> for Problem {
    fn from(error: anyhow::Error) -> Self {
        Self::internal(format!("{error:#}"))
    }
}

impl IntoResponse for Problem {
    /// A response that [`shape`] gives its body.
    fn into_response(self) -> Response {
        let mut response = self.code.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

#[derive(Serialize)]
struct Json<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    code: Code,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    form_time: Option<&'a str>,
}

/// On a page that tells a browser about this problem with more than the problem's own words (a button
/// that mends it, say). Programs get the problem instead.
#[derive(Debug, Clone, Copy)]
pub(super) struct Explained(pub(super) Code);

/// Gives problems their form: HTML or JSON, as the client wants it. Bare error statuses from the
/// layers below become problems here, and every answer gets the headers that all have.
pub(super) async fn shape(
    Extract(state): Extract<State>,
    request: Request,
    next: Next,
) -> Response {
    let json = client::wants_json(request.headers()) || guard::is_hook(&request);
    let mut response = next.run(request).await;
    let explained = response.extensions().get::<Explained>().filter(|_| json);
    let explained = explained.map(|explained| Problem::new(explained.0));
    let problem = response.extensions().get::<Problem>().cloned().or(explained);
    if let Some(problem) = problem.or_else(|| bare(&response).map(Problem::new)) {
        response = shaped(&state, &problem, json, &response);
    }
    guard::protect(&state, &mut response);
    response
}

fn shaped(state: &State, problem: &Problem, json: bool, bare: &Response) -> Response {
    if let Some(inside) = &problem.inside {
        tracing::error!(error = %inside, "a request failed");
    }
    let mut shaped = render(state, problem, json);
    for name in [header::ALLOW, header::RETRY_AFTER, header::CONNECTION] {
        if let Some(value) = bare.headers().get(&name) {
            shaped.headers_mut().insert(name, value.clone());
        }
    }
    if let Some(seconds) = retry_after(problem.code) {
        shaped.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(seconds));
    }
    shaped
}

/// In how many seconds it may work, where that can be said: what is counted by the day, and what an
/// operator or the machine itself mends.
const fn retry_after(code: Code) -> Option<&'static str> {
    match code {
        Code::TooManySignUps => Some("86400"),
        Code::NotReady => Some("300"),
        _ => None,
    }
}

/// The problem behind an error without a body, as axum's own parts give it.
pub(super) fn bare(response: &Response) -> Option<Code> {
    if response.extensions().get::<IsPage>().is_some() {
        return None;
    }
    match response.status() {
        StatusCode::NOT_FOUND => Some(Code::NotFound),
        StatusCode::METHOD_NOT_ALLOWED => Some(Code::MethodNotAllowed),
        StatusCode::PAYLOAD_TOO_LARGE => Some(Code::TooLarge),
        StatusCode::REQUEST_TIMEOUT => Some(Code::Timeout),
        StatusCode::FORBIDDEN => Some(Code::CrossOrigin),
        StatusCode::UNPROCESSABLE_ENTITY => Some(Code::InvalidForm),
        status if status.is_client_error() => Some(Code::BadRequest),
        status if status.is_server_error() => Some(Code::Internal),
        _ => None,
    }
}

fn render(state: &State, problem: &Problem, json: bool) -> Response {
    let status = problem.code.status();
    let detail = problem.detail.as_deref().unwrap_or(problem.code.advice());
    let mut response = if json {
        problem_json(problem)
    } else {
        let frame = state.pages.frame(problem.code.title());
        let page = state.pages.message(&frame, &[detail], None);
        page.map_or_else(|_| detail.to_owned().into_response(), IntoResponse::into_response)
    };
    *response.status_mut() = status;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A problem for programs, without its status.
pub(super) fn problem_json(problem: &Problem) -> Response {
    let body = Json {
        r#type: "about:blank",
        title: problem.code.title(),
        status: problem.code.status().as_u16(),
        code: problem.code,
        detail: problem.detail.as_deref().unwrap_or(problem.code.advice()),
        form_time: problem.form_time.as_deref(),
    };
    let body = serde_json::to_string(&body).unwrap_or_default();
    ([(header::CONTENT_TYPE, "application/problem+json")], body).into_response()
}

/// The answer to a panic, which is a defect: logged, and not shown.
#[expect(clippy::needless_pass_by_value, reason = "the layer's signature")]
pub(super) fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let words = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without words");
    Problem::internal(format!("panic: {words}")).into_response()
}
