//! One reader: what they subscribed to, their copies, their lines of the log.

use axum::{
    Extension,
    extract::{Path, State},
    response::{IntoResponse, Redirect, Response},
};
use serde::{Deserialize, Serialize};

use super::{
    AdminState,
    access::{OwnForm, Visitor},
    deliveries::{LineView, line_view},
    pages::Page,
    words::{self, Instant},
};
use crate::{
    address::Address,
    db::state::{CopyState, IssueState, SubscriptionState},
    id::SubscriberId,
    provider::ProviderId,
    report::{self, Timeline},
    subscriber::{self, Subscription},
    web::error::{Code, Problem},
};

#[derive(Serialize)]
struct SearchPage {
    error: Option<String>,
    typed: String,
}

#[derive(Deserialize)]
pub(super) struct Typed {
    #[serde(default)]
    address: String,
}

#[derive(Serialize)]
struct SubscriberPage {
    id: i64,
    address: Option<String>,
    name: Option<String>,
    provider: String,
    created_at: Instant,
    erased_at: Option<Instant>,
    suppressed: Option<SuppressedView>,
    subscriptions: Vec<SubscriptionView>,
    copies: Vec<CopyView>,
    mails: Vec<MailView>,
    lines: Vec<LineView>,
    more_url: Option<String>,
}

#[derive(Serialize)]
struct SuppressedView {
    reason: String,
    detail: String,
    at: Instant,
}

#[derive(Serialize)]
struct SubscriptionView {
    newsletter: String,
    state: SubscriptionState,
    seed: bool,
    created_at: Instant,
    confirmed_at: Option<Instant>,
    ended_at: Option<Instant>,
    end_reason: Option<String>,
    paused_until: Option<Instant>,
}

#[derive(Serialize)]
struct CopyView {
    url: String,
    issue: String,
    subject: String,
    issue_state: IssueState,
    state: CopyState,
    attempts: i64,
    due_at: Option<Instant>,
    in_hand_since: Option<Instant>,
    reason: Option<String>,
}

#[derive(Serialize)]
struct MailView {
    kind: String,
    state: CopyState,
    attempts: i64,
    created_at: Instant,
    reason: Option<String>,
}

/// The form that looks for somebody.
pub(super) async fn search(
    State(state): State<AdminState>,
    Extension(visitor): Extension<Visitor>,
) -> Result<Page, Problem> {
    search_page(&state, &visitor, String::new(), None)
}

fn search_page(
    state: &AdminState,
    visitor: &Visitor,
    typed: String,
    error: Option<String>,
) -> Result<Page, Problem> {
    let frame = state.pages.frame("Subscribers", Some(visitor)).at("/subscribers");
    state.pages.page("search", &frame, SearchPage { error, typed })
}

/// Looks for somebody. A POST, so that the address stands in no address bar and no proxy's log.
pub(super) async fn find(
    State(state): State<AdminState>,
    Extension(visitor): Extension<Visitor>,
    OwnForm(typed): OwnForm<Typed>,
) -> Result<Response, Problem> {
    match row_of(&state, typed.address.trim()).await? {
        Some(SubscriberId(id)) => Ok(Redirect::to(&format!("/subscribers/{id}")).into_response()),
        None => {
            let error = "Nobody with this address ever signed up.".to_owned();
            let page = search_page(&state, &visitor, typed.address, Some(error))?;
            Ok((Code::UnknownSubscriber.status(), page).into_response())
        }
    }
}

/// The row of the reader that `who` names: by its number, or by an address.
pub(super) async fn row_of(state: &AdminState, who: &str) -> Result<Option<SubscriberId>, Problem> {
    if let Ok(id) = who.parse() {
        return Ok(Some(SubscriberId(id)));
    }
    let Ok(address) = Address::parse(who) else { return Ok(None) };
    let found = subscriber::find(&state.db, &state.keyring, &address).await?;
    Ok(found.map(|subscriber| subscriber.id))
}

/// Everything that happened to one reader.
pub(super) async fn show(
    State(state): State<AdminState>,
    Extension(visitor): Extension<Visitor>,
    Path(who): Path<String>,
) -> Result<Response, Problem> {
    let id = row_of(&state, &who).await?.ok_or(Code::UnknownSubscriber)?;
    if who != id.to_string() {
        return Ok(Redirect::to(&format!("/subscribers/{id}")).into_response());
    }
    let timeline = report::timeline(&state.db, id).await?.ok_or(Code::UnknownSubscriber)?;
    let title = timeline.subscriber.address.clone().unwrap_or_else(|| format!("Subscriber {id}"));
    let frame = state.pages.frame(title, Some(&visitor)).at("/subscribers");
    let page = state.pages.page("subscriber", &frame, view(&state, &visitor, timeline))?;
    Ok(page.into_response())
}

fn view(state: &AdminState, visitor: &Visitor, timeline: Timeline) -> SubscriberPage {
    let id = timeline.subscriber.id;
    let role = visitor.session.role;
    let copies = timeline.copies.into_iter().map(|copy| CopyView {
        url: format!("/issues/{}/{}", copy.newsletter, copy.number),
        issue: format!("{} #{}", copy.newsletter, copy.number),
        subject: copy.subject,
        issue_state: copy.issue_state,
        state: copy.state,
        attempts: copy.attempts,
        due_at: copy.due_at.map(words::instant),
        in_hand_since: copy.in_hand_since.map(words::precise),
        reason: copy.reason,
    });
    let mails = timeline.service_mails.into_iter().map(|mail| MailView {
        kind: mail.kind.replace('_', " "),
        state: mail.state,
        attempts: mail.attempts,
        created_at: words::instant(mail.created_at),
        reason: mail.reason,
    });
    let lines = timeline.lines.iter().map(|line| line_view(line, &state.providers, role));
    SubscriberPage {
        id: id.0,
        address: timeline.subscriber.address,
        name: timeline.subscriber.name,
        provider: state.providers.name(ProviderId(timeline.subscriber.provider)).to_owned(),
        created_at: words::instant(timeline.subscriber.created_at),
        erased_at: timeline.subscriber.erased_at.map(words::instant),
        suppressed: timeline.suppression.map(|it| SuppressedView {
            reason: it.reason,
            detail: it.detail,
            at: words::instant(it.created_at),
        }),
        subscriptions: timeline.subscriptions.into_iter().map(subscription).collect(),
        copies: copies.collect(),
        mails: mails.collect(),
        lines: lines.collect(),
        more_url: timeline.more_lines.then(|| format!("/deliveries?subscriber={id}")),
    }
}

fn subscription(it: Subscription) -> SubscriptionView {
    SubscriptionView {
        newsletter: it.newsletter_name,
        state: it.state,
        seed: it.seed,
        created_at: words::instant(it.created_at),
        confirmed_at: it.confirmed_at.map(words::instant),
        ended_at: it.ended_at.map(words::instant),
        end_reason: it.end_reason,
        paused_until: it.paused_until.map(words::instant),
    }
}
