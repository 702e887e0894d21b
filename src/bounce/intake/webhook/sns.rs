//! The envelope of Amazon SNS: who signed it, for which topic, and when.
//! <https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html>
//!
//! A signature of SNS proves that Amazon wrote the message, for anybody's topic: anyone with an
//! account there has such messages sent. So the topic has to be ours, and the certificate has to come
//! from where Amazon keeps them.

use aws_lc_rs::signature::{
    RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey,
    VerificationAlgorithm,
};
use serde::Deserialize;
use tokio_rustls::rustls::{
    pki_types::{CertificateDer, pem::PemObject},
    server::ParsedCertificate,
};
use url::Url;

use super::{Hook, Refusal, json, proof, proof::Request};
use crate::timestamp::Timestamp;

/// The public key of a certificate that Amazon signs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Certificate(Vec<u8>);

impl Certificate {
    /// The key of the first certificate in a PEM file.
    pub fn from_pem(pem: &[u8]) -> Option<Self> {
        let certificate = CertificateDer::from_pem_slice(pem).ok()?;
        let parsed = ParsedCertificate::try_from(&certificate).ok()?;
        Some(Self(parsed.subject_public_key_info().as_ref().to_vec()))
    }
}

/// The fields that are signed, and those that say how.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Envelope {
    r#type: String,
    message_id: String,
    topic_arn: String,
    message: String,
    timestamp: String,
    signature_version: String,
    signature: String,
    #[serde(rename = "SigningCertURL", alias = "SigningCertUrl")]
    signing_cert_url: String,
    subject: Option<String>,
    token: Option<String>,
    #[serde(rename = "SubscribeURL", alias = "SubscribeUrl")]
    subscribe_url: Option<String>,
}

/// What a proven envelope says.
pub(super) struct Proof {
    pub(super) at: Option<Timestamp>,
    /// The address that confirms a subscription to our topic.
    pub(super) confirm: Option<String>,
}

fn envelope(hook: &Hook, request: &Request<'_>) -> Result<Envelope, Refusal> {
    let envelope: Envelope = serde_json::from_slice(request.body)
        .map_err(|_| Refusal::Unreadable("it is no message of Amazon SNS"))?;
    if envelope.topic_arn != hook.topic {
        return Err(Refusal::NotAuthentic("it is of another topic"));
    }
    Ok(envelope)
}

/// Where the certificate is that the request names.
pub(super) fn certificate(hook: &Hook, request: &Request<'_>) -> Result<String, Refusal> {
    let envelope = envelope(hook, request)?;
    let url = pinned(&envelope.signing_cert_url);
    let is_pem = |url: &Url| url.path().rsplit('.').next() == Some("pem");
    let url = url.filter(|url| is_pem(url) && url.query().is_none());
    url.map(String::from).ok_or(Refusal::NotAuthentic("its certificate is not one of Amazon's"))
}

/// An address at `sns.REGION.amazonaws.com`, over HTTPS and nothing unusual.
fn pinned(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok().filter(|url| text.len() <= 2_048 && url.scheme() == "https")?;
    let host = url.host_str()?;
    let host = host.strip_suffix(".cn").unwrap_or(host);
    let region = host.strip_prefix("sns.")?.strip_suffix(".amazonaws.com")?;
    let named = region.len() >= 3
        && region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    let plain = url.port().is_none() && url.username().is_empty() && url.password().is_none();
    (named && plain).then_some(url)
}

/// Checks the signature, in either of its versions.
pub(super) fn prove(
    hook: &Hook,
    request: &Request<'_>,
    certificate: &Certificate,
) -> Result<Proof, Refusal> {
    let envelope = envelope(hook, request)?;
    let wrong = Refusal::NotAuthentic("its signature is missing or wrong");
    let algorithm: &'static dyn VerificationAlgorithm = match envelope.signature_version.as_str() {
        "1" => &RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY,
        "2" => &RSA_PKCS1_2048_8192_SHA256,
        _ => return Err(wrong),
    };
    let signature = proof::base64(envelope.signature.as_bytes()).ok_or(wrong)?;
    let signed = to_be_signed(&envelope).ok_or(wrong)?;
    let key = UnparsedPublicKey::new(algorithm, &certificate.0);
    key.verify(signed.as_bytes(), &signature).map_err(|_| wrong)?;
    let subscribes = envelope.r#type == "SubscriptionConfirmation";
    let confirm = match envelope.subscribe_url.filter(|_| subscribes) {
        Some(url) => Some(pinned(&url).map(String::from).ok_or(wrong)?),
        None => None,
    };
    Ok(Proof { at: json::time(&envelope.timestamp), confirm })
}

/// Names and values of the signed fields in the order of the names, each on a line.
fn to_be_signed(envelope: &Envelope) -> Option<String> {
    let of = |name, value: &Option<String>| value.clone().map(|value| (name, value));
    let some = |name, value: &String| Some((name, value.clone()));
    let fields = match envelope.r#type.as_str() {
        "Notification" => vec![
            some("Message", &envelope.message),
            some("MessageId", &envelope.message_id),
            of("Subject", &envelope.subject),
            some("Timestamp", &envelope.timestamp),
            some("TopicArn", &envelope.topic_arn),
            some("Type", &envelope.r#type),
        ],
        "SubscriptionConfirmation" | "UnsubscribeConfirmation" => vec![
            some("Message", &envelope.message),
            some("MessageId", &envelope.message_id),
            of("SubscribeURL", &envelope.subscribe_url),
            some("Timestamp", &envelope.timestamp),
            of("Token", &envelope.token),
            some("TopicArn", &envelope.topic_arn),
            some("Type", &envelope.r#type),
        ],
        _ => return None,
    };
    let mut text = String::new();
    for (name, value) in fields.into_iter().flatten() {
        text.push_str(name);
        text.push('\n');
        text.push_str(&value);
        text.push('\n');
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_amazons_own_addresses_are_fetched() {
        for (url, expected) in [
            ("https://sns.us-east-1.amazonaws.com/x.pem", true),
            ("https://sns.cn-north-1.amazonaws.com.cn/x.pem", true),
            ("http://sns.us-east-1.amazonaws.com/x.pem", false),
            ("https://sns.us-east-1.amazonaws.com:8443/x.pem", false),
            ("https://u@sns.us-east-1.amazonaws.com/x.pem", false),
            ("https://sns.us-east-1.amazonaws.com.evil.example/x.pem", false),
            ("https://evil.example/sns.us-east-1.amazonaws.com/x.pem", false),
            ("https://sns.us-east-1.amazonaws.com@evil.example/x.pem", false),
            ("https://sns.evil.example#.amazonaws.com/x.pem", false),
            ("https://bucket.s3.amazonaws.com/x.pem", false),
            ("https://sns.a.b.amazonaws.com/x.pem", false),
            ("https://sns..amazonaws.com/x.pem", false),
            ("https://amazonaws.com/x.pem", false),
            ("file:///sns.us-east-1.amazonaws.com/x.pem", false),
            ("", false),
        ] {
            assert_eq!(pinned(url).is_some(), expected, "{url}");
        }
    }
}
