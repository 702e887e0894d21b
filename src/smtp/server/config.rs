//! What a server is told: how it presents itself, and the bounds on what it puts up with.

use std::{sync::Arc, time::Duration};

use tokio_rustls::rustls;

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
    /// Sessions at once from one IPv4 address or one IPv6 /64.
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
