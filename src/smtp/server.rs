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
pub mod data;
#[cfg(test)]
pub(crate) mod dialogue;
mod reply;
mod session;
mod stream;
mod wire;

use std::{
    collections::HashMap,
    future::{Future, ready},
    io::{self, Write as _},
    net::{IpAddr, SocketAddr},
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
use tokio_rustls::rustls;
use tokio_util::sync::CancellationToken;

pub use auth::Credentials;
pub use command::{Hello, MailParameters, Notify, Recipient, Ret};
pub(crate) use reply::is_enhanced_code;
pub use reply::{
    Answer, Interrupt, InterruptAfter, InvalidReply, Misbehaviour, Reply, Response, Shape, Then,
};

/// How a server presents itself and what it puts up with.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The name it greets with.
    pub hostname: String,
    /// SMTP or LMTP.
    pub protocol: Protocol,
    /// TLS, where a certificate is configured.
    pub tls: Tls,
    /// Whether clients may or must log in.
    pub auth: Auth,
    /// Its bounds.
    pub limits: Limits,
    /// What becomes of messages with bare CR or LF.
    pub bare_newlines: BareNewlines,
    /// Every batch of replies leaves this much later, as over a long line; for measurements.
    pub reply_latency: Duration,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            hostname: "localhost".to_owned(),
            protocol: Protocol::Smtp,
            tls: Tls::Off,
            auth: Auth::Off,
            limits: Limits::default(),
            bare_newlines: BareNewlines::Refuse,
            reply_latency: Duration::ZERO,
        }
    }
}

/// The language spoken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Protocol {
    /// RFC 5321.
    #[default]
    Smtp,
    /// RFC 2033: `LHLO`, and one reply per recipient after the data.
    Lmtp,
}

/// How TLS comes about.
#[derive(Debug, Clone, Default)]
pub enum Tls {
    /// Not at all.
    #[default]
    Off,
    /// Offered as STARTTLS (RFC 3207).
    StartTls(Arc<rustls::ServerConfig>),
    /// From the first byte (RFC 8314).
    Implicit(Arc<rustls::ServerConfig>),
}

/// Whether clients log in (RFC 4954).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Auth {
    /// AUTH is not offered.
    #[default]
    Off,
    /// Offered once TLS is on.
    Offered,
    /// Required before `MAIL`, and offered once TLS is on.
    Required,
    /// Required before `MAIL`, and offered in the clear too; for tests on loopback.
    RequiredInTheClear,
}

/// What becomes of messages with bare CR or LF (RFC 5321, section 2.3.8). They never end a message
/// either way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum BareNewlines {
    /// Refused with 554 5.6.0.
    #[default]
    Refuse,
    /// Kept as they are.
    Keep,
}

/// A bound on everything. The defaults are for a listener that the internet can reach.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Sessions at once; one more is turned away with 421.
    pub connections: usize,
    /// Sessions at once from one IP address.
    pub connections_per_peer: usize,
    /// A command line without its line end; RFC 5321 asks for 512 and what extensions add.
    pub line_bytes: usize,
    /// Commands in one session.
    pub commands: u64,
    /// Refused commands in one session.
    pub errors: u32,
    /// Recipients of one message; RFC 5321 (section 4.5.3.1.8) asks for 100.
    pub recipients: usize,
    /// One message; a longer one is read on unkept for as long again, then hung up on.
    pub message_bytes: u64,
    /// All messages being received together; beyond it 452 asks clients to come back.
    pub buffered_bytes: usize,
    /// The input buffer of a session. At least `line_bytes` + 2.
    pub read_buffer_bytes: usize,
    /// From the reply to one command to the end of the next line.
    pub command_timeout: Duration,
    /// A whole session.
    pub session_timeout: Duration,
    /// The client taking in our replies.
    pub write_timeout: Duration,
    /// What message data may take on top of what `data_rate_min` allows its size.
    pub data_grace: Duration,
    /// The slowest that message data may come, in bytes per second.
    pub data_rate_min: u64,
    /// How long sessions may go on with a message after shutdown began.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 200,
            connections_per_peer: 50,
            line_bytes: 2048,
            commands: 10_000,
            errors: 20,
            recipients: 100,
            message_bytes: 5_000_000,
            buffered_bytes: 64_000_000,
            read_buffer_bytes: 16 * 1024,
            command_timeout: Duration::from_mins(5),
            session_timeout: Duration::from_mins(30),
            write_timeout: Duration::from_mins(1),
            data_grace: Duration::from_secs(30),
            data_rate_min: 1000,
            drain: Duration::from_secs(10),
        }
    }
}

/// What a handler learns of a connection when it opens.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Counts from 1 in each server.
    pub number: u64,
    /// The client.
    pub peer: SocketAddr,
}

/// A transaction: who sends what to whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Envelope {
    /// The reverse path; empty for the null sender of bounces.
    pub from: String,
    /// What `MAIL` said beside it.
    pub parameters: MailParameters,
    /// The recipients accepted so far.
    pub recipients: Vec<Recipient>,
}

/// A stage of the dialogue at which the usual course can be changed.
#[derive(Debug, Clone, Copy)]
pub enum Stage<'a> {
    /// The connection is open and nothing was said; refusing greets with the refusal and closes.
    Connect,
    /// The greeting is due.
    Greeting,
    /// `EHLO`, `HELO` or `LHLO`.
    Hello {
        /// Which it was.
        verb: Hello,
        /// Who the client says it is.
        name: &'a str,
    },
    /// `STARTTLS`, where offered.
    StartTls,
    /// `MAIL`, acceptable as to its form; the envelope has no recipients yet.
    Mail(&'a Envelope),
    /// `DATA` with at least one recipient.
    Data(&'a Envelope),
    /// `RSET`.
    Rset,
    /// `NOOP`.
    Noop,
    /// `QUIT`.
    Quit,
}

/// How much of a message's data is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Everything, dot-stuffing removed.
    Message,
    /// The first so many bytes as they came, terminator and dot-stuffing included.
    Head(usize),
    /// Nothing; the size is counted.
    Nothing,
}

/// How a handler wants a message taken in.
#[derive(Debug, Clone)]
pub struct Intake {
    /// How much of it is kept.
    pub keep: Keep,
    /// What happens in the middle of it, in rehearsals.
    pub interrupt: Option<Interrupt>,
}

/// A message whose data has come to its end.
#[derive(Debug)]
pub struct Message {
    /// Its envelope.
    pub envelope: Envelope,
    /// Its bytes, as far as [`Keep`] asked for them.
    pub bytes: Vec<u8>,
    /// Its size in bytes on the wire without the terminator.
    pub size: u64,
}

/// How a transaction ended whose message a handler was not asked about.
#[derive(Debug)]
pub enum Unfinished<'a> {
    /// The connection ended in the data.
    Aborted {
        /// How much had come.
        received: u64,
    },
    /// The server refused the message itself: too big, no room, bare newlines.
    Refused {
        /// Its size.
        size: u64,
        /// With what.
        reply: &'a Reply,
    },
}

/// How a session ended.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// `QUIT`.
    #[error("the client quit")]
    Quit,
    /// The client closed the connection.
    #[error("the client closed the connection")]
    Closed,
    /// The client was refused at the door.
    #[error("the connection was refused")]
    Refused,
    /// The client was too slow, in a command or in all.
    #[error("the client was too slow")]
    TimedOut,
    /// The client broke a bound of [`Limits`].
    #[error("the client exceeded a limit")]
    LimitExceeded,
    /// The server is shutting down.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The handler had the connection closed or reset.
    #[error("the handler ended the session")]
    Ended,
    /// The connection or its TLS failed.
    #[error("the connection failed: {0}")]
    Io(#[source] io::Error),
}

/// Decides what a server accepts. One handler serves all sessions; what a session needs to remember
/// is its [`Handler::Session`].
pub trait Handler: Send + Sync + 'static {
    /// A session's memory; dropped when the connection is gone, however that came about.
    type Session: Send + 'static;

    /// A connection was accepted.
    fn open(&self, connection: &Connection) -> Self::Session;

    /// A stage has come that usually succeeds.
    fn at(
        &self,
        session: &mut Self::Session,
        stage: Stage<'_>,
    ) -> impl Future<Output = Response> + Send {
        let _ = (session, stage);
        ready(Response::Proceed)
    }

    /// A client logs in. Refused unless a handler says otherwise.
    fn authenticate(
        &self,
        session: &mut Self::Session,
        credentials: &Credentials,
    ) -> impl Future<Output = Response> + Send {
        let _ = (session, credentials);
        ready(Response::Reply(Reply::new(535, "5.7.8", "Authentication credentials invalid")))
    }

    /// A client names a recipient.
    fn rcpt(
        &self,
        session: &mut Self::Session,
        envelope: &Envelope,
        recipient: &Recipient,
    ) -> impl Future<Output = Response> + Send;

    /// A message's data is about to come.
    fn intake(&self, session: &mut Self::Session, envelope: &Envelope) -> Intake {
        let _ = (session, envelope);
        Intake { keep: Keep::Message, interrupt: None }
    }

    /// A message has come. The reply leaves after this returns.
    fn message(
        &self,
        session: &mut Self::Session,
        message: Message,
    ) -> impl Future<Output = Response> + Send;

    /// A message will not come, or was refused by the server.
    fn unfinished(
        &self,
        session: &mut Self::Session,
        envelope: &Envelope,
        unfinished: &Unfinished<'_>,
    ) {
        let _ = (session, envelope, unfinished);
    }

    /// A message was answered and nothing more has come yet.
    fn idle(&self, session: &mut Self::Session) -> Option<Interrupt> {
        let _ = session;
        None
    }

    /// A session is over.
    fn close(&self, session: &mut Self::Session, end: &End) {
        let _ = (session, end);
    }
}

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
        let place = PeerPlace::take(&self.shared, connection.peer.ip());
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

fn report_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "an SMTP session failed");
    }
}

/// One of the sessions that an IP address may have.
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
