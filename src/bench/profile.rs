//! Where a copy's microseconds go: CPU time by kind of thread, as the kernel counts it, and the time
//! of the steps that the engine measures itself.

use std::{collections::BTreeMap, fmt, fs};

use anyhow::Context as _;
use serde::Serialize;

use crate::telemetry::{Step, Work};

/// CPU time of this process so far, by kind of thread.
#[derive(Debug, Clone, Default)]
pub(super) struct Cpu {
    /// Nanoseconds on a processor, by the thread's name.
    by_thread: BTreeMap<String, u64>,
    /// Hundredths of a second in the kernel, all threads together.
    kernel_ticks: u64,
}

/// A copy's microseconds.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Profile {
    /// CPU time of the database's threads.
    pub database_us: f64,
    /// CPU time of the threads that merge, encode, sign and speak SMTP.
    pub runtime_us: f64,
    /// What the kernel had of both, mostly for TCP.
    pub kernel_us: f64,
    /// The steps in the order of a copy's way. Those of the ledger are the writer's time, in which it
    /// also waits for the database's thread; a commit waits for the disk, and a write, which is the
    /// kernel's time for the most part, for a peer that is slower than we are.
    pub steps_us: Vec<(&'static str, f64)>,
}

impl Cpu {
    /// What the kernel counted until now.
    pub(super) fn now() -> anyhow::Result<Self> {
        let mut by_thread = BTreeMap::new();
        for task in fs::read_dir("/proc/self/task").context("no list of this process's threads")? {
            let task = task?.path();
            // A thread may end between the list and the look at it.
            let Ok(times) = fs::read_to_string(task.join("schedstat")) else { continue };
            let Ok(name) = fs::read_to_string(task.join("comm")) else { continue };
            let ran: u64 = times.split(' ').next().and_then(|ran| ran.parse().ok()).unwrap_or(0);
            *by_thread.entry(name.trim().to_owned()).or_default() += ran;
        }
        Ok(Self { by_thread, kernel_ticks: super::peers::kernel_ticks()? })
    }

    fn of(&self, is: impl Fn(&str) -> bool) -> u64 {
        self.by_thread.iter().filter(|(name, _)| is(name)).map(|(_, ran)| ran).sum()
    }
}

impl Profile {
    /// What `copies` took each, from one look at the counters to another.
    pub(super) fn between(before: &Cpu, after: &Cpu, work: &Work, copies: u64) -> Self {
        let copies = copies.max(1) as f64;
        let database = |name: &str| name.starts_with("sqlx-sqlite");
        let each = |is: &dyn Fn(&str) -> bool| {
            after.of(is).saturating_sub(before.of(is)) as f64 / 1e3 / copies
        };
        let kernel = after.kernel_ticks.saturating_sub(before.kernel_ticks);
        let step = |step: Step| (step.word(), work.taken(step).as_secs_f64() * 1e6 / copies);
        Self {
            database_us: each(&database),
            runtime_us: each(&|name| !database(name)),
            kernel_us: kernel as f64 * 1e4 / copies,
            steps_us: Step::ALL.map(step).to_vec(),
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "CPU {:.1} µs a copy: database {:.1}, SMTP and the rest {:.1}; {:.1} of it in the kernel. \
             Steps:",
            self.database_us + self.runtime_us,
            self.database_us,
            self.runtime_us,
            self.kernel_us
        )?;
        for (index, (step, us)) in self.steps_us.iter().enumerate() {
            write!(f, "{} {step} {us:.1}", if index == 0 { "" } else { "," })?;
        }
        write!(f, " µs")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_of_this_thread_is_seen() {
        let before = Cpu::now().unwrap();
        let mut after = before.clone();
        let mut spins = 0_u64;
        while after.of(|_| true) < before.of(|_| true) + 20_000_000 {
            spins = std::hint::black_box(spins + 1);
            after = Cpu::now().unwrap();
        }
        let work = Work::default();
        let profile = Profile::between(&before, &after, &work, 1000);
        assert!(profile.database_us + profile.runtime_us >= 20.0, "{profile}");
        assert!(profile.to_string().contains("claim 0.0, handoff 0.0"), "{profile}");
    }
}
