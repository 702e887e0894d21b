//! A reader's preferences: pause, go on, leave, ask for the link to their data.

use std::time::Duration;

use axum::extract::{Path, Request, State as Extract};
use serde::Serialize;

use super::{Answer, fields::Fields, newsletter_of, reader};
use crate::{
    db::state::SubscriptionState,
    newsletter::Newsletter,
    subscriber,
    timestamp::Timestamp,
    token::{Purpose, ReaderToken},
    web::{
        State,
        error::{Code, Problem},
    },
};

/// A month, near enough for a pause.
const MONTH: Duration = Duration::from_hours(30 * 24);

#[derive(Serialize)]
struct View {
    state: String,
    active: bool,
    paused: bool,
    unsubscribe: String,
    done: Option<&'static str>,
}

/// What stands now.
pub(super) async fn show(Extract(state): Extract<State>, Path(token): Path<String>) -> Answer {
    let reader = reader(&state, Purpose::Preferences, &token)?;
    let newsletter = newsletter_of(&state, reader.newsletter).await?;
    page(&state, &newsletter, reader, None).await
}

async fn page(
    state: &State,
    newsletter: &Newsletter,
    reader: ReaderToken,
    done: Option<&'static str>,
) -> Answer {
    let all = subscriber::subscriptions(&state.db, reader.subscriber).await?;
    let found = all.iter().find(|one| one.newsletter_id == reader.newsletter);
    let active = found.is_some_and(|one| one.state == SubscriptionState::Active);
    let paused = found.and_then(|one| one.paused_until).filter(|until| *until > state.now());
    let name = &newsletter.name;
    let words = match (active, paused) {
        (false, _) => format!("No issues of {name} are sent to you."),
        (true, None) => format!("Every issue of {name} is sent to you."),
        (true, Some(until)) => {
            format!("No issues of {name} are sent to you before {}.", day(until))
        }
    };
    let leave = reader.seal(&state.keyring, Purpose::Unsubscribe);
    let view = View {
        state: words,
        active,
        paused: paused.is_some(),
        unsubscribe: state.pages.paths.unsubscribe(&leave),
        done,
    };
    let frame = state.pages.frame_of(newsletter, format!("Your subscription to {name}"));
    state.pages.page("preferences", &frame, view)
}

fn day(at: Timestamp) -> String {
    at.to_jiff().strftime("%-d %B %Y").to_string()
}

/// Changes something.
pub(super) async fn change(
    Extract(state): Extract<State>,
    Path(token): Path<String>,
    request: Request,
) -> Answer {
    let reader = reader(&state, Purpose::Preferences, &token)?;
    let newsletter = newsletter_of(&state, reader.newsletter).await?;
    let (_, fields) = Fields::of(request).await?;
    let (db, now) = (&state.db, state.now());
    let done = match fields.get("act") {
        "pause" => {
            let months: u32 = fields.get("months").parse().unwrap_or(0);
            if !(1..=12).contains(&months) {
                let why = "Choose a pause of one to twelve months.";
                return Err(Problem::new(Code::InvalidForm).saying(why));
            }
            let until = now.plus(MONTH * months);
            subscriber::pause(db, reader.newsletter, reader.subscriber, until).await?;
            "Your break has begun."
        }
        "resume" => {
            subscriber::resume(db, reader.newsletter, reader.subscriber).await?;
            "Your break is over."
        }
        "data" => {
            subscriber::request_data_link(db, &state.keyring, reader, now).await?;
            state.mail_queued.notify_one();
            "A mail with the link is on its way to you. The link works for a day."
        }
        _ => return Err(Code::InvalidForm.into()),
    };
    page(&state, &newsletter, reader, Some(done)).await
}
