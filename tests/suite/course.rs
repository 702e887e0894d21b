//! People change a send's course while it runs: readers leave, operators pause, resume and cancel,
//! and somebody asks for the same send again.

use postrider::{
    cli::Context,
    db::state::{CopyState, IssueState, SubscriptionState},
    id::{NewsletterId, SubscriberId},
    token::{Purpose, ReaderToken},
};
use rand::seq::{IndexedRandom as _, SliceRandom as _};

use crate::{
    checker::{Kills, check},
    harness::{Daemon, QUICK, Scene, Sink, seeded, until},
};

/// A send that takes some ten seconds.
fn slow() -> String {
    format!("{QUICK}[limits]\nper_second = 150.0\nburst = 20\n")
}

/// The links with which readers leave, in a random order.
async fn ways_out(context: &Context) -> Vec<(SubscriberId, String)> {
    let readers: Vec<(i64,)> =
        context.db.query("SELECT id FROM subscriber ORDER BY id").all().await.unwrap();
    let way_out = |(id,): (i64,)| {
        let subscriber = SubscriberId(id);
        let reader = ReaderToken { newsletter: NewsletterId(1), subscriber, issue: None };
        let token = reader.seal(&context.keyring, Purpose::Unsubscribe);
        (subscriber, format!("/-/unsubscribe/{token}"))
    };
    let mut all: Vec<_> = readers.into_iter().map(way_out).collect();
    all.shuffle(&mut seeded());
    all
}

/// An issue that the database refuses to begin comes first in every look at the course.
#[tokio::test]
async fn what_is_wrong_with_one_issue_stops_no_other() {
    const READERS: usize = 60;
    let sink = Sink::spawn().await;
    let scene = Scene::new(&[&sink], QUICK).await;
    scene.import(READERS);
    let context = scene.context().await;
    let refuse = "CREATE TRIGGER refusal BEFORE UPDATE OF state ON issue \
                  WHEN NEW.number = 7 AND NEW.state = 2 \
                  BEGIN SELECT RAISE(ABORT, 'not this one'); END";
    context.db.write(refuse).execute().await.unwrap();
    context.db.close().await;
    let text = "---\nnumber: 7\ndate: 2026-03-06\npreheader: What we read.\n---\n\nHello.\n\n\
                ## [A failover](https://example.org/failover)\n\nThe replica took over.\n";
    std::fs::write(scene.house.path("other.md"), text).unwrap();
    let how = ["--yes", "--allow-warnings", "--undo-window", "0s", "--json"];
    scene.house.run(["issue", "send", "other.md"].iter().chain(&how)).ok();
    scene.send().ok();
    let daemon = Daemon::spawn(&scene).await.expect_errors();
    scene.reaches(IssueState::Sent).await;
    assert_eq!(sink.accepted(), READERS);
    let log = daemon.log();
    assert!(log.contains("not this one") && log.contains("the course of an issue"), "{log}");
    daemon.terminate();
}

#[tokio::test]
async fn whoever_leaves_before_the_handoff_gets_nothing() {
    const READERS: usize = 1500;
    const LEAVING: usize = 200;
    let sink = Sink::spawn().await;
    let scene = Scene::new(&[&sink], &slow()).await;
    scene.import(READERS);
    let context = scene.context().await;
    let leaving = ways_out(&context).await;
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    sink.accepts(READERS / 20).await;

    let http = reqwest::Client::new();
    for (_, way_out) in &leaving[..LEAVING] {
        let button = [("List-Unsubscribe", "One-Click")];
        let answer = http.post(daemon.url(way_out)).form(&button).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }
    scene.reaches(IssueState::Sent).await;
    drop(daemon);
    // That nobody was handed off after leaving, the checker sees from the database's own witness.
    let outcome = check(&scene, &[&sink], READERS, Kills::default()).await;
    let skipped = outcome.count(CopyState::Skipped);
    println!("{LEAVING} left, {skipped} of them before their copy");
    // Of how many that is true depends on how fast this machine takes requests.
    assert!((1..=LEAVING).contains(&skipped), "{skipped} skipped of {LEAVING}");
    assert_eq!(outcome.count(CopyState::Accepted), READERS - skipped, "{outcome:?}");
    for (subscriber, _) in &leaving[..LEAVING] {
        let (state, subscription, reason): (i64, i64, Option<String>) = context
            .db
            .query(
                "SELECT d.state, s.state, d.reason FROM delivery d \
                 JOIN subscription s ON s.subscriber_id = d.subscriber_id \
                 WHERE d.subscriber_id = $1",
            )
            .bind(*subscriber)
            .one()
            .await
            .unwrap();
        assert_eq!(subscription, SubscriptionState::Unsubscribed as i64);
        match CopyState::try_from(state).unwrap() {
            CopyState::Accepted => {}
            CopyState::Skipped => assert_eq!(reason.as_deref(), Some("unsubscribed")),
            other => panic!("{subscriber} left, and the copy is {other}"),
        }
    }
    context.db.close().await;
}

#[tokio::test]
async fn whoever_is_suppressed_or_erased_before_the_handoff_gets_nothing() {
    const READERS: usize = 600;
    const EACH: usize = 8;
    let sink = Sink::spawn().await;
    let slower = format!("{QUICK}[limits]\nper_second = 50.0\nburst = 10\n");
    let scene = Scene::new(&[&sink], &slower).await;
    scene.import(READERS);
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    sink.accepts(READERS / 20).await;
    // Readers whose copies wait: a command takes its time, and some of them are sent meanwhile.
    let (context, mut random) = (scene.context().await, seeded());
    let waiting = "SELECT p.address FROM delivery d JOIN subscriber p ON p.id = d.subscriber_id \
         WHERE d.state = 0 AND p.address IS NOT NULL";
    for _ in 0..EACH {
        let waiting: Vec<(String,)> = context.db.query(waiting).all().await.unwrap();
        let pair: Vec<&(String,)> = waiting.sample(&mut random, 2).collect();
        let [(first,), (second,)] = pair[..] else { break };
        scene.house.run(&["subscriber", "suppress", first, "--reason", "asked for it"]).ok();
        scene.house.run(&["subscriber", "erase", second, "--yes"]).ok();
    }
    context.db.close().await;
    scene.reaches(IssueState::Sent).await;
    drop(daemon);
    let outcome = check(&scene, &[&sink], READERS, Kills::default()).await;
    println!("up to {EACH} suppressed, {EACH} erased; {outcome:?}");
    let skipped = outcome.count(CopyState::Skipped);
    assert!((2..=2 * EACH).contains(&skipped), "{outcome:?}");
    assert_eq!(outcome.count(CopyState::Accepted), READERS - skipped, "{outcome:?}");
}

/// Waits until no copy is on its way any more.
pub(crate) async fn quiet(scene: &Scene) {
    let context = scene.context().await;
    until("no copy on its way", async || {
        let sql = "SELECT COUNT(*) FROM delivery WHERE state IN (1, 2)";
        let moving: i64 = context.db.query(sql).scalar().await.unwrap();
        (moving == 0).then_some(())
    })
    .await;
    context.db.close().await;
}

/// A send that takes half a minute, during which an operator, on a busy machine too, comes in time.
fn slower() -> String {
    format!("{QUICK}[limits]\nper_second = 30.0\nburst = 20\n")
}

#[tokio::test]
async fn nothing_leaves_during_a_pause_and_everything_after_it() {
    const READERS: usize = 1000;
    let sink = Sink::spawn().await;
    let scene = Scene::new(&[&sink], &slower()).await;
    scene.import(READERS);
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    sink.accepts(READERS / 20).await;
    scene.issue("pause", &["--reason", "a wrong link"]);
    quiet(&scene).await;
    let during = sink.accepted();
    assert!(during < READERS, "the pause came too late");
    assert_eq!(scene.status()["state"], "paused");
    // A pause outlives the daemon. The next one is in a hurry.
    daemon.terminate();
    let path = scene.house.path("config.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, config.replace("per_second = 30.0", "per_second = 300.0")).unwrap();
    let daemon = Daemon::spawn(&scene).await;
    quiet(&scene).await;
    assert_eq!(sink.accepted(), during, "copies left during the pause");
    scene.issue("resume", &[]);
    scene.reaches(IssueState::Sent).await;
    drop(daemon);
    let outcome = check(&scene, &[&sink], READERS, Kills::default()).await;
    assert_eq!(outcome.count(CopyState::Accepted), READERS, "{outcome:?}");
}

#[tokio::test]
async fn a_cancelled_send_adds_up_and_stays_cancelled() {
    const READERS: usize = 1000;
    let sink = Sink::spawn().await;
    let scene = Scene::new(&[&sink], &slower()).await;
    scene.import(READERS);
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    sink.accepts(READERS / 20).await;
    scene.issue("cancel", &["--yes", "--reason", "wrong issue"]);
    scene.reaches(IssueState::Cancelled).await;
    for args in [&["issue", "resume", "1"][..], &["issue", "pause", "1"]] {
        let error = scene.house.run(args).fails(3);
        assert!(error.contains("issue 1 is cancelled"), "{error}");
    }
    let error = scene.send().fails(3);
    assert!(error.contains("was cancelled, and nothing was started"), "{error}");
    let status = scene.status();
    assert_eq!(status["audience"], READERS, "{status}");
    assert_eq!(status["holds"], true, "{status}");
    drop(daemon);
    let outcome = check(&scene, &[&sink], READERS, Kills::default()).await;
    let (accepted, cancelled) =
        (outcome.count(CopyState::Accepted), outcome.count(CopyState::Cancelled));
    assert!(cancelled > 0, "the cancel came too late");
    assert_eq!(accepted + cancelled, READERS, "{outcome:?}");
}

#[tokio::test]
async fn the_same_send_asked_for_again_starts_nothing() {
    const READERS: usize = 200;
    let sink = Sink::spawn().await;
    let scene = Scene::new(&[&sink], QUICK).await;
    scene.import(READERS);
    let _daemon = Daemon::spawn(&scene).await;
    // Two people press at the same time; the file was there before.
    scene.write_issue();
    let started = std::thread::scope(|threads| {
        let press = || scene.send_file("issue.md").json();
        let both = [threads.spawn(press), threads.spawn(press)];
        both.map(|send| send.join().unwrap()["started"] == true)
    });
    assert_eq!(started.iter().filter(|started| **started).count(), 1, "{started:?}");
    scene.reaches(IssueState::Sent).await;
    let again = scene.send().json();
    assert_eq!((&again["started"], &again["issue"]["state"]), (&false.into(), &"sent".into()));
    let outcome = check(&scene, &[&sink], READERS, Kills::default()).await;
    assert_eq!(outcome.count(CopyState::Accepted), READERS, "{outcome:?}");
    assert_eq!(sink.accepted(), READERS);
}
