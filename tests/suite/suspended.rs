//! A daemon that is stopped past its lease and wakes up in a world that went on without it.

use std::collections::BTreeSet;

use postrider::{
    cli::Context,
    db::state::{CopyState, IssueState},
    delivery::{
        control::{self, Resolution},
        journal,
    },
    fail_point,
    id::{CopyId, NewsletterId, SubscriberId},
    sink::journal::Verdict,
    timestamp::Timestamp,
};

use crate::{
    checker::{Kills, check},
    harness::{Daemon, ISSUE, NO_GATES, QUICK, Scene, Sink, until},
};

const READERS: usize = 600;

/// What another node does with the copies of one whose lease ran out: claimed ones are queued
/// again, handed-off ones are uncertain, and an operator has those sent again. Only copies whose dot
/// did not leave are taken over, so that each of them must come exactly once. Returns them.
async fn take_over(scene: &Scene, context: &Context) -> BTreeSet<i64> {
    let db = &context.db;
    let now = Timestamp::now();
    let remains = journal::read(&context.config.journal_file()).unwrap().unwrap();
    db.write("UPDATE delivery SET state = 0, due_at = $1 WHERE state = 1")
        .bind(now)
        .execute()
        .await
        .unwrap();
    let newsletter = NewsletterId(1);
    let edition = control::find(db, newsletter, ISSUE).await.unwrap().unwrap();
    let held: Vec<(i64,)> = db
        .query("SELECT subscriber_id FROM delivery WHERE state = 2 ORDER BY subscriber_id")
        .all()
        .await
        .unwrap();
    let mut taken = BTreeSet::new();
    for (subscriber,) in held {
        let copy = CopyId::Issue { issue: edition.id, subscriber: SubscriberId(subscriber) };
        if remains.entries.contains_key(&copy) {
            continue;
        }
        let mut tx = db.begin().await.unwrap();
        for sql in [
            "UPDATE delivery SET state = 5, attempt = attempt + 1 WHERE subscriber_id = $1",
            "INSERT INTO event (at, kind, issue_id, subscriber_id, attempt) \
             SELECT 0, 5, issue_id, subscriber_id, attempt FROM delivery WHERE subscriber_id = $1",
        ] {
            tx.query(sql).bind(subscriber).execute().await.unwrap();
        }
        tx.commit().await.unwrap();
        let (how, id) = (Resolution::Resend, SubscriberId(subscriber));
        let resolved = control::resolve(db, &edition, id, how, "ada", "nobody has it", now).await;
        assert!(resolved.unwrap());
        taken.insert(subscriber);
    }
    println!("{} copies were taken over; {}", taken.len(), scene.status()["state"]);
    taken
}

#[tokio::test]
async fn a_daemon_that_wakes_past_its_lease_sends_nothing_it_had_handed_off() {
    let sink = Sink::with("", &["--latency", "20ms"]).await;
    let options =
        format!("{QUICK}lease = \"8s\"\n{NO_GATES}[limits]\nper_second = 200.0\nburst = 20\n");
    let scene = Scene::new(&[&sink], &options).await;
    scene.import(READERS);
    scene.send().ok();
    let place = [(fail_point::VARIABLE, "handoff.committed:12=stop")];
    let mut daemon = Daemon::start_under(&scene, &[], &place);
    until("the daemon is stopped", async || daemon.is_stopped().then_some(())).await;
    let context = scene.context().await;
    until("its lease runs out", async || {
        let sql = "SELECT MAX(lease_until) FROM node";
        let until: Timestamp = context.db.query(sql).scalar().await.unwrap();
        (until < Timestamp::now()).then_some(())
    })
    .await;
    let taken = take_over(&scene, &context).await;
    assert!(!taken.is_empty(), "nothing was handed off when it stopped");
    daemon.signal("CONT");
    scene.reaches(IssueState::Sent).await;
    let log = daemon.log();
    assert!(log.contains("the lease ran out"), "{log}");
    daemon.terminate();
    let outcome = check(&scene, &[&sink], READERS, Kills::default()).await;
    assert_eq!(outcome.count(CopyState::Accepted), READERS, "{outcome:?}");
    let mut came = std::collections::BTreeMap::<String, usize>::new();
    for record in sink.journal().into_iter().filter(|r| r.verdict == Verdict::Accepted) {
        *came.entry(record.rcpt_to[0].clone()).or_default() += 1;
    }
    for subscriber in taken {
        let sql = "SELECT address FROM subscriber WHERE id = $1";
        let address: String = context.db.query(sql).bind(subscriber).scalar().await.unwrap();
        assert_eq!(came[&address], 1, "{address} was taken over, and came from both");
    }
    context.db.close().await;
}
