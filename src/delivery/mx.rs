//! Direct delivery: a relay of kind `mx` brings every copy to the mail servers of its reader's domain.
//!
//! A domain leads to a [`Destination`] (`route`): the hosts that its MX records name, or itself. A
//! connection's worker has a session with one destination at a time (`dial`); when its next copy goes
//! elsewhere the session is parked here, for a few seconds and for whichever worker needs it next.
//! All sessions of a relay together are bounded by its `connections`, those with one destination by
//! `connections_per_destination`.
//!
//! What is wrong with one destination puts off its own copies: there is a breaker for each. The
//! relay's own breaker only opens for what concerns all of them: no name server answers, or the
//! address to send from is not ours.

mod destination;
mod dial;
mod route;
mod state;

use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{sync::Mutex as AsyncMutex, time::Instant};
use tokio_rustls::rustls::ClientConfig;
use tokio_util::sync::CancellationToken;

pub(super) use self::route::{domain_of, unreachable_class};
pub use self::{
    destination::{Destination, Terms, Turn},
    dial::DialError,
    route::Refusal,
    state::{DestinationState, DirectState},
};
use super::dispatch::Dispatch;
use crate::{
    config::{self, Config, RelayTls},
    db::Db,
    dns::Resolver,
    mta_sts::Policies,
    smtp::{
        client::{Endpoint, Session},
        tls::{TlsClient, TlsTrust},
    },
};

/// How many domains are remembered, and how many destinations.
const ROUTES_MAX: usize = 20_000;
const DESTINATIONS_MAX: usize = 20_000;
/// How often parked sessions are looked at.
const LOOK: Duration = Duration::from_millis(500);

/// A relay of kind `mx`, as all its connections share it.
pub struct Direct {
    /// What every connection has in common; its host stays empty.
    endpoint: Endpoint,
    tls: RelayTls,
    /// TLS with whatever certificate, and with a good one.
    any_certificate: Arc<ClientConfig>,
    /// None where nothing asks for it.
    good_certificate: Option<Arc<ClientConfig>>,
    sources: Vec<IpAddr>,
    ipv6: bool,
    private_addresses: bool,
    connections: u32,
    terms: Terms,
    resolver: Resolver,
    /// What domains demand, where that is kept to.
    policies: Option<Policies>,
    routes: Mutex<HashMap<String, route::Cell>>,
    destinations: Mutex<HashMap<String, Arc<Destination>>>,
    parked: Mutex<VecDeque<Parked>>,
    /// Sessions that stand or are being made, parked ones too.
    open: AtomicU32,
    /// Ends what is being waited for when the daemon goes down.
    stop: CancellationToken,
}

/// A session with a mail server.
pub(super) struct Call {
    pub(super) session: Session,
    /// Its number in the daemon's life.
    pub(super) number: i64,
    /// The server's name and address.
    pub(super) host: Arc<str>,
}

/// A session that waits for its next copy.
struct Parked {
    to: Arc<Destination>,
    call: Call,
    since: Instant,
}

impl std::fmt::Debug for Direct {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Direct").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

impl Direct {
    /// Direct delivery as `relay` says, with the settings of its connections in `endpoint`. Blocking:
    /// reads root certificates and the system's name servers. The error is a sentence.
    pub(super) fn new(
        relay: &config::Relay,
        endpoint: Endpoint,
        config: &Config,
    ) -> Result<Self, String> {
        let client = |accept_invalid| {
            let trust = TlsTrust { accept_invalid, ..TlsTrust::default() };
            // Each host's own name takes the place of this one.
            let client = TlsClient::new("mx.invalid", &trust).map_err(|error| error.to_string())?;
            Ok::<_, String>(client.config)
        };
        // A machine may have no roots, and need none.
        let checks = relay.mta_sts || relay.tls == RelayTls::Starttls;
        let good_certificate = if checks { Some(client(false)?) } else { None };
        let policies = good_certificate.clone().filter(|_| relay.mta_sts);
        let policies = policies.map(|tls| Policies::new(tls, relay.private_addresses));
        let sources = [relay.source_ipv4.map(IpAddr::V4), relay.source_ipv6.map(IpAddr::V6)];
        Ok(Self {
            endpoint,
            tls: relay.tls,
            any_certificate: client(true)?,
            good_certificate,
            sources: sources.into_iter().flatten().collect(),
            ipv6: relay.ipv6,
            private_addresses: relay.private_addresses,
            connections: relay.connections,
            terms: Terms {
                connections: relay.connections_per_destination,
                per_second: relay.per_second_and_destination,
                breakers: config.breakers,
            },
            resolver: Resolver::new(&config.dns)?,
            policies,
            routes: Mutex::default(),
            destinations: Mutex::default(),
            parked: Mutex::default(),
            open: AtomicU32::new(0),
            stop: CancellationToken::new(),
        })
    }

    /// A session with a mail server of the domain of `address`, for one who counts none. The error is a
    /// sentence.
    pub(super) async fn connect_for(&self, address: &str) -> Result<Session, String> {
        let to = self.route(domain_of(address)).await.map_err(|refusal| {
            let enhanced = refusal.enhanced();
            format!("{enhanced} {}", refusal.what())
        })?;
        let dialled = self.dial(&to).await.map_err(|error| match error {
            DialError::Destination { enhanced, what, .. } => format!("{enhanced} {what}"),
            DialError::Ours(what) => what,
            DialError::Stopped => "the daemon stops".to_owned(),
        });
        dialled.map(|(session, _)| session)
    }

    /// Asks DNS about `domain`: whatever it answers, it answers. The error is a sentence.
    pub async fn ask_dns(&self, domain: &str) -> Result<(), String> {
        match self.resolver.mail_hosts(domain).await {
            Err(error) if !error.is_negative() => Err(error.to_string()),
            _ => Ok(()),
        }
    }

    /// Keeps what domains demand of senders in the database from now on.
    pub(super) fn keep_policies_in(&self, db: &Db) {
        if let Some(policies) = &self.policies {
            policies.keep_in(db);
        }
    }

    /// Closes parked sessions in which nothing happens, until `stop`, and then all of them.
    pub async fn run(
        &self,
        relay: usize,
        dispatch: &Dispatch,
        idle: Duration,
        stop: CancellationToken,
    ) {
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(LOOK) => {}
            }
            while let Some(parked) = self.take_idle(idle) {
                self.close(parked.call.session, &parked.to).await;
                dispatch.disconnected(relay);
            }
        }
        self.stop.cancel();
        // All at once: one that does not answer costs its deadline, and not one after the other.
        let parked = std::mem::take(&mut *lock(&self.parked));
        let goodbyes = parked.into_iter().map(async |parked| {
            self.close(parked.call.session, &parked.to).await;
            dispatch.disconnected(relay);
        });
        join_all(goodbyes).await;
    }

    /// Ends when the daemon goes down.
    pub(super) async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// Keeps a session for whoever needs it next; one too many comes back.
    pub(super) fn park(&self, to: Arc<Destination>, call: Call) {
        let since = Instant::now();
        lock(&self.parked).push_back(Parked { to, call, since });
    }

    /// A parked session with a destination, the one that was parked last.
    pub(super) fn unpark(&self, to: &Arc<Destination>) -> Option<Call> {
        let mut parked = lock(&self.parked);
        let at = parked.iter().rposition(|parked| Arc::ptr_eq(&parked.to, to))?;
        parked.remove(at).map(|parked| parked.call)
    }

    /// Says goodbye, and makes the session's place free.
    pub(super) async fn close(&self, session: Session, to: &Destination) {
        session.quit().await;
        self.gone(to);
    }

    /// A session is gone.
    pub(super) fn gone(&self, to: &Destination) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        to.closed();
    }

    /// Makes room for one more session; whether a parked one had to go for it.
    pub(super) async fn make_room(&self) -> bool {
        let open = self.open.fetch_add(1, Ordering::Relaxed);
        if open < self.connections {
            return false;
        }
        let oldest = lock(&self.parked).pop_front();
        match oldest {
            Some(parked) => {
                self.close(parked.call.session, &parked.to).await;
                true
            }
            // Every worker has one at most: whoever asks has none.
            None => false,
        }
    }

    fn take_idle(&self, idle: Duration) -> Option<Parked> {
        lock(&self.parked).pop_front_if(|parked| parked.since.elapsed() >= idle)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change leaves the state whole, so a panic elsewhere does no harm here.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A slot that one lookup at a time fills.
type Slot<T> = Arc<AsyncMutex<Option<T>>>;
