//! What the sink is told to do wrong in each cell, and what must become of it.

use std::time::Duration;

use postrider::{
    sink::faults::profile::{FaultStage, Ordinals, Rule, RuleShape},
    smtp::{client::Phase, server::Then},
};

use super::{
    cell::Mode,
    fault::{At, Expect, Fate, Fault, Offer, Script},
};

/// Long enough for a machine that is busy with other cells.
const SHORT: &str = "1s";

/// The cell of `at` and `fault`, or why there is none.
pub(super) fn script(at: At, fault: Fault, mode: Mode) -> Result<Script, &'static str> {
    if fault == Fault::TwoYzFor354 && at != At::Data {
        return Err("354 is the answer to DATA alone");
    }
    if fault == Fault::TwoFiftyOne && at != At::Rcpt {
        return Err("251 is an answer to RCPT alone");
    }
    match at {
        At::Connect | At::Tls => return before_words(at, fault),
        At::Body => return body(fault),
        At::Idle => return idle(fault),
        _ => {}
    }
    if fault == Fault::BeforeItsCommand {
        return before(at, mode);
    }
    let mut script = base(at, rule(at, fault));
    script.short = short(at, fault);
    (script.expect, script.fate) = outcome(at, fault, mode);
    if at == At::Rset {
        // RSET is said after a refusal only.
        let refusal = Rule {
            message: Some(Ordinals::nth(2)),
            reply: Some("450 4.2.1 Not now".into()),
            ..Rule::at(FaultStage::Rcpt)
        };
        script.rules.push(refusal);
    }
    Ok(script)
}

fn base(at: At, rule: Rule) -> Script {
    Script {
        rules: vec![rule],
        expect: Expect::Accepted,
        fate: Fate::Any,
        offer: match at {
            At::Tls => Offer::Implicit,
            At::StartTls => Offer::StartTls,
            At::Auth => Offer::Login,
            _ => Offer::Plain,
        },
        short: None,
        // RSET comes before the copy behind a refused one.
        hit: if at == At::Rset { 2 } else { 1 },
        messages: if at == At::Quit { 1 } else { 1000 },
        in_front: None,
    }
}

/// Where a rule strikes: the second message, or else the first time.
fn place(at: At) -> Rule {
    let rule = Rule::at(at.stage());
    match at {
        At::Mail | At::Rcpt | At::Data | At::Body | At::Dot => {
            Rule { message: Some(Ordinals::nth(2)), ..rule }
        }
        _ => Rule { times: Some(1), ..rule },
    }
}

fn rule(at: At, fault: Fault) -> Rule {
    let rule = place(at);
    let says = |reply: &str| Rule { reply: Some(reply.to_owned()), ..rule.clone() };
    let shaped = |shape| Rule { shape, ..rule.clone() };
    match fault {
        // A server that refuses in the middle of the data and yet takes the message at its end says
        // two things about one message; no client can know which of them it will stand by.
        Fault::FourYz | Fault::FiveYz if at == At::Body => {
            let reply = if fault == Fault::FourYz { "451 4.3.0 Later" } else { "550 5.7.1 No" };
            Rule { then: Then::Close, ..says(reply) }
        }
        Fault::FourYz if at == At::Auth => says("454 4.7.0 Later"),
        Fault::FourYz => says("451 4.3.0 Later"),
        Fault::FiveYz if at == At::Auth => says("535 5.7.8 No"),
        Fault::FiveYz => says("550 5.1.1 No such user"),
        Fault::FourTwentyOne => Rule { then: Then::Close, ..says("421 4.3.2 Going down") },
        Fault::Fin => Rule { cut: Some(0), then: Then::Close, ..rule },
        Fault::Rst => Rule { cut: Some(0), then: Then::Reset, ..rule },
        Fault::Silence => Rule { cut: Some(0), then: Then::Stall, ..rule },
        Fault::ByteByByte => Rule { trickle: Duration::from_millis(300), ..rule },
        Fault::NoEnhancedCode if at == At::Auth => says("535 No"),
        Fault::NoEnhancedCode => says("550 No such user"),
        Fault::DisagreeingCodes if at == At::Auth => says("535 4.7.8 No"),
        Fault::DisagreeingCodes => says("550 4.2.2 No such user"),
        Fault::ManyLines => Rule { lines: Some(60), ..rule },
        Fault::ThousandLines => Rule { lines: Some(1000), ..rule },
        Fault::MegabyteLine => Rule { line_bytes: Some(1 << 20), ..rule },
        Fault::BareLf => shaped(RuleShape::BareLf),
        Fault::Nul => shaped(RuleShape::Nul),
        Fault::InvalidUtf8 => shaped(RuleShape::InvalidUtf8),
        Fault::Truncated => Rule { cut: Some(2), then: Then::Close, ..rule },
        Fault::ExtraReply => Rule { extra: Some("250 2.0.0 Surprise\\r\\n".into()), ..rule },
        Fault::TwoYzFor354 => says("250 2.0.0 Fine"),
        Fault::TwoFiftyOne => says("251 2.1.5 Will forward"),
        Fault::BeforeItsCommand => unreachable!("it is a rule of the step before"),
    }
}

/// The deadline to shorten where no reply comes.
fn short(at: At, fault: Fault) -> Option<(&'static str, &'static str)> {
    if !matches!(fault, Fault::Silence | Fault::ByteByByte) {
        return None;
    }
    Some(match at {
        At::Greeting | At::Ehlo | At::StartTls | At::Auth => ("greeting", "3s"),
        At::Data => ("data", SHORT),
        At::Dot => ("dot", SHORT),
        At::Quit => return None,
        _ => ("envelope", SHORT),
    })
}

fn outcome(at: At, fault: Fault, mode: Mode) -> (Expect, Fate) {
    let phase = at.phase();
    let no_reply = match at {
        At::Dot => Expect::Uncertain,
        // Between two messages, a server may leave when it likes.
        At::Mail | At::Rset => Expect::Untried,
        _ => Expect::Lost(phase),
    };
    match at {
        // We are leaving, whatever it says.
        At::Quit => return (Expect::Accepted, Fate::Closed),
        _ if at.is_opening() => return (opening(at, fault), Fate::Any),
        // A server that cannot clear its state is left; that is not the next reader's fault.
        At::Rset => {
            return match fault {
                Fault::BareLf | Fault::InvalidUtf8 | Fault::ManyLines => {
                    (Expect::Accepted, Fate::Kept)
                }
                Fault::ExtraReply => (Expect::OutOfStep, Fate::Closed),
                _ => (Expect::Untried, Fate::Closed),
            };
        }
        _ => {}
    }
    match fault {
        Fault::FourYz => (Expect::Deferred(phase, 451), Fate::Kept),
        Fault::FiveYz | Fault::NoEnhancedCode | Fault::DisagreeingCodes => {
            (Expect::Rejected(phase, 550), Fate::Kept)
        }
        // The end of a session that had carried a message, as servers like.
        Fault::FourTwentyOne if at == At::Mail => (Expect::Untried, Fate::Closed),
        Fault::FourTwentyOne => (Expect::Deferred(phase, 421), Fate::Closed),
        Fault::BareLf | Fault::InvalidUtf8 | Fault::ManyLines | Fault::TwoFiftyOne => {
            (Expect::Accepted, Fate::Kept)
        }
        // The dot had its reply; the surprise behind it costs the connection.
        Fault::ExtraReply if at == At::Dot => (Expect::Accepted, Fate::Closed),
        Fault::ExtraReply => (Expect::OutOfStep, Fate::Closed),
        Fault::TwoYzFor354 if mode == Mode::Stepwise => (no_reply, Fate::Closed),
        _ => (no_reply, Fate::Closed),
    }
}

/// What a fault before the first message comes to.
fn opening(at: At, fault: Fault) -> Expect {
    match (at, fault) {
        (_, Fault::BareLf | Fault::InvalidUtf8 | Fault::ManyLines) => Expect::Accepted,
        (At::Auth, Fault::FiveYz | Fault::NoEnhancedCode | Fault::DisagreeingCodes) => {
            Expect::LoginRefused
        }
        // A server that knows no EHLO is asked by HELO.
        (At::Ehlo, Fault::FiveYz | Fault::NoEnhancedCode | Fault::DisagreeingCodes) => {
            Expect::Accepted
        }
        _ => Expect::NoSession(at.phase()),
    }
}

/// A reply that comes before its command: behind the one to the command before.
fn before(at: At, mode: Mode) -> Result<Script, &'static str> {
    let (place_at, reply, expect) = match at {
        At::Greeting => return Err("nothing comes before the greeting"),
        At::Ehlo => (At::Greeting, "250 sink", Expect::NoSession(Phase::Greeting)),
        At::StartTls => (At::Ehlo, "220 2.0.0 Go", Expect::NoSession(Phase::Ehlo)),
        At::Auth => (At::Ehlo, "235 2.7.0 Welcome", Expect::NoSession(Phase::Ehlo)),
        At::Mail => (At::Dot, "250 2.1.0 Sender", Expect::OutOfStep),
        At::Rcpt => (At::Mail, "250 2.1.5 Recipient", Expect::OutOfStep),
        At::Data => (At::Rcpt, "354 Go", Expect::OutOfStep),
        At::Dot => (At::Data, "250 2.0.0 Taken", Expect::OutOfStep),
        At::Quit => (At::Dot, "221 2.0.0 Bye", Expect::OutOfStep),
        At::Rset => (At::Rcpt, "250 2.0.0 Cleared", Expect::OutOfStep),
        At::Connect | At::Tls | At::Body | At::Idle => unreachable!("told elsewhere"),
    };
    let extra = Some(format!("{reply}\\r\\n"));
    let mut rule = Rule { extra, ..place(place_at) };
    let mut script = base(at, rule.clone());
    match at {
        // Said at the end of the first message, it comes before the second.
        At::Mail => rule.message = Some(Ordinals::nth(1)),
        At::Rset => rule.reply = Some("450 4.2.1 Not now".into()),
        At::Quit => script.messages = 1000,
        _ => {}
    }
    script.rules = vec![rule];
    script.expect = match (at, mode) {
        // The refusal itself is in order, and so is the acceptance: what follows them is not.
        (At::Rset | At::Quit, _) => Expect::OutOfStep,
        _ => expect,
    };
    Ok(script)
}

/// Faults before the server can say anything.
fn before_words(at: At, fault: Fault) -> Result<Script, &'static str> {
    let mut script = base(at, Rule { cut: Some(0), ..rule(at, Fault::Fin) });
    let phase = if at == At::Tls { Phase::Tls } else { Phase::Greeting };
    script.expect = Expect::NoSession(phase);
    match fault {
        Fault::Fin | Fault::Rst | Fault::Silence => {}
        Fault::ByteByByte if at == At::Tls => {}
        _ if at == At::Tls => return Err("a TLS handshake has no SMTP replies"),
        _ => return Err("at a connection's begin nothing is said but the greeting"),
    }
    if fault == Fault::Silence || fault == Fault::ByteByByte {
        script.short = Some(("greeting", "3s"));
    }
    if at == At::Tls {
        script.rules.clear();
        script.in_front = Some(fault);
    } else {
        script.rules = vec![rule(at, fault)];
    }
    Ok(script)
}

/// In the data a server says nothing; if it does, it is a refusal or the end.
fn body(fault: Fault) -> Result<Script, &'static str> {
    let mut script =
        base(At::Body, Rule { after_bytes: 200, ..rule(At::Body, fault_in_body(fault)?) });
    let code = match fault {
        Fault::FourYz => Some(451),
        Fault::FiveYz => Some(550),
        Fault::FourTwentyOne => Some(421),
        _ => None,
    };
    script.expect = Expect::LostInTheBody(code);
    if fault == Fault::Silence {
        script.short = Some(("dot", SHORT));
    }
    script.fate = Fate::Closed;
    Ok(script)
}

fn fault_in_body(fault: Fault) -> Result<Fault, &'static str> {
    match fault {
        Fault::FourYz
        | Fault::FiveYz
        | Fault::FourTwentyOne
        | Fault::Fin
        | Fault::Rst
        | Fault::Silence => Ok(fault),
        _ => Err("a reply in the middle of the data is wrong whatever its form"),
    }
}

/// Between messages a server says nothing; if it does, the connection is not used again.
fn idle(fault: Fault) -> Result<Script, &'static str> {
    let spoken = match fault {
        Fault::Silence => return Err("between messages there is nothing but silence"),
        Fault::ExtraReply | Fault::BeforeItsCommand => {
            let reply = Some("250 2.1.0 Surprise".into());
            Rule { reply, ..place(At::Idle) }
        }
        Fault::Fin | Fault::Rst | Fault::FourYz | Fault::FiveYz | Fault::FourTwentyOne => {
            rule(At::Idle, fault)
        }
        Fault::Truncated => {
            let reply = Some("421 4.3.2 Bye".into());
            Rule { reply, cut: Some(2), then: Then::Close, ..place(At::Idle) }
        }
        _ => return Err("a reply to nothing is wrong whatever its form"),
    };
    let after_idle = Duration::from_millis(20);
    let mut script = base(At::Idle, Rule { after_idle, ..spoken });
    script.expect = Expect::Untried;
    Ok(script)
}

/// The ways to lose the truth about a message, or nearly, each by its name. Times are a hundredth of
/// the real ones: a dot's reply may take 600 s, here 6 s. A second lies between a deadline and a reply
/// that comes too late, so that nobody need be exact.
pub(super) fn dot_cases() -> Vec<(&'static str, Script)> {
    let taken = || Rule { accepted: Some(true), ..place(At::Dot) };
    let case = |rule: Rule, expect, fate| Script { expect, fate, ..base(At::Dot, rule) };
    let short = Some(("dot", "6s"));
    let close = |cut| Rule { cut: Some(cut), then: Then::Close, ..taken() };
    let late = |ms| Rule { delay: Duration::from_millis(ms), ..taken() };
    let (uncertain, accepted) = (Expect::Uncertain, Expect::Accepted);
    vec![
        ("taken, closed without a reply", case(close(0), uncertain, Fate::Closed)),
        ("taken, `25`, closed", case(close(2), uncertain, Fate::Closed)),
        (
            "taken, reset without a reply",
            case(Rule { then: Then::Reset, ..close(0) }, uncertain, Fate::Closed),
        ),
        ("250, then reset", case(Rule { then: Then::Reset, ..taken() }, accepted, Fate::Closed)),
        ("250, then closed", case(Rule { then: Then::Close, ..taken() }, accepted, Fate::Closed)),
        ("the reply after 59 s", Script { short, ..case(late(590), accepted, Fate::Kept) }),
        ("the reply after 700 s", Script { short, ..case(late(7_000), uncertain, Fate::Closed) }),
        (
            "closed after the body, not taken",
            case(
                Rule { cut: Some(0), then: Then::Close, ..place(At::Dot) },
                uncertain,
                Fate::Closed,
            ),
        ),
    ]
}
