//! The connection is cut after every single byte, in both directions, against a server in memory
//! that knows exactly which bytes it got. This is where the rule about the terminator is proved.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::*;
use super::server::{BODY, envelope, send};

/// A pipelining server in memory. It answers the moment it is written to, and breaks after a given
/// number of bytes taken or replies' bytes given.
struct Automaton {
    /// Everything it took.
    received: Vec<u8>,
    /// How far `received` is understood.
    read: usize,
    in_body: bool,
    replies: VecDeque<u8>,
    /// Messages whose terminator arrived in full.
    taken: u32,
    /// How many bytes it takes before the connection breaks.
    takes: usize,
    /// How many bytes of replies arrive before the connection breaks.
    gives: usize,
    /// How many bytes it takes at once, so that writes are split.
    at_once: usize,
    shared: std::sync::Arc<std::sync::Mutex<Seen>>,
}

/// What the test may look at afterwards.
#[derive(Debug, Default, Clone)]
struct Seen {
    received: Vec<u8>,
    taken: u32,
}

impl Automaton {
    fn answer(&mut self) {
        loop {
            let unread = &self.received[self.read..];
            let Some(end) = unread.iter().position(|&byte| byte == b'\n') else { break };
            let line = &unread[..=end];
            let reply: &[u8] = match (self.in_body, line) {
                (true, b".\r\n") => {
                    self.in_body = false;
                    self.taken += 1;
                    b"250 2.0.0 queued\r\n"
                }
                (true, _) => b"",
                (false, b"DATA\r\n") => {
                    self.in_body = true;
                    b"354 go\r\n"
                }
                (false, line) if line.starts_with(b"EHLO") => b"250-here\r\n250 PIPELINING\r\n",
                (false, _) => b"250 2.1.0 ok\r\n",
            };
            self.read += line.len();
            self.replies.extend(reply);
        }
        let seen = Seen { received: self.received.clone(), taken: self.taken };
        *self.shared.lock().unwrap() = seen;
    }

    fn broken(&self) -> bool {
        self.received.len() >= self.takes
    }
}

impl AsyncRead for Automaton {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let count = self.replies.len().min(buf.remaining()).min(self.gives);
        if count > 0 {
            let bytes: Vec<u8> = self.replies.drain(..count).collect();
            buf.put_slice(&bytes);
            self.gives -= count;
            Poll::Ready(Ok(()))
        } else if self.gives == 0 || self.broken() {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        } else {
            Poll::Pending
        }
    }
}

impl AsyncWrite for Automaton {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.broken() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let count = bytes.len().min(self.takes - self.received.len()).min(self.at_once);
        self.received.extend_from_slice(&bytes[..count]);
        self.answer();
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// How one run is cut.
#[derive(Debug, Clone, Copy)]
struct Cut {
    takes: usize,
    gives: usize,
    at_once: usize,
    across: bool,
}

/// Sends two messages over a connection that is cut, and returns what came of them and what the
/// server saw. No outcomes if the session could not even be opened.
async fn run(cut: Cut) -> (Vec<(Transaction, u32)>, Seen) {
    let shared = std::sync::Arc::default();
    let automaton = Automaton {
        received: Vec::new(),
        read: 0,
        in_body: false,
        replies: VecDeque::from(b"220 here\r\n".to_vec()),
        taken: 0,
        takes: cut.takes,
        gives: cut.gives,
        at_once: cut.at_once,
        shared: std::sync::Arc::clone(&shared),
    };
    let endpoint = Endpoint::new("in-memory.example", 25, "client.example");
    let mut outcomes = Vec::new();
    let stream = Stream::Scripted(Box::new(automaton));
    if let Ok(mut session) = Session::establish(stream, None, &endpoint).await {
        for number in 1..=2 {
            let (this, next) = (envelope(number), envelope(number + 1));
            let next = (cut.across && number < 2).then_some(&next);
            let message = Outgoing { envelope: &this, body: BODY };
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
        assert!(*calls == 1 || !dot_left, "{cut:?}: a dot left without before_dot");
        assert!(*calls <= 1);
    }
    let told = outcomes.len();
    assert!(seen.taken as usize <= told, "{cut:?}: a message was taken that nobody sent");
}

/// A whole conversation, to know its length.
async fn uncut(across: bool) -> (Seen, usize) {
    let whole = Cut { takes: usize::MAX, gives: usize::MAX, at_once: usize::MAX, across };
    let (outcomes, seen) = run(whole).await;
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
                let cut = Cut { takes, gives: usize::MAX, at_once, across };
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
                let cut = Cut { takes: usize::MAX, gives, at_once, across };
                let (outcomes, seen) = run(cut).await;
                check(cut, &outcomes, &seen, &dots);
            }
        }
    }
}
