//! Recipients whose names say what the sink should do with them, so that a demonstration needs no
//! fault profile. Only the local part counts; what follows a `+` or `_` is free, for
//! distinguishing readers (`reject-550_ada@example.org`).
//!
//! | local part | what happens |
//! | --- | --- |
//! | `reject-550`, `reject-550-5.1.1` | `RCPT` is refused with that code |
//! | `defer`, `defer-2x` | `RCPT` is deferred with 451 once, or so many times, then accepted |
//! | `dot-554`, `dot-451-4.3.0` | the message is refused with that code after the dot |
//! | `slow-5s` | the reply after the dot takes that long (ten minutes at most) |
//! | `lost` | the message is accepted and the connection closed without a reply |
//! | `drop` | the connection is closed at the dot, the message not accepted |
//! | `reset` | the connection is reset at the dot, the message not accepted |
//! | `stall` | nothing is answered after the dot |
//! | `bounce`, `bounce-4.2.2` | accepted, and a bounce with that status comes back |
//! | `complain` | accepted, and a complaint comes back |

use std::{sync::Arc, time::Duration};

use crate::smtp::server::{Answer, Misbehaviour, Reply, Then, is_enhanced_code};

use super::{
    FaultStage, Strike,
    profile::{Return, ReturnKind},
};

/// The longest `slow-…`.
const SLOW_MAX: Duration = Duration::from_mins(10);

/// What a magic recipient asks for: where it strikes, how often, and how.
pub(in crate::sink) struct Magic {
    pub(in crate::sink) stage: FaultStage,
    /// Only the first so many times.
    pub(in crate::sink) times: Option<u32>,
    pub(in crate::sink) strike: Strike,
}

/// What `address` asks for, if its local part is magic.
pub(in crate::sink) fn read(address: &str) -> Option<Magic> {
    let local = address.split('@').next()?;
    let local = local.split(['+', '_']).next()?.to_ascii_lowercase();
    let (word, argument) = local.split_once('-').unwrap_or((&local, ""));
    let magic = |stage, misbehaviour| {
        Some(Magic { stage, times: None, strike: strike(misbehaviour, None) })
    };
    let returned = |kind, status: &str| {
        let returned = Return {
            kind,
            after: Duration::from_secs(1),
            status: status.to_owned(),
            diagnostic: format!("550 {status} The recipient's name asked for this"),
        };
        let strike = strike(Misbehaviour::default(), Some(returned));
        Some(Magic { stage: FaultStage::Dot, times: None, strike })
    };
    let end = |then| Misbehaviour { cut: Some(0), then, ..Misbehaviour::default() };
    match (word, argument) {
        ("reject", code) => magic(FaultStage::Rcpt, answer(refusal(code)?)),
        ("dot", code) => magic(FaultStage::Dot, answer(refusal(code)?)),
        ("defer", argument) => {
            let times = match argument {
                "" => 1,
                _ => argument.strip_suffix('x')?.parse().ok()?,
            };
            let later = Reply::new(451, "4.3.2", "The recipient's name asks for a delay");
            Some(Magic { times: Some(times), ..magic(FaultStage::Rcpt, answer(later))? })
        }
        ("slow", duration) => {
            let delay: jiff::SignedDuration = duration.parse().ok()?;
            let delay = Duration::try_from(delay).ok()?.min(SLOW_MAX);
            magic(FaultStage::Dot, Misbehaviour { delay, ..Misbehaviour::default() })
        }
        ("lost", "") => {
            magic(FaultStage::Dot, Misbehaviour { success: Some(true), ..end(Then::Close) })
        }
        ("drop", "") => magic(FaultStage::Dot, end(Then::Close)),
        ("reset", "") => magic(FaultStage::Dot, end(Then::Reset)),
        ("stall", "") => magic(FaultStage::Dot, end(Then::Stall)),
        ("bounce", "") => returned(ReturnKind::Bounce, "5.1.1"),
        ("bounce", status) if is_enhanced_code(status) => returned(ReturnKind::Bounce, status),
        ("complain", "") => returned(ReturnKind::Complaint, ""),
        _ => None,
    }
}

fn strike(misbehaviour: Misbehaviour, returned: Option<Return>) -> Strike {
    Strike {
        misbehaviour: Arc::new(misbehaviour),
        after_bytes: 0,
        after_idle: Duration::ZERO,
        returned,
    }
}

fn answer(reply: Reply) -> Misbehaviour {
    Misbehaviour { answer: Answer::Reply(reply), ..Misbehaviour::default() }
}

/// Reads `550` or `550-5.1.1`.
fn refusal(argument: &str) -> Option<Reply> {
    let (code, enhanced) = argument.split_once('-').unwrap_or((argument, ""));
    let enhanced = match (enhanced, code.as_bytes().first()?) {
        ("", class) => format!("{}.0.0", *class as char),
        (enhanced, _) if is_enhanced_code(enhanced) => enhanced.to_owned(),
        _ => return None,
    };
    let reply: Reply =
        format!("{code} {enhanced} The recipient's name asks for this").parse().ok()?;
    (!reply.is_positive()).then_some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_happens() {
        let reply = |address| match read(address).unwrap().strike.misbehaviour.answer.clone() {
            Answer::Reply(reply) => reply.to_string(),
            answer => panic!("{answer:?}"),
        };
        assert!(reply("reject-550@example.org").starts_with("550 5.0.0 "));
        assert!(reply("Reject-452-4.2.2_ada@example.org").starts_with("452 4.2.2 "));
        assert!(reply("dot-554@example.org").starts_with("554 5.0.0 "));
        assert_eq!(read("defer@x.example").unwrap().times, Some(1));
        assert_eq!(read("defer-3x+bob@x.example").unwrap().times, Some(3));
        let slow = read("slow-5s@x.example").unwrap();
        assert_eq!(slow.strike.misbehaviour.delay, Duration::from_secs(5));
        assert!(read("lost@x.example").unwrap().strike.misbehaviour.success());
        assert!(!read("drop@x.example").unwrap().strike.misbehaviour.success());
        let bounce = read("bounce-4.2.2@x.example").unwrap().strike.returned.unwrap();
        assert_eq!(bounce.status, "4.2.2");
    }

    #[test]
    fn ordinary_names_are_not_magic() {
        for address in [
            "ada@example.org",
            "reject@x",
            "reject-250@x",
            "reject-999@x",
            "defer-x@x",
            "slow-@x",
            "bounces@x",
            "bounce-desk@x",
            "drop-off@x",
            "lost-and-found@x",
            "reset@",
            "",
        ] {
            assert!(address == "reset@" || read(address).is_none(), "{address}");
        }
    }
}
