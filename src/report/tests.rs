//! Reports over a send in the middle of its way, in a real database.

mod lines;

use std::time::Duration;

use futures_util::TryStreamExt as _;

use super::*;
use crate::{
    address::Address,
    db::{
        OpenOptions,
        record::record,
        state::{CopyState, EventKind, IssueState},
    },
    delivery::{control, tallies},
    event::{self, Event, Filter},
    id::{IssueId, NewsletterId, SubscriberId},
    newsletter::NewNewsletter,
    token::Keyring,
};

pub(crate) const NOW: Timestamp = Timestamp::from_microseconds(1_754_000_000_000_000);

/// A database with one newsletter, its readers, and issue 437 on its way to them.
pub(crate) struct House {
    pub(crate) db: Db,
    pub(crate) keyring: Keyring,
    pub(crate) config: Config,
    pub(crate) newsletter: NewsletterId,
    pub(crate) issue: IssueId,
    /// The time of the reports.
    pub(crate) now: Timestamp,
    pub(crate) folder: tempfile::TempDir,
}

/// What became of the copy of the `n`th of a hundred readers.
fn fate(n: i64) -> CopyState {
    match n % 100 {
        0..=49 => CopyState::Accepted,
        50..=52 => CopyState::Rejected,
        53 => CopyState::Uncertain,
        54 => CopyState::Skipped,
        _ => CopyState::Waiting,
    }
}

impl House {
    /// Issue 437 went to half of `readers`, a hundred or a multiple of that, until `now`.
    pub(crate) async fn new(readers: i64, now: Timestamp) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(&OpenOptions::new(folder.path().join("test.db"))).await.unwrap();
        let keyring = Keyring::ephemeral(now);
        let new = NewNewsletter {
            slug: "weekly".into(),
            name: "The Weekly <Pager>".into(),
            description: "What broke".into(),
            from_address: Address::parse("pager@example.com").unwrap(),
        };
        let newsletter = newsletter::create(&db, &new, now).await.unwrap().id;
        let mut house = Self {
            db,
            keyring,
            config: Config::default(),
            newsletter,
            issue: IssueId(0),
            now,
            folder,
        };
        house.issue = house.send(readers).await;
        house
    }

    async fn send(&self, readers: i64) -> IssueId {
        let started_at = self.now.minus(Duration::from_mins(20));
        let mut tx = self.db.begin().await.unwrap();
        let issue: IssueId = tx
            .query(
                "INSERT INTO issue (uid, newsletter_id, number, subject, state, model, source, \
                 created_at, sends_at, started_at, expires_at, stage, first_event_id) \
                 VALUES ('u', $1, 437, 'Queues have a cost', 2, '', '', $2, $2, $2, $3, 1, 1) \
                 RETURNING id",
            )
            .bind(self.newsletter)
            .bind(started_at)
            .bind(started_at.plus(Duration::from_hours(36)))
            .scalar()
            .await
            .unwrap();
        let mut events = Vec::new();
        let mut sizes = [0_i64; 3];
        for n in 0..readers {
            let id = self.add_reader(&mut tx, n).await;
            let stage = if n == 0 { 0 } else { 1 + i64::from(n % 100 >= 60) };
            sizes[stage as usize] += 1;
            let (state, deferred) = (fate(n), (55..58).contains(&(n % 100)));
            let due = deferred.then_some(self.now.plus(Duration::from_mins(15)));
            let reason = match state {
                CopyState::Rejected => Some("RCPT: 550 5.1.1 no such user"),
                CopyState::Uncertain => Some("no reply to the final dot: closed"),
                CopyState::Skipped => Some("unsubscribed"),
                _ if deferred => Some("DATA: 451 4.7.1 try later"),
                _ => None,
            };
            tx.query(
                "INSERT INTO delivery (issue_id, subscriber_id, state, stage, provider, attempt, \
                 due_at, reason) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
            )
            .bind(issue)
            .bind(id)
            .bind(state)
            .bind(stage)
            .bind(n % 3)
            .bind(i64::from(deferred || state != CopyState::Waiting))
            .bind(due)
            .bind(reason)
            .execute()
            .await
            .unwrap();
            events.extend(self.event(issue, id, n, readers, deferred));
        }
        for (stage, name) in ["seed list", "10 %", "rest"].iter().enumerate() {
            tx.query(
                "INSERT INTO issue_stage (issue_id, stage, name, size, released_at) \
                 VALUES ($1, $2, $3, $4, $5)",
            )
            .bind(issue)
            .bind(stage as i64)
            .bind((*name).to_owned())
            .bind(sizes[stage])
            .bind((stage < 2).then_some(started_at))
            .execute()
            .await
            .unwrap();
        }
        events.sort_by_key(|event| event.at);
        event::record(&mut tx, &events).await.unwrap();
        tx.commit().await.unwrap();
        issue
    }

    async fn add_reader(&self, tx: &mut db::Tx, n: i64) -> SubscriberId {
        let address = Address::parse(&format!("reader{n}@example.org")).unwrap();
        let id: SubscriberId = tx
            .query(
                "INSERT INTO subscriber (address, address_hash, provider, created_at) \
                 VALUES ($1, $2, $3, $4) RETURNING id",
            )
            .bind(address.as_str().to_owned())
            .bind(self.keyring.address_hash(&address).to_vec())
            .bind(n % 3)
            .bind(self.now)
            .scalar()
            .await
            .unwrap();
        tx.query(
            "INSERT INTO subscription (newsletter_id, subscriber_id, state, seed, created_at, \
             confirmed_at) VALUES ($1, $2, 1, $3, $4, $4)",
        )
        .bind(self.newsletter)
        .bind(id)
        .bind(n == 0)
        .bind(self.now)
        .execute()
        .await
        .unwrap();
        id
    }

    /// The line of the log about the `n`th reader's copy: one every 20 ms, up to now.
    fn event(
        &self,
        issue: IssueId,
        id: SubscriberId,
        n: i64,
        readers: i64,
        deferred: bool,
    ) -> Option<Event> {
        let (kind, code, enhanced, text, class) = match fate(n) {
            CopyState::Accepted => {
                (EventKind::Accepted, Some(250), Some("2.0.0"), "2.0.0 queued", None)
            }
            CopyState::Rejected => (
                EventKind::Rejected,
                Some(550),
                Some("5.1.1"),
                "5.1.1 <b>no such user</b>",
                Some("recipient.permanent"),
            ),
            CopyState::Uncertain => {
                (EventKind::Uncertain, None, None, "no reply to the final dot: closed", None)
            }
            CopyState::Skipped => (EventKind::Skipped, None, None, "unsubscribed", None),
            _ if deferred => (
                EventKind::Deferred,
                Some(451),
                Some("4.7.1"),
                "4.7.1 try later",
                Some("policy.transient"),
            ),
            _ => return None,
        };
        let back = Duration::from_millis(20) * (readers - 1 - n) as u32;
        let mut event =
            Event::new(kind, self.now.minus(back)).about(Some(issue), Some(id)).because(text);
        event.attempt = Some(1);
        event.provider = Some(n % 3);
        event.relay = Some("main".into());
        event.session = Some(1);
        event.code = code;
        event.enhanced = enhanced.map(str::to_owned);
        event.class = class.map(str::to_owned);
        if kind != EventKind::Skipped {
            event.phase = Some("DOT".into());
            event.duration_us = Some(1000 * (n % 100 + 1));
            event.bytes = Some(60_000);
            // Handed off 0.2 s before, claimed 0.3 s before that, due so many milliseconds earlier.
            let handed_off_at = event.at.minus(Duration::from_millis(200));
            let claimed_at = handed_off_at.minus(Duration::from_millis(300));
            let wait = Duration::from_millis(1000 + n as u64 % 100);
            event = event
                .after_claim(handed_off_at.minus(wait), claimed_at)
                .after_handoff(handed_off_at);
        }
        Some(event)
    }

    pub(crate) async fn edition(&self) -> Edition {
        control::find(&self.db, self.newsletter, 437).await.unwrap().unwrap()
    }

    fn scope(&self, tally: Option<Tally>) -> Scope<'_> {
        Scope { config: &self.config, providers: Providers::embedded(), tally, now: self.now }
    }

    async fn status(&self) -> IssueStatus {
        issue_status(&self.db, &self.edition().await, &self.scope(None)).await.unwrap()
    }

    pub(crate) async fn set(&self, sql: &'static str) {
        self.db.write(sql).execute().await.unwrap();
    }

    /// The ids of the readers whose lines a filter lets through, from page to page.
    async fn walk(&self, filter: &Filter, limit: u32) -> (Vec<i64>, usize) {
        let (mut ids, mut pages, mut start) = (Vec::new(), 0, Start::Newest);
        loop {
            let page = log_page(&self.db, filter, start, limit).await.unwrap();
            pages += 1;
            assert!(page.lines.len() <= limit as usize && pages < 1000);
            assert!(page.lines.is_sorted_by(|a, b| a.id > b.id));
            ids.extend(page.lines.iter().map(|line| line.id));
            match page.older {
                Some(before) => start = Start::Before(before),
                None => return (ids, pages),
            }
        }
    }
}

#[tokio::test]
async fn every_copy_is_counted_once_by_state_stage_and_provider() {
    let house = House::new(200, NOW).await;
    let status = house.status().await;
    let expected = Equation {
        planned: 80,
        queued: 4,
        deferred: 6,
        accepted: 100,
        rejected: 6,
        uncertain: 2,
        skipped: 2,
        ..Equation::default()
    };
    assert_eq!(status.equation, expected);
    assert_eq!((status.audience, status.holds), (200, true));
    for parts in [
        status.stages.iter().map(|stage| stage.equation).collect::<Vec<_>>(),
        status.providers.iter().map(|provider| provider.equation).collect(),
    ] {
        let mut sum = Equation::default();
        for part in parts {
            sum += part;
        }
        assert_eq!(sum, expected);
    }
    let stages: Vec<_> = status
        .stages
        .iter()
        .map(|stage| (stage.name.as_str(), stage.size, stage.released))
        .collect();
    assert_eq!(stages, [("seed list", 1, true), ("10 %", 119, true), ("rest", 80, false)]);
    house.set("DELETE FROM delivery WHERE subscriber_id = 1").await;
    assert!(!house.status().await.holds);
}

#[tokio::test]
async fn the_engines_own_counts_say_the_same() {
    let house = House::new(100, NOW).await;
    let edition = house.edition().await;
    let tally = tallies::load(&house.db, house.issue).await.unwrap();
    let with = issue_status(&house.db, &edition, &house.scope(Some(tally))).await.unwrap();
    assert_eq!(with, house.status().await);
}

#[tokio::test]
async fn the_pace_is_that_of_the_last_seconds_and_percentiles_are_exact() {
    let house = House::new(3000, NOW).await;
    let pace = house.status().await.pace;
    // Of a hundred readers 57 were tried; one reader every 20 ms.
    let rate = pace.last_10_s.unwrap();
    assert_eq!((rate.attempts, rate.seconds), (285, 10.0));
    assert_eq!(pace.last_60_s.unwrap().attempts, 1710);
    let mut times: Vec<i64> =
        (0..3000).map(|n| n % 100).filter(|n| *n < 54 || (55..58).contains(n)).collect();
    times.sort_unstable();
    let rank = |percent: usize| 1000 * (times[(times.len() * percent).div_ceil(100) - 1] + 1);
    let smtp = pace.smtp.unwrap();
    assert_eq!((smtp.p50_us, smtp.p90_us, smtp.p99_us), (rank(50), rank(90), rank(99)));
    assert_eq!(smtp.sample, 1710);
    let wait = pace.queue_wait.unwrap();
    let rank = |percent| 1_000_000 + rank(percent) - 1000;
    assert_eq!((wait.p50_us, wait.p90_us, wait.p99_us), (rank(50), rank(90), rank(99)));
    assert_eq!(wait.sample, 1710);
    // Of those who were tried three of 57 are tried again. The last outcome is 20 minutes after the
    // begin, less the readers who were not tried.
    let end = pace.end_to_end.unwrap();
    assert_eq!(end.sample, 1620);
    let minutes = |us: i64| us as f64 / 60e6;
    assert!((19.4..19.6).contains(&minutes(end.p50_us)), "{end:?}");
    assert!((19.9..20.0).contains(&minutes(end.p99_us)), "{end:?}");
}

#[tokio::test]
async fn what_comes_next_and_what_limits_is_said_in_words() {
    let house = House::new(100, NOW).await;
    let status = house.status().await;
    assert_eq!(status.limited_by, "no daemon runs; start one with `postrider serve`");
    assert!(status.next.contains("stage “rest” is released once 95 %"), "{}", status.next);
    assert!(status.next.contains("soaked for 5m,"), "{}", status.next);
    assert!(status.eta.unwrap() > NOW);
    house.set("UPDATE issue SET stage = 2").await;
    let status = house.status().await;
    assert!(status.next.contains("remaining 45 copies"), "{}", status.next);
    for (state, words) in [
        (IssueState::Paused, "until somebody resumes"),
        (IssueState::Halted, "an operator looks at the figures"),
        (IssueState::Sent, "1 uncertain copies can be settled"),
        (IssueState::Scheduled, "the first copy leaves at 2025-"),
    ] {
        let sql = "UPDATE issue SET state = $1";
        house.db.write(sql).bind(state).execute().await.unwrap();
        let status = house.status().await;
        assert!(status.next.contains(words), "{}", status.next);
        assert_eq!(status.eta, None);
    }
}

#[tokio::test]
async fn a_halt_says_its_gate_its_figures_and_the_replies() {
    let house = House::new(100, NOW).await;
    house
        .set(
            "UPDATE issue SET state = 4, halt = '{\"gate\":\"recipients\",\"provider\":1,\
             \"stage\":1,\"hits\":30,\"sample\":120,\"limit\":5.0,\"replies\":[\"550 no\"]}'",
        )
        .await;
    let halt = house.status().await.halt.unwrap();
    assert_eq!(halt.what, "copies refused because the mailbox does not exist");
    assert_eq!((halt.hits, halt.sample, halt.percent, halt.limit), (30, 120, 25.0, 5.0));
    let name = Providers::embedded().iter().find(|p| p.id.0 == 1).unwrap().name.clone();
    assert_eq!(halt.provider, Some(name));
    assert_eq!(halt.replies, ["550 no"]);
}

#[tokio::test]
async fn replies_are_grouped_and_uncertain_copies_listed() {
    let house = House::new(200, NOW).await;
    let status = house.status().await;
    let groups: Vec<_> =
        status.replies.iter().map(|group| (group.kind, group.code, group.attempts)).collect();
    assert_eq!(
        groups,
        [
            (EventKind::Rejected, Some(550), 6),
            (EventKind::Deferred, Some(451), 6),
            (EventKind::Uncertain, None, 2)
        ]
    );
    let addresses: Vec<_> =
        status.uncertain.iter().map(|copy| copy.address.as_deref().unwrap()).collect();
    assert_eq!(addresses, ["reader53@example.org", "reader153@example.org"]);
    house.set("UPDATE delivery SET state = 3 WHERE subscriber_id = 54").await;
    assert_eq!(house.status().await.uncertain.len(), 1);
}

#[tokio::test]
async fn the_report_names_everybody_who_did_not_get_it_and_why() {
    let house = House::new(100, NOW).await;
    let bounced = Event::new(EventKind::Bounced, NOW)
        .about(Some(house.issue), Some(SubscriberId(1)))
        .because("5.2.2 mailbox full");
    let mut tx = house.db.begin().await.unwrap();
    event::record(&mut tx, &[bounced]).await.unwrap();
    tx.commit().await.unwrap();
    let edition = house.edition().await;
    let rows: Vec<Missed> = missed(&house.db, &edition).try_collect().await.unwrap();
    assert_eq!(rows.len(), 51);
    let refused = rows.iter().find(|row| row.state == CopyState::Rejected).unwrap();
    assert_eq!(refused.class.as_deref(), Some("recipient.permanent"));
    assert_eq!(refused.reason.as_deref(), Some("RCPT: 550 5.1.1 no such user"));
    let last = rows.last().unwrap();
    assert!(last.bounced_later && last.subscriber_id == SubscriberId(1));
    assert_eq!(last.reason.as_deref(), Some("5.2.2 mailbox full"));
    let report = issue_report(&house.db, &edition).await.unwrap();
    assert_eq!(report.equation, house.status().await.equation);
    assert_eq!((report.bounced_later, report.complaints), (1, 0));
    let reasons: Vec<_> =
        report.reasons.iter().map(|reason| (reason.state, reason.copies)).collect();
    assert_eq!(reasons[0], (CopyState::Rejected, 3));
    assert_eq!(reasons.len(), 3);
}
