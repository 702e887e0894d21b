//! Postal, which one runs oneself.
//! <https://docs.postalserver.io/developer/webhooks>

use super::{Doc, HookEvent, Refusal, Verdict, What, each, meaning};

const STATUSES: [(&str, What); 4] = [
    ("Sent", What::Delivered),
    ("SoftFail", What::Deferred),
    ("HardFail", What::Failed),
    ("Held", What::Queued),
];

pub(super) fn read(body: &[u8]) -> Result<Vec<HookEvent>, Refusal> {
    each(body, event)
}

fn event(event: Doc<'_>) -> HookEvent {
    let payload = event.at("payload");
    let bounced = payload.at("bounce").is_some();
    let what = match payload.word("status") {
        "" if bounced => What::Bounced,
        "" if payload.at("url").is_some() => What::Clicked,
        "" => What::Other,
        status => meaning(&STATUSES, status),
    };
    let original = payload.at("original_message");
    let message = if original.is_some() { original } else { payload.at("message") };
    // What became of mail that came to us is another matter.
    let incoming = message.word("direction") == "incoming";
    let mut read = HookEvent::new(if incoming { What::Other } else { what });
    read.recipient = message.text("to");
    read.at = event.time("timestamp");
    read.id = event.text("uuid");
    read.message = message.text("id");
    read.reply = payload.text("output");
    read.description = payload.text("details");
    read.verdict = matches!(what, What::Failed | What::Bounced).then_some(Verdict::Hard);
    read.temporary = what == What::Deferred;
    read.carried.add_message_id(message.text("message_id"));
    read
}
