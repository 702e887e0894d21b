//! Leaving (RFC 8058): one address for the reader's browser and for the mail client's button.
//!
//! A POST works with no cookie, no session, no CSRF token and any body, answers 200 at once, and
//! answers so again. GET and HEAD change nothing.

use axum::extract::{Path, Request, State as Extract};

use super::{Answer, fields::Fields, newsletter_of, reader};
use crate::{
    db::state::SubscriptionState,
    subscriber::{self, Scope, Via},
    token::Purpose,
    web::{State, client, pages::Action},
};

/// The page with the button.
pub(super) async fn ask(Extract(state): Extract<State>, Path(token): Path<String>) -> Answer {
    let reader = reader(&state, Purpose::Unsubscribe, &token)?;
    let newsletter = newsletter_of(&state, reader.newsletter).await?;
    let all = subscriber::subscriptions(&state.db, reader.subscriber).await?;
    let subscribed = all.iter().any(|subscription| {
        subscription.newsletter_id == reader.newsletter
            && matches!(subscription.state, SubscriptionState::Active | SubscriptionState::Pending)
    });
    let preferences = reader.seal(&state.keyring, Purpose::Preferences);
    let frame = state.pages.frame_of(&newsletter, format!("Unsubscribe from {}", newsletter.name));
    let content = serde_json::json!({
        "subscribed": subscribed,
        "preferences": state.pages.paths.preferences(&preferences),
    });
    state.pages.page("unsubscribe", &frame, content)
}

/// Ends the subscription.
pub(super) async fn leave(
    Extract(state): Extract<State>,
    Path(token): Path<String>,
    request: Request,
) -> Answer {
    let reader = reader(&state, Purpose::Unsubscribe, &token)?;
    let newsletter = newsletter_of(&state, reader.newsletter).await?;
    let (parts, fields) = Fields::if_any(request).await;
    let via = if fields.get("page").is_empty() { Via::OneClick } else { Via::Page };
    let everything = via == Via::Page && fields.get("scope") == "everything";
    let scope = if everything { Scope::Everything } else { Scope::Newsletter };
    let trusted = &state.config.public.trusted_proxies;
    let origin = client::origin(&parts.headers, &parts.extensions, trusted, None);
    let how = (via, Some(fields.get("reason")));
    subscriber::unsubscribe(&state.db, reader, scope, how, &origin, state.now()).await?;
    let frame = state.pages.frame_of(&newsletter, "You have left");
    let text = if everything {
        "No newsletter from here is sent to you any more. We are sorry to see you go.".to_owned()
    } else {
        format!(
            "No more issues of {} are sent to you. We are sorry to see you go.",
            newsletter.name
        )
    };
    let url = state.pages.paths.newsletter(&newsletter.slug);
    let action = Action { label: "Changed your mind? Subscribe again", url };
    state.pages.message(&frame, &[&text], Some(action))
}
