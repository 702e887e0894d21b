//! Twilio SendGrid's event webhook.
//! <https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event>

use super::{Doc, HookEvent, Refusal, Verdict, What, each, meaning};

const WORDS: [(&str, What); 11] = [
    ("processed", What::Queued),
    ("delivered", What::Delivered),
    ("deferred", What::Deferred),
    ("bounce", What::Bounced),
    ("dropped", What::Rejected),
    ("spamreport", What::Complained),
    ("unsubscribe", What::Unsubscribed),
    ("group_unsubscribe", What::Unsubscribed),
    ("group_resubscribe", What::Subscribed),
    ("open", What::Opened),
    ("click", What::Clicked),
];
/// Why they kept a copy back.
const KEPT_BACK: [(&str, Verdict); 6] = [
    ("Bounced Address", Verdict::Hard),
    ("Invalid", Verdict::Dead),
    ("Unsubscribed Address", Verdict::Left),
    ("Spam Reporting Address", Verdict::ComplainedBefore),
    ("Spam Content (if Spam Checker app enabled)", Verdict::Content),
    ("Invalid SMTPAPI header", Verdict::Content),
];
const CLASSES: [(&str, Verdict); 7] = [
    ("Invalid Address", Verdict::Dead),
    ("Mailbox Unavailable", Verdict::Refused),
    ("Content", Verdict::Content),
    ("Reputation", Verdict::Spam),
    ("Frequency or Volume Too High", Verdict::Policy),
    ("Technical Failure", Verdict::Unreachable),
    ("Technical", Verdict::Unreachable),
];

pub(super) fn read(body: &[u8]) -> Result<Vec<HookEvent>, Refusal> {
    each(body, event)
}

fn event(event: Doc<'_>) -> HookEvent {
    let mut read = HookEvent::new(meaning(&WORDS, event.word("event")));
    read.recipient = event.text("email");
    read.at = event.time("timestamp");
    read.id = event.text("sg_event_id");
    read.message = event.text("sg_message_id");
    match read.what {
        // Their own words.
        What::Rejected => read.description = event.text("reason"),
        _ => read.reply = event.text("reason").or_else(|| event.text("response")),
    }
    read.status = event.word("status").parse().ok().filter(|_| read.what == What::Bounced);
    let blocked = event.word("type") == "blocked";
    read.verdict = match read.what {
        What::Rejected => super::verdict(&KEPT_BACK, event.word("reason")).or(Some(Verdict::Soft)),
        What::Bounced => super::verdict(&CLASSES, event.word("bounce_classification"))
            .or(Some(if blocked { Verdict::Policy } else { Verdict::Hard })),
        _ => None,
    };
    read.temporary = read.what == What::Deferred;
    read.carried.add_message_id(event.text("smtp-id"));
    read.carried.add_message_id(event.text(super::OURS));
    read
}
