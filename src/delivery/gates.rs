//! Gates: when a send stops itself, and when it warns. Pure: counts and limits in, findings out.
//!
//! A share counts only on a minimum sample and when the lower end of its confidence interval is over
//! the limit: two refusals among the first three copies prove nothing, twenty among a hundred do.
//! Each provider is judged first (one that stays behind the others by the stage it is at), then the
//! issue as a whole. What SMTP says steers inside a stage;
//! what comes later (reports, complaints, readers who leave) steers between stages, over everything
//! that was released so far.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::tally::{Cell, Tally};
use crate::{config::Gates, db::state::CopyState};

/// What a gate found: why a send was stopped, or what to be warned of, with the figures.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
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
    /// What a person said about it, or what the figures cannot say.
    #[serde(default)]
    pub said: Option<String>,
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
    /// Replies that a rule says to halt at.
    ReplyRule,
    /// Copies whose fate is not known.
    Uncertain,
    /// Copies that readers called spam.
    Complaints,
    /// Readers who left because of the issue.
    Unsubscribes,
    /// No gate: an operator stopped it.
    ByHand,
    /// No gate: an operator let one stage go after a halt, and it is through.
    Widened,
    /// No gate: the time it was asked for had long passed when a daemon could begin.
    MissedSchedule,
}

impl Gate {
    /// What the gate watches, for people.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Recipients => "copies refused because the mailbox does not exist",
            Self::Policy => "copies refused for reputation, policy or content",
            Self::Authentication => "copies refused because the mail did not authenticate",
            Self::RelayLogin => "the relay refuses our login",
            Self::ReplyRule => "replies after which nothing more should be sent",
            Self::Uncertain => "copies whose fate is not known",
            Self::Complaints => "copies that readers called spam",
            Self::Unsubscribes => "readers who left because of the issue",
            Self::ByHand => "an operator halted it",
            Self::Widened => "the stage that was released after a halt is through",
            Self::MissedSchedule => "its time had passed when it could have begun",
        }
    }

    /// Whether there are figures behind it.
    pub fn counts(self) -> bool {
        !matches!(self, Self::ByHand | Self::Widened | Self::MissedSchedule)
    }
}

/// What is judged.
#[derive(Debug, Clone, Copy)]
pub struct Look<'a> {
    /// The counts.
    pub tally: &'a Tally,
    /// The last released stage.
    pub stage: i64,
    /// The last stage there is.
    pub last_stage: i64,
    /// Providers that stay behind, with the last stage that is released to them.
    pub held: &'a BTreeMap<i64, i64>,
    /// The limits.
    pub gates: &'a Gates,
    /// The share of readers who leave after one of the newsletter's issues, in percent
    /// ([`super::history`]); none while there are too few issues to know.
    pub normal: Option<f64>,
    /// Whether late signals are looked at too: between stages, and now and then inside them.
    pub late: bool,
}

/// The first gate that trips. `acknowledged` are earlier findings that an operator resumed after:
/// they stop the send again only when their hits have doubled.
pub fn check(look: &Look<'_>, acknowledged: &[Finding]) -> Option<Finding> {
    look.findings(Judge::Halt).into_iter().find(|found| !found.is_known(acknowledged))
}

/// What to be warned of and was not in `said` yet, with as many hits.
pub fn warnings(look: &Look<'_>, said: &[Finding]) -> Vec<Finding> {
    let mut found = look.findings(Judge::Warn);
    found.retain(|finding| !finding.is_known(said));
    found
}

/// Which of two limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judge {
    Halt,
    Warn,
}

impl Finding {
    /// A finding about what no count shows.
    pub fn without_figures(gate: Gate, stage: i64, said: impl Into<String>) -> Self {
        let (provider, replies, said) = (None, Vec::new(), Some(said.into()));
        Self { gate, provider, stage, hits: 0, sample: 0, limit: 0.0, replies, said }
    }

    /// Whether `earlier` findings say all that this one does.
    pub(super) fn is_known(&self, earlier: &[Self]) -> bool {
        earlier.iter().any(|earlier| {
            earlier.gate == self.gate
                && earlier.provider == self.provider
                && self.hits < earlier.hits * 2
        })
    }

    /// The figures in one line, for logs and events.
    pub fn in_words(&self) -> String {
        let what = self.gate.describe();
        match (&self.said, self.gate.counts()) {
            (Some(said), false) => format!("{what}: {said}"),
            (None, false) => what.to_owned(),
            (_, true) => format!("{what}: {} of {}", self.hits, self.sample),
        }
    }
}

impl Look<'_> {
    fn findings(&self, judge: Judge) -> Vec<Finding> {
        let mut providers = self.tally.providers_of_stage(self.stage);
        providers.retain(|provider, _| !self.held.contains_key(provider));
        let within = each(providers, self.tally.stage(self.stage));
        let mut found: Vec<Finding> = within
            .into_iter()
            .flat_map(|(provider, cell)| self.of_smtp(judge, provider, &cell))
            .collect();
        for (provider, stage) in self.held {
            let behind = Look { stage: *stage, ..*self };
            let cell = self.tally.cell(*stage, *provider);
            found.extend(behind.of_smtp(judge, Some(*provider), &cell));
        }
        if self.late {
            let so_far = self.tally.providers_up_to_stage(self.stage);
            found.extend(
                each(so_far, self.tally.up_to_stage(self.stage))
                    .into_iter()
                    .flat_map(|(provider, cell)| self.of_late_signals(judge, provider, &cell)),
            );
        }
        found
    }

    /// What outcomes of attempts say about the copies of one stage.
    fn of_smtp(&self, judge: Judge, provider: Option<i64>, cell: &Cell) -> Vec<Finding> {
        let gates = self.gates;
        let recipients = (Gate::Recipients, cell.refused_recipient);
        if judge == Judge::Warn {
            let shares = [(recipients, gates.recipient_warn_percent)];
            return self.shares(provider, cell, &shares);
        }
        let finding = |gate, hits, limit| self.finding(gate, provider, hits, cell, limit);
        let mut found = Vec::new();
        if cell.refused_authentication > 0 {
            found.push(finding(Gate::Authentication, cell.refused_authentication, 0.0));
        }
        let canary = self.stage < self.last_stage;
        if canary && cell.refused_policy >= i64::from(gates.policy_hits) {
            found.push(finding(Gate::Policy, cell.refused_policy, f64::from(gates.policy_hits)));
        }
        let shares = [
            ((Gate::Policy, cell.refused_policy), gates.policy_percent),
            (recipients, gates.recipient_percent),
            ((Gate::Uncertain, cell.get(CopyState::Uncertain)), gates.uncertain_percent),
        ];
        found.extend(self.shares(provider, cell, &shares));
        found
    }

    /// What came back later about the copies of all stages so far.
    fn of_late_signals(&self, judge: Judge, provider: Option<i64>, cell: &Cell) -> Vec<Finding> {
        let gates = self.gates;
        let recipients = (Gate::Recipients, cell.refused_recipient);
        let complaints = (Gate::Complaints, cell.complaints);
        if judge == Judge::Warn {
            let shares = [
                (recipients, gates.recipient_warn_percent),
                (complaints, gates.complaint_warn_percent),
            ];
            return self.shares(provider, cell, &shares);
        }
        let mut shares = vec![
            ((Gate::Policy, cell.refused_policy), gates.policy_percent),
            (recipients, gates.recipient_percent),
            (complaints, gates.complaint_percent),
        ];
        if let Some(normal) = self.normal {
            let leaving = (Gate::Unsubscribes, cell.unsubscribed);
            shares.push((leaving, gates.unsubscribe_factor * normal));
        }
        self.shares(provider, cell, &shares)
    }

    /// Those of `shares` that are over their limits in percent.
    fn shares(
        &self,
        provider: Option<i64>,
        cell: &Cell,
        shares: &[((Gate, i64), f64)],
    ) -> Vec<Finding> {
        let sample = cell.decided();
        if sample < i64::from(self.gates.sample_min) {
            return Vec::new();
        }
        let over = shares.iter().filter(|((_, hits), percent)| is_over(*hits, sample, *percent));
        over.map(|((gate, hits), percent)| self.finding(*gate, provider, *hits, cell, *percent))
            .collect()
    }

    fn finding(
        &self,
        gate: Gate,
        provider: Option<i64>,
        hits: i64,
        cell: &Cell,
        limit: f64,
    ) -> Finding {
        let (stage, sample) = (self.stage, cell.decided());
        Finding { gate, provider, stage, hits, sample, limit, replies: Vec::new(), said: None }
    }
}

/// Every provider in the order of their numbers, then the whole.
fn each(providers: impl IntoIterator<Item = (i64, Cell)>, whole: Cell) -> Vec<(Option<i64>, Cell)> {
    let mut all: Vec<_> = providers.into_iter().map(|(id, cell)| (Some(id), cell)).collect();
    all.sort_unstable_by_key(|(provider, _)| *provider);
    all.push((None, whole));
    all
}

/// How sure a gate is before it trips: the chance that it errs, at most.
const ERROR: f64 = 0.05;
/// The 95th percentile of the normal distribution.
const Z: f64 = 1.644_853_627;
/// From so many expected hits on, the normal approximation is as good as the exact interval.
const MANY: f64 = 300.0;

/// Whether `hits` out of `sample` prove a share above `percent`: the lower end of the one-sided 95 %
/// confidence interval (Clopper and Pearson's exact one, for large numbers Wilson's) is over it.
pub fn is_over(hits: i64, sample: i64, percent: f64) -> bool {
    if hits <= 0 || sample <= 0 || percent >= 100.0 {
        return false;
    }
    let (share, n) = (percent / 100.0, sample as f64);
    let hits = hits.min(sample);
    if share <= 0.0 || share * n > MANY {
        return wilson_lower_bound(hits as f64 / n, n) > share;
    }
    // The chance of fewer hits when the share were just the limit, term by term.
    let mut term = (n * (-share).ln_1p()).exp();
    let mut fewer = 0.0;
    for k in 0..hits {
        fewer += term;
        term *= (sample - k) as f64 / (k + 1) as f64 * share / (1.0 - share);
        if term < f64::EPSILON * fewer && k as f64 > share * n {
            break;
        }
    }
    1.0 - fewer < ERROR
}

fn wilson_lower_bound(share: f64, n: f64) -> f64 {
    let square = Z * Z / n;
    let center = share + square / 2.0;
    let spread = Z * ((share * (1.0 - share) + square / 4.0) / n).sqrt();
    ((center - spread) / (1.0 + square)).max(0.0)
}

#[cfg(test)]
mod tests;
