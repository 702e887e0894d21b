//! Which hosts take mail for a domain, and in which order they are tried. Pure.

use rand::{Rng, seq::SliceRandom as _};

/// The most hosts of one domain that are looked at: more is a mistake, or an attempt to keep us busy.
const HOSTS_MAX: usize = 32;

/// One host that takes mail.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct MailHost {
    /// Hosts with lower numbers are tried first.
    pub preference: u16,
    /// Its name, in lower case without a final dot; or an address.
    pub host: String,
}

/// What a domain says about its mail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MailHosts {
    /// These hosts take it, in the order of preference.
    Explicit(Vec<MailHost>),
    /// It names none: the domain itself is the host, if it has an address (RFC 5321, section 5.1).
    Implicit(MailHost),
    /// It takes no mail at all (RFC 7505).
    None,
}

impl MailHosts {
    /// Reads MX records: preference and name, which is empty for the root.
    pub(super) fn of_records(
        domain: &str,
        records: impl IntoIterator<Item = (u16, String)>,
    ) -> Self {
        let mut hosts: Vec<MailHost> = Vec::new();
        let mut refuses = false;
        for (preference, host) in records {
            // A null MX beside others is a mistake, and the others count (RFC 7505, section 3).
            if host.is_empty() {
                refuses = true;
            } else {
                hosts.push(MailHost { preference, host });
            }
        }
        if hosts.is_empty() {
            return if refuses { Self::None } else { Self::implicit(domain) };
        }
        hosts.sort();
        // A host that is named twice is tried once, where it comes first.
        let mut seen = std::collections::HashSet::new();
        hosts.retain(|host| seen.insert(host.host.clone()));
        hosts.truncate(HOSTS_MAX);
        Self::Explicit(hosts)
    }

    pub(super) fn implicit(domain: &str) -> Self {
        let host = domain.trim_end_matches('.').to_ascii_lowercase();
        Self::Implicit(MailHost { preference: 0, host })
    }

    /// The hosts, in the order of preference.
    pub fn hosts(&self) -> &[MailHost] {
        match self {
            Self::Explicit(hosts) => hosts,
            Self::Implicit(host) => std::slice::from_ref(host),
            Self::None => &[],
        }
    }
}

/// The order in which hosts are tried this time: by preference, at random among equals, so that each
/// of them gets its share (RFC 5321, section 5.1).
pub fn in_order<'a>(hosts: &'a [MailHost], random: &mut impl Rng) -> Vec<&'a MailHost> {
    let mut order: Vec<&MailHost> = hosts.iter().collect();
    order.shuffle(random);
    order.sort_by_key(|host| host.preference);
    order
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    use super::*;

    fn read(records: &[(u16, &str)]) -> MailHosts {
        let owned = records.iter().map(|(preference, host)| (*preference, (*host).to_owned()));
        MailHosts::of_records("Example.COM", owned)
    }

    fn names(hosts: &MailHosts) -> Vec<&str> {
        hosts.hosts().iter().map(|host| host.host.as_str()).collect()
    }

    #[test]
    fn records_mean_what_the_rfcs_say() {
        assert_eq!(names(&read(&[(20, "b"), (10, "a"), (30, "a")])), ["a", "b"]);
        assert_eq!(read(&[(0, "")]), MailHosts::None);
        assert_eq!(read(&[(0, ""), (7, "")]), MailHosts::None);
        assert_eq!(names(&read(&[(0, ""), (5, "a")])), ["a"]);
        let implicit = read(&[]);
        assert!(matches!(implicit, MailHosts::Implicit(_)));
        assert_eq!(names(&implicit), ["example.com"]);
        let many: Vec<(u16, String)> = (0..100).map(|n| (n, format!("h{n}"))).collect();
        let many = MailHosts::of_records("d", many);
        assert_eq!((many.hosts().len(), many.hosts()[31].host.as_str()), (HOSTS_MAX, "h31"));
    }

    #[test]
    fn equals_take_turns_at_random() {
        let hosts = read(&[(10, "a"), (10, "b"), (20, "c")]);
        let mut random = StdRng::seed_from_u64(7);
        let mut firsts = std::collections::BTreeMap::new();
        for _ in 0..1000 {
            let order = in_order(hosts.hosts(), &mut random);
            *firsts.entry(order[0].host.clone()).or_insert(0) += 1;
        }
        assert_eq!(firsts.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert!(firsts.values().all(|count| (400..600).contains(count)), "{firsts:?}");
    }

    proptest! {
        #[test]
        fn every_host_is_tried_once_and_none_before_a_better_one(
            records in proptest::collection::vec((0u16..4, "[a-e]{0,2}"), 0..12),
            seed: u64,
        ) {
            let hosts = MailHosts::of_records("d.example", records.clone());
            let order = in_order(hosts.hosts(), &mut StdRng::seed_from_u64(seed));
            prop_assert!(order.is_sorted_by_key(|host| host.preference));
            let mut tried: Vec<&str> = order.iter().map(|host| host.host.as_str()).collect();
            tried.sort_unstable();
            let mut named: Vec<&str> =
                records.iter().map(|(_, host)| host.as_str()).filter(|h| !h.is_empty()).collect();
            named.sort_unstable();
            named.dedup();
            match hosts {
                MailHosts::Explicit(_) => prop_assert_eq!(tried, named),
                MailHosts::Implicit(_) => prop_assert!(records.is_empty()),
                MailHosts::None => prop_assert!(named.is_empty() && !records.is_empty()),
            }
        }
    }
}
