//! The data file in trouble: the disk is full or fails, somebody else holds the file, it cannot be
//! written; and a daemon that has no descriptors left.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

use postrider::db::state::{CopyState, IssueState};

use crate::{
    checker::{Kills, check},
    disk::Disk,
    harness::{Daemon, NO_GATES, QUICK, Scene, Sink, skipped, until},
};

const READERS: usize = 600;

/// A send that takes some ten seconds.
fn options() -> String {
    format!("{QUICK}{NO_GATES}[limits]\nper_second = 60.0\nburst = 20\n")
}

/// How often the daemon could not write.
fn complaints(daemon: &Daemon) -> usize {
    daemon.log().matches("the ledger cannot be written").count()
}

#[tokio::test]
async fn a_full_disk_stops_the_send_and_loses_nobody() {
    let sink = Sink::with("", &["--latency", "10ms"]).await;
    // What is left of such a disk is little from the begin.
    let options = format!("{}[shedding]\ndisk_free_min = 0\n", options());
    let scene = Scene::new(&[&sink], &options).await;
    scene.import(READERS);
    scene.send().ok();
    let context = scene.context().await;
    let data = context.config.data_folder.clone();
    context.db.close().await;
    let Some(disk) = Disk::small(&data, 24) else { return };
    let mut daemon = Daemon::start(&scene).expect_errors();
    daemon.ready().await;
    for share in [READERS / 6, READERS / 2] {
        sink.accepts(share).await;
        let before = complaints(&daemon);
        let filler = disk.fill();
        let waits = async |before, count| {
            until("the daemon says that it cannot write", async || {
                (complaints(&daemon) >= before + count).then_some(())
            })
            .await;
        };
        // What was handed off before is still on its way, for a moment.
        waits(before, 3).await;
        nothing_more_leaves(&sink).await;
        let accepted = sink.accepted();
        let before = complaints(&daemon);
        waits(before, 5).await;
        assert_eq!(sink.accepted(), accepted, "copies left while no handoff could be written");
        fs::remove_file(filler).unwrap();
    }
    scene.reaches(IssueState::Sent).await;
    daemon.terminate();
    let outcome = check(&scene, &[&sink], READERS, Kills::default()).await;
    assert_eq!(outcome.count(CopyState::Accepted), READERS, "{outcome:?}");
}

/// The disk fails in the middle of a send: the kernel takes nothing more for it, whoever has files
/// open, and what was not written out yet may be lost. What is left goes on from another disk.
#[tokio::test]
async fn a_file_system_that_turns_read_only_stops_the_send_and_doubles_nobody() {
    a_disk_fails(Kills::of_daemon(1), async |disk| {
        disk.replace();
        None
    })
    .await;
}

/// As before, but the disk is only mounted again: the machine runs on, and the journal, which nobody wrote
/// through to the disk, ends earlier than it did. Nothing in it says so.
#[tokio::test]
async fn a_disk_that_is_mounted_again_has_lost_the_end_of_the_journal_and_doubles_nobody() {
    // All that was handed off is uncertain, not only what stood between dot and reply.
    let kills = Kills { tasks: READERS / 4, ..Kills::of_daemon(1) };
    a_disk_fails(kills, async |disk| {
        until("the disk is let go", async || disk.mount_anew().then_some(())).await;
        Some(disk)
    })
    .await;
}

async fn a_disk_fails(kills: Kills, mend: impl AsyncFnOnce(Disk) -> Option<Disk>) {
    let sink = Sink::with("", &["--latency", "200ms"]).await;
    let options = format!("{}[shedding]\ndisk_free_min = 0\n", options());
    let scene = Scene::new(&[&sink], &options).await;
    scene.import(READERS);
    scene.send().ok();
    let context = scene.context().await;
    let data = context.config.data_folder.clone();
    context.db.close().await;
    let Some(disk) = Disk::failing(&data) else { return };
    let mut daemon = Daemon::start(&scene).expect_errors();
    daemon.ready().await;
    sink.accepts(READERS / 4).await;
    if !disk.fail() {
        return skipped("no file system can be made to fail here");
    }
    until("the daemon says that it cannot write", async || {
        (complaints(&daemon) >= 3).then_some(())
    })
    .await;
    nothing_more_leaves(&sink).await;
    let answer = reqwest::get(format!("{}/readyz", daemon.admin())).await.unwrap();
    assert_eq!(answer.status(), 503, "it is ready for nothing");
    let log = daemon.log();
    assert!(!log.contains("panicked"), "{log}");
    // A stop ends, and what was between dot and commit is for the next one to find out.
    daemon.signal("TERM");
    until("the daemon ends", async || daemon.is_gone().then_some(())).await;
    daemon.kill();
    let _mended = mend(disk).await;
    let daemon = Daemon::spawn(&scene).await;
    scene.reaches(IssueState::Sent).await;
    daemon.terminate();
    let outcome = check(&scene, &[&sink], READERS, kills).await;
    println!("{outcome:?}");
    let known = outcome.count(CopyState::Accepted) + outcome.count(CopyState::Uncertain);
    assert_eq!(known, READERS, "{outcome:?}");
}

#[tokio::test]
async fn while_somebody_else_writes_nothing_leaves_and_nothing_is_lost() {
    let sink = Sink::with("", &["--latency", "10ms"]).await;
    let scene = Scene::new(&[&sink], &options()).await;
    scene.import(READERS);
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    let context = scene.context().await;
    for share in [READERS / 6, READERS / 2] {
        sink.accepts(share).await;
        let held = context.db.begin().await.unwrap();
        nothing_more_leaves(&sink).await;
        held.rollback().await.unwrap();
    }
    scene.reaches(IssueState::Sent).await;
    // Somebody who is busy is no error.
    daemon.terminate();
    let outcome = check(&scene, &[&sink], READERS, Kills::default()).await;
    assert_eq!(outcome.count(CopyState::Accepted), READERS, "{outcome:?}");
    context.db.close().await;
}

/// Waits until what was handed off before went out, and nothing more comes.
async fn nothing_more_leaves(sink: &Sink) {
    let (mut last, mut since) = (sink.accepted(), Instant::now());
    until("nothing more leaves", async || {
        let now = sink.accepted();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        (since.elapsed() > Duration::from_secs(2)).then_some(())
    })
    .await;
    assert!(last < READERS, "all was sent before");
}

/// A stop does not wait for somebody who does not let go of the data file; it is then as after a
/// crash.
#[tokio::test]
async fn a_stop_has_its_bound_while_somebody_else_writes() {
    let sink = Sink::with("", &["--latency", "10ms"]).await;
    let options = options().replace("[sending]\n", "[sending]\ndrain = \"3s\"\n");
    let scene = Scene::new(&[&sink], &options).await;
    scene.import(READERS);
    let mut daemon = Daemon::spawn(&scene).await.expect_errors();
    scene.send().ok();
    let context = scene.context().await;
    sink.accepts(READERS / 3).await;
    let held = context.db.begin().await.unwrap();
    nothing_more_leaves(&sink).await;
    let since = Instant::now();
    daemon.signal("TERM");
    until("the daemon ends", async || daemon.is_gone().then_some(())).await;
    let took = since.elapsed();
    // Without a bound it would be until that somebody lets go, which is never.
    assert!(took < Duration::from_mins(1), "it took {took:?} with a drain of 3 s");
    held.rollback().await.unwrap();
    daemon.kill();
    let daemon = Daemon::spawn(&scene).await;
    scene.reaches(IssueState::Sent).await;
    daemon.terminate();
    let outcome = check(&scene, &[&sink], READERS, Kills::of_daemon(1)).await;
    // What went out while nobody could write is in the journal.
    assert_eq!(outcome.count(CopyState::Accepted), READERS, "{outcome:?}");
    context.db.close().await;
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn a_data_file_that_cannot_be_written_is_refused_at_the_start() {
    let sink = Sink::spawn().await;
    let scene = Scene::new(&[&sink], &options()).await;
    let context = scene.context().await;
    let (data, file) = (context.config.data_folder.clone(), context.config.database_file());
    context.db.close().await;
    chmod(scene.house.path("").as_path(), 0o755);
    // Root may write everything: somebody else is asked to.
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let is_root = fs::metadata("/proc/self").is_ok_and(|own| {
        use std::os::unix::fs::MetadataExt as _;
        own.uid() == 0
    });
    let by: &[&str] = if is_root { &nobody } else { &[] };
    if is_root {
        let files = fs::read_dir(&data).unwrap().map(|entry| entry.unwrap().path());
        for path in files.chain([data.clone()]) {
            std::os::unix::fs::chown(path, Some(65534), Some(65534)).unwrap();
        }
    }
    chmod(&file, 0o444);
    let mut daemon = Daemon::start_under(&scene, by, &[]).expect_errors();
    until("the daemon ends", async || daemon.is_gone().then_some(())).await;
    let said = daemon.log();
    if said.contains("setpriv:") {
        skipped(&format!("nobody else can be asked to run the program here: {said}"));
        return daemon.kill();
    }
    assert!(said.contains("postrider.db") && said.contains("readonly"), "{said}");
    daemon.kill();
}

#[tokio::test]
async fn without_descriptors_it_sends_what_it_can_and_loses_nobody() {
    let sink = Sink::with("", &["--latency", "10ms"]).await;
    let scene = Scene::new(&[&sink], &options()).await;
    scene.import(READERS);
    let mut daemon = Daemon::spawn(&scene).await;
    // All that it has open without any connection.
    crate::stages::looked_at(&scene).await;
    let used = fs::read_dir(format!("/proc/{}/fd", daemon.id())).unwrap().count();
    daemon.terminate();
    scene.send().ok();
    // Room for the file and a few connections, but not for all eight of them.
    let limit = format!("--nofile={}", used + 5);
    let mut daemon = Daemon::start_under(&scene, &["prlimit", &limit], &[]).expect_errors();
    daemon.ready().await;
    scene.reaches(IssueState::Sent).await;
    let log = daemon.log();
    assert!(!log.contains("panicked"), "{log}");
    println!("{used} descriptors in use; refused {} times", log.matches("Too many open").count());
    daemon.terminate();
    let outcome = check(&scene, &[&sink], READERS, Kills::default()).await;
    assert_eq!(outcome.count(CopyState::Accepted), READERS, "{outcome:?}");
}
