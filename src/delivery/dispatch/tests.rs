//! Relays, workers, lanes and limits against each other.

use std::{collections::BTreeMap, sync::Arc};

use super::*;
use crate::{
    delivery::{breaker::Trip, limits::Gcra},
    id::{CopyId, SubscriberId},
    stillness::undisturbed,
};

const ISSUE: IssueId = IssueId(1);
const NEWSLETTER: NewsletterId = NewsletterId(1);

fn relay(name: &str, priority: u32, weight: f64) -> RelayTerms {
    RelayTerms {
        name: name.to_owned(),
        priority,
        weight,
        connections: 4,
        provider_connections: Arc::new(BTreeMap::from([(9, 2)])),
        breakers: crate::config::Breakers::default(),
    }
}

fn dispatch(relays: &[RelayTerms]) -> Dispatch {
    Dispatch::new(relays.iter().cloned(), Limits::new(vec!["a".into(), "b".into()]))
}

fn copies(provider: i64, subscribers: std::ops::Range<i64>) -> Vec<Claimed> {
    let claimed = |subscriber| Claimed {
        copy: CopyId::Issue { issue: ISSUE, subscriber: SubscriberId(subscriber) },
        claim: 1,
        place: 0,
        claimed_at: Timestamp::default(),
        due_at: Timestamp::default(),
        first_due_at: Timestamp::default(),
        provider,
        stage: 1,
        attempts: 0,
    };
    subscribers.map(claimed).collect()
}

fn service(provider: i64, id: i64) -> Claimed {
    let copy = CopyId::Service(crate::id::ServiceMailId(id));
    let (claimed_at, due_at) = (Timestamp::default(), Timestamp::default());
    Claimed {
        copy,
        claim: 1,
        place: 0,
        claimed_at,
        due_at,
        first_due_at: due_at,
        provider,
        stage: 0,
        attempts: 0,
    }
}

/// What a worker gets at once, if anything.
async fn now(dispatch: &Dispatch, worker: usize, wanted: u32) -> Option<Vec<Claimed>> {
    let taken =
        tokio::time::timeout(Duration::from_millis(20), dispatch.take(worker, wanted)).await;
    taken.ok().flatten().map(|grant| grant.copies)
}

fn trouble(wrong: Wrong) -> Report {
    Report { fine: 0, wrong, closing: false, hit: None, cause: "451 busy".to_owned() }
}

fn opens() -> Report {
    let hour = Duration::from_hours(1);
    let hit = Hit { rule: "t", trip: Trip::Open, threshold: 1, within: hour, lasts: hour };
    Report { hit: Some((hit, Scope::Provider)), ..trouble(Wrong::Copy) }
}

#[tokio::test]
async fn a_relay_that_cannot_be_reached_gets_nothing_and_another_takes_over_and_gives_back() {
    // A relay rests for a second, and only what is asked within it is told so.
    undisturbed(Duration::from_millis(250), takes_over_and_gives_back).await;
}

async fn takes_over_and_gives_back() {
    let dispatch = dispatch(&[relay("a", 0, 1.0), relay("b", 1, 1.0)]);
    let (first, other) = (dispatch.add_worker(0, false), dispatch.add_worker(1, false));
    dispatch.add(NEWSLETTER, copies(0, 0..10));
    assert_eq!(now(&dispatch, other, 4).await, None, "the first relay works");
    assert_eq!(dispatch.explain().relays[1], LimitedBy::Standby);
    assert_eq!(now(&dispatch, first, 4).await.unwrap().len(), 4);
    let since = tokio::time::Instant::now();
    dispatch.unreachable(first, &trouble(Wrong::Relay));
    dispatch.done(first, 0);
    assert_eq!(now(&dispatch, first, 4).await, None, "it rests for a second");
    assert_eq!(now(&dispatch, other, 4).await.unwrap().len(), 4);
    dispatch.done(other, 4);
    let probe = tokio::select! {
        probe = dispatch.take(first, 4) => probe,
        () = dispatch.run_timer() => unreachable!("it runs for as long as the engine does"),
    };
    assert!(since.elapsed() > Duration::from_millis(900));
    assert_eq!(probe.unwrap().copies.len(), 1, "one message, to see");
    dispatch.done(first, 1);
    assert_eq!(now(&dispatch, other, 4).await, None, "the first relay works again");
    assert_eq!(now(&dispatch, first, 4).await.unwrap().len(), 1, "the last copy");
}

#[tokio::test]
async fn service_mail_goes_first_and_reserved_workers_take_nothing_else() {
    let dispatch = dispatch(&[relay("a", 0, 1.0)]);
    let (reserved, other) = (dispatch.add_worker(0, true), dispatch.add_worker(0, false));
    dispatch.add(NEWSLETTER, copies(0, 0..10));
    let take = dispatch.take(reserved, 8);
    let give = async {
        assert_eq!(dispatch.take(other, 8).await.unwrap().copies.len(), 8);
        dispatch.add_service([service(0, 90)]);
    };
    let (taken, ()) = tokio::join!(take, give);
    assert_eq!(taken.unwrap().copies, [service(0, 90)]);
}

#[tokio::test]
async fn a_limited_provider_holds_up_nobody_else_not_even_service_mail() {
    let mut limits = Limits::new(vec!["a".into()]);
    limits.add(LimitName::Provider(1), Gcra::new(0.001, Some(1)));
    let dispatch = Dispatch::new([relay("a", 0, 1.0)], limits);
    let worker = dispatch.add_worker(0, false);
    dispatch.add(NEWSLETTER, [copies(1, 0..10), copies(2, 10..20)].concat());
    let mut sent = Vec::new();
    while sent.len() < 11 {
        sent.extend(dispatch.take(worker, 4).await.unwrap().copies);
        dispatch.done(worker, 4);
    }
    assert_eq!(sent.iter().filter(|copy| copy.provider == 2).count(), 10);
    assert_eq!(dispatch.waiting(ISSUE, Some(1), &BTreeSet::new()), 9);
    assert_eq!(dispatch.explain().everything, LimitedBy::Rate(LimitName::Provider(1)));
    dispatch.add_service([service(1, 1), service(2, 2)]);
    assert_eq!(now(&dispatch, worker, 4).await.unwrap(), [service(2, 2)]);
}

#[tokio::test]
async fn draining_lets_waiting_workers_go() {
    let dispatch = dispatch(&[relay("a", 0, 1.0)]);
    let worker = dispatch.add_worker(0, false);
    let (taken, ()) = tokio::join!(dispatch.take(worker, 4), async { dispatch.drain() });
    assert!(taken.is_none());
    assert!(dispatch.take(worker, 4).await.is_none());
}

#[tokio::test]
async fn scarce_work_goes_by_weight_and_a_busy_relay_blocks_nobody() {
    let dispatch = dispatch(&[relay("a", 0, 3.0), relay("b", 0, 1.0)]);
    let workers = [dispatch.add_worker(0, false), dispatch.add_worker(1, false)];
    let mut served = [0, 0];
    let mut waits: Vec<_> =
        workers.iter().map(|worker| Box::pin(dispatch.take(*worker, 1))).collect();
    for copy in 0..400 {
        // A task that is polled by hand gets no new budget otherwise.
        tokio::task::yield_now().await;
        // Both ask before there is anything to have.
        for wait in &mut waits {
            assert!(futures_util::poll!(wait.as_mut()).is_pending());
        }
        dispatch.add(NEWSLETTER, copies(0, copy..copy + 1));
        for (index, wait) in waits.iter_mut().enumerate() {
            if futures_util::poll!(wait.as_mut()).is_ready() {
                served[index] += 1;
                dispatch.done(workers[index], 1);
                *wait = Box::pin(dispatch.take(workers[index], 1));
            }
        }
    }
    assert_eq!(served, [300, 100]);
    drop(waits);
    // The heavy one does not ask: the light one has everything at once.
    dispatch.add(NEWSLETTER, copies(0, 1000..1200));
    assert_eq!(now(&dispatch, workers[1], 256).await.unwrap().len(), 200);
}

#[tokio::test]
async fn an_open_breaker_holds_one_provider_at_one_relay_and_lets_one_message_through_then() {
    let dispatch = dispatch(&[relay("a", 0, 1.0)]);
    let workers = [0, 1, 2].map(|_| dispatch.add_worker(0, false));
    dispatch.add(NEWSLETTER, copies(1, 0..100));
    let openings = dispatch.openings();
    for worker in &workers[..2] {
        assert_eq!(now(&dispatch, *worker, 4).await.unwrap().len(), 4);
    }
    dispatch.report(workers[0], &opens());
    assert!(dispatch.openings() > openings);
    assert!(dispatch.is_held(workers[1]), "what is in hand goes back");
    for worker in &workers[..2] {
        dispatch.done(*worker, 0);
    }
    assert_eq!(now(&dispatch, workers[0], 4).await, None);
    let explained = dispatch.explain();
    let held = LimitedBy::Breaker { relay: 0, provider: Some(1), until: None };
    let without_time = |by| match by {
        LimitedBy::Breaker { relay, provider, .. } => {
            LimitedBy::Breaker { relay, provider, until: None }
        }
        other => other,
    };
    assert_eq!(without_time(explained.everything), held);
    let of_issue = &explained.issues[0];
    assert_eq!((of_issue.issue, without_time(of_issue.limited_by)), (ISSUE, held));
    dispatch.add(NEWSLETTER, copies(2, 100..110));
    assert_eq!(now(&dispatch, workers[0], 4).await.unwrap()[0].provider, 2);
    let notices = dispatch.take_notices();
    assert_eq!((notices.len(), notices[0].provider), (1, Some(1)));
    assert!(matches!(notices[0].change, Change::Opened(_)));

    // An hour later.
    let later = Timestamp::now().plus(Duration::from_mins(61));
    let mut board = dispatch.lock();
    let (reply, mut first) = oneshot::channel();
    board.wait(workers[1], 4, reply);
    let (reply, mut second) = oneshot::channel();
    board.lanes.withdraw(ISSUE);
    board.lanes.add(NEWSLETTER, copies(1, 0..100));
    board.wait(workers[2], 4, reply);
    board.pump(later);
    let granted =
        [first.try_recv(), second.try_recv()].map(|grant| grant.map_or(0, |g| g.copies.len()));
    assert_eq!(granted.iter().sum::<usize>(), 1, "exactly one message");
    let probe = if granted[0] == 1 { workers[1] } else { workers[2] };
    assert!(!board.is_held(probe, later));
    board.done(probe, 1, later);
    board.pump(later);
    let rest = if granted[0] == 1 { second.try_recv() } else { first.try_recv() };
    assert_eq!(rest.unwrap().copies.len(), 4, "it is closed again");
    assert!(matches!(board.notices[0].change, Change::Closed));
}

#[tokio::test]
async fn a_provider_that_is_held_at_the_first_relay_goes_by_the_second() {
    let dispatch = dispatch(&[relay("a", 0, 1.0), relay("b", 1, 1.0)]);
    let (first, other) = (dispatch.add_worker(0, false), dispatch.add_worker(1, false));
    dispatch.add(NEWSLETTER, copies(1, 0..20));
    now(&dispatch, first, 4).await.unwrap();
    dispatch.report(first, &opens());
    dispatch.done(first, 0);
    dispatch.add(NEWSLETTER, copies(2, 20..40));
    assert_eq!(now(&dispatch, other, 4).await.unwrap()[0].provider, 1);
    dispatch.done(other, 4);
    assert_eq!(now(&dispatch, first, 4).await.unwrap()[0].provider, 2);
}

#[tokio::test]
async fn fewer_connections_work_after_signs_of_too_much_and_prefetching_takes_no_place() {
    let dispatch = dispatch(&[relay("a", 0, 1.0)]);
    let workers = [0, 1, 2].map(|_| dispatch.add_worker(0, false));
    dispatch.add(NEWSLETTER, copies(9, 0..100));
    // The provider takes two connections at once.
    assert!(now(&dispatch, workers[0], 4).await.is_some());
    assert!(now(&dispatch, workers[1], 4).await.is_some());
    assert_eq!(now(&dispatch, workers[2], 4).await, None);
    let by = LimitedBy::Concurrency { relay: 0, provider: Some(9), connections: 2 };
    assert_eq!(dispatch.explain().everything, by);
    assert!(now(&dispatch, workers[0], 4).await.is_some(), "the next slice of a worker");
    dispatch.report(workers[0], &Report { closing: true, ..trouble(Wrong::Copy) });
    dispatch.done(workers[0], 0);
    dispatch.done(workers[1], 0);
    assert_eq!(now(&dispatch, workers[1], 4).await, None, "one is left");
    dispatch.done(workers[0], 4);
    assert!(now(&dispatch, workers[2], 4).await.is_some());
    assert!(now(&dispatch, workers[1], 4).await.is_some(), "successes have made room");
}

#[tokio::test]
async fn the_message_that_tries_a_provider_out_is_one_that_was_tried_before() {
    let dispatch = dispatch(&[relay("a", 0, 1.0)]);
    let worker = dispatch.add_worker(0, false);
    let tried = Claimed { attempts: 2, ..copies(1, 7..8)[0].clone() };
    dispatch.add(NEWSLETTER, copies(1, 0..5).into_iter().chain([tried.clone()]));
    now(&dispatch, worker, 1).await.unwrap();
    dispatch.report(worker, &opens());
    let mut board = dispatch.lock();
    board.done(worker, 0, Timestamp::now());
    let (reply, mut answer) = oneshot::channel();
    board.wait(worker, 4, reply);
    board.pump(Timestamp::now().plus(Duration::from_mins(61)));
    assert_eq!(answer.try_recv().unwrap().copies, [tried]);
}

#[tokio::test]
async fn a_request_can_be_withdrawn() {
    let dispatch = dispatch(&[relay("a", 0, 1.0)]);
    let worker = dispatch.add_worker(0, false);
    let (taken, ()) =
        tokio::join!(dispatch.take(worker, 4), async { dispatch.stop_waiting(worker) });
    assert!(taken.unwrap().copies.is_empty());
}

#[tokio::test]
async fn a_held_provider_is_set_apart() {
    let dispatch = dispatch(&[relay("a", 0, 1.0)]);
    let worker = dispatch.add_worker(0, false);
    dispatch.add(NEWSLETTER, [copies(1, 0..1000), copies(2, 1000..2000)].concat());
    let mut apart = BTreeSet::new();
    dispatch.set_apart(&mut apart);
    assert!(apart.is_empty(), "many copies alone are no reason");
    let provider = now(&dispatch, worker, 4).await.unwrap()[0].provider;
    dispatch.report(worker, &opens());
    dispatch.set_apart(&mut apart);
    assert_eq!(apart, BTreeSet::from([provider]));
}
