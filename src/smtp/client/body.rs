//! The second and third act of a transaction: the body with its terminator, and the reply to it.
//!
//! A following message's MAIL, RCPT and DATA leave in the same write as the terminator, which
//! RFC 2920, section 3.1, explicitly allows. Its replies then come after this message's, in order.

use std::io;
use std::time::Duration;

use tokio::time::Instant;

use super::Session;
use super::envelope::Envelope;
use super::outcome::{CloseReason, Phase, Verdict, WireError};
use super::transact::{Course, Ended, Outgoing};
use super::wire::{Dot, Marked, Run, Terminator as _, WriteEnd};
use crate::smtp::reply::Reply;

/// The terminator, on the line after the body's last CRLF (RFC 5321, section 4.1.1.4).
pub(super) const DOT: &[u8] = b".\r\n";

/// How much of a body leaves in the same write as the terminator. Larger bodies are written up to
/// there first, so that they are marked as finishing once and not at every write.
const LAST_PIECE_MAX: usize = 128 * 1024;

/// How long to listen, at most, for a reply on a connection that no longer takes what we write.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What left behind the terminator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Following {
    /// Nothing.
    Nothing,
    /// The next message's envelope, in full.
    Envelope,
    /// Part of it, and no more can: this message's reply is the last thing to come.
    Broken(CloseReason),
}

impl Session {
    /// Writes the body, the terminator and, where it may, the next envelope.
    pub(super) async fn write_body(
        &mut self,
        message: &Outgoing<'_>,
        next: Option<&Envelope>,
        mark: impl FnMut(Dot) -> io::Result<()>,
        course: &mut Course,
    ) -> Result<Following, Ended> {
        let len = message.body_len();
        let early = len.saturating_sub(LAST_PIECE_MAX);
        if early > 0 {
            let within = self.deadlines.for_body(early);
            let written = self
                .wire
                .write_run(
                    Run { pieces: message.body, range: 0..early, tail: &[] },
                    early,
                    within,
                    &mut (),
                )
                .await;
            course.bytes = written.handed as u64;
            if !matches!(written.end, WriteEnd::Done) {
                return Err(self.body_stopped(written.end).await);
            }
        }
        self.prepare_tail(next);
        let mut terminator = Marked::new(mark);
        let last = len - early;
        let within = self.deadlines.for_body(last);
        let written = self
            .wire
            .write_run(
                Run { pieces: message.body, range: early..len, tail: &self.tail },
                last,
                within,
                &mut terminator,
            )
            .await;
        let dot_end = last + DOT.len();
        course.bytes += written.handed.min(dot_end) as u64;
        course.next_opened = written.handed > dot_end;
        match written.end {
            WriteEnd::Done if course.next_opened => Ok(Following::Envelope),
            WriteEnd::Done => Ok(Following::Nothing),
            end if written.handed <= last => {
                terminator.is_here();
                Err(self.body_stopped(end).await)
            }
            // The whole terminator is out: a reply may come, and then it decides.
            WriteEnd::Failed(error) if written.handed >= dot_end => {
                Ok(Following::Broken(CloseReason::of(&error)))
            }
            WriteEnd::Failed(error) => Err(self.dot_stopped(error).await),
            WriteEnd::Interrupted => Err(Ended::uncertain(WireError::Unsolicited)),
        }
    }

    /// Puts the terminator and the commands of `next` into `tail`. A `next` that this server cannot
    /// be given stays out; its own transaction will say why.
    fn prepare_tail(&mut self, next: Option<&Envelope>) {
        self.tail.clear();
        self.tail.extend_from_slice(DOT);
        if let Some(next) = next.filter(|_| self.capabilities.pipelining)
            && next.render(&self.capabilities, None, &mut self.commands).is_ok()
        {
            self.tail.extend_from_slice(self.commands.all());
        }
    }

    /// No byte of the terminator was handed over. A server that refuses in the middle of a body
    /// has usually said so before it stopped taking it.
    async fn body_stopped(&mut self, end: WriteEnd) -> Ended {
        if let WriteEnd::Failed(error @ (WireError::Deadline(_) | WireError::Withheld(_))) = end {
            return Ended::failed(Phase::Body, error);
        }
        match (self.last_words().await, end) {
            (Ok(reply), _) if is_refusal(&reply) => {
                Ended::refused(Phase::Body, reply, Some(CloseReason::Abandoned))
            }
            (Ok(reply), _) => Ended::failed(Phase::Body, WireError::OutOfTurn(reply)),
            (Err(_), WriteEnd::Failed(error)) | (Err(error), _) => {
                Ended::failed(Phase::Body, error)
            }
        }
    }

    async fn last_words(&mut self) -> Result<Reply, WireError> {
        self.wire.reply(Instant::now(), LAST_WORDS.min(self.deadlines.dot)).await
    }

    /// Part of the terminator was handed over and the rest cannot be. No server can have taken
    /// that for the end of a message, but only a refusal makes it certain.
    async fn dot_stopped(&mut self, error: WireError) -> Ended {
        match self.last_words().await {
            Ok(reply) if is_refusal(&reply) => {
                Ended::refused(Phase::Dot, reply, Some(CloseReason::of(&error)))
            }
            _ => Ended::uncertain(error),
        }
    }

    /// Waits for the reply to the terminator.
    pub(super) async fn settle(
        &mut self,
        since: Instant,
        following: Following,
    ) -> Result<Ended, Ended> {
        let reply = self.wire.reply(since, self.deadlines.dot).await.map_err(Ended::uncertain)?;
        if reply.contradictory || reply.is_intermediate() {
            return Err(Ended::uncertain(WireError::OutOfTurn(reply)));
        }
        let close = match following {
            _ if reply.is_closing() => Some(CloseReason::Announced),
            Following::Broken(reason) => Some(reason),
            Following::Nothing if self.wire.has_unread() => {
                self.wire.glance().await.err().map(|error| CloseReason::of(&error))
            }
            Following::Nothing | Following::Envelope => None,
        };
        self.opened = following == Following::Envelope;
        if reply.is_positive() {
            Ok(Ended { verdict: Verdict::Accepted(reply), close })
        } else {
            Ok(Ended::refused(Phase::Dot, reply, close))
        }
    }
}

fn is_refusal(reply: &Reply) -> bool {
    reply.is_negative() && !reply.contradictory
}
