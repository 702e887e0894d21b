//! One's own data, behind a link that was asked for and mailed: see, take along, correct, erase.

use axum::{
    extract::{Path, Request, State as Extract},
    http::header,
    response::{IntoResponse, Response},
};
use serde::Serialize;

use super::{Answer, fields::Fields, newsletter_of};
use crate::{
    subscriber::{self, Confirmation, EraseError, OwnData},
    web::{
        State,
        error::{Code, Problem},
    },
};

#[derive(Serialize)]
struct View {
    done: Option<&'static str>,
    address: String,
    name: String,
    since: String,
    subscriptions: Vec<Line>,
    export: String,
    name_action: String,
    erase_action: String,
}

#[derive(Serialize)]
struct Line {
    newsletter: String,
    state: String,
}

async fn link(state: &State, token: &str) -> Answer<Confirmation> {
    let link = subscriber::data_link(&state.db, token, state.now()).await?;
    link.ok_or_else(|| {
        let why = "Links to your data work for a day. You can ask for a new one on the page of your \
                   preferences, which every issue has a link to.";
        Problem::new(Code::UnknownLink).saying(why)
    })
}

async fn data(state: &State, link: Confirmation) -> Answer<OwnData> {
    let data = subscriber::own_data(&state.db, link.subscriber).await?;
    data.ok_or_else(|| Code::UnknownLink.into())
}

/// What is kept, in short.
pub(super) async fn show(Extract(state): Extract<State>, Path(token): Path<String>) -> Answer {
    page(&state, &token, None).await
}

async fn page(state: &State, token: &str, done: Option<&'static str>) -> Answer {
    let link = link(state, token).await?;
    let newsletter = newsletter_of(state, link.newsletter).await?;
    let data = data(state, link).await?;
    let here = state.pages.paths.my_data(token);
    let view = View {
        done,
        address: data.address.unwrap_or_default(),
        name: data.name.unwrap_or_default(),
        since: data.created_at.to_jiff().strftime("%-d %B %Y").to_string(),
        subscriptions: data
            .subscriptions
            .into_iter()
            .map(|one| Line { newsletter: one.newsletter_name, state: one.state.to_string() })
            .collect(),
        export: format!("{here}/my-data.json"),
        name_action: format!("{here}/name"),
        erase_action: format!("{here}/erase"),
    };
    let frame = state.pages.frame_of(&newsletter, "Your data");
    state.pages.page("my_data", &frame, view)
}

/// Everything that is kept, as JSON.
pub(super) async fn export(
    Extract(state): Extract<State>,
    Path(token): Path<String>,
) -> Answer<Response> {
    let data = data(&state, link(&state, &token).await?).await?;
    let json = serde_json::to_string_pretty(&data).map_err(anyhow::Error::new)?;
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"my-data.json\""),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, json).into_response())
}

/// Corrects the name.
pub(super) async fn name(
    Extract(state): Extract<State>,
    Path(token): Path<String>,
    request: Request,
) -> Answer {
    let link = link(&state, &token).await?;
    let (_, fields) = Fields::of(request).await?;
    subscriber::set_name(&state.db, link.subscriber, fields.get("name")).await?;
    page(&state, &token, Some("Your name is saved.")).await
}

/// Erases.
pub(super) async fn erase(
    Extract(state): Extract<State>,
    Path(token): Path<String>,
    request: Request,
) -> Answer {
    let link = link(&state, &token).await?;
    let newsletter = newsletter_of(&state, link.newsletter).await?;
    let (_, fields) = Fields::of(request).await?;
    if fields.get("sure") != "yes" {
        let why = "Tick the box first: an erasure cannot be undone.";
        return Err(Problem::new(Code::InvalidForm).saying(why));
    }
    match subscriber::erase_by_link(&state.db, &state.keyring, &token, state.now()).await {
        Ok(true) => {}
        Ok(false) | Err(EraseError::Unknown) => return Err(Code::UnknownLink.into()),
        Err(EraseError::Database(error)) => return Err(error.into()),
    }
    let frame = state.pages.frame_of(&newsletter, "You are erased");
    let text = "You have left all newsletters from here, and what was kept about you is gone.";
    state.pages.message(&frame, &[text], None)
}
