//! Our own form, for systems that nobody here knows: see the README.

use super::{Doc, HookEvent, Refusal, Verdict, What, all, json, meaning};

const WORDS: [(&str, What); 7] = [
    ("delivered", What::Delivered),
    ("deferred", What::Deferred),
    ("bounced", What::Bounced),
    ("rejected", What::Rejected),
    ("failed", What::Failed),
    ("complained", What::Complained),
    ("unsubscribed", What::Unsubscribed),
];
const VERDICTS: [(&str, Verdict); 9] = [
    ("dead", Verdict::Dead),
    ("hard", Verdict::Hard),
    ("soft", Verdict::Soft),
    ("full", Verdict::Full),
    ("refused", Verdict::Refused),
    ("spam", Verdict::Spam),
    ("policy", Verdict::Policy),
    ("content", Verdict::Content),
    ("unreachable", Verdict::Unreachable),
];

pub(super) fn read(body: &[u8]) -> Result<Vec<HookEvent>, Refusal> {
    let value = json::parse(body)?;
    let doc = Doc::from(&value);
    let list = if doc.at("events").is_some() { doc.at("events") } else { doc };
    all(list, event, <[u8]>::to_vec)
}

fn event(event: Doc<'_>) -> HookEvent {
    let mut read = HookEvent::new(meaning(&WORDS, event.word("event")));
    read.recipient = event.text("recipient");
    read.at = event.time("at");
    read.id = event.text("id");
    read.message = event.text("message");
    read.reply = event.text("reply");
    read.status = event.word("status").parse().ok();
    read.description = event.text("description");
    read.verdict = super::verdict(&VERDICTS, event.word("verdict"));
    read.temporary = event.is_true("temporary");
    read.carried.add_message_id(event.text("message_id"));
    read.carried.return_path = event.text("return_path");
    read.carried.list_unsubscribe = event.text("list_unsubscribe");
    read
}
