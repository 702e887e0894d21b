//! Forward Email's bounce webhook.
//! <https://forwardemail.net/en/faq#do-you-support-bounce-webhooks>

use super::{Doc, HookEvent, Refusal, Verdict, What, each};

const VERDICTS: [(&str, Verdict); 12] = [
    ("recipient", Verdict::Dead),
    ("capacity", Verdict::Full),
    ("block", Verdict::Policy),
    ("blocklist", Verdict::Policy),
    ("policy", Verdict::Policy),
    ("dmarc", Verdict::Policy),
    ("spam", Verdict::Spam),
    ("virus", Verdict::Content),
    ("message", Verdict::Content),
    ("network", Verdict::Unreachable),
    ("dns", Verdict::Unreachable),
    ("protocol", Verdict::Soft),
];

pub(super) fn read(body: &[u8]) -> Result<Vec<HookEvent>, Refusal> {
    each(body, event)
}

fn event(event: Doc<'_>) -> HookEvent {
    let bounce = event.at("bounce");
    let what = match bounce.word("action") {
        "defer" | "slowdown" => What::Deferred,
        _ if bounce.is_some() => What::Bounced,
        _ => What::Other,
    };
    let mut read = HookEvent::new(what);
    read.recipient = event.text("recipient");
    read.at = event.time("bounced_at");
    read.message = event.text("email_id");
    read.reply = event.text("response").or_else(|| event.text("message"));
    read.status = bounce.word("status").parse().ok();
    read.description = bounce.text("category");
    read.verdict = super::verdict(&VERDICTS, bounce.word("category"));
    read.temporary = what == What::Deferred;
    for name in ["Message-ID", "Message-Id", "message-id"] {
        read.carried.add_message_id(event.at("headers").text(name));
    }
    read.carried.list_unsubscribe = event.text("list_unsubscribe");
    read
}
