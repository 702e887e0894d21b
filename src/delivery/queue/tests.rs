//! What the ledger's statements cost, and what they count.

use super::{COUNT, Claimed, Lane, Withheld, claim, count_by, handoff, service, settle};
use crate::{
    db::{Db, OpenOptions, record::record, state::CopyState},
    id::{CopyId, IssueId, NodeId, ServiceMailId, SubscriberId},
    timestamp::Timestamp,
};

record! {
    struct Step {
        detail: String,
    }
}

async fn database() -> (tempfile::TempDir, Db) {
    let folder = tempfile::tempdir().unwrap();
    let db = Db::open(&OpenOptions::new(folder.path().join("test.db"))).await.unwrap();
    (folder, db)
}

/// No statement that is asked for every batch of a send walks a whole table, sorts, or builds an
/// index of its own: each costs the same at the end of a send as at its start.
#[tokio::test]
async fn statements_find_their_rows_by_key() {
    let (_folder, db) = database().await;
    for (sql, sorts) in [
        (claim::FIRST_OF_PROVIDER, false),
        (claim::FIRST_OF_OTHERS, false),
        (claim::CLAIM_OF_PROVIDER, false),
        (claim::CLAIM_OF_OTHERS, false),
        (claim::DUE, false),
        (claim::CLAIM, false),
        (handoff::HAND_OFF, false),
        (handoff::HAND_OFF_RANGE, false),
        (handoff::HANDED, false),
        (handoff::HANDED_RANGE, false),
        (handoff::OBSTACLES, false),
        (settle::ACCEPT, false),
        (settle::SETTLE, false),
        // Sorts the rows of one chunk, whose number is bounded.
        (COUNT, true),
    ] {
        let explained: &'static str = Box::leak(format!("EXPLAIN QUERY PLAN {sql}").into());
        let steps: Vec<Step> = db.query(explained).all().await.unwrap();
        assert!(!steps.is_empty());
        for Step { detail } in steps {
            let given = detail.contains("VIRTUAL TABLE") || detail.starts_with("SCAN (subquery");
            let whole = detail.starts_with("SCAN ") && !given;
            let sorting = detail.contains("TEMP B-TREE") && !sorts;
            assert!(!whole && !sorting && !detail.contains("AUTOMATIC"), "{detail}\n{sql}");
        }
    }
}

#[tokio::test]
async fn every_copy_is_counted_once_whatever_the_chunk() {
    let (_folder, db) = database().await;
    for id in 1..=40_i64 {
        let state = if id % 4 == 0 { CopyState::Accepted } else { CopyState::Waiting };
        db.write(
            "INSERT INTO delivery (issue_id, subscriber_id, state, stage, provider, attempt) \
             VALUES (1, $1, $2, $3, $4, $5)",
        )
        .bind(id)
        .bind(state)
        .bind(id % 3)
        .bind(id % 2)
        .bind(i64::from(id % 5 == 0))
        .execute()
        .await
        .unwrap();
    }
    let mut tx = db.snapshot().await.unwrap();
    let whole = count_by(&mut tx, IssueId(1), 1000).await.unwrap();
    assert_eq!(whole.iter().map(|count| count.copies).sum::<i64>(), 40);
    let accepted = whole.iter().filter(|count| count.state == CopyState::Accepted);
    assert_eq!(accepted.map(|count| count.copies).sum::<i64>(), 10);
    let deferred = whole.iter().filter(|count| count.deferred == 1);
    assert_eq!(deferred.map(|count| count.copies).sum::<i64>(), 6);
    for chunk in [1, 7, 39, 40, 41] {
        assert_eq!(count_by(&mut tx, IssueId(1), chunk).await.unwrap(), whole, "{chunk} at once");
    }
}

/// A confirmation that cannot go at this moment waits; only one that would be of no use is dropped,
/// and the log says so.
#[tokio::test]
async fn a_service_mail_that_the_gate_holds_back_is_dropped_for_a_reason_only() {
    let (_folder, db) = database().await;
    let at = Timestamp::from_microseconds;
    db.write("INSERT INTO node (id, uid, started_at, lease_until) VALUES (1, 'node', 0, 100)")
        .execute()
        .await
        .unwrap();
    db.write("INSERT INTO claim (id, node_id, at) VALUES (1, 1, 0)").execute().await.unwrap();
    for (id, expires) in [(1_i64, 1_000_i64), (2, 40)] {
        db.write(
            "INSERT INTO service_mail (id, kind, address, provider, parameters, state, claim_id, \
             due_at, created_at, expires_at) VALUES ($1, 'welcome', 'ada@example.com', 0, '{}', 1, \
             1, 0, 0, $2)",
        )
        .bind(id)
        .bind(expires)
        .execute()
        .await
        .unwrap();
    }
    let claimed = [1, 2].map(|id| {
        let copy = CopyId::Service(ServiceMailId(id));
        let (claimed_at, due_at) = (at(0), at(0));
        Claimed {
            copy,
            claim: 1,
            place: 0,
            claimed_at,
            due_at,
            first_due_at: due_at,
            provider: 0,
            stage: 0,
            attempts: 0,
        }
    });
    let states = async |db: &Db| -> Vec<(i64, CopyState)> {
        db.query("SELECT id, state FROM service_mail ORDER BY id").all().await.unwrap()
    };
    // After the lease.
    let mut tx = db.begin().await.unwrap();
    let late = service::hand_off(&mut tx, NodeId(1), 1, claimed.to_vec(), at(200)).await.unwrap();
    tx.commit().await.unwrap();
    assert!(late.0.is_empty());
    assert!(matches!(late.1[0].1, Withheld::Waits), "somebody waits for it");
    assert!(matches!(late.1[1].1, Withheld::Skipped(_)), "its link is dead");
    let now = states(&db).await;
    assert_eq!(now, [(1, CopyState::Waiting), (2, CopyState::Skipped)]);
    let told: i64 = db
        .query("SELECT COUNT(*) FROM event WHERE service_id = 2 AND kind = 6")
        .scalar()
        .await
        .unwrap();
    assert_eq!(told, 1);
    // Within it.
    db.write("UPDATE service_mail SET state = 1 WHERE id = 1").execute().await.unwrap();
    let mut tx = db.begin().await.unwrap();
    let first = claimed[..1].to_vec();
    let (handed, withheld) = service::hand_off(&mut tx, NodeId(1), 1, first, at(50)).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!((handed.len(), withheld.len()), (1, 0));
    assert_eq!(states(&db).await[0].1, CopyState::HandedOff);
}

const COPIES: i64 = 24;

/// An issue that is sending, to readers of two providers of whom every seventh has left.
async fn send_of_two_providers() -> (tempfile::TempDir, Db) {
    let (folder, db) = database().await;
    let mut tx = db.begin().await.unwrap();
    for sql in [
        "INSERT INTO newsletter (id, uid, slug, name, description, from_name, from_address, reply_to, \
         subject_pattern, language, postal_address, accent_color, created_at) \
         VALUES (1, 'a', 'a', 'A', '', '', 'a@news.example', '', '', 'en', '', '', 0)",
        "INSERT INTO issue (id, uid, newsletter_id, number, subject, state, model, source, created_at, \
         stage) VALUES (1, 'a', 1, 1, '', 2, '', '', 0, 1)",
        "INSERT INTO node (id, uid, started_at, lease_until) VALUES (1, 'node', 0, 1000)",
    ] {
        tx.query(sql).execute().await.unwrap();
    }
    for id in 1..=COPIES {
        tx.query(
            "INSERT INTO subscriber (id, address, address_hash, provider, created_at) \
             VALUES ($1, $2, $3, $4, 0)",
        )
        .bind(id)
        .bind(format!("reader{id}@example.com"))
        .bind(id.to_le_bytes().to_vec())
        .bind(id % 2)
        .execute()
        .await
        .unwrap();
        tx.query(
            "INSERT INTO subscription (newsletter_id, subscriber_id, state, created_at) \
             VALUES (1, $1, $2, 0)",
        )
        .bind(id)
        .bind(if id % 7 == 0 { 2_i64 } else { 1 })
        .execute()
        .await
        .unwrap();
        tx.query(
            "INSERT INTO delivery (issue_id, subscriber_id, state, stage, provider) \
             VALUES (1, $1, 0, 1, $2)",
        )
        .bind(id)
        .bind(id % 2)
        .execute()
        .await
        .unwrap();
    }
    tx.commit().await.unwrap();
    (folder, db)
}

/// Whatever part of a claim is handed off, that part is, and no other copy, whether it is one range
/// of the claim or comes in pieces.
#[tokio::test]
async fn what_is_asked_for_is_handed_off_and_nothing_else() {
    let (_folder, db) = send_of_two_providers().await;
    let now = Timestamp::from_microseconds(10);
    let lanes = [Lane::AllBut("[]".to_owned()), Lane::AllBut("[0]".to_owned()), Lane::Provider(0)];
    let parts: Vec<Box<dyn Fn(i64) -> bool>> = vec![
        Box::new(|_| true),
        Box::new(|id| id <= 8),
        Box::new(|id| (5..=9).contains(&id)),
        Box::new(|id| id % 3 == 0),
        Box::new(|id| id % 5 != 0),
        Box::new(|id| id == 4 || id == 20),
        Box::new(|id| id >= COPIES - 1),
    ];
    for lane in &lanes {
        for (number, is_asked) in parts.iter().enumerate() {
            let mut tx = db.begin().await.unwrap();
            let claim = claim::open_claim(&mut tx, NodeId(1), now).await.unwrap();
            let claimed =
                claim::claim_first_tries(&mut tx, claim, IssueId(1), lane, SubscriberId(2), 1, 16)
                    .await
                    .unwrap();
            let held: Vec<i64> = claimed.iter().map(|copy| reader(copy.copy)).collect();
            let wanted = |id: i64| match lane {
                Lane::Provider(provider) => id % 2 == *provider,
                Lane::AllBut(json) => json == "[]" || id % 2 == 1,
            };
            let expected: Vec<i64> = (3..=COPIES).filter(|id| wanted(*id)).take(16).collect();
            assert_eq!(held, expected, "{lane:?}");

            let asked: Vec<Claimed> =
                claimed.into_iter().rev().filter(|copy| is_asked(reader(copy.copy))).collect();
            let (handed, withheld) =
                handoff::hand_off(&mut tx, NodeId(1), IssueId(1), claim.id, asked, now)
                    .await
                    .unwrap();
            let states: Vec<(i64, i64)> = tx
                .query("SELECT subscriber_id, state FROM delivery ORDER BY subscriber_id")
                .all()
                .await
                .unwrap();
            for (id, state) in states {
                let expected = match (held.contains(&id) && is_asked(id), held.contains(&id)) {
                    (true, _) if id % 7 == 0 => CopyState::Skipped,
                    (true, _) => CopyState::HandedOff,
                    (false, true) => CopyState::Claimed,
                    (false, false) => CopyState::Waiting,
                };
                assert_eq!(state, expected as i64, "reader {id}, part {number} of {lane:?}");
                let goes = handed.iter().any(|copy| reader(copy.claimed.copy) == id);
                assert_eq!(goes, expected == CopyState::HandedOff, "reader {id}");
                let stays = withheld.iter().any(|(copy, _)| reader(copy.copy) == id);
                assert_eq!(stays, expected == CopyState::Skipped, "reader {id}");
            }
            tx.rollback().await.unwrap();
        }
    }
}

fn reader(copy: CopyId) -> i64 {
    match copy {
        CopyId::Issue { subscriber, .. } => subscriber.0,
        CopyId::Service(id) => panic!("{id:?}"),
    }
}
