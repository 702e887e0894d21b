//! Azure Communication Services over Azure Event Grid, in the Event Grid schema or as CloudEvents.
//! <https://learn.microsoft.com/azure/event-grid/communication-services-email-events>

use super::{Doc, HookEvent, Refusal, Verdict, What, each, meaning};

const STATUSES: [(&str, What); 7] = [
    ("Delivered", What::Delivered),
    ("Expanded", What::Sent),
    ("Bounced", What::Bounced),
    ("Suppressed", What::Rejected),
    ("Quarantined", What::Rejected),
    ("FilteredSpam", What::Rejected),
    ("Failed", What::Rejected),
];
const VERDICTS: [(&str, Verdict); 5] = [
    ("Bounced", Verdict::Hard),
    ("Suppressed", Verdict::Hard),
    ("Quarantined", Verdict::Spam),
    ("FilteredSpam", Verdict::Spam),
    ("Failed", Verdict::Soft),
];
const ENGAGEMENT: [(&str, What); 2] = [("view", What::Opened), ("click", What::Clicked)];

pub(super) fn read(body: &[u8]) -> Result<Vec<HookEvent>, Refusal> {
    each(body, event)
}

fn event(event: Doc<'_>) -> HookEvent {
    let kind = [event.word("eventType"), event.word("type")];
    let is = |name: &str| kind.iter().any(|kind| kind.ends_with(name));
    let data = event.at("data");
    let what = if is("EmailDeliveryReportReceived") {
        meaning(&STATUSES, data.word("status"))
    } else if is("EmailEngagementTrackingReportReceived") {
        meaning(&ENGAGEMENT, data.word("engagementType"))
    } else {
        What::Other
    };
    let mut read = HookEvent::new(what);
    read.recipient = data.text("recipient");
    let times =
        [data.time("deliveryAttemptTimeStamp"), event.time("eventTime"), event.time("time")];
    read.at = times.into_iter().flatten().next();
    read.id = event.text("id");
    read.message = data.text("messageId");
    read.reply = data.text("deliveryStatusDetails.statusMessage");
    read.verdict = super::verdict(&VERDICTS, data.word("status"));
    read.carried.add_message_id(data.text("internetMessageId"));
    read
}

/// The code that a handshake asks to have back, if this is one.
pub(in crate::bounce::intake::webhook) fn handshake(body: &[u8]) -> Option<String> {
    let value = super::json::parse(body).ok()?;
    let first = Doc::from(&value).items().next()?;
    let asks = first.word("eventType") == "Microsoft.EventGrid.SubscriptionValidationEvent";
    first.text("data.validationCode").filter(|code| asks && code.len() <= 512)
}
