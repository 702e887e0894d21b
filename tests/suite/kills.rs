//! The daemon dies in the middle of a send, by SIGKILL and by SIGTERM, and comes back.

use std::time::Duration;

use postrider::db::state::{CopyState, IssueState};
use rand::RngExt as _;

use crate::{
    checker::{Kills, check},
    harness::{Daemon, NO_GATES, QUICK, Scene, Sink, free_port, seeded, until},
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

    let mut killed = 0;
    // A machine that is slow at everything but sending has fewer.
    while killed < KILLS && sink.accepted() < READERS * 9 / 10 {
        let mut daemon = Daemon::start(&scene);
        // Some die before they are ready, while they settle what the one before left; the others in
        // the middle of what they send.
        let early = killed % 6 == 5;
        if !early {
            daemon.ready().await;
            sink.accepts(sink.accepted() + random.random_range(0..100)).await;
        }
        let wait = random.random_range(if early { 0..400 } else { 0..40 });
        tokio::time::sleep(Duration::from_millis(wait)).await;
        daemon.kill();
        killed += 1;
    }
    let before = sink.accepted();
    assert!(killed >= KILLS / 2, "only {killed} kills before {before} of {READERS} copies");
    assert!(before > READERS / 20, "the kills met no send: {before} copies");
    let daemon = Daemon::spawn(&scene).await;
    scene.reaches(IssueState::Sent).await;
    daemon.terminate();
    let kills = Kills::of_daemon(killed);
    let outcome = check(&scene, &[&sink], READERS, kills).await;
    println!("{killed} kills, {before} copies before the last; {outcome:?}");
    let known = outcome.count(CopyState::Accepted) + outcome.count(CopyState::Uncertain);
    assert_eq!(known, READERS, "every reader has the issue, or is listed: {outcome:?}");
}

#[tokio::test]
async fn a_stop_leaves_nothing_uncertain() {
    const READERS: usize = 1000;
    let mut random = seeded();
    let sink = Sink::with("", &["--latency", "25ms"]).await;
    let options = format!("{QUICK}[limits]\nper_second = 60.0\nburst = 30\n");
    let scene = Scene::new(&[&sink], &options).await;
    scene.import(READERS);
    scene.send().ok();
    for stop in 0..5 {
        let daemon = Daemon::spawn(&scene).await;
        sink.accepts(sink.accepted() + random.random_range(1..60)).await;
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
    // The last one is in a hurry.
    let path = scene.house.path("config.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, config.replace("per_second = 60.0", "per_second = 600.0")).unwrap();
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

/// A relay that takes connections and says nothing.
struct Silent(std::net::TcpListener);

impl Silent {
    async fn is_called(&self) {
        self.0.set_nonblocking(true).unwrap();
        until("somebody calls", async || match self.0.accept() {
            Ok((connection, _)) => {
                // It stays open.
                std::mem::forget(connection);
                Some(())
            }
            Err(_) => None,
        })
        .await;
    }
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_relay_that_says_nothing() {
    const READERS: usize = 100;
    let port = free_port();
    let silent = Silent(std::net::TcpListener::bind(("127.0.0.1", port)).unwrap());
    let scene = Scene::new(&[], QUICK).await;
    let relay = format!(
        "[[relay]]\nname = \"main\"\nhost = \"127.0.0.1\"\nport = {port}\ntls = \"none\"\n"
    );
    let config = std::fs::read_to_string(scene.house.path("config.toml")).unwrap();
    std::fs::write(scene.house.path("config.toml"), config + &relay).unwrap();
    scene.import(READERS);
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    silent.is_called().await;
    let log = daemon.log_file();
    daemon.terminate();
    let log = std::fs::read_to_string(log).unwrap();
    assert!(!log.contains("still under way"), "nothing was under way: {log}");
    assert_eq!(states(&scene).await, [(CopyState::Waiting as i64, 0, READERS as i64)]);
}

#[tokio::test]
async fn a_stop_in_the_middle_of_a_long_silence_is_bounded_and_leaves_it_to_the_next_start() {
    const READERS: usize = 20;
    let silence = "[[rule]]\nstage = 'dot'\nmessage = { nth = 3 }\ndelay = '600s'\n";
    let sink = Sink::with(silence, &[]).await;
    let options = format!("{QUICK}drain = \"1s\"\nstages_percent = []\n{NO_GATES}");
    let scene = Scene::new(&[&sink], &options).await;
    scene.import(READERS);
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    until(
        "only the one in the silence is left, and the one whose envelope went out with it",
        async || {
            let states = states(&scene).await;
            let count = |wanted: CopyState| -> i64 {
                states
                    .iter()
                    .filter(|(state, ..)| *state == wanted as i64)
                    .map(|found| found.2)
                    .sum()
            };
            let (held, accepted) = (count(CopyState::HandedOff), count(CopyState::Accepted));
            ((1..=2).contains(&held) && held + accepted == READERS as i64).then_some(())
        },
    )
    .await;
    let log = daemon.log_file();
    daemon.terminate();
    // It says what stayed, and that the ledger could not be written it does not.
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("still under way at the end of the drain"), "{log}");
    let daemon = Daemon::spawn(&scene).await;
    scene.reaches(IssueState::Sent).await;
    daemon.terminate();
    let outcome = check(&scene, &[&sink], READERS, Kills::of_daemon(1)).await;
    assert_eq!(outcome.count(CopyState::Uncertain), 1, "{outcome:?}");
    assert_eq!(outcome.count(CopyState::Accepted), READERS - 1, "{outcome:?}");
}

/// State, tries, and how many copies.
async fn states(scene: &Scene) -> Vec<(i64, i64, i64)> {
    let context = scene.context().await;
    let sql = "SELECT state, attempt, COUNT(*) FROM delivery GROUP BY state, attempt";
    let states = context.db.query(sql).all().await.unwrap();
    context.db.close().await;
    states
}
