//! One message over a session, and the opening of the next one in the same breath.
//!
//! The rule everything here serves: a failure before the first byte of the terminator is handed to
//! the kernel is safe to repeat; after it, only a complete reply decides.

use std::io;

use tokio::time::Instant;

use super::Session;
use super::envelope::{Envelope, Unsendable};
use super::outcome::{CloseReason, Phase, SessionState, Timings, Transaction, Verdict, WireError};
use super::wire::Dot;
use crate::smtp::reply::Reply;

/// A message ready for the wire.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// Sender and recipient.
    pub envelope: &'a Envelope,
    /// The message: CRLF lines, dot-stuffed, ending in CRLF, without the terminator; in pieces that
    /// need not lie next to each other.
    pub body: &'a [&'a [u8]],
}

impl Outgoing<'_> {
    /// Octets of the body.
    pub(super) fn body_len(&self) -> usize {
        self.body.iter().map(|piece| piece.len()).sum()
    }

    /// Whether the terminator would stand on a line of its own.
    pub(super) fn is_finished(&self) -> bool {
        let backwards = self.body.iter().rev().flat_map(|piece| piece.iter().rev());
        backwards.take(2).eq(b"\n\r")
    }
}

/// How a transaction ended: with a verdict, and perhaps with the session.
pub(super) struct Ended {
    pub(super) verdict: Verdict,
    /// Why the session cannot go on; none if it can.
    pub(super) close: Option<CloseReason>,
}

impl Ended {
    pub(super) fn failed(phase: Phase, error: WireError) -> Self {
        let close = Some(CloseReason::of(&error));
        Self { verdict: Verdict::Failed { phase, error }, close }
    }

    pub(super) fn uncertain(error: WireError) -> Self {
        let close = Some(CloseReason::of(&error));
        Self { verdict: Verdict::Uncertain { error }, close }
    }

    pub(super) fn refused(phase: Phase, reply: Reply, close: Option<CloseReason>) -> Self {
        let close = if reply.is_closing() { Some(CloseReason::Announced) } else { close };
        Self { verdict: Verdict::Refused { phase, reply }, close }
    }

    pub(super) fn not_sent(why: Unsendable, close: Option<CloseReason>) -> Self {
        Self { verdict: Verdict::NotSent(why), close }
    }
}

/// What a transaction leaves behind besides its verdict.
#[derive(Default)]
pub(super) struct Course {
    pub(super) timings: Timings,
    pub(super) bytes: u64,
    pub(super) next_opened: bool,
}

impl Session {
    /// Sends one message and waits for the server's word on it.
    ///
    /// With `next`, and where the server allows it, the next message's envelope leaves in the same
    /// write as this one's terminator; [`Transaction::next_opened`] says whether it did, and the
    /// next call must then be for exactly that envelope. Give as `next` only what may be sent: its
    /// MAIL FROM leaves now.
    ///
    /// `mark` is told [`Dot::MayLeave`] before any write that can carry the first byte of the
    /// terminator, and [`Dot::IsHere`] as soon as such a write has ended before it, so that what it
    /// heard last is so whenever the process dies. If the first fails, the terminator is withheld.
    /// A server that does not take the envelope leaves it unasked.
    ///
    /// A dropped future leaves the session closed.
    pub async fn transact(
        &mut self,
        message: &Outgoing<'_>,
        next: Option<&Envelope>,
        mark: impl FnMut(Dot) -> io::Result<()>,
    ) -> Transaction {
        let mut course = Course::default();
        // Until this transaction has an end, nobody knows what state the server is in.
        let before = self.closed.replace(CloseReason::Abandoned);
        let ended = if before.is_some() {
            let error = WireError::SessionClosed;
            Ended { verdict: Verdict::Failed { phase: Phase::Idle, error }, close: before }
        } else {
            let run = self.run(message, next, mark, &mut course).await;
            run.unwrap_or_else(|ended| ended)
        };
        self.closed = ended.close;
        self.opened &= ended.close.is_none();
        self.idle_since = Instant::now();
        let session = ended.close.map_or(SessionState::Usable, SessionState::Closed);
        let Course { timings, bytes, next_opened } = course;
        Transaction { verdict: ended.verdict, session, next_opened, timings, bytes }
    }

    /// The three acts of a transaction. `Err` is only an earlier end than `Ok`.
    async fn run(
        &mut self,
        message: &Outgoing<'_>,
        next: Option<&Envelope>,
        mark: impl FnMut(Dot) -> io::Result<()>,
        course: &mut Course,
    ) -> Result<Ended, Ended> {
        let start = Instant::now();
        let opened = self.open(message).await;
        let body_start = Instant::now();
        course.timings.envelope_us = micros(start, body_start);
        opened?;

        let finished = self.write_body(message, next, mark, course).await;
        let body_end = Instant::now();
        course.timings.body_us = micros(body_start, body_end);
        let following = finished?;

        self.messages_sent += 1;
        let ended = self.settle(body_end, following).await;
        course.timings.dot_us = micros(body_end, Instant::now());
        ended
    }
}

fn micros(from: Instant, to: Instant) -> u64 {
    (to - from).as_micros() as u64
}
