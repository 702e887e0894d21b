//! The engine as a whole: starts every part in the right order, and stops them in the reverse one.

mod assembly;
mod node;
mod settings;

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Notify,
    task::{AbortHandle, JoinHandle, JoinSet},
    time::timeout_at,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

pub use self::settings::signers;
use self::{
    assembly::{Assembly, Records},
    node::{Node, sign_off},
};
use super::{
    clock::Tempo, dispatch::Dispatch, recovery::Recovered, relay::Relay, shedding::Shedding,
    tallies::Tallies, view::View,
};
use crate::{
    config::Config, db::Db, id::NodeId, issue::render::Renderer, provider::Providers,
    telemetry::Metrics, timestamp::Timestamp, token::Keyring,
};

/// How much longer than the drain a stop may take, for what is written last.
const CLOSING: Duration = Duration::from_secs(5);

/// What an engine is built from.
pub struct Parts {
    /// The database, with the daemon's lock held.
    pub db: Db,
    /// The configuration; its relays are the ones to use.
    pub config: Arc<Config>,
    /// Keys behind links and return paths.
    pub keyring: Arc<Keyring>,
    /// Templates.
    pub renderer: Arc<Renderer>,
    /// The provider table.
    pub providers: Arc<Providers>,
    /// How many seconds of limits, breakers, rules and warm-up ramps pass in one: 1, but for
    /// rehearsals. Times of the configuration itself come as they shall be.
    pub speed: u32,
}

/// Why an engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The journal cannot be read or written.
    #[error("the delivery journal {path} cannot be used: {source}")]
    Journal {
        /// Where it is.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file that says how far the database has come cannot be read or written.
    #[error("the mark {path} cannot be used: {source}")]
    Mark {
        /// Where it is.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something in the configuration does not work.
    #[error("{0}")]
    Configuration(String),
}

/// A running engine.
pub struct Engine {
    db: Db,
    node: NodeId,
    dispatch: Arc<Dispatch>,
    relays: Vec<Arc<Relay>>,
    tallies: Arc<Tallies>,
    metrics: Arc<Metrics>,
    bell: Arc<Notify>,
    shedding: Arc<Shedding>,
    stop: CancellationToken,
    connections: TaskTracker,
    workers: Vec<AbortHandle>,
    background: JoinSet<()>,
    writer: JoinHandle<()>,
    recovered: Recovered,
    drain: Duration,
}

impl Engine {
    /// Settles what an earlier daemon left, then begins to send.
    pub async fn start(parts: Parts) -> Result<Self, StartError> {
        let now = Timestamp::now();
        let tempo = Tempo::new(now, parts.speed);
        let node = Node::register(&parts.db, parts.config.sending.lease, now).await?;
        let records = Records::of_the_past(&parts.db, &parts.config, &node, now).await?;
        let recovered = records.recovered;
        let (uid, drain) = (node.uid.clone(), parts.config.sending.drain);
        let assembly = Assembly::new(parts, node, tempo, now).await?;
        let (journal, ledger, writer) = assembly.write(records);
        let (connections, workers) = assembly.connect(&ledger, journal);
        let background = assembly.watch(ledger).await;
        let Assembly { db, node, dispatch, relays, tallies, metrics, bell, shedding, stop, .. } =
            assembly;
        info!(node = %uid, relays = relays.len(), "the delivery engine runs");
        Ok(Self {
            db,
            node: node.id,
            dispatch,
            relays,
            tallies,
            metrics,
            bell,
            shedding,
            stop,
            connections,
            workers,
            background,
            writer,
            recovered,
            drain,
        })
    }

    /// Says that a row was changed: an issue was scheduled, a service mail was queued.
    pub fn ring(&self) {
        self.bell.notify_one();
    }

    /// A handle that rings from elsewhere.
    pub fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.bell)
    }

    /// What is given up for want of something.
    pub fn shedding(&self) -> Arc<Shedding> {
        Arc::clone(&self.shedding)
    }

    /// What recovery found at the start.
    pub fn recovered(&self) -> Recovered {
        self.recovered
    }

    /// The relays and how they are.
    pub fn relays(&self) -> &[Arc<Relay>] {
        &self.relays
    }

    /// What stands between the queue and the wire now.
    pub fn dispatch(&self) -> &Arc<Dispatch> {
        &self.dispatch
    }

    /// What pages and `/metrics` read off the engine. It may outlive the engine.
    pub fn view(&self) -> View {
        View {
            metrics: Arc::clone(&self.metrics),
            dispatch: Arc::clone(&self.dispatch),
            tallies: Arc::clone(&self.tallies),
            relays: self.relays.clone(),
            shedding: Arc::clone(&self.shedding),
        }
    }

    /// Finishes the copies under way, within the configured bound, and stops. Whatever cannot be
    /// finished is settled from the journal at the next start, as after a crash: a database that
    /// cannot be written holds a stop up for [`CLOSING`] and no longer.
    pub async fn drain(self) {
        let Self { db, node, dispatch, connections, mut background, mut writer, .. } = self;
        let until = tokio::time::Instant::now() + self.drain;
        dispatch.drain();
        self.stop.cancel();
        if timeout_at(until, connections.wait()).await.is_err() {
            warn!(
                drain_ms = self.drain.as_millis() as u64,
                connections = connections.len(),
                "copies were still under way at the end of the drain; the journal keeps their state"
            );
            for worker in &self.workers {
                worker.abort();
            }
            connections.wait().await;
        }
        let closing = async {
            while background.join_next().await.is_some() {}
            // The writer ends once every sender of requests is gone.
            let _ = (&mut writer).await;
            if let Err(problem) = sign_off(&db, node).await {
                error!(error = %problem, "claims could not be released; the next start does it");
            }
        };
        if timeout_at(until + CLOSING, closing).await.is_err() {
            error!(
                "the database could not be written to the end; the journal keeps the outcomes, and \
                 the next start settles them"
            );
            background.shutdown().await;
            writer.abort();
        }
        info!("the delivery engine stopped");
    }
}
