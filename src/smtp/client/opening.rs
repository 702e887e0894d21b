//! The first act of a transaction: MAIL, RCPT and DATA, up to the server's 354.
//!
//! With PIPELINING (RFC 2920) the three go out in one write, behind a RSET if the message before
//! was refused half-way; or they went out with the message before, and only their replies are read
//! here. Nothing in this act can make a message arrive, so every failure in it is safe to repeat.

use std::time::Duration;

use tokio::time::Instant;

use super::Session;
use super::body::DOT;
use super::envelope::Unsendable;
use super::outcome::{CloseReason, Phase, WireError};
use super::transact::{Ended, Outgoing};
use super::wire::WriteEnd;
use crate::smtp::reply::Reply;

const RSET: &[u8] = b"RSET\r\n";

/// After how much idleness the runtime is asked for news of the connection before it is used again.
const IDLE_LONG: Duration = Duration::from_millis(20);

impl Session {
    /// Brings the server to the point where it waits for the body.
    pub(super) async fn open(&mut self, message: &Outgoing<'_>) -> Result<(), Ended> {
        let was_open = std::mem::take(&mut self.opened);
        let close = was_open.then_some(CloseReason::Abandoned);
        if !message.is_finished() {
            return Err(Ended::not_sent(Unsendable::UnfinishedBody, close));
        }
        let body_len = Some(message.body_len());
        let rendered = message.envelope.render(&self.capabilities, body_len, &mut self.commands);
        rendered.map_err(|why| Ended::not_sent(why, close))?;
        if was_open {
            // The very bytes that went out are compared, so nothing else can be continued.
            if self.tail.get(DOT.len()..) != Some(self.commands.all()) {
                return Err(Ended::not_sent(Unsendable::OtherEnvelopeOpen, close));
            }
            return self.read_envelope_replies(Instant::now()).await;
        }
        self.check_alive().await.map_err(|error| Ended::failed(Phase::Idle, error))?;
        if self.capabilities.pipelining {
            self.open_in_one_write().await
        } else {
            self.open_step_by_step().await
        }
    }

    /// Looks, without a word to the server, whether the connection is still there and silent.
    pub(super) async fn check_alive(&mut self) -> Result<(), WireError> {
        if self.idle_since.elapsed() > IDLE_LONG {
            // Lets the runtime collect what the kernel knows by now.
            tokio::task::yield_now().await;
        }
        self.wire.glance().await
    }

    async fn open_in_one_write(&mut self) -> Result<(), Ended> {
        let since = Instant::now();
        let within = self.deadlines.envelope;
        let needs_reset = std::mem::take(&mut self.needs_reset);
        let reset = if needs_reset { RSET } else { &[] };
        let written = self.wire.write(reset, self.commands.all(), 0, within).await;
        let first = if needs_reset { Phase::Rset } else { Phase::MailFrom };
        self.command_is_out(first, written.end).await?;
        if needs_reset {
            self.read_reset_reply(since).await?;
        }
        self.read_envelope_replies(since).await
    }

    /// Without PIPELINING: command, reply, command, reply.
    async fn open_step_by_step(&mut self) -> Result<(), Ended> {
        if std::mem::take(&mut self.needs_reset) {
            let since = Instant::now();
            let written = self.wire.write(RSET, &[], 0, self.deadlines.envelope).await;
            self.command_is_out(Phase::Rset, written.end).await?;
            self.read_reset_reply(since).await?;
        }
        for phase in [Phase::MailFrom, Phase::RcptTo, Phase::Data] {
            let (command, within) = match phase {
                Phase::MailFrom => (self.commands.mail(), self.deadlines.envelope),
                Phase::RcptTo => (self.commands.rcpt(), self.deadlines.envelope),
                _ => (self.commands.data(), self.deadlines.data),
            };
            let since = Instant::now();
            let written = self.wire.write(command, &[], 0, within).await;
            self.command_is_out(phase, written.end).await?;
            let reply = self.wire.reply(since, within).await;
            let reply = reply.map_err(|error| Ended::failed(phase, error))?;
            let unasked = self.unasked().await;
            if reply.contradictory {
                return Err(Ended::failed(phase, WireError::OutOfTurn(reply)));
            }
            if reply.is_negative() {
                self.needs_reset = phase != Phase::MailFrom;
                let close = unasked.as_ref().map(CloseReason::of);
                return Err(Ended::refused(phase, reply, close));
            }
            if let Some(error) = unasked {
                return Err(Ended::failed(phase, error));
            }
            let wanted = if phase == Phase::Data { reply.code == 354 } else { reply.is_positive() };
            if !wanted {
                return Err(Ended::failed(phase, WireError::OutOfTurn(reply)));
            }
        }
        Ok(())
    }

    /// Judges the end of a command's write. A connection that broke is judged by reading on: a
    /// server that refuses and hangs up at once has left its reply.
    async fn command_is_out(&mut self, phase: Phase, end: WriteEnd) -> Result<(), Ended> {
        match end {
            WriteEnd::Failed(error @ WireError::Deadline(_)) => Err(Ended::failed(phase, error)),
            WriteEnd::Done | WriteEnd::Failed(_) => Ok(()),
            WriteEnd::Interrupted => {
                let error = self.unasked().await.unwrap_or(WireError::Unsolicited);
                Err(Ended::failed(phase, error))
            }
        }
    }

    /// What the server said beyond its replies so far, as the error that it is.
    async fn unasked(&mut self) -> Option<WireError> {
        if self.wire.has_unread() { self.wire.glance().await.err() } else { None }
    }

    /// Reads the replies to MAIL, RCPT and DATA of a group. All three are read before anything is
    /// concluded: if they are out of step, the last one shows it, and a refusal that belongs to
    /// another command must not be held against this recipient.
    async fn read_envelope_replies(&mut self, since: Instant) -> Result<(), Ended> {
        let envelope = self.deadlines.envelope;
        let mail = self.wire.reply(since, envelope).await;
        let mail = command_reply(Phase::MailFrom, mail)?;
        let mut refusal = mail.is_negative().then_some((Phase::MailFrom, mail));

        let rcpt = self.wire.reply(Instant::now(), envelope).await;
        let rcpt = match command_reply(Phase::RcptTo, rcpt) {
            Ok(rcpt) => rcpt,
            Err(ended) => return Err(refused_before(refusal, ended)),
        };
        let rcpt_taken = rcpt.is_positive();
        if !rcpt_taken && refusal.is_none() {
            refusal = Some((Phase::RcptTo, rcpt));
        }

        let data = self.wire.reply(Instant::now(), self.deadlines.data).await;
        let data = match data {
            Ok(data) if data.is_closing() => {
                return Err(refused_before(refusal, Ended::refused(Phase::Data, data, None)));
            }
            Ok(data) => data,
            Err(error) => {
                return Err(refused_before(refusal, Ended::failed(Phase::Data, error)));
            }
        };
        match self.unasked().await {
            None => self.conclude_envelope(refusal, rcpt_taken, data).await,
            Some(error @ WireError::OutOfTurn(_))
                if CloseReason::of(&error) == CloseReason::Announced =>
            {
                Err(refused_before(refusal, Ended::failed(Phase::Data, error)))
            }
            Some(error) => Err(Ended::failed(Phase::Data, error)),
        }
    }

    /// Judges a complete group: the first refusal in it, if any, and the reply to DATA.
    async fn conclude_envelope(
        &mut self,
        refusal: Option<(Phase, Reply)>,
        rcpt_taken: bool,
        data: Reply,
    ) -> Result<(), Ended> {
        if data.contradictory || !(data.is_negative() || data.code == 354) {
            // 2yz instead of 354 accepts nothing: the replies are out of step.
            return Err(Ended::failed(Phase::Data, WireError::OutOfTurn(data)));
        }
        let server_waits = data.code == 354;
        let Some((phase, reply)) = refusal else {
            if server_waits {
                return Ok(());
            }
            self.needs_reset = true;
            return Err(Ended::refused(Phase::Data, data, None));
        };
        let close = match (server_waits, rcpt_taken) {
            // MAIL was refused, its recipient taken: a dot would send that reader an empty message.
            (true, true) => Some(CloseReason::Abandoned),
            (true, false) => self.end_empty_body().await.err(),
            (false, _) => {
                self.needs_reset = phase == Phase::RcptTo || rcpt_taken;
                None
            }
        };
        Err(Ended::refused(phase, reply, close))
    }

    /// A server that refused the recipient and yet waits for a body gets a lone dot (RFC 2920,
    /// section 3.1). There is no recipient, so whatever it answers, nobody gets anything.
    async fn end_empty_body(&mut self) -> Result<(), CloseReason> {
        let within = self.deadlines.data;
        let since = Instant::now();
        let written = self.wire.write(DOT, &[], 0, within).await;
        match written.end {
            WriteEnd::Done => {}
            WriteEnd::Interrupted => return Err(CloseReason::Protocol),
            WriteEnd::Failed(error) => return Err(CloseReason::of(&error)),
        }
        let reply = self.wire.reply(since, within).await.map_err(|e| CloseReason::of(&e))?;
        if reply.is_closing() {
            return Err(CloseReason::Announced);
        }
        if reply.is_intermediate() || self.wire.has_unread() {
            return Err(CloseReason::Protocol);
        }
        self.needs_reset = true;
        Ok(())
    }

    /// A server that cannot clear its state is of no use, but that is not this message's fault:
    /// a failure of the session rather than a refusal.
    async fn read_reset_reply(&mut self, since: Instant) -> Result<(), Ended> {
        match self.wire.reply(since, self.deadlines.envelope).await {
            Ok(reply) if reply.is_positive() => Ok(()),
            Ok(reply) => Err(Ended::failed(Phase::Rset, WireError::OutOfTurn(reply))),
            Err(error) => Err(Ended::failed(Phase::Rset, error)),
        }
    }
}

/// The session ended among the replies: a refusal that came before that still counts.
fn refused_before(refusal: Option<(Phase, Reply)>, ended: Ended) -> Ended {
    match refusal {
        Some((phase, reply)) => Ended::refused(phase, reply, ended.close),
        None => ended,
    }
}

/// A reply to MAIL or RCPT: 2yz, 4yz or 5yz, and not 421, which ends the session.
fn command_reply(phase: Phase, reply: Result<Reply, WireError>) -> Result<Reply, Ended> {
    match reply {
        Ok(reply) if reply.is_closing() => Err(Ended::refused(phase, reply, None)),
        Ok(reply) if reply.is_intermediate() || reply.contradictory => {
            Err(Ended::failed(phase, WireError::OutOfTurn(reply)))
        }
        Ok(reply) => Ok(reply),
        Err(error) => Err(Ended::failed(phase, error)),
    }
}
