//! Servers that answer anything to anything, generated: whatever they say, no verdict claims more
//! than the bytes that left bear out, and no message is sent twice, mixed up or left half-ended.

use std::time::Duration;

use proptest::prelude::*;

use super::super::*;
use super::automaton::Automaton;
use super::server::{envelope, send};

fn utterance() -> impl Strategy<Value = Vec<u8>> {
    let usual: &[&[u8]] = &[
        b"250 ok\r\n",
        b"250 ok\r\n",
        b"250 ok\r\n",
        b"354 go\r\n",
        b"354 go\r\n",
        b"354 go\r\n",
        b"550 5.1.1 no\r\n",
        b"451 later\r\n",
        b"421 bye\r\n",
        b"503 what\r\n",
        b"",
        b"250 a\r\n250 b\r\n",
        b"354 a\r\n250 b\r\n",
        b"250-a\r\n",
        b"25",
        b"0 ok\r\n",
        b"250 \0\r\n",
        b"250-a\r\n550 b\r\n",
        b"hello\r\n",
        b"334 go\r\n",
    ];
    proptest::sample::select(usual).prop_map(<[u8]>::to_vec)
}

/// A body that no other message has.
fn body(number: u32) -> Vec<u8> {
    format!("Subject: {number}\r\n\r\nMessage number {number}.\r\n").into_bytes()
}

fn find(text: &[u8], part: &[u8]) -> Vec<usize> {
    let starts = text.windows(part.len()).enumerate();
    starts.filter(|(_, window)| *window == part).map(|(start, _)| start).collect()
}

async fn check(script: Vec<Vec<u8>>, greets: bool, across: bool) -> Result<(), TestCaseError> {
    let mut script: std::collections::VecDeque<_> = script.into();
    if greets {
        script.push_front(b"250-here\r\n250 PIPELINING\r\n".to_vec());
        script.push_front(b"220 here\r\n".to_vec());
    }
    let automaton = Automaton::saying(script);
    let seen = automaton.seen();
    let soon = Duration::from_millis(3);
    let deadlines = Deadlines {
        connect: soon,
        greeting: soon,
        envelope: soon,
        data: soon,
        body: soon,
        dot: soon,
        quit: soon,
        ..Deadlines::default()
    };
    let endpoint = Endpoint { deadlines, ..Endpoint::new("in-memory.example", 25, "x.example") };
    let stream = Stream::Scripted(Box::new(automaton));
    let Ok(mut session) = Session::establish(stream, None, &endpoint).await else { return Ok(()) };
    let mut outcomes = Vec::new();
    for number in 1..=4 {
        let (this, next) = (envelope(number), envelope(number + 1));
        let next = (across && number < 4).then_some(&next);
        let body = body(number);
        let message = Outgoing { envelope: &this, body: &[&body] };
        let outcome = send(&mut session, &message, next).await;
        let usable = outcome.0.session == SessionState::Usable;
        outcomes.push(outcome);
        if !usable {
            break;
        }
    }
    session.quit().await;
    let sent = seen.lock().unwrap().received.clone();
    for (number, (transaction, calls)) in (1..).zip(&outcomes) {
        let body = body(number);
        let starts = find(&sent, &body);
        prop_assert!(starts.len() <= 1, "message {number} left {} times", starts.len());
        let behind = starts.first().map(|start| &sent[start + body.len()..]);
        let dot_left = behind.is_some_and(|rest| rest.starts_with(b"."));
        let verdict = &transaction.verdict;
        let may_have_arrived = match verdict {
            Verdict::Accepted(_) | Verdict::Uncertain { .. } => true,
            Verdict::Refused { phase, .. } => *phase == Phase::Dot,
            Verdict::Failed { .. } | Verdict::NotSent(_) => false,
        };
        prop_assert_eq!(dot_left, may_have_arrived, "message {}: {}", number, verdict);
        prop_assert_eq!(*calls == 1, dot_left, "message {}: {}", number, verdict);
        if let Some(start) = starts.first() {
            let to = format!("RCPT TO:<{}>\r\nDATA\r\n", envelope(number).rcpt_to);
            prop_assert!(sent[..*start].ends_with(to.as_bytes()), "message {number} went astray");
        }
    }
    // A dot without a body is for refused recipients only.
    let refused = |(transaction, _): &&(Transaction, u32)| {
        matches!(
            transaction.verdict,
            Verdict::Refused { phase: Phase::MailFrom | Phase::RcptTo, .. }
        )
    };
    prop_assert!(find(&sent, b"DATA\r\n.\r\n").len() <= outcomes.iter().filter(refused).count());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_server_says(
        script in proptest::collection::vec(utterance(), 0..18),
        greets in proptest::bool::weighted(0.9),
        across in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(check(script, greets, across))?;
    }
}
