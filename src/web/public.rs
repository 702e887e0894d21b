//! What readers see: newsletters, issues, feeds, and the pages behind mailed links.

mod archive;
mod cache;
mod confirm;
mod feed;
mod fields;
mod my_data;
mod preferences;
mod sign_up;
mod unsubscribe;

use axum::{
    Router,
    extract::{Path, State as Extract},
    http::{StatusCode, header},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use tower_http::csrf::CsrfLayer;

pub(super) use archive::Rendered;

use super::{
    State,
    error::{Code, Problem},
    pages::{self, Page},
};
use crate::{
    id::NewsletterId,
    newsletter::{self, Newsletter, NewsletterError},
    token::{Purpose, ReaderToken},
};

type Answer<T = Page> = Result<T, Problem>;

/// The routes, without what stands before them.
pub(super) fn routes(state: &State) -> Router<State> {
    // Forms whose effect a foreign page could have with a link that it got to know. The sign-up form
    // stands on other sites on purpose; leaving must work for programs that send any header or none.
    let own_forms = Router::new()
        .route("/-/confirm/{token}", get(confirm::ask).post(confirm::confirm))
        .route("/-/confirm/{token}/renew", post(confirm::renew))
        .route("/-/not-me/{token}", get(confirm::ask_not_me).post(confirm::not_me))
        .route("/-/preferences/{token}", get(preferences::show).post(preferences::change))
        .route("/-/my-data/{token}", get(my_data::show))
        .route("/-/my-data/{token}/my-data.json", get(my_data::export))
        .route("/-/my-data/{token}/name", post(my_data::name))
        .route("/-/my-data/{token}/erase", post(my_data::erase))
        .route_layer(csrf(state));
    Router::new()
        .merge(own_forms)
        .route("/", get(archive::home))
        .route("/robots.txt", get(robots))
        .route("/-/style.css", get(pages::style))
        .route("/-/unsubscribe/{token}", get(unsubscribe::ask).post(unsubscribe::leave))
        .route("/{slug}", get(to_home))
        .route("/{slug}/", get(archive::newsletter))
        .route("/{slug}/subscribe", get(sign_up::form).post(sign_up::sign_up))
        .route("/{slug}/atom.xml", get(feed::atom))
        .route("/{slug}/rss.xml", get(feed::rss))
        .route("/{slug}/{number}", get(archive::issue))
        .fallback(async || Problem::new(Code::NotFound))
}

/// Refuses forms that come from other sites. Our own public name is trusted even when a proxy hides
/// it from us.
fn csrf(state: &State) -> CsrfLayer {
    let origin = state.config.public_url.origin().ascii_serialization();
    CsrfLayer::new().add_trusted_origin(origin).unwrap_or_default()
}

/// The newsletter with `slug`.
async fn find_newsletter(state: &State, slug: &str) -> Answer<Newsletter> {
    match newsletter::find(&state.db, slug).await {
        Ok(newsletter) => Ok(newsletter),
        Err(NewsletterError::Database(error)) => Err(error.into()),
        // No newsletter is called so: the path was meant for another page.
        Err(_) if slug.starts_with('-') => Err(Code::NotFound.into()),
        Err(_) => Err(Code::UnknownNewsletter.into()),
    }
}

/// The newsletter that a token names.
async fn newsletter_of(state: &State, id: NewsletterId) -> Answer<Newsletter> {
    newsletter::by_id(&state.db, id).await?.ok_or_else(|| Code::UnknownLink.into())
}

/// The reader that a mailed link names. What is wrong with a token is nobody's business.
fn reader(state: &State, purpose: Purpose, token: &str) -> Answer<ReaderToken> {
    ReaderToken::open(&state.keyring, purpose, token, state.now())
        .map_err(|_| Code::UnknownLink.into())
}

/// A newsletter's page without its slash.
async fn to_home(Extract(state): Extract<State>, Path(slug): Path<String>) -> Answer<Redirect> {
    let newsletter = find_newsletter(&state, &slug).await?;
    Ok(Redirect::permanent(&state.pages.paths.newsletter(&newsletter.slug)))
}

/// Pages with tokens in their addresses are nobody's to list.
async fn robots() -> Response {
    let headers = [(header::CONTENT_TYPE, "text/plain; charset=utf-8")];
    (StatusCode::OK, headers, "User-agent: *\nDisallow: /-/\n").into_response()
}
