//! Deliberate faults: which rule strikes at which stage of which transaction.
//!
//! A [`Profile`] is data: a TOML file or a value built by a test, with rules that each say where
//! they strike ([`FaultStage`]), whom (recipient or sender pattern, a share, the n-th connection or
//! message, the first so many times) and what happens (a reply, a spoilt reply, a delay, a closed
//! or reset connection, …). [`Faults`] is a profile compiled, with the counts that rules keep.
//! The first rule that matches strikes. What a rule does on the wire is
//! [`Misbehaviour`]'s business.

pub mod magic;
pub mod profile;
mod text;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::smtp::server::{Answer, Misbehaviour, Reply, Shape};

use self::{
    profile::{Ordinals, Profile, ProfileError, Return, Rule},
    text::Pattern,
};

pub use self::profile::FaultStage;

/// Keys whose counts a profile keeps; a rule with `times` does not strike for keys beyond.
const COUNTED_KEYS_MAX: usize = 1_000_000;

/// What a rule that strikes does.
#[derive(Debug, Clone)]
pub(super) struct Strike {
    /// On the wire.
    pub(super) misbehaviour: Arc<Misbehaviour>,
    /// In the data: after how many bytes.
    pub(super) after_bytes: u64,
    /// Between messages: after how long.
    pub(super) after_idle: Duration,
    /// What is sent back later, if the message was taken.
    pub(super) returned: Option<Return>,
}

/// What is known of a transaction when a stage comes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Situation<'a> {
    pub(super) stage: FaultStage,
    pub(super) connection: u64,
    /// The transaction's number in this run of the sink; 0 before `MAIL`.
    pub(super) message: u64,
    pub(super) sender: Option<&'a str>,
    pub(super) recipients: &'a [&'a str],
}

/// A profile at work.
#[derive(Debug, Default)]
pub(super) struct Faults {
    rules: Vec<CompiledRule>,
    seed: u64,
    /// Whether recipients' names count too, after the rules.
    magic: bool,
    counts: Mutex<HashMap<(usize, u64), u32>>,
    struck: AtomicU64,
}

#[derive(Debug)]
struct CompiledRule {
    stage: FaultStage,
    recipient: Option<Pattern>,
    sender: Option<Pattern>,
    share: Option<f64>,
    connection: Option<Ordinals>,
    message: Option<Ordinals>,
    times: Option<u32>,
    strike: Strike,
}

impl Faults {
    /// Checks and compiles a profile; `magic` says whether recipients' names count beside it.
    pub(super) fn compile(profile: &Profile, magic: bool) -> Result<Self, ProfileError> {
        let compile = |(index, rule): (usize, &Rule)| {
            CompiledRule::compile(rule).map_err(|what| ProfileError::rule(index, rule, what))
        };
        let rules = profile.rules.iter().enumerate().map(compile).collect::<Result<_, _>>()?;
        Ok(Self { rules, seed: profile.seed, magic, ..Self::default() })
    }

    /// Whether nothing can ever strike.
    pub(super) fn is_idle(&self) -> bool {
        self.rules.is_empty() && !self.magic
    }

    /// How many times a rule struck.
    pub(super) fn struck(&self) -> u64 {
        self.struck.load(Ordering::Relaxed)
    }

    /// What the first rule that matches does, or else what a recipient's name asks for.
    pub(super) fn strike(&self, situation: &Situation<'_>) -> Option<Strike> {
        let strikes = |(index, rule): &(usize, &CompiledRule)| {
            rule.matches(*index, situation, self.seed)
                .is_some_and(|key| rule.times.is_none_or(|times| self.count(*index, key, times)))
        };
        let strike =
            self.rules.iter().enumerate().find(strikes).map(|(_, rule)| rule.strike.clone());
        let strike = strike.or_else(|| self.strike_by_name(situation))?;
        self.struck.fetch_add(1, Ordering::Relaxed);
        Some(strike)
    }

    fn strike_by_name(&self, situation: &Situation<'_>) -> Option<Strike> {
        let recipients = situation.recipients.iter().filter(|_| self.magic);
        recipients.filter_map(|address| Some((address, magic::read(address)?))).find_map(
            |(address, magic)| {
                let strikes = magic.stage == situation.stage
                    && magic.times.is_none_or(|times| self.count(usize::MAX, hash(address), times));
                strikes.then_some(magic.strike)
            },
        )
    }

    /// Counts one more match; whether it is still among the first `times`.
    fn count(&self, rule: usize, key: u64, times: u32) -> bool {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= COUNTED_KEYS_MAX && !counts.contains_key(&(rule, key)) {
            return false;
        }
        let count = counts.entry((rule, key)).or_default();
        *count = count.saturating_add(1);
        *count <= times
    }
}

impl CompiledRule {
    fn compile(rule: &Rule) -> Result<Self, String> {
        let knows_recipients = matches!(
            rule.stage,
            FaultStage::Rcpt | FaultStage::Data | FaultStage::Body | FaultStage::Dot
        );
        let knows_sender = knows_recipients || rule.stage == FaultStage::Mail;
        if rule.recipient.is_some() && !knows_recipients {
            return Err("`recipient` is not known yet at this stage".into());
        }
        if (rule.sender.is_some() || rule.message.is_some()) && !knows_sender {
            return Err("`sender` and `message` are not known at this stage".into());
        }
        if rule.share.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
            return Err("`share` is a fraction from 0 to 1".into());
        }
        if rule.returned.is_some() && rule.stage != FaultStage::Dot {
            return Err("`return` needs `stage = \"dot\"`".into());
        }
        Ok(Self {
            stage: rule.stage,
            recipient: rule.recipient.as_deref().map(Pattern::new),
            sender: rule.sender.as_deref().map(Pattern::new),
            share: rule.share,
            connection: rule.connection,
            message: rule.message,
            times: rule.times,
            strike: Strike {
                misbehaviour: Arc::new(misbehaviour(rule)?),
                after_bytes: rule.after_bytes,
                after_idle: rule.after_idle,
                returned: rule.returned.clone(),
            },
        })
    }

    /// Whether the rule applies, and if so the key under which it counts: the recipient where
    /// there is one, else everything together.
    fn matches(&self, index: usize, situation: &Situation<'_>, seed: u64) -> Option<u64> {
        let place = |ordinals: &Option<Ordinals>, number| {
            ordinals.as_ref().is_none_or(|ordinals| ordinals.contains(number))
        };
        if self.stage != situation.stage
            || !place(&self.connection, situation.connection)
            || !place(&self.message, situation.message)
        {
            return None;
        }
        if let Some(pattern) = &self.sender
            && !situation.sender.is_some_and(|sender| pattern.matches(sender))
        {
            return None;
        }
        let in_share = |key: u64| {
            let draw = mix(seed ^ mix(index as u64) ^ key);
            self.share.is_none_or(|share| (draw as f64) < share * (u64::MAX as f64))
        };
        if situation.recipients.is_empty() {
            let number = situation.message.max(situation.connection);
            return in_share(mix(number)).then_some(0);
        }
        let wanted = |address: &&&str| {
            self.recipient.as_ref().is_none_or(|pattern| pattern.matches(address))
                && in_share(hash(address))
        };
        situation.recipients.iter().find(wanted).map(|address| hash(address))
    }
}

/// What a rule does on the wire.
fn misbehaviour(rule: &Rule) -> Result<Misbehaviour, String> {
    let answer = match (&rule.reply, &rule.raw) {
        (Some(_), Some(_)) => return Err("`reply` and `raw` exclude each other".into()),
        (Some(reply), None) => {
            Answer::Reply(reply.parse::<Reply>().map_err(|error| error.to_string())?)
        }
        (None, Some(raw)) => Answer::Raw(text::unescape(raw)?),
        (None, None) => Answer::Usual,
    };
    let shape = match (rule.shape, rule.lines, rule.line_bytes) {
        (shape, None, None) => shape.into(),
        (profile::RuleShape::Intact, Some(lines), None) => Shape::Lines(lines),
        (profile::RuleShape::Intact, None, Some(bytes)) => Shape::LongLine(bytes),
        _ => return Err("`shape`, `lines` and `line_bytes` exclude each other".into()),
    };
    Ok(Misbehaviour {
        delay: rule.delay,
        answer,
        shape,
        cut: rule.cut,
        trickle: (!rule.trickle.is_zero()).then_some(rule.trickle),
        extra: rule.extra.as_deref().map(text::unescape).transpose()?.unwrap_or_default(),
        then: rule.then,
        success: rule.accepted,
    })
}

/// FNV-1a of an address, in lower case as far as ASCII goes.
fn hash(address: &str) -> u64 {
    address.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte.to_ascii_lowercase())).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The finaliser of `SplitMix64`: spreads any numbers evenly.
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(rules: Vec<Rule>) -> Faults {
        Faults::compile(&Profile { rules, ..Profile::default() }, false).unwrap()
    }

    fn rcpt<'a>(recipients: &'a [&'a str]) -> Situation<'a> {
        Situation {
            stage: FaultStage::Rcpt,
            connection: 1,
            message: 1,
            sender: Some("b@bounce.example"),
            recipients,
        }
    }

    fn rule() -> Rule {
        Rule { reply: Some("450 4.2.0 later".into()), ..Rule::at(FaultStage::Rcpt) }
    }

    #[test]
    fn times_count_per_recipient() {
        let faults = faults(vec![Rule { times: Some(2), ..rule() }]);
        let strikes = |address: &str| faults.strike(&rcpt(&[address])).is_some();
        let seen: Vec<bool> =
            ["a@x", "a@x", "b@x", "A@x", "b@x", "b@x"].into_iter().map(strikes).collect();
        assert_eq!(seen, [true, true, true, false, true, false]);
        assert_eq!(faults.struck(), 4);
    }

    #[test]
    fn a_share_is_about_that_share_and_always_the_same_addresses() {
        let faults = faults(vec![Rule { share: Some(0.1), ..rule() }]);
        let struck = || -> Vec<u32> {
            let hit =
                |n: &u32| faults.strike(&rcpt(&[&format!("reader-{n}@example.org")])).is_some();
            (0..10_000).filter(hit).collect()
        };
        let first = struck();
        assert!((850..1150).contains(&first.len()), "{}", first.len());
        assert_eq!(first, struck());
    }

    #[test]
    fn the_first_rule_that_matches_strikes() {
        let faults = faults(vec![
            Rule { recipient: Some("*@slow.example".into()), ..rule() },
            Rule { reply: Some("550 5.1.1 no".into()), message: Some(Ordinals::nth(7)), ..rule() },
        ]);
        let reply = |situation: &Situation<'_>| {
            faults.strike(situation).map(|strike| strike.misbehaviour.answer.clone())
        };
        let parsed = |text: &str| Some(Answer::Reply(text.parse().unwrap()));
        assert_eq!(reply(&rcpt(&["a@SLOW.example"])), parsed("450 4.2.0 later"));
        assert_eq!(reply(&rcpt(&["a@example.org"])), None);
        assert_eq!(
            reply(&Situation { message: 7, ..rcpt(&["a@example.org"]) }),
            parsed("550 5.1.1 no")
        );
        let other_stage = Situation { stage: FaultStage::Mail, ..rcpt(&["a@slow.example"]) };
        assert_eq!(reply(&other_stage), None);
    }

    #[test]
    fn impossible_rules_are_refused_with_their_place() {
        for (bad, expected) in [
            (Rule { recipient: Some("*".into()), ..Rule::at(FaultStage::Mail) }, "recipient"),
            (Rule { message: Some(Ordinals::nth(1)), ..Rule::at(FaultStage::Connect) }, "message"),
            (Rule { share: Some(1.5), ..rule() }, "share"),
            (Rule { reply: Some("hello".into()), ..rule() }, "not an SMTP reply"),
            (Rule { raw: Some("250 x\\r\\n".into()), ..rule() }, "exclude"),
            (Rule { lines: Some(2), line_bytes: Some(2), ..rule() }, "exclude"),
            (Rule { returned: Some(Return::default()), ..rule() }, "dot"),
        ] {
            let profile = Profile { rules: vec![rule(), bad], ..Profile::default() };
            let error = Faults::compile(&profile, false).unwrap_err().to_string();
            assert!(error.contains(expected) && error.contains("rule 2"), "{error}");
        }
    }
}
