//! Gates: when a send stops itself. Pure: counts and limits in, a reason to halt out.
//!
//! A share halts only on a minimum sample and when the lower end of its confidence interval is over
//! the limit: two refusals among the first three copies prove nothing, twenty among a hundred do.

use serde::{Deserialize, Serialize};

use super::tally::{Cell, Tally};
use crate::{config::Gates, db::state::CopyState};

/// Why a send was stopped, with the figures that stopped it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Halt {
    /// The gate.
    pub gate: Gate,
    /// The provider whose copies tripped it; none when the issue as a whole did.
    pub provider: Option<i64>,
    /// The stage it happened in.
    pub stage: i64,
    /// How many copies spoke against going on.
    pub hits: i64,
    /// Out of how many decided ones.
    pub sample: i64,
    /// The limit, in percent; for a gate that counts, the number of hits.
    pub limit: f64,
    /// The commonest replies, most frequent first.
    #[serde(default)]
    pub replies: Vec<String>,
}

/// What a gate watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gate {
    /// Copies refused for the recipient's fault.
    Recipients,
    /// Copies refused for reputation, policy or content.
    Policy,
    /// Copies refused because the mail did not authenticate.
    Authentication,
    /// A relay refuses our login, and no other relay is left.
    RelayLogin,
    /// Copies whose fate is not known.
    Uncertain,
    /// Copies that readers called spam.
    Complaints,
}

impl Gate {
    /// What the gate watches, for people.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Recipients => "copies refused because the mailbox does not exist",
            Self::Policy => "copies refused for reputation, policy or content",
            Self::Authentication => "copies refused because the mail did not authenticate",
            Self::RelayLogin => "the relay refuses our login",
            Self::Uncertain => "copies whose fate is not known",
            Self::Complaints => "copies that readers called spam",
        }
    }
}

/// Looks at the stage `stage` of `tally`, provider by provider and then as a whole.
///
/// `acknowledged` are earlier halts that an operator resumed: they stop the send again only when
/// their hits have doubled.
pub fn check(
    tally: &Tally,
    stage: i64,
    last_stage: i64,
    gates: &Gates,
    acknowledged: &[Halt],
) -> Option<Halt> {
    let mut providers: Vec<_> = tally.providers_of_stage(stage).into_iter().collect();
    providers.sort_unstable_by_key(|(provider, _)| *provider);
    let whole = (None, tally.stage(stage));
    let by_provider = providers.into_iter().map(|(provider, cell)| (Some(provider), cell));
    by_provider
        .chain([whole])
        .flat_map(|(provider, cell)| tripped(cell, stage, stage < last_stage, provider, gates))
        .find(|halt| !acknowledged.iter().any(|earlier| earlier.covers(halt)))
}

impl Halt {
    /// Whether this halt, which an operator saw, says all that `later` does.
    fn covers(&self, later: &Self) -> bool {
        self.gate == later.gate && self.provider == later.provider && later.hits < self.hits * 2
    }
}

/// Every gate that the copies of one provider trip.
fn tripped(
    cell: Cell,
    stage: i64,
    canary: bool,
    provider: Option<i64>,
    gates: &Gates,
) -> impl Iterator<Item = Halt> {
    let sample = cell.decided();
    let authentication =
        (Gate::Authentication, cell.refused_authentication, 0.0, cell.refused_authentication > 0);
    let hits_max = i64::from(gates.policy_hits);
    let policy_hits = (
        Gate::Policy,
        cell.refused_policy,
        f64::from(gates.policy_hits),
        canary && cell.refused_policy >= hits_max,
    );
    let enough = sample >= i64::from(gates.sample_min);
    let shares = [
        (Gate::Policy, cell.refused_policy, gates.policy_percent),
        (Gate::Recipients, cell.refused_recipient, gates.recipient_percent),
        (Gate::Uncertain, cell.get(CopyState::Uncertain), gates.uncertain_percent),
        (Gate::Complaints, cell.complaints, gates.complaint_percent),
    ]
    .map(|(gate, hits, percent)| {
        (gate, hits, percent, enough && lower_bound_percent(hits, sample) > percent)
    });
    [authentication, policy_hits].into_iter().chain(shares).filter(|gate| gate.3).map(
        move |(gate, hits, limit, _)| Halt {
            gate,
            provider,
            stage,
            hits,
            sample,
            limit,
            replies: Vec::new(),
        },
    )
}

/// The 95th percentile of the normal distribution.
const Z: f64 = 1.644_853_627;

/// The lower end of the one-sided 95 % Wilson interval of `hits` out of `sample`, in percent.
pub fn lower_bound_percent(hits: i64, sample: i64) -> f64 {
    if sample <= 0 || hits <= 0 {
        return 0.0;
    }
    let n = sample as f64;
    let share = (hits as f64 / n).min(1.0);
    let square = Z * Z / n;
    let center = share + square / 2.0;
    let spread = Z * ((share * (1.0 - share) + square / 4.0) / n).sqrt();
    100.0 * ((center - spread) / (1.0 + square)).max(0.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::delivery::tally::Fault;

    fn tally(decided: i64, refuse: impl Fn(&mut Tally)) -> Tally {
        let mut tally = Tally::default();
        for _ in 0..decided {
            tally.move_copy(1, 1, CopyState::HandedOff, CopyState::Accepted);
        }
        refuse(&mut tally);
        tally
    }

    fn gate(tally: &Tally, stage: i64, last: i64) -> Option<Gate> {
        check(tally, stage, last, &Gates::default(), &[]).map(|halt| halt.gate)
    }

    #[test]
    fn shares_need_a_sample_and_a_bound_above_the_limit() {
        for (decided, recipients, expected) in [
            (10, 9, None),
            (20, 1, None),
            (20, 2, None),
            (20, 4, Some(Gate::Recipients)),
            (1000, 55, None),
            (1000, 65, Some(Gate::Recipients)),
        ] {
            let tally = tally(decided, |t| t.refuse(1, 1, Fault::Recipient, recipients));
            assert_eq!(gate(&tally, 1, 3), expected, "{recipients} of {decided}");
        }
    }

    #[test]
    fn a_canary_halts_at_the_third_policy_refusal_whatever_the_share() {
        let three = tally(1000, |t| t.refuse(1, 1, Fault::Policy, 3));
        assert_eq!(gate(&three, 1, 3), Some(Gate::Policy));
        assert_eq!(gate(&three, 1, 1), None);
        let two = tally(1000, |t| t.refuse(1, 1, Fault::Policy, 2));
        assert_eq!(gate(&two, 1, 3), None);
    }

    #[test]
    fn one_authentication_failure_is_enough_and_a_provider_is_named_first() {
        let tally = tally(1, |t| t.refuse(1, 1, Fault::Authentication, 1));
        let halt = check(&tally, 1, 3, &Gates::default(), &[]).unwrap();
        assert_eq!((halt.gate, halt.provider), (Gate::Authentication, Some(1)));
    }

    #[test]
    fn a_halt_that_was_resumed_comes_again_when_its_hits_have_doubled() {
        let gates = Gates::default();
        let three = tally(100, |t| t.refuse(1, 1, Fault::Policy, 3));
        let halt = check(&three, 1, 3, &gates, &[]).unwrap();
        let mut seen = vec![halt];
        while let Some(halt) = check(&three, 1, 3, &gates, &seen) {
            seen.push(halt);
        }
        let five = tally(100, |t| t.refuse(1, 1, Fault::Policy, 5));
        assert_eq!(check(&five, 1, 3, &gates, &seen), None);
        let six = tally(100, |t| t.refuse(1, 1, Fault::Policy, 6));
        assert_eq!(check(&six, 1, 3, &gates, &seen).map(|halt| halt.hits), Some(6));
    }

    proptest! {
        #[test]
        fn the_bound_is_below_the_share_and_grows_with_it(sample in 1i64..100_000, a in 0i64..1000, b in 0i64..1000) {
            let (low, high) = (a.min(b).min(sample), a.max(b).min(sample));
            let bound = lower_bound_percent(high, sample);
            prop_assert!(bound <= 100.0 * high as f64 / sample as f64 + 1e-9);
            prop_assert!(lower_bound_percent(low, sample) <= bound + 1e-9);
        }
    }
}
