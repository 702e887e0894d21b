//! Relays die, come back, misbehave and refuse.

use std::{fmt::Write as _, ops::RangeInclusive};

use postrider::db::state::{CopyState, EventKind, IssueState};

use crate::{
    checker::{Kills, check},
    harness::{Daemon, NO_GATES, QUICK, Scene, Sink, name, until},
};

/// A send that takes some ten seconds, and no gate.
fn slow() -> String {
    format!("{QUICK}{NO_GATES}[limits]\nper_second = 100.0\nburst = 20\n")
}

#[tokio::test]
async fn a_relay_that_dies_and_comes_back_loses_nobody() {
    const READERS: usize = 1000;
    let mut sink = Sink::with("", &["--latency", "15ms"]).await;
    let scene = Scene::new(&[&sink], &slow()).await;
    scene.import(READERS);
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    for (kill, until_then) in [READERS / 10, READERS / 2].into_iter().enumerate() {
        sink.accepts(until_then).await;
        sink.kill();
        until("the daemon sees that the relay is gone", async || {
            let noticed = daemon.log().matches("a relay cannot be used").count();
            (noticed > kill).then_some(())
        })
        .await;
        sink.start().await;
    }
    scene.reaches(IssueState::Sent).await;
    drop(daemon);
    let outcome = check(&scene, &[&sink], READERS, Kills::of_sink(2)).await;
    println!("{outcome:?}");
    let known = outcome.count(CopyState::Accepted) + outcome.count(CopyState::Uncertain);
    assert_eq!(known, READERS, "{outcome:?}");
}

#[tokio::test]
async fn a_relay_that_ends_sessions_after_some_messages_is_not_asked_for_more() {
    const READERS: usize = 60;
    let faults = "[[rule]]\nstage = 'mail'\nmessage = { every = 5, to = 10 }\n\
                  reply = '421 4.7.0 Too many messages in this session'\nthen = 'close'\n";
    let sink = Sink::with(faults, &[]).await;
    let scene = Scene::new(&[&sink], &format!("{QUICK}{NO_GATES}")).await;
    configure(&scene, "connections = 8", "connections = 1");
    scene.import(READERS);
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    scene.reaches(IssueState::Sent).await;
    drop(daemon);
    let outcome = check(&scene, &[&sink], READERS, Kills::default()).await;
    assert_eq!(outcome.count(CopyState::Accepted), READERS, "{outcome:?}");
    let context = scene.context().await;
    let sql = "SELECT COUNT(*) FROM delivery WHERE attempt <> 1";
    let tried_again: i64 = context.db.query(sql).scalar().await.unwrap();
    context.db.close().await;
    assert_eq!(tried_again, 0, "the end of a session costs nobody a try");

    let records = sink.journal();
    let ended = records.iter().filter(|record| record.code == Some(421)).count();
    assert_eq!(ended, 2, "it was told twice");
    let mut carried = std::collections::BTreeMap::<u64, usize>::new();
    for record in records.iter().filter(|record| record.code == Some(250)) {
        *carried.entry(record.connection).or_default() += 1;
    }
    assert!(carried.values().all(|messages| *messages <= 4), "{carried:?}");
}

#[tokio::test]
async fn the_other_relay_takes_over() {
    const READERS: usize = 1000;
    let mut main = Sink::with("", &["--latency", "15ms"]).await;
    let spare = Sink::with("", &["--latency", "15ms"]).await;
    let scene = Scene::new(&[&main, &spare], &slow()).await;
    scene.import(READERS);
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    main.accepts(READERS / 10).await;
    main.kill();
    scene.reaches(IssueState::Sent).await;
    drop(daemon);
    let outcome = check(&scene, &[&main, &spare], READERS, Kills::of_sink(1)).await;
    println!("{} + {}; {outcome:?}", main.accepted(), spare.accepted());
    assert!(spare.accepted() > READERS / 4, "the spare relay took {}", spare.accepted());
    let known = outcome.count(CopyState::Accepted) + outcome.count(CopyState::Uncertain);
    assert_eq!(known, READERS, "{outcome:?}");
}

/// What mailboxes at `KIND.example` do, and what must become of their copies after how many tries.
const KINDS: [(&str, &str, CopyState, RangeInclusive<i64>); 15] = [
    ("fine", "", CopyState::Accepted, 1..=1),
    (
        "later",
        "stage = 'rcpt'\ntimes = 2\nreply = '450 4.2.0 Greylisted'",
        CopyState::Accepted,
        3..=3,
    ),
    ("gone", "stage = 'rcpt'\nreply = '550 5.1.1 No such user'", CopyState::Rejected, 1..=1),
    ("data", "stage = 'data'\ntimes = 1\nreply = '451 4.3.0 Busy'", CopyState::Accepted, 2..=2),
    (
        "leaves",
        "stage = 'rcpt'\ntimes = 1\nreply = '421 4.3.2 Going down'\nthen = 'close'",
        CopyState::Accepted,
        2..=2,
    ),
    // Hung up on without a word: an attempt only if the envelope was not opened ahead.
    ("mute", "stage = 'rcpt'\ntimes = 1\ncut = 0\nthen = 'close'", CopyState::Accepted, 1..=2),
    ("shut", "stage = 'data'\ntimes = 1\ncut = 0\nthen = 'close'", CopyState::Accepted, 1..=2),
    // A message this small has left with its dot before the end of the connection is seen.
    (
        "body",
        "stage = 'body'\nafter_bytes = 200\ncut = 0\nthen = 'close'",
        CopyState::Uncertain,
        1..=1,
    ),
    ("dot4", "stage = 'dot'\ntimes = 1\nreply = '452 4.3.1 Full'", CopyState::Accepted, 2..=2),
    ("dot5", "stage = 'dot'\nreply = '554 5.6.0 Not like this'", CopyState::Rejected, 1..=1),
    (
        "lost",
        "stage = 'dot'\naccepted = true\ncut = 0\nthen = 'close'",
        CopyState::Uncertain,
        1..=1,
    ),
    (
        "half",
        "stage = 'dot'\naccepted = true\ncut = 2\nthen = 'close'",
        CopyState::Uncertain,
        1..=1,
    ),
    ("drop", "stage = 'dot'\ncut = 0\nthen = 'close'", CopyState::Uncertain, 1..=1),
    ("reset", "stage = 'dot'\ncut = 0\nthen = 'reset'", CopyState::Uncertain, 1..=1),
    ("bare", "stage = 'dot'\nshape = 'bare-lf'", CopyState::Accepted, 1..=1),
];

#[tokio::test]
async fn every_fault_has_its_outcome_and_no_copy_is_sent_twice() {
    const EACH: usize = 24;
    let mut faults = String::new();
    for (kind, rule, _, _) in KINDS.iter().filter(|kind| !kind.1.is_empty()) {
        let _ = writeln!(faults, "[[rule]]\nrecipient = '*@{kind}.example'\n{rule}\n");
    }
    let sink = Sink::with(&faults, &[]).await;
    // More than half of these mailboxes break the connection: the relay's breaker is right to open.
    let soon =
        "[breakers]\nthrottle_for = \"200ms\"\nopen_for = \"200ms\"\nopen_for_max = \"1s\"\n";
    let scene = Scene::new(&[&sink], &format!("{QUICK}{NO_GATES}{soon}")).await;
    let mut rows = String::from("address,name\n");
    for number in 0..EACH * KINDS.len() {
        let kind = KINDS[number % KINDS.len()].0;
        let _ = writeln!(rows, "reader{number:05}@{kind}.example,{}", name(number));
    }
    scene.import_rows(&rows);
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    scene.reaches(IssueState::Sent).await;
    drop(daemon);
    let audience = EACH * KINDS.len();
    let outcome = check(&scene, &[&sink], audience, Kills::default()).await;
    println!("{outcome:?}");

    let context = scene.context().await;
    let found: Vec<(String, i64, i64)> = context
        .db
        .query(
            "SELECT p.address, d.state, d.attempt FROM delivery d \
             JOIN subscriber p ON p.id = d.subscriber_id",
        )
        .all()
        .await
        .unwrap();
    for (kind, _, state, attempts) in &KINDS {
        let domain = format!("@{kind}.example");
        let of_kind = found.iter().filter(|(address, _, _)| address.ends_with(&domain));
        let mut counted = 0;
        for (address, found, tries) in of_kind {
            let found = CopyState::try_from(*found).unwrap();
            assert_eq!(found, *state, "{address}");
            assert!(attempts.contains(tries), "{tries} attempts: {address}");
            counted += 1;
        }
        assert_eq!(counted, EACH, "{kind}");
    }
    context.db.close().await;
}

#[tokio::test]
async fn a_block_at_the_canary_halts_the_send_with_its_figures() {
    const READERS: usize = 1000;
    let blocked = "[[rule]]\nstage = 'rcpt'\nshare = 0.2\n\
                   reply = '550 5.7.1 Blocked for its reputation'\n";
    let mut sink = Sink::with(blocked, &[]).await;
    let scene = Scene::new(&[&sink], QUICK).await;
    let mut rows = String::from("address,name\n");
    for number in 0..READERS {
        let _ = writeln!(rows, "reader{number:05}@example.org,{}", name(number));
    }
    scene.import_rows(&rows);
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    scene.reaches(IssueState::Halted).await;
    let status = scene.status();
    let halt = &status["halt"];
    assert_eq!(halt["gate"], "policy", "{status}");
    // Three refusals, or two among twenty and a few more, which is enough to prove over 1 %.
    assert!(halt["hits"].as_i64().unwrap() >= 2, "{status}");
    assert!(halt["sample"].as_i64() >= halt["hits"].as_i64(), "{status}");
    let reply = halt["replies"][0].as_str().unwrap();
    assert!(reply.starts_with("550 5.7.1 Blocked for its reputation ("), "{status}");
    // The canary is fifty readers: nobody else was troubled.
    assert!(sink.journal().len() <= 50, "{} transactions", sink.journal().len());

    let error = scene.house.run(&["issue", "resume", "1", "--yes"]).fails(3);
    assert!(error.contains("--reason"), "{error}");
    // The block is lifted; what is left of it in the figures is for the operator to judge.
    crate::course::quiet(&scene).await;
    sink.recover().await;
    let context = scene.context().await;
    let mut resumed = 0;
    until("the issue is sent", async || {
        let sql = "SELECT state FROM issue";
        let state: IssueState = context.db.query(sql).scalar().await.unwrap();
        if state == IssueState::Halted {
            resumed += 1;
            scene.issue("resume", &["--yes", "--reason", "the block was lifted"]);
        }
        (state == IssueState::Sent).then_some(())
    })
    .await;
    assert!(resumed <= 4, "resumed {resumed} times");
    context.db.close().await;
    drop(daemon);
    let outcome = check(&scene, &[&sink], READERS, Kills::default()).await;
    println!("resumed {resumed} times; {outcome:?}");
    let rejected = outcome.count(CopyState::Rejected);
    assert!((2..=50).contains(&rejected), "{outcome:?}");
    assert_eq!(outcome.count(CopyState::Accepted), READERS - rejected, "{outcome:?}");
}

/// Changes the configuration of a scene.
fn configure(scene: &Scene, from: &str, to: &str) {
    let path = scene.house.path("config.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    assert!(config.contains(from), "{from} is not in {config}");
    std::fs::write(&path, config.replace(from, to)).unwrap();
}

/// When the log tells of events of a kind, the first first.
async fn told(scene: &Scene, kind: EventKind) -> Vec<i64> {
    let context = scene.context().await;
    let sql = "SELECT at FROM event WHERE kind = $1 ORDER BY id";
    let rows: Vec<(i64,)> = context.db.query(sql).bind(kind).all().await.unwrap();
    context.db.close().await;
    rows.into_iter().map(|(at,)| at).collect()
}

#[tokio::test]
async fn the_first_relay_has_everything_until_it_dies_and_again_when_it_is_back() {
    const READERS: usize = 1500;
    let mut main = Sink::with("", &["--latency", "5ms"]).await;
    let spare = Sink::with("", &["--latency", "5ms"]).await;
    // There has to be work left when the first one is back, on a busy machine too.
    let slower = slow().replace("per_second = 100.0", "per_second = 80.0");
    let scene = Scene::new(&[&main, &spare], &slower).await;
    configure(&scene, "name = \"spare\"", "name = \"spare\"\npriority = 1");
    scene.import(READERS);
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    main.accepts(READERS / 10).await;
    assert_eq!(spare.accepted(), 0, "the other relay is only there in case of need");
    main.kill();
    spare.accepts(READERS / 10).await;
    main.start().await;
    until("the first relay is used again", async || {
        (!told(&scene, EventKind::BreakerClosed).await.is_empty()).then_some(())
    })
    .await;
    let taken = spare.accepted();
    main.accepts(main.accepted() + READERS / 10).await;
    // What the other one had in hand when the first came back.
    assert!(spare.accepted() <= taken + 40, "{} after {taken}", spare.accepted());
    scene.reaches(IssueState::Sent).await;
    drop(daemon);
    assert!(!told(&scene, EventKind::BreakerOpened).await.is_empty());
    let outcome = check(&scene, &[&main, &spare], READERS, Kills::of_sink(1)).await;
    let known = outcome.count(CopyState::Accepted) + outcome.count(CopyState::Uncertain);
    assert_eq!(known, READERS, "{outcome:?}");
}

#[tokio::test]
async fn a_breaker_holds_one_provider_up_and_tries_it_out_with_exactly_one_message() {
    const EACH: usize = 300;
    const RULES: &str = "[[rule]]\nname = \"asleep\"\nfault = \"rate\"\nreason = \"too-fast\"\n\
        any = [\"the provider sleeps\"]\nexample = [{ text = \"the provider sleeps\" }]\n\
        action = { do = \"open\", threshold = 1, within = \"1m\", for = \"3s\" }\n";
    let asleep = "[[rule]]\nstage = 'rcpt'\nrecipient = '*@gmail.com'\n\
                  reply = '450 4.7.9 The provider sleeps'\n";
    let mut sink = Sink::with(asleep, &[]).await;
    let scene = Scene::new(&[&sink], &format!("{QUICK}stages_percent = []\n{NO_GATES}")).await;
    configure(&scene, "public_url", "rules_file = \"rules.toml\"\npublic_url");
    std::fs::write(scene.house.path("rules.toml"), RULES).unwrap();
    let mut rows = String::from("address,name\n");
    for number in 0..2 * EACH {
        let domain = ["gmail.com", "example.org"][number % 2];
        let _ = writeln!(rows, "reader{number:05}@{domain},{}", name(number));
    }
    scene.import_rows(&rows);
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    let opened = until("the breaker opens again", async || {
        let opened = told(&scene, EventKind::BreakerOpened).await;
        (opened.len() >= 2).then_some(opened)
    })
    .await;
    sink.accepts(EACH).await;
    // What was being handed off when it opened is soon; the next message is after three seconds.
    let context = scene.context().await;
    let handed = "SELECT w.at_us FROM witness w JOIN subscriber p ON p.id = w.subscriber_id \
         WHERE p.address LIKE '%@gmail.com' AND w.at_us <= $1 ORDER BY w.at_us";
    let handed: Vec<(i64,)> = context.db.query(handed).bind(opened[1]).all().await.unwrap();
    context.db.close().await;
    let late = handed.iter().filter(|(at,)| *at > opened[0] + 1_500_000).count();
    assert_eq!(late, 1, "messages to a half-open provider: {handed:?} after {opened:?}");
    until("it is shown", async || {
        let relays = scene.house.run(&["relay", "list", "--json"]).json();
        (relays[0]["state"]["breakers"][1]["provider"] == "google").then_some(())
    })
    .await;
    until("the status says what it waits for", async || {
        let status = scene.status();
        let limited = status["limited_by"].as_str()?;
        limited.contains("provider google at relay main").then_some(())
    })
    .await;

    // It wakes up.
    sink.recover().await;
    scene.reaches(IssueState::Sent).await;
    drop(daemon);
    let outcome = check(&scene, &[&sink], 2 * EACH, Kills::of_sink(1)).await;
    assert_eq!(outcome.count(CopyState::Accepted), 2 * EACH, "{outcome:?}");
    let context = scene.context().await;
    let sql = "SELECT COUNT(*) FROM delivery WHERE attempt > 1";
    let tried_again: i64 = context.db.query(sql).scalar().await.unwrap();
    context.db.close().await;
    assert!(tried_again <= 60, "waiting costs no try, but {tried_again} copies had more than one");
}

#[tokio::test]
async fn a_reply_after_which_nothing_should_be_sent_halts_the_issue() {
    let paused = "[[rule]]\nstage = 'dot'\nreply = '554 Sending paused for this account.'\n";
    let sink = Sink::with(paused, &[]).await;
    let scene = Scene::new(&[&sink], &format!("{QUICK}{NO_GATES}")).await;
    scene.import(200);
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    scene.reaches(IssueState::Halted).await;
    let status = scene.status();
    assert_eq!(status["halt"]["gate"], "reply_rule", "{status}");
    assert!(status["halt"]["replies"][0].as_str().unwrap().contains("Sending paused"), "{status}");
    drop(daemon);
}

#[tokio::test]
async fn one_token_of_a_command_logs_every_connection_in() {
    let sink = Sink::with("", &["--auth"]).await;
    let scene = Scene::new(&[&sink], &format!("{QUICK}{NO_GATES}")).await;
    let runs = scene.house.path("runs");
    let command = format!("echo run >> {}; echo a-token", runs.display());
    let login = format!(
        "name = \"main\"\nauth = \"xoauth2\"\nusername = \"news\"\n\
         token_command = [\"sh\", \"-c\", \"{command}\"]"
    );
    configure(&scene, "name = \"main\"", &login);
    scene.import(200);
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    scene.reaches(IssueState::Sent).await;
    assert!(!daemon.log().contains("a-token"), "a token in the log");
    drop(daemon);
    let outcome = check(&scene, &[&sink], 200, Kills::default()).await;
    assert_eq!(outcome.count(CopyState::Accepted), 200, "{outcome:?}");
    assert_eq!(std::fs::read_to_string(runs).unwrap(), "run\n", "one token for all");
}
