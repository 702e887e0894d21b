//! How two relays divide the work: by weight where there is too little of it, and by what each can do
//! where one is slow.

use std::{fs, time::Instant};

use postrider::db::state::{CopyState, IssueState};

use crate::{
    checker::{Kills, check},
    harness::{CONNECTIONS, Daemon, NO_GATES, QUICK, STANDSTILL, Scene, Sink},
    stillness::Watch,
};

/// Everything in one stage, so that no stage's end makes work scarce.
const AT_ONCE: &str = "stages_percent = []\n";

/// A scene with two relays, the first with more in its configuration.
async fn scene(main: &Sink, spare: &Sink, options: &str, more: &str) -> Scene {
    let options = format!("{QUICK}{AT_ONCE}{NO_GATES}{options}");
    let scene = Scene::new(&[main, spare], &options).await;
    let path = scene.house.path("config.toml");
    let config = fs::read_to_string(&path).unwrap();
    let named = "name = \"main\"\n";
    assert!(config.contains(named));
    fs::write(&path, config.replace(named, &format!("{named}{more}"))).unwrap();
    scene
}

#[tokio::test]
async fn scarce_work_is_divided_by_weight() {
    const READERS: usize = 600;
    let main = Sink::with("", &["--latency", "5ms"]).await;
    let spare = Sink::with("", &["--latency", "5ms"]).await;
    let scarce = "[limits]\nper_second = 50.0\nburst = 5\n";
    let scene = scene(&main, &spare, scarce, "weight = 3.0\n").await;
    scene.import(READERS);
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    scene.reaches(IssueState::Sent).await;
    drop(daemon);
    let outcome = check(&scene, &[&main, &spare], READERS, Kills::default()).await;
    assert_eq!(outcome.count(CopyState::Accepted), READERS, "{outcome:?}");
    // Even lots drawn three to one would be off by five and a half standard deviations once in twenty-five
    // million sends; lots drawn one to one would be off by fourteen.
    let (expected, deviation) = (0.75 * READERS as f64, (READERS as f64 * 0.75 * 0.25).sqrt());
    let off = main.accepted() as f64 - expected;
    println!(
        "{} + {}: off by {off:.0}, deviation {deviation:.1}",
        main.accepted(),
        spare.accepted()
    );
    assert!(off.abs() <= 5.5 * deviation, "{} of {READERS} through the first", main.accepted());
}

#[tokio::test]
async fn a_slow_relay_neither_attracts_nor_blocks_the_work_of_the_other() {
    const READERS: usize = 1600;
    const LATENCY_S: f64 = 6.0;
    let slow = Sink::with("", &["--latency", "6s"]).await;
    let quick = Sink::with("", &["--latency", "5ms"]).await;
    // The slow one has all the weight there is.
    let scene = scene(&slow, &quick, "", "weight = 10.0\n").await;
    scene.import(READERS);
    let daemon = Daemon::spawn(&scene).await;
    let (watch, began) = (Watch::start(), Instant::now());
    scene.send().ok();
    scene.reaches(IssueState::Sent).await;
    let held_up = watch.held_up(began, STANDSTILL).await.as_secs_f64();
    let took = began.elapsed().as_secs_f64();
    drop(daemon);
    let outcome = check(&scene, &[&slow, &quick], READERS, Kills::default()).await;
    assert_eq!(outcome.count(CopyState::Accepted), READERS, "{outcome:?}");
    let mut times: Vec<i64> = quick.journal().iter().map(|record| record.wall_us).collect();
    times.sort_unstable();
    let gap = times.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap() as f64 / 1e6;
    println!(
        "{} + {} in {took:.1} s, gap {gap:.2} s, held up for {held_up:.2} s",
        slow.accepted(),
        quick.accepted()
    );
    // No more than its connections can carry, one message a round trip, and one each to begin with.
    let most = CONNECTIONS as f64 * (took / LATENCY_S + 1.0);
    assert!(slow.accepted() as f64 <= most, "{} through the slow one", slow.accepted());
    assert!(slow.accepted() > 0, "it is used for what it can do");
    // It would for as long as a reply of the slow one takes; not counting for how long everything did.
    assert!(gap < LATENCY_S + held_up, "the quick one stood still for {gap} s");
}
