//! The rate limit, measured where the copies arrive.

use std::{
    collections::{HashMap, HashSet},
    fs,
};

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

    holds(rate, burst, &times(&scene, &sink, |_| true).await);
}

/// Panics when copies were handed off or came faster than `rate` a second and `burst` at once.
fn holds(rate: usize, burst: usize, times: &Times) {
    let Times { handed, came, transit_us, .. } = times;
    let (readers, span_us) = (came.len(), came.last().unwrap() - came[0]);
    // The limit counts a copy when it lets it go. It is handed off with the next transaction and
    // comes after its transit: what comes within a second was let go in that much more time. A burst
    // that a restart granted would be more than that, at the slow rates at least.
    let waits_us = times.longest_wait();
    for seconds in [1, 10] {
        let most = |delay_us: i64| {
            let let_go = rate as i64 * (seconds * SECOND_US + delay_us) / SECOND_US;
            burst + let_go as usize + 1
        };
        let (handed, came) = (busiest(handed, seconds), busiest(came, seconds));
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
    // The first may have been held up on its way by so much; the last came no earlier than it was let go.
    let least_us = (readers - burst - 1) as i64 * SECOND_US / rate as i64;
    assert!(span_us + waits_us + transit_us >= least_us, "{readers} copies in {span_us} us");
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

/// Two relays with limits of their own: each keeps to its own, and both are used.
#[tokio::test]
async fn each_relay_keeps_to_its_own_limit() {
    const READERS: usize = 400;
    let sinks = [Sink::spawn().await, Sink::spawn().await];
    let scene = Scene::new(&[&sinks[0], &sinks[1]], &format!("{QUICK}{NO_GATES}")).await;
    let path = scene.house.path("config.toml");
    let mut config = fs::read_to_string(&path).unwrap();
    let limits = [("main", 60, 10), ("spare", 30, 5)];
    for (name, rate, burst) in limits {
        let relay = format!("name = \"{name}\"\n");
        let limited = format!("{relay}per_second = {rate}.0\nburst = {burst}\n");
        assert!(config.contains(&relay));
        config = config.replace(&relay, &limited);
    }
    fs::write(&path, config).unwrap();
    scene.import(READERS);
    scene.send().ok();
    let daemon = Daemon::spawn(&scene).await;
    scene.reaches(IssueState::Sent).await;
    drop(daemon);
    let outcome = check(&scene, &[&sinks[0], &sinks[1]], READERS, Kills::default()).await;
    assert_eq!(outcome.count(CopyState::Accepted), READERS, "{outcome:?}");
    for (sink, (_, rate, burst)) in sinks.iter().zip(limits) {
        let mine: HashSet<String> =
            sink.journal().into_iter().flat_map(|record| record.rcpt_to).collect();
        assert!(mine.len() > 2 * burst, "{} copies", mine.len());
        holds(rate, burst, &times(&scene, sink, |address| mine.contains(address)).await);
    }
}

/// One provider has a limit: its readers' copies keep to it, and nobody else waits for them.
#[tokio::test]
async fn a_provider_has_a_limit_and_the_others_have_none() {
    const READERS: usize = 400;
    let sink = Sink::spawn().await;
    let limit = "[[limits.provider]]\nname = \"google\"\nper_second = 10.0\nburst = 10\n";
    let scene = Scene::new(&[&sink], &format!("{QUICK}{NO_GATES}{limit}")).await;
    scene.import(READERS);
    scene.send().ok();
    let daemon = Daemon::spawn(&scene).await;
    scene.reaches(IssueState::Sent).await;
    drop(daemon);
    let outcome = check(&scene, &[&sink], READERS, Kills::default()).await;
    assert_eq!(outcome.count(CopyState::Accepted), READERS, "{outcome:?}");
    let is_google = |address: &str| address.ends_with("@gmail.com");
    let limited = times(&scene, &sink, is_google).await;
    let others = times(&scene, &sink, |address| !is_google(address)).await;
    assert_eq!(limited.came.len(), READERS / 4);
    holds(10, 10, &limited);
    assert!(others.came.last() < limited.came.last(), "the others waited for a limit of google's");
}

/// When copies were handed off, when copies came, each ascending, and the longest time in between.
struct Times {
    handed: Vec<i64>,
    came: Vec<i64>,
    transit_us: i64,
    /// When daemons started in the middle of the send.
    restarts: Vec<i64>,
}

impl Times {
    /// The longest time from a copy's being let go to its handoff: the transaction that runs just then
    /// may be over before the one that hands it off begins; a daemon lets nothing go before it starts.
    fn longest_wait(&self) -> i64 {
        let mut moments = self.handed.clone();
        moments.dedup();
        let is_across = |from, to| self.restarts.iter().any(|start| (from..to).contains(start));
        let within = moments.windows(3).filter(|three| !is_across(three[0], three[2]));
        let within = within.map(|three| three[2] - three[0]);
        let after = self.restarts.iter().filter_map(|start| {
            let second = moments.iter().filter(|moment| *moment > start).nth(1)?;
            Some(second - start)
        });
        within.chain(after).max().unwrap_or_default()
    }
}

/// The times of the copies to the addresses that are asked for.
async fn times(scene: &Scene, sink: &Sink, of: impl Fn(&str) -> bool) -> Times {
    let context = scene.context().await;
    let mut rows: Vec<(String, i64)> = context
        .db
        .query(
            "SELECT p.address, w.at_us FROM witness w \
             JOIN subscriber p ON p.id = w.subscriber_id ORDER BY w.at_us",
        )
        .all()
        .await
        .unwrap();
    let starts = "SELECT started_at FROM node ORDER BY id";
    let restarts: Vec<(i64,)> = context.db.query(starts).all().await.unwrap();
    context.db.close().await;
    let restarts = restarts.into_iter().skip(1).map(|(at,)| at).collect();
    rows.retain(|(address, _)| of(address));
    let handed = rows.iter().map(|(_, at)| *at).collect();
    let last: HashMap<String, i64> = rows.into_iter().collect();
    let mut records = sink.journal();
    records.retain(|record| of(&record.rcpt_to[0]));
    let transit = records.iter().map(|record| record.wall_us - last[&record.rcpt_to[0]]).max();
    let mut came: Vec<i64> = records.iter().map(|record| record.wall_us).collect();
    came.sort_unstable();
    Times { handed, came, transit_us: transit.unwrap(), restarts }
}
