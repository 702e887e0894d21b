//! Mails that a program sent because ours arrived: vacation notices, read receipts, requests to
//! prove oneself human; and the mails that a mail client sends to the unsubscribe address.

use super::{Basis, Kind, Report, mime::Tree};
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
        report.basis = if to_us { Basis::Mailbox } else { Basis::Subject("unsubscribe") };
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
const ABSENT_SUBJECTS: [&str; 38] = [
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
    "自動回覆",
    "自動応答",
    "不在通知",
    "자동 회신",
    "부재중",
    "автоответ",
    "автоматический ответ",
    "autoodpowied",
    "automatická odpověď",
    "automatisk svar",
    "automatiskt svar",
    "otomatik yanıt",
    "automatikus válasz",
    "absence:",
    "absent du bureau",
    "[auto-reply]",
];

/// Phrases in the subject of a challenge. Lower case.
const CHALLENGE_SUBJECTS: [&str; 11] = [
    "please confirm your message",
    "confirm your email to",
    "verify your email to",
    "requires verification of your message",
    "[spam challenge]",
    "(verification required)",
    "sender verification",
    "confirm that you sent",
    "email requires verification",
    "verify#",
    "your mail is waiting for confirmation",
];

/// Reads the mail as an automatic reply or challenge; false when it is neither.
pub(super) fn reply(tree: &Tree<'_>, report: &mut Report) -> bool {
    let subject = report.subject.trim().to_lowercase();
    let subject = subject.strip_prefix("re:").map_or(subject.as_str(), str::trim);
    let (kind, basis) = if let Some(basis) = challenge(tree, subject) {
        (Kind::Challenge, basis)
    } else if let Some(basis) = automatic(tree, subject) {
        (Kind::AutoReply, basis)
    } else {
        return false;
    };
    (report.kind, report.basis) = (kind, basis);
    true
}

fn challenge(tree: &Tree<'_>, subject: &str) -> Option<Basis> {
    let field = CHALLENGER_FIELDS.iter().find(|name| tree.fields.get(name).is_some());
    let words = || CHALLENGE_SUBJECTS.iter().find(|words| subject.contains(**words));
    field.map(|name| Basis::Field(name)).or_else(|| words().map(|words| Basis::Subject(words)))
}

fn automatic(tree: &Tree<'_>, subject: &str) -> Option<Basis> {
    let fields = &tree.fields;
    let value = |name| fields.get(name).map(|v| v.trim().to_ascii_lowercase()).unwrap_or_default();
    // RFC 3834, section 5: anything but `no` means that no person wrote this.
    if value("Auto-Submitted").starts_with("auto-") {
        return Some(Basis::Field("Auto-Submitted"));
    }
    for name in ["Precedence", "X-Precedence"] {
        if value(name).replace('-', "_").starts_with("auto_reply") {
            return Some(Basis::Field(name));
        }
    }
    if tree.part("message/disposition-notification").is_some() {
        return Some(Basis::Part("message/disposition-notification"));
    }
    if let Some(name) = RESPONDER_FIELDS.iter().find(|name| fields.get(name).is_some()) {
        return Some(Basis::Field(name));
    }
    let words = ABSENT_SUBJECTS.iter().find(|words| subject.starts_with(**words));
    words.map(|words| Basis::Subject(words))
}
