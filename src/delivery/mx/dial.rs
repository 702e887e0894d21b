//! A session with a destination: its hosts in order, their addresses in turn, within bounded time.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};
use tokio_rustls::rustls::{ClientConfig, pki_types::ServerName};
use tracing::debug;

use super::{Destination, Direct};
use crate::{
    config::RelayTls,
    dns::{LookupError, in_order, is_public},
    fail_point,
    smtp::{
        client::{Endpoint, Phase, Session, SessionError, SessionErrorKind, WireError},
        reply::EnhancedCode,
        tls::{Encryption, TlsClient},
    },
};

/// How many addresses are tried: whoever has more of them dead has them all dead.
const ADDRESSES_MAX: usize = 8;

/// Why there is no session with a destination.
#[derive(Debug, Clone)]
pub enum DialError {
    /// It is about this destination.
    Destination {
        /// How far the last try came.
        phase: Phase,
        /// The status code.
        enhanced: EnhancedCode,
        /// What happened at its hosts, for people.
        what: String,
    },
    /// It is about us: it would be the same with any other.
    Ours(String),
    /// The daemon goes down.
    Stopped,
}

/// The last thing that went wrong.
struct Last {
    phase: Phase,
    enhanced: EnhancedCode,
    what: String,
}

impl Direct {
    /// Connects to a destination; the session's place was counted at both ends. Says with which of
    /// its hosts.
    pub(in crate::delivery) async fn dial(
        &self,
        to: &Destination,
    ) -> Result<(Session, Arc<str>), DialError> {
        let deadlines = self.endpoint.deadlines;
        let within = (deadlines.connect + deadlines.greeting) * 2;
        let dialled = tokio::select! {
            () = self.stopped() => return Err(DialError::Stopped),
            dialled = timeout(within, self.dial_hosts(to)) => dialled,
        };
        dialled.unwrap_or_else(|_| {
            Err(DialError::Destination {
                phase: Phase::Connect,
                enhanced: EnhancedCode(4, 4, 2),
                what: format!("none of its hosts was ready within {} s", within.as_secs()),
            })
        })
    }

    /// The next host is tried when one cannot be reached, or turns us away before it has heard of a
    /// copy (RFC 5321, section 5.1). What a host says of a copy is the word of its domain: putting a
    /// reader off (greylisting, say) is not undone by asking its neighbour at once.
    async fn dial_hosts(&self, to: &Destination) -> Result<(Session, Arc<str>), DialError> {
        let end = Instant::now() + self.endpoint.deadlines.connect * 2;
        let order = in_order(to.hosts.hosts(), &mut rand::rng());
        let mut last: Option<Last> = None;
        let mut tried = 0;
        for (at, host) in order.iter().enumerate() {
            let addresses = match self.usable_addresses(&host.host).await {
                Ok(addresses) => addresses,
                Err(Ok(ours)) => return Err(DialError::Ours(ours)),
                Err(Err(problem)) => {
                    last = Some(problem);
                    continue;
                }
            };
            for (nth, address) in addresses.iter().enumerate() {
                if tried == ADDRESSES_MAX {
                    break;
                }
                tried += 1;
                // Whoever swallows packets must not use up the time of those that come after.
                let left = (addresses.len() - nth + order.len() - at - 1) as u32;
                let share = end.saturating_duration_since(Instant::now()) / left;
                let share =
                    share.clamp(Duration::from_millis(100), self.endpoint.deadlines.connect);
                match self.dial_one(to, &host.host, *address, share).await {
                    Ok(session) => {
                        return Ok((session, format!("{} [{address}]", host.host).into()));
                    }
                    Err(error) if self.is_ours(&error) => {
                        return Err(DialError::Ours(error.to_string()));
                    }
                    Err(error) => {
                        debug!(host = host.host, %address, %error, "a mail host cannot be used");
                        last = Some(told(&host.host, *address, &error));
                    }
                }
            }
        }
        let last = last.unwrap_or_else(|| Last {
            phase: Phase::Connect,
            enhanced: EnhancedCode(4, 4, 4),
            what: "it has no hosts".to_owned(),
        });
        Err(DialError::Destination { phase: last.phase, enhanced: last.enhanced, what: last.what })
    }

    /// The addresses of a host that mail may go to; the inner error of our own name servers is ours.
    async fn usable_addresses(&self, host: &str) -> Result<Vec<IpAddr>, Result<String, Last>> {
        let failed = |enhanced, what| Err(Err(Last { phase: Phase::Connect, enhanced, what }));
        let found = match self.resolver.addresses(host, self.ipv6).await {
            Ok(found) => found,
            Err(error @ LookupError::NoServer(_)) => return Err(Ok(error.to_string())),
            Err(error @ LookupError::Failed { .. }) => {
                return failed(EnhancedCode(4, 4, 3), error.to_string());
            }
            Err(error) => return failed(EnhancedCode(4, 4, 4), error.to_string()),
        };
        let allowed = |address: &IpAddr| self.private_addresses || is_public(*address);
        let fits = |address: &IpAddr| self.ipv6 || address.is_ipv4();
        let usable: Vec<IpAddr> = found.iter().copied().filter(allowed).filter(fits).collect();
        if usable.is_empty() {
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            let what = format!("{host} is at {}, where no mail is brought", found.join(", "));
            return failed(EnhancedCode(4, 4, 4), what);
        }
        Ok(usable)
    }

    async fn dial_one(
        &self,
        to: &Destination,
        host: &str,
        address: IpAddr,
        share: Duration,
    ) -> Result<Session, SessionError> {
        let mut endpoint = Endpoint { host: address.to_string(), ..self.endpoint.clone() };
        endpoint.source =
            self.sources.iter().copied().find(|source| source.is_ipv4() == address.is_ipv4());
        endpoint.deadlines.connect = share;
        endpoint.encryption = self.encryption(to, host)?;
        fail_point::reach("mx.call");
        let connected = Session::connect(&endpoint).await;
        fail_point::reach("mx.called");
        match connected {
            // Encryption without a check protects from onlookers only. Where it does not work clear
            // text is no worse (RFC 7435, section 4.3).
            Err(error)
                if matches!(endpoint.encryption, Encryption::Opportunistic(_))
                    && matches!(error.phase, Phase::StartTls | Phase::Tls) =>
            {
                debug!(host, %address, %error, "no encryption with a mail host; clear text it is");
                endpoint.encryption = Encryption::None;
                Session::connect(&endpoint).await
            }
            connected => connected,
        }
    }

    fn encryption(&self, to: &Destination, host: &str) -> Result<Encryption, SessionError> {
        let client = |config: &Arc<ClientConfig>| {
            let name = ServerName::try_from(host.to_owned()).ok()?;
            Some(TlsClient { config: Arc::clone(config), name })
        };
        if to.verified_tls || self.tls == RelayTls::Starttls {
            let client = self.good_certificate.as_ref().and_then(client).ok_or(SessionError {
                phase: Phase::Tls,
                kind: SessionErrorKind::Settings("the host's name cannot be that of a certificate"),
            })?;
            return Ok(Encryption::StartTls(client));
        }
        let client = client(&self.any_certificate).filter(|_| self.tls != RelayTls::None);
        Ok(client.map_or(Encryption::None, Encryption::Opportunistic))
    }

    /// Whether an error says that the address we send from is not ours.
    fn is_ours(&self, error: &SessionError) -> bool {
        let SessionErrorKind::Wire(WireError::Io(io)) = &error.kind else { return false };
        !self.sources.is_empty() && io.kind() == std::io::ErrorKind::AddrNotAvailable
    }
}

fn told(host: &str, address: IpAddr, error: &SessionError) -> Last {
    let refused = match &error.kind {
        SessionErrorKind::Refused(reply) => reply.enhanced,
        _ => None,
    };
    // Whatever a host says before it knows of a copy does not speak of its reader: it lasts for now.
    let enhanced = refused.map(|code| EnhancedCode(4, code.1, code.2));
    let ours = match error.phase {
        Phase::Connect => EnhancedCode(4, 4, 1),
        Phase::Tls | Phase::StartTls => EnhancedCode(4, 7, 5),
        _ => EnhancedCode(4, 4, 2),
    };
    Last {
        phase: error.phase,
        enhanced: enhanced.unwrap_or(ours),
        what: format!("{host} [{address}]: {error}"),
    }
}
