//! The connection is cut after every single byte, in both directions, against a server in memory
//! that knows exactly which bytes it got. This is where the rule about the terminator is proved.

use super::super::*;
use super::automaton::{Automaton, Seen};
use super::server::{BODY, envelope, send};

/// How one run is cut.
#[derive(Debug, Clone, Copy)]
struct Cut {
    takes: usize,
    gives: usize,
    at_once: usize,
    interjects: Option<(usize, &'static [u8])>,
    across: bool,
}

impl Cut {
    /// A conversation that is not cut.
    fn none(across: bool) -> Self {
        let whole = usize::MAX;
        Self { takes: whole, gives: whole, at_once: whole, interjects: None, across }
    }
}

/// Sends two messages over a connection that is cut, and returns what came of them and what the
/// server saw. No outcomes if the session could not even be opened.
async fn run(cut: Cut) -> (Vec<(Transaction, u32)>, Seen) {
    let mut automaton = Automaton::default();
    (automaton.takes, automaton.gives) = (cut.takes, cut.gives);
    (automaton.at_once, automaton.interjects) = (cut.at_once, cut.interjects);
    let shared = automaton.seen();
    let endpoint = Endpoint::new("in-memory.example", 25, "client.example");
    let mut outcomes = Vec::new();
    // A body lies in pieces, and pieces may be empty.
    let body: Vec<&[u8]> = BODY.chunks(7).flat_map(|piece| [piece, b""]).collect();
    let stream = Stream::Scripted(Box::new(automaton));
    if let Ok(mut session) = Session::establish(stream, None, &endpoint).await {
        for number in 1..=2 {
            let (this, next) = (envelope(number), envelope(number + 1));
            let next = (cut.across && number < 2).then_some(&next);
            let message = Outgoing { envelope: &this, body: &body };
            let outcome = send(&mut session, &message, next).await;
            let usable = outcome.0.session == SessionState::Usable;
            outcomes.push(outcome);
            if !usable {
                break;
            }
        }
    }
    let seen = shared.lock().unwrap().clone();
    (outcomes, seen)
}

/// Where the terminators' first bytes stand in what a whole conversation sends.
fn dots(received: &[u8]) -> Vec<usize> {
    received.windows(5).enumerate().filter(|(_, w)| w == b"\r\n.\r\n").map(|(i, _)| i + 2).collect()
}

/// The promise, for one run: never a word about a message that its bytes do not bear out.
fn check(cut: Cut, outcomes: &[(Transaction, u32)], seen: &Seen, dots: &[usize]) {
    for (index, (transaction, calls)) in outcomes.iter().enumerate() {
        let verdict = &transaction.verdict;
        let dot_left = seen.received.len() > dots[index];
        let taken = seen.taken as usize > index;
        match verdict {
            Verdict::Accepted(_) => assert!(taken, "{cut:?}: {verdict}"),
            Verdict::Uncertain { .. } => assert!(dot_left, "{cut:?}: {verdict}: no dot had left"),
            Verdict::Failed { phase, .. } => {
                assert!(!dot_left, "{cut:?}: {verdict}: but a byte of its dot had left");
                assert!(*phase < Phase::Dot, "{cut:?}: {verdict}");
            }
            other => panic!("{cut:?}: {other}"),
        }
        assert_eq!(*calls == 1, dot_left, "{cut:?}: what a crash would be told");
    }
    let told = outcomes.len();
    assert!(seen.taken as usize <= told, "{cut:?}: a message was taken that nobody sent");
}

/// A whole conversation, to know its length.
async fn uncut(across: bool) -> (Seen, usize) {
    let (outcomes, seen) = run(Cut::none(across)).await;
    assert_eq!((outcomes.len(), seen.taken), (2, 2));
    // Greeting, EHLO, and for each message MAIL, RCPT, DATA and the dot.
    let replies = "220 here\r\n250-here\r\n250 PIPELINING\r\n".len()
        + 2 * "250 2.1.0 ok\r\n250 2.1.0 ok\r\n354 go\r\n250 2.0.0 queued\r\n".len();
    (seen, replies)
}

#[tokio::test]
async fn cut_after_every_byte_that_is_sent() {
    for across in [false, true] {
        let (seen, _) = uncut(across).await;
        let dots = dots(&seen.received);
        assert_eq!(dots.len(), 2);
        for takes in 0..seen.received.len() {
            for at_once in [usize::MAX, 7, 1] {
                let cut = Cut { takes, at_once, ..Cut::none(across) };
                let (outcomes, seen) = run(cut).await;
                check(cut, &outcomes, &seen, &dots);
                // Replies to whole commands arrive here, so a whole terminator is no uncertainty,
                // and half of one always is.
                for (index, (transaction, _)) in outcomes.iter().enumerate() {
                    let whole = takes >= dots[index] + 3;
                    let half = !whole && takes > dots[index];
                    let verdict = &transaction.verdict;
                    assert_eq!(
                        whole,
                        matches!(verdict, Verdict::Accepted(_)),
                        "{cut:?}: {verdict}"
                    );
                    let uncertain = matches!(verdict, Verdict::Uncertain { .. });
                    assert_eq!(half, uncertain, "{cut:?}: {verdict}");
                }
            }
        }
    }
}

#[tokio::test]
async fn cut_after_every_byte_that_is_answered() {
    for across in [false, true] {
        let (seen, replies) = uncut(across).await;
        let dots = dots(&seen.received);
        for gives in 0..replies {
            for at_once in [usize::MAX, 7] {
                let cut = Cut { gives, at_once, ..Cut::none(across) };
                let (outcomes, seen) = run(cut).await;
                check(cut, &outcomes, &seen, &dots);
            }
        }
    }
}

/// A server that speaks up at every single byte of a body that leaves in one write: before the
/// terminator it is heard and nothing more is sent, not even the terminator's first byte.
#[tokio::test]
async fn spoken_to_at_every_byte_of_the_body() {
    let refusal: &[u8] = b"552 5.3.4 too big\r\n";
    for across in [false, true] {
        let (seen, _) = uncut(across).await;
        let dot = dots(&seen.received)[0];
        let body = dot - BODY.len();
        for (reply, code) in [(refusal, Some(552)), (b"250 2.0.0 that will do\r\n", None)] {
            for after in body + 1..=dot + 3 {
                let interjects = Some((after, reply));
                let cut = Cut { at_once: 1, interjects, ..Cut::none(across) };
                let (outcomes, seen) = run(cut).await;
                let (transaction, calls) = &outcomes[0];
                let verdict = &transaction.verdict;
                let dot_left = u32::from(seen.received.len() > dot);
                assert_eq!(*calls, dot_left, "{cut:?}: what a crash would be told");
                if after > dot {
                    assert!(seen.received.len() >= dot + 3, "{cut:?}: half a terminator");
                    continue;
                }
                assert_eq!(seen.received.len(), after, "{cut:?}: {verdict}");
                let heard = match verdict {
                    Verdict::Refused { phase, reply } => {
                        *phase == Phase::Body && Some(reply.code) == code
                    }
                    Verdict::Failed { phase, .. } => *phase == Phase::Body && code.is_none(),
                    _ => false,
                };
                assert!(heard, "{cut:?}: {verdict}");
                assert!(matches!(transaction.session, SessionState::Closed(_)));
                assert!(!transaction.next_opened);
            }
        }
    }
}
