//! The daemon dies in the middle of a send, by SIGKILL and by SIGTERM, and comes back.

use std::time::Duration;

use postrider::db::state::{CopyState, IssueState};
use rand::RngExt as _;

use crate::{
    checker::{Kills, check},
    harness::{Daemon, NO_GATES, QUICK, Scene, Sink, seeded},
};

#[tokio::test]
async fn thirty_kills_lose_nobody_and_double_nobody() {
    const READERS: usize = 5000;
    const KILLS: usize = 30;
    let mut random = seeded();
    // Slow replies keep a copy of every connection between dot and reply.
    let sink = Sink::with("", &["--latency", "25ms"]).await;
    let options = format!("{QUICK}{NO_GATES}[limits]\nper_second = 120.0\nburst = 60\n");
    let scene = Scene::new(&[&sink], &options).await;
    scene.import(READERS);
    scene.send().ok();

    for kill in 0..KILLS {
        let mut daemon = Daemon::start(&scene);
        // Some die before they are ready, while they settle what the one before left.
        let early = kill % 6 == 5;
        if !early {
            daemon.ready().await;
        }
        let wait = if early { 0..400 } else { 0..1200 };
        tokio::time::sleep(Duration::from_millis(random.random_range(wait))).await;
        let accepted = sink.accepted();
        assert!(accepted < READERS * 9 / 10, "{accepted} of {READERS} before kill {kill}");
        daemon.kill();
    }
    let before = sink.accepted();
    assert!(before > READERS / 20, "the kills met no send: {before} copies");
    let daemon = Daemon::spawn(&scene).await;
    scene.reaches(IssueState::Sent).await;
    daemon.terminate();
    let kills = Kills::of_daemon(KILLS);
    let outcome = check(&scene, &[&sink], READERS, kills).await;
    println!("{before} copies before the last kill; {outcome:?}");
    let known = outcome.count(CopyState::Accepted) + outcome.count(CopyState::Uncertain);
    assert_eq!(known, READERS, "every reader has the issue, or is listed: {outcome:?}");
}

#[tokio::test]
async fn a_stop_leaves_nothing_uncertain() {
    const READERS: usize = 1000;
    let mut random = seeded();
    let sink = Sink::with("", &["--latency", "25ms"]).await;
    let options = format!("{QUICK}[limits]\nper_second = 120.0\nburst = 60\n");
    let scene = Scene::new(&[&sink], &options).await;
    scene.import(READERS);
    scene.send().ok();
    for stop in 0..5 {
        let daemon = Daemon::spawn(&scene).await;
        tokio::time::sleep(Duration::from_millis(random.random_range(50..1200))).await;
        let accepted = sink.accepted();
        assert!(accepted < READERS, "all was sent before stop {stop}");
        daemon.terminate();
        // Nothing may come after the end, and nothing may be left in between.
        let context = scene.context().await;
        let held: i64 = context
            .db
            .query("SELECT COUNT(*) FROM delivery WHERE state IN (1, 2, 5)")
            .scalar()
            .await
            .unwrap();
        assert_eq!(held, 0, "claimed, handed off or uncertain after stop {stop}");
        context.db.close().await;
    }
    let _daemon = Daemon::spawn(&scene).await;
    scene.reaches(IssueState::Sent).await;
    let outcome = check(&scene, &[&sink], READERS, Kills::default()).await;
    assert_eq!(outcome.count(CopyState::Accepted), READERS, "{outcome:?}");
}

#[tokio::test]
async fn a_second_daemon_is_refused_and_harms_nobody() {
    let sink = Sink::spawn().await;
    let scene = Scene::new(&[&sink], QUICK).await;
    scene.import(50);
    let first = Daemon::spawn(&scene).await;
    let error = scene.house.run(&["serve"]).fails(1);
    assert!(error.contains("another postrider daemon is running on"), "{error}");
    assert!(error.contains("postrider.db; two daemons on one SQLite file would send"), "{error}");
    scene.send().ok();
    scene.reaches(IssueState::Sent).await;
    first.terminate();
    // The lock ends with its holder, also when that one is killed.
    Daemon::spawn(&scene).await.kill();
    Daemon::spawn(&scene).await.terminate();
    let outcome = check(&scene, &[&sink], 50, Kills::default()).await;
    assert_eq!(outcome.count(CopyState::Accepted), 50, "{outcome:?}");
}
