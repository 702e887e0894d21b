//! Mailgun: events in JSON, and the forms of its older webhooks.
//! <https://documentation.mailgun.com/docs/mailgun/user-manual/webhooks/webhook-payloads>

use super::{Doc, Form, HookEvent, Refusal, Verdict, What, json, meaning};

const WORDS: [(&str, What); 9] = [
    ("accepted", What::Queued),
    ("stored", What::Queued),
    ("delivered", What::Delivered),
    ("failed", What::Bounced),
    ("rejected", What::Rejected),
    ("complained", What::Complained),
    ("unsubscribed", What::Unsubscribed),
    ("opened", What::Opened),
    ("clicked", What::Clicked),
];
const OLD_WORDS: [(&str, What); 7] = [
    ("delivered", What::Delivered),
    ("dropped", What::Rejected),
    ("bounced", What::Bounced),
    ("complained", What::Complained),
    ("unsubscribed", What::Unsubscribed),
    ("opened", What::Opened),
    ("clicked", What::Clicked),
];
/// Reasons of copies that Mailgun kept back.
const KEPT_BACK: [(&str, Verdict); 3] = [
    ("suppress-bounce", Verdict::Hard),
    ("suppress-complaint", Verdict::ComplainedBefore),
    ("suppress-unsubscribe", Verdict::Left),
];

pub(super) fn read(body: &[u8]) -> Result<Vec<HookEvent>, Refusal> {
    if body.first() != Some(&b'{') {
        return Ok(vec![old(&Form::read(body)?)]);
    }
    let value = json::parse(body)?;
    let doc = Doc::from(&value);
    let mut event = event(doc.at("event-data"));
    // Their own number of an event is unique for a day only.
    event.id = doc.text("signature.token");
    Ok(vec![event])
}

fn event(event: Doc<'_>) -> HookEvent {
    let mut read = HookEvent::new(meaning(&WORDS, event.word("event")));
    read.temporary = event.word("severity") == "temporary";
    read.verdict = super::verdict(&KEPT_BACK, event.word("reason"));
    read.what = match read.what {
        What::Bounced if read.verdict.is_some() => What::Rejected,
        What::Bounced if read.temporary => What::Deferred,
        what => what,
    };
    let to = || event.text("message.headers.to").filter(|_| read.what == What::Rejected);
    read.recipient = event.text("recipient").or_else(to);
    read.at = event.time("timestamp");
    read.message = event.text("message.headers.message-id").map(|id| bracketed(&id));
    let status = event.at("delivery-status");
    read.reply = status.text("message");
    read.status = status.word("enhanced-code").parse().ok();
    let reject = || event.text("reject.reason").filter(|_| read.what == What::Rejected);
    read.description = status.text("description").or_else(reject);
    if read.what == What::Rejected && read.verdict.is_none() {
        read.verdict = Some(Verdict::Policy);
    }
    read.carried.add_message_id(event.text("message.headers.message-id"));
    read.carried.add_message_id(event.at("user-variables").text(super::OURS));
    read.carried.return_path = event.text("envelope.sender");
    read
}

/// Variables of the sender stand among Mailgun's own fields and may repeat their names: Mailgun's come
/// first, those of the signature last.
fn old(form: &Form) -> HookEvent {
    let first = |name: &str| form.first(name).map(str::to_owned);
    let mut read = HookEvent::new(meaning(&OLD_WORDS, form.first("event").unwrap_or_default()));
    read.recipient = first("recipient");
    read.id = form.last("token").map(str::to_owned);
    read.at = form.last("timestamp").and_then(json::time);
    let message = first("Message-Id").or_else(|| first("message-id"));
    read.message = message.as_deref().map(bracketed);
    read.description = first("description");
    read.reply = first("error").or_else(|| first("notification"));
    let code = form.first("code").unwrap_or_default();
    read.status = code.parse().ok();
    read.verdict = match (read.what, code) {
        (What::Rejected, "605") => Some(Verdict::Hard),
        (What::Rejected, "606") => Some(Verdict::Left),
        (What::Rejected, "607") => Some(Verdict::ComplainedBefore),
        (What::Rejected, _) => Some(Verdict::Unreachable),
        (What::Bounced, code) if code.starts_with('5') => Some(Verdict::Hard),
        (What::Bounced, _) => Some(Verdict::Soft),
        _ => None,
    };
    read.carried.add_message_id(message);
    read.carried.add_message_id(first(super::OURS));
    read
}

fn bracketed(id: &str) -> String {
    if id.starts_with('<') { id.to_owned() } else { format!("<{id}>") }
}
