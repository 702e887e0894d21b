//! The part of a session from `DATA` to the reply after the dot.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Envelope, Filled, Handler, Interrupt, InterruptAfter, OK, OUT_OF_ORDER, Protocol, Reply,
    Session, Shared, Stage, TOO_SLOW,
};
use crate::smtp::server::{
    Answer, BareNewlines, End, Intake, Keep, Message, Response, Unfinished, data,
};

pub(super) const TOO_BIG: Reply = Reply::new(552, "5.3.4", "Message too big");
const NO_ROOM: Reply = Reply::new(452, "4.3.1", "No room for the message now, try again later");
const BARE_NEWLINE: Reply =
    Reply::new(554, "5.6.0", "Message with a CR or LF that is no line end (RFC 5321, 2.3.8)");

/// A message's data as it comes in.
struct Incoming<'s, H> {
    shared: &'s Shared<H>,
    keep: usize,
    bytes: Vec<u8>,
    /// What of the budget shared by all sessions is ours.
    reserved: usize,
    /// Bytes on the wire, terminator included.
    received: u64,
    refusal: Option<Reply>,
}

impl<H> Incoming<'_, H> {
    fn take(&mut self, chunk: &[u8]) {
        self.received += chunk.len() as u64;
        if self.refusal.is_some() {
            return;
        }
        if self.received > self.shared.config.limits.message_bytes {
            return self.give_up(TOO_BIG);
        }
        let kept = &chunk[..chunk.len().min(self.keep - self.bytes.len().min(self.keep))];
        if kept.is_empty() {
            return;
        }
        if self.bytes.len() + kept.len() > self.reserved {
            let doubled = kept.len().max(self.reserved);
            let granted = [doubled, kept.len()].into_iter().find(|more| self.shared.reserve(*more));
            let Some(more) = granted else { return self.give_up(NO_ROOM) };
            self.reserved += more;
            self.bytes.reserve_exact(self.reserved - self.bytes.len());
        }
        self.bytes.extend_from_slice(kept);
    }

    fn give_up(&mut self, refusal: Reply) {
        self.refusal = Some(refusal);
        self.bytes = Vec::new();
        self.shared.release(std::mem::take(&mut self.reserved));
    }
}

impl<H> Drop for Incoming<'_, H> {
    fn drop(&mut self) {
        self.shared.release(self.reserved);
    }
}

impl<H: Handler> Session<'_, H> {
    pub(super) async fn data(&mut self) -> Result<(), End> {
        let Some(envelope) = self.envelope.take() else {
            return self.refuse(&OUT_OF_ORDER);
        };
        if envelope.recipients.is_empty() {
            self.envelope = Some(envelope);
            return self.refuse(&Reply::new(554, "5.5.1", "No recipient was accepted"));
        }
        let response = self.at(Stage::Data(&envelope)).await;
        // After any reply but 354 the client must not send data, a 2yz in its place included.
        let entered = match &response {
            Response::Proceed => true,
            Response::Reply(reply) => reply.code() == 354,
            Response::Each(_) => false,
            Response::Misbehave(how) => how.success.unwrap_or(match &how.answer {
                Answer::Usual => true,
                Answer::Reply(reply) => reply.code() == 354,
                Answer::Raw(bytes) => bytes.starts_with(b"354"),
            }),
        };
        let go = Reply::plain(354, "Go ahead, end with a dot");
        if !(self.answer(response, &[go]).await? && entered) {
            self.envelope = Some(envelope);
            return Ok(());
        }
        self.receive(envelope).await
    }

    async fn receive(&mut self, envelope: Envelope) -> Result<(), End> {
        let Intake { keep, mut interrupt } = self.shared.handler.intake(&mut self.state, &envelope);
        let keep_bytes = match keep {
            Keep::Message => usize::MAX,
            Keep::Head(bytes) => bytes,
            Keep::Nothing => 0,
        };
        let mut incoming = Incoming {
            shared: self.shared,
            keep: keep_bytes,
            bytes: Vec::new(),
            reserved: 0,
            received: 0,
            refusal: None,
        };
        if let Err(end) = self.read_data(&mut incoming, &mut interrupt).await {
            let aborted = Unfinished::Aborted { received: incoming.received };
            self.shared.handler.unfinished(&mut self.state, &envelope, &aborted);
            return Err(end);
        }
        let size = incoming.received - b".\r\n".len() as u64;
        if keep == Keep::Message && incoming.refusal.is_none() {
            data::unstuff(&mut incoming.bytes);
            if self.shared.config.bare_newlines == BareNewlines::Refuse
                && data::has_bare_newline(&incoming.bytes)
            {
                incoming.give_up(BARE_NEWLINE);
            }
        }
        let copies = match self.shared.config.protocol {
            Protocol::Smtp => 1,
            Protocol::Lmtp => envelope.recipients.len(),
        };
        if let Some(reply) = incoming.refusal.take() {
            let refused = Unfinished::Refused { size, reply: &reply };
            self.shared.handler.unfinished(&mut self.state, &envelope, &refused);
            (1..copies).for_each(|_| self.say(&reply));
            return self.refuse(&reply);
        }
        let bytes = std::mem::take(&mut incoming.bytes);
        let message = Message { envelope, bytes, size };
        let handler = Arc::clone(&self.shared.handler);
        let response = handler.message(&mut self.state, message).await;
        drop(incoming);
        if copies == 1 {
            self.answer(response, &[OK]).await?;
        } else {
            self.answer(response, &vec![OK; copies]).await?;
        }
        self.idle = self.shared.handler.idle(&mut self.state);
        Ok(())
    }

    async fn read_data(
        &mut self,
        incoming: &mut Incoming<'_, H>,
        interrupt: &mut Option<Interrupt>,
    ) -> Result<(), End> {
        let limits = &self.shared.config.limits;
        let hang_up_at = limits.message_bytes.saturating_mul(2);
        let mut started = None;
        self.scanner.restart();
        loop {
            let scanned = self.scanner.scan(self.wire.available());
            incoming.take(&self.wire.available()[..scanned.taken]);
            self.wire.consume(scanned.taken);
            if let Some(Interrupt { after: InterruptAfter::Bytes(after), misbehaviour }) = interrupt
                && incoming.received >= *after
            {
                let misbehaviour = Arc::clone(misbehaviour);
                *interrupt = None;
                self.misbehave(&misbehaviour, &[]).await?;
            }
            if scanned.complete {
                return Ok(());
            }
            if incoming.received > hang_up_at {
                return self.hang_up(&TOO_BIG, End::LimitExceeded);
            }
            self.wire.flush().await?;
            let started = *started.get_or_insert_with(Instant::now);
            let allowed = Duration::from_secs(incoming.received / limits.data_rate_min.max(1));
            let until = started + limits.data_grace + allowed;
            if self.wire.fill(until.min(self.ends_at), false).await? == Filled::TimedOut {
                return self.hang_up(&TOO_SLOW, End::TimedOut);
            }
        }
    }
}
