//! The pages for those who run a newsletter, and what monitoring asks: `/metrics`, `/healthz`,
//! `/readyz`. They stand on a listener of their own, on this machine unless configured otherwise.
//!
//! Everything here only reads, but for two things: logging in and out, and approving of a send. Who may see what is declared
//! in one table ([`access::ROUTES`]), from which the router is built: a route without a role does not
//! exist. Pages work without JavaScript; with it, one small script of our own keeps them fresh.

mod access;
mod approval;
mod assets;
mod channels;
mod dashboard;
mod deliveries;
mod issue;
mod login;
mod monitoring;
mod pages;
mod problem;
mod subscriber;
#[cfg(test)]
mod tests;
mod words;

use std::{fmt, sync::Arc};

use axum::{Router, extract::DefaultBodyLimit, middleware};
use tower_http::{catch_panic::CatchPanicLayer, csrf::CsrfLayer};

use super::{Clock, error, guard::BODY_OCTETS_MAX};
use crate::{
    account::Logins, config::Config, db::Db, delivery::view::View, provider::Providers,
    telemetry::trace_requests, timestamp::Timestamp, token::Keyring,
};

/// What the pages work with. Cheap to clone.
#[derive(Clone)]
pub struct AdminState {
    db: Db,
    config: Arc<Config>,
    keyring: Arc<Keyring>,
    providers: Arc<Providers>,
    engine: Option<View>,
    /// Tells the time.
    pub clock: Clock,
    logins: Arc<Logins>,
    pages: Arc<pages::Pages>,
    readiness: Arc<monitoring::Readiness>,
}

impl AdminState {
    /// A state over an open database, with the system's clock. Without an engine nothing is ever
    /// ready, and there are no metrics.
    pub fn new(
        db: Db,
        config: Arc<Config>,
        keyring: Arc<Keyring>,
        providers: Arc<Providers>,
        engine: Option<View>,
    ) -> Self {
        Self {
            logins: Arc::new(Logins::new(db.clone(), config.admin.session_lifetime)),
            db,
            config,
            keyring,
            providers,
            engine,
            clock: Arc::new(Timestamp::now),
            pages: Arc::new(pages::Pages::new()),
            readiness: Arc::default(),
        }
    }

    fn now(&self) -> Timestamp {
        (self.clock)()
    }
}

impl fmt::Debug for AdminState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminState").field("engine", &self.engine.is_some()).finish_non_exhaustive()
    }
}

/// Every page for operators, with what protects them. Serve it with [`super::serve`].
pub fn router(state: AdminState) -> Router {
    let app = access::routes()
        .layer(middleware::from_fn_with_state(state.clone(), access::authorise))
        .layer(CsrfLayer::new())
        .layer(DefaultBodyLimit::max(BODY_OCTETS_MAX))
        .layer(CatchPanicLayer::custom(error::panicked))
        .layer(middleware::from_fn_with_state(state.clone(), problem::shape))
        .with_state(state);
    trace_requests(app)
}
