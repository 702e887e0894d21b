//! Private keys for DKIM, and what their public halves look like in the DNS.

use std::fmt;

use aws_lc_rs::{
    digest::{SHA256, digest},
    error::Unspecified,
    rand::{SecureRandom as _, SystemRandom},
    signature::{Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair},
};
use data_encoding::BASE64;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};

/// PKCS#8 (RFC 8410) of an Ed25519 key, up to its 32 octets: the form that every tool reads.
const ED25519_PKCS8_HEAD: &[u8] =
    b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
/// The algorithm `rsaEncryption` in a `SubjectPublicKeyInfo` (RFC 3279).
const RSA_ALGORITHM: &[u8] = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
/// Octets of one string in a TXT record (RFC 1035, section 3.3).
const TXT_STRING_OCTETS_MAX: usize = 255;

/// A private key that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DkimKeyError {
    /// No key in the PEM text.
    #[error(
        "no private key in PEM was found; an encrypted one has to be decrypted first: \
         openssl pkey -in encrypted.pem -out dkim.pem"
    )]
    NoKey,
    /// A key of another kind, or a broken one.
    #[error("the private key cannot be used ({0}); it must be RSA of 2048 to 8192 bits or Ed25519")]
    Rejected(String),
    /// A domain or selector that is no name in the DNS.
    #[error("“{0}” is not a name in the DNS; write it in ASCII (A-labels), without a final dot")]
    Name(String),
    /// The system's source of randomness failed.
    #[error("the operating system gave no random numbers")]
    Random,
}

/// The TXT record by which verifiers find a public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsRecord {
    /// The full name, without a final dot.
    pub name: String,
    /// The value, as one text however long.
    pub value: String,
}

/// The record as a line of a zone file, the value cut into strings of at most 255 octets.
impl fmt::Display for DnsRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}. IN TXT (", self.name)?;
        let mut rest = self.value.as_str();
        while !rest.is_empty() {
            let (string, later) = rest.split_at(rest.len().min(TXT_STRING_OCTETS_MAX));
            write!(f, " \"{string}\"")?;
            rest = later;
        }
        f.write_str(" )")
    }
}

pub(super) enum SigningKey {
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl SigningKey {
    pub(super) fn from_pem(pem: &str) -> Result<Self, DkimKeyError> {
        let der = PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| DkimKeyError::NoKey)?;
        let rejected = |reason: &dyn fmt::Display| DkimKeyError::Rejected(reason.to_string());
        match &der {
            PrivateKeyDer::Pkcs1(der) => RsaKeyPair::from_der(der.secret_pkcs1_der())
                .map(Self::Rsa)
                .map_err(|reason| rejected(&reason)),
            PrivateKeyDer::Pkcs8(der) => {
                let der = der.secret_pkcs8_der();
                // Keys from other tools come without their public half: "maybe unchecked".
                Ed25519KeyPair::from_pkcs8_maybe_unchecked(der)
                    .map(Self::Ed25519)
                    .or_else(|_| RsaKeyPair::from_pkcs8(der).map(Self::Rsa))
                    .map_err(|reason| rejected(&reason))
            }
            _ => Err(rejected(&"an elliptic-curve key")),
        }
    }

    /// A new key, and the PEM to keep.
    pub(super) fn generate_ed25519() -> Result<(Self, String), DkimKeyError> {
        let mut der = [0; ED25519_PKCS8_HEAD.len() + 32];
        let (head, seed) = der.split_at_mut(ED25519_PKCS8_HEAD.len());
        head.copy_from_slice(ED25519_PKCS8_HEAD);
        SystemRandom::new().fill(seed).map_err(|_| DkimKeyError::Random)?;
        let pem = format!(
            "-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n",
            BASE64.encode(&der)
        );
        Ok((Self::from_pem(&pem)?, pem))
    }

    pub(super) const fn algorithm(&self) -> &'static str {
        match self {
            Self::Rsa(_) => "rsa-sha256",
            Self::Ed25519(_) => "ed25519-sha256",
        }
    }

    /// The signature over `data`. Ed25519 signs the SHA-256 of it (RFC 8463, section 3).
    pub(super) fn sign(&self, data: &[u8]) -> Result<Vec<u8>, Unspecified> {
        match self {
            Self::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), data, &mut signature)?;
                Ok(signature)
            }
            Self::Ed25519(key) => Ok(key.sign(digest(&SHA256, data).as_ref()).as_ref().to_vec()),
        }
    }

    /// The value of the TXT record.
    pub(super) fn record(&self) -> String {
        let (kind, public) = match self {
            Self::Rsa(key) => ("rsa", subject_public_key_info(key.public_key().as_ref())),
            Self::Ed25519(key) => ("ed25519", key.public_key().as_ref().to_vec()),
        };
        format!("v=DKIM1; k={kind}; p={}", BASE64.encode(&public))
    }
}

/// The DER of an RSA public key as verifiers expect it in `p=` (RFC 6376, section 3.6.1, as
/// corrected by erratum 3017), from its PKCS#1 form.
fn subject_public_key_info(pkcs1: &[u8]) -> Vec<u8> {
    let mut bits = vec![0]; // no unused bits
    bits.extend_from_slice(pkcs1);
    let mut content = RSA_ALGORITHM.to_vec();
    push_der(0x03, &bits, &mut content);
    let mut info = Vec::new();
    push_der(0x30, &content, &mut info);
    info
}

fn push_der(tag: u8, content: &[u8], out: &mut Vec<u8>) {
    out.push(tag);
    let len = content.len();
    match len {
        0..0x80 => out.push(len as u8),
        0x80..0x100 => out.extend_from_slice(&[0x81, len as u8]),
        _ => out.extend_from_slice(&[0x82, (len >> 8) as u8, len as u8]),
    }
    out.extend_from_slice(content);
}
