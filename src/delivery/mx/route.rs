//! From a reader's domain to a destination: what DNS says, and what follows when it says nothing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::stream::{self, StreamExt as _};
use tracing::info;

use super::{DESTINATIONS_MAX, Destination, Direct, ROUTES_MAX, Slot, destination, lock};
use crate::{
    bounce::classify::{Classification, Fault, Grounds, Permanence, Reason},
    delivery::queue::Handed,
    dns::{Answer, LookupError, MailHost, MailHosts},
    fail_point,
    mta_sts::{Mode, Policy},
    smtp::reply::EnhancedCode,
    timestamp::Timestamp,
};

/// How long a route is used at most before DNS (or its cache) is asked again.
const KEPT_MAX: Duration = Duration::from_mins(5);
/// How long a domain without an answer is not asked about again: its other copies need not wait, too.
const FAILURE_KEPT: Duration = Duration::from_secs(10);
/// How many domains of a slice are looked up at once, and how long the slice waits for it. Whoever is
/// not found by then is looked for when its turn comes.
const AT_ONCE: usize = 16;
const AHEAD: Duration = Duration::from_secs(2);

/// What is known of a domain.
#[derive(Debug)]
pub(super) struct Known {
    until: Instant,
    route: Result<Arc<Destination>, Refusal>,
}

/// What is known of a domain, while somebody looks: being looked up.
pub(super) type Cell = Slot<Known>;

/// Why copies cannot be brought to a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// It takes no mail, and that will not change soon.
    Never {
        /// What is wrong.
        reason: Reason,
        /// How sure that is.
        grounds: Grounds,
        /// The rule that says so, for the log.
        rule: &'static str,
        /// The status code (RFC 3463, RFC 7505).
        enhanced: EnhancedCode,
        /// For people.
        what: String,
    },
    /// Nobody knows now.
    Later {
        /// The status code.
        enhanced: EnhancedCode,
        /// For people.
        what: String,
    },
    /// Our own name servers fail; it says nothing about the domain.
    NoServer(String),
}

impl Direct {
    /// The destination of mail to `domain`. Waits for DNS, within bounds.
    pub(in crate::delivery) async fn route(
        &self,
        domain: &str,
    ) -> Result<Arc<Destination>, Refusal> {
        let domain = domain.trim_end_matches('.').to_ascii_lowercase();
        let cell = self.cell(&domain);
        // Whoever asks about the same domain meanwhile waits for this answer.
        let mut known = cell.lock().await;
        if let Some(known) = known.as_ref().filter(|known| known.until > Instant::now()) {
            return known.route.clone();
        }
        fail_point::reach("mx.route");
        let (route, until) = self.look_up(&domain).await;
        if matches!(route, Err(Refusal::NoServer(_))) {
            return route;
        }
        *known = Some(Known { until, route: route.clone() });
        route
    }

    /// The destination of mail to `domain`, if it is known; asks nobody.
    pub(in crate::delivery) fn known_route(&self, domain: &str) -> Option<Arc<Destination>> {
        let cell = Arc::clone(lock(&self.routes).get(domain)?);
        let known = cell.try_lock().ok()?;
        known.as_ref().filter(|known| known.until > Instant::now())?.route.clone().ok()
    }

    fn cell(&self, domain: &str) -> Cell {
        let mut routes = lock(&self.routes);
        if let Some(cell) = routes.get(domain) {
            return Arc::clone(cell);
        }
        if routes.len() >= ROUTES_MAX {
            // Whoever is being looked up is held by somebody, and stays in use there.
            routes.clear();
        }
        let cell = Cell::default();
        routes.insert(domain.to_owned(), Arc::clone(&cell));
        cell
    }

    async fn look_up(&self, domain: &str) -> (Result<Arc<Destination>, Refusal>, Instant) {
        let soon = Instant::now() + FAILURE_KEPT;
        let found = match self.resolver.mail_hosts(domain).await {
            Ok(found) => found,
            Err(error) => return (Err(refusal(&error)), soon),
        };
        let Answer { records: hosts, until } = found;
        let until =
            until.min(Instant::now() + KEPT_MAX).max(Instant::now() + Duration::from_secs(1));
        match &hosts {
            MailHosts::None => return (Err(null_mx(domain)), until),
            // Without MX records the domain is its own mail server, if it is a host at all.
            MailHosts::Implicit(host) => {
                if let Err(error) = self.resolver.addresses(&host.host, self.ipv6).await {
                    return (Err(refusal(&error)), soon);
                }
            }
            MailHosts::Explicit(_) => {}
        }
        let Some(policies) = &self.policies else {
            return (Ok(self.destination(hosts, false)), until);
        };
        match policies.of(domain, &self.resolver, Timestamp::now()).await {
            Some(policy) if policy.mode == Mode::Enforce => match allowed(hosts, &policy) {
                Some(hosts) => (Ok(self.destination(hosts, true)), until),
                None => (Err(none_allowed(domain)), soon),
            },
            Some(policy) if policy.mode == Mode::Testing => {
                let others = hosts.hosts().iter().filter(|host| !policy.allows(&host.host)).count();
                if others > 0 {
                    info!(domain, others, "hosts that the domain's MTA-STS policy does not name");
                }
                (Ok(self.destination(hosts, false)), until)
            }
            _ => (Ok(self.destination(hosts, false)), until),
        }
    }

    /// The destination that has these hosts, the same one for all domains that have them.
    fn destination(&self, hosts: MailHosts, verified_tls: bool) -> Arc<Destination> {
        let mut name = destination::name_of(hosts.hosts());
        if verified_tls {
            name.push_str(" (MTA-STS)");
        }
        let now = Timestamp::now();
        let mut destinations = lock(&self.destinations);
        if let Some(found) = destinations.get(&name) {
            return Arc::clone(found);
        }
        if destinations.len() >= DESTINATIONS_MAX {
            destinations.retain(|_, destination| {
                Arc::strong_count(destination) > 1 || !destination.is_forgettable(now)
            });
        }
        let made = Destination::new(name.clone(), hosts, verified_tls, &self.terms);
        let made = Arc::new(made);
        destinations.insert(name, Arc::clone(&made));
        made
    }

    /// Puts the copies of a slice that go to one destination one behind the other, so that they share
    /// a session. Looks their domains up meanwhile.
    pub(in crate::delivery) async fn arrange(&self, copies: &mut [Handed]) {
        let mut domains: Vec<String> =
            copies.iter().map(|copy| domain_of(&copy.address).to_owned()).collect();
        domains.sort_unstable();
        domains.dedup();
        let look = |domain: String| async move {
            let name = match self.route(&domain).await {
                Ok(destination) => destination.name.clone(),
                Err(_) => domain.clone(),
            };
            (domain, name)
        };
        let mut found = std::collections::HashMap::new();
        let mut answers = stream::iter(domains).map(look).buffer_unordered(AT_ONCE);
        let all = async {
            while let Some((domain, name)) = answers.next().await {
                found.insert(domain, name);
            }
        };
        // A slow one is looked for again when its turn comes; its answer is in the cache by then.
        let _ = tokio::time::timeout(AHEAD, all).await;
        drop(answers);
        copies.sort_by(|a, b| {
            let [a, b] = [a, b].map(|copy| {
                let domain = domain_of(&copy.address);
                found.get(domain).map_or(domain, String::as_str)
            });
            a.cmp(b)
        });
    }
}

impl Refusal {
    /// Its status code.
    pub fn enhanced(&self) -> EnhancedCode {
        match self {
            Self::Never { enhanced, .. } | Self::Later { enhanced, .. } => *enhanced,
            Self::NoServer(_) => EnhancedCode(4, 4, 3),
        }
    }

    /// What is wrong, for people.
    pub fn what(&self) -> &str {
        match self {
            Self::Never { what, .. } | Self::Later { what, .. } | Self::NoServer(what) => what,
        }
    }

    /// Whose fault it is.
    pub fn class(&self) -> Classification {
        match self {
            Self::Never { reason, grounds, rule, .. } => Classification {
                fault: Fault::Recipient,
                permanence: Permanence::Permanent,
                reason: *reason,
                grounds: *grounds,
                rule,
                action: None,
            },
            Self::Later { .. } | Self::NoServer(_) => unreachable_class("dns"),
        }
    }
}

/// The class of a copy whose destination cannot be reached now.
pub(in crate::delivery) fn unreachable_class(rule: &'static str) -> Classification {
    Classification {
        fault: Fault::Network,
        permanence: Permanence::Transient,
        reason: Reason::Unreachable,
        grounds: Grounds::Stated,
        rule,
        action: None,
    }
}

/// The domain of an address.
pub(in crate::delivery) fn domain_of(address: &str) -> &str {
    address.rsplit_once('@').map_or("", |(_, domain)| domain)
}

/// Those of a domain's hosts that its policy names, if there are some.
fn allowed(hosts: MailHosts, policy: &Policy) -> Option<MailHosts> {
    let fits = |host: &MailHost| policy.allows(&host.host);
    match hosts {
        MailHosts::Explicit(mut hosts) => {
            hosts.retain(fits);
            Some(MailHosts::Explicit(hosts)).filter(|hosts| !hosts.hosts().is_empty())
        }
        MailHosts::Implicit(host) => fits(&host).then_some(MailHosts::Implicit(host)),
        MailHosts::None => None,
    }
}

fn none_allowed(domain: &str) -> Refusal {
    Refusal::Later {
        enhanced: EnhancedCode(4, 7, 5),
        what: format!("{domain} has no mail host that its MTA-STS policy names"),
    }
}

/// A domain whose owner says in so many words that it takes no mail (RFC 7505, section 4.1).
fn null_mx(domain: &str) -> Refusal {
    Refusal::Never {
        reason: Reason::NoSuchDomain,
        grounds: Grounds::Stated,
        rule: "null-mx",
        enhanced: EnhancedCode(5, 1, 10),
        what: format!("{domain} takes no mail (null MX)"),
    }
}

/// A name server may be wrong about what exists, and for everybody at once: a second issue has to
/// find the same before it counts as proof against a reader.
fn refusal(error: &LookupError) -> Refusal {
    let what = error.to_string();
    match error {
        LookupError::NoSuchName(_) | LookupError::NoSuchRecord(..) | LookupError::NotAName(_) => {
            Refusal::Never {
                reason: Reason::NoSuchDomain,
                grounds: Grounds::Wording,
                rule: "no-such-domain",
                enhanced: EnhancedCode(5, 1, 2),
                what,
            }
        }
        LookupError::Failed { .. } => Refusal::Later { enhanced: EnhancedCode(4, 4, 3), what },
        LookupError::NoServer(_) => Refusal::NoServer(what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_exist_is_the_recipients_and_what_is_not_known_is_nobodys() {
        let name = || "d.example".to_owned();
        let failed = LookupError::Failed { name: name(), why: "SERVFAIL".to_owned() };
        for (error, code, hard) in [
            (LookupError::NoSuchName(name()), "5.1.2", false),
            (LookupError::NoSuchRecord(name(), "A"), "5.1.2", false),
            (failed, "4.4.3", false),
        ] {
            let found = refusal(&error);
            assert_eq!(
                (found.enhanced().to_string().as_str(), found.class().is_hard()),
                (code, hard)
            );
            let permanent = found.class().permanence == Permanence::Permanent;
            assert_eq!(permanent, found.class().fault == Fault::Recipient);
        }
        assert!(null_mx("d.example").class().is_hard(), "its owner says so");
    }
}
