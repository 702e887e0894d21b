//! The sign-up form, here or on any other site, and its one answer.

use axum::{
    extract::{Path, Request, State as Extract},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{Answer, fields::Fields, find_newsletter};
use crate::{
    address::Address,
    delivery::shedding::Level,
    newsletter::Newsletter,
    subscriber::{self, SignUp, SignUpError, SignUpOutcome},
    token::FormTime,
    web::{
        State, client,
        error::{Code, Problem},
    },
};

/// Counts up whenever the form or its words change: consent records name it.
const FORM_VERSION: u32 = 1;

/// The form as a page shows it.
#[derive(Debug, Serialize)]
pub(super) struct FormView {
    action: String,
    time: String,
    address: String,
    error: Option<String>,
    consent: String,
}

impl FormView {
    pub(super) fn new(
        state: &State,
        newsletter: &Newsletter,
        address: &str,
        error: Option<String>,
    ) -> Self {
        Self {
            action: format!("{}subscribe", state.pages.paths.newsletter(&newsletter.slug)),
            time: FormTime(state.now()).seal(&state.keyring),
            address: address.chars().take(300).collect(),
            error,
            consent: consent(newsletter),
        }
    }
}

/// What a reader agrees to, in the words of the form.
pub(super) fn consent(newsletter: &Newsletter) -> String {
    format!(
        "You get every issue of {} by mail, and nothing else. You can leave at any time, in one \
         click.",
        newsletter.name
    )
}

/// The form as the consent record keeps it.
pub(super) fn form_shown(newsletter: &Newsletter) -> String {
    format!("form {FORM_VERSION}: {}", consent(newsletter))
}

/// A page with nothing but the form.
pub(super) async fn form(Extract(state): Extract<State>, Path(slug): Path<String>) -> Answer {
    let newsletter = find_newsletter(&state, &slug).await?;
    form_page(&state, &newsletter, &FormView::new(&state, &newsletter, "", None), false)
}

fn form_page(state: &State, newsletter: &Newsletter, form: &FormView, again: bool) -> Answer {
    let frame = state.pages.frame_of(newsletter, format!("Subscribe to {}", newsletter.name));
    state.pages.page("sign_up", &frame, serde_json::json!({ "form": form, "again": again }))
}

/// Takes a form. Every address gets the same answer; what differs is the mail.
pub(super) async fn sign_up(
    Extract(state): Extract<State>,
    Path(slug): Path<String>,
    request: Request,
) -> Answer<Response> {
    if state.shedding.level() >= Level::SignUps {
        let detail = "Sign-ups are closed for a short while. Please try again in some minutes.";
        return Err(Problem::new(Code::NotReady).saying(detail));
    }
    let newsletter = find_newsletter(&state, &slug).await?;
    let (parts, fields) = Fields::of(request).await?;
    let json = client::wants_json(&parts.headers);
    let typed = match fields.get("address") {
        "" => fields.get("email"),
        typed => typed,
    };
    let address = match Address::parse(typed) {
        Ok(address) => address,
        Err(error) if json => {
            return Err(Problem::new(Code::InvalidAddress).saying(error.to_string()));
        }
        Err(error) => {
            let form = FormView::new(&state, &newsletter, typed, Some(error.to_string()));
            let page = form_page(&state, &newsletter, &form, false)?;
            return Ok((StatusCode::UNPROCESSABLE_ENTITY, page).into_response());
        }
    };
    // People do not see this field. Whoever fills it in gets the usual answer.
    if !fields.get("website").is_empty() {
        return answer(&state, &newsletter, &address, json);
    }
    if !is_form_fresh(&state, fields.get("form_time")) {
        let form = FormView::new(&state, &newsletter, address.as_str(), None);
        if json {
            let why = "Send the member form_time of this answer with your next request, not before \
                       a few seconds have passed.";
            return Err(Problem::new(Code::FormTime).saying(why).with_form_time(form.time));
        }
        return Ok(form_page(&state, &newsletter, &form, true)?.into_response());
    }
    let trusted = &state.config.public.trusted_proxies;
    let shown = Some(form_shown(&newsletter));
    let origin = client::origin(&parts.headers, &parts.extensions, trusted, shown);
    let wish = SignUp { newsletter: newsletter.id, address, origin };
    let rules = &state.config.signup;
    let taken =
        subscriber::sign_up(&state.db, &state.keyring, &state.providers, rules, &wish, state.now());
    note(&state, taken.await)?;
    answer(&state, &newsletter, &wish.address, json)
}

/// Wakes the sender when there is something to send, and turns a refusal into a problem.
pub(super) fn note(
    state: &State,
    taken: Result<SignUpOutcome, SignUpError>,
) -> Result<(), Problem> {
    match taken {
        Ok(outcome) => {
            tracing::debug!(?outcome, "sign-up");
            state.mail_queued.notify_one();
            Ok(())
        }
        Err(SignUpError::Limited(limit)) => {
            tracing::warn!(?limit, "a sign-up ran into a cap");
            Err(Code::TooManySignUps.into())
        }
        Err(SignUpError::Database(error)) => Err(error.into()),
    }
}

/// Whether the form was served by us, and neither just now nor long ago.
fn is_form_fresh(state: &State, token: &str) -> bool {
    let now = state.now();
    let rules = &state.config.signup;
    FormTime::open(&state.keyring, token, now).is_ok_and(|FormTime(served)| {
        let age = now.since(served);
        served <= now && age >= rules.form_age_min && age <= rules.form_age_max
    })
}

/// The one answer to every address.
fn answer(
    state: &State,
    newsletter: &Newsletter,
    address: &Address,
    json: bool,
) -> Answer<Response> {
    if json {
        let body =
            r#"{"message":"If this address can subscribe, a mail to confirm is on its way."}"#;
        let mut response = (StatusCode::ACCEPTED, body).into_response();
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        return Ok(response);
    }
    let frame = state.pages.frame_of(newsletter, "Please look at your mail");
    let sent = format!("A mail is on its way to {address}. Press the button in it to confirm.");
    let late = "Nothing there in a few minutes? Look into the spam folder, and check that the \
                address is right.";
    Ok(state.pages.message(&frame, &[&sent, late], None)?.into_response())
}
