//! One copy on its way: composed, sent, and settled by what became of it. With its body goes the
//! envelope of the next copy. Which copy it is, and over which session, is decided by the worker.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::{debug, warn};

use super::{
    Connection, direct,
    patience::{Held, patiently},
};
use crate::{
    bounce::classify::Deed,
    db::state::{CopyState, EventKind},
    delivery::{
        compose::CopyError,
        dispatch::{Report, Wrong},
        policy::{self, Decision, Schedule, Signal},
        queue::Handed,
    },
    event::Event,
    fail_point,
    id::CopyId,
    provider::ProviderId,
    smtp::{
        client::{Dot, Envelope, Outgoing, Phase, Session, SessionState, Transaction},
        reply::Reply,
    },
    timestamp::Timestamp,
};

/// Characters of a reply that the log keeps.
const TEXT_CHARACTERS_MAX: usize = 500;
/// How soon a copy whose content could not be read is tried again.
const READ_AGAIN: Duration = Duration::from_secs(10);

impl Connection {
    /// Sends the copy that is next in hand; with its body goes the envelope of the one after it, if
    /// that is to go `on`.
    pub(super) async fn send_next(&mut self, on: bool) {
        if on {
            self.top_up().await;
        }
        let Some(term) = self.hand.term() else { return };
        if !self.shared.lease.holds(term, Timestamp::now()) {
            warn!("the lease ran out: what was handed off before is not sent, but queued again");
            return self.give_back_all().await;
        }
        let Some(handed) = self.hand.pop() else { return };
        let handed = Arc::new(handed);
        self.current = Some(Arc::clone(&handed));
        let prepared = match self.shared.composer.prepare(&handed).await {
            Ok(prepared) => prepared,
            Err(CopyError::Database(error)) => return self.not_ready(&handed, &error).await,
            Err(error) => return self.unsendable(&handed, error.to_string()).await,
        };
        let envelope = match self.opened.take() {
            Some((copy, envelope)) if copy == handed.claimed.copy => envelope,
            _ => self.shared.composer.envelope(&handed),
        };
        if let Err(error) = self.compose(&handed, &prepared).await {
            return self.unsendable(&handed, error).await;
        }
        if let Some(field) = &self.relay.event_field {
            let line = field.line(&self.shared.composer.message_id(handed.claimed.copy));
            self.message.put_in_front(line.as_bytes());
        }
        let Some(session) = self.session.as_mut() else {
            self.current = None;
            self.shared.settle(&handed, policy::untried(Timestamp::now()), None).await;
            return self.hand.through(&self.shared, self.worker);
        };
        let last = self.relay.is_last_message(session);
        let (relay, to) = (&self.relay, self.to.as_ref());
        let next = self.hand.front().filter(|_| on && !last);
        let next = next.filter(|next| direct::goes_along(relay, to, next));
        let next: Option<Envelope> = next.map(|next| self.shared.composer.envelope(next));
        let fresh = session.messages_sent() == 0;
        let (copy, attempt) = (handed.claimed.copy, handed.claimed.attempts + 1);
        let journal = &self.shared.journal;
        let started = Instant::now();
        let body: Vec<&[u8]> = self.message.slices().collect();
        let outgoing = Outgoing { envelope: &envelope, body: &body };
        let lease = &self.shared.lease;
        let mark = |dot| {
            if dot == Dot::IsHere {
                return journal.body(copy, attempt);
            }
            fail_point::reach("dot.before");
            if !lease.holds(term, Timestamp::now()) {
                return Err(std::io::Error::other("the lease ran out"));
            }
            journal.dot(copy, attempt)?;
            fail_point::reach("dot.journalled");
            Ok(())
        };
        let held = Held {
            hand: &mut self.hand,
            coming: &mut self.coming,
            shared: &self.shared,
            worker: self.worker,
            // The envelope of the next one may be out.
            keep: usize::from(next.is_some()),
        };
        let transact = session.transact(&outgoing, next.as_ref(), mark);
        let transaction = patiently(transact, held).await;
        let took = started.elapsed();
        fail_point::reach("reply.before");
        self.per_copy = (self.per_copy * 7 + took) / 8;
        self.opened = self.hand.front().map(|next| next.claimed.copy).zip(next);
        self.note_reply(&transaction, copy, attempt);
        fail_point::reach("reply.journalled");
        let usable = transaction.session == SessionState::Usable;
        if !fresh && transaction.verdict.is_session_end() {
            let carried = self.session.as_ref().map_or(0, Session::messages_sent);
            // What one destination does is no habit of the others.
            if self.relay.direct.is_none() {
                self.relay.session_length.was_ended(carried, Instant::now());
            }
        }
        self.conclude(&handed, &transaction, fresh, took).await;
        self.hand.through(&self.shared, self.worker);
        if !usable {
            debug!(relay = %self.relay.name, session = self.number, "a connection was closed");
            self.hang_up();
            // The envelope that was opened with the last body leads nowhere: it was never followed
            // by a message, so its copy is as it was.
        }
    }

    fn note_reply(&self, transaction: &Transaction, copy: CopyId, attempt: i64) {
        let Some(reply) = transaction.verdict.reply() else { return };
        if transaction.verdict.phase() != Some(Phase::Dot) {
            return;
        }
        if let Err(error) = self.shared.journal.reply(copy, attempt, reply) {
            warn!(%error, "the journal cannot be written; a crash now would leave a copy uncertain");
        }
    }

    pub(super) async fn conclude(
        &mut self,
        handed: &Handed,
        transaction: &Transaction,
        fresh: bool,
        took: Duration,
    ) {
        let now = Timestamp::now();
        let provider = ProviderId(handed.claimed.provider);
        let schedule = Schedule {
            delays: Arc::clone(&self.shared.retry_delays),
            expires_at: self.shared.composer.expires_at(handed.claimed.copy),
        };
        let jitter = rand::random_range(-1.0..=1.0);
        let verdict = &transaction.verdict;
        let attempts = handed.claimed.attempts;
        let mut decision =
            policy::decide(verdict, attempts, fresh, provider, &schedule, now, jitter);
        if let (CopyId::Service(_), CopyState::Uncertain, 0) =
            (handed.claimed.copy, decision.state, attempts)
        {
            // Somebody waits for this mail: twice is better than never.
            decision.state = CopyState::Waiting;
            decision.due_at = Some(now);
        }
        self.signal(handed, transaction, &decision);
        let event = decision.event.map(|kind| {
            let mut event = self.event(handed, kind, now);
            event.phase = verdict.phase().map(|phase| phase.to_string());
            event.duration_us = i64::try_from(took.as_micros()).ok();
            event.bytes = i64::try_from(transaction.bytes).ok();
            match verdict.reply() {
                Some(reply) => {
                    event.code = Some(i64::from(reply.code));
                    event.enhanced = reply.enhanced.map(|code| code.to_string());
                    event.text = Some(beginning(&reply.text).to_owned());
                }
                None => event.text.clone_from(&decision.reason),
            }
            if let Some(class) = &decision.class {
                event.class = Some(policy::class_name(class));
                event.rule = Some(class.rule.to_owned());
            }
            event
        });
        self.current = None;
        self.shared.settle_timed(handed, decision, event, transaction.timings).await;
    }

    /// Tells breakers and concurrency how it went; what went well is told with the slice's end.
    fn signal(&mut self, handed: &Handed, transaction: &Transaction, decision: &Decision) {
        let verdict = &transaction.verdict;
        if self.relay.direct.is_some() {
            self.tell_destination(transaction, decision);
        }
        let class = decision.class.as_ref();
        let action = class.and_then(|class| class.action);
        let wrong = match policy::signal(verdict, decision) {
            Signal::Fine if action.is_none() => return self.hand.fine(),
            Signal::Nothing => return,
            Signal::Fine => Wrong::Copy,
            Signal::Wrong(wrong) => wrong,
        };
        let cause = decision.reason.clone().unwrap_or_default();
        if let (Some(class), Some((action, _))) = (class, action)
            && action.deed == Deed::Halt
            && let CopyId::Issue { issue, .. } = handed.claimed.copy
        {
            let to = (issue, handed.claimed.provider);
            let at = (action.threshold, action.within);
            self.shared.rule_halts.note(to, class.rule, at, &cause, Timestamp::now());
        }
        let mut report = Report {
            fine: self.hand.take_fine(),
            wrong,
            closing: verdict.reply().is_some_and(Reply::is_closing),
            hit: class.and_then(policy::hit),
            cause,
        };
        if self.relay.direct.is_some() {
            direct::narrow(&mut report, handed.claimed.provider);
        }
        self.shared.dispatch.report(self.worker, &report);
    }

    pub(super) fn event(&self, handed: &Handed, kind: EventKind, now: Timestamp) -> Event {
        let mut event = Event::new(kind, now);
        match handed.claimed.copy {
            CopyId::Issue { issue, subscriber } => {
                event = event.about(Some(issue), Some(subscriber));
            }
            CopyId::Service(id) => event.service_id = Some(id),
        }
        event.attempt = Some(handed.claimed.attempts + 1);
        event.node_id = Some(self.shared.node);
        event.relay = Some(self.relay.name.clone());
        event.host = self.host.as_deref().map(str::to_owned);
        event.provider = Some(handed.claimed.provider);
        event.session = Some(self.number);
        event.after_claim(handed.claimed.due_at, handed.claimed.claimed_at).after_handoff(handed.at)
    }

    /// What a copy is made from cannot be read now: it is tried again soon, as if it had never been
    /// taken out.
    async fn not_ready(&mut self, handed: &Handed, error: &sqlx::Error) {
        warn!(copy = %handed.claimed.copy, %error, "a copy's content cannot be read; it waits");
        if self.session.as_ref().is_some_and(Session::holds_envelope) {
            self.hang_up();
        }
        let now = Timestamp::now();
        let decision = Decision { due_at: Some(now.plus(READ_AGAIN)), ..policy::untried(now) };
        self.current = None;
        self.hand.refund(&self.shared);
        self.shared.settle(handed, decision, None).await;
        self.hand.through(&self.shared, self.worker);
    }

    /// A copy that cannot be made: it is skipped and the others go on. If its envelope is out
    /// already, the session can carry nothing else any more.
    async fn unsendable(&mut self, handed: &Handed, why: String) {
        if self.session.as_ref().is_some_and(Session::holds_envelope) {
            self.hang_up();
        }
        let now = Timestamp::now();
        let event = self.event(handed, EventKind::Skipped, now).because(why.clone());
        let decision = Decision {
            state: CopyState::Skipped,
            reason: Some(why),
            due_at: None,
            ..policy::untried(now)
        };
        self.current = None;
        self.shared.settle(handed, decision, Some(event)).await;
        self.hand.through(&self.shared, self.worker);
    }
}

/// As much of a reply as the log keeps.
fn beginning(text: &str) -> &str {
    match text.len() {
        0..=TEXT_CHARACTERS_MAX => text,
        _ => text.char_indices().nth(TEXT_CHARACTERS_MAX).map_or(text, |(end, _)| &text[..end]),
    }
}
