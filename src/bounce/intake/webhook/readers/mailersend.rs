//! MailerSend, in both versions of its payloads. Nothing of our mail comes back in them but the
//! reader's address.
//! <https://developers.mailersend.com/api/v1/webhooks>

use super::{Doc, HookEvent, Refusal, Verdict, What, each, meaning};

const WORDS: [(&str, What); 14] = [
    ("sent", What::Sent),
    ("delivered", What::Delivered),
    ("deferred", What::Deferred),
    ("soft_bounced", What::Bounced),
    ("hard_bounced", What::Bounced),
    ("suppressed", What::Rejected),
    ("unsubscribed", What::Unsubscribed),
    ("spam_complaint", What::Complained),
    ("spam_complaints", What::Complained),
    ("opened", What::Opened),
    ("opened_unique", What::Opened),
    ("clicked", What::Clicked),
    ("clicked_unique", What::Clicked),
    ("survey_opened", What::Opened),
];
const VERDICTS: [(&str, Verdict); 3] = [
    ("hard_bounced", Verdict::Hard),
    ("soft_bounced", Verdict::Soft),
    ("suppressed", Verdict::Soft),
];

pub(super) fn read(body: &[u8]) -> Result<Vec<HookEvent>, Refusal> {
    each(body, event)
}

fn event(event: Doc<'_>) -> HookEvent {
    let data = event.at("data");
    let word = data.word("type");
    let mut read = HookEvent::new(meaning(&WORDS, word));
    read.id = data.text("id");
    read.at = data.time("created_at").or_else(|| event.time("created_at"));
    read.verdict = super::verdict(&VERDICTS, word);
    read.temporary = read.verdict == Some(Verdict::Soft);
    if data.at("email").is_some() {
        let (email, morph) = (data.at("email"), data.at("morph"));
        read.recipient = email.text("recipient.email");
        read.message = email.text("message.id");
        read.description = morph.text("readable_reason").or_else(|| morph.text("reason"));
    } else {
        let meta = data.at("meta");
        read.recipient = data.text("recipient");
        read.message = data.text("message_id");
        let reasons =
            ["bounce_reason", "reject_reason", "suppression_reason", "unsubscribe_reason"];
        read.description = reasons.into_iter().find_map(|name| meta.text(name));
        read.reply = meta.text("bounce_code");
    }
    read
}

/// Whether it is the ping that comes while a webhook is being set up: signed with a secret that all
/// the world knows, and saying nothing.
pub(in crate::bounce::intake::webhook) fn is_ping(body: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Ping {
        r#type: String,
    }
    body.len() < 16_384
        && serde_json::from_slice::<Ping>(body).is_ok_and(|ping| ping.r#type == "webhook.test")
}
