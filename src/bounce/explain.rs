//! What a returned mail says and why it is read that way: a [`Report`] and its classes, put so that a
//! person or a program can follow the decision. Pure: bytes in, values out. Whose copy it was
//! is added by whoever has the keys ([`Explanation::delivery`]). What a provider posted is put the same way.

use std::fmt::Display;

use serde::Serialize;

use super::{
    classify::{Classification, Fault, Grounds, Permanence, Reason},
    intake::webhook::{self, HookEvent},
    report::{Action, Kind, Report, ReportedRecipient},
};
use crate::{provider::Providers, smtp::reply::EnhancedCode};

/// What was made of one mail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// `bounce`, `delayed`, `delivered`, `complaint`, `autoreply`, `challenge` or `other`.
    pub kind: &'static str,
    /// The same more closely, as the log and the pages name it.
    pub report: Kind,
    /// Whom it is about.
    pub recipients: Vec<String>,
    /// Whether it shows that the first of them is dead.
    pub hard: bool,
    /// Who is at fault: `recipient`, `mailbox`, `sender`, `message`, `transient` or `unknown`; for
    /// what is no failure its kind, or `none`.
    pub fault: &'static str,
    /// The class in the log's words, such as `reputation.permanent`.
    pub class: Option<String>,
    /// What is wrong, of the first recipient that failed.
    pub reason: Option<Reason>,
    /// The enhanced status code (RFC 3463) of that recipient.
    pub status: Option<String>,
    /// The reply code (RFC 5321) of that recipient.
    pub code: Option<u16>,
    /// What the report says was done.
    pub action: Option<Action>,
    /// The copy or reader that a valid token of ours names.
    pub delivery: Option<String>,
    /// The field, part or words that made the kind, and the rule that made the class.
    pub decided_by: String,
    /// The server that wrote the report.
    pub reporting_mta: Option<String>,
    /// The `Message-ID` of the mail that came back.
    pub message_id: Option<String>,
    /// Every recipient with its own class.
    pub each: Vec<ExplainedRecipient>,
}

/// One recipient of a report, with its class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExplainedRecipient {
    /// The address that the report names.
    pub address: String,
    /// The address that was asked for, where it differs.
    pub original: Option<String>,
    /// What happened.
    pub action: Option<Action>,
    /// The reply code.
    pub code: Option<u16>,
    /// The enhanced status code.
    #[serde(serialize_with = "as_text")]
    pub status: Option<EnhancedCode>,
    /// The SMTP command that was refused.
    pub phase: Option<String>,
    /// What the server said.
    pub said: String,
    /// Whose fault, whether it lasts, by which rule; none for a copy that arrived.
    pub class: Option<Classification>,
    /// Whether this shows that the address is dead.
    pub hard: bool,
}

/// Explains a report. Providers are found by the addresses that it names.
pub fn explain(report: &Report, providers: &Providers) -> Explanation {
    let class = |r: &ReportedRecipient| r.classify(providers.of_address(&r.address));
    explained(report, &report.basis, class)
}

/// Explains an event that `sender` posted, by the class that it is taken in with.
pub fn explain_event(
    sender: webhook::Provider,
    event: &HookEvent,
    providers: &Providers,
) -> Explanation {
    let class = |r: &ReportedRecipient| event.classify(providers.of_address(&r.address));
    explained(&event.report(), &format!("event `{}` of {sender}", event.what.as_str()), class)
}

fn explained(
    report: &Report,
    basis: &dyn Display,
    class: impl Fn(&ReportedRecipient) -> Classification,
) -> Explanation {
    let failure = matches!(report.kind, Kind::Failed | Kind::Delayed);
    let each: Vec<_> =
        report.recipients.iter().map(|r| recipient(report.kind, r, &class)).collect();
    let first = each.iter().find(|r| r.class.is_some()).or(each.first());
    let class = first.and_then(|r| r.class.as_ref());
    let rule = class.map(|class| format!("; rule {}", class.rule)).unwrap_or_default();
    Explanation {
        kind: kind_word(report.kind),
        report: report.kind,
        recipients: report.recipients.iter().map(|r| r.address.clone()).collect(),
        hard: report.kind == Kind::Failed && first.is_some_and(|r| r.hard),
        fault: match class {
            Some(class) => fault_word(class, first.and_then(|r| r.status)),
            None if failure => "unknown",
            None => match kind_word(report.kind) {
                word @ ("complaint" | "autoreply") => word,
                _ => "none",
            },
        },
        class: class.map(class_word),
        reason: class.map(|class| class.reason),
        status: first.and_then(|r| r.status).map(|status| status.to_string()),
        code: first.and_then(|r| r.code),
        action: first.and_then(|r| r.action),
        delivery: None,
        decided_by: format!("{basis}{rule}"),
        reporting_mta: report.reporting_mta.clone(),
        message_id: report.original.as_ref().and_then(|original| original.message_id.clone()),
        each,
    }
}

fn recipient(
    kind: Kind,
    from: &ReportedRecipient,
    class: impl Fn(&ReportedRecipient) -> Classification,
) -> ExplainedRecipient {
    let failed =
        matches!(kind, Kind::Failed | Kind::Delayed) && from.action != Some(Action::Delivered);
    let class = failed.then(|| class(from));
    ExplainedRecipient {
        address: from.address.clone(),
        original: from.original.clone().filter(|o| !o.eq_ignore_ascii_case(&from.address)),
        action: from.action,
        code: from.code,
        status: from.status,
        phase: from.phase.map(|phase| phase.to_string()),
        said: from.diagnostic.clone(),
        hard: kind == Kind::Failed && class.as_ref().is_some_and(Classification::is_hard),
        class,
    }
}

/// The coarse word for a kind: what readers and receivers ask of us comes as feedback, be it a
/// complaint, an opt-out or a report on authentication (RFC 5965, section 7.3).
const fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::Failed => "bounce",
        Kind::Delayed => "delayed",
        Kind::Delivered => "delivered",
        Kind::Complaint | Kind::AuthFailure | Kind::Unsubscribe => "complaint",
        Kind::AutoReply => "autoreply",
        Kind::Challenge => "challenge",
        Kind::NotAReport => "other",
    }
}

/// Who is at fault, coarsely. `recipient` needs proof: a server that merely speaks of an unknown user
/// may mean a filter, and what passes is nobody's fault. What concerns our standing or a rule about
/// senders is the sender's.
fn fault_word(class: &Classification, status: Option<EnhancedCode>) -> &'static str {
    let by_policy = status.is_some_and(|status| status.1 == 7);
    let passes = class.permanence == Permanence::Transient;
    let unproven = class.reason == Reason::NoSuchUser && class.grounds == Grounds::Wording;
    match class.fault {
        Fault::Recipient if class.reason == Reason::TakesNoMail => "mailbox",
        Fault::Recipient if passes => "transient",
        Fault::Recipient => {
            if unproven {
                "mailbox"
            } else {
                "recipient"
            }
        }
        Fault::Policy if class.reason == Reason::Filtered => "mailbox",
        Fault::Reputation | Fault::Policy | Fault::Authentication | Fault::Rate => "sender",
        Fault::Content if by_policy && is_form(class.reason) => "sender",
        Fault::Content => "message",
        Fault::Mailbox => "mailbox",
        Fault::Network => "transient",
        Fault::Unknown => "unknown",
    }
}

/// Whether a message is refused for its form rather than for what it says.
const fn is_form(reason: Reason) -> bool {
    matches!(reason, Reason::Forbidden | Reason::Malformed)
}

#[expect(
    clippy::ref_option,
    clippy::trivially_copy_pass_by_ref,
    reason = "serde wants a reference"
)]
fn as_text<S: serde::Serializer>(status: &Option<EnhancedCode>, to: S) -> Result<S::Ok, S::Error> {
    status.map(|status| status.to_string()).serialize(to)
}

fn class_word(class: &Classification) -> String {
    let lasts = match class.permanence {
        Permanence::Permanent => "permanent",
        Permanence::Transient => "transient",
    };
    let fault = serde_json::to_value(class.fault).unwrap_or_default();
    format!("{}.{lasts}", fault.as_str().unwrap_or_default())
}
