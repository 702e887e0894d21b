//! The daemon dies, or one of its tasks does, at every step that has a name.

use std::collections::BTreeMap;

use postrider::{
    db::state::{CopyState, IssueState},
    fail_point,
};
use rand::{RngExt as _, rngs::StdRng, seq::SliceRandom as _};

use crate::{
    checker::{Kills, check},
    harness::{Daemon, ISSUE, NO_GATES, QUICK, Scene, Sink, seeded, until},
};

/// How often the daemon dies, unless the environment asks for more.
const DEATHS: usize = 40;
const READERS: usize = 500;

/// The steps in an order in which all of them come in one send: the plan and the stages at its
/// begin, the end at its end, the others in between at random.
fn in_order(random: &mut StdRng) -> Vec<&'static str> {
    let place = |step: &&str| match step.split('.').next().unwrap() {
        "plan" => 0,
        "stage" => 1,
        "issue" => 3,
        _ => 2,
    };
    let mut steps = fail_point::STEPS.to_vec();
    steps.shuffle(random);
    steps.sort_by_key(place);
    // Among themselves, these come in the order of the list.
    let position = |step: &str| fail_point::STEPS.iter().position(|other| *other == step);
    steps.sort_by_key(|step| (place(step), if place(step) == 2 { None } else { position(step) }));
    steps
}

/// At which time of coming by a step the daemon dies there.
fn count(step: &str, random: &mut StdRng) -> u64 {
    match step.split('.').next().unwrap() {
        "dot" | "reply" => random.random_range(1..25),
        "handoff" | "outcome" => random.random_range(1..6),
        _ => 1,
    }
}

/// Whether the issue is done, and nothing more will be reached.
async fn is_done(scene: &Scene) -> bool {
    let context = scene.context().await;
    let sql = "SELECT COUNT(*) FROM issue WHERE number = $1 AND finished_at IS NOT NULL";
    let done: i64 = context.db.query(sql).bind(ISSUE).scalar().await.unwrap();
    context.db.close().await;
    done > 0
}

/// One send with a death at every step, up to `most` of them; counts them by step.
async fn one_send(random: &mut StdRng, most: usize, deaths: &mut BTreeMap<&str, usize>) -> usize {
    let sink = Sink::with("", &["--latency", "10ms"]).await;
    let options = format!("{QUICK}{NO_GATES}[limits]\nper_second = 250.0\nburst = 20\n");
    let scene = Scene::new(&[&sink], &options).await;
    scene.import(READERS);
    scene.send().ok();
    let mut died = 0;
    for step in in_order(random) {
        if died == most || is_done(&scene).await {
            break;
        }
        let place = format!("{step}:{}", count(step, random));
        let mut daemon = Daemon::start_under(&scene, &[], &[(fail_point::VARIABLE, &place)]);
        let mut looks = 0;
        until(&format!("the daemon dies at {place}"), async || {
            looks += 1;
            (daemon.is_gone() || (looks % 32 == 0 && is_done(&scene).await)).then_some(())
        })
        .await;
        if daemon.is_gone() {
            died += 1;
            *deaths.entry(step).or_default() += 1;
        }
        daemon.kill();
    }
    let daemon = Daemon::spawn(&scene).await;
    scene.reaches(IssueState::Sent).await;
    daemon.terminate();
    let outcome = check(&scene, &[&sink], READERS, Kills::of_daemon(died)).await;
    println!("{died} deaths; {outcome:?}");
    let known = outcome.count(CopyState::Accepted) + outcome.count(CopyState::Uncertain);
    assert_eq!(known, READERS, "every reader has the issue, or is listed: {outcome:?}");
    died
}

#[tokio::test]
async fn a_death_at_any_step_loses_nobody_and_doubles_nobody() {
    let asked = std::env::var("POSTRIDER_TEST_KILLS").ok().and_then(|text| text.parse().ok());
    let wanted: usize = asked.unwrap_or(DEATHS);
    let mut random = seeded();
    let (mut deaths, mut died, mut sends) = (BTreeMap::new(), 0, 0);
    let is_missing = |deaths: &BTreeMap<&str, usize>| {
        fail_point::STEPS.iter().any(|step| !deaths.contains_key(step))
    };
    // A send on a slow machine has few transactions, and may end before it comes by a step that often.
    while died < wanted || is_missing(&deaths) {
        sends += 1;
        assert!(sends <= 10 + wanted / 5, "nobody dies at some of the steps: {deaths:?}");
        let most = wanted.saturating_sub(died).max(fail_point::STEPS.len());
        died += one_send(&mut random, most, &mut deaths).await;
    }
    println!("{died} deaths in {sends} sends: {deaths:?}");
}

#[tokio::test]
async fn a_task_that_panics_costs_one_copy_a_try_and_nobody_a_copy() {
    const READERS: usize = 300;
    for (step, uncertain) in
        [("dot.before", 0), ("dot.journalled", 1), ("reply.before", 1), ("reply.journalled", 0)]
    {
        let sink = Sink::with("", &["--latency", "5ms"]).await;
        let scene = Scene::new(&[&sink], &format!("{QUICK}{NO_GATES}")).await;
        scene.import(READERS);
        scene.send().ok();
        let place = format!("{step}:20=panic");
        let daemon = Daemon::start_under(&scene, &[], &[(fail_point::VARIABLE, &place)]);
        let mut daemon = daemon.expect_errors();
        daemon.ready().await;
        // The same daemon goes on, with as many connections as before, and the copy is not lost.
        scene.reaches(IssueState::Sent).await;
        let log = daemon.log();
        assert_eq!(log.matches("a connection's task failed").count(), 1, "{step}: {log}");
        daemon.terminate();
        let kills = Kills { tasks: 1, ..Kills::default() };
        let outcome = check(&scene, &[&sink], READERS, kills).await;
        assert_eq!(outcome.count(CopyState::Uncertain), uncertain, "{step}: {outcome:?}");
        assert_eq!(outcome.count(CopyState::Accepted), READERS - uncertain, "{step}: {outcome:?}");
    }
}

/// A daemon whose writer is gone could not send and would look alive: it ends, and the next one
/// goes on.
#[tokio::test]
async fn a_writer_that_panics_ends_the_daemon_and_the_next_one_goes_on() {
    const READERS: usize = 300;
    let sink = Sink::with("", &["--latency", "5ms"]).await;
    let scene = Scene::new(&[&sink], &format!("{QUICK}{NO_GATES}")).await;
    scene.import(READERS);
    scene.send().ok();
    let place = "outcome.before_commit:3=panic";
    let daemon = Daemon::start_under(&scene, &[], &[(fail_point::VARIABLE, place)]);
    let mut daemon = daemon.expect_errors();
    until("the daemon ends", async || daemon.is_gone().then_some(())).await;
    let log = daemon.log();
    assert_eq!(log.matches("the ledger's writer failed").count(), 1, "{log}");
    daemon.kill();
    let daemon = Daemon::spawn(&scene).await;
    scene.reaches(IssueState::Sent).await;
    daemon.terminate();
    let outcome = check(&scene, &[&sink], READERS, Kills::of_daemon(1)).await;
    let known = outcome.count(CopyState::Accepted) + outcome.count(CopyState::Uncertain);
    assert_eq!(known, READERS, "{outcome:?}");
}
