//! What comes next in an issue's course, and when it is likely to be done.

use super::{ProviderStatus, StageStatus, outcome, waits_for_approval};
use crate::{
    config::Config,
    db::state::IssueState,
    delivery::{control::Edition, plan::Plan},
    report::{Equation, Pace, pace::eta},
    timestamp::Timestamp,
};

/// What decides what comes next.
pub(super) struct Course<'a> {
    pub(super) edition: &'a Edition,
    pub(super) stages: &'a [StageStatus],
    pub(super) providers: &'a [ProviderStatus],
    pub(super) equation: Equation,
    pub(super) last_due: Option<Timestamp>,
    /// Why it was held, if that was because of an older database.
    pub(super) held: Option<&'static str>,
    pub(super) config: &'a Config,
}

impl Course<'_> {
    fn unreleased(&self) -> usize {
        self.stages.iter().filter(|stage| !stage.released).count()
    }

    pub(super) fn eta(&self, pace: &Pace, now: Timestamp) -> Option<Timestamp> {
        if self.edition.state != IssueState::Sending {
            return None;
        }
        let rate = pace.last_60_s.map_or(0.0, |rate| rate.per_second);
        let to_go = self.equation.remaining() - self.equation.deferred;
        let soaks = self.config.sending.soak * u32::try_from(self.unreleased()).unwrap_or(u32::MAX);
        let at = eta(to_go, rate, soaks, self.last_due, now).or_else(|| {
            let plan: Option<Plan> =
                self.edition.plan.as_deref().and_then(|json| serde_json::from_str(json).ok());
            plan.map(|plan| plan.ends_at).filter(|ends_at| *ends_at > now)
        })?;
        Some(self.edition.expires_at.map_or(at, |expires_at| at.min(expires_at)))
    }

    /// What happens next, in words.
    pub(super) fn next(&self) -> String {
        let edition = self.edition;
        if let Some(why) = self.held {
            return format!("nothing until an operator resumes or cancels it: {why}");
        }
        match edition.state {
            IssueState::Draft => "nothing: nobody has asked for its send".to_owned(),
            IssueState::Scheduled if waits_for_approval(edition, self.config) => format!(
                "it waits for the approval of somebody other than {}: `postrider issue approve {}`",
                edition.asked_by.as_deref().unwrap_or("who asked for it"),
                edition.number
            ),
            IssueState::Scheduled => edition.sends_at.map_or_else(
                || "the send begins".to_owned(),
                |at| format!("the first copy leaves at {at:.0}; until then the send can be undone"),
            ),
            IssueState::Sending => self.next_of_send() + &self.who_stays(),
            IssueState::Paused => "nothing until somebody resumes or cancels it".to_owned(),
            IssueState::Halted => {
                "nothing until an operator looks at the figures, and resumes, widens or cancels it"
                    .to_owned()
            }
            IssueState::Cancelled if self.equation.remaining() > 0 => {
                "the copies that had left get their outcomes".to_owned()
            }
            IssueState::Cancelled => format!("nothing: it was cancelled with {}", self.outcome()),
            IssueState::Sent if self.equation.uncertain > 0 => format!(
                "{} uncertain copies can be settled; everything else is done",
                self.equation.uncertain
            ),
            IssueState::Sent => "nothing: every copy has its outcome".to_owned(),
        }
    }

    /// Providers that stay behind, in words.
    fn who_stays(&self) -> String {
        let stays = |provider: &ProviderStatus| {
            let stage = provider.stays_at?;
            let stage = self.stages.iter().find(|known| known.number == stage);
            let stage = stage.map_or("?", |stage| &stage.name);
            let title = &provider.title;
            Some(format!("; {title} stays at stage “{stage}” until that is decided there"))
        };
        self.providers.iter().filter_map(stays).collect()
    }

    fn next_of_send(&self) -> String {
        let edition = self.edition;
        let current = self.stages.iter().rfind(|stage| stage.released);
        let following = self.stages.iter().find(|stage| !stage.released);
        match (current, following) {
            (Some(current), Some(following))
                if edition.hold_after.is_some_and(|stage| stage <= current.number) =>
            {
                format!(
                    "the send halts once stage “{}” is through: an operator released it alone, \
                     and stage “{}” needs one too",
                    current.name, following.name
                )
            }
            (Some(current), Some(following)) => {
                let soak = self.config.sending.soak;
                let soak = jiff::SignedDuration::try_from(soak).unwrap_or_default();
                let share = 100 * (current.equation.total() - current.equation.remaining())
                    / current.equation.total().max(1);
                format!(
                    "stage “{}” is released once 95 % of stage “{}” are decided (now {share} %) \
                     and have soaked for {soak:#}, if no gate objects",
                    following.name, current.name
                )
            }
            _ => {
                let moving = self.equation.remaining() - self.equation.deferred;
                match (moving, self.last_due) {
                    (0, Some(due)) => format!(
                        "{} put-off copies are tried again, the last of them from {due:.0}",
                        self.equation.deferred
                    ),
                    _ => format!(
                        "the issue is done when the remaining {} copies have their outcomes",
                        self.equation.remaining()
                    ),
                }
            }
        }
    }

    fn outcome(&self) -> String {
        outcome(&self.equation)
    }
}
