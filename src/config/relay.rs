//! Relays: where mail is handed to, on what terms, and the login. A relay is one server that takes
//! mail for everybody, or (kind `mx`) this machine itself, which brings every copy to the servers of
//! its reader's domain; what only makes sense for one kind is refused for the other.

use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Secret, event_field::EventField, value::duration};

/// Where a relay brings mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RelayKind {
    /// To one server that takes it for everybody.
    Smarthost,
    /// To the mail servers of each reader's domain, found by DNS.
    Mx,
}

/// How a connection to a relay is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RelayTls {
    /// Not at all: for a relay on this machine.
    None,
    /// STARTTLS, required.
    Starttls,
    /// TLS from the first byte.
    Implicit,
    /// STARTTLS where the server offers it, whatever certificate it has; for kind `mx` only
    /// (RFC 7435).
    Opportunistic,
}

/// How the daemon logs in at a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RelayAuth {
    /// The best mechanism the relay offers.
    Auto,
    /// AUTH PLAIN.
    Plain,
    /// AUTH LOGIN.
    Login,
    /// AUTH XOAUTH2 with a bearer token.
    Xoauth2,
}

/// A server that mail is handed to.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Relay {
    /// What operators call it.
    pub name: String,
    /// Where it brings mail.
    #[serde(default = "smarthost")]
    pub kind: RelayKind,
    /// Its host name or address; empty for kind `mx`.
    #[serde(default)]
    pub host: String,
    /// Its port.
    #[serde(default = "submission_port")]
    pub port: u16,
    /// How the connection is protected.
    #[serde(default = "starttls")]
    pub tls: RelayTls,
    /// A PEM file of certificates to trust besides the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// A PEM file with the certificate (and its chain) that we show.
    #[serde(default)]
    pub client_cert_file: Option<PathBuf>,
    /// A PEM file with its key.
    #[serde(default)]
    pub client_key_file: Option<PathBuf>,
    /// How to log in.
    #[serde(default = "auto")]
    pub auth: RelayAuth,
    /// The login name; with none, no login.
    #[serde(default)]
    pub username: Option<String>,
    /// The password: text, `{ env = "NAME" }` or `{ file = "PATH" }`.
    #[serde(default)]
    pub password: Option<Secret>,
    /// A command that prints a bearer token, as its words.
    #[serde(default)]
    pub token_command: Option<Vec<String>>,
    /// How long a token is used before the command is run again.
    #[serde(default = "fifty_minutes", with = "duration")]
    pub token_lifetime: Duration,
    /// Relays with the lowest number are used first, others only while none of those can be.
    #[serde(default)]
    pub priority: u32,
    /// Its share of scarce work among relays of the same priority.
    #[serde(default = "one")]
    pub weight: f64,
    /// How many connections are open at once.
    #[serde(default = "eight")]
    pub connections: u32,
    /// Copies a second over all its connections; with none, no limit of its own.
    #[serde(default)]
    pub per_second: Option<f64>,
    /// How many copies may go at once after a quiet second.
    #[serde(default)]
    pub burst: Option<u32>,
    /// After how many copies a connection is closed and made anew.
    #[serde(default = "thousand")]
    pub messages_per_connection: u32,
    /// At what age a connection is closed and made anew.
    #[serde(default = "an_hour", with = "duration")]
    pub connection_age: Duration,
    /// A field that goes in front of every message, for a service that replaces our Message-ID.
    #[serde(default)]
    pub event_field: Option<EventField>,
    /// The name that is said in EHLO here; with none, that of the section on mail.
    #[serde(default)]
    pub helo_name: Option<String>,
    /// The local address to connect from over IPv4; with none, the system chooses. Kind `mx`.
    #[serde(default)]
    pub source_ipv4: Option<Ipv4Addr>,
    /// The same over IPv6.
    #[serde(default)]
    pub source_ipv6: Option<Ipv6Addr>,
    /// Whether IPv6 is used at all. Kind `mx`.
    #[serde(default = "yes")]
    pub ipv6: bool,
    /// How many connections are open at once to the servers of one destination. Kind `mx`.
    #[serde(default = "four")]
    pub connections_per_destination: u32,
    /// Copies a second to one destination; with none, no limit. Kind `mx`.
    #[serde(default)]
    pub per_second_and_destination: Option<f64>,
    /// Whether what a domain demands of senders by MTA-STS (RFC 8461) is looked up and kept to. Kind
    /// `mx`.
    #[serde(default = "yes")]
    pub mta_sts: bool,
    /// Whether mail may go to addresses of private networks and of this machine. Kind `mx`.
    #[serde(default)]
    pub private_addresses: bool,
}

/// Keys that say nothing to a relay of kind `mx`.
const SMARTHOST_ONLY: [&str; 10] = [
    "host",
    "ca_file",
    "client_cert_file",
    "client_key_file",
    "auth",
    "username",
    "password",
    "token_command",
    "token_lifetime",
    "event_field",
];
/// Keys that say nothing to any other.
const MX_ONLY: [&str; 7] = [
    "source_ipv4",
    "source_ipv6",
    "ipv6",
    "connections_per_destination",
    "per_second_and_destination",
    "mta_sts",
    "private_addresses",
];

impl Relay {
    /// Fills in the defaults of its kind, and refuses what only another kind can have; `given` are
    /// the keys that the file sets. The error names a key and a problem.
    pub(super) fn settle_kind(
        &mut self,
        given: &toml::Table,
    ) -> Result<(), (&'static str, String)> {
        let name = &self.name;
        let absent = |key: &str| !given.contains_key(key);
        let (others, what) = match self.kind {
            RelayKind::Smarthost => (&MX_ONLY[..], "only a relay of kind \"mx\" has this"),
            RelayKind::Mx => {
                (&SMARTHOST_ONLY[..], "a relay of kind \"mx\" has no server of its own")
            }
        };
        if let Some(key) = others.iter().find(|key| !absent(key)) {
            return Err((key, format!("relay `{name}`: {what}")));
        }
        match (self.kind, self.tls) {
            (RelayKind::Smarthost, _) if absent("host") => {
                return Err(("name", format!("relay `{name}` needs a host")));
            }
            (RelayKind::Smarthost, RelayTls::Opportunistic) => {
                let problem = format!(
                    "relay `{name}`: only a relay of kind \"mx\" takes what it gets; use starttls"
                );
                return Err(("tls", problem));
            }
            (RelayKind::Mx, RelayTls::Implicit) => {
                let problem = format!("relay `{name}`: mail servers of domains know no such thing");
                return Err(("tls", problem));
            }
            (RelayKind::Smarthost, _) => return Ok(()),
            (RelayKind::Mx, _) => {}
        }
        if absent("port") {
            self.port = 25;
        }
        if absent("tls") {
            self.tls = RelayTls::Opportunistic;
        }
        if absent("connections") {
            self.connections = 32;
        }
        if absent("messages_per_connection") {
            self.messages_per_connection = 100;
        }
        Ok(())
    }

    /// Where it is, for lists.
    pub fn address(&self) -> String {
        match self.kind {
            RelayKind::Smarthost => format!("{}:{}", self.host, self.port),
            RelayKind::Mx => "the readers' domains (MX)".to_owned(),
        }
    }

    /// A relay at an address of this machine, in clear text and without a login.
    pub fn local(name: &str, address: SocketAddr) -> Self {
        Self {
            name: name.to_owned(),
            kind: RelayKind::Smarthost,
            host: address.ip().to_string(),
            port: address.port(),
            tls: RelayTls::None,
            ca_file: None,
            client_cert_file: None,
            client_key_file: None,
            auth: RelayAuth::Auto,
            username: None,
            password: None,
            token_command: None,
            token_lifetime: fifty_minutes(),
            priority: 0,
            weight: one(),
            connections: eight(),
            per_second: None,
            burst: None,
            messages_per_connection: thousand(),
            connection_age: an_hour(),
            event_field: None,
            helo_name: None,
            source_ipv4: None,
            source_ipv6: None,
            ipv6: true,
            connections_per_destination: four(),
            per_second_and_destination: None,
            mta_sts: true,
            private_addresses: false,
        }
    }
}

fn submission_port() -> u16 {
    587
}
fn starttls() -> RelayTls {
    RelayTls::Starttls
}
fn auto() -> RelayAuth {
    RelayAuth::Auto
}
fn eight() -> u32 {
    8
}
fn thousand() -> u32 {
    1000
}
fn one() -> f64 {
    1.0
}
fn an_hour() -> Duration {
    Duration::from_hours(1)
}
fn fifty_minutes() -> Duration {
    Duration::from_mins(50)
}
fn smarthost() -> RelayKind {
    RelayKind::Smarthost
}
fn yes() -> bool {
    true
}
fn four() -> u32 {
    4
}
