//! Soft evidence over several issues.

use super::*;

/// A reader whose copies of issues 1, 2, … fail (`false`) or are accepted (`true`) every `days`.
async fn course(house: &mut House, days: u64, issues: &[bool], own: bool) -> Vec<Option<String>> {
    let reader = house.reader("ada@example.net").await;
    let mut suppressed = Vec::new();
    for (number, accepted) in issues.iter().enumerate() {
        let issue = house.issue(number as i64).await;
        if *accepted {
            house.copy(issue, reader, CopyState::Accepted).await;
        } else if own {
            let copy = house.copy(issue, reader, CopyState::HandedOff).await;
            house.refuse(copy, Phase::RcptTo, 552, "5.2.2 Mailbox full").await;
        } else {
            let copy = house.copy(issue, reader, CopyState::Accepted).await;
            for _ in 0..2 {
                house.bring(dsn("ada@example.net", "failed", FULL), &house.verp(copy)).await;
            }
        }
        suppressed.push(house.suppressed("ada@example.net").await);
        house.pass_days(days);
    }
    suppressed
}

const BOUNCE: Option<&str> = Some("bounce");

#[tokio::test]
async fn three_failed_issues_over_more_than_fourteen_days_suppress() {
    for own in [true, false] {
        for (days, issues, expected) in [
            (8, &[false, false, false][..], &[None, None, BOUNCE][..]),
            (7, &[false, false, false, false], &[None, None, None, BOUNCE]),
            (1, &[false; 15], &[None; 15]),
            (20, &[false, false], &[None, None]),
            (
                8,
                &[false, false, true, false, false, false],
                &[None, None, None, None, None, BOUNCE],
            ),
            (8, &[false, true, false, true, false, true], &[None; 6]),
        ] {
            let mut house = House::new().await;
            let found = course(&mut house, days, issues, own).await;
            let found: Vec<_> = found.iter().map(Option::as_deref).collect();
            assert_eq!(found, expected, "{issues:?} every {days} days, own: {own}");
        }
    }
}

#[tokio::test]
async fn reports_that_come_late_and_in_any_order_count_by_issue() {
    let mut house = House::new().await;
    let reader = house.reader("ada@example.net").await;
    let mut copies = Vec::new();
    for number in 0..6 {
        let issue = house.issue(number).await;
        copies.push(house.copy(issue, reader, CopyState::Accepted).await);
        house.pass_days(1);
    }
    // Issues 3, 4 and 5 are accepted too and may yet come back: no reason to forget 0 to 2.
    for (at, days) in [(0, 1), (2, 15), (1, 0)] {
        house.pass_days(days);
        let to = house.verp(copies[at]);
        assert_eq!(house.suppressed("ada@example.net").await, None);
        house.bring(dsn("ada@example.net", "failed", FULL), &to).await;
    }
    assert_eq!(house.suppressed("ada@example.net").await.as_deref(), BOUNCE);
}

#[tokio::test]
async fn words_alone_need_a_second_issue() {
    let mut house = House::new().await;
    let reader = house.reader("ada@example.net").await;
    let report = "From: mailer-daemon@mx.example.net\r\nSubject: Returned mail\r\n\r\n\
                  Your message could not be delivered to <ada@example.net>:\r\n\
                  user unknown\r\n";
    let mut outcomes = Vec::new();
    for number in 0..2 {
        let copy = house.copy(house.issue(number).await, reader, CopyState::Accepted).await;
        outcomes.push(house.bring(report, &house.verp(copy)).await.outcome);
        house.pass_days(7);
    }
    assert_eq!(outcomes, [Outcome::Counted, Outcome::Suppressed]);
}

#[tokio::test]
async fn an_unexplained_failure_counts_half() {
    let mut house = House::new().await;
    let reader = house.reader("ada@example.net").await;
    let mut outcomes = Vec::new();
    for number in 0..6 {
        let copy = house.copy(house.issue(number).await, reader, CopyState::HandedOff).await;
        house.refuse(copy, Phase::RcptTo, 550, "no").await;
        outcomes.push(house.suppressed("ada@example.net").await.is_some());
        house.pass_days(7);
    }
    assert_eq!(outcomes, [false, false, false, false, false, true]);
}
