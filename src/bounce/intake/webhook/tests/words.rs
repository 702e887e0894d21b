//! What providers' words come to: whose fault, and whether it lasts.

use super::*;
use crate::{
    bounce::{
        classify::{Fault, Permanence},
        intake::webhook::{HookEvent, read},
        report::Kind,
    },
    provider::ProviderId,
};

fn one(provider: Provider, payload: &Value) -> HookEvent {
    let mut events = read(provider, payload.to_string().as_bytes()).unwrap();
    assert_eq!(events.len(), 1, "{payload}");
    events.remove(0)
}

#[test]
fn only_plain_words_of_a_dead_address_are_hard() {
    use Fault as F;
    let ses = |kind: &str, sub: &str, said: Option<&str>| {
        let recipient = json!({ "emailAddress": "ada@example.net", "diagnosticCode": said });
        let bounce =
            json!({ "bounceType": kind, "bounceSubType": sub, "bouncedRecipients": [recipient] });
        let event = json!({ "notificationType": "Bounce", "bounce": bounce, "mail": {} });
        json!({ "Type": "Notification", "Message": event.to_string() })
    };
    let mailjet = |hard: bool, error: &str| {
        json!({ "event": "bounce", "email": "a@b.example",
        "hard_bounce": hard, "error": error, "error_related_to": "recipient" })
    };
    let spark = |class: &str, reason: &str| {
        json!([{ "msys": { "message_event": {
        "type": "bounce", "bounce_class": class, "rcpt_to": "a@b.example", "raw_reason": reason } } }])
    };
    let postmark = |kind: &str, details: &str| {
        json!({ "RecordType": "Bounce", "Type": kind,
        "Email": "a@b.example", "Details": details })
    };
    let grid = |kind: &str, class: &str, reason: &str| {
        json!([{ "event": "bounce", "type": kind,
        "bounce_classification": class, "email": "a@b.example", "reason": reason }])
    };
    let forward = |category: &str, said: &str| {
        json!({ "recipient": "a@b.example",
        "response": said, "bounce": { "action": "reject", "category": category } })
    };
    let p = Provider::AmazonSes;
    for (provider, payload, fault, hard) in [
        (p, ses("Permanent", "General", Some("550 5.1.1 unknown")), F::Recipient, true),
        (p, ses("Permanent", "NoEmail", None), F::Recipient, true),
        (p, ses("Permanent", "General", None), F::Recipient, false),
        (p, ses("Permanent", "Suppressed", Some("550 5.1.1 suppressed")), F::Recipient, false),
        (p, ses("Transient", "General", Some("550 5.1.1 unknown")), F::Recipient, false),
        (p, ses("Transient", "MailboxFull", None), F::Mailbox, false),
        (p, ses("Transient", "ContentRejected", None), F::Content, false),
        (p, ses("Permanent", "General", Some("550 5.7.1 blocked by RBL")), F::Reputation, false),
        (p, ses("Undetermined", "Undetermined", None), F::Unknown, false),
        (Provider::Mailjet, mailjet(true, "user unknown"), F::Recipient, true),
        (Provider::Mailjet, mailjet(false, "user unknown"), F::Recipient, false),
        (Provider::Mailjet, mailjet(false, "quota exceeded"), F::Mailbox, false),
        (Provider::Mailjet, mailjet(true, "content blocked"), F::Content, false),
        (Provider::Mailjet, mailjet(true, "something new"), F::Recipient, false),
        (Provider::Sparkpost, spark("10", "550 user unknown"), F::Recipient, true),
        (Provider::Sparkpost, spark("10", ""), F::Recipient, true),
        (Provider::Sparkpost, spark("22", "552 5.2.2 over quota"), F::Mailbox, false),
        (Provider::Sparkpost, spark("51", "550 5.1.1 unknown"), F::Reputation, false),
        (Provider::Sparkpost, spark("21", ""), F::Network, false),
        (Provider::Postmark, postmark("HardBounce", "smtp;550 5.1.1 gone"), F::Recipient, true),
        (Provider::Postmark, postmark("HardBounce", ""), F::Recipient, false),
        (Provider::Postmark, postmark("BadEmailAddress", ""), F::Recipient, true),
        (Provider::Postmark, postmark("SoftBounce", "550 5.1.1 gone"), F::Recipient, false),
        (Provider::Postmark, postmark("Blocked", "550 5.1.1 gone"), F::Policy, false),
        (Provider::Sendgrid, grid("bounce", "Invalid Address", "no"), F::Recipient, true),
        (Provider::Sendgrid, grid("blocked", "", "no"), F::Policy, false),
        (Provider::Sendgrid, grid("bounce", "Reputation", "550 5.1.1 x"), F::Reputation, false),
        (Provider::ForwardEmail, forward("recipient", "550 5.1.1 x"), F::Recipient, true),
        (Provider::ForwardEmail, forward("block", "550 5.1.1 x"), F::Policy, false),
    ] {
        let event = one(provider, &payload);
        let class = event.classify(ProviderId::OTHER);
        assert_eq!((class.fault, class.is_hard()), (fault, hard), "{payload} {class:?}");
        assert_eq!(event.kind(), Kind::Failed, "{payload}");
    }
}

#[test]
fn a_copy_that_was_kept_back_tells_why() {
    let mailgun = |reason: &str| {
        json!({ "event-data": { "event": "failed", "severity": "permanent",
        "recipient": "a@b.example", "reason": reason }, "signature": { "token": "t" } })
    };
    let grid = |reason: &str| {
        json!([{ "event": "dropped", "email": "a@b.example",
        "reason": reason }])
    };
    let mandrill = |reason: &str| {
        json!([{ "event": "reject", "msg": { "email": "a@b.example" },
        "reject": { "reason": reason } }])
    };
    for (provider, payload, kind) in [
        (Provider::Mailgun, mailgun("suppress-unsubscribe"), Kind::Unsubscribe),
        (Provider::Mailgun, mailgun("suppress-complaint"), Kind::Complaint),
        (Provider::Mailgun, mailgun("suppress-bounce"), Kind::Failed),
        (Provider::Sendgrid, grid("Unsubscribed Address"), Kind::Unsubscribe),
        (Provider::Sendgrid, grid("Spam Reporting Address"), Kind::Complaint),
        (Provider::Sendgrid, grid("Bounced Address"), Kind::Failed),
        (Provider::Mandrill, mandrill("unsub"), Kind::Unsubscribe),
        (Provider::Mandrill, mandrill("spam"), Kind::Complaint),
        (Provider::Mandrill, mandrill("hard-bounce"), Kind::Failed),
    ] {
        let event = one(provider, &payload);
        assert_eq!(event.kind(), kind, "{payload}");
        // What they remember is no new evidence of a dead address.
        assert!(!event.classify(ProviderId::OTHER).is_hard(), "{payload}");
    }
}

#[test]
fn what_is_temporary_stays_so_and_what_is_looked_at_is_nothing() {
    for provider in Provider::ALL.into_iter().filter(|one| tells(*one, "deferred")) {
        let said = Said::new("deferred", "ada@example.net", Timestamp::now());
        let sender = Sender::new(provider);
        let sent = sender.send(&said, Timestamp::now());
        let opened = sent.open(&sender.hook(), sender.certificate().as_ref(), Timestamp::now());
        let Ok(Opened::Events(events)) = opened else { panic!("{provider}: {opened:?}") };
        assert_eq!(events[0].kind(), Kind::Delayed, "{provider}");
        let class = events[0].classify(ProviderId::OTHER);
        assert_eq!(class.permanence, Permanence::Transient, "{provider}");
    }
    for (provider, payload) in [
        (Provider::Sendgrid, json!([{ "event": "open", "email": "a@b.example" }])),
        (Provider::Sendgrid, json!([{ "event": "made-up", "email": "a@b.example" }])),
        (Provider::Postmark, json!({ "RecordType": "Bounce", "Type": "AutoResponder" })),
        (
            Provider::Postmark,
            json!({ "RecordType": "SubscriptionChange", "Origin": "Customer",
            "SuppressSending": true }),
        ),
        (Provider::Sparkpost, json!([{ "msys": {} }])),
        (
            Provider::Sparkpost,
            json!([{ "msys": { "message_event": { "type": "bounce",
            "bounce_class": "60" } } }]),
        ),
        (
            Provider::Postal,
            json!({ "payload": { "status": "HardFail",
            "message": { "direction": "incoming" } } }),
        ),
        (Provider::Azure, json!([{ "eventType": "Microsoft.Storage.BlobCreated" }])),
        (Provider::Generic, json!({ "event": "eaten", "recipient": "a@b.example" })),
    ] {
        assert_eq!(one(provider, &payload).kind(), Kind::NotAReport, "{payload}");
    }
}

#[test]
fn batches_are_read_event_by_event_and_each_is_kept_alone() {
    for provider in [
        Provider::Sendgrid,
        Provider::Mailjet,
        Provider::Sparkpost,
        Provider::Azure,
        Provider::Brevo,
        Provider::Mandrill,
    ] {
        let said = |to| payload(provider, &Said::new("bounced", to, Timestamp::now()));
        let of = |to| serde_json::from_slice::<Value>(&said(to)).unwrap();
        let list = |value: Value| value.as_array().map_or(vec![value.clone()], Clone::clone);
        let both = [list(of("ada@example.net")), list(of("grace@example.net"))].concat();
        let events = read(provider, Value::from(both).to_string().as_bytes()).unwrap();
        let to: Vec<_> = events.iter().map(|event| event.recipient.as_deref().unwrap()).collect();
        assert_eq!(to, ["ada@example.net", "grace@example.net"], "{provider}");
        for event in &events {
            let mut again = read(provider, &event.raw).unwrap();
            again[0].raw.clone_from(&event.raw);
            assert_eq!(std::slice::from_ref(event), again, "{provider}");
        }
    }
}
