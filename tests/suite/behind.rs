//! A provider that is down, or refuses for now because of the mail, while a send is staged: the others
//! do not wait for the first, and nobody gets more after the second.

use std::fmt::Write as _;

use postrider::db::state::{CopyState, EventKind, IssueState};

use crate::{
    checker::{Kills, check},
    harness::{Daemon, NO_GATES, Scene, Sink, name, until},
};

/// Three stages that soak for a second, and breakers that are soon tried out.
const STAGED: &str = "[sending]\nundo_window = \"0s\"\nsoak = \"1s\"\nretry_delays = [\"500ms\"]\n\
     stages_percent = [20.0, 50.0]\nimport_percent = 100.0\n\
     [breakers]\nthrottle_for = \"1s\"\nopen_for = \"1s\"\nopen_for_max = \"1s\"\n";
/// Readers at each of two providers.
const EACH: usize = 200;

fn faults(reply: &str) -> String {
    format!("[[rule]]\nstage = 'rcpt'\nrecipient = '*@gmail.com'\nreply = '{reply}'\n")
}

async fn scene(sink: &Sink, more: &str) -> Scene {
    let scene = Scene::new(&[sink], &format!("{STAGED}{more}")).await;
    let mut rows = String::from("address,name\n");
    for number in 0..2 * EACH {
        let domain = ["gmail.com", "example.org"][number % 2];
        let _ = writeln!(rows, "reader{number:05}@{domain},{}", name(number));
    }
    scene.import_rows(&rows);
    scene
}

/// Numbers from the database.
async fn numbers(scene: &Scene, sql: &'static str) -> Vec<i64> {
    numbers_of(scene, sql, None).await
}

/// The same about one stage.
async fn numbers_of(scene: &Scene, sql: &'static str, stage: Option<i64>) -> Vec<i64> {
    let context = scene.context().await;
    let query = context.db.query(sql);
    let query = if let Some(stage) = stage { query.bind(stage) } else { query };
    let rows: Vec<(i64,)> = query.all().await.unwrap();
    context.db.close().await;
    rows.into_iter().map(|(number,)| number).collect()
}

/// Where the status says that Google stays, once the others have everything.
async fn left_behind(scene: &Scene, sink: &Sink) -> serde_json::Value {
    sink.accepts(EACH).await;
    let status = scene.status();
    let providers = status["providers"].as_array().unwrap();
    let google = providers.iter().find(|row| row["provider"] == "google").unwrap();
    assert_eq!(google["stays_at"], 1, "{status}");
    assert_eq!(google["equation"]["accepted"], 0, "{status}");
    let next = status["next"].as_str().unwrap();
    assert!(next.contains("Google stays at stage “20 %” until that is decided there"), "{next}");
    assert_eq!(status["state"], "sending", "{status}");
    status
}

#[tokio::test]
async fn nobody_waits_for_a_provider_that_is_down_and_it_comes_after_stage_by_stage() {
    let mut sink = Sink::with(&faults("450 4.3.2 The system takes no mail now"), &[]).await;
    let scene = scene(&sink, NO_GATES).await;
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    left_behind(&scene, &sink).await;
    // What it was offered meanwhile is its own part of the first stage and no more.
    let offered = "SELECT DISTINCT d.stage FROM witness w JOIN delivery d \
         ON d.subscriber_id = w.subscriber_id JOIN subscriber p ON p.id = d.subscriber_id \
         WHERE p.address LIKE '%@gmail.com'";
    assert_eq!(numbers(&scene, offered).await, [1]);
    daemon.terminate();

    // It is behind after a restart too; then it wakes up.
    let daemon = Daemon::spawn(&scene).await;
    crate::stages::looked_at(&scene).await;
    assert_eq!(numbers(&scene, offered).await, [1]);
    sink.recover().await;
    scene.reaches(IssueState::Sent).await;
    drop(daemon);
    let outcome = check(&scene, &[&sink], 2 * EACH, Kills::of_sink(1)).await;
    assert_eq!(outcome.count(CopyState::Accepted), 2 * EACH, "{outcome:?}");

    // No stage reached it before the one in front was decided there.
    for stage in [1, 2] {
        let decided = "SELECT e.at FROM event e JOIN delivery d \
             ON d.subscriber_id = e.subscriber_id \
             WHERE e.kind = 2 AND e.provider = d.provider AND d.stage = $1 AND d.provider = \
             (SELECT provider FROM subscriber WHERE address LIKE '%@gmail.com') ORDER BY e.at";
        let first = "SELECT MIN(w.at_us) FROM witness w JOIN delivery d \
             ON d.subscriber_id = w.subscriber_id JOIN subscriber p ON p.id = d.subscriber_id \
             WHERE p.address LIKE '%@gmail.com' AND d.stage = $1";
        let decided = numbers_of(&scene, decided, Some(stage)).await;
        let enough = decided[(decided.len() * 95).div_ceil(100) - 1];
        let first = numbers_of(&scene, first, Some(stage + 1)).await[0];
        // It soaks for a second, too, by a clock that need not go exactly as this one does.
        assert!(first >= enough + 990_000, "{first} after {enough}");
    }
    assert_eq!(numbers(&scene, "SELECT provider FROM held_provider").await, [0; 0]);
}

#[tokio::test]
async fn a_provider_that_refuses_for_now_because_of_the_mail_halts_the_send() {
    let sink = Sink::with(&faults("450 4.7.1 Put off because of its reputation"), &[]).await;
    // By their number: two would do by their share, where others had twenty copies by then.
    let scene = scene(&sink, "[gates]\npolicy_percent = 100.0\n").await;
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    scene.reaches(IssueState::Halted).await;
    let status = scene.status();
    let halt = &status["halt"];
    assert_eq!((&halt["gate"], &halt["provider"]), (&"policy".into(), &"google".into()), "{halt}");
    assert!(halt["hits"].as_i64().unwrap() >= 3, "{halt}");
    assert_eq!(halt["said"], "they were put off, not refused for good", "{halt}");
    let reply = halt["replies"][0].as_str().unwrap();
    assert!(reply.starts_with("450 4.7.1 Put off because of its reputation ("), "{halt}");
    let others = status["providers"].as_array().unwrap().iter();
    let others: i64 = others.map(|row| row["equation"]["accepted"].as_i64().unwrap()).sum();
    assert!(others < 80, "the first stage alone went to the others: {status}");

    // An operator who knows better goes on: the others get theirs, and the provider stays.
    scene.issue("resume", &["--yes", "--reason", "it is their filter's fault"]);
    left_behind(&scene, &sink).await;
    scene.issue("cancel", &["--yes", "--reason", "enough"]);
    until("the issue is cancelled", async || {
        let told = "SELECT COUNT(*) FROM event WHERE kind = $1";
        let context = scene.context().await;
        let query = context.db.query(told).bind(EventKind::Cancelled);
        let told: i64 = query.scalar().await.unwrap();
        context.db.close().await;
        (told > 0).then_some(())
    })
    .await;
    scene.reaches(IssueState::Cancelled).await;
    drop(daemon);
    check(&scene, &[&sink], 2 * EACH, Kills::default()).await;
    assert_eq!(numbers(&scene, "SELECT provider FROM held_provider").await, [0; 0]);
}
