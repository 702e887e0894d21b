//! DNS: who is asked, and for how long.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::value::duration;

/// DNS, which is asked for relays of kind `mx` and for grouping by MX, and for nothing else.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Dns {
    /// Who is asked; with none, whom the system asks.
    pub servers: Vec<NameServer>,
    /// How long one question to one server may take.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// Whether domains that the provider table does not have are counted with the provider that runs
    /// their mail servers.
    pub group_by_mx: bool,
}

impl Default for Dns {
    fn default() -> Self {
        Self { servers: Vec::new(), timeout: Duration::from_secs(3), group_by_mx: false }
    }
}

/// The address of a name server, on port 53 unless it says another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NameServer(pub SocketAddr);

impl<'de> Deserialize<'de> for NameServer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let plain = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53));
        plain.or_else(|_| text.parse()).map(Self).map_err(|_| {
            let wanted = "an IP address, or one with a port (192.0.2.1:5353, [2001:db8::1]:5353)";
            de::Error::custom(format!("`{text}` is no name server: give {wanted}"))
        })
    }
}

impl Serialize for NameServer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}
