//! Amazon SES over Amazon SNS: a notification in an envelope whose `Message` is JSON again. Both
//! forms, feedback notifications and event publishing.
//! <https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html>

use serde_json::Value;

use super::{Carried, Doc, HookEvent, Refusal, Verdict, What, from_fields, json, ses_verdict};

const WORDS: [(&str, What); 11] = [
    ("Send", What::Sent),
    ("Delivery", What::Delivered),
    ("DeliveryDelay", What::Deferred),
    ("Bounce", What::Bounced),
    ("Complaint", What::Complained),
    ("Reject", What::Rejected),
    ("Rendering Failure", What::Failed),
    ("RenderingFailure", What::Failed),
    ("Open", What::Opened),
    ("Click", What::Clicked),
    ("Subscription", What::Other),
];

pub(super) fn read(body: &[u8]) -> Result<Vec<HookEvent>, Refusal> {
    let envelope = json::parse(body)?;
    let envelope = Doc::from(&envelope);
    if envelope.word("Type") != "Notification" {
        return Ok(Vec::new());
    }
    // The topic's own messages ("Successfully validated …") are no JSON and say nothing.
    let Ok(event) = json::parse(envelope.word("Message").as_bytes()) else {
        return Ok(Vec::new());
    };
    let event = Doc::from(&event);
    let word = ["eventType", "notificationType"].map(|name| event.word(name));
    let word = word.into_iter().find(|word| !word.is_empty()).unwrap_or_default();
    let mut pattern = HookEvent::new(super::meaning(&WORDS, word));
    pattern.id = envelope.text("MessageId");
    pattern.at = envelope.time("Timestamp");
    pattern.message = event.text("mail.messageId");
    pattern.carried = carried(event.at("mail"));
    let mut events = match word {
        "Bounce" => bounces(event.at("bounce"), &pattern),
        "DeliveryDelay" => delays(event.at("deliveryDelay"), &pattern),
        "Complaint" => complaints(event.at("complaint"), &pattern),
        "Delivery" => to(
            event.at("delivery.recipients"),
            &HookEvent { reply: event.text("delivery.smtpResponse"), ..pattern },
        ),
        "Reject" => to(
            event.at("mail.destination"),
            &HookEvent {
                description: event.text("reject.reason"),
                verdict: Some(Verdict::Content),
                ..pattern
            },
        ),
        "Rendering Failure" | "RenderingFailure" => to(
            event.at("mail.destination"),
            &HookEvent {
                description: event.text("failure.errorMessage"),
                verdict: Some(Verdict::Content),
                ..pattern
            },
        ),
        "Subscription" if event.is_true("subscription.newTopicPreferences.unsubscribeAll") => {
            to(event.at("mail.destination"), &HookEvent { what: What::Unsubscribed, ..pattern })
        }
        _ => to(event.at("mail.destination"), &pattern),
    };
    let several = events.len() > 1;
    for event in &mut events {
        event.raw = body.to_vec();
        // Each recipient's event is one of its own.
        if several && let (Some(id), Some(recipient)) = (&event.id, &event.recipient) {
            event.id = Some(format!("{id} {recipient}"));
        }
    }
    Ok(events)
}

/// SES gives every mail a `Message-ID` of its own; ours stands among the fields that came with it.
fn carried(mail: Doc<'_>) -> Carried {
    let mut carried = Carried { return_path: mail.text("source"), ..Carried::default() };
    from_fields(mail.at("headers"), &mut carried);
    carried.add_message_id(mail.text("commonHeaders.messageId"));
    let tag = mail.at("tags").at(super::OURS).items().next();
    carried.add_message_id(tag.and_then(|tag| tag.0).and_then(Value::as_str).map(str::to_owned));
    carried
}

fn to(recipients: Doc<'_>, pattern: &HookEvent) -> Vec<HookEvent> {
    let address = |item: Doc<'_>| item.0.and_then(Value::as_str).map(str::to_owned);
    recipients
        .items()
        .take(RECIPIENTS_MAX)
        .map(|item| HookEvent { recipient: address(item), ..pattern.clone() })
        .collect()
}

/// A mail to SES has at most 50 recipients, and ours have one.
const RECIPIENTS_MAX: usize = 50;

fn bounces(bounce: Doc<'_>, pattern: &HookEvent) -> Vec<HookEvent> {
    let (kind, subkind) = (bounce.word("bounceType"), bounce.word("bounceSubType"));
    let on_a_list = matches!(subkind, "Suppressed" | "OnAccountSuppressionList");
    let entries = bounce.at("bouncedRecipients").items().take(RECIPIENTS_MAX);
    let event = |entry: Doc<'_>| HookEvent {
        what: if on_a_list { What::Rejected } else { What::Bounced },
        recipient: entry.text("emailAddress"),
        // What SES says by itself, of an address on its own list, is no server's word.
        reply: entry.text("diagnosticCode").filter(|_| !on_a_list),
        status: entry.word("status").parse().ok().filter(|_| !on_a_list),
        description: Some(format!("{kind}: {subkind}")),
        verdict: Some(ses_verdict(kind, subkind)),
        temporary: kind == "Transient",
        ..pattern.clone()
    };
    entries.map(event).collect()
}

fn delays(delay: Doc<'_>, pattern: &HookEvent) -> Vec<HookEvent> {
    let entries = delay.at("delayedRecipients").items().take(RECIPIENTS_MAX);
    let event = |entry: Doc<'_>| HookEvent {
        recipient: entry.text("emailAddress"),
        reply: entry.text("diagnosticCode"),
        status: entry.word("status").parse().ok(),
        description: delay.text("delayType"),
        temporary: true,
        ..pattern.clone()
    };
    entries.map(event).collect()
}

fn complaints(complaint: Doc<'_>, pattern: &HookEvent) -> Vec<HookEvent> {
    let feedback = complaint.text("complaintFeedbackType");
    let friendly = feedback.as_deref() == Some("not-spam");
    let entries = complaint.at("complainedRecipients").items().take(RECIPIENTS_MAX);
    let event = |entry: Doc<'_>| HookEvent {
        what: if friendly { What::Other } else { What::Complained },
        recipient: entry.text("emailAddress"),
        description: feedback.clone(),
        ..pattern.clone()
    };
    entries.map(event).collect()
}
