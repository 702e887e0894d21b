//! DNS as mail needs it: which hosts take mail for a domain, at which addresses, and what a domain
//! says in TXT records. Every answer is one that its caller can act on: records, a domain that does
//! not exist, one that has no such record, or no answer, and then whose fault that is.
//!
//! Answers are kept for as long as their records allow, within bounds; each question takes bounded
//! time. Nothing is asked here by itself: without a relay of kind `mx` and grouping by MX nobody calls.

mod mail_hosts;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use hickory_resolver::{
    TokioResolver,
    config::{
        ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
        ServerOrderingStrategy,
    },
    lookup::Lookup,
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{Name, RData, RecordType},
    },
};

pub use self::mail_hosts::{MailHost, MailHosts, in_order};
use crate::config;

/// How many answers are kept.
const CACHE_ANSWERS: u64 = 16_384;
/// The longest that an answer is kept, whatever it says of itself.
const CACHE_MAX: Duration = Duration::from_hours(24);
/// The longest that it is remembered that there is no answer: a domain that was mended is soon seen.
const CACHE_NEGATIVE_MAX: Duration = Duration::from_mins(10);
/// After so many names in a row about which nobody answered, it is the name servers that are gone, and
/// not those domains'.
const SILENT_MAX: u32 = 8;

/// Why there are no records.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// The name does not exist (NXDOMAIN).
    #[error("{0} does not exist")]
    NoSuchName(String),
    /// It exists, and has no record of the kind.
    #[error("{0} has no {1} record")]
    NoSuchRecord(String, &'static str),
    /// It cannot be a name.
    #[error("{0} is no domain name")]
    NotAName(String),
    /// The servers of the domain fail: SERVFAIL, or no answer in time.
    #[error("no answer about {name}: {why}")]
    Failed {
        /// What was asked about.
        name: String,
        /// What came instead of an answer.
        why: String,
    },
    /// Our own name servers cannot be asked: it says nothing about the domain.
    #[error("the name servers cannot be asked: {0}")]
    NoServer(String),
}

/// Records, and until when they hold.
#[derive(Debug, Clone)]
pub struct Answer<T> {
    /// What was found.
    pub records: T,
    /// Until when.
    pub until: Instant,
}

/// Asks name servers.
#[derive(Debug)]
pub struct Resolver {
    inner: TokioResolver,
    /// How long one lookup may take in all, retries included.
    within: Duration,
    /// How many different names in a row nobody answered about, and the last of them.
    silent: Mutex<(u32, String)>,
}

impl Resolver {
    /// A resolver as the configuration says. Reads the system's settings when it names no server;
    /// the error is a sentence.
    pub fn new(settings: &config::Dns) -> Result<Self, String> {
        let system = || {
            hickory_resolver::system_conf::read_system_conf()
                .map(|(config, _)| {
                    ResolverConfig::from_name_servers(config.name_servers().to_vec())
                })
                .map_err(|error| format!("the system's name servers cannot be read: {error}"))
        };
        let config = if settings.servers.is_empty() {
            system()?
        } else {
            let servers = settings.servers.iter().map(|server| name_server(*server)).collect();
            ResolverConfig::from_name_servers(servers)
        };
        let mut options = ResolverOpts::default();
        options.timeout = settings.timeout;
        options.attempts = 1;
        options.cache_size = CACHE_ANSWERS;
        options.positive_max_ttl = Some(CACHE_MAX);
        options.negative_max_ttl = Some(CACHE_NEGATIVE_MAX);
        options.use_hosts_file = ResolveHosts::Never;
        options.edns0 = true;
        options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
        let provider = TokioRuntimeProvider::default();
        let inner = TokioResolver::builder_with_config(config, provider).with_options(options);
        let inner = inner.build().map_err(|error| format!("DNS cannot be set up: {error}"))?;
        Ok(Self { inner, within: settings.timeout * 3, silent: Mutex::default() })
    }

    /// The hosts that take mail for a domain, given in A-labels (RFC 5321, section 5.1).
    pub async fn mail_hosts(&self, domain: &str) -> Result<Answer<MailHosts>, LookupError> {
        if let Some(literal) = address_literal(domain) {
            let host = MailHost { preference: 0, host: literal.to_string() };
            let until = Instant::now() + CACHE_MAX;
            return Ok(Answer { records: MailHosts::Explicit(vec![host]), until });
        }
        let found = match self.lookup(domain, RecordType::MX).await {
            Ok(lookup) => {
                let exchanges = lookup.answers().iter().filter_map(|record| match &record.data {
                    RData::MX(mx) => Some((mx.preference, host_name(&mx.exchange))),
                    _ => None,
                });
                let records = MailHosts::of_records(domain, exchanges);
                return Ok(Answer { records, until: lookup.valid_until() });
            }
            Err(LookupError::NoSuchRecord(..)) => MailHosts::implicit(domain),
            Err(error) => return Err(error),
        };
        Ok(Answer { records: found, until: Instant::now() + CACHE_NEGATIVE_MAX })
    }

    /// The addresses of a host, or the address that it is: IPv6 ones first, each kind in the order of
    /// the answer.
    pub async fn addresses(&self, host: &str, ipv6: bool) -> Result<Vec<IpAddr>, LookupError> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let (six, four) = tokio::join!(
            async { if ipv6 { Some(self.lookup(host, RecordType::AAAA).await) } else { None } },
            self.lookup(host, RecordType::A),
        );
        let mut addresses = Vec::new();
        let mut problem = None;
        for lookup in six.into_iter().chain([four]) {
            match lookup {
                Ok(lookup) => {
                    addresses.extend(lookup.answers().iter().filter_map(
                        |record| match record.data {
                            RData::A(address) => Some(IpAddr::V4(Ipv4Addr::from(address))),
                            RData::AAAA(address) => Some(IpAddr::V6(Ipv6Addr::from(address))),
                            _ => None,
                        },
                    ));
                }
                // What may still come counts for more than what is not there.
                Err(error) if problem.is_none() || !error.is_negative() => problem = Some(error),
                Err(_) => {}
            }
        }
        match problem {
            _ if !addresses.is_empty() => Ok(addresses),
            Some(error) => Err(error),
            None => Err(LookupError::NoSuchRecord(host.to_owned(), "A or AAAA")),
        }
    }

    /// The TXT records of a name, each with its strings joined (RFC 7208, section 3.3).
    pub async fn texts(&self, name: &str) -> Result<Vec<String>, LookupError> {
        let lookup = self.lookup(name, RecordType::TXT).await?;
        let text = |data: &RData| match data {
            RData::TXT(txt) => Some(String::from_utf8_lossy(&txt.txt_data.concat()).into_owned()),
            _ => None,
        };
        Ok(lookup.answers().iter().filter_map(|record| text(&record.data)).collect())
    }

    async fn lookup(&self, name: &str, kind: RecordType) -> Result<Lookup, LookupError> {
        // A dot at the end: no name is tried below the domains that the system searches.
        let absolute = Name::from_ascii(format!("{}.", name.trim_end_matches('.')))
            .map_err(|_| LookupError::NotAName(name.to_owned()))?;
        let asked = tokio::time::timeout(self.within, self.inner.lookup(absolute, kind)).await;
        let failed = |why: String| LookupError::Failed { name: name.to_owned(), why };
        let error = match asked {
            Ok(Ok(lookup)) => {
                self.answered();
                // A chain of CNAMEs may end in nothing of the kind.
                let any = lookup.answers().iter().any(|record| record.record_type() == kind);
                let none = || LookupError::NoSuchRecord(name.to_owned(), word(kind));
                return any.then_some(lookup).ok_or_else(none);
            }
            Ok(Err(error)) => error,
            Err(_) => NetError::Timeout,
        };
        match error {
            NetError::Dns(DnsError::NoRecordsFound(none)) => {
                self.answered();
                Err(match none.response_code {
                    ResponseCode::NXDomain => LookupError::NoSuchName(name.to_owned()),
                    ResponseCode::NoError => LookupError::NoSuchRecord(name.to_owned(), word(kind)),
                    code => failed(code.to_string()),
                })
            }
            NetError::Dns(error) => {
                self.answered();
                Err(failed(error.to_string()))
            }
            NetError::Timeout if !self.is_silent(name) => {
                Err(failed(format!("none within {} ms", self.within.as_millis())))
            }
            NetError::Timeout => Err(LookupError::NoServer("none of them answers".to_owned())),
            NetError::Io(error) => Err(LookupError::NoServer(error.to_string())),
            NetError::NoConnections => Err(LookupError::NoServer(error.to_string())),
            error => Err(failed(error.to_string())),
        }
    }

    fn answered(&self) {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        if silent.0 > 0 {
            *silent = (0, String::new());
        }
    }

    /// Nobody answered about `name`; whether that has been so for many names in a row.
    fn is_silent(&self, name: &str) -> bool {
        let mut silent = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        if silent.1 != name {
            *silent = (silent.0 + 1, name.to_owned());
        }
        silent.0 > SILENT_MAX
    }
}

impl LookupError {
    /// Whether it was said that there is nothing.
    pub fn is_negative(&self) -> bool {
        matches!(self, Self::NoSuchName(_) | Self::NoSuchRecord(..) | Self::NotAName(_))
    }
}

fn name_server(server: config::NameServer) -> NameServerConfig {
    let at = |mut connection: ConnectionConfig| {
        connection.port = server.0.port();
        connection
    };
    let connections = vec![at(ConnectionConfig::udp()), at(ConnectionConfig::tcp())];
    NameServerConfig::new(server.0.ip(), true, connections)
}

/// A host name as mail compares it: lower case, no dot at its end; empty for the root.
fn host_name(name: &Name) -> String {
    name.to_ascii().trim_end_matches('.').to_ascii_lowercase()
}

fn word(kind: RecordType) -> &'static str {
    kind.into()
}

/// The address in a domain literal (RFC 5321, section 4.1.3).
fn address_literal(domain: &str) -> Option<IpAddr> {
    let inner = domain.strip_prefix('[')?.strip_suffix(']')?;
    match inner.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => {
            inner.get(5..)?.parse().ok().map(IpAddr::V6)
        }
        _ => inner.parse().ok().map(IpAddr::V4),
    }
}

/// Whether an address is one that mail servers of the world have.
pub fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [a, b, ..] = address.octets();
            let shared = a == 100 && (64..128).contains(&b);
            !(address.is_private()
                || address.is_loopback()
                || address.is_link_local()
                || address.is_broadcast()
                || address.is_multicast()
                || a == 0
                || a >= 240
                || shared)
        }
        IpAddr::V6(address) => {
            !(address.is_loopback()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_unique_local()
                || address.is_unicast_link_local())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mail_goes_to_the_world_and_not_to_ourselves() {
        let public = |text: &str| is_public(text.parse().unwrap());
        for text in ["8.8.8.8", "100.63.0.1", "100.128.0.1", "2a00:1450::1", "172.32.0.1"] {
            assert!(public(text), "{text}");
        }
        for text in [
            "127.0.0.1",
            "127.8.9.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.1.1",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "240.0.0.1",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
        ] {
            assert!(!public(text), "{text}");
        }
    }

    #[test]
    fn literals_are_addresses() {
        let read = |text| address_literal(text).map(|address| address.to_string());
        assert_eq!(read("[192.0.2.1]").as_deref(), Some("192.0.2.1"));
        assert_eq!(read("[IPv6:2001:db8::1]").as_deref(), Some("2001:db8::1"));
        for text in ["192.0.2.1", "[2001:db8::1]", "[IPv6:192.0.2.1]", "[ä]", "[]", "example.com"]
        {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn many_names_without_an_answer_mean_that_nobody_is_asked() {
        // A socket that nobody reads.
        let deaf = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let settings = config::Dns {
            servers: vec![config::NameServer(deaf.local_addr().unwrap())],
            timeout: Duration::from_millis(10),
            group_by_mx: false,
        };
        let resolver = Resolver::new(&settings).unwrap();
        for number in 0..=SILENT_MAX {
            // The same name again says nothing new.
            for _ in 0..2 {
                let found = resolver.mail_hosts(&format!("d{number}.example")).await.unwrap_err();
                let ours = matches!(found, LookupError::NoServer(_));
                assert_eq!(ours, number >= SILENT_MAX, "{found}");
            }
        }
        resolver.answered();
        let found = resolver.mail_hosts("again.example").await.unwrap_err();
        assert!(matches!(found, LookupError::Failed { .. }), "{found}");
    }
}
