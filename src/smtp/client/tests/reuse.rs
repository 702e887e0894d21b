//! Many messages over one session, step by step, in groups and across messages.

use std::time::Duration;

use super::super::*;
use super::UNBEARABLE;
use super::server::*;
use crate::stillness::undisturbed;

#[tokio::test]
async fn carries_messages_with_and_without_pipelining() {
    for (plan, across) in
        [(Plan::plain(), false), (Plan::pipelining(), false), (Plan::pipelining(), true)]
    {
        let server = Server::start(plan).await;
        let mut session = server.session().await;
        for number in 1..=5 {
            let (this, next) = (envelope(number), envelope(number + 1));
            let next = (across && number < 5).then_some(&next);
            let message = Outgoing { envelope: &this, body: &[BODY] };
            let (transaction, dots) = send(&mut session, &message, next).await;
            assert!(matches!(&transaction.verdict, Verdict::Accepted(reply) if reply.code == 250));
            assert_eq!(transaction.session, SessionState::Usable);
            assert_eq!(transaction.next_opened, next.is_some());
            assert_eq!(session.holds_envelope(), next.is_some());
            assert_eq!(transaction.bytes, BODY.len() as u64 + 3);
            assert_eq!(dots, 1);
        }
        assert_eq!(session.messages_sent(), 5);
        session.quit().await;
        let journal = server.journal().await;
        let recipients: Vec<String> =
            (1..=5).map(|n| format!("RCPT TO:<reader{n}@example.net>")).collect();
        let taken: Vec<String> = journal.taken.iter().map(|(rcpt, _)| rcpt.clone()).collect();
        assert_eq!(taken, recipients);
        assert!(journal.taken.iter().all(|(_, body)| body == BODY));
        assert_eq!(journal.commands.last().map(String::as_str), Some("QUIT"));
    }
}

#[tokio::test]
async fn a_refused_message_is_cleared_away_before_the_next() {
    for (plan, resets) in [(Plan::plain(), 1), (Plan::pipelining(), 1)] {
        let no = Fault::Say(b"550 5.1.1 no such user\r\n".to_vec());
        let server = Server::start(plan.fault(At::Rcpt(1), no)).await;
        let mut session = server.session().await;
        for number in 1..=3 {
            let this = envelope(number);
            let (transaction, _) =
                send(&mut session, &Outgoing { envelope: &this, body: &[BODY] }, None).await;
            assert_eq!(number > 1, matches!(transaction.verdict, Verdict::Accepted(_)));
        }
        session.quit().await;
        let journal = server.journal().await;
        assert_eq!(journal.commands.iter().filter(|c| *c == "RSET").count(), resets);
        assert_eq!(journal.taken.len(), 2);
    }
}

#[tokio::test]
async fn a_reset_that_fails_is_the_sessions_fault_and_not_the_messages() {
    undisturbed(UNBEARABLE, resets_that_fail).await;
}

async fn resets_that_fail() {
    let faults: [(Fault, CloseReason); 4] = [
        (Fault::Say(b"554 no\r\n".to_vec()), CloseReason::Protocol),
        (Fault::SayAndClose(b"421 bye\r\n".to_vec()), CloseReason::Announced),
        (Fault::SayAndClose(vec![]), CloseReason::Lost),
        (Fault::Silence, CloseReason::Deadline),
    ];
    for base in [Plan::plain(), Plan::pipelining()] {
        for (fault, reason) in &faults {
            let no = Fault::Say(b"550 5.1.1 no such user\r\n".to_vec());
            let plan = base.clone().fault(At::Rcpt(1), no).fault(At::Rset, fault.clone());
            let server = Server::start(plan).await;
            let mut endpoint = server.endpoint();
            if *reason == CloseReason::Deadline {
                endpoint.deadlines.envelope = Duration::from_millis(150);
            }
            let mut session = Session::connect(&endpoint).await.unwrap();
            let (first, second) = (envelope(1), envelope(2));
            send(&mut session, &Outgoing { envelope: &first, body: &[BODY] }, None).await;
            let message = Outgoing { envelope: &second, body: &[BODY] };
            let (transaction, calls) = send(&mut session, &message, None).await;
            let verdict = &transaction.verdict;
            assert!(matches!(verdict, Verdict::Failed { phase: Phase::Rset, .. }), "{verdict}");
            assert_eq!(transaction.session, SessionState::Closed(*reason));
            assert_eq!(calls, 0);
            drop(session);
            assert!(server.journal().await.taken.is_empty());
        }
    }
}

#[tokio::test]
async fn an_open_envelope_that_is_not_continued_sends_nothing() {
    // By another message, by saying goodbye, and by letting go.
    for way in ["another", "unsendable", "quit", "drop"] {
        let server = Server::start(Plan::pipelining()).await;
        let mut session = server.session().await;
        let (first, second, third) = (envelope(1), envelope(2), envelope(3));
        let message = Outgoing { envelope: &first, body: &[BODY] };
        let (transaction, _) = send(&mut session, &message, Some(&second)).await;
        assert!(transaction.next_opened && session.holds_envelope());
        match way {
            "quit" => session.quit().await,
            "drop" => drop(session),
            _ => {
                let (envelope, body) =
                    if way == "another" { (&third, BODY) } else { (&second, &b"unended"[..]) };
                let message = Outgoing { envelope, body: &[body] };
                let (transaction, calls) = send(&mut session, &message, None).await;
                assert!(matches!(transaction.verdict, Verdict::NotSent(_)));
                let abandoned = SessionState::Closed(CloseReason::Abandoned);
                assert_eq!((transaction.session, calls), (abandoned, 0));
                let message = Outgoing { envelope: &second, body: &[BODY] };
                let (transaction, _) = send(&mut session, &message, None).await;
                let verdict = &transaction.verdict;
                assert!(matches!(verdict, Verdict::Failed { phase: Phase::Idle, .. }), "{verdict}");
                drop(session);
            }
        }
        let journal = server.journal().await;
        assert_eq!((journal.ended, journal.taken.len()), (1, 1), "{way}");
    }
}

#[tokio::test]
async fn a_recipient_taken_after_a_refused_sender_gets_no_empty_message() {
    let no = Fault::Say(b"550 5.7.1 sender refused\r\n".to_vec());
    let plan = Plan { careless_rcpt: true, ..Plan::pipelining() }.fault(At::Mail(1), no);
    let server = Server::start(plan).await;
    let mut session = server.session().await;
    let this = envelope(1);
    let (transaction, calls) =
        send(&mut session, &Outgoing { envelope: &this, body: &[BODY] }, None).await;
    let verdict = &transaction.verdict;
    assert!(matches!(verdict, Verdict::Refused { phase: Phase::MailFrom, .. }), "{verdict}");
    assert_eq!(transaction.session, SessionState::Closed(CloseReason::Abandoned));
    assert_eq!(calls, 0);
    drop(session);
    let journal = server.journal().await;
    assert_eq!((journal.ended, journal.taken.len()), (0, 0));
}

#[tokio::test]
async fn a_lone_dot_ends_a_body_that_has_no_recipient() {
    for across in [false, true] {
        let no = Fault::Say(b"550 5.1.1 no such user\r\n".to_vec());
        let plan = Plan { eager_354: true, ..Plan::pipelining() }.fault(At::Rcpt(2), no);
        let server = Server::start(plan).await;
        let mut session = server.session().await;
        for number in 1..=3 {
            let (this, next) = (envelope(number), envelope(number + 1));
            let message = Outgoing { envelope: &this, body: &[BODY] };
            let next = (across && number < 3).then_some(&next);
            let (transaction, calls) = send(&mut session, &message, next).await;
            let refused = matches!(
                &transaction.verdict,
                Verdict::Refused { phase: Phase::RcptTo, reply } if reply.code == 550
            );
            assert_eq!(refused, number == 2, "{}", transaction.verdict);
            assert_eq!(calls, u32::from(number != 2));
            assert_eq!(transaction.session, SessionState::Usable);
        }
        session.quit().await;
        let journal = server.journal().await;
        assert_eq!((journal.ended, journal.taken.len()), (3, 2));
    }
}

#[tokio::test]
async fn a_connection_that_ended_while_idle_is_noticed_without_a_word() {
    let goodbyes: [(Fault, CloseReason); 3] = [
        (Fault::AnswerAndClose, CloseReason::Lost),
        (Fault::SayAndReset(b"250 2.0.0 queued\r\n".to_vec()), CloseReason::Lost),
        (
            Fault::SayAndClose(b"250 2.0.0 queued\r\n421 4.4.2 idle\r\n".to_vec()),
            CloseReason::Announced,
        ),
    ];
    for (fault, reason) in goodbyes {
        for ask in [false, true] {
            let server = Server::start(Plan::pipelining().fault(At::Dot(1), fault.clone())).await;
            let mut session = server.session().await;
            assert!(session.is_alive().await);
            let (first, second) = (envelope(1), envelope(2));
            let message = Outgoing { envelope: &first, body: &[BODY] };
            let (transaction, _) = send(&mut session, &message, None).await;
            assert!(matches!(transaction.verdict, Verdict::Accepted(_)));
            let journal = server.journal().await;
            if ask {
                while session.is_alive().await {
                    tokio::task::yield_now().await;
                }
            }
            let message = Outgoing { envelope: &second, body: &[BODY] };
            let (transaction, calls) = send(&mut session, &message, None).await;
            let verdict = &transaction.verdict;
            // At worst the news is still on its way, and the first command meets it.
            assert!(
                matches!(verdict, Verdict::Failed { phase: Phase::Idle | Phase::MailFrom, .. }),
                "{verdict}"
            );
            assert_eq!((transaction.session, calls), (SessionState::Closed(reason), 0));
            assert!(!journal.commands.iter().any(|command| command == "NOOP"));
        }
    }
}

#[tokio::test]
async fn a_dropped_transaction_closes_the_session() {
    let server = Server::start(Plan::pipelining().fault(At::Dot(1), Fault::Silence)).await;
    let mut session = server.session().await;
    let this = envelope(1);
    let message = Outgoing { envelope: &this, body: &[BODY] };
    let reached = std::sync::Arc::new(tokio::sync::Notify::new());
    {
        let told = reached.clone();
        let transacting = session.transact(&message, None, move |_| {
            told.notify_one();
            Ok(())
        });
        tokio::select! {
            biased;
            _ = transacting => panic!("the server never answers"),
            () = reached.notified() => {}
        }
    }
    assert_eq!(session.state(), SessionState::Closed(CloseReason::Abandoned));
    assert!(!session.is_alive().await);
    let (transaction, calls) = send(&mut session, &message, None).await;
    let verdict = &transaction.verdict;
    assert!(
        matches!(verdict, Verdict::Failed { phase: Phase::Idle, error: WireError::SessionClosed }),
        "{verdict}"
    );
    assert_eq!(calls, 0);
}

#[tokio::test]
async fn a_body_and_replies_as_large_as_they_get_do_not_block_each_other() {
    // The server pours replies while it is written to; they are more than socket buffers hold.
    let body =
        b"A line of a large body, which goes on and on and on for a while.\r\n".repeat(100_000);
    let mut long = b"250-x\r\n".repeat(99);
    long.extend_from_slice(b"250 x\r\n");
    let plan = Plan::pipelining().fault(At::Dot(1), Fault::Say(long));
    let server = Server::start(plan).await;
    let mut session = server.session().await;
    for number in 1..=2 {
        let (this, next) = (envelope(number), envelope(number + 1));
        let message = Outgoing { envelope: &this, body: &[&body] };
        let (transaction, _) =
            send(&mut session, &message, Some(&next).filter(|_| number < 2)).await;
        assert!(matches!(transaction.verdict, Verdict::Accepted(_)), "{}", transaction.verdict);
        assert_eq!(transaction.bytes, body.len() as u64 + 3);
    }
    session.quit().await;
    assert!(server.journal().await.taken.iter().all(|(_, taken)| *taken == body));
}

#[tokio::test]
async fn quit_waits_no_longer_than_its_deadline() {
    for fault in [Fault::Silence, Fault::SayAndClose(vec![]), Fault::SayAndReset(vec![])] {
        let server = Server::start(Plan::plain().fault(At::Quit, fault)).await;
        let mut endpoint = server.endpoint();
        endpoint.deadlines.quit = Duration::from_millis(50);
        let session = Session::connect(&endpoint).await.unwrap();
        session.quit().await;
        assert_eq!(server.journal().await.commands.last().map(String::as_str), Some("QUIT"));
    }
}
