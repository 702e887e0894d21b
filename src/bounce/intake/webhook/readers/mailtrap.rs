//! Mailtrap, as JSON or as lines of JSON.
//! <https://docs.mailtrap.io/email-api-smtp/advanced/webhooks>

use super::{Doc, HookEvent, Refusal, Verdict, What, all, json, meaning};

const WORDS: [(&str, What); 10] = [
    ("delivery", What::Delivered),
    ("bounce", What::Bounced),
    ("soft bounce", What::Deferred),
    ("soft_bounce", What::Deferred),
    ("suspension", What::Deferred),
    ("reject", What::Rejected),
    ("spam", What::Complained),
    ("unsubscribe", What::Unsubscribed),
    ("open", What::Opened),
    ("click", What::Clicked),
];

pub(super) fn read(body: &[u8]) -> Result<Vec<HookEvent>, Refusal> {
    let value = json::parse(body).or_else(|refusal| match refusal {
        Refusal::TooMuch => Err(refusal),
        _ => lines(body),
    })?;
    let doc = Doc::from(&value);
    let list = if doc.at("events").is_some() { doc.at("events") } else { doc };
    all(list, event, |raw| [b"{\"events\":[", raw, &b"]}"[..]].concat())
}

fn lines(body: &[u8]) -> Result<serde_json::Value, Refusal> {
    let lines = body.split(|octet| *octet == b'\n').filter(|line| !line.trim_ascii().is_empty());
    lines.take(super::EVENTS_MAX + 1).map(json::parse).collect()
}

fn event(event: Doc<'_>) -> HookEvent {
    let mut read = HookEvent::new(meaning(&WORDS, event.word("event")));
    read.recipient = event.text("email");
    read.at = event.time("timestamp");
    read.id = event.text("event_id");
    read.message = event.text("message_id");
    read.reply = event.text("response");
    read.description = event.text("reason").or_else(|| event.text("bounce_category"));
    read.verdict = match read.what {
        What::Bounced => Some(Verdict::Hard),
        What::Rejected => Some(Verdict::Soft),
        _ => None,
    };
    read.temporary = read.what == What::Deferred;
    read.carried.add_message_id(event.at("custom_variables").text(super::OURS));
    read
}
