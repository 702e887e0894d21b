//! Brevo's transactional webhooks, single or in batches.
//! <https://developers.brevo.com/docs/transactional-webhooks>

use super::{Doc, HookEvent, Refusal, Verdict, What, each, from_text, meaning};

const WORDS: [(&str, What); 26] = [
    ("request", What::Queued),
    ("sent", What::Queued),
    ("delivered", What::Delivered),
    ("deferred", What::Deferred),
    ("hard_bounce", What::Bounced),
    ("hardBounce", What::Bounced),
    ("soft_bounce", What::Bounced),
    ("softBounce", What::Bounced),
    ("invalid_email", What::Bounced),
    ("invalid", What::Bounced),
    ("blocked", What::Rejected),
    ("error", What::Failed),
    ("spam", What::Complained),
    ("complaint", What::Complained),
    ("unsubscribe", What::Unsubscribed),
    ("unsubscribed", What::Unsubscribed),
    ("list_addition", What::Subscribed),
    ("opened", What::Opened),
    ("unique_opened", What::Opened),
    ("uniqueOpened", What::Opened),
    ("proxy_open", What::Opened),
    ("unique_proxy_open", What::Opened),
    ("proxyOpen", What::Opened),
    ("uniqueProxyOpen", What::Opened),
    ("click", What::Clicked),
    ("clicked", What::Clicked),
];
const VERDICTS: [(&str, Verdict); 8] = [
    ("hard_bounce", Verdict::Hard),
    ("hardBounce", Verdict::Hard),
    ("soft_bounce", Verdict::Soft),
    ("softBounce", Verdict::Soft),
    ("invalid_email", Verdict::Dead),
    ("invalid", Verdict::Dead),
    // On their list, for whatever reason.
    ("blocked", Verdict::Soft),
    ("error", Verdict::Content),
];

pub(super) fn read(body: &[u8]) -> Result<Vec<HookEvent>, Refusal> {
    each(body, event)
}

fn event(event: Doc<'_>) -> HookEvent {
    let word = event.word("event");
    let mut read = HookEvent::new(meaning(&WORDS, word));
    read.recipient = event.text("email");
    // The other times are in the account's own zone.
    read.at = event.time("ts_epoch");
    read.message = event.text("message-id");
    read.reply = event.text("reason");
    read.verdict = super::verdict(&VERDICTS, word);
    read.temporary = read.verdict == Some(Verdict::Soft);
    read.carried.add_message_id(event.text("message-id"));
    from_text(event.text("X-Mailin-custom"), &mut read.carried);
    read
}
