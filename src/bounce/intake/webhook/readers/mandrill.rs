//! Mailchimp Transactional (Mandrill): a form with a list of events in JSON.
//! <https://mailchimp.com/developer/transactional/docs/webhooks/>

use super::{Doc, Form, HookEvent, Refusal, Verdict, What, all, json, meaning};

const WORDS: [(&str, What); 9] = [
    ("send", What::Sent),
    ("delivered", What::Delivered),
    ("deferral", What::Deferred),
    ("hard_bounce", What::Bounced),
    ("soft_bounce", What::Bounced),
    ("reject", What::Rejected),
    ("spam", What::Complained),
    ("unsub", What::Unsubscribed),
    ("open", What::Opened),
];
const VERDICTS: [(&str, Verdict); 6] = [
    ("bad_mailbox", Verdict::Dead),
    ("invalid_domain", Verdict::Dead),
    ("mailbox_full", Verdict::Full),
    ("spam", Verdict::Spam),
    ("blocked", Verdict::Policy),
    ("too_large", Verdict::Content),
];
/// Why they kept a copy back.
const KEPT_BACK: [(&str, Verdict); 4] = [
    ("hard-bounce", Verdict::Hard),
    ("soft-bounce", Verdict::Soft),
    ("spam", Verdict::ComplainedBefore),
    ("unsub", Verdict::Left),
];

pub(super) fn read(body: &[u8]) -> Result<Vec<HookEvent>, Refusal> {
    let value = if body.first() == Some(&b'[') {
        json::parse(body)?
    } else {
        let form = Form::read(body)?;
        let events = form.first("mandrill_events");
        json::parse(events.ok_or(Refusal::Unreadable("it has no mandrill_events"))?.as_bytes())?
    };
    all(Doc::from(&value), event, |raw| [b"[", raw, &b"]"[..]].concat())
}

fn event(event: Doc<'_>) -> HookEvent {
    let word = [event.word("event"), event.word("type")];
    let word = word.into_iter().find(|word| !word.is_empty()).unwrap_or_default();
    let what = if word == "click" { What::Clicked } else { meaning(&WORDS, word) };
    let msg = event.at("msg");
    let mut read = HookEvent::new(what);
    read.recipient = msg.text("email").or_else(|| event.text("reject.email"));
    read.at = event.time("ts");
    read.message = event.text("_id");
    let last = msg.at("smtp_events").items().last();
    read.reply = msg.text("diag").or_else(|| last.and_then(|last| last.text("diag")));
    read.description = msg.text("bounce_description").or_else(|| event.text("reject.reason"));
    let named = super::verdict(&VERDICTS, msg.word("bounce_description"));
    read.verdict = match word {
        "hard_bounce" => named.or(Some(Verdict::Hard)),
        "soft_bounce" => named.or(Some(Verdict::Soft)),
        "reject" => super::verdict(&KEPT_BACK, event.word("reject.reason")).or(Some(Verdict::Soft)),
        _ => None,
    };
    read.temporary = word == "soft_bounce" || word == "deferral";
    read.carried.add_message_id(msg.at("metadata").text(super::OURS));
    read
}
