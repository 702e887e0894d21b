//! Relays: where mail is handed to, on what terms, and the login.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Secret, value::duration};

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
    /// Its host name or address.
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
}

impl Relay {
    /// A relay at an address of this machine, in clear text and without a login.
    pub fn local(name: &str, address: SocketAddr) -> Self {
        Self {
            name: name.to_owned(),
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
