//! Every step of a transaction × every fault × every way of sending, generated. Each cell says what
//! the verdict, its phase and the session must be, and is held against the server's own journal.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use super::super::*;
use super::UNBEARABLE;
use super::server::*;
use crate::{smtp::reply::Reply, stillness::undisturbed};

/// How many cells run at once: all of them share one thread.
const AT_ONCE: usize = 12;

/// How messages are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Without PIPELINING.
    Stepwise,
    /// MAIL, RCPT and DATA in one write.
    Grouped,
    /// And with the body before.
    Across,
}

/// What a fault comes to, wherever it happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// A reply that says no.
    Refusal(u16),
    /// A reply that says yes in an unusual way.
    Yes,
    /// No reply: the connection ended, a deadline passed, or what came is no reply.
    NoReply(CloseReason),
}

/// The faults of one step: a name, what the server does, and what it comes to.
fn faults(at: At) -> Vec<(&'static str, Fault, Effect)> {
    use CloseReason::{Deadline, Lost, Protocol};
    let say = |bytes: &[u8]| Fault::Say(bytes.to_vec());
    let and_close = |bytes: &[u8]| Fault::SayAndClose(bytes.to_vec());
    let and_reset = |bytes: &[u8]| Fault::SayAndReset(bytes.to_vec());
    let lines = |count: usize| [b"450-no\r\n".repeat(count - 1), b"450 no\r\n".to_vec()].concat();
    let yes: &[u8] = if matches!(at, At::Data(_)) { b"354" } else { b"250" };
    let with = |text: &[u8]| Fault::Say([yes, text].concat());
    let mut faults = vec![
        ("4yz", say(b"451 4.3.0 later\r\n"), Effect::Refusal(451)),
        ("5yz", say(b"550 5.1.1 no\r\n"), Effect::Refusal(550)),
        ("no enhanced code", say(b"550 no\r\n"), Effect::Refusal(550)),
        ("disagreeing codes", say(b"550 4.2.2 no\r\n"), Effect::Refusal(550)),
        ("disagreeing lines", say(b"450-later\r\n550 no\r\n"), Effect::Refusal(550)),
        ("a hundred lines", Fault::Say(lines(100)), Effect::Refusal(450)),
        ("bare LF", say(b"550-no\n550 no\n"), Effect::Refusal(550)),
        ("invalid UTF-8", say(b"550 \xff\xfe\r\n"), Effect::Refusal(550)),
        ("4yz and FIN", and_close(b"451 4.3.0 later\r\n"), Effect::Refusal(451)),
        ("5yz and FIN", and_close(b"554 5.7.1 go away\r\n"), Effect::Refusal(554)),
        ("421 and FIN", and_close(b"421 4.3.2 bye\r\n"), Effect::Refusal(421)),
        ("yes without text", with(b"\r\n"), Effect::Yes),
        ("yes with bare LF", with(b" ok\n"), Effect::Yes),
        ("FIN", and_close(b""), Effect::NoReply(Lost)),
        ("RST", and_reset(b""), Effect::NoReply(Lost)),
        ("truncated code", and_close(&yes[..2]), Effect::NoReply(Lost)),
        ("truncated line", and_close(&[yes, b" ok\r"].concat()), Effect::NoReply(Lost)),
        ("truncated lines", and_close(&[yes, b"-ok\r\n"].concat()), Effect::NoReply(Lost)),
        ("silence", Fault::Silence, Effect::NoReply(Deadline)),
        ("byte by byte", Fault::Trickle(yes.to_vec()), Effect::NoReply(Deadline)),
        ("a thousand lines", Fault::Say(lines(1000)), Effect::NoReply(Protocol)),
        ("a 1 MB line", Fault::Say(vec![b'2'; 1 << 20]), Effect::NoReply(Protocol)),
        ("NUL", with(b" o\0k\r\n"), Effect::NoReply(Protocol)),
        ("no code", say(b"ok then\r\n"), Effect::NoReply(Protocol)),
        ("yes and no", say(b"250-ok\r\n550 no\r\n"), Effect::NoReply(Protocol)),
    ];
    match at {
        At::Data(_) => {
            faults.push(("2yz for 354", say(b"250 ok\r\n"), Effect::NoReply(Protocol)));
            faults.push(("334 for 354", say(b"334 ok\r\n"), Effect::NoReply(Protocol)));
        }
        At::Rcpt(_) => {
            faults.push(("251", say(b"251 will forward\r\n"), Effect::Yes));
            faults.push(("252", say(b"252 will try\r\n"), Effect::Yes));
            faults.push(("354", say(b"354 go\r\n"), Effect::NoReply(Protocol)));
        }
        _ => faults.push(("354", say(b"354 go\r\n"), Effect::NoReply(Protocol))),
    }
    faults
}

/// Short where silence is part of the plan; what else is to come before them must not be held up.
fn deadlines(at: At, effect: Effect) -> Deadlines {
    let mut deadlines = Deadlines::default();
    if effect == Effect::NoReply(CloseReason::Deadline) {
        let short = Duration::from_millis(400);
        match at {
            At::Data(_) => deadlines.data = short,
            At::Dot(_) => deadlines.dot = short,
            _ => deadlines.envelope = short,
        }
    }
    deadlines
}

fn phase_of(at: At) -> Phase {
    match at {
        At::Mail(_) => Phase::MailFrom,
        At::Rcpt(_) => Phase::RcptTo,
        At::Data(_) => Phase::Data,
        _ => Phase::Dot,
    }
}

/// Sends up to three messages, the second of which meets the fault, and returns what came of each.
async fn run(mode: Mode, plan: Plan, deadlines: Deadlines) -> (Vec<(Transaction, u32)>, Journal) {
    let server = Server::start(plan).await;
    let endpoint = Endpoint { deadlines, ..server.endpoint() };
    let mut session = Session::connect(&endpoint).await.unwrap();
    let mut outcomes = Vec::new();
    for number in 1..=3 {
        let (this, next) = (envelope(number), envelope(number + 1));
        let next = (mode == Mode::Across && number < 3).then_some(&next);
        let outcome = send(&mut session, &Outgoing { envelope: &this, body: &[BODY] }, next).await;
        let usable = outcome.0.session == SessionState::Usable;
        outcomes.push(outcome);
        if !usable {
            break;
        }
    }
    session.quit().await;
    (outcomes, server.journal().await)
}

/// What holds in every cell, whatever the fault: the client's word against the server's journal.
fn check_against_journal(cell: &str, outcomes: &[(Transaction, u32)], journal: &Journal) {
    for (number, (transaction, dots)) in (1..).zip(outcomes) {
        let rcpt = envelope(number).rcpt_to;
        let taken = journal.taken.iter().filter(|(to, _)| to.contains(&rcpt)).count();
        let verdict = &transaction.verdict;
        assert!(*dots <= 1, "{cell}: {dots} terminators");
        match verdict {
            Verdict::Accepted(reply) => {
                assert_eq!((taken, *dots), (1, 1), "{cell}: message {number}");
                assert!(reply.is_positive());
            }
            Verdict::Uncertain { .. } => {
                assert!(taken <= 1 && *dots == 1, "{cell}: message {number}");
            }
            Verdict::Refused { phase, reply } => {
                assert_eq!(taken, 0, "{cell}: message {number} {verdict}");
                assert!(reply.is_negative(), "{cell}: {reply}");
                assert_eq!(*dots == 1, *phase >= Phase::Dot, "{cell}: message {number}");
            }
            Verdict::Failed { phase, .. } => {
                assert_eq!((taken, *dots), (0, 0), "{cell}: message {number} {verdict}");
                assert_ne!(*phase, Phase::Dot, "{cell}");
            }
            Verdict::NotSent(why) => panic!("{cell}: message {number} was not sent: {why}"),
        }
    }
    for (_, body) in &journal.taken {
        assert_eq!(body, BODY, "{cell}: nothing but whole messages is taken");
    }
}

fn check_cell(
    cell: &str,
    at: At,
    effect: Effect,
    mode: Mode,
    outcomes: &[(Transaction, u32)],
    closes: bool,
) {
    assert!(matches!(outcomes[0].0.verdict, Verdict::Accepted(_)), "{cell}: the first is accepted");
    let (hit, _) = &outcomes[1];
    let phase = phase_of(at);
    match effect {
        Effect::Yes => {
            assert!(matches!(hit.verdict, Verdict::Accepted(_)), "{cell}: {}", hit.verdict);
        }
        Effect::Refusal(code) => {
            assert!(
                matches!(&hit.verdict, Verdict::Refused { phase: p, reply } if *p == phase && reply.code == code),
                "{cell}: {}",
                hit.verdict
            );
        }
        Effect::NoReply(_) if phase == Phase::Dot => {
            assert!(matches!(hit.verdict, Verdict::Uncertain { .. }), "{cell}: {}", hit.verdict);
        }
        Effect::NoReply(_) => {
            assert!(
                matches!(&hit.verdict, Verdict::Failed { phase: p, .. } if *p == phase),
                "{cell}: {}",
                hit.verdict
            );
        }
    }
    match (effect, hit.session) {
        (Effect::NoReply(reason), session) => {
            assert_eq!(session, SessionState::Closed(reason), "{cell}");
        }
        (Effect::Refusal(421), session) => {
            assert_eq!(session, SessionState::Closed(CloseReason::Announced), "{cell}");
        }
        // Whether the end of the connection is seen yet depends on what else was to be read.
        _ if closes => {}
        (_, session) => {
            assert_eq!(session, SessionState::Usable, "{cell}");
            let (third, _) = &outcomes[2];
            assert!(matches!(third.verdict, Verdict::Accepted(_)), "{cell}: {}", third.verdict);
            assert_eq!(third.session, SessionState::Usable, "{cell}");
        }
    }
    // The group behind a dot goes out whatever becomes of that dot.
    assert_eq!(outcomes[0].0.next_opened, mode == Mode::Across, "{cell}");
}

async fn matrix_of(mode: Mode, eager_354: bool) {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut cells = tokio::task::JoinSet::new();
    for at in [At::Mail(2), At::Rcpt(2), At::Data(2), At::Dot(2)] {
        for (name, fault, effect) in faults(at) {
            let cell = format!("{mode:?} × {at:?} × {name}");
            let closes = matches!(fault, Fault::SayAndClose(_) | Fault::SayAndReset(_));
            let base = if mode == Mode::Stepwise { Plan::plain() } else { Plan::pipelining() };
            let plan = Plan { eager_354, ..base }.fault(at, fault);
            let places = Arc::clone(&places);
            cells.spawn(async move {
                let _place = places.acquire_owned().await.unwrap();
                undisturbed(UNBEARABLE, || async {
                    let (outcomes, journal) = run(mode, plan.clone(), deadlines(at, effect)).await;
                    check_against_journal(&cell, &outcomes, &journal);
                    check_cell(&cell, at, effect, mode, &outcomes, closes);
                })
                .await;
            });
        }
    }
    // Every failing cell prints its own message; all of them are worth seeing.
    let mut failed = 0;
    while let Some(cell) = cells.join_next().await {
        failed += u32::from(cell.is_err());
    }
    assert_eq!(failed, 0, "cells of the matrix that failed");
}

#[tokio::test]
async fn step_by_step() {
    matrix_of(Mode::Stepwise, false).await;
}

#[tokio::test]
async fn in_one_group() {
    matrix_of(Mode::Grouped, false).await;
}

#[tokio::test]
async fn across_messages() {
    matrix_of(Mode::Across, false).await;
}

#[tokio::test]
async fn where_the_server_waits_for_a_body_without_a_recipient() {
    matrix_of(Mode::Grouped, true).await;
    matrix_of(Mode::Across, true).await;
}

#[tokio::test]
async fn replies_that_nobody_asked_for_are_never_taken_for_acceptance() {
    let extras: [&[u8]; 5] =
        [b"250 ok\r\n", b"354 go\r\n", b"550 5.1.1 no\r\n", b"421 bye\r\n", b"25"];
    for mode in [Mode::Stepwise, Mode::Grouped, Mode::Across] {
        for at in [At::Ehlo, At::Mail(2), At::Rcpt(2), At::Data(2), At::Dot(2)] {
            for extra in extras {
                undisturbed(UNBEARABLE, || unasked(mode, at, extra)).await;
            }
        }
    }
}

async fn unasked(mode: Mode, at: At, extra: &[u8]) {
    let cell = format!("{mode:?} × {at:?} × {:?}", String::from_utf8_lossy(extra));
    let base = if mode == Mode::Stepwise { Plan::plain() } else { Plan::pipelining() };
    let server = Server::start(base.fault(at, Fault::Extra(extra.to_vec()))).await;
    let deadlines = Deadlines { envelope: Duration::from_millis(400), ..Deadlines::default() };
    let endpoint = Endpoint { deadlines, ..server.endpoint() };
    let mut session = match Session::connect(&endpoint).await {
        Ok(session) => session,
        Err(error) => {
            assert_eq!((at, error.phase), (At::Ehlo, Phase::Ehlo), "{cell}");
            return;
        }
    };
    let mut outcomes = Vec::new();
    for number in 1..=3 {
        let (this, next) = (envelope(number), envelope(number + 1));
        let next = (mode == Mode::Across && number < 3).then_some(&next);
        let message = Outgoing { envelope: &this, body: &[BODY] };
        let outcome = send(&mut session, &message, next).await;
        let usable = outcome.0.session == SessionState::Usable;
        outcomes.push(outcome);
        if !usable {
            break;
        }
    }
    drop(session);
    let journal = server.journal().await;
    check_against_journal(&cell, &outcomes, &journal);
    let last = &outcomes.last().unwrap().0;
    assert_ne!(last.session, SessionState::Usable, "{cell}: it was noticed");
    if matches!(at, At::Mail(_) | At::Rcpt(_) | At::Data(_)) {
        let verdict = &outcomes[1].0.verdict;
        // A 421 that nobody asked for is still a 421: it says nothing of the reader.
        let is_safe = matches!(verdict, Verdict::Failed { .. })
            || verdict.reply().is_some_and(Reply::is_closing);
        assert!(is_safe, "{cell}: {verdict}");
    }
}
