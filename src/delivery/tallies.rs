//! The tallies of all issues in motion, shared between the ledger's writer (which moves them), the
//! stages (which read them, and have them counted anew) and the pages.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{
    queue::{self, Claimed, Settlement},
    tally::{Fault, Tally},
};
use crate::{
    db::{
        self, Db, Tx,
        record::record,
        state::{CopyState, EventKind},
    },
    id::{CopyId, IssueId},
};

/// Counts by issue.
#[derive(Debug, Default)]
pub struct Tallies {
    issues: Mutex<HashMap<IssueId, Tally>>,
    /// Held while what is committed and what is told may differ.
    moving: tokio::sync::Mutex<()>,
}

/// The counts while they are being changed.
pub struct Moving<'a>(MutexGuard<'a, HashMap<IssueId, Tally>>);

record! {
    struct Refusals {
        stage: i64,
        provider: i64,
        class: String,
        refusals: i64,
    }
}

record! {
    struct Signals {
        stage: i64,
        provider: i64,
        kind: EventKind,
        readers: i64,
    }
}

impl Tallies {
    /// The counts of one issue, if it is in motion.
    pub fn get(&self, issue: IssueId) -> Option<Tally> {
        self.lock().get(&issue).cloned()
    }

    /// Replaces the counts of one issue.
    pub fn put(&self, issue: IssueId, tally: Tally) {
        self.lock().insert(issue, tally);
    }

    /// Keeps the ledger and the counts together: whoever changes both holds this from before the
    /// commit until the counts are changed.
    pub async fn still(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.moving.lock().await
    }

    /// Counts an issue anew, while the ledger's writer goes on. What it moves meanwhile is neither
    /// lost nor counted twice: the counts begin at one moment between two of its commits, and what
    /// changed in memory since then is added to them.
    pub async fn recount(&self, db: &Db, issue: IssueId) -> db::Result<Tally> {
        let mut snapshot = db.snapshot().await?;
        let before = {
            let _still = self.still().await;
            let _: i64 = snapshot.query("SELECT COUNT(*) FROM node").scalar().await?;
            self.get(issue)
        };
        let mut tally = load_in(&mut snapshot, issue).await?;
        snapshot.rollback().await?;
        let mut issues = self.lock();
        if let (Some(before), Some(after)) = (&before, issues.get(&issue)) {
            tally.add_changes(before, after);
        }
        issues.insert(issue, tally.clone());
        Ok(tally)
    }

    /// Forgets an issue that came to rest.
    pub fn forget(&self, issue: IssueId) {
        self.lock().remove(&issue);
    }

    /// Changes counts, all at once for whoever reads them.
    pub fn update(&self, change: impl FnOnce(&mut Moving<'_>)) {
        change(&mut Moving(self.lock()));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IssueId, Tally>> {
        // Counts are checked against the ledger now and then, so a panic elsewhere does no harm.
        self.issues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Moving<'_> {
    /// Notes that a copy went from one state to another.
    pub fn moved(&mut self, copy: &Claimed, from: CopyState, to: CopyState) {
        let CopyId::Issue { issue, .. } = copy.copy else { return };
        let Some(tally) = self.0.get_mut(&issue) else { return };
        tally.move_copy(copy.stage, copy.provider, from, to);
        if copy.attempts > 0 {
            match (from, to) {
                (CopyState::Waiting, _) => tally.deferred(copy.stage, copy.provider, -1),
                (_, CopyState::Waiting) => tally.deferred(copy.stage, copy.provider, 1),
                _ => {}
            }
        }
    }

    /// Notes what became of a copy that was handed off.
    pub fn settled(&mut self, settlement: &Settlement) {
        let CopyId::Issue { issue, .. } = settlement.copy else { return };
        let Some(tally) = self.0.get_mut(&issue) else { return };
        let (stage, provider) = (settlement.stage, settlement.provider);
        tally.move_copy(stage, provider, CopyState::HandedOff, settlement.state);
        match settlement.state {
            CopyState::Waiting if settlement.attempts > 0 => tally.deferred(stage, provider, 1),
            CopyState::Rejected => {
                let class = settlement.event.as_ref().and_then(|event| event.class.as_deref());
                if let Some(fault) = class.and_then(fault_of_class) {
                    tally.refuse(stage, provider, fault, 1);
                }
            }
            _ => {}
        }
    }
}

/// What gates make of an event's class.
pub fn fault_of_class(class: &str) -> Option<Fault> {
    match class.split('.').next().unwrap_or_default() {
        "recipient" => Some(Fault::Recipient),
        "reputation" | "policy" | "content" => Some(Fault::Policy),
        "authentication" => Some(Fault::Authentication),
        _ => None,
    }
}

/// Counts an issue's copies and refusals from the ledger and the log: those that were refused to our
/// face, and those that came back later.
///
/// `kind <> 2` is what the log's index by issue is made for; without these words it is not used.
pub async fn load(db: &Db, issue: IssueId) -> db::Result<Tally> {
    load_in(&mut db.snapshot().await?, issue).await
}

async fn load_in(tx: &mut Tx, issue: IssueId) -> db::Result<Tally> {
    let mut tally = Tally::from_counts(&queue::count_in(tx, issue).await?);
    let refusals: Vec<Refusals> = tx
        .query(
            "SELECT d.stage, d.provider, coalesce(e.class, '') AS class, COUNT(*) AS refusals \
             FROM event e JOIN delivery d \
             ON d.issue_id = e.issue_id AND d.subscriber_id = e.subscriber_id \
             WHERE e.issue_id = $1 AND e.kind <> 2 AND e.kind IN (4, 8) \
             GROUP BY d.stage, d.provider, e.class",
        )
        .bind(issue)
        .all()
        .await?;
    for row in refusals {
        if let Some(fault) = fault_of_class(&row.class) {
            tally.refuse(row.stage, row.provider, fault, row.refusals);
        }
    }
    for row in signals(tx, issue).await? {
        match row.kind {
            EventKind::Complained => tally.set_complaints(row.stage, row.provider, row.readers),
            _ => tally.set_unsubscribed(row.stage, row.provider, row.readers),
        }
    }
    Ok(tally)
}

/// Readers who complained, and readers who left by a link or a mail of this issue.
async fn signals(tx: &mut Tx, issue: IssueId) -> db::Result<Vec<Signals>> {
    tx.query(
        "SELECT d.stage, d.provider, e.kind, COUNT(DISTINCT e.subscriber_id) AS readers \
         FROM event e JOIN delivery d \
         ON d.issue_id = e.issue_id AND d.subscriber_id = e.subscriber_id \
         WHERE e.issue_id = $1 AND e.kind <> 2 AND e.kind IN (9, 10) \
         GROUP BY d.stage, d.provider, e.kind",
    )
    .bind(issue)
    .all()
    .await
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    };

    use super::*;
    use crate::{db::OpenOptions, id::SubscriberId};

    /// Copies are moved as the ledger's writer moves them, while somebody counts all the time.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_counts_while_copies_move_loses_none_and_counts_none_twice() {
        const ISSUE: IssueId = IssueId(1);
        const COPIES: i64 = 300;
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(&OpenOptions::new(folder.path().join("test.db"))).await.unwrap();
        db.write(
            "WITH RECURSIVE n (id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < $1) \
             INSERT INTO delivery (issue_id, subscriber_id, state, stage, provider, attempt) \
             SELECT 1, id, 0, id % 2, id % 3, 0 FROM n",
        )
        .bind(COPIES)
        .execute()
        .await
        .unwrap();
        let tallies = Arc::new(Tallies::default());
        tallies.put(ISSUE, load(&db, ISSUE).await.unwrap());
        let counted = Arc::new(AtomicI64::new(0));
        let writer = tokio::spawn({
            let (tallies, db, counted) = (Arc::clone(&tallies), db.clone(), Arc::clone(&counted));
            async move {
                for id in 1..=COPIES {
                    // However the two are scheduled, there are counts all along the way.
                    while counted.load(Ordering::Relaxed) < id / 25 {
                        tokio::task::yield_now().await;
                    }
                    let _still = tallies.still().await;
                    let moved = "UPDATE delivery SET state = 3 WHERE subscriber_id = $1";
                    db.write(moved).bind(id).execute().await.unwrap();
                    tokio::task::yield_now().await;
                    let copy = CopyId::Issue { issue: ISSUE, subscriber: SubscriberId(id) };
                    let (stage, provider) = (id % 2, id % 3);
                    let at = crate::timestamp::Timestamp::default();
                    let copy = Claimed {
                        copy,
                        claim: 1,
                        place: 0,
                        claimed_at: at,
                        due_at: at,
                        first_due_at: at,
                        provider,
                        stage,
                        attempts: 0,
                    };
                    tallies.update(|moving| {
                        moving.moved(&copy, CopyState::Waiting, CopyState::Accepted);
                    });
                }
            }
        });
        while !writer.is_finished() {
            let tally = tallies.recount(&db, ISSUE).await.unwrap();
            assert_eq!(tally.total().total(), COPIES);
            let _still = tallies.still().await;
            assert_eq!(tallies.get(ISSUE).unwrap(), load(&db, ISSUE).await.unwrap());
            counted.fetch_add(1, Ordering::Relaxed);
        }
        writer.await.unwrap();
        assert_eq!(tallies.get(ISSUE).unwrap(), load(&db, ISSUE).await.unwrap());
        assert_eq!(tallies.get(ISSUE).unwrap().total().get(CopyState::Accepted), COPIES);
    }
}
