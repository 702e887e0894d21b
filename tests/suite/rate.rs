//! The rate limit, measured where the copies arrive.

use std::collections::HashMap;

use postrider::db::state::{CopyState, IssueState};

use crate::{
    checker::{Kills, check},
    harness::{Daemon, NO_GATES, QUICK, Scene, Sink},
};

const SECOND_US: i64 = 1_000_000;

/// The most of `times` (in microseconds, ascending) that lie within any window of `seconds`.
fn busiest(times: &[i64], seconds: i64) -> usize {
    let mut most = 0;
    let mut start = 0;
    for (end, time) in times.iter().enumerate() {
        while times[start] + seconds * SECOND_US <= *time {
            start += 1;
        }
        most = most.max(end + 1 - start);
    }
    most
}

/// A send at `rate` copies a second, `burst` at once, with a death in the middle: a new daemon gets
/// no new burst.
async fn conforms(rate: usize, burst: usize, readers: usize) {
    let sink = Sink::spawn().await;
    let limits = format!("[limits]\nper_second = {rate}.0\nburst = {burst}\n");
    let scene = Scene::new(&[&sink], &format!("{QUICK}{NO_GATES}{limits}")).await;
    scene.import(readers);
    scene.send().ok();
    let daemon = Daemon::spawn(&scene).await;
    sink.accepts(readers / 4).await;
    daemon.kill();
    let daemon = Daemon::spawn(&scene).await;
    scene.reaches(IssueState::Sent).await;
    drop(daemon);
    let outcome = check(&scene, &[&sink], readers, Kills::of_daemon(1)).await;
    let possible = outcome.count(CopyState::Accepted) + scene.connections;
    assert!(possible >= readers, "{outcome:?}");

    let (handed, came, transit_us) = times(&scene, &sink).await;
    let span_us = came.last().unwrap() - came[0];
    // The limit counts a copy when it lets it go. It is handed off with the next transaction and
    // comes after its transit: what comes within a second was let go in that much more time.
    let mut waits_us: Vec<i64> = handed.windows(2).map(|pair| pair[1] - pair[0]).collect();
    waits_us.sort_unstable();
    // The longest of all was the restart.
    let waits_us = waits_us[waits_us.len() - 2];
    for seconds in [1, 10] {
        let most = |delay_us: i64| {
            let let_go = rate as i64 * (seconds * SECOND_US + delay_us) / SECOND_US;
            burst + let_go as usize + 1
        };
        let (handed, came) = (busiest(&handed, seconds), busiest(&came, seconds));
        println!(
            "{rate}/s, burst {burst}: at most {handed} handed off and {came} come in {seconds} s"
        );
        assert!(handed <= most(waits_us), "{handed} copies were handed off within {seconds} s");
        assert!(came <= most(waits_us + transit_us), "{came} copies came within {seconds} s");
    }
    println!(
        "{rate}/s: {} ms between transactions and {} ms of transit at most; {readers} in {} ms",
        waits_us / 1000,
        transit_us / 1000,
        span_us / 1000
    );
    let least_us = (readers - burst - 1) as i64 * SECOND_US / rate as i64;
    assert!(span_us >= least_us * 95 / 100, "{readers} copies in {span_us} us");
}

#[tokio::test]
async fn no_window_sees_more_than_ten_a_second_and_the_burst() {
    conforms(10, 10, 220).await;
}

#[tokio::test]
async fn no_window_sees_more_than_a_hundred_a_second_and_the_burst() {
    conforms(100, 50, 1500).await;
}

#[tokio::test]
async fn no_window_sees_more_than_a_thousand_a_second_and_the_burst() {
    conforms(1000, 100, 12_000).await;
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
