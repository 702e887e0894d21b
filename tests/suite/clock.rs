//! The wall clock is set in the middle of a send, by a day and back.

use std::{fs, path::PathBuf};

use postrider::db::state::{CopyState, IssueState};

use crate::{
    checker::{Kills, check},
    harness::{Daemon, NO_GATES, QUICK, Scene, Sink},
};

/// The library that shows a program another time, where it is installed.
fn faketime() -> Option<PathBuf> {
    let folders = fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path());
    let file = |folder: PathBuf| folder.join("faketime/libfaketimeMT.so.1");
    let found = folders.map(file).find(|path| path.exists());
    if found.is_none() {
        println!("SKIPPED: libfaketime is not installed (apt-get install libfaketime)");
    }
    found
}

#[tokio::test]
async fn a_clock_that_jumps_doubles_nobody_and_stops_nothing() {
    const READERS: usize = 900;
    let Some(library) = faketime() else { return };
    let sink = Sink::with(
        "[[rule]]\nstage = 'rcpt'\nshare = 0.2\ntimes = 1\nreply = '450 4.2.0 Later'\n",
        &["--latency", "5ms"],
    )
    .await;
    let options = format!("{QUICK}{NO_GATES}[limits]\nper_second = 120.0\nburst = 20\n");
    let scene = Scene::new(&[&sink], &options).await;
    scene.import(READERS);
    scene.send().ok();
    let file = scene.house.path("clock");
    let set = |offset: &str| {
        // In one step, so that it is never read half-written.
        fs::write(scene.house.path("clock.new"), offset).unwrap();
        fs::rename(scene.house.path("clock.new"), &file).unwrap();
    };
    set("+0");
    let environment = [
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("FAKETIME_TIMESTAMP_FILE", file.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let mut daemon = Daemon::start_under(&scene, &[], &environment);
    daemon.ready().await;
    for (share, offset) in [(3, "+1d"), (2, "+0"), (1, "-1d")] {
        sink.accepts(READERS / 4 * (4 - share) / 2).await;
        set(offset);
    }
    scene.reaches(IssueState::Sent).await;
    daemon.terminate();
    let outcome = check(&scene, &[&sink], READERS, Kills { clock: 3, ..Kills::default() }).await;
    assert_eq!(outcome.count(CopyState::Accepted), READERS, "{outcome:?}");
}
