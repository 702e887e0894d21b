//! The life of copies in the ledger against a small model of it: random sequences of claims,
//! handoffs, outcomes, pauses, cancels, leavings, lapsed leases and restarts, on a real data file.
//! After every step each copy is where the model says, whoever acted last and under whatever claim.

mod contract;

use std::{collections::HashMap, path::Path, time::Duration};

use postrider::{
    db::{Db, OpenOptions, state::CopyState},
    delivery::{
        journal::{Entry, Remains},
        queue::{self, Claimed, Lane, Settlement},
        recovery::{self, Rules},
    },
    event::Event,
    id::{CopyId, NodeId, SubscriberId},
};
use proptest::{prelude::*, test_runner::TestCaseError};

use self::contract::{
    ISSUE, Model, NOW, READERS, Step, Try, Word, course, id_of, now, stage_of, state_of,
};

/// The ledger, with the model beside it.
struct Bench {
    db: Db,
    model: Model,
    /// Every claim that was ever made: by which node, and which copies.
    claims: Vec<(NodeId, Vec<Claimed>)>,
    nodes: i64,
}

async fn template(path: &Path) {
    let db = Db::open(&OpenOptions::new(path)).await.unwrap();
    let mut tx = db.begin().await.unwrap();
    tx.query(
        "INSERT INTO newsletter (uid, slug, name, description, from_name, from_address, reply_to, \
         subject_pattern, language, postal_address, accent_color, created_at) \
         VALUES ('n', 'n', 'n', '', '', '', '', '', 'en', '', '', 0)",
    )
    .execute()
    .await
    .unwrap();
    tx.query(
        "INSERT INTO issue (id, uid, newsletter_id, number, subject, state, model, source, \
         created_at, stage, expires_at) VALUES (1, 'i', 1, 1, 's', 2, '{}', '', 0, 0, $1)",
    )
    .bind(now().plus(Duration::from_hours(36)))
    .execute()
    .await
    .unwrap();
    for reader in 0..READERS {
        let id = reader as i64 + 1;
        for sql in [
            "INSERT INTO subscriber (id, address, address_hash, provider, created_at) \
             VALUES ($1, 'r' || $1 || '@example.org', CAST('hash' || $1 AS BLOB), 0, 0)",
            "INSERT INTO subscription (newsletter_id, subscriber_id, state, created_at) \
             VALUES (1, $1, 1, 0)",
        ] {
            tx.query(sql).bind(id).execute().await.unwrap();
        }
        tx.query(
            "INSERT INTO delivery (issue_id, subscriber_id, state, stage, provider) \
             VALUES (1, $1, 0, $2, 0)",
        )
        .bind(id)
        .bind(stage_of(reader))
        .execute()
        .await
        .unwrap();
    }
    tx.commit().await.unwrap();
    db.close().await;
}

impl Bench {
    async fn new(path: &Path) -> Self {
        let db = Db::open(&OpenOptions::new(path)).await.unwrap();
        let mut bench = Self { db, model: Model::new(0), claims: Vec::new(), nodes: 0 };
        let node = bench.node().await;
        bench.model.node = node.0;
        bench
    }

    async fn node(&mut self) -> NodeId {
        self.nodes += 1;
        self.db
            .write(
                "INSERT INTO node (uid, started_at, lease_until) VALUES ($1, 0, $2) RETURNING id",
            )
            .bind(format!("node {}", self.nodes))
            .bind(now().plus(Duration::from_mins(5)))
            .scalar()
            .await
            .unwrap()
    }

    async fn sql(&self, sql: &'static str, value: i64) {
        self.db.write(sql).bind(value).execute().await.unwrap();
    }

    async fn take(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::ClaimFirst(limit) => self.claim(false, *limit).await?,
            Step::ClaimDue => self.claim(true, 100).await?,
            Step::HandOff(which) => self.hand_off(*which).await?,
            Step::Settle(which, copy, what) => self.settle(*which, *copy, *what).await,
            Step::Release(which) => {
                let Some((_, copies)) = pick(&self.claims, *which).cloned() else { return Ok(()) };
                let mut tx = self.db.begin().await.unwrap();
                queue::release(&mut tx, &copies, now()).await.unwrap();
                tx.commit().await.unwrap();
                if let Some(first) = copies.first() {
                    self.model.gives_back(Some(first.claim));
                }
            }
            Step::ReleaseStage => {
                self.sql("UPDATE issue SET stage = $1", 1).await;
                self.model.stage = 1;
            }
            Step::StayBehind(behind) => {
                self.sql("DELETE FROM held_provider WHERE provider = $1", 0).await;
                if *behind {
                    let sql = "INSERT INTO held_provider (issue_id, provider, stage, since) \
                               VALUES (1, $1, 0, 0)";
                    self.sql(sql, 0).await;
                }
                self.model.behind = *behind;
            }
            Step::Pause | Step::Resume => {
                let sending = matches!(step, Step::Resume);
                let state = if sending { 2 } else { 3 };
                // Not out of an end.
                self.sql("UPDATE issue SET state = $1 WHERE state IN (2, 3)", state).await;
                let is: i64 = self.db.query("SELECT state FROM issue").scalar().await.unwrap();
                self.model.sending = is == 2;
            }
            Step::Cancel | Step::Expire => self.end(matches!(step, Step::Cancel)).await,
            Step::Leave(reader) => {
                let reader = reader.index(READERS);
                let sql = "UPDATE subscription SET state = 2 WHERE subscriber_id = $1";
                self.sql(sql, reader as i64 + 1).await;
                self.model.left[reader] = true;
            }
            Step::Suppress(reader) => {
                let reader = reader.index(READERS);
                let sql = "INSERT INTO suppression (address_hash, reason, created_at) \
                           VALUES (CAST('hash' || $1 AS BLOB), 'manual', 0) ON CONFLICT DO NOTHING";
                self.sql(sql, reader as i64 + 1).await;
                self.model.suppressed[reader] = true;
            }
            Step::LeaseRunsOut => {
                self.sql("UPDATE node SET lease_until = $1", NOW).await;
                self.model.leased = false;
            }
            Step::LeaseIsRenewed => {
                self.db
                    .write("UPDATE node SET lease_until = $1 WHERE id = $2")
                    .bind(NOW + 1_000_000)
                    .bind(self.model.node)
                    .execute()
                    .await
                    .unwrap();
                self.model.leased = true;
            }
            Step::Restart { words, power_lost } => self.restart(words, *power_lost).await,
            Step::Resend(reader) => {
                let reader = reader.index(READERS);
                let sql = "UPDATE delivery SET state = 0, due_at = 0 \
                           WHERE subscriber_id = $1 AND state = 5";
                self.sql(sql, reader as i64 + 1).await;
                let copy = &mut self.model.copies[reader];
                if copy.state == CopyState::Uncertain {
                    (copy.state, copy.due) = (CopyState::Waiting, true);
                    copy.resends += 1;
                }
            }
        }
        Ok(())
    }

    async fn claim(&mut self, due: bool, limit: u32) -> Result<(), TestCaseError> {
        let node = NodeId(self.model.node);
        let mut tx = self.db.begin().await.unwrap();
        let claim = queue::open_claim(&mut tx, node, now()).await.unwrap();
        let stage = self.model.stage;
        let claimed = if due {
            queue::claim_due(&mut tx, claim, ISSUE, "[]", stage, limit).await.unwrap()
        } else {
            let (lane, after) = (Lane::AllBut("[]".to_owned()), SubscriberId(0));
            queue::claim_first_tries(&mut tx, claim, ISSUE, &lane, after, stage, limit)
                .await
                .unwrap()
        };
        tx.commit().await.unwrap();
        let readers: Vec<usize> = claimed.iter().map(|copy| id_of(copy.copy)).collect();
        prop_assert_eq!(&readers, &self.model.claims(claim.id, due, limit as usize));
        for copy in &claimed {
            prop_assert_eq!(copy.attempts, self.model.copies[id_of(copy.copy)].attempts);
        }
        self.claims.push((node, claimed));
        Ok(())
    }

    async fn hand_off(&mut self, which: prop::sample::Index) -> Result<(), TestCaseError> {
        let Some((node, copies)) = pick(&self.claims, which).cloned() else { return Ok(()) };
        let Some(claim) = copies.first().map(|copy| copy.claim) else { return Ok(()) };
        let readers: Vec<usize> = copies.iter().map(|copy| id_of(copy.copy)).collect();
        let mut tx = self.db.begin().await.unwrap();
        let (handed, withheld) =
            queue::hand_off(&mut tx, node, ISSUE, claim, copies, now()).await.unwrap();
        tx.commit().await.unwrap();
        prop_assert_eq!(handed.len() + withheld.len(), readers.len());
        let handed: Vec<usize> = handed.iter().map(|copy| id_of(copy.claimed.copy)).collect();
        prop_assert_eq!(handed, self.model.hands_off(node.0, claim, &readers));
        Ok(())
    }

    async fn settle(&mut self, which: prop::sample::Index, copy: prop::sample::Index, what: Try) {
        let Some((_, copies)) = pick(&self.claims, which).cloned() else { return };
        let Some(claimed) = pick(&copies, copy) else { return };
        let counts = !matches!(what, Try::Untried | Try::Skipped);
        let attempts = claimed.attempts + i64::from(counts);
        let settlement = Settlement {
            copy: claimed.copy,
            claim: claimed.claim,
            state: state_of(what),
            attempts,
            due_at: matches!(what, Try::Deferred | Try::Untried).then_some(now()),
            decided_at: now(),
            reason: None,
            event: None::<Event>,
            class: None,
            first_due_at: None,
            timings: postrider::smtp::client::Timings::default(),
            stage: claimed.stage,
            provider: claimed.provider,
        };
        let mut tx = self.db.begin().await.unwrap();
        queue::settle(&mut tx, &[settlement], 20.0, now()).await.unwrap();
        tx.commit().await.unwrap();
        self.model.settles(claimed.claim, id_of(claimed.copy), what, attempts);
    }

    async fn end(&mut self, cancelled: bool) {
        let mut tx = self.db.begin().await.unwrap();
        if cancelled {
            tx.query("UPDATE issue SET state = 5").execute().await.unwrap();
            queue::cancel(&mut tx, ISSUE).await.unwrap();
            self.model.sending = false;
        } else {
            queue::expire(&mut tx, ISSUE).await.unwrap();
        }
        tx.commit().await.unwrap();
        for copy in &mut self.model.copies {
            match copy.state {
                CopyState::Waiting | CopyState::Claimed if cancelled => {
                    copy.state = CopyState::Cancelled;
                }
                CopyState::Waiting => copy.state = CopyState::Expired,
                _ => {}
            }
        }
    }

    async fn restart(&mut self, words: &[Word], power_lost: bool) {
        let entry = |reader: usize| {
            let attempt = self.model.copies[reader].attempts + 1;
            let says = |code: u16| Entry::Reply {
                attempt,
                code,
                enhanced: None,
                text: "so be it".to_owned(),
            };
            match words[reader] {
                Word::Nothing => None,
                Word::Dot => Some(Entry::Dot { attempt }),
                Word::Yes => Some(says(250)),
                Word::NotNow => Some(says(451)),
            }
        };
        let entries: HashMap<CopyId, Entry> = (0..READERS)
            .filter_map(|reader| {
                let subscriber = SubscriberId(reader as i64 + 1);
                Some((CopyId::Issue { issue: ISSUE, subscriber }, entry(reader)?))
            })
            .collect();
        let node_uid = format!("node {}", self.nodes);
        let remains =
            Remains { node_uid, survived_power_loss: power_lost, entries, ..Remains::default() };
        let node = self.node().await;
        let rules = Rules { retry_delays: &[Duration::ZERO], brake_percent: 20.0 };
        recovery::recover(&self.db, Some(&remains), node, rules, now()).await.unwrap();
        self.model.restarts(words, power_lost, node.0);
    }

    /// Compares, copy by copy.
    async fn compare(&self, step: &Step) -> Result<(), TestCaseError> {
        let rows: Vec<(i64, i64, Option<i64>, bool)> = self
            .db
            .query(
                "SELECT state, attempt, claim_id, due_at IS NOT NULL FROM delivery \
                 ORDER BY subscriber_id",
            )
            .all()
            .await
            .unwrap();
        for (reader, (row, copy)) in rows.iter().zip(&self.model.copies).enumerate() {
            let found = (CopyState::try_from(row.0).unwrap(), row.1);
            prop_assert_eq!(
                found,
                (copy.state, copy.attempts),
                "reader {} after {:?}",
                reader,
                step
            );
            if matches!(copy.state, CopyState::Claimed | CopyState::HandedOff) {
                prop_assert_eq!(row.2, copy.claim, "reader {} after {:?}", reader, step);
            }
            if copy.state == CopyState::Waiting {
                prop_assert_eq!(row.3, copy.due, "reader {} after {:?}", reader, step);
            }
            prop_assert!(copy.taken <= 1 + copy.resends, "I1: reader {} after {:?}", reader, step);
        }
        Ok(())
    }
}

fn pick<T>(all: &[T], which: prop::sample::Index) -> Option<&T> {
    if all.is_empty() { None } else { all.get(which.index(all.len())) }
}

#[test]
fn the_ledger_does_what_the_model_does() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = crate::harness::quick_folder();
    let original = folder.path().join("template.db");
    runtime.block_on(template(&original));
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|text| text.parse().ok());
    let config = ProptestConfig {
        cases: asked.unwrap_or(150),
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    proptest!(config, |(steps in course())| {
        let path = folder.path().join("ledger.db");
        for suffix in ["", "-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{suffix}", path.display()));
        }
        std::fs::copy(&original, &path).unwrap();
        runtime.block_on(async {
            let mut bench = Bench::new(&path).await;
            for step in &steps {
                bench.take(step).await?;
                bench.compare(step).await?;
            }
            bench.db.close().await;
            Ok::<_, TestCaseError>(())
        })?;
    });
}
