//! Unisender Go. <https://godocs.unisender.ru/web-api-ref#callback-format>

use super::{Doc, EVENTS_MAX, HookEvent, Refusal, Verdict, What, all, json, meaning};

const WORDS: [(&str, What); 9] = [
    ("sent", What::Sent),
    ("delivered", What::Delivered),
    ("opened", What::Opened),
    ("clicked", What::Clicked),
    ("unsubscribed", What::Unsubscribed),
    ("subscribed", What::Subscribed),
    ("spam", What::Complained),
    ("soft_bounced", What::Deferred),
    ("hard_bounced", What::Bounced),
];
const VERDICTS: [(&str, Verdict); 16] = [
    ("err_user_unknown", Verdict::Dead),
    ("err_domain_inactive", Verdict::Dead),
    ("err_user_inactive", Verdict::Refused),
    ("err_mailbox_discarded", Verdict::Refused),
    ("err_mailbox_full", Verdict::Full),
    ("err_spam_rejected", Verdict::Spam),
    ("err_spam_skipped", Verdict::Spam),
    ("err_blacklisted", Verdict::Policy),
    ("err_too_large", Verdict::Content),
    ("err_unsubscribed", Verdict::Left),
    // Known to them as undeliverable.
    ("err_unreachable", Verdict::Hard),
    ("err_skip_letter", Verdict::Soft),
    ("err_destination_misconfigured", Verdict::Unreachable),
    ("err_will_retry", Verdict::Unreachable),
    ("err_delivery_failed", Verdict::Soft),
    ("err_lost", Verdict::Soft),
];

pub(super) fn read(body: &[u8]) -> Result<Vec<HookEvent>, Refusal> {
    let value = json::parse(body)?;
    let doc = Doc::from(&value);
    if !doc.at("events_by_user").is_some() {
        return all(doc, |one| event(one, one.word("event_name")), <[u8]>::to_vec);
    }
    let mut events = Vec::new();
    for user in doc.at("events_by_user").items() {
        let of_user = all(
            user.at("events"),
            |one| event(one.at("event_data"), one.word("event_name")),
            |raw| [b"{\"events_by_user\":[{\"events\":[", raw, &b"]}]}"[..]].concat(),
        )?;
        events.extend(of_user);
        if events.len() > EVENTS_MAX {
            return Err(Refusal::TooMuch);
        }
    }
    Ok(events)
}

fn event(data: Doc<'_>, name: &str) -> HookEvent {
    let about_a_mail = name == "transactional_email_status";
    let word = data.word("status");
    let mut read = HookEvent::new(if about_a_mail { meaning(&WORDS, word) } else { What::Other });
    read.recipient = data.text("email");
    read.at = data.time("event_time");
    read.message = data.text("job_id");
    let info = data.at("delivery_info");
    read.reply = info.text("destination_response");
    read.description = info.text("delivery_status");
    if matches!(read.what, What::Bounced | What::Deferred) {
        let named = super::verdict(&VERDICTS, info.word("delivery_status"));
        read.verdict = named.or(Some(Verdict::Soft));
    }
    read.temporary = read.what == What::Deferred;
    read.carried.add_message_id(data.at("metadata").text(super::OURS));
    read
}
