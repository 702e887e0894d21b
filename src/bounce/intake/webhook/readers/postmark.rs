//! Postmark. <https://postmarkapp.com/developer/webhooks/webhooks-overview>

use super::{Doc, HookEvent, Refusal, Verdict, What, each};

/// The types of a bounce: what each says happened, and to whom.
const TYPES: [(&str, What, Option<Verdict>); 20] = [
    ("HardBounce", What::Bounced, Some(Verdict::Hard)),
    ("BadEmailAddress", What::Bounced, Some(Verdict::Dead)),
    ("SoftBounce", What::Bounced, Some(Verdict::Soft)),
    ("DnsError", What::Bounced, Some(Verdict::Unreachable)),
    ("SpamNotification", What::Bounced, Some(Verdict::Spam)),
    ("VirusNotification", What::Bounced, Some(Verdict::Content)),
    ("Blocked", What::Bounced, Some(Verdict::Policy)),
    ("DMARCPolicy", What::Bounced, Some(Verdict::Policy)),
    ("AddressChange", What::Other, None),
    ("Undeliverable", What::Bounced, Some(Verdict::Soft)),
    ("Unknown", What::Bounced, Some(Verdict::Soft)),
    ("ManuallyDeactivated", What::Rejected, Some(Verdict::Soft)),
    ("Unconfirmed", What::Rejected, Some(Verdict::Soft)),
    ("SMTPApiError", What::Failed, Some(Verdict::Content)),
    ("TemplateRenderingFailed", What::Failed, Some(Verdict::Content)),
    ("Transient", What::Deferred, None),
    ("SpamComplaint", What::Complained, None),
    ("Unsubscribe", What::Unsubscribed, None),
    ("Subscribe", What::Subscribed, None),
    // Vacation notices and challenges.
    ("AutoResponder", What::Other, None),
];

pub(super) fn read(body: &[u8]) -> Result<Vec<HookEvent>, Refusal> {
    each(body, event)
}

fn event(event: Doc<'_>) -> HookEvent {
    let kind = event.word("Type");
    let (what, verdict) = match event.word("RecordType") {
        "Delivery" => (What::Delivered, None),
        "Bounce" => TYPES
            .iter()
            .find(|(name, ..)| *name == kind)
            .map_or((What::Other, None), |(_, what, verdict)| (*what, *verdict)),
        "SpamComplaint" => (What::Complained, None),
        "Open" => (What::Opened, None),
        "Click" => (What::Clicked, None),
        "SubscriptionChange" => (changed(event), None),
        _ => (What::Other, None),
    };
    let mut read = HookEvent::new(what);
    read.recipient = event.text("Recipient").or_else(|| event.text("Email"));
    let times = ["BouncedAt", "DeliveredAt", "ReceivedAt", "ChangedAt"];
    read.at = times.into_iter().find_map(|name| event.time(name));
    read.id = event.text("ID");
    read.message = event.text("MessageID");
    read.reply = event.text("Details");
    read.description = event.text("Description");
    read.verdict = verdict;
    read.temporary = matches!(kind, "SoftBounce" | "Transient");
    read.carried.add_message_id(event.at("Metadata").text(super::OURS));
    read
}

/// What the reader themself did; what Postmark or an operator did there is told by other events.
fn changed(event: Doc<'_>) -> What {
    match (event.is_true("SuppressSending"), event.word("Origin")) {
        (true, "Recipient") if event.word("SuppressionReason") == "SpamComplaint" => {
            What::Complained
        }
        (true, "Recipient") => What::Unsubscribed,
        (false, "Recipient") => What::Subscribed,
        _ => What::Other,
    }
}
