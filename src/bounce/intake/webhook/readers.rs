//! One reader per provider: an authentic payload in, its events out. Each is a table of the
//! provider's words and the places of its fields; what is not in the tables is [`What::Other`] and
//! does nothing.

mod amazon_ses;
mod azure;
mod brevo;
mod forward_email;
mod generic;
mod mailersend;
mod mailgun;
mod mailjet;
mod mailtrap;
mod mandrill;
mod postal;
mod postmark;
mod resend;
mod sendgrid;
mod sparkpost;
mod unisender_go;

pub(super) use azure::handshake;
pub(super) use mailersend::is_ping;

use super::{
    EVENTS_MAX, Provider, Refusal,
    event::{Carried, HookEvent, Verdict, What},
    form::Form,
    json::{self, Doc},
};

/// The member of a provider's custom data under which our Message-ID stands.
const OURS: &str = "postrider";

/// Reads a payload. Its authenticity is not looked at.
pub(super) fn read(provider: Provider, body: &[u8]) -> Result<Vec<HookEvent>, Refusal> {
    let events = match provider {
        Provider::AmazonSes => amazon_ses::read(body)?,
        Provider::Azure => azure::read(body)?,
        Provider::Brevo => brevo::read(body)?,
        Provider::ForwardEmail => forward_email::read(body)?,
        Provider::Generic => generic::read(body)?,
        Provider::Mailersend => mailersend::read(body)?,
        Provider::Mailgun => mailgun::read(body)?,
        Provider::Mailjet => mailjet::read(body)?,
        Provider::Mailtrap => mailtrap::read(body)?,
        Provider::Mandrill => mandrill::read(body)?,
        Provider::Postal => postal::read(body)?,
        Provider::Postmark => postmark::read(body)?,
        Provider::Resend => resend::read(body)?,
        Provider::Sendgrid => sendgrid::read(body)?,
        Provider::Sparkpost => sparkpost::read(body)?,
        Provider::UnisenderGo => unisender_go::read(body)?,
    };
    if events.len() > EVENTS_MAX {
        return Err(Refusal::TooMuch);
    }
    let one = events.len() == 1;
    let tidied = events.into_iter().map(|event| {
        let mut event = event.tidied();
        if one {
            event.raw = body.to_vec();
        }
        event
    });
    Ok(tidied.collect())
}

/// The events of a payload that is a list of objects, or one object.
fn each(body: &[u8], event: impl Fn(Doc<'_>) -> HookEvent) -> Result<Vec<HookEvent>, Refusal> {
    let value = json::parse(body)?;
    all(Doc::from(&value), event, |raw| [b"[", raw, &b"]"[..]].concat())
}

/// The events of `list`; `wrap` makes a payload of one of them.
fn all(
    list: Doc<'_>,
    event: impl Fn(Doc<'_>) -> HookEvent,
    wrap: impl Fn(&[u8]) -> Vec<u8>,
) -> Result<Vec<HookEvent>, Refusal> {
    let mut events = Vec::new();
    for item in list.items().filter(|item| item.0.is_some_and(serde_json::Value::is_object)) {
        if events.len() == EVENTS_MAX {
            return Err(Refusal::TooMuch);
        }
        let mut event = event(item);
        if event.matters() {
            event.raw = wrap(&item.to_octets());
        }
        events.push(event);
    }
    Ok(events)
}

/// What a provider's word means.
fn meaning(words: &[(&str, What)], word: &str) -> What {
    words.iter().find(|(known, _)| *known == word).map_or(What::Other, |(_, what)| *what)
}

/// What a provider's word for a failure means.
fn verdict(words: &[(&str, Verdict)], word: &str) -> Option<Verdict> {
    words.iter().find(|(known, _)| *known == word).map(|(_, verdict)| *verdict)
}

/// Looks for our own fields in a list of `{"name": …, "value": …}`.
fn from_fields(fields: Doc<'_>, carried: &mut Carried) {
    for field in fields.items() {
        let value = field.text("value");
        match field.word("name").to_ascii_lowercase().as_str() {
            "message-id" => carried.add_message_id(value),
            "list-unsubscribe" => carried.list_unsubscribe = value,
            "return-path" => carried.return_path = value,
            _ => {}
        }
    }
}

/// Our Message-ID in custom data that came back as text: a JSON object, or the bare value.
fn from_text(custom: Option<String>, carried: &mut Carried) {
    let Some(custom) = custom else { return };
    match json::parse(custom.as_bytes()) {
        Ok(value) if value.is_object() => carried.add_message_id(Doc::from(&value).text(OURS)),
        _ => carried.add_message_id(Some(custom)),
    }
}

/// The verdict of Amazon SES and of those who speak like it.
fn ses_verdict(kind: &str, subkind: &str) -> Verdict {
    match (kind, subkind) {
        (_, "MailboxFull") => Verdict::Full,
        (_, "MessageTooLarge" | "ContentRejected" | "AttachmentRejected") => Verdict::Content,
        ("Permanent", "NoEmail") => Verdict::Dead,
        ("Permanent", _) => Verdict::Hard,
        _ => Verdict::Soft,
    }
}
