//! Mails that a program sent because ours arrived: vacation notices, read receipts, requests to
//! prove oneself human; and the mails that a mail client sends to the unsubscribe address.

use super::{Kind, Report, mime::Tree};
use crate::smtp::verp::{self, TokenMailbox};

/// A mail to `u+TOKEN@`, whatever it says: mail clients send it when the reader presses
/// "unsubscribe" (RFC 2369, section 3.2), often marked as automatic. Some say so without it.
pub(super) fn unsubscribe(tree: &Tree<'_>, report: &mut Report) -> bool {
    let to_us = report
        .envelope_recipient
        .as_deref()
        .and_then(verp::find)
        .is_some_and(|(mailbox, _)| mailbox == TokenMailbox::Unsubscribe);
    let subject = report.subject.trim();
    let by_client = subject.eq_ignore_ascii_case("unsubscribe")
        && tree.fields.get("Auto-Submitted").is_some_and(|v| !v.trim().eq_ignore_ascii_case("no"));
    if to_us || by_client {
        report.kind = Kind::Unsubscribe;
    }
    to_us || by_client
}

/// Header fields that responders set, without regard to their value.
const RESPONDER_FIELDS: [&str; 9] = [
    "X-Autoreply",
    "X-Autorespond",
    "X-Auto-Reply-From",
    "X-Autoresponse",
    "X-Mail-Autoreply",
    "Autoreply",
    "X-Vacation",
    "X-Apple-Action",
    "X-AutoReply-From",
];

/// Header fields of challenge-response filters.
const CHALLENGER_FIELDS: [&str; 5] =
    ["X-Boxbe-Challenge", "X-Spamarrest-Challenge", "X-TMDA-Confirm", "X-QConfirm", "X-BoxTrapper"];

/// How mail clients begin the subject of a vacation notice. Lower case.
const ABSENT_SUBJECTS: [&str; 22] = [
    "automatic reply",
    "auto reply",
    "auto-reply",
    "autoreply",
    "auto:",
    "autosvar",
    "out of office",
    "out of the office",
    "automatische antwort",
    "abwesenheit",
    "abwesend",
    "automatisch antwoord",
    "réponse automatique",
    "absence du bureau",
    "respuesta automática",
    "fuera de la oficina",
    "risposta automatica",
    "fuori sede",
    "resposta automática",
    "automaattinen vastaus",
    "自動返信",
    "自动回复",
];

/// Phrases in the subject of a challenge. Lower case.
const CHALLENGE_SUBJECTS: [&str; 8] = [
    "please confirm your message",
    "confirm your email to",
    "verify your email to",
    "requires verification of your message",
    "[spam challenge]",
    "(verification required)",
    "sender verification",
    "confirm that you sent",
];

/// Reads the mail as an automatic reply or challenge; false when it is neither.
pub(super) fn reply(tree: &Tree<'_>, report: &mut Report) -> bool {
    let fields = &tree.fields;
    let subject = report.subject.trim().to_lowercase();
    let subject = subject.strip_prefix("re:").map_or(subject.as_str(), str::trim);
    let challenged = CHALLENGER_FIELDS.iter().any(|name| fields.get(name).is_some())
        || CHALLENGE_SUBJECTS.iter().any(|words| subject.contains(words));
    // RFC 3834, section 5: anything but `no` means that no person wrote this.
    let submitted = fields
        .get("Auto-Submitted")
        .is_some_and(|v| v.trim_start().to_ascii_lowercase().starts_with("auto-"));
    let precedence = fields
        .get("Precedence")
        .or_else(|| fields.get("X-Precedence"))
        .is_some_and(|v| v.trim().to_ascii_lowercase().replace('-', "_").starts_with("auto_reply"));
    let receipt = tree.part("message/disposition-notification").is_some();
    let automatic = submitted
        || precedence
        || receipt
        || RESPONDER_FIELDS.iter().any(|name| fields.get(name).is_some())
        || ABSENT_SUBJECTS.iter().any(|words| subject.starts_with(words));
    if challenged {
        report.kind = Kind::Challenge;
    } else if automatic {
        report.kind = Kind::AutoReply;
    }
    challenged || automatic
}
