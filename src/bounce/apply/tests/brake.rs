//! Many dead addresses of one provider at once.

use super::*;

/// An issue with `copies` at one provider, all handed off.
async fn issue_with(house: &House, copies: usize) -> (IssueId, Vec<CopyId>) {
    let issue = house.issue(1).await;
    let mut all = Vec::new();
    for number in 0..copies {
        let reader = house.reader(&format!("reader{number}@example.net")).await;
        all.push(house.copy(issue, reader, CopyState::HandedOff).await);
    }
    (issue, all)
}

const HELD: &str = "SELECT COUNT(*) FROM held_suppression";
const SUPPRESSED: &str = "SELECT COUNT(*) FROM suppression";

#[tokio::test]
async fn the_brake_holds_and_takes_back_until_an_operator_decides() {
    let house = House::new().await;
    let (issue, copies) = issue_with(&house, 40).await;
    for (number, copy) in copies.iter().take(21).enumerate() {
        house.refuse(*copy, Phase::RcptTo, 550, "5.1.1 No such user").await;
        let dead = number as i64 + 1;
        let (held, suppressed) = (house.count(HELD).await, house.count(SUPPRESSED).await);
        let expected = if dead < 20 { (0, dead) } else { (dead, 0) };
        assert_eq!((held, suppressed), expected, "after {dead} dead addresses");
    }
    let sql = "SELECT COUNT(DISTINCT subscriber_id) FROM event WHERE kind = 23 \
               AND text LIKE '%held for an operator%'";
    assert_eq!(house.count(sql).await, 21);
    let groups = held::list(&house.db).await.unwrap();
    assert_eq!((groups.len(), groups[0].issue_id, groups[0].readers), (1, issue, 21));
    assert!(groups[0].example.contains("No such user"));

    let act = crate::audit::Act { actor: "op", action: "held", target: "1", detail: "checked" };
    let provider = groups[0].provider;
    let decision = held::Decision::Suppress;
    let decided = held::decide(&house.db, issue, provider, decision, act, house.now).await;
    assert_eq!(decided.unwrap(), 21);
    assert_eq!((house.count(HELD).await, house.count(SUPPRESSED).await), (0, 21));
    assert_eq!(house.count("SELECT COUNT(*) FROM audit").await, 1);
}

#[tokio::test]
async fn dismissed_suppressions_leave_the_readers_alone() {
    let house = House::new().await;
    let (issue, copies) = issue_with(&house, 25).await;
    for copy in &copies {
        house.refuse(*copy, Phase::RcptTo, 550, "5.1.1 No such user").await;
    }
    let provider = held::list(&house.db).await.unwrap()[0].provider;
    let act = crate::audit::Act { actor: "op", action: "held", target: "1", detail: "broken" };
    let decision = held::Decision::Dismiss;
    held::decide(&house.db, issue, provider, decision, act, house.now).await.unwrap();
    assert_eq!((house.count(HELD).await, house.count(SUPPRESSED).await), (0, 0));
}

#[tokio::test]
async fn a_small_share_of_dead_addresses_is_suppressed_as_ever() {
    let house = House::new().await;
    let (issue, copies) = issue_with(&house, 30).await;
    house
        .db
        .write(
            "WITH RECURSIVE n (id) AS (SELECT 1000 UNION ALL SELECT id + 1 FROM n WHERE id < 1800) \
             INSERT INTO delivery (issue_id, subscriber_id, state, stage, provider) \
             SELECT $1, n.id, 3, 0, (SELECT provider FROM delivery LIMIT 1) FROM n",
        )
        .bind(issue)
        .execute()
        .await
        .unwrap();
    for copy in &copies {
        house.refuse(*copy, Phase::RcptTo, 550, "5.1.1 No such user").await;
    }
    assert_eq!((house.count(HELD).await, house.count(SUPPRESSED).await), (0, 30));
}

#[tokio::test]
async fn reports_brake_like_refusals_and_others_are_not_held_with_them() {
    let house = House::new().await;
    let issue = house.issue(1).await;
    let gmail = house.reader("ada@gmail.com").await;
    let gmail = house.copy(issue, gmail, CopyState::Accepted).await;
    house.bring(dsn("ada@gmail.com", "failed", DEAD), &house.verp(gmail)).await;
    for number in 0..25 {
        let typed = format!("reader{number}@example.net");
        let copy = house.copy(issue, house.reader(&typed).await, CopyState::Accepted).await;
        let applied = house.bring(dsn(&typed, "failed", DEAD), &house.verp(copy)).await;
        let expected = if number < 19 { Outcome::Suppressed } else { Outcome::Held };
        assert_eq!(applied.outcome, expected, "report {number}");
    }
    assert_eq!((house.count(HELD).await, house.count(SUPPRESSED).await), (25, 1));
    assert!(house.suppressed("ada@gmail.com").await.is_some());
    // An operator who lifts what speaks against one reader settles what waits for them, too.
    let reader = Address::parse("reader0@example.net").unwrap();
    let act = crate::audit::Act { actor: "op", action: "lift", target: "1", detail: "asked" };
    let lifted = crate::subscriber::suppression::unsuppress(
        &house.db,
        &house.keyring,
        &reader,
        act,
        house.now,
    );
    assert_eq!(lifted.await.unwrap(), None);
    assert_eq!(house.count(HELD).await, 24);
}
