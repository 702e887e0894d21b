//! The final dot by name: every way in which the truth about a message gets lost, or nearly.

use std::time::Duration;

use super::super::*;
use super::UNBEARABLE;
use super::automaton::Automaton;
use super::server::*;
use crate::stillness::undisturbed;

/// What the dot of the second of two messages comes to, both ways of getting there.
async fn second_dot(fault: &Fault, deadlines: Deadlines) -> Vec<(Transaction, Journal)> {
    let mut outcomes = Vec::new();
    for across in [false, true] {
        let plan = Plan::pipelining().fault(At::Dot(2), fault.clone());
        let server = Server::start(plan).await;
        let mut session =
            Session::connect(&Endpoint { deadlines, ..server.endpoint() }).await.unwrap();
        let (first, second, third) = (envelope(1), envelope(2), envelope(3));
        let message = Outgoing { envelope: &first, body: &[BODY] };
        let (transaction, _) = send(&mut session, &message, across.then_some(&second)).await;
        assert!(matches!(transaction.verdict, Verdict::Accepted(_)));
        let message = Outgoing { envelope: &second, body: &[BODY] };
        let (transaction, calls) = send(&mut session, &message, across.then_some(&third)).await;
        assert_eq!(calls, 1);
        drop(session);
        outcomes.push((transaction, server.journal().await));
    }
    outcomes
}

async fn assert_uncertain(name: &str, fault: Fault, taken: usize) {
    let deadlines = Deadlines { dot: Duration::from_millis(150), ..Deadlines::default() };
    undisturbed(UNBEARABLE, || async {
        for (transaction, journal) in second_dot(&fault, deadlines).await {
            let verdict = &transaction.verdict;
            assert!(matches!(verdict, Verdict::Uncertain { .. }), "{name}: {verdict}");
            assert!(matches!(transaction.session, SessionState::Closed(_)), "{name}");
            assert_eq!(journal.taken.len(), 1 + taken, "{name}");
        }
    })
    .await;
}

#[tokio::test]
async fn taken_then_closed_without_a_reply() {
    assert_uncertain("closed", Fault::SayAndClose(vec![]), 1).await;
    assert_uncertain("reset", Fault::SayAndReset(vec![]), 1).await;
}

#[tokio::test]
async fn taken_then_half_a_reply() {
    for half in [&b"2"[..], b"25", b"250", b"250 2.0.0 queu", b"250 ok\r", b"250-ok\r\n"] {
        let taken = usize::from(half.starts_with(b"2"));
        assert_uncertain("half a reply", Fault::SayAndClose(half.to_vec()), taken).await;
    }
}

#[tokio::test]
async fn a_reply_after_the_deadline() {
    assert_uncertain("too late", Fault::Silence, 1).await;
}

#[tokio::test]
async fn a_reply_before_the_deadline() {
    // A slow server, one byte every 5 ms, is still a server.
    let late = b"250 2.0.0 at last\r\n".to_vec();
    let deadlines = Deadlines { dot: Duration::from_secs(30), ..Deadlines::default() };
    for (transaction, _) in second_dot(&Fault::Trickle(late), deadlines).await {
        assert!(matches!(transaction.verdict, Verdict::Accepted(_)), "{}", transaction.verdict);
    }
}

#[tokio::test]
async fn a_yes_counts_though_the_connection_breaks_behind_it() {
    let yes = || b"250 2.0.0 queued\r\n".to_vec();
    for fault in [Fault::SayAndReset(yes()), Fault::SayAndClose(yes())] {
        for (transaction, journal) in second_dot(&fault, Deadlines::default()).await {
            assert!(matches!(transaction.verdict, Verdict::Accepted(_)), "{}", transaction.verdict);
            assert_eq!(journal.taken.len(), 2);
        }
    }
}

#[tokio::test]
async fn a_no_counts_and_leaves_the_next_message_alone() {
    for reply in ["452 4.3.1 full\r\n", "554 5.7.1 spam\r\n"] {
        let server = Server::start(
            Plan::pipelining().fault(At::Dot(1), Fault::Say(reply.as_bytes().to_vec())),
        )
        .await;
        let mut session = server.session().await;
        let (first, second) = (envelope(1), envelope(2));
        let message = Outgoing { envelope: &first, body: &[BODY] };
        let (transaction, _) = send(&mut session, &message, Some(&second)).await;
        assert!(
            matches!(transaction.verdict, Verdict::Refused { phase: Phase::Dot, .. }),
            "{}",
            transaction.verdict
        );
        assert!(transaction.next_opened && session.holds_envelope());
        let message = Outgoing { envelope: &second, body: &[BODY] };
        let (transaction, _) = send(&mut session, &message, None).await;
        assert!(matches!(transaction.verdict, Verdict::Accepted(_)), "{}", transaction.verdict);
        session.quit().await;
        assert_eq!(server.journal().await.taken.len(), 1);
    }
}

#[tokio::test]
async fn a_421_at_the_dot_is_a_no_and_the_end() {
    let bye = Fault::SayAndClose(b"421 4.3.2 shutting down\r\n".to_vec());
    for (transaction, journal) in second_dot(&bye, Deadlines::default()).await {
        let verdict = &transaction.verdict;
        assert!(matches!(verdict, Verdict::Refused { phase: Phase::Dot, .. }), "{verdict}");
        assert_eq!(transaction.session, SessionState::Closed(CloseReason::Announced));
        assert_eq!(journal.taken.len(), 1);
    }
}

#[tokio::test]
async fn closed_in_the_middle_of_the_body_is_safe() {
    // More than the kernel's buffers hold, so that the server's end is seen while writing.
    let body =
        b"A line of a large body, which goes on and on and on for a while.\r\n".repeat(200_000);
    let none: &[u8] = b"";
    for pipelining in [false, true] {
        for (last_words, reset) in
            [(none, false), (none, true), (b"25", false), (b"552 5.3.4 too big\r\n", false)]
        {
            let base = if pipelining { Plan::pipelining() } else { Plan::plain() };
            let fault = if reset {
                Fault::SayAndReset(last_words.to_vec())
            } else {
                Fault::SayAndClose(last_words.to_vec())
            };
            let server = Server::start(base.fault(At::Body(1), fault)).await;
            let mut session = server.session().await;
            let this = envelope(1);
            let message = Outgoing { envelope: &this, body: &[&body] };
            let (transaction, calls) = send(&mut session, &message, None).await;
            let verdict = &transaction.verdict;
            let is_safe = match verdict {
                Verdict::Failed { phase, .. } => *phase == Phase::Body,
                // The refusal is usually read before the reset that follows it.
                Verdict::Refused { phase, reply } => {
                    *phase == Phase::Body && reply.code == 552 && !last_words.is_empty()
                }
                _ => false,
            };
            assert!(is_safe, "{verdict}");
            assert_eq!(calls, 0, "the dot was far away");
            assert!(matches!(transaction.session, SessionState::Closed(_)));
            assert!(server.journal().await.taken.is_empty());
        }
    }
}

#[tokio::test]
async fn a_refusal_in_the_middle_of_the_body_is_heard_and_ends_it() {
    let body =
        b"A line of a large body, which goes on and on and on for a while.\r\n".repeat(200_000);
    let fault = Fault::Say(b"552 5.3.4 too big\r\n".to_vec());
    let server = Server::start(Plan::pipelining().fault(At::Body(1), fault)).await;
    let mut session = server.session().await;
    let this = envelope(1);
    let message = Outgoing { envelope: &this, body: &[&body] };
    let (transaction, calls) = send(&mut session, &message, None).await;
    assert!(
        matches!(&transaction.verdict, Verdict::Refused { phase: Phase::Body, reply } if reply.code == 552),
        "{}",
        transaction.verdict
    );
    assert_eq!(calls, 0);
    assert_ne!(transaction.session, SessionState::Usable, "the server waits for the rest");
    drop(session);
    assert!(server.journal().await.taken.is_empty());
}

#[tokio::test]
async fn an_acceptance_in_the_middle_of_the_body_accepts_nothing() {
    let body =
        b"A line of a large body, which goes on and on and on for a while.\r\n".repeat(200_000);
    let fault = Fault::Say(b"250 2.0.0 that will do\r\n".to_vec());
    let server = Server::start(Plan::pipelining().fault(At::Body(1), fault)).await;
    let mut session = server.session().await;
    let this = envelope(1);
    let message = Outgoing { envelope: &this, body: &[&body] };
    let (transaction, calls) = send(&mut session, &message, None).await;
    let verdict = &transaction.verdict;
    assert!(matches!(verdict, Verdict::Failed { phase: Phase::Body, .. }), "{verdict}");
    assert_eq!(calls, 0);
    drop(session);
    assert!(server.journal().await.taken.is_empty());
}

#[tokio::test]
async fn a_server_that_takes_no_bytes_runs_into_the_body_deadline() {
    let body =
        b"A line of a large body, which goes on and on and on for a while.\r\n".repeat(200_000);
    let server = Server::start(Plan::pipelining().fault(At::Data(1), Fault::StopReading)).await;
    let deadlines = Deadlines {
        body: Duration::from_millis(100),
        body_rate_min: 1 << 30,
        ..Deadlines::default()
    };
    let endpoint = Endpoint { deadlines, ..server.endpoint() };
    let mut session = Session::connect(&endpoint).await.unwrap();
    let this = envelope(1);
    let message = Outgoing { envelope: &this, body: &[&body] };
    let (transaction, calls) = send(&mut session, &message, None).await;
    let verdict = &transaction.verdict;
    assert!(
        matches!(verdict, Verdict::Failed { phase: Phase::Body, error: WireError::Deadline(_) }),
        "{verdict}"
    );
    assert_eq!(calls, 0);
    assert_eq!(transaction.session, SessionState::Closed(CloseReason::Deadline));
}

#[tokio::test]
async fn a_failing_journal_withholds_the_dot() {
    for across in [false, true] {
        let server = Server::start(Plan::pipelining()).await;
        let mut session = server.session().await;
        let (this, next) = (envelope(1), envelope(2));
        let message = Outgoing { envelope: &this, body: &[BODY] };
        let full = |_| Err(std::io::Error::from(std::io::ErrorKind::StorageFull));
        let transaction = session.transact(&message, across.then_some(&next), full).await;
        let verdict = &transaction.verdict;
        assert!(
            matches!(
                verdict,
                Verdict::Failed { phase: Phase::Body, error: WireError::Withheld(_) }
            ),
            "{verdict}"
        );
        assert!(!transaction.next_opened);
        assert_eq!(transaction.session, SessionState::Closed(CloseReason::Abandoned));
        drop(session);
        let journal = server.journal().await;
        assert_eq!((journal.ended, journal.taken.len()), (0, 0));
    }
}

#[tokio::test]
async fn last_words_that_come_with_the_end_of_the_connection_are_heard() {
    let said: [&[u8]; 7] = [
        b"220 here\r\n",
        b"250-here\r\n250 PIPELINING\r\n",
        b"250 2.1.0 ok\r\n",
        b"250 2.1.5 ok\r\n",
        b"354 go\r\n",
        b"250 2.0.0 queued\r\n",
        b"421 4.3.2 Going down\r\n",
    ];
    let mut automaton = Automaton::saying(said.iter().map(|reply| reply.to_vec()).collect());
    // All of it is there, and the end behind it, when the write of the dot returns.
    automaton.gives = said.iter().map(|reply| reply.len()).sum();
    let endpoint = Endpoint::new("in-memory.example", 25, "client.example");
    let stream = Stream::Scripted(Box::new(automaton));
    let mut session = Session::establish(stream, None, &endpoint).await.unwrap();
    let (this, next) = (envelope(1), envelope(2));
    let (first, _) =
        send(&mut session, &Outgoing { envelope: &this, body: &[BODY] }, Some(&next)).await;
    assert!(matches!(first.verdict, Verdict::Accepted(_)), "{first:?}");
    assert!(first.next_opened && first.session == SessionState::Usable, "{first:?}");
    let (second, _) = send(&mut session, &Outgoing { envelope: &next, body: &[BODY] }, None).await;
    let Verdict::Refused { phase: Phase::MailFrom, reply } = &second.verdict else {
        panic!("the server said why it left: {second:?}");
    };
    assert_eq!(reply.code, 421);
    assert_eq!(second.session, SessionState::Closed(CloseReason::Announced));
}
