//! When a send is likely to end, and what decides that: the engine's own limits ([`Limits`]), played in
//! advance over the stages and providers of a plan. Pure; the relays' speed is not known and counts as
//! endless.
//!
//! Steps are as long as one part in [`STEPS`] of the send, so that a forecast over millions of copies
//! takes milliseconds. The limits it plays with hold at least one step's worth ([`Terms::step`]), or
//! they would lose what gathers between two steps.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    config::Config,
    delivery::limits::{Allowance, Gcra, LimitName, Limits, Progress, Way},
    id::NewsletterId,
    provider::Providers,
    timestamp::Timestamp,
};

/// Into how many steps a send is divided.
const STEPS: u32 = 2_000;
/// The shortest step.
const STEP_MIN: Duration = Duration::from_millis(10);
/// The most steps that are played: a guard, well above what any send takes.
const PLAYED_MAX: u32 = 100 * STEPS;
/// The share of a stage that is decided before it soaks, in percent.
const DECIDED_PERCENT: i64 = 95;

/// What a forecast is about.
#[derive(Debug)]
pub(super) struct Terms<'a> {
    /// The limits in force.
    pub(super) config: &'a Config,
    /// Who is limited by name.
    pub(super) providers: &'a Providers,
    /// Whose readers they are, and their rate.
    pub(super) newsletter: (NewsletterId, Option<f64>),
    /// How many copies each stage has for each provider.
    pub(super) stages: Vec<BTreeMap<i64, i64>>,
    /// When the first copy leaves.
    pub(super) starts_at: Timestamp,
}

/// What is to be expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Forecast {
    /// When the last copy leaves, or the time to live is over.
    pub(super) ends_at: Timestamp,
    /// What the copies wait for longest; none when nothing but the soaks takes time.
    pub(super) limited_by: Option<LimitName>,
    /// Copies that the limits do not let go within the time to live.
    pub(super) unsent: i64,
}

impl Terms<'_> {
    /// How long one step is: a part of what the slowest rate would take by itself.
    fn step(&self) -> Duration {
        let copies = |of: &dyn Fn(i64) -> bool| -> f64 {
            let all = self.stages.iter().flatten().filter(|(provider, _)| of(**provider));
            all.map(|(_, copies)| *copies).sum::<i64>() as f64
        };
        let all = copies(&|_| true);
        let limits = &self.config.limits;
        let relays: Option<f64> = self.config.relay.iter().map(|relay| relay.per_second).sum();
        let whole = [limits.per_second, self.newsletter.1, relays.filter(|rate| *rate > 0.0)];
        let whole = whole.into_iter().flatten().map(|rate| all / rate);
        let single = limits.provider.iter().filter_map(|limit| {
            let id = self.providers.by_name(&limit.name)?.0;
            Some(copies(&|provider| provider == id) / limit.per_second?)
        });
        let longest = whole.chain(single).fold(0.0, f64::max) / f64::from(STEPS);
        Duration::try_from_secs_f64(longest).unwrap_or(Duration::MAX).max(STEP_MIN)
    }

    /// The configured limits, holding at least a `step`'s worth each; `warm_ups` come as they stand.
    fn limits(&self, step: Duration) -> Limits {
        let gcra = |per_second: f64, burst: Option<u32>| {
            let burst = burst.unwrap_or_else(|| per_second.ceil().max(1.0) as u32);
            Gcra::new(per_second, Some(burst.max((per_second * step.as_secs_f64()).ceil() as u32)))
        };
        let relays = &self.config.relay;
        let mut limits = Limits::new(relays.iter().map(|relay| relay.name.clone()).collect());
        let named = &self.config.limits;
        let mut add = |name, per_second: Option<f64>, burst| {
            if let Some(per_second) = per_second {
                limits.add(name, gcra(per_second, burst));
            }
        };
        add(LimitName::Total, named.per_second, named.burst);
        add(LimitName::Newsletter(self.newsletter.0), self.newsletter.1, None);
        for (index, relay) in relays.iter().enumerate() {
            add(LimitName::Relay(index), relay.per_second, relay.burst);
        }
        for limit in &named.provider {
            if let Some(id) = self.providers.by_name(&limit.name) {
                add(LimitName::Provider(id.0), limit.per_second, limit.burst);
            }
        }
        for ramp in &named.warm_up {
            let id =
                ramp.provider.as_deref().map(|name| self.providers.by_name(name).map(|id| id.0));
            let relay = relays.iter().position(|relay| relay.name == ramp.relay);
            if let (Some(relay), Some(id)) = (relay, id.map_or(Some(None), |id| id.map(Some))) {
                limits.add_warm_up(relay, id, &ramp.copies_per_day);
            }
        }
        limits
    }

    /// Plays the send. `warm_ups` is how far the ramps have come.
    pub(super) fn forecast(&self, warm_ups: &[(String, i64, Progress)]) -> Forecast {
        let step = self.step();
        let mut limits = self.limits(step);
        limits.restore(Vec::new(), warm_ups, self.starts_at);
        let mut play = Play {
            terms: self,
            limits,
            step,
            now: self.starts_at,
            waited: BTreeMap::new(),
            lanes: BTreeMap::new(),
        };
        play.run()
    }
}

/// A send in play.
struct Play<'a> {
    terms: &'a Terms<'a>,
    limits: Limits,
    step: Duration,
    now: Timestamp,
    /// How long copies waited for each limit.
    waited: BTreeMap<LimitName, Duration>,
    /// Copies that are released and have not gone, by provider.
    lanes: BTreeMap<i64, i64>,
}

impl Play<'_> {
    fn run(&mut self) -> Forecast {
        let sending = &self.terms.config.sending;
        let expires_at = self.terms.starts_at.plus(sending.time_to_live);
        let mut stages = self.terms.stages.iter().enumerate();
        let mut ends_at = self.now;
        let mut soaked_at = Some(self.now);
        let mut size = 0;
        let mut last = 0;
        for _ in 0..PLAYED_MAX {
            if soaked_at.is_some_and(|at| at <= self.now)
                && let Some((index, stage)) = stages.next()
            {
                for (provider, copies) in stage {
                    *self.lanes.entry(*provider).or_default() += copies;
                }
                size = stage.values().sum();
                soaked_at = None;
                last = index + 1;
            }
            if self.now >= expires_at {
                break;
            }
            let until = self.send(&mut ends_at);
            let blocked = self.blocked();
            let left: i64 = self.lanes.values().sum();
            let more = last < self.terms.stages.len();
            if left == 0 && !more {
                break;
            }
            if more && soaked_at.is_none() && self.is_decided(size) {
                let soak = if size == 0 { Duration::ZERO } else { sending.soak };
                soaked_at = Some(self.now.plus(soak));
            }
            let next = [until, soaked_at].into_iter().flatten().min();
            let at = next.unwrap_or(self.now).max(self.now.plus(self.step)).min(expires_at);
            for limit in blocked {
                *self.waited.entry(limit).or_default() += at.since(self.now);
            }
            self.now = at;
        }
        let later: i64 = self.terms.stages[last..].iter().flat_map(BTreeMap::values).sum();
        let unsent = self.lanes.values().sum::<i64>() + later;
        let longest = self.waited.iter().max_by_key(|(_, waited)| **waited);
        Forecast {
            ends_at: if unsent > 0 { expires_at } else { ends_at },
            limited_by: longest.map(|(name, _)| *name),
            unsent,
        }
    }

    /// Whether so much of a stage of this `size` has gone that the rest need not be waited for; a
    /// provider whose warm-up is used up stays behind.
    fn is_decided(&self, size: i64) -> bool {
        let waits = |provider: &i64| self.relays(*provider).is_some();
        let left: i64 =
            self.lanes.iter().filter(|(id, _)| waits(id)).map(|(_, copies)| *copies).sum();
        left * 100 <= size * (100 - DECIDED_PERCENT)
    }

    /// The relays that take mail for a provider now: those of the first priority whose warm-up is not
    /// used up.
    fn relays(&self, provider: i64) -> Option<Vec<usize>> {
        let relays = &self.terms.config.relay;
        if relays.is_empty() {
            return Some(vec![0]);
        }
        let open = |index: &usize| !self.limits.is_warm_up_used_up(*index, provider, self.now);
        let open: Vec<usize> = (0..relays.len()).filter(open).collect();
        let first = open.iter().map(|index| relays[*index].priority).min()?;
        Some(open.into_iter().filter(|index| relays[*index].priority == first).collect())
    }

    /// Sends what may go now; until when the rest waits.
    fn send(&mut self, ends_at: &mut Timestamp) -> Option<Timestamp> {
        let mut next: Option<Timestamp> = None;
        let newsletter = Some(self.terms.newsletter.0);
        let providers: Vec<i64> =
            self.lanes.iter().filter(|(_, left)| **left > 0).map(|(id, _)| *id).collect();
        for provider in providers {
            // Without a relay that takes it, the limit of the first one is what it waits for.
            let relays = self.relays(provider).unwrap_or_else(|| vec![0]);
            for relay in relays {
                let left = self.lanes.get_mut(&provider).expect("every lane is there");
                let wanted = u32::try_from(*left).unwrap_or(u32::MAX);
                if wanted == 0 {
                    break;
                }
                let way = Way { relay, provider, newsletter };
                match self.limits.take(way, wanted, self.now) {
                    Allowance::Granted(granted) => {
                        *left -= i64::from(granted);
                        *ends_at = self.now;
                        if granted < wanted {
                            next = Some(self.now);
                        }
                    }
                    Allowance::Wait { until, .. } => {
                        next = Some(next.map_or(until, |next| next.min(until)));
                    }
                }
            }
        }
        next
    }

    /// The limits that copies wait for now.
    fn blocked(&self) -> BTreeSet<LimitName> {
        let newsletter = Some(self.terms.newsletter.0);
        let waiting = self.lanes.iter().filter(|(_, left)| **left > 0);
        let limit = |(provider, _): (&i64, &i64)| {
            let relay = self.relays(*provider).and_then(|relays| relays.first().copied());
            let way = Way { relay: relay.unwrap_or(0), provider: *provider, newsletter };
            self.limits.obstacle(way, self.now).map(|(name, _)| name)
        };
        waiting.filter_map(limit).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    const DAY: i64 = 86_400_000_000;
    const RELAYS: &str = "[[relay]]\nname = \"main\"\nhost = \"mx.example.com\"\nper_second = 40.0\n\
         [[relay]]\nname = \"spare\"\nhost = \"mx.example.com\"\npriority = 1\n";

    /// Noon of some day, and microseconds after it.
    fn noon() -> Timestamp {
        Timestamp::from_microseconds(20_000 * DAY + DAY / 2)
    }

    /// How many minutes a send takes, what limits it, and how many copies stay.
    fn of(
        options: &str,
        newsletter: Option<f64>,
        stages: &[&[(&str, i64)]],
        warm_ups: &[(String, i64, Progress)],
    ) -> (f64, Option<LimitName>, i64) {
        let text = format!("{options}\n[sending]\nsoak = \"10m\"\ntime_to_live = \"36h\"\n");
        let config = Config::parse(&text, "config.toml").unwrap();
        let providers = Providers::embedded();
        let stage = |stage: &&[(&str, i64)]| {
            let id = |name: &str| providers.by_name(name).unwrap().0;
            stage.iter().map(|(name, copies)| (id(name), *copies)).collect()
        };
        let terms = Terms {
            config: &config,
            providers,
            newsletter: (NewsletterId(1), newsletter),
            stages: stages.iter().map(stage).collect(),
            starts_at: noon(),
        };
        let found = terms.forecast(warm_ups);
        let minutes = found.ends_at.since(noon()).as_secs_f64() / 60.0;
        (minutes, found.limited_by, found.unsent)
    }

    fn id(name: &str) -> i64 {
        Providers::embedded().by_name(name).unwrap().0
    }

    #[track_caller]
    fn close(found: (f64, Option<LimitName>, i64), minutes: f64, by: Option<LimitName>) {
        let near = (found.0 - minutes).abs() <= 0.02 * minutes + 0.1;
        assert!(near && found.1 == by && found.2 == 0, "{found:?}, not {minutes} by {by:?}");
    }

    #[test]
    fn soaks_alone_take_their_time_and_an_empty_stage_takes_none() {
        close(of("", None, &[&[], &[("google", 50)], &[("google", 900)]], &[]), 10.0, None);
        close(of("", None, &[&[("google", 2)], &[("google", 900)]], &[]), 10.0, None);
    }

    #[test]
    fn the_tightest_of_all_rates_decides() {
        let audience: &[&[(&str, i64)]] = &[&[("google", 6_000), ("yahoo", 6_000)]];
        let total = "[limits]\nper_second = 20.0\n";
        close(of(total, None, audience, &[]), 10.0, Some(LimitName::Total));
        close(
            of(total, Some(10.0), audience, &[]),
            20.0,
            Some(LimitName::Newsletter(NewsletterId(1))),
        );
        let google = "[limits]\nper_second = 20.0\n[[limits.provider]]\nname = \"google\"\n\
                      per_second = 2.0\n";
        close(of(google, None, audience, &[]), 50.0, Some(LimitName::Provider(id("google"))));
        close(of(RELAYS, None, audience, &[]), 5.0, Some(LimitName::Relay(0)));
        // Millions take no longer to foresee.
        close(of(total, None, &[&[("google", 2_000_000)]], &[]), 1666.7, Some(LimitName::Total));
    }

    #[test]
    fn a_warm_up_lasts_for_days_and_may_end_the_send_before_everybody_has_it() {
        let ramp = "[[relay]]\nname = \"main\"\nhost = \"mx.example.com\"\n[[limits.warm_up]]\n\
                    relay = \"main\"\nprovider = \"google\"\ncopies_per_day = [50, 100]\n";
        let by = Some(LimitName::WarmUp(0, id("google")));
        // The rest goes at the next midnight, twelve hours later.
        close(of(ramp, None, &[&[("google", 120), ("yahoo", 500)]], &[]), 720.0, by);
        // 50 now, 100 at midnight, the rest when the ramp is over: that is the hour it expires.
        let found = of(ramp, None, &[&[("google", 400)]], &[]);
        assert_eq!(found, (36.0 * 60.0, by, 250));
        let done = Progress { first_day: 19_000, day: 19_001, copies: 100 };
        close(
            of(ramp, None, &[&[("google", 400)]], &[("main".into(), id("google"), done)]),
            0.0,
            None,
        );
        // The other stages do not wait for a provider that can take no more today.
        let stages: &[&[(&str, i64)]] = &[&[("google", 100), ("yahoo", 50)], &[("yahoo", 500)]];
        close(of(ramp, None, stages, &[]), 720.0, by);
    }

    #[test]
    fn what_one_relay_may_not_take_today_goes_by_another() {
        let ramp =
            format!("{RELAYS}[[limits.warm_up]]\nrelay = \"main\"\ncopies_per_day = [100]\n");
        let found = of(&ramp, None, &[&[("google", 5_000)]], &[]);
        assert!(found.0 < 1.0 && found.2 == 0, "{found:?}");
    }
}
