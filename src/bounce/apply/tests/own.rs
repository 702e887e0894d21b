//! Refusals to our own face.

use super::*;

#[tokio::test]
async fn a_dead_address_at_our_own_rcpt_is_suppressed_with_the_outcome() {
    let house = House::new().await;
    let (issue, ada) = (house.issue(1).await, house.reader("ada@example.net").await);
    let copy = house.copy(issue, ada, CopyState::HandedOff).await;
    house.refuse(copy, Phase::RcptTo, 550, "5.1.1 No such user").await;
    assert_eq!(house.state(copy).await, CopyState::Rejected);
    assert_eq!(house.suppressed("ada@example.net").await.as_deref(), Some("bounce"));
    let log = house.log(ada).await;
    assert_eq!(
        log.iter().map(|line| line.kind).collect::<Vec<_>>(),
        [EventKind::Rejected, EventKind::Suppressed]
    );
}

#[tokio::test]
async fn a_refusal_is_undone_with_its_transaction() {
    let house = House::new().await;
    let (issue, ada) = (house.issue(1).await, house.reader("ada@example.net").await);
    let copy = house.copy(issue, ada, CopyState::HandedOff).await;
    let mut tx = house.db.begin().await.unwrap();
    let settlement = house.refusal(copy, Phase::RcptTo, 550, "5.1.1 No such user");
    crate::delivery::queue::settle(&mut tx, &[settlement], 5.0, house.now).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(house.suppressed("ada@example.net").await, None);
    assert_eq!(house.state(copy).await, CopyState::HandedOff);
}

#[tokio::test]
async fn a_stale_claim_suppresses_nobody() {
    let house = House::new().await;
    let (issue, ada) = (house.issue(1).await, house.reader("ada@example.net").await);
    let copy = house.copy(issue, ada, CopyState::HandedOff).await;
    let mut settlement = house.refusal(copy, Phase::RcptTo, 550, "5.1.1 No such user");
    settlement.claim = 2;
    let mut tx = house.db.begin().await.unwrap();
    crate::delivery::queue::settle(&mut tx, &[settlement], 5.0, house.now).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(house.suppressed("ada@example.net").await, None);
}

#[tokio::test]
async fn only_refusals_for_the_readers_sake_count() {
    let house = House::new().await;
    for (number, (phase, code, text, counted)) in [
        (Phase::MailFrom, 550, "5.1.1 No such user", 0),
        (Phase::RcptTo, 550, "5.7.1 Blocked for spam", 0),
        (Phase::Dot, 554, "5.7.1 Message rejected as spam", 0),
        (Phase::Connect, 554, "no mail for you", 0),
        (Phase::RcptTo, 552, "5.2.2 Mailbox full", 1),
        (Phase::Dot, 550, "5.1.1 whatever", 0),
    ]
    .into_iter()
    .enumerate()
    {
        let reader = house.reader(&format!("reader{number}@example.net")).await;
        let copy = house.copy(house.issue(number as i64).await, reader, CopyState::HandedOff).await;
        let before = house.count("SELECT COUNT(*) FROM soft_bounce").await;
        house.refuse(copy, phase, code, text).await;
        let after = house.count("SELECT COUNT(*) FROM soft_bounce").await;
        let suppressed = house.count("SELECT COUNT(*) FROM suppression").await;
        let stated = (phase, text) == (Phase::Dot, "5.1.1 whatever");
        assert!(stated || (after - before, suppressed) == (counted, 0), "{phase} {code} {text}");
    }
}

#[tokio::test]
async fn a_refused_confirmation_suppresses_its_address() {
    let house = House::new().await;
    let ada = house.reader("ada@example.net").await;
    let copy = house.confirmation(ada, "ada@example.net").await;
    house.db.write("UPDATE service_mail SET state = 2, claim_id = 1").execute().await.unwrap();
    house.refuse(copy, Phase::RcptTo, 550, "5.1.1 No such user").await;
    assert_eq!(house.state(copy).await, CopyState::Rejected);
    assert_eq!(house.suppressed("ada@example.net").await.as_deref(), Some("bounce"));
}

#[tokio::test]
async fn a_copy_that_waits_for_another_try_counts_nothing_and_one_that_expired_counts_once() {
    let house = House::new().await;
    let (issue, ada) = (house.issue(1).await, house.reader("ada@example.net").await);
    let copy = house.copy(issue, ada, CopyState::HandedOff).await;
    for (state, counted) in [(CopyState::Waiting, 0), (CopyState::Expired, 1)] {
        let mut settlement = house.refusal(copy, Phase::RcptTo, 452, "4.2.2 Mailbox full");
        settlement.state = state;
        settlement.due_at = (state == CopyState::Waiting).then_some(house.now);
        house.db.write("UPDATE delivery SET state = 2").execute().await.unwrap();
        let mut tx = house.db.begin().await.unwrap();
        crate::delivery::queue::settle(&mut tx, &[settlement], 5.0, house.now).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(house.count("SELECT COUNT(*) FROM soft_bounce").await, counted);
    }
}
