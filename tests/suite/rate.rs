//! The rate limit, measured where the copies arrive.

use postrider::db::state::{CopyState, IssueState};

use crate::{
    checker::{Kills, check},
    harness::{Daemon, NO_GATES, QUICK, Scene, Sink},
};

const RATE: usize = 100;
const BURST: usize = 50;
const SECOND_US: i64 = 1_000_000;

/// The most of `times` (in microseconds, ascending) that lie within any second.
fn busiest_second(times: &[i64]) -> usize {
    let within = |start: usize| {
        let end = times[start] + SECOND_US;
        times[start..].iter().take_while(|time| **time < end).count()
    };
    (0..times.len()).map(within).max().unwrap_or(0)
}

#[tokio::test]
async fn no_second_sees_more_than_the_rate_and_the_burst_not_even_after_a_kill() {
    const READERS: usize = 1000;
    let sink = Sink::spawn().await;
    let limits = format!("[limits]\nper_second = {RATE}.0\nburst = {BURST}\n");
    let scene = Scene::new(&[&sink], &format!("{QUICK}{NO_GATES}{limits}")).await;
    scene.import(READERS);
    scene.send().ok();
    let daemon = Daemon::spawn(&scene).await;
    sink.accepts(READERS / 4).await;
    // A new daemon gets no new burst.
    daemon.kill();
    let daemon = Daemon::spawn(&scene).await;
    scene.reaches(IssueState::Sent).await;
    drop(daemon);
    let outcome = check(&scene, &[&sink], READERS, Kills { daemon: 1, sink: 0 }).await;
    assert!(outcome.count(CopyState::Accepted) >= READERS - scene.connections, "{outcome:?}");

    let context = scene.context().await;
    let handed: Vec<(i64,)> =
        context.db.query("SELECT at_us FROM witness ORDER BY at_us").all().await.unwrap();
    let handed: Vec<i64> = handed.into_iter().map(|(at,)| at).collect();
    context.db.close().await;
    let mut came: Vec<i64> = sink.journal().iter().map(|record| record.wall_us).collect();
    came.sort_unstable();
    let span_us = came.last().unwrap() - came[0];
    let (handed, came) = (busiest_second(&handed), busiest_second(&came));
    println!("busiest second: {handed} handed off, {came} came; all in {} ms", span_us / 1000);
    assert!(handed <= RATE + BURST, "{handed} copies were handed off within a second");
    assert!(came <= RATE + BURST, "{came} copies came within a second");
    let least_us = (READERS - BURST - 1) as i64 * SECOND_US / RATE as i64;
    assert!(span_us >= least_us * 95 / 100, "{READERS} copies in {span_us} us");
}
