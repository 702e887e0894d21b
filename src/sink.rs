//! The built-in mailbox and fault-injecting SMTP server, for rehearsals, demonstrations and tests.
//!
//! A [`Sink`] takes any mail and delivers none. It keeps messages in a bounded [`mailbox`] that a
//! web inbox and a JSON API show, or counts and forgets them (discard mode, the fast peer of
//! benchmarks). It can write a [`journal`] to hold a sender's ledger against, misbehave on demand
//! ([`faults`]), and send back the bounces and complaints that real mailboxes would. It listens on
//! loopback unless told otherwise and must not face the internet.

pub mod cli;
pub mod content;
pub mod faults;
mod handler;
pub mod journal;
pub mod mailbox;
mod returns;
mod web;

use std::{
    fmt, io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::smtp::server::{Auth, BareNewlines, Limits, Protocol, Server, ServerConfig, Tls};

use self::{
    faults::{
        Faults,
        profile::{Profile, ProfileError},
    },
    handler::SinkHandler,
    journal::Journal,
    mailbox::{Mailbox, MailboxLimits},
    returns::Returns,
};

/// How a sink behaves.
#[derive(Debug, Clone)]
pub struct SinkConfig {
    /// Where it takes mail; port 0 for any free one.
    pub smtp: SocketAddr,
    /// Where the web inbox and the API are; none for neither.
    pub http: Option<SocketAddr>,
    /// The name it greets with.
    pub hostname: String,
    /// SMTP or LMTP.
    pub protocol: Protocol,
    /// TLS on the SMTP side.
    pub tls: Tls,
    /// Whether clients log in.
    pub auth: Auth,
    /// The one user and password that may; any may without.
    pub user: Option<(String, String)>,
    /// How much the mailbox holds.
    pub mailbox: MailboxLimits,
    /// Also write every accepted message to a file of its own here.
    pub mailbox_dir: Option<PathBuf>,
    /// Count messages and forget them.
    pub discard: bool,
    /// Where the journal is written, if one is wanted.
    pub journal: Option<PathBuf>,
    /// Faults from the start; [`Sink::set_faults`] changes them.
    pub faults: Profile,
    /// Whether recipients' names may ask for faults (see [`faults::magic`]).
    pub magic: bool,
    /// Where bounces and complaints are delivered, by SMTP; none are without.
    pub returns_to: Option<SocketAddr>,
    /// The sender whose one-click unsubscribe links (RFC 8058) the inbox may follow, as the base of
    /// its public pages; none are followed without.
    pub one_click_base: Option<Url>,
    /// Every batch of replies leaves this much later.
    pub latency: Duration,
    /// Connections at once.
    pub connections: usize,
    /// The largest message taken, in bytes.
    pub message_bytes: u64,
}

impl Default for SinkConfig {
    fn default() -> Self {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            smtp: loopback,
            http: Some(loopback),
            hostname: "sink.localhost".to_owned(),
            protocol: Protocol::Smtp,
            tls: Tls::Off,
            auth: Auth::Off,
            user: None,
            mailbox: MailboxLimits::default(),
            mailbox_dir: None,
            discard: false,
            journal: None,
            faults: Profile::default(),
            magic: true,
            returns_to: None,
            one_click_base: None,
            latency: Duration::ZERO,
            connections: 1000,
            message_bytes: 25_000_000,
        }
    }
}

impl SinkConfig {
    fn server(&self) -> ServerConfig {
        let limits = Limits {
            connections: self.connections,
            connections_per_peer: self.connections,
            commands: u64::MAX,
            errors: u32::MAX,
            recipients: 1000,
            message_bytes: self.message_bytes,
            read_buffer_bytes: 64 * 1024,
            // Faults stall for longer than a session of the intake may last.
            session_timeout: Duration::from_hours(24),
            drain: Duration::from_secs(1),
            ..Limits::default()
        };
        ServerConfig {
            hostname: self.hostname.clone(),
            protocol: self.protocol,
            tls: self.tls.clone(),
            auth: self.auth,
            limits,
            bare_newlines: BareNewlines::Keep,
            reply_latency: self.latency,
        }
    }
}

/// Why a sink does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error(
        "the built-in mailbox cannot listen on {address}: {error}; choose another address or port"
    )]
    Listen {
        /// Which address.
        address: SocketAddr,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// A file or folder cannot be written.
    #[error("the built-in mailbox cannot write to {path}: {error}", path = path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// The fault profile makes no sense.
    #[error(transparent)]
    Profile(#[from] ProfileError),
}

/// A sink at work. It ends with the token given to [`Sink::start`]; dropping this value leaves it
/// running.
#[derive(Debug)]
pub struct Sink {
    /// Where it takes mail.
    pub smtp_addr: SocketAddr,
    /// Where the inbox is, if there is one.
    pub http_addr: Option<SocketAddr>,
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

/// What the parts of a sink share.
struct Shared {
    mailbox: Mailbox,
    mailbox_dir: Option<PathBuf>,
    discard: bool,
    user: Option<(String, String)>,
    journal: Option<Journal>,
    counters: Counters,
    magic: bool,
    /// Whether any fault can strike: spares the others the lock.
    faulty: AtomicBool,
    faults: RwLock<Arc<Faults>>,
    returns: Option<Returns>,
    one_click_base: Option<Url>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

/// What a sink has counted since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkStats {
    /// Connections accepted.
    pub connections: u64,
    /// Connections open now.
    pub connections_open: u64,
    /// The most that were ever open at once.
    pub connections_peak: u64,
    /// Transactions begun (`MAIL`).
    pub transactions: u64,
    /// Messages accepted.
    pub accepted: u64,
    /// Recipients of the accepted messages.
    pub recipients: u64,
    /// Bytes of the accepted messages.
    pub accepted_bytes: u64,
    /// Refusals with 4yz, at any stage.
    pub deferred: u64,
    /// Refusals with 5yz, at any stage.
    pub rejected: u64,
    /// Messages broken off or dropped without a verdict.
    pub broken: u64,
    /// Times that a fault struck since the profile was last set.
    pub faults: u64,
    /// Bounces and complaints delivered.
    pub returned: u64,
    /// Those that could not be delivered.
    pub return_failures: u64,
    /// Messages held in the mailbox.
    pub held: u64,
    /// Their bytes.
    pub held_bytes: u64,
    /// Messages dropped from the mailbox for want of room.
    pub dropped: u64,
}

#[derive(Debug, Default)]
struct Counters {
    connections: AtomicU64,
    open: AtomicU64,
    peak: AtomicU64,
    transactions: AtomicU64,
    accepted: AtomicU64,
    recipients: AtomicU64,
    accepted_bytes: AtomicU64,
    deferred: AtomicU64,
    rejected: AtomicU64,
    broken: AtomicU64,
}

fn add(counter: &AtomicU64, count: u64) -> u64 {
    counter.fetch_add(count, Ordering::Relaxed) + count
}

impl Shared {
    fn faults(&self) -> Option<Arc<Faults>> {
        self.faulty
            .load(Ordering::Acquire)
            .then(|| Arc::clone(&self.faults.read().unwrap_or_else(PoisonError::into_inner)))
    }

    fn set_faults(&self, faults: Faults) {
        let can_strike = !faults.is_idle();
        *self.faults.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(faults);
        self.faulty.store(can_strike, Ordering::Release);
    }

    fn stats(&self) -> SinkStats {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        let returned = self.returns.as_ref().map(Returns::counts).unwrap_or_default();
        SinkStats {
            connections: get(&counters.connections),
            connections_open: get(&counters.open),
            connections_peak: get(&counters.peak),
            transactions: get(&counters.transactions),
            accepted: get(&counters.accepted),
            recipients: get(&counters.recipients),
            accepted_bytes: get(&counters.accepted_bytes),
            deferred: get(&counters.deferred),
            rejected: get(&counters.rejected),
            broken: get(&counters.broken),
            faults: self.faults().map_or(0, |faults| faults.struck()),
            returned: returned.delivered,
            return_failures: returned.failed,
            held: self.mailbox.len() as u64,
            held_bytes: self.mailbox.bytes() as u64,
            dropped: self.mailbox.dropped(),
        }
    }
}

impl Sink {
    /// Starts a sink on the current runtime; it listens when this returns and stops when `shutdown`
    /// is cancelled.
    pub async fn start(
        config: SinkConfig,
        shutdown: CancellationToken,
    ) -> Result<Self, StartError> {
        let server = config.server();
        let (smtp, smtp_addr) = listen(config.smtp).await?;
        let (http, http_addr) = match config.http {
            Some(address) => {
                let (listener, address) = listen(address).await?;
                (Some(listener), Some(address))
            }
            None => (None, None),
        };
        let journal = config.journal.as_deref().map(|path| {
            Journal::open(path).map_err(|error| StartError::Write { path: path.to_owned(), error })
        });
        if let Some(dir) = &config.mailbox_dir {
            let made = tokio::fs::create_dir_all(dir).await;
            made.map_err(|error| StartError::Write { path: dir.clone(), error })?;
        }
        let mut tasks = Vec::new();
        let returns = config.returns_to.map(|to| {
            let (returns, task) = Returns::start(to, config.hostname.clone(), shutdown.clone());
            tasks.push(task);
            returns
        });
        let shared = Arc::new(Shared {
            mailbox: Mailbox::new(config.mailbox),
            mailbox_dir: config.mailbox_dir,
            discard: config.discard,
            user: config.user,
            journal: journal.transpose()?,
            counters: Counters::default(),
            magic: config.magic,
            faulty: AtomicBool::new(false),
            faults: RwLock::default(),
            returns,
            one_click_base: config.one_click_base,
        });
        shared.set_faults(Faults::compile(&config.faults, config.magic)?);
        let handler = Arc::new(SinkHandler::new(Arc::clone(&shared)));
        tasks.push(tokio::spawn(Server::new(server, handler, shutdown.clone()).serve(smtp)));
        if let Some(listener) = http {
            tasks.push(tokio::spawn(web::serve(listener, Arc::clone(&shared), shutdown)));
        }
        Ok(Self { smtp_addr, http_addr, shared, tasks })
    }

    /// The messages held.
    pub fn mailbox(&self) -> &Mailbox {
        &self.shared.mailbox
    }

    /// What was counted so far.
    pub fn stats(&self) -> SinkStats {
        self.shared.stats()
    }

    /// Replaces the faults; their counts start anew.
    pub fn set_faults(&self, profile: &Profile) -> Result<(), ProfileError> {
        self.shared.set_faults(Faults::compile(profile, self.shared.magic)?);
        Ok(())
    }

    /// Waits until the counts satisfy `condition`; `None` when they do not within `limit`.
    pub async fn wait_for(
        &self,
        limit: Duration,
        mut condition: impl FnMut(&SinkStats) -> bool,
    ) -> Option<SinkStats> {
        timeout(limit, async {
            loop {
                let stats = self.stats();
                if condition(&stats) {
                    return stats;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await
        .ok()
    }

    /// Waits for the end that shutdown brings.
    pub async fn stopped(self) {
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a part of the built-in mailbox failed");
            }
        }
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let failed = |error| StartError::Listen { address, error };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

#[cfg(test)]
mod tests;
