//! What a worker of a relay of kind `mx` does besides: for each copy it finds the destination, and has
//! a session with it. Copies that cannot be brought there now are put off one by one; the others of the
//! slice go on.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::debug;

use super::Connection;
use crate::{
    bounce::classify::Scope,
    delivery::{
        dispatch::{Report, Wrong},
        mx::{Call, Destination, DialError, Direct, Refusal, Turn, domain_of, unreachable_class},
        policy::{self, Decision, Schedule, Signal},
        queue::Handed,
        relay::{ConnectError, Relay},
    },
    provider::ProviderId,
    smtp::{
        client::{Session, Transaction},
        reply::{EnhancedCode, Reply},
    },
    timestamp::Timestamp,
};

/// So many copies are asked for at least: those to one destination should come together.
pub(super) const SLICE_MIN: u32 = 16;

/// Whether the copy `next` goes to where the session leads, and may go now: then its envelope leaves
/// with the body before it.
pub(super) fn goes_along(relay: &Relay, to: Option<&Arc<Destination>>, next: &Handed) -> bool {
    let Some(direct) = &relay.direct else { return true };
    let Some(to) = to else { return false };
    let same = direct.known_route(domain_of(&next.address)).is_some_and(|of| Arc::ptr_eq(&of, to));
    same && to.take_turn(Timestamp::now()) == Turn::Go
}

/// Leaves of a report what concerns more than one destination: trouble with a provider of the table.
/// Whatever is wrong with one of the many others is the business of that destination's breaker.
pub(super) fn narrow(report: &mut Report, provider: i64) {
    if ProviderId(provider) == ProviderId::OTHER {
        report.wrong = Wrong::Copy;
        report.closing = false;
        report.hit = None;
    } else if report.wrong == Wrong::Relay {
        report.wrong = Wrong::Provider;
    }
    report.hit = report.hit.take().filter(|(_, scope)| *scope == Scope::Provider);
}

impl Connection {
    /// Makes sure that there is a session with the destination of the copy that goes next; false when
    /// that copy went no further, or all were given back.
    pub(super) async fn reached(&mut self, direct: &Arc<Direct>) -> bool {
        if self.session.as_ref().is_some_and(Session::holds_envelope) {
            // It had its turn when its envelope went out.
            return true;
        }
        let Some(front) = self.hand.front() else { return false };
        let domain = domain_of(&front.address).to_owned();
        let started = Instant::now();
        let to = match self.patiently(Box::pin(direct.route(&domain))).await {
            Ok(to) => to,
            Err(Refusal::NoServer(why)) => {
                self.no_way_out(why).await;
                return false;
            }
            Err(refusal) => {
                self.refuse(&refusal).await;
                return false;
            }
        };
        if let Turn::Later(until, why) = to.take_turn(Timestamp::now()) {
            self.put_off(until, why).await;
            return false;
        }
        self.trying = Some(Arc::clone(&to));
        if self.resumes(direct, &to).await {
            return true;
        }
        let connected = self.connects(direct, &to).await;
        self.per_copy = (self.per_copy * 7 + started.elapsed()) / 8;
        connected
    }

    /// Takes a session that stands: the one in use, or a parked one.
    async fn resumes(&mut self, direct: &Direct, to: &Arc<Destination>) -> bool {
        let is_here = self.to.as_ref().is_some_and(|here| Arc::ptr_eq(here, to));
        if is_here && let Some(session) = &mut self.session {
            if !self.relay.is_worn(session) && session.is_alive().await {
                return true;
            }
            self.close().await;
        }
        self.park();
        while let Some(Call { mut session, number, host }) = direct.unpark(to) {
            if !self.relay.is_worn(&session) && session.is_alive().await {
                self.number = number;
                self.session = Some(session);
                self.to = Some(Arc::clone(to));
                self.host = Some(host);
                return true;
            }
            self.shared.dispatch.disconnected(self.relay.index);
            direct.close(session, to).await;
        }
        false
    }

    async fn connects(&mut self, direct: &Arc<Direct>, to: &Arc<Destination>) -> bool {
        if let Turn::Later(until, why) = to.may_connect(Timestamp::now()) {
            self.not_tried();
            self.put_off(until, why).await;
            return false;
        }
        if direct.make_room().await {
            self.shared.dispatch.disconnected(self.relay.index);
        }
        let error = match self.patiently(Box::pin(direct.dial(to))).await {
            Ok((session, host)) => {
                to.reached();
                self.relay.health.reached();
                self.shared.dispatch.connected(self.relay.index);
                self.shared.metrics.opened(&self.relay.name, session.opening().phases());
                self.number =
                    self.shared.sessions.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                debug!(
                    relay = %self.relay.name,
                    session = self.number,
                    destination = %to.name,
                    %host,
                    encrypted = session.is_encrypted(),
                    "connected to a destination"
                );
                self.session = Some(session);
                self.to = Some(Arc::clone(to));
                self.host = Some(host);
                return true;
            }
            Err(error) => error,
        };
        direct.gone(to);
        match error {
            DialError::Ours(why) => {
                self.not_tried();
                self.no_way_out(why).await;
            }
            DialError::Stopped => self.give_back_all().await,
            DialError::Destination { phase, enhanced, what } => {
                self.trying = None;
                to.unreachable(&what, Timestamp::now());
                self.defer(phase.as_str(), enhanced, what).await;
            }
        }
        false
    }

    /// Leaves the session to whoever needs it next.
    pub(super) fn park(&mut self) {
        let Some(direct) = &self.relay.direct else { return };
        if self.session.as_ref().is_none_or(Session::holds_envelope) {
            return;
        }
        let parts = (self.session.take(), self.to.take(), self.host.take());
        if let (Some(session), Some(to), Some(host)) = parts {
            direct.park(to, Call { session, number: self.number, host });
        }
    }

    /// The session is gone: its place at its destination is free.
    pub(super) fn left(&mut self) {
        self.host = None;
        if let (Some(direct), Some(to)) = (&self.relay.direct, self.to.take()) {
            direct.gone(&to);
        }
    }

    /// A copy that had its turn is not tried after all.
    pub(super) fn not_tried(&mut self) {
        if let Some(to) = self.trying.take() {
            to.withdrawn(Timestamp::now());
        }
    }

    /// Tells the destination how a copy fared.
    pub(super) fn tell_destination(&mut self, transaction: &Transaction, decision: &Decision) {
        let Some(to) = &self.to else { return };
        self.trying = None;
        let now = Timestamp::now();
        let class = decision.class.as_ref();
        match policy::signal(&transaction.verdict, decision) {
            Signal::Fine | Signal::Wrong(Wrong::Copy) => to.fine(self.per_copy, now),
            Signal::Nothing => to.withdrawn(now),
            Signal::Wrong(_) => {
                let cause = decision.reason.as_deref().unwrap_or_default();
                let hit = class.and_then(policy::hit);
                to.refused(cause, hit.as_ref().map(|(hit, _)| hit), now);
            }
        }
        if transaction.verdict.reply().is_some_and(Reply::is_closing) {
            debug!(relay = %self.relay.name, destination = %to.name, "a destination hangs up");
        }
    }

    /// Something is wrong with us rather than with a destination: the whole relay rests.
    async fn no_way_out(&mut self, why: String) {
        self.unreachable(&ConnectError::Direct(why));
        self.give_back_all().await;
    }

    /// Puts the copy that goes next off, without a count.
    async fn put_off(&mut self, until: Timestamp, why: String) {
        let Some(handed) = self.hand.pop() else { return };
        self.hand.refund(&self.shared);
        self.shared.settle(&handed, policy::put_off(until, why), None).await;
        self.hand.through(&self.shared, self.worker);
    }

    /// The domain of the copy that goes next takes no mail, or nobody knows now.
    async fn refuse(&mut self, refusal: &Refusal) {
        let (enhanced, what) = (refusal.enhanced(), refusal.what().to_owned());
        if matches!(refusal, Refusal::Never { .. }) {
            let decision = policy::undeliverable(format!("dns: {what}"), refusal.class());
            self.end_unsent("dns", enhanced, decision).await;
        } else {
            self.defer("dns", enhanced, what).await;
        }
    }

    /// The destination of the copy that goes next cannot be reached: it is tried again later.
    async fn defer(&mut self, phase: &str, enhanced: EnhancedCode, what: String) {
        let Some(front) = self.hand.front().cloned() else { return };
        // When its time is over is known to whoever made it ready.
        if let Err(error) = self.shared.composer.prepare(&front).await {
            let soon = Timestamp::now().plus(std::time::Duration::from_secs(1));
            return self.put_off(soon, error.to_string()).await;
        }
        let schedule = Schedule {
            delays: Arc::clone(&self.shared.retry_delays),
            expires_at: self.shared.composer.expires_at(front.claimed.copy),
        };
        let decision = policy::unreachable(
            front.claimed.attempts,
            &schedule,
            Timestamp::now(),
            rand::random_range(-1.0..=1.0),
            format!("{phase}: {what}"),
            unreachable_class(if phase == "dns" { "dns" } else { "no-connection" }),
        );
        self.end_unsent(phase, enhanced, decision).await;
    }

    /// Settles the copy that goes next by `decision`: it came no further than `phase`.
    async fn end_unsent(&mut self, phase: &str, enhanced: EnhancedCode, decision: Decision) {
        let Some(handed) = self.hand.pop() else { return };
        let event = decision.event.map(|kind| {
            let mut event = self.event(&handed, kind, Timestamp::now());
            (event.session, event.host) = (None, None);
            event.phase = Some(phase.to_owned());
            event.enhanced = Some(enhanced.to_string());
            event.text.clone_from(&decision.reason);
            if let Some(class) = &decision.class {
                event.class = Some(policy::class_name(class));
                event.rule = Some(class.rule.to_owned());
            }
            event
        });
        self.shared.settle(&handed, decision, event).await;
        self.hand.through(&self.shared, self.worker);
    }
}
