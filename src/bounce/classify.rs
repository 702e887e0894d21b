//! One classifier for every refusal: our own SMTP client's replies and the diagnostics of
//! reports. It gives two properties: whose fault, and whether it lasts. Only the recipient's own
//! fault may ever suppress an address ([`policy`](super::policy)).
//!
//! "5.x.x means dead" is wrong more often than not: most permanent refusals speak of the sender,
//! the message or the mailbox's size. So words come before codes, words about the sender before
//! words about the reader, and the SMTP phase before both: what was refused before RCPT TO cannot
//! be the reader's fault, and what was refused after the reader had been accepted is not
//! "no such user", whatever it says.
//!
//! The rules are data (`rules.toml`, and before it `providers.toml` with what single providers say),
//! tried in order, the first that fits decides; each carries examples that a test runs. An operator
//! may put a file over them.

mod reply_text;
mod rules;

pub use rules::{Action, Deed, Rule, Rules, RulesError, Scope};

use serde::{Deserialize, Serialize};

use crate::{
    provider::ProviderId,
    smtp::{client::Phase, reply::EnhancedCode},
};
use reply_text::{normalised, quoted_reply};

/// The one rule whose word stands against a code of policy.
const NULL_MX_AT_SENDMAIL: &str = "null-mx-sendmail";

/// What is known of a refusal.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// The refused step; `None` when a report does not say.
    pub phase: Option<Phase>,
    /// The reply code.
    pub code: Option<u16>,
    /// The enhanced status code.
    pub enhanced: Option<EnhancedCode>,
    /// The reply's or report's words, possibly of several lines.
    pub text: &'a str,
    /// The reader's provider, for rules that only hold there.
    pub provider: ProviderId,
}

/// Whose fault a refusal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// The address does not exist. The only fault that suppresses at once.
    Recipient,
    /// The address exists and takes no mail now: full, disabled, filtered.
    Mailbox,
    /// The way there, or the receiving system: timeouts, routing, broken servers.
    Network,
    /// What the receiver thinks of our addresses and domains: block lists, complaints.
    Reputation,
    /// A rule of the receiver about senders.
    Policy,
    /// SPF, DKIM, DMARC, reverse DNS, or our login at a relay.
    Authentication,
    /// The message: spam, virus, size, form.
    Content,
    /// Too much, too fast.
    Rate,
    /// None of these can be told.
    Unknown,
}

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Permanence {
    /// The same copy to the same address will be refused again.
    Permanent,
    /// It may pass later.
    Transient,
}

/// On what the fault rests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Grounds {
    /// A code, the RCPT phase, or a server's own fixed statement.
    Stated,
    /// Words alone: a second issue must agree before an address is suppressed.
    Wording,
}

/// What is wrong, more closely than [`Fault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// No mailbox of that name.
    NoSuchUser,
    /// The domain does not exist.
    NoSuchDomain,
    /// The domain exists and takes no mail (RFC 7505), or has no server for it.
    TakesNoMail,
    /// The mailbox has moved without a forwarding address.
    Moved,
    /// Full, or over quota.
    MailboxFull,
    /// Disabled, suspended, frozen.
    MailboxDisabled,
    /// Refused for this mailbox after it had been accepted, or for reasons of its own.
    Filtered,
    /// This mailbox gets more mail than it is allowed to.
    MailboxBusy,
    /// Nobody could be reached for too long.
    Expired,
    /// No connection, or it broke.
    Unreachable,
    /// Routing or loop trouble.
    Routing,
    /// The receiving system failed by itself.
    SystemError,
    /// Postponed on purpose for unknown senders.
    Greylisted,
    /// On a block list, or of bad standing.
    BlockListed,
    /// A rule about senders, often unexplained.
    Policy,
    /// The sender's address or domain was refused.
    SenderRefused,
    /// The server does not relay for us.
    NoRelaying,
    /// SPF, DKIM or DMARC.
    NotAuthenticated,
    /// No or wrong reverse DNS, or a wrong EHLO name.
    ReverseDns,
    /// A login or encryption is required.
    LoginRequired,
    /// Considered spam.
    Spam,
    /// A virus, or something that was taken for one.
    Harmful,
    /// A kind of attachment that the receiver does not take.
    Forbidden,
    /// Too large.
    TooLarge,
    /// Not in the form that the receiver wants.
    Malformed,
    /// Too many messages, connections or recipients.
    TooFast,
    /// Nothing was recognised.
    Unknown,
}

/// What a refusal is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Classification {
    /// Whose fault.
    pub fault: Fault,
    /// Whether it lasts.
    pub permanence: Permanence,
    /// What is wrong.
    pub reason: Reason,
    /// On what the fault rests.
    pub grounds: Grounds,
    /// The stable name of the rule that decided, for logs, pages and reports.
    pub rule: &'static str,
    /// What follows beyond the copy itself, when a server says this to our own face.
    #[serde(skip)]
    pub action: Option<(&'static Action, Scope)>,
}

impl Classification {
    /// Whether this alone, from a trusted source, shows that the address is dead.
    pub fn is_hard(&self) -> bool {
        self.fault == Fault::Recipient
            && self.permanence == Permanence::Permanent
            && self.grounds == Grounds::Stated
    }
}

/// Classifies a refusal. Never fails: what nothing fits is [`Fault::Unknown`].
pub fn classify(evidence: &Evidence<'_>) -> Classification {
    let text = normalised(evidence.text);
    let rules = Rules::current();
    let quoted = quoted_reply(&text).and_then(|reply| rules.find(evidence, reply));
    let rule = quoted.or_else(|| rules.find(evidence, &text));
    let mut class = rule.map_or(
        Classification {
            fault: Fault::Unknown,
            permanence: Permanence::Permanent,
            reason: Reason::Unknown,
            grounds: Grounds::Wording,
            rule: "none",
            action: None,
        },
        |rule| Classification {
            fault: rule.fault,
            permanence: rule.permanence.unwrap_or(Permanence::Permanent),
            reason: rule.reason,
            grounds: grounds(rule, evidence),
            rule: &rule.name,
            action: rule.action.as_ref().map(|action| (action, rule.scope)),
        },
    );
    // Codes know best whether it lasts; a rule's own word stands where there is none, or where
    // it is the more careful one.
    class.permanence = match said(evidence) {
        Some(Permanence::Transient) => Permanence::Transient,
        Some(Permanence::Permanent) if rule.and_then(|r| r.permanence).is_none() => {
            Permanence::Permanent
        }
        _ => class.permanence,
    };
    guard(class, evidence)
}

/// What no rule may say, whatever a rules file holds.
fn guard(mut class: Classification, evidence: &Evidence<'_>) -> Classification {
    let readers = matches!(class.fault, Fault::Recipient | Fault::Mailbox);
    // x.7.x is security and policy (RFC 3463, section 3.8), whatever the words say; but for the code
    // under which Sendmail tells its own sender of a null MX.
    let by_policy = evidence.enhanced.is_some_and(|e| e.1 == 7);
    if class.fault == Fault::Recipient && by_policy && class.rule != NULL_MX_AT_SENDMAIL {
        class.fault = Fault::Policy;
        class.reason = Reason::Filtered;
        class.rule = "refused-by-policy";
    }
    match evidence.phase {
        // Nobody knows why, but it cannot count against a reader who had not been named yet.
        Some(phase) if class.fault == Fault::Unknown && before_recipient(phase) => {
            let lasts = class.permanence == Permanence::Permanent;
            class.fault = if lasts { Fault::Policy } else { Fault::Network };
            class.reason = if lasts { Reason::SenderRefused } else { Reason::SystemError };
            class.rule = "unexplained-before-recipient";
        }
        // The reader had not been named yet.
        Some(phase) if readers && before_recipient(phase) => {
            class.fault = Fault::Policy;
            class.reason = Reason::SenderRefused;
            class.rule = "refused-before-recipient";
        }
        // The reader had been accepted: a filter speaks, unless it names the address in code.
        Some(Phase::Data | Phase::Body | Phase::Dot)
            if class.fault == Fault::Recipient
                && !(class.reason == Reason::NoSuchUser && class.grounds == Grounds::Stated) =>
        {
            class.fault = Fault::Mailbox;
            class.reason = Reason::Filtered;
            class.rule = "refused-after-recipient";
        }
        _ => {}
    }
    class
}

/// Whether the step has nothing to do with a recipient: everything before RCPT TO, and what
/// stands between two messages.
fn before_recipient(phase: Phase) -> bool {
    !matches!(phase, Phase::RcptTo | Phase::Data | Phase::Body | Phase::Dot)
}

/// Whether the reply's words and codes alone say that it lasts.
fn said(evidence: &Evidence<'_>) -> Option<Permanence> {
    let classes = [evidence.code.map(|c| c / 100), evidence.enhanced.map(|e| u16::from(e.0))];
    if classes.contains(&Some(4)) {
        Some(Permanence::Transient)
    } else {
        classes.contains(&Some(5)).then_some(Permanence::Permanent)
    }
}

fn grounds(rule: &rules::Rule, evidence: &Evidence<'_>) -> Grounds {
    // Whose domain a server means by "unknown domain" stays open even at RCPT TO: some check the
    // sender only there.
    let refused_at_rcpt = evidence.phase == Some(Phase::RcptTo)
        && evidence.code.is_some_and(|c| c >= 500)
        && rule.reason != Reason::NoSuchDomain;
    if rule.stated || refused_at_rcpt || names_the_address(evidence) {
        Grounds::Stated
    } else {
        Grounds::Wording
    }
}

/// An address status code that speaks of the destination (RFC 3463, section 3.2).
fn names_the_address(evidence: &Evidence<'_>) -> bool {
    matches!(evidence.enhanced, Some(EnhancedCode(5, 1, detail)) if !matches!(detail, 0 | 7 | 8 | 9))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn class(phase: Option<Phase>, code: u16, text: &str) -> Classification {
        classify(&Evidence {
            phase,
            code: Some(code),
            enhanced: None,
            text,
            provider: ProviderId::OTHER,
        })
    }

    #[test]
    fn the_phase_decides_who_is_meant() {
        let at = |phase| class(Some(phase), 550, "No such user here").fault;
        assert_eq!(at(Phase::RcptTo), Fault::Recipient);
        assert_eq!(at(Phase::MailFrom), Fault::Policy);
        assert_eq!(at(Phase::Connect), Fault::Policy);
        assert_eq!(at(Phase::Dot), Fault::Mailbox);
        let hard = |phase| class(phase, 550, "No such user here").is_hard();
        assert!(hard(Some(Phase::RcptTo)));
        assert!(!hard(None), "words alone need a second issue");
    }

    #[test]
    fn a_readers_name_chooses_no_rule() {
        let class = class(Some(Phase::RcptTo), 550, "<mailbox.full.spam@user-unknown.example>: go");
        assert_eq!(class.fault, Fault::Unknown);
    }

    #[test]
    fn normalising_joins_lines_and_hides_addresses() {
        assert_eq!(
            normalised("550-5.1.1 The  BOX\r\n550 5.1.1 <a@b.example>: is gone"),
            "the box 550 5.1.1 <>: is gone"
        );
    }

    fn any_phase() -> impl Strategy<Value = Option<Phase>> {
        use Phase as P;
        proptest::option::of(proptest::sample::select(vec![
            P::Connect,
            P::Tls,
            P::Greeting,
            P::Ehlo,
            P::StartTls,
            P::Auth,
            P::Idle,
            P::Rset,
            P::MailFrom,
            P::RcptTo,
            P::Data,
            P::Body,
            P::Dot,
        ]))
    }

    proptest! {
        #[test]
        fn never_the_readers_fault_before_rcpt_and_never_hard_on_class_4(
            phase in any_phase(),
            code in proptest::option::of(400u16..600),
            enhanced in proptest::option::of((4u8..6, 0u16..10, 0u16..40)
                .prop_map(|(class, subject, detail)| EnhancedCode(class, subject, detail))),
            text in ".{0,40}(user unknown|mailbox full|spam|host unknown|)?.{0,40}",
        ) {
            let class = classify(&Evidence {
                phase, code, enhanced, text: &text, provider: ProviderId::OTHER,
            });
            if phase.is_some_and(|p| p < Phase::RcptTo) {
                let readers = [Fault::Recipient, Fault::Mailbox, Fault::Unknown];
                prop_assert!(!readers.contains(&class.fault), "{}", class.rule);
            }
            if code.is_some_and(|c| c < 500) || enhanced.is_some_and(|e| e.0 == 4) {
                prop_assert_eq!(class.permanence, Permanence::Transient);
                prop_assert!(!class.is_hard());
            }
            if enhanced.is_some_and(|e| e.1 == 7) {
                prop_assert!(!class.is_hard(), "5.7.x never suppresses: {}", class.rule);
            }
        }
    }
}
