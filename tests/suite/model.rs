//! The life of copies in the ledger against a small model of it: random sequences of claims,
//! handoffs, outcomes, pauses, cancels, leavings, lapsed leases and restarts, on a real data file.
//! After every step each copy is where the model says, whoever acted last and under whatever claim.

use std::{collections::HashMap, path::Path, time::Duration};

use postrider::{
    db::{Db, OpenOptions, state::CopyState},
    delivery::{
        journal::{Entry, Remains},
        queue::{self, Claimed, Lane, Settlement},
        recovery::{self, Rules},
    },
    event::Event,
    id::{CopyId, IssueId, NodeId, SubscriberId},
    timestamp::Timestamp,
};
use proptest::{prelude::*, test_runner::TestCaseError};

const READERS: usize = 6;
const ISSUE: IssueId = IssueId(1);
/// All of it happens at one moment: time is in the leases and the due times.
const NOW: i64 = 1_700_000_000_000_000;

fn now() -> Timestamp {
    Timestamp::from_microseconds(NOW)
}

/// What a try comes to.
#[derive(Debug, Clone, Copy)]
enum Try {
    Accepted,
    Rejected,
    Deferred,
    Uncertain,
    Untried,
    Skipped,
}

/// What the journal of a daemon that died says of a copy.
#[derive(Debug, Clone, Copy)]
enum Word {
    Nothing,
    Dot,
    Yes,
    NotNow,
}

#[derive(Debug, Clone)]
enum Step {
    ClaimFirst(u32),
    ClaimDue,
    HandOff(prop::sample::Index),
    Settle(prop::sample::Index, prop::sample::Index, Try),
    Release(prop::sample::Index),
    ReleaseStage,
    Pause,
    Resume,
    Cancel,
    Leave(prop::sample::Index),
    Suppress(prop::sample::Index),
    LeaseRunsOut,
    LeaseIsRenewed,
    Restart { words: Vec<Word>, power_lost: bool },
    Resend(prop::sample::Index),
    Expire,
}

fn step() -> impl Strategy<Value = Step> {
    let index = || any::<prop::sample::Index>();
    let tries = prop_oneof![
        4 => Just(Try::Accepted),
        1 => Just(Try::Rejected),
        2 => Just(Try::Deferred),
        1 => Just(Try::Uncertain),
        1 => Just(Try::Untried),
        1 => Just(Try::Skipped),
    ];
    let words =
        prop_oneof![Just(Word::Nothing), Just(Word::Dot), Just(Word::Yes), Just(Word::NotNow)];
    prop_oneof![
        6 => (1u32..4).prop_map(Step::ClaimFirst),
        3 => Just(Step::ClaimDue),
        9 => index().prop_map(Step::HandOff),
        12 => (index(), index(), tries).prop_map(|(a, b, c)| Step::Settle(a, b, c)),
        2 => index().prop_map(Step::Release),
        2 => Just(Step::ReleaseStage),
        1 => Just(Step::Pause),
        2 => Just(Step::Resume),
        1 => index().prop_map(Step::Leave),
        1 => index().prop_map(Step::Suppress),
        1 => Just(Step::LeaseRunsOut),
        2 => Just(Step::LeaseIsRenewed),
        2 => (prop::collection::vec(words, READERS), prop::bool::weighted(0.2))
            .prop_map(|(words, power_lost)| Step::Restart { words, power_lost }),
        1 => index().prop_map(Step::Resend),
    ]
}

/// A course with at most one end in it: after a cancel or an expiry little can happen.
fn course() -> impl Strategy<Value = Vec<Step>> {
    let end =
        prop_oneof![3 => Just(None), 1 => Just(Some(Step::Cancel)), 1 => Just(Some(Step::Expire))];
    let steps = prop::collection::vec(step(), 1..60);
    (steps, end, any::<prop::sample::Index>()).prop_map(|(mut steps, end, at)| {
        if let Some(end) = end {
            steps.insert(at.index(steps.len()), end);
        }
        steps
    })
}

/// One copy as the model sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Copy {
    state: CopyState,
    attempts: i64,
    claim: Option<i64>,
    /// Whether it was tried or given back before, and is claimed by its due time.
    due: bool,
    /// How often the relay took it, and how often an operator had it sent again.
    taken: u32,
    resends: u32,
}

/// The model: what the contract says, and nothing of how it is done.
#[derive(Debug)]
struct Model {
    copies: Vec<Copy>,
    left: [bool; READERS],
    suppressed: [bool; READERS],
    sending: bool,
    stage: i64,
    /// The node at work, and whether its lease holds.
    node: i64,
    leased: bool,
}

fn stage_of(reader: usize) -> i64 {
    i64::from(reader >= READERS / 2)
}

fn id_of(copy: CopyId) -> usize {
    match copy {
        CopyId::Issue { subscriber, .. } => subscriber.0 as usize - 1,
        CopyId::Service(_) => unreachable!("the model has issues only"),
    }
}

impl Model {
    fn new(node: i64) -> Self {
        let copy = Copy {
            state: CopyState::Waiting,
            attempts: 0,
            claim: None,
            due: false,
            taken: 0,
            resends: 0,
        };
        Self {
            copies: vec![copy; READERS],
            left: [false; READERS],
            suppressed: [false; READERS],
            sending: true,
            stage: 0,
            node,
            leased: true,
        }
    }

    fn claims(&mut self, claim: i64, due: bool, limit: usize) -> Vec<usize> {
        let stage = self.stage;
        let eligible = self.copies.iter().enumerate().filter(|(reader, copy)| {
            copy.state == CopyState::Waiting && copy.due == due && stage_of(*reader) <= stage
        });
        let taken: Vec<usize> = eligible.map(|(reader, _)| reader).take(limit).collect();
        for reader in &taken {
            self.copies[*reader].state = CopyState::Claimed;
            self.copies[*reader].claim = Some(claim);
        }
        taken
    }

    /// Hands off what `claim` of `node` still holds; returns which may be sent.
    fn hands_off(&mut self, node: i64, claim: i64, readers: &[usize]) -> Vec<usize> {
        let mut handed = Vec::new();
        for &reader in readers {
            let copy = &mut self.copies[reader];
            if copy.claim != Some(claim) {
                continue;
            }
            if copy.state == CopyState::HandedOff {
                // Asked for again, as after a COMMIT whose answer was lost.
                handed.push(reader);
            }
            if copy.state != CopyState::Claimed {
                continue;
            }
            let going = self.sending && stage_of(reader) <= self.stage;
            if going && (self.left[reader] || self.suppressed[reader]) {
                copy.state = CopyState::Skipped;
            } else if going && self.leased && node == self.node {
                copy.state = CopyState::HandedOff;
                handed.push(reader);
            } else {
                copy.state = CopyState::Waiting;
                copy.due = true;
            }
        }
        handed
    }

    fn settles(&mut self, claim: i64, reader: usize, what: Try, attempts: i64) {
        let copy = &mut self.copies[reader];
        if copy.state != CopyState::HandedOff || copy.claim != Some(claim) {
            return;
        }
        copy.state = state_of(what);
        copy.attempts = attempts;
        copy.due = copy.state == CopyState::Waiting;
        copy.taken += u32::from(matches!(what, Try::Accepted | Try::Uncertain));
    }

    fn gives_back(&mut self, claim: Option<i64>) {
        for copy in &mut self.copies {
            let held = claim.is_none() || copy.claim == claim;
            if copy.state == CopyState::Claimed && held {
                copy.state = CopyState::Waiting;
                copy.due = true;
            }
        }
    }

    fn restarts(&mut self, words: &[Word], power_lost: bool, node: i64) {
        self.gives_back(None);
        for (copy, word) in self.copies.iter_mut().zip(words) {
            if copy.state != CopyState::HandedOff {
                continue;
            }
            let word = if power_lost { Word::Dot } else { *word };
            (copy.state, copy.due) = match word {
                Word::Nothing | Word::NotNow => (CopyState::Waiting, true),
                Word::Dot => (CopyState::Uncertain, false),
                Word::Yes => (CopyState::Accepted, false),
            };
            copy.attempts += i64::from(!matches!(word, Word::Nothing));
            copy.taken += u32::from(copy.state != CopyState::Waiting);
        }
        self.node = node;
        self.leased = true;
    }
}

fn state_of(what: Try) -> CopyState {
    match what {
        Try::Accepted => CopyState::Accepted,
        Try::Rejected => CopyState::Rejected,
        Try::Deferred | Try::Untried => CopyState::Waiting,
        Try::Uncertain => CopyState::Uncertain,
        Try::Skipped => CopyState::Skipped,
    }
}

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
        let claim = queue::open_claim(&mut tx, node).await.unwrap();
        let stage = self.model.stage;
        let claimed = if due {
            queue::claim_due(&mut tx, claim, ISSUE, "[]", now(), stage, limit).await.unwrap()
        } else {
            let (lane, after) = (Lane::AllBut("[]".to_owned()), SubscriberId(0));
            queue::claim_first_tries(&mut tx, claim, ISSUE, &lane, after, stage, limit)
                .await
                .unwrap()
        };
        tx.commit().await.unwrap();
        let readers: Vec<usize> = claimed.iter().map(|copy| id_of(copy.copy)).collect();
        prop_assert_eq!(&readers, &self.model.claims(claim, due, limit as usize));
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
            reason: None,
            event: None::<Event>,
            class: None,
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
        let remains = Remains { node_uid, survived_power_loss: power_lost, entries };
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
