//! What a try of one copy leads to. Pure: the verdict, the tries so far and the time come in, the
//! copy's next state goes out. Nothing here knows a connection or a row.

use std::{sync::Arc, time::Duration};

use super::{
    breaker::{Hit, Trip},
    dispatch::Wrong,
};
use crate::{
    bounce::classify::{
        self, Action, Classification, Deed, Evidence, Fault, Permanence, Reason, Scope,
    },
    db::state::{CopyState, EventKind},
    provider::ProviderId,
    smtp::{
        client::{Phase, Unsendable, Verdict},
        reply::Reply,
    },
    timestamp::Timestamp,
};

/// The longest wait that a server may ask for.
const ASKED_DELAY_MAX: Duration = Duration::from_hours(2);

/// The shortest wait that a server may ask for, unless our own is shorter: "in 0 seconds" is no reason
/// to try again and again.
const ASKED_DELAY_MIN: Duration = Duration::from_mins(1);

/// When tries are repeated, and until when.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Waits between tries; the last one repeats. Never empty.
    pub delays: Arc<[Duration]>,
    /// When a copy is given up.
    pub expires_at: Timestamp,
}

/// What becomes of a copy after one try.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Its next state.
    pub state: CopyState,
    /// When a waiting copy is due.
    pub due_at: Option<Timestamp>,
    /// Whether the try counts: it reached the wire and somebody or something answered.
    pub counts: bool,
    /// Why, for people.
    pub reason: Option<String>,
    /// Whose fault a refusal is.
    pub class: Option<Classification>,
    /// What the log calls it; nothing when the copy never reached the wire.
    pub event: Option<EventKind>,
}

/// Decides what becomes of a copy that was tried `attempts` times before this `verdict`.
///
/// `fresh_session` says that this was the first message of its connection; `jitter` is a random
/// number from -1 to 1 that spreads retries by a fifth.
pub fn decide(
    verdict: &Verdict,
    attempts: i64,
    fresh_session: bool,
    provider: ProviderId,
    schedule: &Schedule,
    now: Timestamp,
    jitter: f64,
) -> Decision {
    match verdict {
        Verdict::Accepted(_) => Decision {
            state: CopyState::Accepted,
            due_at: None,
            counts: true,
            reason: None,
            class: None,
            event: Some(EventKind::Accepted),
        },
        Verdict::Uncertain { error } => Decision {
            state: CopyState::Uncertain,
            due_at: None,
            counts: true,
            reason: Some(format!("no reply to the final dot: {error}")),
            class: None,
            event: Some(EventKind::Uncertain),
        },
        Verdict::NotSent(Unsendable::OtherEnvelopeOpen) => untried(now),
        Verdict::NotSent(why) => Decision {
            state: CopyState::Rejected,
            due_at: None,
            counts: false,
            reason: Some(why.to_string()),
            class: None,
            event: Some(EventKind::Rejected),
        },
        // A server may close an idle connection at any time (RFC 5321, section 4.5.3.2.7): finding
        // that out with the next envelope is nobody's failure.
        Verdict::Failed { phase: Phase::Idle | Phase::MailFrom | Phase::Rset, .. }
            if !fresh_session =>
        {
            untried(now)
        }
        Verdict::Failed { phase, error } => {
            let reason = format!("{phase}: {error}");
            again(attempts, schedule, None, now, jitter, reason, None)
        }
        Verdict::Refused { phase: Phase::MailFrom, reply }
            if !fresh_session && is_goodbye(reply, provider) =>
        {
            untried(now)
        }
        Verdict::Refused { phase, reply } => {
            refused(*phase, reply, attempts, provider, schedule, now, jitter)
        }
    }
}

/// Whether a 421 to the MAIL of a session's later message only ends the session, as servers do after
/// a number of messages: the next one goes over another session at once. One that a rule acts on
/// says more than that.
fn is_goodbye(reply: &Reply, provider: ProviderId) -> bool {
    reply.is_closing() && classify_reply(Phase::MailFrom, reply, provider).action.is_none()
}

/// A copy whose envelope never left, or left and led to nothing: queued again, without a count.
pub fn untried(now: Timestamp) -> Decision {
    Decision {
        state: CopyState::Waiting,
        due_at: Some(now),
        counts: false,
        reason: None,
        class: None,
        event: None,
    }
}

/// A copy that goes no further now, for a reason that is not its own (a limit, a breaker): queued until
/// `due_at`, without a count.
pub fn put_off(due_at: Timestamp, why: String) -> Decision {
    Decision { reason: Some(why), ..untried(due_at) }
}

/// A copy whose reader's domain cannot be reached now: tried again as after any try.
pub fn unreachable(
    attempts: i64,
    schedule: &Schedule,
    now: Timestamp,
    jitter: f64,
    why: String,
    class: Classification,
) -> Decision {
    again(attempts, schedule, None, now, jitter, why, Some(class))
}

/// A copy whose reader's domain takes no mail.
pub fn undeliverable(why: String, class: Classification) -> Decision {
    Decision {
        state: CopyState::Rejected,
        due_at: None,
        counts: true,
        reason: Some(why),
        class: Some(class),
        event: Some(EventKind::Rejected),
    }
}

fn refused(
    phase: Phase,
    reply: &Reply,
    attempts: i64,
    provider: ProviderId,
    schedule: &Schedule,
    now: Timestamp,
    jitter: f64,
) -> Decision {
    let class = classify_reply(phase, reply, provider);
    let reason = format!("{phase}: {reply}");
    if reply.is_permanent() {
        return Decision {
            state: CopyState::Rejected,
            due_at: None,
            counts: true,
            reason: Some(reason),
            class: Some(class),
            event: Some(EventKind::Rejected),
        };
    }
    let asked = asked_delay(&reply.text);
    again(attempts, schedule, asked, now, jitter, reason, Some(class))
}

/// Another try, later; or the end of the copy's time.
fn again(
    attempts: i64,
    schedule: &Schedule,
    asked: Option<Duration>,
    now: Timestamp,
    jitter: f64,
    reason: String,
    class: Option<Classification>,
) -> Decision {
    let index = usize::try_from(attempts).unwrap_or(0).min(schedule.delays.len().saturating_sub(1));
    let delay = schedule.delays.get(index).copied().unwrap_or_default();
    let delay = delay.mul_f64(1.0 + jitter.clamp(-1.0, 1.0) / 5.0);
    let least = delay.min(ASKED_DELAY_MIN);
    let delay = asked.map_or(delay, |asked| asked.min(ASKED_DELAY_MAX).max(least));
    let due_at = now.plus(delay);
    let expires = due_at >= schedule.expires_at;
    Decision {
        state: if expires { CopyState::Expired } else { CopyState::Waiting },
        due_at: (!expires).then_some(due_at),
        counts: true,
        reason: Some(reason),
        class,
        event: Some(if expires { EventKind::Expired } else { EventKind::Deferred }),
    }
}

/// What a try says about the way it went, for breakers and concurrency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// The way works: the copy was taken, or refused for the sake of its own mailbox.
    Fine,
    /// It says nothing: nothing was tried, or nobody spoke.
    Nothing,
    /// Something is wrong.
    Wrong(Wrong),
}

/// What `verdict`, on which `decision` was made, says about the way.
///
/// Only what a server said or did counts. Greylisting is a custom and no trouble; a full mailbox is
/// its reader's.
pub fn signal(verdict: &Verdict, decision: &Decision) -> Signal {
    match verdict {
        Verdict::Accepted(_) => Signal::Fine,
        Verdict::NotSent(_) => Signal::Nothing,
        Verdict::Failed { .. } | Verdict::Refused { .. } if !decision.counts => Signal::Nothing,
        Verdict::Failed { .. } | Verdict::Uncertain { .. } => Signal::Wrong(Wrong::Relay),
        Verdict::Refused { phase, reply } => {
            let named = matches!(phase, Phase::RcptTo | Phase::Data | Phase::Body | Phase::Dot);
            let class = decision.class.as_ref();
            let of_reader = class.is_some_and(|class| {
                matches!(class.fault, Fault::Recipient | Fault::Mailbox)
                    || class.reason == Reason::Greylisted
            });
            match (named, reply.is_permanent()) {
                _ if reply.is_closing() && of_reader => Signal::Wrong(Wrong::Copy),
                _ if of_reader => Signal::Fine,
                (_, true) => Signal::Wrong(Wrong::Copy),
                (true, false) => Signal::Wrong(Wrong::Provider),
                (false, false) => Signal::Wrong(Wrong::Relay),
            }
        }
    }
}

/// What the rule behind a class does to a breaker, if it does something.
pub fn hit(class: &Classification) -> Option<(Hit, Scope)> {
    let (action, scope) = class.action?;
    let trip = match action.deed {
        Deed::Throttle => Trip::Throttle,
        Deed::Open => Trip::Open,
        Deed::Halt => return None,
    };
    let Action { threshold, within, lasts, .. } = *action;
    Some((Hit { rule: class.rule, trip, threshold, within, lasts }, scope))
}

/// Whose fault the refusal is.
pub fn classify_reply(phase: Phase, reply: &Reply, provider: ProviderId) -> Classification {
    classify::classify(&Evidence {
        phase: Some(phase),
        code: Some(reply.code),
        enhanced: reply.enhanced,
        text: &reply.text,
        provider,
    })
}

/// A class as the log keeps it: whose fault, and whether for good.
pub fn class_name(class: &Classification) -> String {
    let fault = match class.fault {
        Fault::Recipient => "recipient",
        Fault::Mailbox => "mailbox",
        Fault::Network => "network",
        Fault::Reputation => "reputation",
        Fault::Policy => "policy",
        Fault::Authentication => "authentication",
        Fault::Content => "content",
        Fault::Rate => "rate",
        Fault::Unknown => "unknown",
    };
    let permanence = match class.permanence {
        Permanence::Permanent => "permanent",
        Permanence::Transient => "transient",
    };
    format!("{fault}.{permanence}")
}

/// A wait that a reply asks for: "try again in 300 seconds", "retry after 15 minutes".
fn asked_delay(text: &str) -> Option<Duration> {
    let text = text.get(..text.len().min(1000)).unwrap_or_default().to_ascii_lowercase();
    let words: Vec<&str> = text.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let asks = |at: usize| {
        let before = &words[at.saturating_sub(5)..at];
        before.iter().any(|word| matches!(*word, "again" | "retry" | "wait" | "reconnect"))
    };
    words.windows(2).enumerate().find_map(|(at, pair)| {
        let number: u64 = pair[0].parse().ok()?;
        let unit = match pair[1] {
            "s" | "sec" | "secs" | "second" | "seconds" => 1,
            "m" | "min" | "mins" | "minute" | "minutes" => 60,
            "h" | "hour" | "hours" => 3600,
            _ => return None,
        };
        asks(at).then(|| Duration::from_secs(number.saturating_mul(unit)))
    })
}

#[cfg(test)]
mod tests;
