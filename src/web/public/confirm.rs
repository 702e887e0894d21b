//! The pages behind the links of a confirmation mail. Looking at them does nothing; the buttons do.

use axum::{
    Extension,
    extract::{Path, Request, State as Extract},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};

use super::{
    Answer, newsletter_of, reader,
    sign_up::{consent, form_shown, note},
};
use crate::{
    subscriber::{self, ConfirmOutcome, Confirmation, LinkState, Origin},
    token::Purpose,
    web::{
        State, client,
        error::{Code, Explained},
        pages::Action,
    },
};

/// The page with the button that confirms.
pub(super) async fn ask(
    Extract(state): Extract<State>,
    Path(token): Path<String>,
) -> Answer<Response> {
    let found = subscriber::find_confirmation(&state.db, &token, state.now()).await?;
    let link = found.ok_or(Code::UnknownLink)?;
    match link.state {
        LinkState::Open => {
            let newsletter = newsletter_of(&state, link.newsletter).await?;
            let title = format!("Confirm your subscription to {}", newsletter.name);
            let frame = state.pages.frame_of(&newsletter, title);
            let content = serde_json::json!({ "consent": consent(&newsletter) });
            Ok(state.pages.page("confirm", &frame, content)?.into_response())
        }
        LinkState::Expired => expired(&state, link, &token).await,
        LinkState::Used => used(&state, link).await,
    }
}

/// Confirms.
pub(super) async fn confirm(
    Extract(state): Extract<State>,
    Path(token): Path<String>,
    request: Request,
) -> Answer<Response> {
    let origin = origin(&state, &request.into_parts().0, &token).await?;
    let domain = &state.config.mail.message_id_domain;
    let by = (token.as_str(), &origin);
    let outcome = subscriber::confirm(&state.db, &state.keyring, domain, by, state.now()).await?;
    match outcome {
        ConfirmOutcome::Confirmed(link) | ConfirmOutcome::AlreadyActive(link) => {
            state.mail_queued.notify_one();
            let newsletter = newsletter_of(&state, link.newsletter).await?;
            let frame = state.pages.frame_of(&newsletter, "You are subscribed");
            let text = format!("The next issue of {} comes to you by mail.", newsletter.name);
            let url = state.pages.paths.newsletter(&newsletter.slug);
            let action = Action { label: "Read the latest issues", url };
            Ok(state.pages.message(&frame, &[&text], Some(action))?.into_response())
        }
        ConfirmOutcome::Used(link) => used(&state, link).await,
        ConfirmOutcome::Expired(link) => expired(&state, link, &token).await,
        ConfirmOutcome::Blocked(_) => Err(Code::AddressBlocked.into()),
        ConfirmOutcome::Unknown => Err(Code::UnknownLink.into()),
    }
}

/// The evidence of a confirmation: the words that its page showed are part of it.
async fn origin(state: &State, request: &Parts, token: &str) -> Answer<Origin> {
    let link = subscriber::find_confirmation(&state.db, token, state.now()).await?;
    let link = link.ok_or(Code::UnknownLink)?;
    let newsletter = newsletter_of(state, link.newsletter).await?;
    let trusted = &state.config.public.trusted_proxies;
    let shown = Some(form_shown(&newsletter));
    Ok(client::origin(&request.headers, &request.extensions, trusted, shown))
}

async fn expired(state: &State, link: Confirmation, token: &str) -> Answer<Response> {
    let newsletter = newsletter_of(state, link.newsletter).await?;
    let frame = state.pages.frame_of(&newsletter, "This link is too old");
    let renew = format!("{}/renew", state.pages.paths.confirm(token));
    let page = state.pages.page("expired", &frame, serde_json::json!({ "renew": renew }))?;
    Ok((StatusCode::GONE, Extension(Explained(Code::LinkExpired)), page).into_response())
}

async fn used(state: &State, link: Confirmation) -> Answer<Response> {
    let newsletter = newsletter_of(state, link.newsletter).await?;
    let frame = state.pages.frame_of(&newsletter, "This link was used already");
    let text = "Links to confirm a subscription work once. If you have left since, you can \
                subscribe again.";
    let url = state.pages.paths.newsletter(&newsletter.slug);
    let action = Action { label: "To the newsletter", url };
    let page = state.pages.message(&frame, &[text], Some(action))?;
    Ok((StatusCode::GONE, Extension(Explained(Code::LinkUsed)), page).into_response())
}

/// Mails a fresh link in the place of one that is too old.
pub(super) async fn renew(
    Extract(state): Extract<State>,
    Path(token): Path<String>,
    request: Request,
) -> Answer<Response> {
    let origin = origin(&state, &request.into_parts().0, &token).await?;
    let (keyring, rules) = (&state.keyring, &state.config.signup);
    let by = (token.as_str(), origin);
    let renewed =
        subscriber::renew(&state.db, keyring, &state.providers, rules, by, state.now()).await;
    match renewed {
        Ok(None) => return Err(Code::LinkUsed.into()),
        Ok(Some(outcome)) => note(&state, Ok(outcome))?,
        Err(error) => note(&state, Err(error))?,
    }
    let link = subscriber::find_confirmation(&state.db, &token, state.now()).await?;
    let newsletter = newsletter_of(&state, link.ok_or(Code::UnknownLink)?.newsletter).await?;
    let frame = state.pages.frame_of(&newsletter, "Please look at your mail");
    let text = "A new link is on its way. Press the button in that mail to confirm.";
    Ok(state.pages.message(&frame, &[text], None)?.into_response())
}

/// The page with the button that blocks an address.
pub(super) async fn ask_not_me(
    Extract(state): Extract<State>,
    Path(token): Path<String>,
) -> Answer<Response> {
    let reader = reader(&state, Purpose::NotMe, &token)?;
    let newsletter = newsletter_of(&state, reader.newsletter).await?;
    let frame = state.pages.frame_of(&newsletter, "Was this not you?");
    Ok(state.pages.page("not_me", &frame, serde_json::json!({}))?.into_response())
}

/// Blocks the address that a confirmation went to.
pub(super) async fn not_me(
    Extract(state): Extract<State>,
    Path(token): Path<String>,
    request: Request,
) -> Answer<Response> {
    let reader = reader(&state, Purpose::NotMe, &token)?;
    let newsletter = newsletter_of(&state, reader.newsletter).await?;
    let trusted = &state.config.public.trusted_proxies;
    let origin = client::origin(request.headers(), request.extensions(), trusted, None);
    subscriber::not_me(&state.db, reader, &origin, state.now()).await?;
    let frame = state.pages.frame_of(&newsletter, "Your address is blocked");
    let text = format!(
        "Nobody can have mail sent to it from here any more. If you change your mind, write to {}.",
        newsletter.reply_to
    );
    Ok(state.pages.message(&frame, &[&text], None)?.into_response())
}
