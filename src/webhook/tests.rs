//! Batches, signatures and waits, without a network.

use serde_json::Value;
use url::Url;

use super::*;
use crate::{
    config::Secret,
    db::state::EventKind,
    event::{self, Event},
    report::tests::House,
};

const NOW: Timestamp = Timestamp::from_microseconds(1_750_000_000_000_000);

fn hook(events: &[&str], addresses: bool) -> EventHook {
    EventHook {
        name: "crm".into(),
        url: Url::parse("http://127.0.0.1:9/").unwrap(),
        events: events.iter().map(|word| (*word).to_owned()).collect(),
        secret: Secret::Text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".into()),
        addresses,
        ca_file: None,
        timeout: Duration::from_secs(15),
        failing_after: Duration::from_hours(4),
    }
}

async fn read(house: &House, hook: &EventHook, after: i64, until: Option<i64>) -> Batch {
    Batch::read(&house.db, Providers::embedded(), hook, after, until).await.unwrap()
}

fn events_of(batch: &Batch) -> Vec<Value> {
    let body: Value = serde_json::from_slice(&batch.body).unwrap();
    assert_eq!(body["type"], "delivery.events");
    let events = body["events"].as_array().unwrap().clone();
    assert_eq!(events.len() as u64, batch.events);
    events
}

/// The example of the specification's reference implementation.
#[test]
fn signatures_are_those_of_the_specification() {
    let signer = Signer::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    let now = Timestamp::from_microseconds(1_614_265_330_000_000);
    let head = signer.head("msg_p5jXN8AQM9LWM0D4loKWxJek", now, b"{\"test\": 2432232314}");
    assert_eq!(head.timestamp, "1614265330");
    assert_eq!(head.signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
}

#[test]
fn a_secret_has_a_form_and_a_length() {
    for (secret, problem) in [
        ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "does not begin with whsec_"),
        ("whsec_not base64", "is not base64 after whsec_"),
        ("whsec_c2hvcnQ=", "needs 24 to 64 bytes"),
    ] {
        let error = Signer::new(secret).unwrap_err();
        assert!(error.starts_with(problem), "{secret}: {error}");
    }
}

#[tokio::test]
async fn batches_follow_each_other_without_gap_or_repeat() {
    let house = House::new(1000, NOW).await;
    let all = hook(&[], false);
    let (mut at, mut ids, mut batches) = (0, Vec::new(), Vec::new());
    loop {
        let batch = read(&house, &all, at, None).await;
        ids.extend(events_of(&batch).iter().map(|event| event["id"].as_i64().unwrap()));
        assert!(batch.events <= 500);
        batches.push((at, batch.up_to, batch.body.clone()));
        at = batch.up_to;
        if !batch.more {
            break;
        }
    }
    assert_eq!(ids, (1..=580).collect::<Vec<_>>());
    // What was begun before is made again as it was, although there is more by now.
    let mut tx = house.db.begin().await.unwrap();
    event::record(&mut tx, &[Event::new(EventKind::Paused, NOW)]).await.unwrap();
    tx.commit().await.unwrap();
    for (after, up_to, body) in batches {
        let again = read(&house, &all, after, Some(up_to)).await;
        assert_eq!((again.up_to, &again.body), (up_to, &body));
    }
}

#[tokio::test]
async fn only_what_is_wanted_is_posted_and_the_rest_passed_over() {
    let house = House::new(1000, NOW).await;
    let some = hook(&["rejected", "uncertain"], false);
    // Acceptances stand before what else was written with them.
    let last = read(&house, &some, 450, None).await;
    assert_eq!((last.up_to, last.newest, last.more), (580, 580, false));
    let kinds: Vec<Value> = events_of(&last).iter().map(|event| event["kind"].clone()).collect();
    assert!(!kinds.is_empty());
    assert!(kinds.iter().all(|kind| kind == "rejected" || kind == "uncertain"), "{kinds:?}");
    let none = read(&house, &hook(&["halted"], false), 0, None).await;
    assert_eq!((none.events, none.up_to, none.more), (0, 500, true));
}

#[tokio::test]
async fn addresses_are_for_those_who_may_have_them() {
    let house = House::new(100, NOW).await;
    house.set("UPDATE event SET text = 'no <reader50@example.org> here' WHERE kind = 4").await;
    let rejected = |addresses| hook(&["rejected"], addresses);
    let shown = events_of(&read(&house, &rejected(true), 0, None).await);
    assert_eq!(shown[0]["address"], "reader50@example.org");
    assert_eq!(shown[0]["text"], "no <reader50@example.org> here");
    assert!(shown[0]["claimed_at"].is_string() && shown[0]["provider"].is_string());
    let hidden = events_of(&read(&house, &rejected(false), 0, None).await);
    assert_eq!(hidden[0]["subscriber_id"], shown[0]["subscriber_id"]);
    assert!(!hidden[0].to_string().contains("reader50"), "{}", hidden[0]);
}

#[tokio::test]
async fn a_cursor_survives_and_a_new_webhook_begins_with_now() {
    let house = House::new(100, NOW).await;
    let mut cursor = Cursor::load(&house.db, "crm").await.unwrap();
    assert_eq!((cursor.sent_to, cursor.batch_to), (58, None));
    cursor.promise(&house.db, 60).await.unwrap();
    let id = cursor.message_id(60);
    cursor.failed(&house.db, "answered 500", NOW).await.unwrap();
    let after_crash = Cursor::load(&house.db, "crm").await.unwrap();
    assert_eq!((after_crash.sent_to, after_crash.batch_to), (58, Some(60)));
    assert_eq!(after_crash.message_id(60), id);
    let state = list(&house.db).await.unwrap().remove(0);
    assert_eq!((state.failing_since, state.problem), (Some(NOW), Some("answered 500".to_owned())));
    let batch = Batch { body: "".into(), events: 2, up_to: 60, newest: 60, more: false };
    cursor.delivered(&house.db, &batch, NOW).await.unwrap();
    let state = list(&house.db).await.unwrap().remove(0);
    assert_eq!((state.sent_to, state.batch_to, state.events), (60, None, 2));
    assert_eq!((state.failing_since, state.problem), (None, None));
    let mut tx = house.db.begin().await.unwrap();
    begin_anew(&mut tx).await.unwrap();
    tx.commit().await.unwrap();
    let restored = Cursor::load(&house.db, "crm").await.unwrap();
    assert_eq!(restored.sent_to, 60);
    assert_ne!(restored.message_id(60), id);
}

#[test]
fn waits_grow_up_to_a_bound_and_heed_the_receiver() {
    let (second, bound) = (Duration::from_secs(1), Duration::from_hours(4));
    let about = |wait: Duration, expected: Duration| {
        assert!(wait >= expected.mul_f64(0.8) && wait <= expected.mul_f64(1.2), "{wait:?}");
    };
    let mut trouble = Trouble::default();
    for expected in [1, 2, 4, 8] {
        about(trouble.next(NOW, bound, None), second * expected);
    }
    assert_eq!(trouble.next(NOW, bound, Some(second * 100)), second * 100);
    let longest = trouble.next(NOW, bound, Some(Duration::from_hours(30)));
    assert_eq!(longest, Duration::from_hours(1));
    for _ in 0..100 {
        assert!(trouble.next(NOW, bound, None) <= RETRY_MAX.mul_f64(1.2));
    }
    assert!(!trouble.told);
    about(trouble.next(NOW.plus(bound), bound, None), RETRY_FAILING);
    assert!(trouble.told);
}
