//! The limits that a copy has to pass: rates over everything, a relay, a provider, a newsletter, and
//! warm-up ramps. Pure: the time comes in as a value, what was used goes out as a value, so that it
//! is kept with the handoffs it allowed: a restart grants nothing new, and when it cannot be kept no
//! handoff is committed either.

mod gcra;
mod warm_up;

use std::collections::{BTreeMap, HashMap};

pub use gcra::Gcra;
pub use warm_up::{Progress, WarmUps};

use crate::{id::NewsletterId, timestamp::Timestamp};

/// Which limit this is. Relays are numbered as in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LimitName {
    /// Everything that leaves.
    Total,
    /// Everything through one relay.
    Relay(usize),
    /// Everything to one provider.
    Provider(i64),
    /// All issues of one newsletter.
    Newsletter(NewsletterId),
    /// What a relay may bring to a provider today, while the two get used to each other.
    WarmUp(usize, i64),
}

/// Where copies go, and whose they are: what decides which limits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// The relay's number.
    pub relay: usize,
    /// The provider of their addresses.
    pub provider: i64,
    /// Their newsletter; none for service mail.
    pub newsletter: Option<NewsletterId>,
}

/// What stands in the way of a copy, or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allowance {
    /// So many copies may go (already taken from every limit on their way).
    Granted(u32),
    /// None may go before `until`, because of this limit.
    Wait {
        /// When to ask again.
        until: Timestamp,
        /// The limit that is used up.
        limit: LimitName,
    },
}

/// Uses to write down.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Uses {
    /// How far each rate was used, by [`Limits::key`].
    pub rates: Vec<(String, Timestamp)>,
    /// Relay, provider, and how far they have come.
    pub warm_ups: Vec<(String, i64, Progress)>,
    /// What [`Limits::kept`] wants to hear once they are written.
    pub version: u64,
}

/// All limits of one daemon.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    relay_names: Vec<String>,
    total: Option<Gcra>,
    relays: BTreeMap<usize, Gcra>,
    providers: BTreeMap<i64, Gcra>,
    newsletters: BTreeMap<NewsletterId, Gcra>,
    warm_ups: WarmUps,
    /// Uses from before the start, for limits that come later.
    before: HashMap<String, Timestamp>,
    version: u64,
    kept_version: u64,
}

impl Limits {
    /// No limit yet, for relays of these names.
    pub fn new(relay_names: Vec<String>) -> Self {
        Self { relay_names, ..Self::default() }
    }

    /// Adds a rate.
    pub fn add(&mut self, name: LimitName, limit: Gcra) {
        match name {
            LimitName::Total => self.total = Some(limit),
            LimitName::Relay(relay) => drop(self.relays.insert(relay, limit)),
            LimitName::Provider(provider) => drop(self.providers.insert(provider, limit)),
            LimitName::Newsletter(id) => drop(self.newsletters.insert(id, limit)),
            LimitName::WarmUp(..) => {}
        }
    }

    /// Adds a warm-up ramp, for one provider or for all that have none of their own.
    pub fn add_warm_up(&mut self, relay: usize, provider: Option<i64>, copies_per_day: &[u32]) {
        self.warm_ups.add(relay, provider, copies_per_day);
    }

    /// Sets or lifts the rate of a newsletter, which may change at any time.
    pub fn set_newsletter(&mut self, id: NewsletterId, per_second: Option<f64>, now: Timestamp) {
        let Some(per_second) = per_second else {
            self.newsletters.remove(&id);
            return;
        };
        if let Some(limit) = self.newsletters.get_mut(&id) {
            limit.change(per_second, None);
            return;
        }
        let mut limit = Gcra::new(per_second, None);
        if let Some(used_until) = self.before.get(&self.key(LimitName::Newsletter(id))) {
            limit.restore(*used_until, now);
        }
        self.newsletters.insert(id, limit);
    }

    /// Takes over uses that were kept under [`Limits::key`].
    pub fn restore(
        &mut self,
        rates: Vec<(String, Timestamp)>,
        warm_ups: &[(String, i64, Progress)],
        now: Timestamp,
    ) {
        self.before = rates.into_iter().collect();
        for name in self.names().collect::<Vec<_>>() {
            let used_until = self.before.get(&self.key(name)).copied();
            if let (Some(limit), Some(used_until)) = (self.rate_mut(name), used_until) {
                limit.restore(used_until, now);
            }
        }
        for (relay, provider, progress) in warm_ups {
            if let Some(relay) = self.relay_names.iter().position(|name| name == relay) {
                self.warm_ups.restore(relay, *provider, *progress);
            }
        }
    }

    /// The name of a limit in the database.
    pub fn key(&self, name: LimitName) -> String {
        let relay = |relay: usize| self.relay_names.get(relay).map_or("?", String::as_str);
        match name {
            LimitName::Total => "total".to_owned(),
            LimitName::Relay(number) => format!("relay {}", relay(number)),
            LimitName::Provider(id) => format!("provider {id}"),
            LimitName::Newsletter(id) => format!("newsletter {id}"),
            LimitName::WarmUp(number, id) => format!("warm-up {} {id}", relay(number)),
        }
    }

    /// Takes up to `wanted` copies from every limit on their way: as many as the tightest allows.
    pub fn take(&mut self, way: Way, wanted: u32, now: Timestamp) -> Allowance {
        let mut granted = wanted;
        for name in names_on(way) {
            if let Some(limit) = self.rate_mut(name) {
                limit.notice_clock(now);
            }
            match self.available_from(name, now) {
                None => {}
                Some(0) => return self.wait_for(name, now),
                Some(available) => granted = granted.min(available),
            }
        }
        for name in names_on(way) {
            if let Some(limit) = self.rate_mut(name) {
                limit.take(granted, now);
                self.version += 1;
            }
        }
        if self.warm_ups.take(way.relay, way.provider, granted, now) {
            self.version += 1;
        }
        Allowance::Granted(granted)
    }

    /// What keeps the next copy on `way` waiting, if anything does, and until when.
    pub fn obstacle(&self, way: Way, now: Timestamp) -> Option<(LimitName, Timestamp)> {
        let name =
            names_on(way).into_iter().find(|name| self.available_from(*name, now) == Some(0))?;
        match self.wait_for(name, now) {
            Allowance::Wait { until, limit } => Some((limit, until)),
            Allowance::Granted(_) => None,
        }
    }

    /// Whether a warm-up ramp allows nothing more today.
    pub fn is_warm_up_used_up(&self, relay: usize, provider: i64, now: Timestamp) -> bool {
        self.warm_ups.available(relay, provider, now) == Some(0)
    }

    /// Gives back what was taken for copies that did not go.
    pub fn refund(&mut self, way: Way, copies: u32) {
        if copies == 0 {
            return;
        }
        for name in names_on(way) {
            if let Some(limit) = self.rate_mut(name) {
                limit.refund(copies);
                self.version += 1;
            }
        }
        if self.warm_ups.refund(way.relay, way.provider, copies) {
            self.version += 1;
        }
    }

    /// How many copies each rate lets through at `now`.
    pub fn available(&self, now: Timestamp) -> impl Iterator<Item = (LimitName, u32)> {
        let count = move |name| Some((name, self.available_from(name, now)?));
        self.names().filter_map(count)
    }

    /// The uses to keep, if any changed since the last ones that were kept.
    pub fn to_keep(&self) -> Option<Uses> {
        if self.version == self.kept_version {
            return None;
        }
        let rate = |name| Some((self.key(name), self.rate(name)?.used_until()));
        let warm_up = |(relay, provider, progress): (usize, i64, Progress)| {
            Some((self.relay_names.get(relay)?.clone(), provider, progress))
        };
        Some(Uses {
            rates: self.names().filter_map(rate).collect(),
            warm_ups: self.warm_ups.progress().filter_map(warm_up).collect(),
            version: self.version,
        })
    }

    /// Says that uses of this version are durable.
    pub fn kept(&mut self, version: u64) {
        self.kept_version = self.kept_version.max(version);
    }

    fn names(&self) -> impl Iterator<Item = LimitName> {
        let total = self.total.iter().map(|_| LimitName::Total);
        total
            .chain(self.relays.keys().copied().map(LimitName::Relay))
            .chain(self.providers.keys().copied().map(LimitName::Provider))
            .chain(self.newsletters.keys().copied().map(LimitName::Newsletter))
    }

    fn rate(&self, name: LimitName) -> Option<&Gcra> {
        match name {
            LimitName::Total => self.total.as_ref(),
            LimitName::Relay(relay) => self.relays.get(&relay),
            LimitName::Provider(provider) => self.providers.get(&provider),
            LimitName::Newsletter(id) => self.newsletters.get(&id),
            LimitName::WarmUp(..) => None,
        }
    }

    fn rate_mut(&mut self, name: LimitName) -> Option<&mut Gcra> {
        match name {
            LimitName::Total => self.total.as_mut(),
            LimitName::Relay(relay) => self.relays.get_mut(&relay),
            LimitName::Provider(provider) => self.providers.get_mut(&provider),
            LimitName::Newsletter(id) => self.newsletters.get_mut(&id),
            LimitName::WarmUp(..) => None,
        }
    }

    fn available_from(&self, name: LimitName, now: Timestamp) -> Option<u32> {
        match name {
            LimitName::WarmUp(relay, provider) => self.warm_ups.available(relay, provider, now),
            name => self.rate(name).map(|limit| limit.available(now)),
        }
    }

    fn wait_for(&self, limit: LimitName, now: Timestamp) -> Allowance {
        let until =
            self.rate(limit).map_or_else(|| WarmUps::next_at(now), |rate| rate.next_at(now));
        Allowance::Wait { until, limit }
    }
}

/// The limits on a way, the smallest first. Service mail belongs to no newsletter here.
fn names_on(way: Way) -> impl IntoIterator<Item = LimitName> {
    [
        Some(LimitName::WarmUp(way.relay, way.provider)),
        way.newsletter.map(LimitName::Newsletter),
        Some(LimitName::Provider(way.provider)),
        Some(LimitName::Relay(way.relay)),
        Some(LimitName::Total),
    ]
    .into_iter()
    .flatten()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_microseconds(1_700_000_000_000_000).plus(Duration::from_millis(ms))
    }

    fn way(provider: i64) -> Way {
        Way { relay: 0, provider, newsletter: Some(NewsletterId(3)) }
    }

    #[test]
    fn the_tightest_limit_on_the_way_decides_and_is_named() {
        let mut limits = Limits::new(vec!["main".into()]);
        limits.add(LimitName::Total, Gcra::new(100.0, None));
        limits.add(LimitName::Provider(1), Gcra::new(5.0, None));
        assert_eq!(limits.take(way(1), 32, at(0)), Allowance::Granted(5));
        assert_eq!(limits.take(way(2), 32, at(0)), Allowance::Granted(32));
        let Allowance::Wait { limit, until } = limits.take(way(1), 32, at(0)) else {
            panic!("the provider's limit is used up")
        };
        assert_eq!((limit, until <= at(201)), (LimitName::Provider(1), true));
        assert_eq!(limits.obstacle(way(1), at(0)), Some((limit, until)));
        limits.refund(way(1), 2);
        assert_eq!(limits.obstacle(way(1), at(0)), None);
        assert_eq!(limits.take(way(1), 32, at(0)), Allowance::Granted(2));
    }

    #[test]
    fn uses_are_offered_until_they_are_kept() {
        let mut limits = Limits::new(vec!["main".into()]);
        limits.add(LimitName::Total, Gcra::new(100.0, None));
        limits.add_warm_up(0, None, &[40]);
        assert_eq!(limits.to_keep(), None);
        limits.take(way(1), 10, at(0));
        let uses = limits.to_keep().unwrap();
        assert_eq!(limits.to_keep().as_ref(), Some(&uses), "a failed transaction asks again");
        limits.take(way(1), 10, at(1));
        limits.kept(uses.version);
        let uses = limits.to_keep().unwrap();
        limits.kept(uses.version);
        assert_eq!(limits.to_keep(), None);

        let mut again = Limits::new(vec!["main".into()]);
        again.add(LimitName::Total, Gcra::new(100.0, None));
        again.add_warm_up(0, None, &[40]);
        again.restore(uses.rates, &uses.warm_ups, at(1));
        assert_eq!(again.available(at(1)).collect::<Vec<_>>(), [(LimitName::Total, 80)]);
        assert_eq!(again.take(way(1), 32, at(1)), Allowance::Granted(20));
        assert!(again.is_warm_up_used_up(0, 1, at(1)));
    }

    #[test]
    fn a_newsletters_rate_can_change_at_any_time_and_forgets_nothing() {
        let mut limits = Limits::new(vec!["main".into()]);
        let newsletter = NewsletterId(3);
        limits.restore(vec![("newsletter 3".into(), at(1000))], &[], at(0));
        limits.set_newsletter(newsletter, Some(10.0), at(0));
        assert_eq!(limits.obstacle(way(1), at(0)).unwrap().0, LimitName::Newsletter(newsletter));
        limits.set_newsletter(newsletter, Some(20.0), at(0));
        assert_eq!(limits.take(way(1), 32, at(1000)), Allowance::Granted(20));
        let service = Way { newsletter: None, ..way(1) };
        assert_eq!(limits.take(service, 1, at(1000)), Allowance::Granted(1));
        limits.set_newsletter(newsletter, None, at(1000));
        assert_eq!(limits.take(way(1), 32, at(1000)), Allowance::Granted(32));
    }

    #[test]
    fn a_clock_that_is_set_back_costs_a_burst_and_not_a_day() {
        const DAY_MS: u64 = 86_400_000;
        let mut limits = Limits::new(vec!["main".into()]);
        limits.add(LimitName::Total, Gcra::new(10.0, Some(5)));
        assert_eq!(limits.take(way(0), 5, at(DAY_MS)), Allowance::Granted(5));
        // Back by a day: as after a full use, and then as ever.
        assert!(matches!(limits.take(way(0), 5, at(0)), Allowance::Wait { .. }));
        assert_eq!(limits.take(way(0), 5, at(200)), Allowance::Granted(2));
        assert_eq!(limits.take(way(0), 5, at(5000)), Allowance::Granted(5));
    }
}
