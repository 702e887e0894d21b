//! The wall clock is set in the middle of a send, by a day and back.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::PathBuf,
};

use postrider::db::state::{CopyState, IssueState};

use crate::{
    checker::{Kills, check},
    harness::{Daemon, NO_GATES, QUICK, Scene, Sink, skipped, until},
};

/// The library that shows a program another time, where it is installed.
fn faketime() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    let file = |folder: PathBuf| folder.join("faketime/libfaketimeMT.so.1");
    let found = folders.map(file).find(|path| path.exists());
    if found.is_none() {
        skipped("libfaketime is not installed (apt-get install libfaketime)");
    }
    found
}

/// A clock that a daemon is shown.
struct Clock {
    library: PathBuf,
    file: PathBuf,
}

impl Clock {
    /// A clock that goes right; none where that library is not installed.
    fn of(scene: &Scene) -> Option<Self> {
        let clock = Self { library: faketime()?, file: scene.house.path("clock") };
        clock.set("+0");
        Some(clock)
    }

    fn set(&self, offset: &str) {
        // In one step, so that it is never read half-written.
        let new = self.file.with_extension("new");
        fs::write(&new, offset).unwrap();
        fs::rename(&new, &self.file).unwrap();
    }

    async fn daemon(&self, scene: &Scene) -> Daemon {
        let environment = [
            ("LD_PRELOAD", self.library.to_str().unwrap()),
            ("FAKETIME_TIMESTAMP_FILE", self.file.to_str().unwrap()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        let mut daemon = Daemon::start_under(scene, &[], &environment);
        daemon.ready().await;
        daemon
    }
}

#[tokio::test]
async fn a_clock_that_jumps_doubles_nobody_and_stops_nothing() {
    const READERS: usize = 900;
    let sink = Sink::with(
        "[[rule]]\nstage = 'rcpt'\nshare = 0.2\ntimes = 1\nreply = '450 4.2.0 Later'\n",
        &["--latency", "5ms"],
    )
    .await;
    let options = format!("{QUICK}{NO_GATES}[limits]\nper_second = 120.0\nburst = 20\n");
    let scene = Scene::new(&[&sink], &options).await;
    scene.import(READERS);
    scene.send().ok();
    let Some(clock) = Clock::of(&scene) else { return };
    let daemon = clock.daemon(&scene).await;
    for (share, offset) in [(3, "+1d"), (2, "+0"), (1, "-1d")] {
        sink.accepts(READERS / 4 * (4 - share) / 2).await;
        clock.set(offset);
    }
    scene.reaches(IssueState::Sent).await;
    daemon.terminate();
    let outcome = check(&scene, &[&sink], READERS, Kills { clock: 3, ..Kills::default() }).await;
    assert_eq!(outcome.count(CopyState::Accepted), READERS, "{outcome:?}");
}

/// A stage soaks for as long as the configuration says, though the clock is set by a day and back
/// meanwhile.
#[tokio::test]
async fn a_soak_has_its_length_whatever_the_clock_shows() {
    const READERS: usize = 240;
    const SOAK_US: u64 = 4_000_000;
    let sink = Sink::spawn().await;
    let options = format!(
        "[sending]\nundo_window = \"0s\"\nsoak = \"{}s\"\nstages_percent = [25.0, 60.0]\n{NO_GATES}",
        SOAK_US / 1_000_000
    );
    let scene = Scene::new(&[&sink], &options).await;
    scene.import(READERS);
    let Some(clock) = Clock::of(&scene) else { return };
    let daemon = clock.daemon(&scene).await;
    scene.send().ok();
    let context = scene.context().await;
    let sizes: Vec<(i64, i64)> = until("the stages are known", async || {
        let sql = "SELECT stage, size FROM issue_stage WHERE size > 0 ORDER BY stage";
        let sizes: Vec<(i64, i64)> = context.db.query(sql).all().await.unwrap();
        (!sizes.is_empty()).then_some(sizes)
    })
    .await;
    assert_eq!(sizes.len(), 3, "{sizes:?}");
    let mut released = 0;
    for ((_, size), offset) in sizes.iter().zip(["+1d", "-1d"]) {
        released += *size as usize;
        sink.accepts(released).await;
        clock.set(offset);
    }
    scene.reaches(IssueState::Sent).await;
    daemon.terminate();
    let outcome = check(&scene, &[&sink], READERS, Kills { clock: 2, ..Kills::default() }).await;
    assert_eq!(outcome.count(CopyState::Accepted), READERS, "{outcome:?}");
    // By the sink's own clock, which nobody set.
    let sql =
        "SELECT p.address, d.stage FROM delivery d JOIN subscriber p ON p.id = d.subscriber_id";
    let stages: Vec<(String, i64)> = context.db.query(sql).all().await.unwrap();
    context.db.close().await;
    let stages: HashMap<String, i64> = stages.into_iter().collect();
    let mut came: BTreeMap<i64, Vec<u64>> = BTreeMap::new();
    for record in sink.journal() {
        came.entry(stages[&record.rcpt_to[0]]).or_default().push(record.monotonic_us);
    }
    let came: Vec<Vec<u64>> = came.into_values().collect();
    for pair in came.windows(2) {
        // It begins when so many are decided.
        let decided = pair[0][(pair[0].len() * 95).div_ceil(100) - 1];
        let soaked = pair[1][0] - decided;
        println!("{} copies soaked for {soaked} us", pair[0].len());
        assert!(soaked >= SOAK_US, "the next stage came after {soaked} us");
    }
}
