//! The data file in trouble: the disk is full, somebody else holds it, it cannot be written; and a
//! daemon that has no descriptors left.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use postrider::db::state::{CopyState, IssueState};

use crate::{
    checker::{Kills, check},
    harness::{Daemon, NO_GATES, QUICK, Scene, Sink, skipped, until},
};

const READERS: usize = 600;

/// A send that takes some five seconds.
fn options() -> String {
    format!("{QUICK}{NO_GATES}[limits]\nper_second = 120.0\nburst = 20\n")
}

/// A small file system over a folder; gone when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Puts one of `megabytes` over `folder`, with what is in there; none where we may not.
    fn over(folder: &Path, megabytes: u32) -> Option<Self> {
        let aside = folder.with_extension("aside");
        fs::rename(folder, &aside).unwrap();
        fs::create_dir(folder).unwrap();
        let size = format!("size={megabytes}m,mode=700");
        let mount = ["-t", "tmpfs", "-o", &size, "postrider-test"];
        let mounted = Command::new("mount").args(mount).arg(folder).output();
        if !mounted.is_ok_and(|mounted| mounted.status.success()) {
            skipped("no file system can be mounted here (root is needed)");
            return None;
        }
        let disk = Self(folder.to_owned());
        for file in fs::read_dir(&aside).unwrap().map(Result::unwrap) {
            fs::copy(file.path(), folder.join(file.file_name())).unwrap();
        }
        Some(disk)
    }

    /// Fills it up to the last byte.
    fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = fs::File::create(&path).unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
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
    let Some(disk) = SmallDisk::over(&data, 24) else { return };
    let mut daemon = Daemon::start(&scene).expect_errors();
    daemon.ready().await;
    for share in [READERS / 6, READERS / 2] {
        sink.accepts(share).await;
        let before = complaints(&daemon);
        let filler = disk.fill();
        let waits = async |count| {
            until("the daemon says that it cannot write", async || {
                (complaints(&daemon) >= before + count).then_some(())
            })
            .await;
        };
        waits(3).await;
        let accepted = sink.accepted();
        waits(5).await;
        assert_eq!(sink.accepted(), accepted, "copies left while no handoff could be written");
        fs::remove_file(filler).unwrap();
    }
    scene.reaches(IssueState::Sent).await;
    daemon.terminate();
    let outcome = check(&scene, &[&sink], READERS, Kills::default()).await;
    assert_eq!(outcome.count(CopyState::Accepted), READERS, "{outcome:?}");
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
    assert!(took < Duration::from_secs(25), "it took {took:?} with a drain of 3 s");
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
