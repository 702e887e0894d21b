//! How a request proves who sent it: secrets that it shows, and signatures over it. The forms are the
//! providers' own, each named where it is checked.

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    hmac,
    signature::{
        ECDSA_P256_SHA256_ASN1, RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY,
        RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, UnparsedPublicKey, VerificationAlgorithm,
    },
};
use axum::http::{HeaderMap, header};
use data_encoding::{BASE64, BASE64_NOPAD, HEXLOWER_PERMISSIVE};
use serde::Deserialize;

use super::{Hook, Provider, Refusal, SECRET_MIN, form::Form, json, md5};
use crate::timestamp::Timestamp;

/// A request as it came.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Its header.
    pub headers: &'a HeaderMap,
    /// What stands after the question mark of its address.
    pub query: Option<&'a str>,
    /// Its body.
    pub body: &'a [u8],
}

impl<'a> Request<'a> {
    fn field(&self, name: &str) -> &'a [u8] {
        self.headers.get(name).map_or(&[], |value| value.as_bytes())
    }

    fn text(&self, name: &str) -> &'a str {
        std::str::from_utf8(self.field(name)).unwrap_or_default().trim()
    }
}

/// What a proof says besides that it is one.
#[derive(Debug, Default)]
pub(super) struct Proof {
    /// Whether the signature covers a time.
    pub(super) dated: bool,
    /// When the request was signed.
    pub(super) at: Option<Timestamp>,
    /// The request's number, the same in every repetition.
    pub(super) id: Option<String>,
}

/// A configured secret as its provider's proofs use it.
pub(super) fn key(provider: Provider, secret: &str) -> Result<Vec<u8>, &'static str> {
    let secret = secret.trim();
    match provider {
        Provider::Sendgrid => {
            let der = public_key(secret).ok_or("is no public key in base64")?;
            // An uncompressed point on P-256 as SubjectPublicKeyInfo (RFC 5480).
            let fits = der.len() == 91 && der[..2] == [0x30, 0x59];
            if fits { Ok(der) } else { Err("is no public key for ECDSA on P-256") }
        }
        Provider::Postal => public_key(secret).ok_or("is no public key in base64, or as PEM"),
        Provider::Resend => {
            let coded = secret.strip_prefix("whsec_").ok_or("does not begin with whsec_")?;
            base64(coded.as_bytes())
                .filter(|key| key.len() >= SECRET_MIN)
                .ok_or("is not base64 after whsec_, or too short")
        }
        _ if secret.len() < SECRET_MIN => Err("is shorter than 16 characters"),
        _ => Ok(secret.as_bytes().to_vec()),
    }
}

/// The DER of a public key: base64, in PEM or without, as in a DKIM record (`p=`).
fn public_key(text: &str) -> Option<Vec<u8>> {
    let lines = text.lines().filter(|line| !line.starts_with("-----"));
    let joined: String = lines.flat_map(str::split_whitespace).collect();
    let coded = joined.rsplit_once("p=").map_or(joined.as_str(), |(_, key)| key);
    base64(coded.trim_end_matches(';').as_bytes()).filter(|der| der.len() > 64)
}

pub(super) fn base64(coded: &[u8]) -> Option<Vec<u8>> {
    BASE64.decode(coded).or_else(|_| BASE64_NOPAD.decode(coded)).ok()
}

/// Proves a request of any provider but Amazon.
pub(super) fn prove(hook: &Hook, request: &Request<'_>) -> Result<Proof, Refusal> {
    let wrong = |holds: bool| {
        let refusal = Refusal::NotAuthentic("its signature is missing or wrong");
        if holds { Ok(()) } else { Err(refusal) }
    };
    match hook.provider {
        Provider::Azure
        | Provider::Brevo
        | Provider::Mailjet
        | Provider::Postmark
        | Provider::Sparkpost => {
            let refusal = Refusal::NotAuthentic("it shows no secret, or a wrong one");
            shown(hook, request).then(Proof::default).ok_or(refusal)
        }
        Provider::Mailersend => {
            wrong(signed(hook, request, "signature")).map(|()| Proof::default())
        }
        Provider::Mailtrap => {
            wrong(signed(hook, request, "mailtrap-signature")).map(|()| Proof::default())
        }
        Provider::ForwardEmail => {
            wrong(signed(hook, request, "x-webhook-signature")).map(|()| Proof::default())
        }
        Provider::Mandrill => wrong(mandrill(hook, request)).map(|()| Proof::default()),
        Provider::UnisenderGo => wrong(unisender_go(hook, request)).map(|()| Proof::default()),
        Provider::Postal => wrong(postal(hook, request)).map(|()| Proof::default()),
        Provider::Sendgrid => sendgrid(hook, request),
        Provider::Resend => svix(hook, request),
        Provider::Mailgun => mailgun(hook, request),
        Provider::Generic => generic(hook, request),
        Provider::AmazonSes => Err(Refusal::NotAuthentic("it is proven elsewhere")),
    }
}

/// Whether the request shows one of the secrets: as the password of Basic authentication (or all of
/// `name:password`, where the secret has a colon), as a bearer token, in the agreed field, or, for the
/// one provider that may be unable to do better, as `secret` in the address.
pub(super) fn shown(hook: &Hook, request: &Request<'_>) -> bool {
    let mut shown = vec![request.field(&hook.header).to_vec()];
    for value in request.headers.get_all(header::AUTHORIZATION) {
        let (scheme, value) =
            value.to_str().ok().and_then(|v| v.split_once(' ')).unwrap_or_default();
        if scheme.eq_ignore_ascii_case("bearer") {
            shown.push(value.trim().as_bytes().to_vec());
        } else if scheme.eq_ignore_ascii_case("basic")
            && let Some(pair) = base64(value.trim().as_bytes())
        {
            let colon = pair.iter().position(|octet| *octet == b':');
            shown.extend(colon.map(|at| pair[at + 1..].to_vec()));
            shown.push(pair);
        }
    }
    if hook.provider == Provider::Azure {
        let query = request.query.unwrap_or_default().as_bytes();
        let pairs = url::form_urlencoded::parse(query).take(16);
        let secrets = pairs.filter(|(name, _)| name == "secret");
        shown.extend(secrets.map(|(_, value)| value.into_owned().into_bytes()));
    }
    let mut found = false;
    for key in &hook.keys {
        for secret in &shown {
            found |= verify_slices_are_equal(key, secret).is_ok();
        }
    }
    found
}

/// Whether `tag` is the HMAC of `parts` under any of the keys.
fn is_tag(hook: &Hook, algorithm: hmac::Algorithm, parts: &[&[u8]], tags: &[Vec<u8>]) -> bool {
    let mut found = false;
    for key in &hook.keys {
        let mut context = hmac::Context::with_key(&hmac::Key::new(algorithm, key));
        for part in parts {
            context.update(part);
        }
        let expected = context.sign();
        for tag in tags {
            found |= verify_slices_are_equal(expected.as_ref(), tag).is_ok();
        }
    }
    found
}

fn hex(text: &[u8]) -> Vec<Vec<u8>> {
    HEXLOWER_PERMISSIVE.decode(text).into_iter().collect()
}

/// HMAC-SHA-256 of the body in hexadecimal: MailerSend, Mailtrap, Forward Email.
fn signed(hook: &Hook, request: &Request<'_>, field: &str) -> bool {
    let tag = request.text(field);
    let tag = tag.strip_prefix("sha256=").unwrap_or(tag);
    is_tag(hook, hmac::HMAC_SHA256, &[request.body], &hex(tag.as_bytes()))
}

/// HMAC-SHA-1 over the address as it stands there, and each field's name and value in the order of
/// the names.
fn mandrill(hook: &Hook, request: &Request<'_>) -> bool {
    let Ok(form) = Form::read(request.body) else { return false };
    let Some(tag) = base64(request.field("x-mandrill-signature")) else { return false };
    let sorted = form.sorted();
    let fields = sorted.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]);
    let parts: Vec<&[u8]> = std::iter::once(hook.url.as_bytes()).chain(fields).collect();
    is_tag(hook, hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &parts, &[tag])
}

/// MD5 of the body, with the key in the place of the digest.
fn unisender_go(hook: &Hook, request: &Request<'_>) -> bool {
    #[derive(Deserialize)]
    struct Signed<'a> {
        auth: &'a str,
    }
    let Ok(Signed { auth }) = serde_json::from_slice(request.body) else { return false };
    if auth.len() != 32 {
        return false;
    }
    // The text lies within the body, as it was borrowed from there.
    let start = auth.as_ptr() as usize - request.body.as_ptr() as usize;
    let (before, after) = (&request.body[..start], &request.body[start + auth.len()..]);
    let mut found = false;
    for key in &hook.keys {
        let digest = md5::hex_digest(&[before, key, after].concat());
        found |= verify_slices_are_equal(digest.as_bytes(), auth.as_bytes()).is_ok();
    }
    found
}

/// RSA over the body: with SHA-256 in the newer field, with SHA-1 in the older one.
fn postal(hook: &Hook, request: &Request<'_>) -> bool {
    let newer = request.field("x-postal-signature-256");
    if newer.is_empty() {
        let older = request.field("x-postal-signature");
        return verified(hook, &RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY, request.body, older);
    }
    verified(hook, &RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, request.body, newer)
}

fn verified(
    hook: &Hook,
    algorithm: &'static dyn VerificationAlgorithm,
    message: &[u8],
    signature: &[u8],
) -> bool {
    let Some(signature) = base64(signature) else { return false };
    let holds =
        |key: &Vec<u8>| UnparsedPublicKey::new(algorithm, key).verify(message, &signature).is_ok();
    hook.keys.iter().any(holds)
}

/// ECDSA on P-256 over the time and the body.
fn sendgrid(hook: &Hook, request: &Request<'_>) -> Result<Proof, Refusal> {
    let time = request.field("x-twilio-email-event-webhook-timestamp");
    let signature = request.field("x-twilio-email-event-webhook-signature");
    let message = [time, request.body].concat();
    if !verified(hook, &ECDSA_P256_SHA256_ASN1, &message, signature) {
        return Err(Refusal::NotAuthentic("its signature is missing or wrong"));
    }
    let at = std::str::from_utf8(time).ok().and_then(json::time);
    Ok(Proof { dated: true, at, id: None })
}

/// Number, time and body, joined with dots, under HMAC-SHA-256; one or more signatures with their
/// versions. <https://docs.svix.com/receiving/verifying-payloads/how-manual>
fn svix(hook: &Hook, request: &Request<'_>) -> Result<Proof, Refusal> {
    let field = |name: &str| match request.text(&format!("svix-{name}")) {
        "" => request.text(&format!("webhook-{name}")),
        value => value,
    };
    let (id, time, signatures) = (field("id"), field("timestamp"), field("signature"));
    let tags = signatures.split(' ').take(8).filter_map(|one| one.strip_prefix("v1,"));
    let tags: Vec<_> = tags.filter_map(|tag| base64(tag.as_bytes())).collect();
    let parts = [id.as_bytes(), b".", time.as_bytes(), b".", request.body];
    if id.is_empty() || !is_tag(hook, hmac::HMAC_SHA256, &parts, &tags) {
        return Err(Refusal::NotAuthentic("its signature is missing or wrong"));
    }
    Ok(Proof { dated: true, at: json::time(time), id: Some(id.to_owned()) })
}

/// Time and token under HMAC-SHA-256, in the body itself. The rest of the body is not covered, so the
/// token counts once.
fn mailgun(hook: &Hook, request: &Request<'_>) -> Result<Proof, Refusal> {
    #[derive(Deserialize)]
    struct Payload {
        signature: Signed,
    }
    #[derive(Deserialize)]
    struct Signed {
        token: String,
        timestamp: Digits,
        signature: String,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Digits {
        Text(String),
        Number(u64),
    }
    let (token, time, tag) = if request.body.first() == Some(&b'{') {
        let payload: Payload = serde_json::from_slice(request.body)
            .map_err(|_| Refusal::Unreadable("it is no JSON with a signature in it"))?;
        let Signed { token, timestamp, signature } = payload.signature;
        let time = match timestamp {
            Digits::Text(text) => text,
            Digits::Number(number) => number.to_string(),
        };
        (token, time, signature)
    } else {
        let form = Form::read(request.body)?;
        let last = |name: &str| form.last(name).unwrap_or_default().to_owned();
        (last("token"), last("timestamp"), last("signature"))
    };
    let parts = [time.as_bytes(), token.as_bytes()];
    if token.is_empty() || !is_tag(hook, hmac::HMAC_SHA256, &parts, &hex(tag.as_bytes())) {
        return Err(Refusal::NotAuthentic("its signature is missing or wrong"));
    }
    Ok(Proof { dated: true, at: json::time(&time), id: Some(token) })
}

/// Our own: HMAC-SHA-256 over the time, a dot and the body.
fn generic(hook: &Hook, request: &Request<'_>) -> Result<Proof, Refusal> {
    let time = request.text("x-postrider-timestamp");
    let tag = request.text("x-postrider-signature");
    let tag = tag.strip_prefix("v1=").unwrap_or_default();
    let parts = [time.as_bytes(), b".", request.body];
    if !is_tag(hook, hmac::HMAC_SHA256, &parts, &hex(tag.as_bytes())) {
        return Err(Refusal::NotAuthentic("its signature is missing or wrong"));
    }
    Ok(Proof { dated: true, at: json::time(time), id: None })
}
