//! Kept mails, read again after rules or keys have changed.

use super::*;
use crate::bounce::intake::webhook::{
    Opened, Provider,
    tests::{Said, Sender},
};

impl House {
    async fn replay(&self, id: i64, apply: bool) -> Replayed {
        let (db, keyring) = (&self.db, &self.keyring);
        replay(db, keyring, &self.rules, id, apply, self.now).await.unwrap().unwrap()
    }

    /// What was made of a mail is as if rules of long ago had made it.
    async fn as_read_then(&self, id: i64, kind: &str, effect: &str, class: &str, rule: &str) {
        for (sql, first, second) in [
            ("UPDATE inbound_mail SET kind = $2, effect = $3 WHERE id = $1", kind, effect),
            ("UPDATE event SET class = $2, rule = $3 WHERE kind = 8 AND $1 > 0", class, rule),
        ] {
            self.db
                .write(sql)
                .bind(id)
                .bind(first.to_owned())
                .bind(second.to_owned())
                .execute()
                .await
                .unwrap();
        }
    }
}

#[tokio::test]
async fn what_is_read_as_before_stays_as_it_is() {
    let house = House::new().await;
    let issue = house.issue(1).await;
    for (number, report) in [
        dsn("ada@example.net", "failed", DEAD),
        dsn("ada@example.net", "failed", FULL),
        dsn("ada@example.net", "failed", "554 5.7.1 blocked using a list"),
        dsn("ada@example.net", "delayed", "452 4.2.2 Mailbox is full"),
        "Subject: hello\r\n\r\nThank you.\r\n".to_owned(),
    ]
    .into_iter()
    .enumerate()
    {
        let reader = house.reader(&format!("reader{number}@example.net")).await;
        let copy = house.copy(issue, reader, CopyState::Accepted).await;
        let applied = house.bring(&report, &house.verp(copy)).await;
        let events = house.log(reader).await.len();
        for apply in [false, true, true] {
            let again = house.replay(applied.inbound, apply).await;
            assert!(!again.changes, "{again:?}");
            assert_eq!(again.effect, applied.outcome.as_str());
        }
        assert_eq!(house.log(reader).await.len(), events, "{report}");
    }
    let reader = house.reader("eve@example.net").await;
    house.copy(issue, reader, CopyState::Accepted).await;
    let left = house.bring("Subject: x\r\n\r\n", &house.mailto(reader, Some(issue))).await;
    assert_eq!(left.outcome, Outcome::Unsubscribed);
    // Whoever came back since stays.
    house.db.write("UPDATE subscription SET state = 1").execute().await.unwrap();
    assert!(!house.replay(left.inbound, true).await.changes);
    assert_eq!(house.count("SELECT COUNT(*) FROM subscription WHERE state <> 1").await, 0);
    assert_eq!(
        replay(&house.db, &house.keyring, &house.rules, 999, true, house.now).await.unwrap(),
        None
    );
}

#[tokio::test]
async fn a_better_rule_does_what_newly_follows_once() {
    let house = House::new().await;
    let (issue, ada) = (house.issue(1).await, house.reader("ada@example.net").await);
    let copy = house.copy(issue, ada, CopyState::Accepted).await;
    let applied = house.bring(dsn("ada@example.net", "failed", DEAD), &house.verp(copy)).await;
    house.db.write("DELETE FROM suppression").execute().await.unwrap();
    house.as_read_then(applied.inbound, "failed", "counted", "unknown.permanent", "none").await;
    let tried = house.replay(applied.inbound, false).await;
    assert!(tried.changes);
    assert_eq!((tried.effect_before.as_str(), tried.effect.as_str()), ("counted", "suppressed"));
    assert!(tried.class.as_ref().unwrap().starts_with("recipient.permanent by "), "{tried:?}");
    // A dry run leaves everything as it was.
    assert_eq!(house.suppressed("ada@example.net").await, None);
    assert_eq!(house.log(ada).await.len(), 2);
    assert_eq!(house.replay(applied.inbound, true).await, tried);
    assert_eq!(house.suppressed("ada@example.net").await.as_deref(), Some("bounce"));
    let log = house.log(ada).await;
    assert_eq!(log.len(), 4);
    assert!(log[2].text.as_deref().unwrap().starts_with("read again: "), "{log:?}");
    let again = house.replay(applied.inbound, true).await;
    assert!(!again.changes && again.effect == "suppressed", "{again:?}");
    assert_eq!(house.log(ada).await.len(), 4);
}

#[tokio::test]
async fn mails_that_were_not_understood_and_those_without_a_key_are_made_up_for() {
    let mut house = House::new().await;
    let issue = house.issue(1).await;
    let (ada, grace) = (house.reader("ada@a.example").await, house.reader("grace@b.example").await);
    let first = house.copy(issue, ada, CopyState::Accepted).await;
    let second = house.copy(issue, grace, CopyState::Accepted).await;
    let mail = house.bring(dsn("ada@a.example", "failed", DEAD), &house.verp(first)).await;
    for table in ["suppression", "event", "dead_address_count"] {
        let sql: &'static str = Box::leak(format!("DELETE FROM {table}").into());
        house.db.write(sql).execute().await.unwrap();
    }
    house.as_read_then(mail.inbound, "not_a_report", "nothing", "", "").await;
    // The key was missing when this one came.
    let verp = house.verp(second);
    let right = std::mem::replace(&mut house.keyring, Keyring::ephemeral(house.now));
    let other = house.bring(dsn("grace@b.example", "failed", DEAD), &verp).await;
    assert_eq!(other.outcome, Outcome::Unattributed);
    house.keyring = right;
    // The readers are hashed by the keys of the house, which are the right ones again.
    let all = select(&house.db, &Selection::default()).await.unwrap();
    assert_eq!(all, [mail.inbound, other.inbound]);
    let failed = Selection { kind: "failed".to_owned(), ..Selection::default() };
    assert_eq!(select(&house.db, &failed).await.unwrap(), [other.inbound]);
    let one = Selection { ids: vec![mail.inbound, 99], ..Selection::default() };
    assert_eq!(select(&house.db, &one).await.unwrap(), [mail.inbound]);
    let later = Selection { since: house.now.plus(Duration::from_secs(1)), ..Selection::default() };
    assert!(select(&house.db, &later).await.unwrap().is_empty());
    for id in all {
        let read = house.replay(id, true).await;
        assert_eq!((read.kind.as_str(), read.effect.as_str()), ("failed", "suppressed"));
        let (now_kept, _) = show(&house.db, id).await.unwrap().unwrap();
        assert_eq!((now_kept.kind.as_str(), now_kept.effect.as_str()), ("failed", "suppressed"));
        assert!(now_kept.subscriber_id.is_some());
    }
    assert_eq!(house.count("SELECT COUNT(*) FROM suppression").await, 2);
}

#[tokio::test]
async fn an_old_failure_counts_as_of_its_day_and_not_against_who_said_yes_again() {
    let mut house = House::new().await;
    let ada = house.reader("ada@example.net").await;
    let mut mails = Vec::new();
    for number in 1..=3 {
        let issue = house.issue(number).await;
        let copy = house.copy(issue, ada, CopyState::Accepted).await;
        mails.push(house.bring(dsn("ada@example.net", "failed", FULL), &house.verp(copy)).await);
        house.pass_days(3);
    }
    // Nine days of failures that were not understood; read a fortnight later, they are still nine.
    house.db.write("DELETE FROM soft_bounce").execute().await.unwrap();
    for mail in &mails {
        house.as_read_then(mail.inbound, "failed", "nothing", "content.permanent", "old").await;
    }
    house.pass_days(14);
    for mail in &mails {
        assert_eq!(house.replay(mail.inbound, true).await.effect, "counted");
    }
    assert_eq!(house.suppressed("ada@example.net").await, None);
    assert_eq!(house.count("SELECT COUNT(*) FROM soft_bounce").await, 3);
    let dead = house.issue(9).await;
    let copy = house.copy(dead, ada, CopyState::Accepted).await;
    let mail = house.bring(dsn("ada@example.net", "failed", DEAD), &house.verp(copy)).await;
    house.db.write("DELETE FROM suppression").execute().await.unwrap();
    house.as_read_then(mail.inbound, "failed", "nothing", "content.permanent", "old").await;
    house
        .db
        .write("UPDATE subscription SET confirmed_at = $1")
        .bind(house.now.plus(Duration::from_mins(1)))
        .execute()
        .await
        .unwrap();
    assert!(!house.replay(mail.inbound, true).await.changes);
    assert_eq!(house.suppressed("ada@example.net").await, None);
}

#[tokio::test]
async fn events_of_providers_are_read_again_too() {
    let house = House::new().await;
    let (issue, ada) = (house.issue(1).await, house.reader("ada@example.net").await);
    let copy = house.copy(issue, ada, CopyState::Accepted).await;
    let sender = Sender::new(Provider::Sparkpost);
    let said = Said::new("bounced", "ada@example.net", house.now).of(&house.message_id(copy));
    let opened = sender.send(&said, house.now).open(&sender.hook(), None, house.now);
    let Ok(Opened::Events(events)) = opened else { panic!("{opened:?}") };
    let post = Post { hook: "spark", provider: Provider::Sparkpost, relay: None };
    let (db, keyring) = (&house.db, &house.keyring);
    provider_events(db, keyring, &house.rules, post, &events, house.now).await.unwrap();
    assert!(!house.replay(1, true).await.changes);
    house.db.write("DELETE FROM suppression").execute().await.unwrap();
    house.as_read_then(1, "failed", "counted", "unknown.permanent", "none").await;
    assert_eq!(house.replay(1, true).await.effect, "suppressed");
    assert!(!house.replay(1, true).await.changes);
}
