use super::*;
use crate::{config::Config, db::OpenOptions};

fn sizes(recipients: i64, seeds: i64, careful: bool) -> Vec<i64> {
    let stages = stages(recipients, seeds, &Sending::default(), careful);
    stages.iter().map(|stage| stage.size).collect()
}

#[test]
fn small_audiences_have_fewer_stages() {
    for (recipients, seeds, expected) in [
        (0, 0, vec![0, 0]),
        (60, 3, vec![3, 57]),
        (500, 0, vec![0, 50, 450]),
        (2_000, 5, vec![5, 50, 150, 1_795]),
        (100_000, 0, vec![0, 1_000, 9_000, 90_000]),
    ] {
        assert_eq!(sizes(recipients, seeds, false), expected, "{recipients} recipients");
    }
}

#[test]
fn every_copy_is_dealt_to_one_stage() {
    let share =
        |provider, recipients, seeds| Share { provider, recipients, seeds, ..Share::default() };
    let shares = [share(0, 7_001, 3), share(1, 998, 0), share(2, 1, 1)];
    let stages = stages(8_000, 4, &Sending::default(), false);
    let dealt = dealt(&shares, &stages);
    for share in &shares {
        let copies: i64 = dealt.iter().map(|stage| stage[&share.provider]).sum();
        assert_eq!(copies, share.recipients, "{dealt:?}");
        assert_eq!(dealt[0][&share.provider], share.seeds);
    }
    for (stage, dealt) in stages.iter().zip(&dealt) {
        let copies: i64 = dealt.values().sum();
        assert!((copies - stage.size).abs() <= 3, "{stage:?}: {dealt:?}");
    }
}

#[test]
fn a_large_import_is_met_with_one_more_stage() {
    for (recipients, seeds, expected) in [
        (0, 0, vec![0, 0]),
        (60, 3, vec![3, 5, 52]),
        (500, 0, vec![0, 5, 45, 450]),
        (2_000, 5, vec![5, 5, 45, 150, 1_795]),
        (100_000, 0, vec![0, 100, 900, 9_000, 90_000]),
    ] {
        assert_eq!(sizes(recipients, seeds, true), expected, "{recipients} recipients");
    }
}

/// One reader of [`every_reader_stands_in_the_plan_and_in_the_ledger_where_the_rules_say`].
#[derive(Debug, Clone, Copy)]
struct Reader {
    state: i64,
    suppressed: Option<&'static str>,
    paused_until: Option<i64>,
    is_seed: bool,
    imported_at: Option<i64>,
    provider: i64,
}

const NOW: i64 = 1_000;
const LAST_ISSUE: i64 = 500;

fn every_kind_of_reader() -> Vec<Reader> {
    let mut readers = Vec::new();
    for state in 0..=3 {
        for suppressed in [None, Some("bounce"), Some("complaint"), Some("manual")] {
            for paused_until in [None, Some(NOW), Some(NOW + 1)] {
                for is_seed in [false, true] {
                    for imported_at in [None, Some(LAST_ISSUE), Some(LAST_ISSUE + 1)] {
                        for provider in [0, 7] {
                            readers.push(Reader {
                                state,
                                suppressed,
                                paused_until,
                                is_seed,
                                imported_at,
                                provider,
                            });
                        }
                    }
                }
            }
        }
    }
    readers
}

async fn stored(readers: &[Reader]) -> (tempfile::TempDir, Db) {
    let folder = tempfile::tempdir().unwrap();
    let db = Db::open(&OpenOptions::new(folder.path().join("test.db"))).await.unwrap();
    let mut tx = db.begin().await.unwrap();
    for sql in [
        "INSERT INTO newsletter (id, uid, slug, name, description, from_name, from_address, reply_to, \
         subject_pattern, language, postal_address, accent_color, created_at) \
         VALUES (1, 'a', 'a', 'A', '', '', 'a@news.example', '', '', 'en', '', '', 0)",
        "INSERT INTO import (id, newsletter_id, at, actor, file, consent_source) \
         VALUES (1, 1, 0, '', '', '')",
        "INSERT INTO issue (id, uid, newsletter_id, number, subject, state, model, source, \
         created_at, started_at) VALUES (1, 'a', 1, 1, '', 6, '', '', 0, 500)",
    ] {
        tx.query(sql).execute().await.unwrap();
    }
    for (id, reader) in (1_i64..).zip(readers) {
        let hash = id.to_le_bytes().to_vec();
        tx.query(
            "INSERT INTO subscriber (id, address_hash, provider, created_at) VALUES ($1, $2, $3, 0)",
        )
        .bind(id)
        .bind(hash.clone())
        .bind(reader.provider)
        .execute()
        .await
        .unwrap();
        tx.query(
            "INSERT INTO subscription (newsletter_id, subscriber_id, state, seed, created_at, \
             paused_until, import_id) VALUES (1, $1, $2, $3, $4, $5, $6)",
        )
        .bind(id)
        .bind(reader.state)
        .bind(i64::from(reader.is_seed))
        .bind(reader.imported_at.unwrap_or(NOW))
        .bind(reader.paused_until)
        .bind(reader.imported_at.map(|_| 1_i64))
        .execute()
        .await
        .unwrap();
        if let Some(reason) = reader.suppressed {
            tx.query(
                "INSERT INTO suppression (address_hash, reason, created_at) VALUES ($1, $2, 0)",
            )
            .bind(hash)
            .bind(reason)
            .execute()
            .await
            .unwrap();
        }
    }
    tx.commit().await.unwrap();
    (folder, db)
}

#[tokio::test]
async fn every_reader_stands_in_the_plan_and_in_the_ledger_where_the_rules_say() {
    let readers = every_kind_of_reader();
    let (_folder, db) = stored(&readers).await;
    let config = Config {
        sending: Sending {
            stages_percent: vec![10.0, 30.0],
            stage_size_min: 1,
            ..Sending::default()
        },
        ..Config::default()
    };
    let providers = Providers::embedded();
    let now = Timestamp::from_microseconds(NOW);
    let plan = compute(&db, NewsletterId(1), &config, providers, now).await.unwrap();

    let count = |wanted: &dyn Fn(&Reader) -> bool| {
        readers.iter().filter(|reader| wanted(reader)).count() as i64
    };
    let is_paused = |reader: &Reader| reader.paused_until.is_some_and(|until| until > NOW);
    let gets_it =
        |reader: &Reader| reader.state == 1 && reader.suppressed.is_none() && !is_paused(reader);
    let suppressed_by = |reason: &'static str| {
        count(&move |reader| reader.state == 1 && reader.suppressed == Some(reason))
    };
    assert_eq!(plan.recipients, count(&gets_it));
    let paused =
        count(&|reader| reader.state == 1 && reader.suppressed.is_none() && is_paused(reader));
    assert_eq!(
        plan.excluded,
        Excluded {
            bounced: suppressed_by("bounce"),
            complained: suppressed_by("complaint"),
            suppressed: suppressed_by("manual"),
            paused,
        }
    );
    let in_state = |state| count(&move |reader| reader.state == state);
    let not_subscribed = NotSubscribed { unsubscribed: in_state(2), pending: in_state(0) };
    assert_eq!(plan.not_subscribed, not_subscribed);
    for share in &plan.providers {
        let provider = if share.provider == providers.name(ProviderId(7)) { 7 } else { 0 };
        let expected = count(&|reader| gets_it(reader) && reader.provider == provider);
        assert_eq!(share.recipients, expected, "{}", share.provider);
    }
    assert_eq!(plan.providers.len(), 2);
    let imported = plan.imported.expect("a third was imported since the last issue");
    let lately = |reader: &Reader| reader.imported_at.is_some_and(|at| at > LAST_ISSUE);
    assert_eq!(imported.readers, count(&|reader| reader.state == 1 && lately(reader)));
    assert_eq!(plan.stages[0].size, count(&|reader| gets_it(reader) && reader.is_seed));

    queue_copies(&db, IssueId(2), NewsletterId(1), &plan, now).await.unwrap();
    let copies: Vec<(i64, i64, i64, i64, Option<String>)> = db
        .query(
            "SELECT subscriber_id, state, stage, provider, reason FROM delivery \
             WHERE issue_id = 2 ORDER BY subscriber_id",
        )
        .all()
        .await
        .unwrap();
    let active = (1_i64..).zip(&readers).filter(|(_, reader)| reader.state == 1);
    assert_eq!(copies.len(), active.clone().count());
    let last_stage = plan.stages.last().unwrap().number;
    for ((id, state, stage, provider, reason), (reader_id, reader)) in copies.iter().zip(active) {
        assert_eq!((*id, *provider), (reader_id, reader.provider));
        let expected = match reader.suppressed {
            Some(why) => Some(format!("suppressed: {why}")),
            None => is_paused(reader).then(|| "paused by the reader".to_owned()),
        };
        assert_eq!(*state, if expected.is_some() { 6 } else { 0 }, "{reader:?}");
        assert_eq!(*reason, expected, "{reader:?}");
        assert_eq!(*stage == 0, reader.is_seed, "{reader:?}");
        assert!((0..=last_stage).contains(stage), "{stage}");
    }
}

/// However many stages there are, each gets its share of the readers.
#[tokio::test]
async fn every_stage_gets_its_share() {
    const READERS: i64 = 20_000;
    let reader = Reader {
        state: 1,
        suppressed: None,
        paused_until: None,
        is_seed: false,
        imported_at: None,
        provider: 0,
    };
    let (_folder, db) = stored(&vec![reader; READERS as usize]).await;
    for (issue, percents) in (10_i64..).zip([
        vec![],
        vec![5.0],
        vec![1.0, 10.0],
        vec![0.5, 2.0, 10.0, 30.0],
        vec![0.5, 1.5, 4.0, 10.0, 22.0, 50.0],
    ]) {
        let sending =
            Sending { stages_percent: percents.clone(), stage_size_min: 1, ..Sending::default() };
        let config = Config { sending, ..Config::default() };
        let now = Timestamp::from_microseconds(NOW);
        let plan =
            compute(&db, NewsletterId(1), &config, Providers::embedded(), now).await.unwrap();
        assert_eq!(plan.stages.len(), percents.len() + 2);
        queue_copies(&db, IssueId(issue), NewsletterId(1), &plan, now).await.unwrap();
        for stage in &plan.stages {
            let copies: i64 = db
                .query("SELECT COUNT(*) FROM delivery WHERE issue_id = $1 AND stage = $2")
                .bind(issue)
                .bind(stage.number)
                .scalar()
                .await
                .unwrap();
            // Dealt by places, not counted out: never far from it.
            let off = (copies - stage.size).abs();
            assert!(off <= 5 + stage.size / 10, "{stage:?} of {percents:?} has {copies}");
        }
    }
}
