//! The SMTP client: one session with one server, which always knows its phase.
//!
//! A [`Session`] is connected, protected, greeted and logged in once ([`Session::connect`]), then
//! carries messages one after the other ([`Session::transact`]), each with a [`Verdict`] that says
//! exactly what is known: accepted, refused and where, failed before anything could arrive, or
//! uncertain. It never reconnects, retries or sends anything twice, and holds no pool: how many
//! sessions there are, and what goes out next, is the business of `delivery`.
//!
//! With PIPELINING a message's envelope leaves in one write, and `next`'s envelope in the same
//! write as the body before it. At 20 ms round trips that is one round trip a message.

mod body;
mod capabilities;
mod connect;
mod endpoint;
mod envelope;
mod opening;
mod outcome;
mod transact;
mod wire;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

pub use capabilities::Capabilities;
pub use endpoint::{Credentials, Deadlines, Endpoint, Mechanism};
pub use envelope::{Envelope, ReportRequest, Unsendable};
pub use outcome::{
    CloseReason, Opening, Phase, SessionError, SessionErrorKind, SessionState, Timings,
    Transaction, Verdict, WireError,
};
pub use transact::Outgoing;
pub use wire::Dot;

use envelope::Commands;
use wire::{Stream, Wire, WriteEnd};

/// One connection to one server, ready for messages. Dropping it closes the connection.
#[derive(Debug)]
pub struct Session {
    wire: Wire,
    capabilities: Capabilities,
    deadlines: Deadlines,
    peer: Option<SocketAddr>,
    /// The commands being written; kept for its memory.
    commands: Commands,
    /// The terminator and what follows it; while `opened`, the commands that were sent.
    tail: Vec<u8>,
    /// Whether the next message's MAIL, RCPT and DATA are out, their replies unread.
    opened: bool,
    /// Whether a refused message's envelope must be cleared away first.
    needs_reset: bool,
    closed: Option<CloseReason>,
    opening: Opening,
    connected_at: Instant,
    idle_since: Instant,
    messages_sent: u64,
}

impl Session {
    /// Connects, and goes through TLS, greeting, EHLO and login as `endpoint` says.
    pub async fn connect(endpoint: &Endpoint) -> Result<Self, SessionError> {
        let since = Instant::now();
        let tcp = connect::dial(endpoint).await?;
        let dialled = since.elapsed();
        let peer = tcp.peer_addr().ok();
        let mut session = Self::establish(Stream::Plain(tcp), peer, endpoint).await?;
        session.opening.connect = dialled;
        Ok(session)
    }

    async fn establish(
        stream: Stream,
        peer: Option<SocketAddr>,
        endpoint: &Endpoint,
    ) -> Result<Self, SessionError> {
        let (wire, capabilities, opening) = connect::establish(Wire::new(stream), endpoint).await?;
        let now = Instant::now();
        Ok(Self {
            wire,
            capabilities,
            deadlines: endpoint.deadlines,
            peer,
            commands: Commands::default(),
            tail: Vec::new(),
            opened: false,
            needs_reset: false,
            closed: None,
            opening,
            connected_at: now,
            idle_since: now,
            messages_sent: 0,
        })
    }

    /// What the server offers.
    pub fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    /// The server's address.
    pub fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }

    /// Whether the connection is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.wire.is_encrypted()
    }

    /// Whether it can take another message, as far as is known without looking.
    pub fn state(&self) -> SessionState {
        self.closed.map_or(SessionState::Usable, SessionState::Closed)
    }

    /// Whether the next message's envelope is already out. Then only that message can follow;
    /// anything else must go over another session, and this one be dropped.
    pub fn holds_envelope(&self) -> bool {
        self.opened
    }

    /// How long the steps to it took.
    pub fn opening(&self) -> Opening {
        self.opening
    }

    /// How long ago it was connected.
    pub fn age(&self) -> Duration {
        self.connected_at.elapsed()
    }

    /// When the last transaction ended, or the session was opened.
    pub fn idle_since(&self) -> Instant {
        self.idle_since
    }

    /// How many messages were sent to their terminator, whatever became of them.
    pub fn messages_sent(&self) -> u64 {
        self.messages_sent
    }

    /// Looks, without sending anything and without waiting, whether the server is still there and
    /// has not said goodbye. A session that fails this is closed.
    pub async fn is_alive(&mut self) -> bool {
        if self.closed.is_none()
            && !self.opened
            && let Err(error) = self.check_alive().await
        {
            self.closed = Some(CloseReason::of(&error));
        }
        self.closed.is_none()
    }

    /// Says goodbye and closes, within the deadline for QUIT. With an envelope open there is no
    /// polite way: the connection is closed without a terminator, so nothing is sent.
    pub async fn quit(mut self) {
        if self.closed.is_some() || self.opened {
            return;
        }
        let since = Instant::now();
        let within = self.deadlines.quit;
        let written = self.wire.write(b"QUIT\r\n", &[], 0, within).await;
        if let WriteEnd::Done = written.end {
            // Whatever it answers, we are leaving.
            let _ = self.wire.reply(since, within).await;
            self.wire.shutdown(within.saturating_sub(since.elapsed())).await;
        }
    }
}
