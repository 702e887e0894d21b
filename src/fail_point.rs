//! Labelled steps at which a test can make the daemon die, stop or panic.
//!
//! A step is named where it happens, by [`reach`]; which one strikes, when and how is said by the
//! environment variable `POSTRIDER_FAIL_POINT` (`STEP`, `STEP:COUNT` or `STEP:COUNT=ACTION`; the
//! action is `kill`, `stop` or `panic`). It is read in builds with debug assertions only: in a
//! release build, [`reach`] is nothing at all. What a step means for the copies around it is the
//! business of the room that names it.

/// Every step, in the order in which an issue comes by them.
pub const STEPS: &[&str] = &[
    "recovery.before_commit",
    "recovery.committed",
    "plan.chunk",
    "plan.begun",
    "claim.before_commit",
    "claim.committed",
    "handoff.before_commit",
    "handoff.committed",
    "dot.before",
    "dot.journalled",
    "reply.before",
    "reply.journalled",
    "outcome.before_commit",
    "outcome.committed",
    "stage.before_release",
    "stage.released",
    "issue.before_finish",
    "issue.finished",
];

/// Steps that only issues come by whose copies are brought to the servers of readers' domains.
pub const DIRECT_STEPS: &[&str] = &["mx.route", "mx.call", "mx.called"];

/// The environment variable that says which step strikes.
pub const VARIABLE: &str = "POSTRIDER_FAIL_POINT";

/// A step was reached. Strikes if the environment says so, and never in a release build.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn reach(_step: &'static str) {}

/// A step was reached. Strikes if the environment says so, and never in a release build.
///
/// # Panics
/// When that is what was asked for.
#[cfg(debug_assertions)]
pub fn reach(step: &'static str) {
    debug_assert!(
        STEPS.iter().chain(DIRECT_STEPS).any(|one| *one == step),
        "the step {step} is not in the list"
    );
    if let Some(plan) = armed::plan() {
        plan.reach(step);
    }
}

/// The same, if something is so: for steps that only count when there is something in them.
pub fn reach_if(condition: bool, step: &'static str) {
    if condition {
        reach(step);
    }
}

#[cfg(debug_assertions)]
mod armed {
    use std::{
        process::{Command, abort, id},
        sync::{
            OnceLock,
            atomic::{AtomicU64, Ordering},
        },
    };

    /// What happens at the step.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Action {
        /// The process is gone: no destructor runs and nothing is flushed, as after SIGKILL.
        Kill,
        /// The process is stopped until somebody continues it.
        Stop,
        /// The task that came by dies.
        Panic,
    }

    /// What the environment asked for.
    #[derive(Debug)]
    pub(super) struct Plan {
        step: String,
        /// At which time of reaching it, counted from one.
        count: u64,
        action: Action,
        reached: AtomicU64,
    }

    pub(super) fn plan() -> Option<&'static Plan> {
        static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
        PLAN.get_or_init(|| Plan::parse(&std::env::var(super::VARIABLE).ok()?)).as_ref()
    }

    impl Plan {
        /// `STEP`, `STEP:COUNT`, `STEP=ACTION` or `STEP:COUNT=ACTION`; nothing when it is neither.
        pub(super) fn parse(text: &str) -> Option<Self> {
            let (place, action) = text.split_once('=').unwrap_or((text, "kill"));
            let (step, count) = place.split_once(':').unwrap_or((place, "1"));
            let action = match action {
                "kill" => Action::Kill,
                "stop" => Action::Stop,
                "panic" => Action::Panic,
                _ => return None,
            };
            let (step, count) = (step.to_owned(), count.parse().ok()?);
            Some(Self { step, count, action, reached: AtomicU64::new(0) })
        }

        /// Counts, and strikes when it is time.
        pub(super) fn reach(&self, step: &str) {
            if self.strikes(step) {
                match self.action {
                    Action::Kill => abort(),
                    Action::Stop => stop(),
                    Action::Panic => panic!("the fail point {step} was reached"),
                }
            }
        }

        fn strikes(&self, step: &str) -> bool {
            step == self.step && self.reached.fetch_add(1, Ordering::SeqCst) + 1 == self.count
        }
    }

    /// Stops the whole process at once, from a program beside it: nothing in here may go on.
    fn stop() {
        let sent = Command::new("kill").args(["-s", "STOP", &id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "the process cannot stop itself");
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn a_plan_names_a_step_a_count_and_an_action() {
            let plan = Plan::parse("dot.journalled:3=panic").unwrap();
            assert_eq!((plan.step.as_str(), plan.count), ("dot.journalled", 3));
            assert_eq!(plan.action, Action::Panic);
            let plan = Plan::parse("plan.chunk").unwrap();
            assert_eq!((plan.count, plan.action), (1, Action::Kill));
            for nonsense in ["plan.chunk:x", "plan.chunk=explode"] {
                assert!(Plan::parse(nonsense).is_none(), "{nonsense}");
            }
        }

        #[test]
        fn it_strikes_once_and_at_its_own_step() {
            let plan = Plan::parse("plan.chunk:2").unwrap();
            let struck = ["plan.chunk", "dot.before", "plan.chunk", "plan.chunk"];
            let struck: Vec<bool> = struck.iter().map(|step| plan.strikes(step)).collect();
            assert_eq!(struck, [false, false, true, false]);
        }
    }
}
