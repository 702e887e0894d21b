//! What the ledger's statements cost, and what they count.

use super::{COUNT, claim, count_by, handoff, settle};
use crate::{
    db::{Db, OpenOptions, record::record, state::CopyState},
    id::IssueId,
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
        (claim::DUE, false),
        (claim::CLAIM, false),
        (handoff::HAND_OFF, false),
        (handoff::HANDED, false),
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
