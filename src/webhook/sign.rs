//! The signature of Standard Webhooks: HMAC-SHA256 over the message's id, the moment and the body.

use aws_lc_rs::hmac;
use data_encoding::BASE64;

use crate::timestamp::Timestamp;

/// How many bytes a secret has, by the specification.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Signs messages with one secret.
#[derive(Debug)]
pub struct Signer(hmac::Key);

/// What a message's head says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    /// `webhook-id`: the same for every try of a message.
    pub(super) id: String,
    /// `webhook-timestamp`: when this try was made, in seconds.
    pub(super) timestamp: String,
    /// `webhook-signature`.
    pub(super) signature: String,
}

impl Signer {
    /// A signer with a secret as it is written: `whsec_` and base64. The error says what is wrong.
    pub fn new(secret: &str) -> Result<Self, &'static str> {
        let coded = secret.trim().strip_prefix("whsec_").ok_or("does not begin with whsec_")?;
        let secret = BASE64.decode(coded.as_bytes());
        let secret = secret.map_err(|_| "is not base64 after whsec_")?;
        if !SECRET_BYTES.contains(&secret.len()) {
            return Err("needs 24 to 64 bytes; `echo whsec_$(openssl rand -base64 32)` makes one");
        }
        Ok(Self(hmac::Key::new(hmac::HMAC_SHA256, &secret)))
    }

    /// The head of a message that goes out now.
    pub(super) fn head(&self, id: &str, now: Timestamp, body: &[u8]) -> Head {
        let timestamp = now.seconds().to_string();
        let mut signed = hmac::Context::with_key(&self.0);
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            signed.update(part);
        }
        let signature = format!("v1,{}", BASE64.encode(signed.sign().as_ref()));
        Head { id: id.to_owned(), timestamp, signature }
    }
}
