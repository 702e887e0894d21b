//! Load shedding: what the daemon gives up, and in which order, when it is short of disk space, of
//! memory, or of a database that keeps up.
//!
//! First no send begins and no stage is released by itself; then no more copies of issues are
//! claimed, and those in memory are the last to leave; service mail goes on all the time, for
//! somebody waits for each; at last the sign-up form is closed, which is what makes new service mail.
//! It all comes back by itself. What an operator does by hand is never refused.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    config,
    db::{self, Db},
    timestamp::Timestamp,
};

/// How often resources are measured.
const MEASURE_EVERY: Duration = Duration::from_secs(2);
/// So many slow writes in a row make a slow database: one alone may be a checkpoint.
const SLOW_WRITES: usize = 3;
/// A level ends when the pressure has fallen this far below where it began.
const EASE: f64 = 0.8;
/// A write is given up on after so many times the time that counts as slow.
const GIVE_UP: u32 = 4;

/// What is given up; each level includes those before it.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Nothing.
    #[default]
    Nothing,
    /// Sends do not begin, stages are not released.
    Stages,
    /// Copies of issues are not claimed.
    Issues,
    /// Sign-ups are refused.
    SignUps,
}

impl Level {
    /// Every level, from none to the last.
    pub const ALL: [Self; 4] = [Self::Nothing, Self::Stages, Self::Issues, Self::SignUps];

    /// From which pressure on: 1 is where a resource becomes short.
    const fn pressure(self) -> f64 {
        match self {
            Self::Nothing => 0.0,
            Self::Stages => 1.0,
            Self::Issues => 2.0,
            Self::SignUps => 4.0,
        }
    }

    /// What is given up, in words.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Nothing => "nothing is held back",
            Self::Stages => "no send begins and no stage is released",
            Self::Issues => "no copies of issues are sent; service mail is",
            Self::SignUps => {
                "no copies of issues are sent and sign-ups are refused; service mail is sent"
            }
        }
    }
}

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measures {
    /// Free space where the data is, in bytes.
    pub disk_free: Option<u64>,
    /// How long a small durable write takes.
    pub write: Duration,
    /// Memory in use, and how much there may be, in bytes.
    pub memory: Option<(u64, u64)>,
}

/// What follows from the measures.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// What is given up.
    pub level: Level,
    /// What is short; empty when nothing is.
    pub short_of: Vec<String>,
}

impl Verdict {
    /// The verdict in one sentence.
    pub fn in_words(&self) -> String {
        if self.level == Level::Nothing {
            return self.level.describe().to_owned();
        }
        format!("the daemon is short of {}: {}", self.short_of.join(", "), self.level.describe())
    }
}

/// Judges `measures`; `before` is the level that holds so far.
pub fn judge(measures: &Measures, limits: &config::Shedding, before: Level) -> Verdict {
    let disk = measures.disk_free.map(|free| {
        let pressure = limits.disk_free_min as f64 / free.max(1) as f64;
        (pressure, format!("disk space ({} MB free)", free / 1_000_000))
    });
    let slow = limits.database_slow.as_secs_f64().max(0.001);
    let write = measures.write.as_secs_f64();
    let database = (write / slow, format!("database speed (a write takes {write:.1} s)"));
    let memory = measures.memory.map(|(used, max)| {
        let free = 1.0 - used as f64 / max.max(1) as f64;
        // 80 % in use is where it becomes short, 90 % is twice as bad, 95 % four times.
        (0.2 / free.max(0.01), format!("memory ({} of {} MB used)", used >> 20, max >> 20))
    });
    let mut verdict = Verdict::default();
    for (pressure, words) in [disk, Some(database), memory].into_iter().flatten() {
        let level = level(pressure, before);
        if level > Level::Nothing {
            verdict.short_of.push(words);
        }
        verdict.level = verdict.level.max(level);
    }
    verdict
}

fn level(pressure: f64, before: Level) -> Level {
    let holds = |level: &&Level| {
        let ease = if **level <= before { EASE } else { 1.0 };
        pressure >= level.pressure() * ease
    };
    Level::ALL.iter().rev().find(holds).copied().unwrap_or_default()
}

/// The verdict that holds now, shared with all who act on it.
#[derive(Debug, Default)]
pub struct Shedding(RwLock<Verdict>);

impl Shedding {
    /// What is given up now.
    pub fn level(&self) -> Level {
        self.0.read().unwrap_or_else(PoisonError::into_inner).level
    }

    /// What is given up now, and for want of what.
    pub fn verdict(&self) -> Verdict {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the verdict, and says so in the process log when another level holds.
    pub fn set(&self, verdict: Verdict) {
        let (level, short_of) = (verdict.level, verdict.short_of.join(", "));
        let before = {
            let mut held = self.0.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *held, verdict).level
        };
        match level {
            level if level == before => {}
            Level::Nothing => info!("nothing is short any more; everything goes on"),
            level => warn!(?level, short_of, "load is shed"),
        }
    }

    /// Measures what can be measured at once: before anything is sent, not soon afterwards.
    pub async fn look_around(&self, limits: &config::Shedding, folder: &Path) {
        self.judge_now(limits, folder, Duration::ZERO).await;
    }

    /// Measures and judges until `stop`.
    pub async fn watch(
        &self,
        db: Db,
        limits: &config::Shedding,
        folder: &Path,
        stop: CancellationToken,
    ) {
        let mut writes: VecDeque<Duration> = VecDeque::new();
        loop {
            writes.push_back(write(&db, limits.database_slow * GIVE_UP).await);
            let quickest = if writes.len() < SLOW_WRITES {
                Duration::ZERO
            } else {
                writes.iter().min().copied().unwrap_or_default()
            };
            if writes.len() == SLOW_WRITES {
                writes.pop_front();
            }
            self.judge_now(limits, folder, quickest).await;
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(MEASURE_EVERY) => {}
            }
        }
    }

    async fn judge_now(&self, limits: &config::Shedding, folder: &Path, write: Duration) {
        let measures = Measures {
            disk_free: disk_free(folder.to_owned()).await,
            write,
            memory: memory(limits.memory_max).await,
        };
        self.set(judge(&measures, limits, self.level()));
    }
}

/// How long a write takes; one that fails takes forever, as far as anybody can tell.
async fn write(db: &Db, give_up: Duration) -> Duration {
    let begin = Instant::now();
    match tokio::time::timeout(give_up, probe(db)).await {
        Ok(Ok(())) => begin.elapsed(),
        Ok(Err(_)) | Err(_) => give_up,
    }
}

async fn probe(db: &Db) -> db::Result<()> {
    db.write(
        "INSERT INTO meta (name, value) VALUES ('measured_at', $1) \
         ON CONFLICT (name) DO UPDATE SET value = excluded.value",
    )
    .bind(Timestamp::now().to_string())
    .execute()
    .await?;
    Ok(())
}

async fn disk_free(folder: PathBuf) -> Option<u64> {
    let asked = tokio::task::spawn_blocking(move || rustix::fs::statvfs(&folder)).await;
    let told = asked.ok()?.ok()?;
    Some(told.f_bavail.saturating_mul(told.f_frsize))
}

/// Memory in use by this process, and how much it may use: what is configured, or the limit of its
/// control group; none without either.
async fn memory(configured: u64) -> Option<(u64, u64)> {
    let max = match configured {
        0 => {
            let limit = tokio::fs::read_to_string("/sys/fs/cgroup/memory.max").await.ok()?;
            limit.trim().parse().ok()?
        }
        bytes => bytes,
    };
    let status = tokio::fs::read_to_string("/proc/self/status").await.ok()?;
    Some((resident(&status)?, max))
}

fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLENTY: Measures =
        Measures { disk_free: Some(u64::MAX), write: Duration::ZERO, memory: None };

    fn limits() -> config::Shedding {
        config::Shedding {
            disk_free_min: 1_000,
            database_slow: Duration::from_secs(2),
            memory_max: 0,
        }
    }

    #[test]
    fn each_resource_climbs_the_levels_in_the_same_order() {
        let disk = |free| Measures { disk_free: Some(free), ..PLENTY };
        let write = |ms| Measures { write: Duration::from_millis(ms), ..PLENTY };
        let memory = |used| Measures { memory: Some((used, 1_000)), ..PLENTY };
        for (measures, expected) in [
            (PLENTY, Level::Nothing),
            (disk(1_001), Level::Nothing),
            (disk(1_000), Level::Stages),
            (disk(500), Level::Issues),
            (disk(250), Level::SignUps),
            (disk(0), Level::SignUps),
            (write(1_999), Level::Nothing),
            (write(2_000), Level::Stages),
            (write(4_000), Level::Issues),
            (write(8_000), Level::SignUps),
            (memory(790), Level::Nothing),
            (memory(810), Level::Stages),
            (memory(910), Level::Issues),
            (memory(960), Level::SignUps),
        ] {
            let verdict = judge(&measures, &limits(), Level::Nothing);
            assert_eq!(verdict.level, expected, "{measures:?}");
            assert_eq!(verdict.short_of.is_empty(), expected == Level::Nothing);
        }
    }

    #[test]
    fn a_level_holds_until_things_are_clearly_better() {
        let disk = |free| Measures { disk_free: Some(free), ..PLENTY };
        let after = |free, before| judge(&disk(free), &limits(), before).level;
        assert_eq!(after(1_100, Level::Nothing), Level::Nothing);
        assert_eq!(after(1_100, Level::Stages), Level::Stages);
        assert_eq!(after(1_300, Level::Stages), Level::Nothing);
        assert_eq!(after(600, Level::Issues), Level::Issues);
        assert_eq!(after(600, Level::Stages), Level::Stages);
        assert_eq!(after(700, Level::SignUps), Level::Stages);
    }

    #[test]
    fn the_worst_resource_decides_and_all_short_ones_are_named() {
        let measures = Measures {
            disk_free: Some(900),
            write: Duration::from_secs(9),
            memory: Some((10, 1_000)),
        };
        let verdict = judge(&measures, &limits(), Level::Nothing);
        assert_eq!((verdict.level, verdict.short_of.len()), (Level::SignUps, 2));
        assert!(verdict.in_words().contains("a write takes 9.0 s"), "{}", verdict.in_words());
    }

    #[test]
    fn memory_is_read_as_linux_writes_it() {
        assert_eq!(resident("Name:\tx\nVmRSS:\t    5120 kB\nThreads:\t3\n"), Some(5_242_880));
        assert_eq!(resident("Name:\tx\n"), None);
    }
}
