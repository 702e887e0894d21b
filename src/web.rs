//! The public pages: what readers see of a newsletter in a browser, and what mail clients call. The
//! pages for operators are in [`admin`].
//!
//! Owns the public listener, its limits, the look of the pages and the answers to errors. Calls the
//! domain and writes no SQL. Nothing changes on GET or HEAD: mail scanners fetch every link. There
//! are no cookies and no sessions; who may act is who holds a mailed token, or a provider's secret
//! (webhooks, in `hooks`).

pub mod admin;
mod client;
mod error;
mod guard;
mod hooks;
mod pages;
mod public;
mod serve;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use axum::{Router, middleware};
use tokio::sync::Notify;
use tower_http::catch_panic::CatchPanicLayer;

pub use error::{Code, Problem};
pub use serve::{Limits, serve};

use crate::{
    config::Config, db::Db, delivery::shedding::Shedding, issue::Renderer, provider::Providers,
    timestamp::Timestamp, token::Keyring,
};

/// What tells the time: the system's clock, or a test's.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What the pages work with. Cheap to clone.
#[derive(Clone)]
pub struct State {
    /// The database.
    pub db: Db,
    /// The configuration.
    pub config: Arc<Config>,
    /// The keys behind links and forms.
    pub keyring: Arc<Keyring>,
    /// Who runs which mailbox.
    pub providers: Arc<Providers>,
    /// Renders issues for the archive.
    pub renderer: Arc<Renderer>,
    /// Tells the time.
    pub clock: Clock,
    /// Told whenever a service mail was queued, so that the delivery engine need not look for it.
    pub mail_queued: Arc<Notify>,
    /// What the daemon gives up for want of something: sign-ups, at last.
    pub shedding: Arc<Shedding>,
    pages: Arc<pages::Pages>,
    rendered: Arc<public::Rendered>,
    hooks: Arc<hooks::Hooks>,
}

impl State {
    /// A state over an open database, with the system's clock.
    ///
    /// # Panics
    /// Never: the built-in pages are compiled by a test.
    pub fn new(
        db: Db,
        config: Arc<Config>,
        keyring: Arc<Keyring>,
        providers: Arc<Providers>,
        renderer: Arc<Renderer>,
    ) -> Self {
        Self {
            pages: Arc::new(pages::Pages::new(&config.public_url)),
            hooks: Arc::new(hooks::Hooks::new(&config)),
            db,
            config,
            keyring,
            providers,
            renderer,
            clock: Arc::new(Timestamp::now),
            mail_queued: Arc::new(Notify::new()),
            shedding: Arc::default(),
            rendered: Arc::default(),
        }
    }

    /// What time it is.
    fn now(&self) -> Timestamp {
        (self.clock)()
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("public_url", &self.config.public_url).finish_non_exhaustive()
    }
}

/// Every public page, with what protects them.
pub fn router(state: State) -> Router {
    let pages = public::routes(&state).merge(hooks::routes());
    // A proxy may pass the path of `public_url` on, or take it off.
    let path = state.config.public_url.path().trim_end_matches('/').to_owned();
    let app = if path.is_empty() { pages } else { pages.clone().nest(&path, pages) };
    let shaped = middleware::from_fn_with_state(state.clone(), error::shape);
    let guarded = middleware::from_fn_with_state(state.clone(), guard::guard);
    app.layer(CatchPanicLayer::custom(error::panicked))
        .layer(guarded)
        .layer(shaped)
        .with_state(state)
}
