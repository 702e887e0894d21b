//! The SMTP and LMTP server that takes mail in: shared by the bounce intake and the built-in
//! mailbox ([`crate::sink`]).
//!
//! It owns the dialogue (RFC 5321, 2033) and the bounds on it: sizes, counts, deadlines, a minimum
//! data rate, a cap on connections and on buffered bytes. What to accept is a [`Handler`]'s word;
//! there is no default for recipients, so that no program becomes an open relay by leaving
//! something out. It speaks PIPELINING, 8BITMIME, SMTPUTF8, SIZE, DSN, ENHANCEDSTATUSCODES, and
//! STARTTLS and AUTH where configured. It stores nothing and delivers nothing.
//!
//! A session reads into one buffer, answers every command that is there, and writes the replies
//! in one go. Message data is searched for its end, not walked through; a handler that keeps
//! nothing costs no copy.

mod auth;
pub mod command;
mod config;
pub mod data;
#[cfg(test)]
pub(crate) mod dialogue;
mod handler;
mod reply;
mod session;
mod stream;
mod wire;

use std::{
    collections::HashMap,
    io::Write as _,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

pub use auth::Credentials;
pub use command::{Hello, MailParameters, Notify, Recipient, Ret};
pub use config::{Auth, BareNewlines, Limits, Protocol, ServerConfig, Tls};
pub use handler::{Connection, End, Envelope, Handler, Intake, Keep, Message, Stage, Unfinished};
pub(crate) use reply::is_enhanced_code;
pub use reply::{
    Answer, Interrupt, InterruptAfter, InvalidReply, Misbehaviour, Reply, Response, Shape, Then,
};

/// A server, ready to serve.
#[derive(Debug)]
pub struct Server<H> {
    shared: Arc<Shared<H>>,
}

/// What all sessions of a server share.
#[derive(Debug)]
struct Shared<H> {
    config: ServerConfig,
    handler: Arc<H>,
    buffered: AtomicUsize,
    peers: Mutex<HashMap<IpAddr, usize>>,
    shutdown: CancellationToken,
}

impl<H: Handler> Server<H> {
    /// A server that asks `handler` and stops when `shutdown` is cancelled.
    pub fn new(config: ServerConfig, handler: Arc<H>, shutdown: CancellationToken) -> Self {
        let (buffered, peers) = (AtomicUsize::new(0), Mutex::default());
        Self { shared: Arc::new(Shared { config, handler, buffered, peers, shutdown }) }
    }

    /// Serves `listener` until shutdown: then idle clients are told 421, messages under way get
    /// [`Limits::drain`] to finish, and the rest is cut off. Dropping the future cuts all off.
    pub async fn serve(self, listener: TcpListener) {
        let mut sessions = JoinSet::new();
        let mut number = 0;
        loop {
            tokio::select! {
                biased;
                () = self.shared.shutdown.cancelled() => break,
                Some(ended) = sessions.join_next() => report_panic(ended),
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        number += 1;
                        self.admit(stream, Connection { number, peer }, &mut sessions);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept SMTP connections");
                        // Out of descriptors, most likely: a pause lets sessions end.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        drop(listener);
        let all_ended = async {
            while let Some(ended) = sessions.join_next().await {
                report_panic(ended);
            }
        };
        if timeout(self.shared.config.limits.drain, all_ended).await.is_err() {
            tracing::warn!(sessions = sessions.len(), "cutting off SMTP sessions at shutdown");
            sessions.shutdown().await;
        }
    }

    fn admit(&self, stream: TcpStream, connection: Connection, sessions: &mut JoinSet<()>) {
        let limits = &self.shared.config.limits;
        let place = PeerPlace::take(&self.shared, network(connection.peer.ip()));
        let (Some(place), true) = (place, sessions.len() < limits.connections) else {
            tracing::debug!(connection = connection.number, "too many SMTP connections");
            // The socket is new and does not block: its send buffer takes one line, or the client
            // is gone already.
            let _ = stream.into_std().and_then(|mut stream| {
                stream.write_all(b"421 4.3.2 Too many connections, try again later\r\n")
            });
            return;
        };
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&self.shared);
        sessions.spawn(async move {
            session::run(&shared, stream, connection).await;
            drop(place);
        });
    }
}

/// What counts as one peer: an IPv4 address, or the /64 that one IPv6 subscriber has.
pub(crate) fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            IpAddr::from([a, b, c, d, 0, 0, 0, 0])
        }
        ipv4 @ IpAddr::V4(_) => ipv4,
    }
}

fn report_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "an SMTP session failed");
    }
}

/// One of the sessions that a peer may have.
struct PeerPlace<H> {
    shared: Arc<Shared<H>>,
    ip: IpAddr,
}

impl<H> PeerPlace<H> {
    fn take(shared: &Arc<Shared<H>>, ip: IpAddr) -> Option<Self> {
        let mut peers = shared.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let count = peers.entry(ip).or_default();
        if *count >= shared.config.limits.connections_per_peer {
            return None;
        }
        *count += 1;
        Some(Self { shared: Arc::clone(shared), ip })
    }
}

impl<H> Drop for PeerPlace<H> {
    fn drop(&mut self) {
        let mut peers = self.shared.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = peers.get_mut(&self.ip) {
            *count -= 1;
            if *count == 0 {
                peers.remove(&self.ip);
            }
        }
    }
}

impl<H> Shared<H> {
    /// Reserves room for `bytes` more of message data, or says that there is none.
    fn reserve(&self, bytes: usize) -> bool {
        let limit = self.config.limits.buffered_bytes;
        let more = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= limit);
        self.buffered.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    fn release(&self, bytes: usize) {
        self.buffered.fetch_sub(bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
