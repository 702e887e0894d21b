//! Resend. <https://resend.com/docs/dashboard/webhooks/event-types>

use super::{Doc, HookEvent, Refusal, What, each, from_fields, meaning, ses_verdict};

const WORDS: [(&str, What); 10] = [
    ("email.scheduled", What::Queued),
    ("email.sent", What::Sent),
    ("email.delivered", What::Delivered),
    ("email.delivery_delayed", What::Deferred),
    ("email.bounced", What::Bounced),
    ("email.suppressed", What::Rejected),
    ("email.failed", What::Failed),
    ("email.complained", What::Complained),
    ("email.opened", What::Opened),
    ("email.clicked", What::Clicked),
];

pub(super) fn read(body: &[u8]) -> Result<Vec<HookEvent>, Refusal> {
    each(body, event)
}

fn event(event: Doc<'_>) -> HookEvent {
    let data = event.at("data");
    let mut read = HookEvent::new(meaning(&WORDS, event.word("type")));
    let to = data.at("to").items().next();
    read.recipient = to.and_then(|to| to.0?.as_str()).map(str::to_owned);
    read.at = event.time("created_at");
    read.message = data.text("email_id");
    let bounce = data.at("bounce");
    let told =
        [bounce.text("message"), data.text("failed.reason"), data.text("suppressed.message")];
    read.description = told.into_iter().flatten().next();
    read.reply = bounce
        .at("diagnosticCode")
        .items()
        .next()
        .and_then(|said| said.0?.as_str().map(str::to_owned));
    if matches!(read.what, What::Bounced | What::Rejected) {
        let kind =
            if bounce.word("type").is_empty() { "Undetermined" } else { bounce.word("type") };
        read.verdict = Some(ses_verdict(kind, bounce.word("subType")));
        read.temporary = kind == "Transient";
    }
    from_fields(data.at("headers"), &mut read.carried);
    read.carried.add_message_id(data.text("message_id"));
    read.carried.add_message_id(data.at("tags").text(super::OURS));
    read
}
