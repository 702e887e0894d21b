//! What people and gates do to a send between its stages: halt, widen, approve, warn, hold what came
//! too late, stage an imported audience smaller, start once per key.

use std::{
    fs,
    time::{Duration, Instant},
};

use postrider::{
    db::state::{CopyState, EventKind, IssueState},
    timestamp::Timestamp,
};
use serde_json::Value;

use crate::{
    checker::{Kills, check},
    harness::{Daemon, Scene, Sink, address, until},
    installation::Ran,
};

/// No undo window, and a soak that no test waits for.
pub(crate) const STAGED: &str = "[sending]\nundo_window = \"0s\"\nsoak = \"1h\"\n";

/// Asks for the send of an issue that [`Scene::send`] does not write.
fn send(scene: &Scene, number: i64, more: &[&str]) -> Ran {
    let text = format!(
        "---\nnumber: {number}\ndate: 2026-03-06\npreheader: What we read.\n---\n\nHello.\n\n\
         ## [An outage]({}/{number})\n\nIt was over soon.\n\n— Maren Holt — Example Rail\n",
        "https://example.org/outage"
    );
    fs::write(scene.house.path("other.md"), text).unwrap();
    let how = ["--yes", "--allow-warnings", "--json"];
    scene.house.run(["issue", "send", "other.md"].iter().chain(&how).chain(more))
}

/// Runs a command in the name of another user.
fn as_user(scene: &Scene, user: &str, args: &[&str]) -> Ran {
    let output = scene.house.command(args).env("USER", user).output().unwrap();
    Ran {
        code: output.status.code().unwrap(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Waits until the daemon has looked at everything a few times after now.
pub(crate) async fn looked_at(scene: &Scene) {
    let context = scene.context().await;
    let begin = Timestamp::now();
    until("the daemon looked around", async || {
        let sql = "SELECT value FROM meta WHERE name = 'engine_state'";
        let state: Option<String> = context.db.query(sql).optional_scalar().await.unwrap();
        let state: Value = serde_json::from_str(&state?).unwrap();
        let at: Timestamp = serde_json::from_value(state["at"].clone()).unwrap();
        (at.since(begin) > Duration::from_secs(1)).then_some(())
    })
    .await;
    context.db.close().await;
}

/// Waits until every copy of a stage was accepted, and says how many there are. Readers are dealt over
/// the stages at random, so that a small one has some more or some less than planned.
pub(crate) async fn through(scene: &Scene, stage: usize) -> usize {
    until(&format!("stage {stage} is through"), async || {
        let stage = &scene.status()["stages"][stage];
        let accepted = stage["equation"]["accepted"].as_u64()? as usize;
        (stage["released"] == true && stage["size"] == accepted).then_some(accepted)
    })
    .await
}

async fn audited(scene: &Scene, action: &str) -> Vec<(String, String)> {
    let context = scene.context().await;
    let sql = "SELECT actor, detail FROM audit WHERE action = $1 ORDER BY id";
    let acts = context.db.query(sql).bind(action.to_owned()).all().await.unwrap();
    context.db.close().await;
    acts
}

#[tokio::test]
async fn a_halted_send_widens_by_one_stage_at_a_time() {
    const READERS: usize = 400;
    let sink = Sink::spawn().await;
    let scene = Scene::new(&[&sink], STAGED).await;
    scene.import(READERS);
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    // The seed list is empty; an imported audience begins with a stage of some five.
    let first = through(&scene, 1).await;
    scene.house.run(&["issue", "halt", "1"]).fails(2);
    scene.issue("halt", &["--reason", "the sponsor called"]);
    let status = scene.status();
    assert_eq!((&status["state"], &status["halt"]["gate"]), (&"halted".into(), &"by_hand".into()));
    assert_eq!(status["halt"]["said"], "the sponsor called (cli:ada)");
    let text = scene.house.run(&["issue", "status", "1"]).ok();
    assert!(text.contains("halted:      an operator halted it: the sponsor called"), "{text}");

    let error = scene.house.run(&["issue", "widen", "1", "--yes", "--reason", " "]).fails(3);
    assert!(error.contains("say why"), "{error}");
    scene.issue("widen", &["--yes", "--reason", "look at fifty"]);
    scene.reaches(IssueState::Halted).await;
    let status = scene.status();
    assert_eq!(status["halt"]["gate"], "widened", "{status}");
    let second = through(&scene, 2).await;
    assert_eq!(sink.accepted(), first + second, "that stage, and no other");
    let released: Vec<bool> = status["stages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stage| stage["released"].as_bool().unwrap())
        .collect();
    assert_eq!(released, [true, true, true, false]);

    scene.issue("widen", &["--yes", "--reason", "all is well"]);
    scene.reaches(IssueState::Sent).await;
    drop(daemon);
    let outcome = check(&scene, &[&sink], READERS, Kills::default()).await;
    assert_eq!(outcome.count(CopyState::Accepted), READERS, "{outcome:?}");
    let by = |detail: &str| ("cli:ada".to_owned(), detail.to_owned());
    let expected = [by("stage 2: look at fifty"), by("stage 3: all is well")];
    assert_eq!(audited(&scene, "issue.widen").await, expected);
    assert_eq!(audited(&scene, "issue.halt").await, [by("the sponsor called")]);
}

#[tokio::test]
async fn widening_skips_the_rest_of_the_soak() {
    const READERS: usize = 200;
    let sink = Sink::spawn().await;
    let scene = Scene::new(&[&sink], STAGED).await;
    scene.import(READERS);
    let _daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    through(&scene, 1).await;
    for stage in ["2", "3"] {
        let how = ["issue", "widen", "1", "--yes", "--reason", "in a hurry"];
        let said = scene.house.run(&how).ok_stderr();
        assert!(said.contains(&format!("stage {stage} is released")), "{said}");
    }
    let error = scene.house.run(&["issue", "widen", "1", "--yes", "--reason", "more"]).fails(3);
    assert!(error.contains("no stage left") || error.contains("is sent"), "{error}");
    scene.reaches(IssueState::Sent).await;
    assert_eq!(sink.accepted(), READERS);
}

/// The daemon is about to release a stage when an operator pauses: whoever comes first has it, and here
/// that is the operator.
#[tokio::test]
async fn a_pause_that_comes_before_the_release_of_a_stage_holds_it() {
    const READERS: usize = 120;
    const SOAK: Duration = Duration::from_secs(6);
    let sink = Sink::spawn().await;
    let options = format!(
        "[sending]\nundo_window = \"0s\"\nsoak = \"{}s\"\nstages_percent = [50.0]\n\
         import_percent = 100.0\n",
        SOAK.as_secs()
    );
    let scene = Scene::new(&[&sink], &options).await;
    scene.import(READERS);
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    let first = through(&scene, 1).await;
    let context = scene.context().await;
    // While somebody else writes, the daemon can decide to release the stage and has to wait with it.
    let mut held = context.db.begin().await.unwrap();
    let since = Instant::now();
    let enough = SOAK + Duration::from_secs(2);
    until("the stage has soaked", async || (since.elapsed() > enough).then_some(())).await;
    let stage: i64 = held.query("SELECT stage FROM issue").scalar().await.unwrap();
    assert_eq!(stage, 1, "the lock came too late");
    held.query("UPDATE issue SET state = $1").bind(IssueState::Paused).execute().await.unwrap();
    held.commit().await.unwrap();
    looked_at(&scene).await;
    let released = "SELECT COUNT(*) FROM event WHERE kind = $1 AND text LIKE 'stage 2%'";
    let released = context.db.query(released).bind(EventKind::StageReleased);
    assert_eq!(released.scalar::<i64>().await.unwrap(), 0, "released in the middle of a pause");
    assert_eq!((scene.status()["state"].as_str(), sink.accepted()), (Some("paused"), first));
    scene.issue("resume", &[]);
    scene.reaches(IssueState::Sent).await;
    daemon.terminate();
    let outcome = check(&scene, &[&sink], READERS, Kills::default()).await;
    assert_eq!(outcome.count(CopyState::Accepted), READERS, "{outcome:?}");
    context.db.close().await;
}

/// Half an audience has the issue; then `hits` of its readers do what an event of `kind` says. Returns
/// why the send halted.
async fn late_signals(scene: &Scene, kind: EventKind, hits: i64) -> Value {
    scene.import(200);
    let daemon = Daemon::spawn(scene).await;
    scene.send().ok();
    assert!(through(scene, 1).await > 60);
    daemon.terminate();
    let context = scene.context().await;
    let signals = "INSERT INTO event (at, kind, issue_id, subscriber_id, provider) \
         SELECT $1, $2, d.issue_id, d.subscriber_id, d.provider FROM delivery d \
         JOIN issue i ON i.id = d.issue_id WHERE i.number = 1 AND d.state = 3 LIMIT $3";
    let signals = context.db.write(signals).bind(Timestamp::now()).bind(kind).bind(hits);
    signals.execute().await.unwrap();
    context.db.close().await;
    let _daemon = Daemon::spawn(scene).await;
    scene.reaches(IssueState::Halted).await;
    scene.status()["halt"].clone()
}

#[tokio::test]
async fn complaints_that_come_later_halt_between_stages() {
    let sink = Sink::spawn().await;
    let options = format!("{STAGED}stages_percent = [50.0]\nimport_percent = 100.0\n");
    let scene = Scene::new(&[&sink], &options).await;
    let halt = late_signals(&scene, EventKind::Complained, 4).await;
    assert_eq!(halt["gate"], "complaints", "{halt}");
    assert!(halt["hits"].as_i64().unwrap() >= 2, "{halt}");
}

#[tokio::test]
async fn readers_who_leave_in_numbers_halt_a_newsletter_with_a_history() {
    let sink = Sink::spawn().await;
    let options = format!("{STAGED}stages_percent = [50.0]\nimport_percent = 100.0\n");
    let scene = Scene::new(&[&sink], &options).await;
    // After each of three earlier issues one reader of a hundred left: that is normal.
    let context = scene.context().await;
    for number in [101, 102, 103] {
        let issue = "INSERT INTO issue (uid, newsletter_id, number, subject, state, model, source, \
             created_at, started_at, finished_at, accepted) \
             VALUES ($1, 1, $1, '', $2, '{}', '', 0, 1, 2, 100) RETURNING id";
        let issue = context.db.write(issue).bind(number).bind(IssueState::Sent);
        let issue: i64 = issue.scalar().await.unwrap();
        let left = "INSERT INTO event (at, kind, issue_id, subscriber_id) VALUES (5, $1, $2, 1)";
        let left = context.db.write(left).bind(EventKind::Unsubscribed).bind(issue);
        left.execute().await.unwrap();
    }
    context.db.close().await;
    let halt = late_signals(&scene, EventKind::Unsubscribed, 14).await;
    assert_eq!((&halt["gate"], &halt["limit"]), (&"unsubscribes".into(), &3.0.into()), "{halt}");
}

#[tokio::test]
async fn a_share_of_dead_mailboxes_warns_before_it_halts() {
    let faults = "[[rule]]\nstage = \"rcpt\"\nrecipient = \"dead*\"\n\
                  reply = \"550 5.1.1 no such mailbox\"\n";
    let sink = Sink::with(faults, &[]).await;
    // In which order outcomes are counted is left to chance, and five of the first twenty may be dead.
    let options = "[sending]\nundo_window = \"0s\"\nsoak = \"0s\"\nstages_percent = []\n\
                   [gates]\nrecipient_percent = 75.0\n";
    let scene = Scene::new(&[&sink], options).await;
    let mut rows = String::from("address,name\n");
    for number in 0..1000 {
        let who = address(number);
        let dead = if number % 29 == 0 { "dead" } else { "" };
        rows.push_str(&[dead, &who, ",A Reader\n"].concat());
    }
    scene.import_rows(&rows);
    let _daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    scene.reaches(IssueState::Sent).await;
    let status = scene.status();
    let warnings = status["warnings"].as_array().unwrap();
    let of_the_issue = warnings.iter().find(|warning| warning["provider"].is_null()).unwrap();
    assert_eq!(
        (&of_the_issue["gate"], &of_the_issue["limit"]),
        (&"recipients".into(), &2.0.into())
    );
    let text = scene.house.run(&["issue", "status", "1"]).ok();
    assert!(text.contains("warning:     copies refused because the mailbox"), "{text}");
    let log = scene.house.run(&["delivery", "log", "--outcome", "warned", "--json"]).ok();
    assert!(log.contains("warns at 2 %"), "{log}");
}

#[tokio::test]
async fn nothing_leaves_before_somebody_else_approves() {
    const READERS: usize = 40;
    let sink = Sink::spawn().await;
    let options = "[sending]\nundo_window = \"0s\"\nsoak = \"0s\"\napproval = true\n";
    let scene = Scene::new(&[&sink], options).await;
    scene.import(READERS);
    let _daemon = Daemon::spawn(&scene).await;
    let asked = scene.send();
    assert!(asked.stderr.contains("waits for the approval"), "{}", asked.stderr);
    asked.ok();
    looked_at(&scene).await;
    let status = scene.status();
    assert_eq!(
        (&status["state"], &status["approval"]["waits"]),
        (&"scheduled".into(), &true.into())
    );
    let next = status["next"].as_str().unwrap();
    assert!(next.contains("somebody other than cli:ada: `postrider issue approve 1`"), "{next}");
    assert_eq!(sink.accepted(), 0);

    let error = scene.house.run(&["issue", "approve", "1"]).fails(3);
    assert!(error.contains("cannot approve of it too"), "{error}");
    as_user(&scene, "grace", &["issue", "approve", "1", "--reason", "read it twice"]).ok();
    scene.reaches(IssueState::Sent).await;
    assert_eq!(sink.accepted(), READERS);
    assert_eq!(scene.status()["approval"]["approved_by"], "cli:grace");
    let expected = [("cli:grace".to_owned(), "read it twice".to_owned())];
    assert_eq!(audited(&scene, "issue.approve").await, expected);
}

/// Waits until the send that was asked for is later than `seconds`.
async fn late_by(seconds: u64) {
    let begin = Instant::now();
    until("its time is past", async || (begin.elapsed().as_secs() >= seconds).then_some(())).await;
}

#[tokio::test]
async fn a_send_whose_time_was_missed_waits_for_an_operator() {
    let sink = Sink::spawn().await;
    let options = "[sending]\nundo_window = \"0s\"\nsoak = \"0s\"\nmissed_after = \"6s\"\n";
    let scene = Scene::new(&[&sink], options).await;
    scene.import(40);
    scene.send().ok();
    late_by(7).await;
    let _daemon = Daemon::spawn(&scene).await;
    scene.reaches(IssueState::Halted).await;
    let status = scene.status();
    assert_eq!(status["halt"]["gate"], "missed_schedule", "{status}");
    assert_eq!(status["audience"], 0, "nobody was planned for yet");
    let error = scene.house.run(&["issue", "resume", "1", "--yes"]).fails(3);
    assert!(error.contains("--reason"), "{error}");
    scene.issue("resume", &["--yes", "--reason", "better late than never"]);
    scene.reaches(IssueState::Sent).await;
    assert_eq!(sink.accepted(), 40);
}

#[tokio::test]
async fn a_send_whose_time_was_missed_begins_late_where_that_is_wanted() {
    let sink = Sink::spawn().await;
    let options = "[sending]\nundo_window = \"0s\"\nsoak = \"0s\"\nmissed_after = \"0s\"\n\
                   missed_schedule = \"send\"\n";
    let scene = Scene::new(&[&sink], options).await;
    scene.import(40);
    scene.send().ok();
    late_by(1).await;
    let _daemon = Daemon::spawn(&scene).await;
    scene.reaches(IssueState::Sent).await;
    assert_eq!(sink.accepted(), 40);
}

#[tokio::test]
async fn an_imported_audience_is_staged_smaller_once() {
    let sink = Sink::spawn().await;
    let quick = "[sending]\nundo_window = \"0s\"\nsoak = \"0s\"\n";
    let scene = Scene::new(&[&sink], quick).await;
    scene.import(500);
    let _daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    scene.reaches(IssueState::Sent).await;
    let sizes: Vec<i64> = scene.status()["stages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|stage| stage["size"].as_i64().unwrap())
        .collect();
    assert_eq!(sizes.len(), 4, "one stage more than usual: {sizes:?}");
    assert!(sizes[1] < 20, "{sizes:?}");
    let plan = || {
        fs::write(scene.house.path("next.md"), "---\nnumber: 2\n---\n\nHello.\n").unwrap();
        scene.house.run(&["issue", "plan", "next.md", "--json"]).json()
    };
    let next = plan();
    assert_eq!(next["stages"].as_array().unwrap().len(), 3, "{next}");
    assert!(next["imported"].is_null(), "{next}");
    let rows: String = (500..700).map(|number| address(number) + "\n").collect();
    scene.import_rows(&format!("address\n{rows}"));
    let next = plan();
    assert_eq!(next["imported"]["readers"], 200, "{next}");
    assert_eq!(next["stages"].as_array().unwrap().len(), 4, "{next}");
    let text = scene.house.run(&["issue", "plan", "next.md"]).ok();
    assert!(
        text.contains("staged smaller at first: 200 readers (29 %) were imported since"),
        "{text}"
    );
}

#[tokio::test]
async fn a_key_starts_one_send_for_good() {
    let sink = Sink::spawn().await;
    let scene = Scene::new(&[&sink], "").await;
    scene.import(40);
    let first = ["--idempotency-key", "week-7"];
    assert_eq!(send(&scene, 7, &first).json()["started"], true);
    assert_eq!(send(&scene, 7, &first).json()["started"], false);
    let error = send(&scene, 8, &first).fails(3);
    assert!(error.contains("was used for issue 7;"), "{error}");
    scene.house.run(&["issue", "undo", "7"]).ok();
    let error = send(&scene, 7, &first).fails(3);
    assert!(error.contains("taken back since"), "{error}");
    let second = ["--idempotency-key", "week-7-again"];
    assert_eq!(send(&scene, 7, &second).json()["started"], true);
    send(&scene, 9, &["--idempotency-key", "two words"]).fails(2);
}
