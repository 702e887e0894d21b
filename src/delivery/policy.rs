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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::smtp::client::WireError;

    const MINUTE: Duration = Duration::from_mins(1);

    fn schedule() -> Schedule {
        let delays = [5, 15, 30].map(Duration::from_mins).to_vec();
        Schedule { delays: delays.into(), expires_at: at(0).plus(Duration::from_hours(36)) }
    }

    fn at(minutes: u64) -> Timestamp {
        Timestamp::from_microseconds(1_700_000_000_000_000).plus(Duration::from_mins(minutes))
    }

    fn refusal(phase: Phase, code: u16, text: &str) -> Verdict {
        Verdict::Refused { phase, reply: Reply::new(code, text) }
    }

    fn after(verdict: &Verdict, attempts: i64, now: Timestamp) -> Decision {
        decide(verdict, attempts, true, ProviderId::OTHER, &schedule(), now, 0.0)
    }

    #[test]
    fn waits_follow_the_schedule_and_the_last_one_repeats() {
        for (attempts, minutes) in [(0, 5), (1, 15), (2, 30), (9, 30)] {
            let decision = after(&refusal(Phase::RcptTo, 451, "later"), attempts, at(0));
            assert_eq!(decision.state, CopyState::Waiting);
            assert_eq!(decision.due_at, Some(at(minutes)));
        }
    }

    #[test]
    fn a_wait_that_a_server_asks_for_is_kept_up_to_two_hours() {
        for (text, minutes) in [
            ("greylisted, try again in 300 seconds", 5),
            ("greylisted, try again in 0 seconds", 1),
            ("please retry after 20 minutes", 20),
            ("wait 7 hours before you reconnect", 120),
            ("you sent 300 seconds of spam", 5),
        ] {
            let decision = after(&refusal(Phase::RcptTo, 451, text), 0, at(0));
            assert_eq!(decision.due_at, Some(at(minutes)), "{text}");
        }
    }

    #[test]
    fn a_server_that_ends_a_session_between_messages_costs_nobody_a_try() {
        let later = |phase, code, text| {
            let verdict = refusal(phase, code, text);
            let decision = decide(&verdict, 0, false, ProviderId::OTHER, &schedule(), at(0), 0.0);
            (decision.counts, signal(&verdict, &decision) == Signal::Nothing)
        };
        let many = "4.7.0 Too many messages in this session";
        assert_eq!(later(Phase::MailFrom, 421, many), (false, true));
        assert_eq!(later(Phase::RcptTo, 421, many), (true, false), "that is about a reader");
        assert_eq!(later(Phase::MailFrom, 451, many), (true, false), "the session goes on");
        let first = after(&refusal(Phase::MailFrom, 421, many), 0, at(0));
        assert!(first.counts, "a session that carries nothing is none");
    }

    #[test]
    fn whoever_runs_out_of_time_expires_and_is_not_called_dead() {
        let now = at(36 * 60 - 4);
        let decision = after(&refusal(Phase::RcptTo, 450, "mailbox busy"), 0, now);
        assert_eq!(
            (decision.state, decision.event),
            (CopyState::Expired, Some(EventKind::Expired))
        );
    }

    #[test]
    fn a_connection_found_closed_between_messages_costs_no_try() {
        let lost = |phase| Verdict::Failed { phase, error: WireError::Closed };
        let decision =
            decide(&lost(Phase::MailFrom), 0, false, ProviderId::OTHER, &schedule(), at(0), 0.0);
        assert_eq!((decision.counts, decision.due_at), (false, Some(at(0))));
        assert!(after(&lost(Phase::MailFrom), 0, at(0)).counts);
        assert!(after(&lost(Phase::Body), 0, at(0)).due_at >= Some(at(0).plus(MINUTE)));
    }

    #[test]
    fn a_sender_refused_for_good_is_not_the_readers_fault() {
        let decision = after(&refusal(Phase::MailFrom, 550, "5.1.1 no such user"), 0, at(0));
        assert_ne!(decision.class.unwrap().fault, Fault::Recipient);
        let decision = after(&refusal(Phase::RcptTo, 550, "5.1.1 no such user"), 0, at(0));
        assert_eq!(decision.class.unwrap().fault, Fault::Recipient);
    }

    #[test]
    fn what_a_try_says_about_the_way() {
        let says = |verdict: Verdict| signal(&verdict, &after(&verdict, 0, at(0)));
        let wrong = Signal::Wrong;
        for (phase, code, text, expected) in [
            (Phase::RcptTo, 451, "4.7.1 try later, please", wrong(Wrong::Provider)),
            (Phase::RcptTo, 451, "4.7.1 Greylisted", Signal::Fine),
            (Phase::RcptTo, 452, "4.2.2 mailbox full", Signal::Fine),
            (Phase::RcptTo, 550, "5.1.1 no such user", Signal::Fine),
            (Phase::Dot, 554, "5.7.1 spam", wrong(Wrong::Copy)),
            (Phase::Dot, 452, "4.3.1 disk full on server", wrong(Wrong::Provider)),
            (Phase::MailFrom, 452, "4.3.1 disk full on server", wrong(Wrong::Relay)),
        ] {
            assert_eq!(says(refusal(phase, code, text)), expected, "{phase} {code} {text}");
        }
        assert_eq!(says(Verdict::Accepted(Reply::new(250, "ok"))), Signal::Fine);
        let error = || WireError::Closed;
        assert_eq!(says(Verdict::Uncertain { error: error() }), wrong(Wrong::Relay));
        let lost = Verdict::Failed { phase: Phase::MailFrom, error: error() };
        let idle = decide(&lost, 0, false, ProviderId::OTHER, &schedule(), at(0), 0.0);
        assert_eq!(signal(&lost, &idle), Signal::Nothing, "an idle connection was closed");
    }

    proptest! {
        /// Whatever is said, a try that might have arrived is never repeated by itself, and a copy
        /// that waits is due before its time is over.
        #[test]
        fn nothing_uncertain_or_accepted_is_tried_again(
            code in 200u16..600, text in ".{0,80}", attempts in 0i64..50, jitter in -1.0f64..1.0,
        ) {
            for verdict in [
                Verdict::Accepted(Reply::new(code, text.clone())),
                Verdict::Uncertain { error: WireError::Closed },
                refusal(Phase::Dot, code.max(400), &text),
            ] {
                let uncertain = !matches!(verdict, Verdict::Refused { .. });
                let decision =
                    decide(&verdict, attempts, true, ProviderId::OTHER, &schedule(), at(0), jitter);
                prop_assert_eq!(decision.state.is_final(), decision.due_at.is_none());
                if uncertain {
                    prop_assert!(decision.state.is_final());
                }
                if let Some(due_at) = decision.due_at {
                    prop_assert!(due_at < schedule().expires_at);
                }
            }
        }
    }
}
