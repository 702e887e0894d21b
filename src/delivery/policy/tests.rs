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
    assert_eq!((decision.state, decision.event), (CopyState::Expired, Some(EventKind::Expired)));
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
