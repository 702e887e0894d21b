//! What a classified failure does: to the reader's address, to the issue, to the sending. Pure
//! decisions over values that the caller loads; the caller applies them to rows.
//!
//! The rules, each a line of a table test below: only the recipient's fault suppresses at once,
//! and only when a valid token or our own RCPT TO says that it is about one of our copies; mere
//! wording needs a second issue; soft failures suppress after three issues in a row over more
//! than 14 days; a complaint suppresses at once; and when a provider suddenly calls many readers
//! dead, it is the provider that is broken, and suppressions wait for an operator.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    classify::{Classification, Fault, Permanence},
    report::Kind,
};
use crate::{id::IssueId, timestamp::Timestamp};

/// Failed issues in a row before soft evidence suppresses.
pub const SOFT_ISSUES: u32 = 3;
/// How long the row must be: more than this between its first and last failure.
pub const SOFT_SPAN: Duration = Duration::from_hours(14 * 24);
/// Hard failures of one provider in one issue before the brake looks at their share.
pub const BRAKE_ADDRESSES: u64 = 20;

/// How a failure was tied to one of our copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Attribution {
    /// Our own SMTP client got the reply: no one can have made it up.
    OwnReply,
    /// The report came to a VERP address with a valid token.
    Verp,
    /// A valid token stood in the returned headers (`Message-ID`, `List-Unsubscribe`).
    ReturnedHeaders,
    /// A provider that proved itself named the address, to which its relay had taken a copy; the
    /// operator said that this is enough.
    Recipient,
    /// No valid token. Anyone can write such a mail.
    None,
}

/// The reader's failures so far, oldest facts first to be forgotten: everything before the last
/// accepted copy without a later bounce is left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// One entry per failed issue since the last success, in order of time, this one left out.
    pub failures: Vec<PastFailure>,
}

/// One issue that failed for a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PastFailure {
    /// Which issue: per issue at most one failure counts.
    pub issue: IssueId,
    /// When it failed first.
    pub at: Timestamp,
    /// Whether it counts half (an unknown reason).
    pub half: bool,
    /// Whether it said, in words alone, that the address is dead.
    pub worded_dead: bool,
}

/// How one provider's readers fared in one issue, this failure included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProviderTally {
    /// Copies of the issue whose fate is known.
    pub decided: u64,
    /// Addresses that failed for the recipient's fault, for good.
    pub failed_hard: u64,
}

impl ProviderTally {
    /// Whether so many readers of one provider died in one issue that the provider is the
    /// likelier patient: over `percent` of the copies and at least 20 addresses.
    pub fn brakes(self, percent: f64) -> bool {
        let decided = self.decided.max(self.failed_hard) as f64;
        self.failed_hard >= BRAKE_ADDRESSES && self.failed_hard as f64 * 100.0 > decided * percent
    }
}

/// Why an address is suppressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SuppressReason {
    /// The address does not exist.
    Dead,
    /// Three issues in a row failed over more than 14 days.
    SoftFailures,
    /// The reader complained.
    Complaint,
}

/// What follows from a failure or report. Every effect is also an event with its class and rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Suppress the reader's address.
    Suppress(SuppressReason),
    /// It would be suppressed, but the brake holds: list it for an operator.
    HoldSuppression(SuppressReason),
    /// Count one failed issue, or half of one; keep that it was worded as a dead address.
    CountSoft {
        /// Half weight: nobody knows why.
        half: bool,
        /// A second issue that says so suppresses.
        worded_dead: bool,
    },
    /// The message is at fault: flag the issue. The reader is untouched.
    FlagIssue,
    /// We are at fault in the receiver's eyes: feed the provider's breaker and gates, tell the
    /// operator. The reader is untouched.
    ThrottleOrHalt,
    /// Tell the operator, change nothing.
    NotifyOperator,
    /// Take the reader off this newsletter.
    Unsubscribe,
    /// Log it and do nothing.
    Nothing,
}

/// One failure, with what is needed to judge it.
#[derive(Debug, Clone)]
pub struct Failure<'a> {
    /// What the classifier said.
    pub class: &'a Classification,
    /// How it is tied to a copy.
    pub attribution: Attribution,
    /// The issue that failed; `None` for service mail, which counts towards nothing soft.
    pub issue: Option<IssueId>,
    /// When.
    pub at: Timestamp,
    /// What failed before.
    pub history: &'a History,
    /// How the provider's other readers fared in this issue.
    pub tally: ProviderTally,
    /// The share of a provider's copies above which suppressions are held, in percent.
    pub brake_percent: f64,
}

impl Fault {
    /// Whether such a failure can count against the reader at all.
    pub const fn concerns_reader(self) -> bool {
        matches!(self, Self::Recipient | Self::Mailbox | Self::Network | Self::Unknown)
    }
}

/// Decides what a failed copy does.
pub fn failed(failure: &Failure<'_>) -> Effect {
    if failure.attribution == Attribution::None {
        return Effect::Nothing;
    }
    let class = failure.class;
    match class.fault {
        Fault::Recipient if class.is_hard() => braked(failure, SuppressReason::Dead),
        Fault::Recipient => {
            let worded_dead = class.permanence == Permanence::Permanent;
            if worded_dead && earlier(failure).any(|past| past.worded_dead) {
                return braked(failure, SuppressReason::Dead);
            }
            soft(failure, false, worded_dead)
        }
        Fault::Mailbox | Fault::Network => soft(failure, false, false),
        Fault::Unknown => soft(failure, true, false),
        Fault::Content => Effect::FlagIssue,
        Fault::Reputation | Fault::Policy | Fault::Authentication | Fault::Rate => {
            Effect::ThrottleOrHalt
        }
    }
}

/// Decides what a returned mail that is not a failure does. [`Kind::Failed`] belongs to
/// [`failed`], recipient by recipient.
pub fn reported(kind: Kind, attribution: Attribution) -> Effect {
    match (kind, attribution) {
        // A stranger could unsubscribe or silence anyone.
        (Kind::Complaint | Kind::Unsubscribe, Attribution::None) | (Kind::AuthFailure, _) => {
            Effect::NotifyOperator
        }
        (Kind::Complaint, _) => Effect::Suppress(SuppressReason::Complaint),
        (Kind::Unsubscribe, _) => Effect::Unsubscribe,
        _ => Effect::Nothing,
    }
}

/// Suppresses, unless the brake holds.
fn braked(failure: &Failure<'_>, reason: SuppressReason) -> Effect {
    let brakes = failure.tally.brakes(failure.brake_percent);
    if brakes { Effect::HoldSuppression(reason) } else { Effect::Suppress(reason) }
}

/// Failures of other issues, each issue once.
fn earlier<'a>(failure: &'a Failure<'_>) -> impl Iterator<Item = &'a PastFailure> {
    failure.history.failures.iter().filter(|past| Some(past.issue) != failure.issue)
}

/// Counts a soft failure, or suppresses when it is the last one that was missing.
fn soft(failure: &Failure<'_>, half: bool, worded_dead: bool) -> Effect {
    let Some(issue) = failure.issue else { return Effect::Nothing };
    let mut weight = weight(half);
    let mut first = failure.at;
    let mut seen = vec![issue];
    for past in earlier(failure) {
        if seen.contains(&past.issue) {
            continue;
        }
        seen.push(past.issue);
        weight += self::weight(past.half);
        first = first.min(past.at);
    }
    if weight >= SOFT_ISSUES * 2 && failure.at.since(first) > SOFT_SPAN {
        return braked(failure, SuppressReason::SoftFailures);
    }
    Effect::CountSoft { half, worded_dead }
}

/// The weight of a failure in halves.
fn weight(half: bool) -> u32 {
    if half { 1 } else { 2 }
}

#[cfg(test)]
mod tests {
    use super::{
        super::classify::{Grounds, Reason},
        *,
    };

    const DAY: u64 = 86_400;

    fn class(fault: Fault, permanence: Permanence, grounds: Grounds) -> Classification {
        let (reason, rule, action) = (Reason::Unknown, "test", None);
        Classification { fault, permanence, reason, grounds, rule, action }
    }

    fn day(n: u64) -> Timestamp {
        Timestamp::from_microseconds(1_700_000_000_000_000).plus(Duration::from_secs(n * DAY))
    }

    fn past(issue: i64, at: u64) -> PastFailure {
        PastFailure { issue: IssueId(issue), at: day(at), half: false, worded_dead: false }
    }

    struct Case {
        class: Classification,
        attribution: Attribution,
        history: Vec<PastFailure>,
        issue: Option<i64>,
        at: u64,
        tally: ProviderTally,
    }

    fn dead() -> Case {
        Case {
            class: class(Fault::Recipient, Permanence::Permanent, Grounds::Stated),
            attribution: Attribution::Verp,
            history: Vec::new(),
            issue: Some(10),
            at: 20,
            tally: ProviderTally { decided: 1_000, failed_hard: 1 },
        }
    }

    fn of(fault: Fault) -> Case {
        Case { class: class(fault, Permanence::Permanent, Grounds::Stated), ..dead() }
    }

    fn check(name: &str, case: Case, expected: Effect) {
        let history = History { failures: case.history };
        let effect = failed(&Failure {
            class: &case.class,
            attribution: case.attribution,
            issue: case.issue.map(IssueId),
            at: day(case.at),
            history: &history,
            tally: case.tally,
            brake_percent: 5.0,
        });
        assert_eq!(effect, expected, "{name}");
    }

    const SOFT: Effect = Effect::CountSoft { half: false, worded_dead: false };
    const WORDED: Effect = Effect::CountSoft { half: false, worded_dead: true };
    const SUPPRESS: Effect = Effect::Suppress(SuppressReason::Dead);

    #[test]
    fn dead_addresses_are_suppressed_at_once_only_on_good_evidence() {
        check("valid token", dead(), SUPPRESS);
        check("own RCPT", Case { attribution: Attribution::OwnReply, ..dead() }, SUPPRESS);
        let headers = Attribution::ReturnedHeaders;
        check("token in headers", Case { attribution: headers, ..dead() }, SUPPRESS);
        let none = Attribution::None;
        check("no token", Case { attribution: none, ..dead() }, Effect::Nothing);
        check("service mail", Case { issue: None, ..dead() }, SUPPRESS);
        let transient = class(Fault::Recipient, Permanence::Transient, Grounds::Stated);
        check("450 no such user", Case { class: transient, ..dead() }, SOFT);
    }

    #[test]
    fn words_alone_need_a_second_issue() {
        let worded = || Case {
            class: class(Fault::Recipient, Permanence::Permanent, Grounds::Wording),
            ..dead()
        };
        let said = |issue| PastFailure { worded_dead: true, ..past(issue, 13) };
        check("first", worded(), WORDED);
        check("second issue", Case { history: vec![said(9)], ..worded() }, SUPPRESS);
        check("same issue again", Case { history: vec![said(10)], ..worded() }, WORDED);
        check("full before", Case { history: vec![past(9, 13)], ..worded() }, WORDED);
        let held = ProviderTally { decided: 100, failed_hard: 30 };
        check(
            "second issue, brake",
            Case { history: vec![said(9)], tally: held, ..worded() },
            Effect::HoldSuppression(SuppressReason::Dead),
        );
    }

    #[test]
    fn only_the_readers_own_faults_touch_the_reader() {
        check("mailbox", of(Fault::Mailbox), SOFT);
        check("network", of(Fault::Network), SOFT);
        check("unknown", of(Fault::Unknown), Effect::CountSoft { half: true, worded_dead: false });
        check("content", of(Fault::Content), Effect::FlagIssue);
        for fault in [Fault::Reputation, Fault::Policy, Fault::Authentication, Fault::Rate] {
            let long = vec![past(1, 0), past(2, 5), past(3, 10), past(4, 15)];
            check("sender's", Case { history: long, ..of(fault) }, Effect::ThrottleOrHalt);
        }
        check("soft service mail", Case { issue: None, ..of(Fault::Mailbox) }, Effect::Nothing);
    }

    #[test]
    fn three_failed_issues_over_more_than_fourteen_days_suppress() {
        let suppress = Effect::Suppress(SuppressReason::SoftFailures);
        let full = |history: Vec<PastFailure>, at| Case { history, at, ..of(Fault::Mailbox) };
        check("third, 15 days", full(vec![past(8, 5), past(9, 12)], 20), suppress);
        check("third, 14 days", full(vec![past(8, 6), past(9, 12)], 20), SOFT);
        check("second, 19 days", full(vec![past(8, 1)], 20), SOFT);
        check("one issue thrice", full(vec![past(8, 1), past(8, 2), past(10, 3)], 20), SOFT);
        let half = |issue, at| PastFailure { half: true, ..past(issue, at) };
        check("two halves", full(vec![half(8, 1), half(9, 12)], 20), SOFT);
        check(
            "4 halves",
            full(vec![half(6, 1), half(7, 2), half(8, 3), half(9, 12)], 20),
            suppress,
        );
        let held = ProviderTally { decided: 100, failed_hard: 30 };
        check(
            "brake",
            Case { tally: held, ..full(vec![past(8, 5), past(9, 12)], 20) },
            Effect::HoldSuppression(SuppressReason::SoftFailures),
        );
    }

    #[test]
    fn the_brake_needs_both_share_and_number() {
        let check = |decided, failed_hard, expected| {
            assert_eq!(
                ProviderTally { decided, failed_hard }.brakes(5.0),
                expected,
                "{failed_hard}/{decided}"
            );
        };
        check(100, 19, false);
        check(100, 20, true);
        check(400, 20, false); // exactly 5 %
        check(399, 20, true);
        check(0, 25, true); // fates not yet counted
        check(10_000, 501, true);
        check(10_000, 500, false);
    }

    #[test]
    fn reports_that_are_no_failures() {
        let check = |kind, attribution, expected| {
            assert_eq!(reported(kind, attribution), expected, "{kind:?} {attribution:?}");
        };
        let complaint = Effect::Suppress(SuppressReason::Complaint);
        check(Kind::Complaint, Attribution::Verp, complaint);
        check(Kind::Complaint, Attribution::ReturnedHeaders, complaint);
        check(Kind::Complaint, Attribution::None, Effect::NotifyOperator);
        check(Kind::Unsubscribe, Attribution::Verp, Effect::Unsubscribe);
        check(Kind::Unsubscribe, Attribution::None, Effect::NotifyOperator);
        check(Kind::AuthFailure, Attribution::Verp, Effect::NotifyOperator);
        for kind in
            [Kind::Delayed, Kind::Delivered, Kind::AutoReply, Kind::Challenge, Kind::NotAReport]
        {
            check(kind, Attribution::Verp, Effect::Nothing);
        }
    }
}
