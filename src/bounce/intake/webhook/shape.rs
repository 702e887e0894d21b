//! Whose payload a file is, told by the members that it has. For people who explain a file; what comes
//! over the network is proven by its sender, never guessed.

use super::{
    Provider,
    json::{self, Doc},
};

/// What the first event of each provider has and no other's, before it in the list, has all of.
const SHAPES: [(Provider, &[&str]); 22] = [
    (Provider::AmazonSes, &["Type", "MessageId", "Message"]),
    (Provider::Azure, &["eventType", "data.recipient"]),
    (Provider::ForwardEmail, &["bounce", "bounced_at"]),
    (Provider::Mailgun, &["event-data"]),
    (Provider::Sparkpost, &["msys"]),
    (Provider::Postmark, &["RecordType"]),
    (Provider::UnisenderGo, &["auth", "events_by_user"]),
    (Provider::UnisenderGo, &["event_name", "status"]),
    (Provider::Resend, &["type", "data.email_id"]),
    (Provider::Mailersend, &["type", "data.type"]),
    (Provider::Postal, &["event", "payload"]),
    (Provider::Mandrill, &["_id", "msg"]),
    (Provider::Mandrill, &["type", "reject"]),
    (Provider::Sendgrid, &["event", "sg_event_id"]),
    (Provider::Sendgrid, &["event", "sg_message_id"]),
    (Provider::Mailjet, &["event", "mj_campaign_id"]),
    (Provider::Mailjet, &["event", "MessageID"]),
    (Provider::Brevo, &["event", "message-id"]),
    (Provider::Brevo, &["event", "ts_epoch"]),
    (Provider::Mailtrap, &["event", "email", "sending_stream"]),
    (Provider::Mailtrap, &["event", "email", "event_id"]),
    (Provider::Generic, &["event", "recipient"]),
];

/// Whether the file is JSON at all, which no mail is: a mail begins with the name of a field.
pub fn is_json(file: &[u8]) -> bool {
    matches!(file.trim_ascii_start().first(), Some(b'{' | b'['))
        && serde_json::from_slice::<serde::de::IgnoredAny>(file).is_ok()
}

impl Provider {
    /// The provider whose payloads, in JSON, look like this one.
    pub fn by_shape(payload: &[u8]) -> Option<Self> {
        let value = json::parse(payload).ok()?;
        let first = Doc::from(&value).items().next()?;
        let first = first.at("events").items().next().unwrap_or(first);
        let has = |names: &&[&str]| names.iter().all(|name| first.at(name).is_some());
        SHAPES.iter().find(|(_, names)| has(names)).map(|(provider, _)| *provider)
    }
}
