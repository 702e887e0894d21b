//! Payloads, proofs and limits, with senders of our own that speak and sign like the providers.

mod corpus;
mod limits;
mod proofs;
mod shapes;
mod words;

use std::sync::LazyLock;

use aws_lc_rs::{
    encoding::AsDer,
    hmac, rand, rsa,
    signature::{self, ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use data_encoding::{BASE64, HEXLOWER};
use serde_json::{Value, json};

use super::{Hook, Opened, Provider, Refusal, Request, md5};
use crate::{
    bounce::intake::webhook::Certificate,
    config::{self, Secret},
    timestamp::Timestamp,
};

/// The topic of the test's SES.
pub(crate) const TOPIC: &str = "arn:aws:sns:eu-west-1:123456789012:ses-events";
/// Where the test's hooks are.
pub(crate) const PUBLIC_URL: &str = "https://news.example.com/";

/// What a provider tells of one copy.
#[derive(Debug, Clone)]
pub(crate) struct Said {
    /// `bounced`, `complained`, `unsubscribed`, `deferred` or `delivered`.
    pub(crate) what: &'static str,
    pub(crate) recipient: String,
    /// Our Message-ID, with its brackets.
    pub(crate) message_id: Option<String>,
    pub(crate) reply: String,
    pub(crate) at: Timestamp,
    pub(crate) id: String,
}

impl Said {
    pub(crate) fn new(what: &'static str, recipient: &str, at: Timestamp) -> Self {
        Self {
            what,
            recipient: recipient.to_owned(),
            message_id: None,
            reply: "550 5.1.1 no such user here".to_owned(),
            at,
            id: format!("event-{}", ::rand::random::<u64>()),
        }
    }

    pub(crate) fn of(mut self, message_id: &str) -> Self {
        self.message_id = Some(format!("<{message_id}>"));
        self
    }
}

/// A request as a provider sends it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sent {
    pub(crate) headers: HeaderMap,
    pub(crate) query: Option<String>,
    pub(crate) body: Vec<u8>,
}

impl Sent {
    fn field(&mut self, name: &'static str, value: &str) {
        let value = HeaderValue::from_str(value).unwrap();
        self.headers.insert(HeaderName::from_static(name), value);
    }

    pub(crate) fn request(&self) -> Request<'_> {
        Request { headers: &self.headers, query: self.query.as_deref(), body: &self.body }
    }

    pub(crate) fn open(
        &self,
        hook: &Hook,
        certificate: Option<&Certificate>,
        now: Timestamp,
    ) -> Result<Opened, Refusal> {
        if !hook.admits(&self.request()) {
            return Err(Refusal::NotAuthentic("not admitted"));
        }
        hook.certificate(&self.request())?;
        hook.open(&self.request(), certificate, now)
    }
}

/// The pair behind every RSA signature of the tests, and one that is nobody's: making one takes long.
static RSA: LazyLock<[(rsa::KeyPair, String); 2]> = LazyLock::new(|| {
    [(); 2].map(|()| {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
        let pair = rsa::KeyPair::from_pkcs8(&key.serialize_der()).unwrap();
        let names = ["sns.amazonaws.com".to_owned()];
        let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        (pair, certificate.pem())
    })
});

/// A provider with its key.
pub(crate) struct Sender {
    pub(crate) provider: Provider,
    secret: String,
    ecdsa: Option<EcdsaKeyPair>,
    rsa: usize,
}

impl Sender {
    pub(crate) fn new(provider: Provider) -> Self {
        let random = HEXLOWER.encode(&::rand::random::<[u8; 20]>());
        let mut sender = Self { provider, secret: random, ecdsa: None, rsa: 0 };
        match provider {
            Provider::Resend => {
                sender.secret = format!("whsec_{}", BASE64.encode(&::rand::random::<[u8; 24]>()));
            }
            Provider::Sendgrid => {
                let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap();
                let der =
                    AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(pair.public_key())
                        .unwrap();
                sender.secret = BASE64.encode(der.as_ref());
                sender.ecdsa = Some(pair);
            }
            Provider::Postal => {
                sender.rsa = 0;
                let der = AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(
                    RSA[0].0.public_key(),
                )
                .unwrap();
                sender.secret = BASE64.encode(der.as_ref());
            }
            _ => {}
        }
        sender
    }

    /// Somebody who would like to be that provider: the same in all but the key.
    pub(crate) fn impostor(provider: Provider) -> Self {
        Self { rsa: 1, ..Self::new(provider) }
    }

    /// The webhook as it is configured for this sender.
    pub(crate) fn config(&self) -> config::Webhook {
        let by_topic = self.provider == Provider::AmazonSes;
        let secret = Secret::Text(self.secret.clone());
        config::Webhook {
            name: self.provider.as_str().to_owned(),
            provider: self.provider,
            secrets: if by_topic { Vec::new() } else { vec![secret] },
            header: None,
            topic: by_topic.then(|| TOPIC.to_owned()),
            url: None,
            tolerance: None,
            relay: None,
            rehearsal_origin: None,
        }
    }

    pub(crate) fn hook(&self) -> Hook {
        Hook::new(&self.config(), PUBLIC_URL).unwrap()
    }

    /// The certificate that Amazon would have at its address.
    pub(crate) fn pem(&self) -> &'static str {
        &RSA[self.rsa].1
    }

    /// The certificate that goes with [`Self::hook`].
    pub(crate) fn certificate(&self) -> Option<Certificate> {
        let by_topic = self.provider == Provider::AmazonSes;
        by_topic.then(|| Certificate::from_pem(RSA[0].1.as_bytes()).unwrap())
    }

    /// The request that tells of `said`, signed at `at`, for a hook under `public_url`.
    pub(crate) fn send(&self, said: &Said, at: Timestamp) -> Sent {
        self.sign(payload(self.provider, said), at, PUBLIC_URL)
    }

    /// Signs a payload.
    pub(crate) fn sign(&self, payload: Vec<u8>, at: Timestamp, public_url: &str) -> Sent {
        let mut sent = Sent { body: payload, ..Sent::default() };
        let seconds = (at.microseconds() / 1_000_000).to_string();
        let id = HEXLOWER.encode(&::rand::random::<[u8; 12]>());
        let body = sent.body.clone();
        match self.provider {
            Provider::Postmark | Provider::Mailjet => {
                let pair = BASE64.encode(format!("hook:{}", self.secret).as_bytes());
                sent.field("authorization", &format!("Basic {pair}"));
            }
            Provider::Brevo => sent.field("authorization", &format!("Bearer {}", self.secret)),
            Provider::Sparkpost => sent.field("x-webhook-secret", &self.secret),
            Provider::Azure => sent.query = Some(format!("a=b&secret={}", self.secret)),
            Provider::Mailersend => sent.field("signature", &self.hex_tag(&[&body])),
            Provider::Mailtrap => sent.field("mailtrap-signature", &self.hex_tag(&[&body])),
            Provider::ForwardEmail => sent.field("x-webhook-signature", &self.hex_tag(&[&body])),
            Provider::Generic => {
                let tag = self.hex_tag(&[seconds.as_bytes(), b".", &body]);
                sent.field("x-postrider-timestamp", &seconds);
                sent.field("x-postrider-signature", &format!("v1={tag}"));
            }
            Provider::Resend => {
                let key = BASE64.decode(&self.secret.as_bytes()["whsec_".len()..]).unwrap();
                let parts = [id.as_bytes(), b".", seconds.as_bytes(), b".", &body];
                let tag = BASE64.encode(&tag(hmac::HMAC_SHA256, &key, &parts));
                sent.field("svix-id", &id);
                sent.field("svix-timestamp", &seconds);
                sent.field("svix-signature", &format!("v1a,xxxx v1,{tag}"));
            }
            Provider::Sendgrid => {
                let message = [seconds.as_bytes(), &body].concat();
                let pair = self.ecdsa.as_ref().unwrap();
                let made = pair.sign(&rand::SystemRandom::new(), &message).unwrap();
                sent.field("x-twilio-email-event-webhook-timestamp", &seconds);
                let signature = BASE64.encode(made.as_ref());
                sent.field("x-twilio-email-event-webhook-signature", &signature);
            }
            Provider::Postal => {
                let signature = self.rsa_signature(&body);
                sent.field("x-postal-signature-256", &signature);
            }
            Provider::Mandrill => {
                let events = String::from_utf8(body).unwrap();
                let url = format!("{public_url}hooks/mandrill");
                let parts = [url.as_bytes(), b"mandrill_events", events.as_bytes()];
                let tag = tag(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, self.secret.as_bytes(), &parts);
                let mut form = url::form_urlencoded::Serializer::new(String::new());
                sent.body = form.append_pair("mandrill_events", &events).finish().into_bytes();
                sent.field("x-mandrill-signature", &BASE64.encode(&tag));
            }
            Provider::Mailgun => {
                let event: Value = serde_json::from_slice(&body).unwrap();
                let signature = self.hex_tag(&[seconds.as_bytes(), id.as_bytes()]);
                let signed = json!({ "token": id, "timestamp": seconds, "signature": signature });
                let payload = json!({ "event-data": event, "signature": signed });
                sent.body = payload.to_string().into_bytes();
            }
            Provider::UnisenderGo => {
                let text = String::from_utf8(body).unwrap();
                let digest = md5::hex_digest(text.replace("AUTH", &self.secret).as_bytes());
                sent.body = text.replace("AUTH", &digest).into_bytes();
            }
            Provider::AmazonSes => {
                let message = String::from_utf8(body).unwrap();
                sent.body = self.envelope("Notification", &message, at).to_string().into_bytes();
            }
        }
        sent
    }

    /// A message of SNS, signed.
    pub(crate) fn envelope(&self, kind: &str, message: &str, at: Timestamp) -> Value {
        let id = HEXLOWER.encode(&::rand::random::<[u8; 12]>());
        let at = at.to_string();
        let mut fields = vec![
            ("Message", message),
            ("MessageId", &id),
            ("Timestamp", &at),
            ("TopicArn", TOPIC),
            ("Type", kind),
        ];
        if kind == "Notification" {
            fields.insert(2, ("Subject", "Amazon SES Email Event Notification"));
        } else {
            fields.insert(2, ("SubscribeURL", "https://sns.eu-west-1.amazonaws.com/?Action=Go"));
            fields.insert(4, ("Token", "token"));
        }
        let text: String = fields.iter().flat_map(|(n, v)| [*n, "\n", *v, "\n"]).collect();
        let mut envelope = json!({
            "SignatureVersion": "2",
            "Signature": self.rsa_signature(text.as_bytes()),
            "SigningCertURL": "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-1.pem",
        });
        for (name, value) in fields {
            envelope[name] = value.into();
        }
        envelope
    }

    fn rsa_signature(&self, message: &[u8]) -> String {
        let pair = &RSA[self.rsa].0;
        let mut made = vec![0; pair.public_modulus_len()];
        pair.sign(&signature::RSA_PKCS1_SHA256, &rand::SystemRandom::new(), message, &mut made)
            .unwrap();
        BASE64.encode(&made)
    }

    fn hex_tag(&self, parts: &[&[u8]]) -> String {
        HEXLOWER.encode(&tag(hmac::HMAC_SHA256, self.secret.as_bytes(), parts))
    }
}

fn tag(algorithm: hmac::Algorithm, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(algorithm, key), &parts.concat()).as_ref().to_vec()
}

/// The word of `provider` for what happened.
fn word(provider: Provider, what: &str) -> &'static str {
    use Provider as P;
    let words: [&'static str; 5] = match provider {
        P::AmazonSes => ["Bounce", "Complaint", "", "DeliveryDelay", "Delivery"],
        P::Azure => ["Bounced", "", "", "", "Delivered"],
        P::Brevo => ["hard_bounce", "spam", "unsubscribe", "deferred", "delivered"],
        P::ForwardEmail => ["reject", "", "", "defer", ""],
        P::Generic => ["bounced", "complained", "unsubscribed", "deferred", "delivered"],
        P::Mailersend => {
            ["hard_bounced", "spam_complaint", "unsubscribed", "deferred", "delivered"]
        }
        P::Mailgun => ["failed", "complained", "unsubscribed", "", "delivered"],
        P::Mailjet => ["bounce", "spam", "unsub", "", "sent"],
        P::Mailtrap => ["bounce", "spam", "unsubscribe", "soft bounce", "delivery"],
        P::Mandrill => ["hard_bounce", "spam", "unsub", "deferral", "delivered"],
        P::Postal => ["HardFail", "", "", "SoftFail", "Sent"],
        P::Postmark => ["Bounce", "SpamComplaint", "SubscriptionChange", "", "Delivery"],
        P::Resend => {
            ["email.bounced", "email.complained", "", "email.delivery_delayed", "email.delivered"]
        }
        P::Sendgrid => ["bounce", "spamreport", "unsubscribe", "deferred", "delivered"],
        P::Sparkpost => ["bounce", "spam_complaint", "list_unsubscribe", "delay", "delivery"],
        P::UnisenderGo => ["hard_bounced", "spam", "unsubscribed", "soft_bounced", "delivered"],
    };
    let kinds = ["bounced", "complained", "unsubscribed", "deferred", "delivered"];
    words[kinds.iter().position(|kind| *kind == what).unwrap()]
}

/// Whether the provider has an event for that.
pub(crate) fn tells(provider: Provider, what: &str) -> bool {
    !word(provider, what).is_empty()
}

/// A payload of `provider`, invented after its documentation; what is signed inside is added by
/// [`Sender::sign`].
pub(crate) fn payload(provider: Provider, said: &Said) -> Vec<u8> {
    use Provider as P;
    let Said { recipient, reply, id, .. } = said;
    let (word, at) = (word(provider, said.what), said.at.to_string());
    let seconds = said.at.microseconds() / 1_000_000;
    let ours = said.message_id.clone();
    let bare = ours.as_ref().map(|id| id.trim_matches(['<', '>']).to_owned());
    let custom = json!({ "postrider": ours });
    let value = match provider {
        P::AmazonSes => {
            let parts = match said.what {
                "bounced" => ("bounce", "bouncedRecipients"),
                "complained" => ("complaint", "complainedRecipients"),
                "deferred" => ("deliveryDelay", "delayedRecipients"),
                _ => ("delivery", "recipients"),
            };
            let entry = json!({ "emailAddress": recipient, "diagnosticCode": reply });
            let entry = if said.what == "delivered" { recipient.clone().into() } else { entry };
            let mut event = json!({
                "eventType": word,
                "mail": {
                    "messageId": "0100-1", "destination": [recipient],
                    "headers": [{ "name": "Message-ID", "value": ours }],
                },
            });
            event[parts.0] = json!({ "bounceType": "Permanent", "bounceSubType": "General" });
            event[parts.0][parts.1] = json!([entry]);
            event
        }
        P::Azure => json!([{
            "id": id, "eventType": "Microsoft.Communication.EmailDeliveryReportReceived",
            "eventTime": at,
            "data": { "recipient": recipient, "status": word, "internetMessageId": ours,
                      "deliveryStatusDetails": { "statusMessage": reply } },
        }]),
        P::Brevo => json!({
            "event": word, "email": recipient, "ts_epoch": seconds * 1000, "reason": reply,
            "message-id": ours, "id": id,
        }),
        P::ForwardEmail => json!({
            "email_id": id, "recipient": recipient, "response": reply, "bounced_at": at,
            "headers": { "Message-ID": ours }, "bounce": { "action": word, "category": "recipient" },
        }),
        P::Generic => json!({ "events": [{
            "event": word, "recipient": recipient, "at": at, "id": id, "reply": reply,
            "message_id": ours,
        }]}),
        P::Mailersend => json!({
            "type": format!("activity.{word}"), "created_at": at,
            "data": { "id": id, "type": word, "recipient": recipient, "message_id": "m1",
                      "meta": { "bounce_reason": reply } },
        }),
        P::Mailgun => json!({
            "event": word, "severity": "permanent", "recipient": recipient, "timestamp": seconds,
            "message": { "headers": { "message-id": bare } },
            "delivery-status": { "message": reply, "code": 550 },
        }),
        P::Mailjet => json!([{
            "event": word, "email": recipient, "time": seconds, "hard_bounce": true,
            "error_related_to": "recipient", "error": "user unknown", "MessageID": 7,
            "Payload": custom.to_string(),
        }]),
        P::Mailtrap => json!({ "events": [{
            "event": word, "email": recipient, "timestamp": seconds, "event_id": id,
            "response": reply, "custom_variables": custom,
        }]}),
        P::Mandrill => json!([{
            "event": word, "ts": seconds, "_id": "m1",
            "msg": { "email": recipient, "diag": reply, "metadata": custom,
                     "bounce_description": "bad_mailbox" },
        }]),
        P::Postal => json!({
            "event": "MessageDeliveryFailed", "timestamp": seconds, "uuid": id,
            "payload": { "status": word, "output": reply,
                         "message": { "id": 5, "to": recipient, "message_id": bare } },
        }),
        P::Postmark => json!({
            "RecordType": word, "Type": "HardBounce", "ID": id, "Email": recipient,
            "Recipient": recipient, "Details": reply, "BouncedAt": at, "SuppressSending": true,
            "Origin": "Recipient", "SuppressionReason": "ManualSuppression", "Metadata": custom,
        }),
        P::Resend => json!({
            "type": word, "created_at": at,
            "data": { "email_id": id, "to": [recipient],
                      "headers": [{ "name": "Message-ID", "value": ours }],
                      "bounce": { "type": "Permanent", "subType": "NoEmail", "message": "no" } },
        }),
        P::Sendgrid => json!([{
            "event": word, "email": recipient, "timestamp": seconds, "sg_event_id": id,
            "reason": reply, "smtp-id": ours, "type": "bounce",
        }]),
        P::Sparkpost => json!([{ "msys": { "message_event": {
            "type": word, "bounce_class": "10", "rcpt_to": recipient, "raw_reason": reply,
            "event_id": id, "timestamp": seconds.to_string(), "rcpt_meta": custom,
        }}}]),
        P::UnisenderGo => json!({ "auth": "AUTH", "events_by_user": [{ "events": [{
            "event_name": "transactional_email_status",
            "event_data": { "email": recipient, "status": word, "event_time": at, "job_id": id,
                            "metadata": custom,
                            "delivery_info": { "delivery_status": "err_user_unknown",
                                               "destination_response": reply } },
        }]}]}),
    };
    value.to_string().into_bytes()
}
