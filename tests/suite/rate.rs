//! The rate limit, measured where the copies arrive.

use std::collections::HashMap;

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
    let outcome = check(&scene, &[&sink], READERS, Kills::of_daemon(1)).await;
    assert!(outcome.count(CopyState::Accepted) >= READERS - scene.connections, "{outcome:?}");

    let (handed, came, transit_us) = times(&scene, &sink).await;
    let span_us = came.last().unwrap() - came[0];
    // The limit counts a copy when it lets it go. It is handed off with the next transaction and
    // comes after its transit: what comes within a second was let go in that much more time.
    let mut waits_us: Vec<i64> = handed.windows(2).map(|pair| pair[1] - pair[0]).collect();
    waits_us.sort_unstable();
    // The longest of all was the restart.
    let waits_us = waits_us[waits_us.len() - 2];
    let (handed, came) = (busiest_second(&handed), busiest_second(&came));
    println!(
        "busiest second: {handed} handed off, {came} came; {} ms between transactions, {} ms of \
         transit at most; all in {} ms",
        waits_us / 1000,
        transit_us / 1000,
        span_us / 1000
    );
    let most = |delay_us| RATE + BURST + (RATE as i64 * delay_us / SECOND_US) as usize + 1;
    assert!(handed <= most(waits_us), "{handed} copies were handed off within a second");
    assert!(came <= most(waits_us + transit_us), "{came} copies came within a second");
    let least_us = (READERS - BURST - 1) as i64 * SECOND_US / RATE as i64;
    assert!(span_us >= least_us * 95 / 100, "{READERS} copies in {span_us} us");
}

/// When copies were handed off, when copies came, each ascending, and the longest time in between.
async fn times(scene: &Scene, sink: &Sink) -> (Vec<i64>, Vec<i64>, i64) {
    let context = scene.context().await;
    let rows: Vec<(String, i64)> = context
        .db
        .query(
            "SELECT p.address, w.at_us FROM witness w \
             JOIN subscriber p ON p.id = w.subscriber_id ORDER BY w.at_us",
        )
        .all()
        .await
        .unwrap();
    context.db.close().await;
    let handed = rows.iter().map(|(_, at)| *at).collect();
    let last: HashMap<String, i64> = rows.into_iter().collect();
    let records = sink.journal();
    let transit = records.iter().map(|record| record.wall_us - last[&record.rcpt_to[0]]).max();
    let mut came: Vec<i64> = records.iter().map(|record| record.wall_us).collect();
    came.sort_unstable();
    (handed, came, transit.unwrap())
}
