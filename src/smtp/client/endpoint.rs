//! Where a session goes and on what terms: address, protection, login, deadlines.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::smtp::tls::Encryption;

/// One server as a session needs to know it.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Host name or IP address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// How the connection is protected.
    pub encryption: Encryption,
    /// How to log in; with none, no AUTH is sent.
    pub credentials: Option<Credentials>,
    /// Whether credentials may cross an unencrypted connection. Only for a relay on this machine.
    pub allow_clear_text_auth: bool,
    /// The name said in EHLO: this machine's, or an address literal.
    pub helo_name: String,
    /// The local address to connect from; with none, the system chooses.
    pub source: Option<IpAddr>,
    /// How long each step may take.
    pub deadlines: Deadlines,
}

impl Endpoint {
    /// A server in clear text, without login and with default deadlines; change what differs.
    pub fn new(host: impl Into<String>, port: u16, helo_name: impl Into<String>) -> Self {
        Self {
            host: host.into(),
            port,
            encryption: Encryption::None,
            credentials: None,
            allow_clear_text_auth: false,
            helo_name: helo_name.into(),
            source: None,
            deadlines: Deadlines::default(),
        }
    }
}

/// How long each command may take, from its first byte to the last byte of its reply. Not per read,
/// so a server that answers byte by byte gains nothing. Defaults follow RFC 5321, section 4.5.3.2,
/// where waiting that long makes sense for a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Name lookup and TCP connection, over all of the host's addresses.
    pub connect: Duration,
    /// Greeting, EHLO, STARTTLS, TLS handshake and each step of AUTH, each.
    pub greeting: Duration,
    /// MAIL, RCPT and RSET, each.
    pub envelope: Duration,
    /// DATA.
    pub data: Duration,
    /// What the body may take beyond its length divided by [`Self::body_rate_min`].
    pub body: Duration,
    /// The least rate at which a server must take a body, in bytes per second.
    pub body_rate_min: u32,
    /// The reply to the final dot, counted from its last byte.
    pub dot: Duration,
    /// QUIT.
    pub quit: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(30),
            greeting: Duration::from_mins(1),
            envelope: Duration::from_mins(5),
            data: Duration::from_mins(2),
            body: Duration::from_mins(1),
            body_rate_min: 2048,
            dot: Duration::from_mins(10),
            quit: Duration::from_secs(5),
        }
    }
}

impl Deadlines {
    /// How long writing `bytes` of a body may take.
    pub fn for_body(&self, bytes: usize) -> Duration {
        let rate = u64::from(self.body_rate_min.max(1));
        self.body + Duration::from_millis(bytes as u64 * 1000 / rate)
    }
}

/// A mechanism of SMTP AUTH (RFC 4954).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mechanism {
    /// RFC 4616.
    Plain,
    /// The old one without a standard, which many submission servers still prefer.
    Login,
    /// OAuth 2.0 bearer tokens, as Google and Microsoft do it.
    XOAuth2,
}

impl Mechanism {
    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
            Self::XOAuth2 => "XOAUTH2",
        }
    }
}

impl fmt::Display for Mechanism {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A login. Its secret shows in no debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The login name.
    pub username: String,
    /// The password, or the bearer token for XOAUTH2.
    pub secret: String,
    /// The mechanism to use; with none, PLAIN if offered, else LOGIN.
    pub mechanism: Option<Mechanism>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &self.username)
            .field("mechanism", &self.mechanism)
            .finish_non_exhaustive()
    }
}
