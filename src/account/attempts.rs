//! How often somebody may try to log in. Pure but for its own memory: the time comes in as a value.
//!
//! A try is counted before the password is looked at, so that tries made side by side count too; a
//! login that succeeds gives its try back. Counts are in memory and bounded: a restart forgives,
//! and guessing for the length of many restarts is not faster than the limits allow.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::timestamp::Timestamp;

/// Over which time tries are counted.
const WINDOW: Duration = Duration::from_mins(15);
/// Tries for one name from one network.
const PER_NAME_AND_NETWORK: u32 = 5;
/// Tries from one network.
const PER_NETWORK: u32 = 30;
/// Tries for one name from everywhere: well above the others, so that a stranger cannot lock
/// somebody out from a single place.
const PER_NAME: u32 = 100;
/// How many counts are kept; the oldest go first.
const COUNTS_MAX: usize = 10_000;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Scope {
    NameAndNetwork(String, Option<IpAddr>),
    Network(IpAddr),
    Name(String),
}

#[derive(Debug, Clone, Copy)]
struct Count {
    tries: u32,
    since: Timestamp,
}

/// Tries to log in, counted.
#[derive(Debug, Default)]
pub struct Attempts {
    counts: Mutex<HashMap<Scope, Count>>,
}

impl Attempts {
    /// Counts a try; the error says how long to wait before the next one.
    pub fn count(&self, name: &str, ip: Option<IpAddr>, now: Timestamp) -> Result<(), Duration> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let scopes = scopes(name, ip);
        let over = scopes.iter().filter_map(|(scope, max)| {
            let count = counts.get(scope)?;
            let left = WINDOW.checked_sub(now.since(count.since)).filter(|left| !left.is_zero())?;
            (count.tries >= *max).then_some(left)
        });
        if let Some(wait) = over.max() {
            return Err(wait);
        }
        for (scope, _) in scopes {
            let count = counts.entry(scope).or_insert(Count { tries: 0, since: now });
            if now.since(count.since) >= WINDOW {
                *count = Count { tries: 0, since: now };
            }
            count.tries += 1;
        }
        if counts.len() > COUNTS_MAX {
            forget_oldest(&mut counts, now);
        }
        Ok(())
    }

    /// Takes a try back: the password was right.
    pub fn forgive(&self, name: &str, ip: Option<IpAddr>) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for (scope, _) in scopes(name, ip) {
            if let Some(count) = counts.get_mut(&scope) {
                count.tries = count.tries.saturating_sub(1);
            }
        }
        counts.retain(|_, count| count.tries > 0);
    }
}

fn scopes(name: &str, ip: Option<IpAddr>) -> Vec<(Scope, u32)> {
    // Names are at most 40 characters; what is longer is nobody's, and need not be kept.
    let name: String = name.chars().take(41).collect::<String>().to_ascii_lowercase();
    let network = ip.map(network);
    let mut scopes = vec![
        (Scope::NameAndNetwork(name.clone(), network), PER_NAME_AND_NETWORK),
        (Scope::Name(name), PER_NAME),
    ];
    scopes.extend(network.map(|network| (Scope::Network(network), PER_NETWORK)));
    scopes
}

/// An IPv4 address, or the /64 of an IPv6 address, which is what one customer has.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        ip @ IpAddr::V4(_) => ip,
    }
}

/// Makes room: counts whose time is over first, then the older half.
fn forget_oldest(counts: &mut HashMap<Scope, Count>, now: Timestamp) {
    counts.retain(|_, count| now.since(count.since) < WINDOW);
    if counts.len() > COUNTS_MAX {
        let mut since: Vec<Timestamp> = counts.values().map(|count| count.since).collect();
        let middle = since.len() / 2;
        let (_, middle, _) = since.select_nth_unstable(middle);
        let middle = *middle;
        counts.retain(|_, count| count.since > middle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_microseconds(1_700_000_000_000_000);

    #[expect(clippy::unnecessary_wraps, reason = "it is what `count` takes")]
    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn a_name_from_one_network_has_five_tries_in_a_quarter_of_an_hour() {
        let attempts = Attempts::default();
        for (n, host) in (0..5).zip(["2001:db8::1", "2001:db8::2"].iter().cycle()) {
            assert_eq!(attempts.count("ada", ip(host), START), Ok(()), "{n}");
        }
        let wait = attempts.count("Ada", ip("2001:db8::3"), START.plus(Duration::from_mins(5)));
        assert_eq!(wait, Err(Duration::from_mins(10)));
        // Not she, but a stranger elsewhere is kept out.
        assert_eq!(attempts.count("ada", ip("192.0.2.1"), START), Ok(()));
        assert_eq!(attempts.count("ada", ip("2001:db8::1"), START.plus(WINDOW)), Ok(()));
    }

    #[test]
    fn a_network_that_tries_many_names_is_kept_out_too() {
        let attempts = Attempts::default();
        let tried = (0..100).take_while(|n| {
            attempts.count(&format!("user{n}"), ip("::ffff:192.0.2.1"), START).is_ok()
        });
        assert_eq!(tried.count(), PER_NETWORK as usize);
        assert!(attempts.count("another", ip("192.0.2.1"), START).is_err());
    }

    #[test]
    fn logins_that_succeed_are_not_held_against_anybody() {
        let attempts = Attempts::default();
        for _ in 0..100 {
            attempts.count("ada", ip("192.0.2.1"), START).unwrap();
            attempts.forgive("ada", ip("192.0.2.1"));
        }
        assert!(attempts.counts.lock().unwrap().is_empty());
    }

    #[test]
    fn memory_is_bounded_whatever_is_tried() {
        let attempts = Attempts::default();
        for n in 0..(COUNTS_MAX as u32 * 2) {
            let from = IpAddr::from(n.to_be_bytes());
            let at = START.plus(Duration::from_micros(u64::from(n)));
            let _ = attempts.count(&format!("user{n}"), Some(from), at);
        }
        assert!(attempts.counts.lock().unwrap().len() <= COUNTS_MAX + 3);
    }
}
