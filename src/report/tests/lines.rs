//! What the reports show of the log: timelines, pages, newer lines, and what reading it costs.

use super::*;

#[tokio::test]
async fn a_timeline_has_a_readers_copies_and_lines() {
    let house = House::new(100, NOW).await;
    let timeline = timeline(&house.db, SubscriberId(51)).await.unwrap().unwrap();
    assert_eq!(timeline.subscriber.address.as_deref(), Some("reader50@example.org"));
    assert_eq!(timeline.copies.len(), 1);
    assert_eq!(timeline.copies[0].state, CopyState::Rejected);
    assert_eq!(timeline.lines.len(), 3, "an outcome and the steps before it");
    assert!(timeline.suppression.is_none() && !timeline.more_lines);
    let hash = "INSERT INTO suppression (address_hash, address, reason, created_at) \
                SELECT address_hash, address, 'bounce', 0 FROM subscriber WHERE id = 51";
    house.set(hash).await;
    let timeline = super::timeline(&house.db, SubscriberId(51)).await.unwrap().unwrap();
    assert_eq!(timeline.suppression.unwrap().reason, "bounce");
    assert!(super::timeline(&house.db, SubscriberId(999)).await.unwrap().is_none());
}

#[tokio::test]
async fn pages_of_the_log_follow_each_other_without_gap_or_repeat() {
    let house = House::new(100, NOW).await;
    let all: Vec<i64> = (1..=58).rev().collect();
    assert_eq!(house.walk(&Filter::default(), 7).await.0, all);
    for (filter, expected) in [
        (Filter { kind: Some(EventKind::Rejected), ..Filter::default() }, 3),
        (Filter { issue: Some(house.issue), ..Filter::default() }, 58),
        (
            Filter {
                issue: Some(house.issue),
                kind: Some(EventKind::Deferred),
                ..Filter::default()
            },
            3,
        ),
        (
            Filter {
                issue: Some(house.issue),
                kind: Some(EventKind::Accepted),
                ..Filter::default()
            },
            50,
        ),
        (Filter { issue: Some(IssueId(99)), ..Filter::default() }, 0),
        (Filter { subscriber: Some(SubscriberId(51)), ..Filter::default() }, 1),
        (Filter { class: Some("recipient".into()), ..Filter::default() }, 3),
        (Filter { provider: Some(1), ..Filter::default() }, 19),
        (Filter { since: Some(NOW.minus(Duration::from_secs(1))), ..Filter::default() }, 9),
        (Filter { until: Some(NOW.minus(Duration::from_secs(1))), ..Filter::default() }, 50),
    ] {
        let (ids, _) = house.walk(&filter, 2).await;
        assert_eq!(ids.len(), expected, "{filter:?}");
        assert!(ids.is_sorted_by(|a, b| a > b), "{ids:?}");
        let (at_once, _) = house.walk(&filter, 1000).await;
        assert_eq!(ids, at_once);
    }
}

/// A claim and a handoff have no rows: the outcome's row tells them.
#[tokio::test]
async fn the_steps_of_a_try_are_told_from_its_outcome() {
    let house = House::new(100, NOW).await;
    let of_kind = |kind| Filter { kind: Some(kind), ..Filter::default() };
    for (kind, before) in [(EventKind::Claimed, 500), (EventKind::HandedOff, 200)] {
        let page = log_page(&house.db, &of_kind(kind), Start::Newest, 1000).await.unwrap();
        // One reader was skipped before any claim.
        assert_eq!(page.lines.len(), 57);
        for line in &page.lines {
            assert_eq!((line.kind, line.code, &line.text), (kind, None, &None));
            let at = line.id;
            let outcome = log_page(&house.db, &Filter::default(), Start::After(at - 1), 1).await;
            let outcome = outcome.unwrap().lines.remove(0);
            assert_eq!(line.at, outcome.at.minus(Duration::from_millis(before)));
            assert_eq!(line.subscriber_id, outcome.subscriber_id);
        }
        let (ids, _) = house.walk(&of_kind(kind), 7).await;
        assert_eq!(ids, page.lines.iter().map(|line| line.id).collect::<Vec<_>>());
        let (ids, _) =
            house.walk(&Filter { issue: Some(house.issue), ..of_kind(kind) }, 1000).await;
        assert_eq!(ids.len(), 57);
        // Times are the step's.
        let first = page.lines.last().unwrap().at;
        let until = Filter { until: Some(first), ..of_kind(kind) };
        assert_eq!(house.walk(&until, 10).await.0.len(), 1);
        let since = Filter { since: Some(page.lines[0].at), ..of_kind(kind) };
        assert_eq!(house.walk(&since, 10).await.0.len(), 1);
        let one = Filter { subscriber: Some(SubscriberId(51)), ..of_kind(kind) };
        assert_eq!(house.walk(&one, 10).await.0.len(), 1);
    }
    let timeline = super::timeline(&house.db, SubscriberId(51)).await.unwrap().unwrap();
    let told: Vec<EventKind> = timeline.lines.iter().map(|line| line.kind).collect();
    assert_eq!(told, [EventKind::Rejected, EventKind::HandedOff, EventKind::Claimed]);
    assert!(timeline.lines.is_sorted_by(|later, earlier| later.at > earlier.at));
}

#[tokio::test]
async fn a_copy_in_hand_is_seen_before_its_outcome() {
    let house = House::new(100, NOW).await;
    house.set("INSERT INTO node VALUES (1, 'node', 0, 0, NULL)").await;
    house.set("INSERT INTO claim (id, node_id, at) VALUES (7, 1, 5)").await;
    house.set("UPDATE delivery SET state = 2, claim_id = 7 WHERE subscriber_id = 99").await;
    house.set("UPDATE delivery SET claim_id = 7 WHERE subscriber_id = 1").await;
    let in_hand = copies_in_hand(&house.db, SubscriberId(99)).await.unwrap();
    assert_eq!(in_hand[0].state, CopyState::HandedOff);
    assert_eq!(in_hand[0].in_hand_since, Some(Timestamp::from_microseconds(5)));
    assert!(copies_in_hand(&house.db, SubscriberId(1)).await.unwrap().is_empty());
    let done = super::timeline(&house.db, SubscriberId(1)).await.unwrap().unwrap();
    assert_eq!(done.copies[0].in_hand_since, None);
}

#[tokio::test]
async fn newer_lines_are_found_from_where_a_page_ended() {
    let house = House::new(100, NOW).await;
    let filter = Filter::default();
    let page = log_page(&house.db, &filter, Start::Newest, 10).await.unwrap();
    assert_eq!(page.newer, 58);
    let none = log_page(&house.db, &filter, Start::After(page.newer), 10).await.unwrap();
    assert!(none.lines.is_empty());
    assert_eq!((none.newer, none.older), (58, Some(59)));
    let mut tx = house.db.begin().await.unwrap();
    event::record(&mut tx, &[Event::new(EventKind::Paused, NOW)]).await.unwrap();
    tx.commit().await.unwrap();
    let newer = log_page(&house.db, &filter, Start::After(page.newer), 10).await.unwrap();
    assert_eq!(newer.lines.iter().map(|line| line.id).collect::<Vec<_>>(), [59]);
    let older = log_page(&house.db, &filter, Start::Before(49), 10).await.unwrap();
    let back = log_page(&house.db, &filter, Start::After(older.newer), 10).await.unwrap();
    assert_eq!(back.lines.last().unwrap().id, 49);
    assert_eq!(back.newer, 58);
}

#[tokio::test]
async fn a_page_looks_through_a_bounded_number_of_lines() {
    let house = House::new(100, NOW).await;
    house
        .set(
            "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 120000) \
             INSERT INTO event (at, kind, issue_id) SELECT 1754000000000000 + n, 2, 77 FROM n",
        )
        .await;
    let filter = Filter { class: Some("recipient".into()), ..Filter::default() };
    let page = log_page(&house.db, &filter, Start::Newest, 10).await.unwrap();
    assert!(page.lines.is_empty() && page.stopped_early);
    assert_eq!(page.older, Some(120_058 - LOOKED_THROUGH_MAX + 1));
    let (ids, pages) = house.walk(&filter, 10).await;
    assert_eq!((ids.len(), pages), (3, 3));
    let early = Filter { until: Some(NOW), ..filter };
    let (ids, _) = house.walk(&early, 10).await;
    assert_eq!(ids.len(), 3);
}

record! {
    struct Step {
        detail: String,
    }
}

/// No statement that is asked while a send is under way reads a whole table or sorts one.
#[tokio::test]
async fn statements_use_indexes_or_ranges_of_ids() {
    let house = House::new(100, NOW).await;
    for (sql, sorts) in [
        (log::WALK_BACK, false),
        (log::WALK_ON, false),
        (log::OF_READER_BACK, false),
        (log::OF_READER_ON, false),
        (log::OF_ISSUE_BACK, false),
        (log::OF_ISSUE_ON, false),
        (log::STEPS_BACK, false),
        (log::STEPS_ON, false),
        (log::STEPS_OF_READER_BACK, false),
        (log::STEPS_OF_READER_ON, false),
        (pace::RECENT, false),
        (pace::LAST_OF_ISSUE, false),
        (status::UNCERTAIN, false),
        (status::LAST_DUE, false),
        (missed::MISSED, false),
        (missed::BOUNCED_LATER, false),
        (timeline::SERVICE_MAILS, false),
        (timeline::SUPPRESSION, false),
        // These sort a sample, whose size is bounded.
        (missed::READERS_OF_KIND, true),
        (pace::SMTP, true),
        (pace::QUEUE_WAIT, true),
        (pace::END_TO_END, true),
        (replies::GROUPS, true),
        (timeline::COPIES, true),
        (overview::LATEST, true),
    ] {
        let explained: &'static str = Box::leak(format!("EXPLAIN QUERY PLAN {sql}").into());
        let steps: Vec<Step> = house.db.query(explained).all().await.unwrap();
        for Step { detail } in steps {
            // Issues are few, and are walked from the newest.
            let table = ["event", "delivery", "subscriber", "e", "d", "s"]
                .iter()
                .any(|name| detail == format!("SCAN {name}"));
            let sorting = detail.contains("TEMP B-TREE") && !sorts;
            assert!(!table && !sorting && !detail.contains("AUTOMATIC"), "{detail}\n{sql}");
        }
    }
}
