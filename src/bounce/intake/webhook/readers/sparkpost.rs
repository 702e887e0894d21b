//! SparkPost (Bird). <https://developers.sparkpost.com/api/webhooks/>

use super::{Doc, HookEvent, Refusal, Verdict, What, each, meaning};

const WORDS: [(&str, What); 17] = [
    ("injection", What::Queued),
    ("delivery", What::Delivered),
    ("delay", What::Deferred),
    ("bounce", What::Bounced),
    ("out_of_band", What::Bounced),
    ("policy_rejection", What::Rejected),
    ("generation_rejection", What::Rejected),
    ("generation_failure", What::Failed),
    ("spam_complaint", What::Complained),
    ("list_unsubscribe", What::Unsubscribed),
    ("link_unsubscribe", What::Unsubscribed),
    ("open", What::Opened),
    ("initial_open", What::Opened),
    ("amp_open", What::Opened),
    ("amp_initial_open", What::Opened),
    ("click", What::Clicked),
    ("amp_click", What::Clicked),
];
/// Their classes of bounces.
const CLASSES: [(&str, Verdict); 17] = [
    ("1", Verdict::Soft),
    ("10", Verdict::Dead),
    ("20", Verdict::Soft),
    ("21", Verdict::Unreachable),
    ("22", Verdict::Full),
    ("23", Verdict::Content),
    ("24", Verdict::Unreachable),
    ("25", Verdict::Policy),
    ("26", Verdict::Hard),
    ("30", Verdict::Hard),
    ("40", Verdict::Soft),
    ("50", Verdict::Policy),
    ("51", Verdict::Spam),
    ("52", Verdict::Spam),
    ("53", Verdict::Content),
    ("54", Verdict::Policy),
    ("70", Verdict::Soft),
];
/// Classes of what is no failure: automatic replies, subscriptions, challenges.
const NO_FAILURES: [&str; 3] = ["60", "80", "100"];

pub(super) fn read(body: &[u8]) -> Result<Vec<HookEvent>, Refusal> {
    each(body, event)
}

fn event(event: Doc<'_>) -> HookEvent {
    let kinds = ["message_event", "track_event", "gen_event", "unsubscribe_event"];
    let found = kinds.into_iter().map(|kind| event.at("msys").at(kind)).find(|one| one.is_some());
    let event = found.unwrap_or(Doc(None));
    let class = event.text("bounce_class").unwrap_or_default();
    let what = match meaning(&WORDS, event.word("type")) {
        What::Bounced if NO_FAILURES.contains(&class.as_str()) => What::Other,
        What::Bounced if class == "90" => What::Unsubscribed,
        what => what,
    };
    let mut read = HookEvent::new(what);
    read.recipient = event.text("raw_rcpt_to").or_else(|| event.text("rcpt_to"));
    read.at = event.time("timestamp");
    read.id = event.text("event_id");
    read.message = event.text("transmission_id");
    read.reply = event.text("raw_reason").or_else(|| event.text("reason"));
    read.verdict = match what {
        What::Bounced => super::verdict(&CLASSES, &class).or(Some(Verdict::Soft)),
        What::Rejected => Some(Verdict::Policy),
        What::Failed => Some(Verdict::Content),
        _ => None,
    };
    read.temporary = matches!(class.as_str(), "20" | "21" | "22" | "24" | "70");
    read.carried.add_message_id(event.at("rcpt_meta").text(super::OURS));
    read.carried.return_path = event.text("msg_from");
    read
}
