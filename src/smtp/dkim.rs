//! DKIM signatures (RFC 6376, RFC 8463) in front of composed messages.
//!
//! `c=relaxed/simple`: relays fold headers anew, so those are signed relaxed; bodies are canonical
//! by construction (no line ends in whitespace, none follows the last), so `simple` hashes them as
//! they are and costs nothing more. The body is hashed once for all signatures.
//!
//! Owns keys, signing and the DNS record that goes with a key. Does not verify, look anything up, or
//! decide which key is in force: that is the configuration's. Signing with RSA takes most of a
//! millisecond and belongs on a worker thread.

mod key;

use aws_lc_rs::digest::{Context, Digest, SHA256};
use data_encoding::BASE64;

use self::key::SigningKey;
pub use self::key::{DkimKeyError, DnsRecord};
use super::message::ComposedMessage;
use crate::timestamp::Timestamp;

/// The fields that are signed where they are present, and whether there can be only one. Those are
/// named once more than they occur, so that nobody can add another (RFC 6376, section 8.15). Lists
/// and relays may add `List-*` fields of their own, which is why those are not.
const SIGNED: &[(&str, bool)] = &[
    ("from", true),
    ("to", true),
    ("subject", true),
    ("date", true),
    ("message-id", true),
    ("reply-to", true),
    ("cc", true),
    ("mime-version", true),
    ("content-type", true),
    ("content-transfer-encoding", true),
    ("auto-submitted", false),
    ("list-id", false),
    ("list-help", false),
    ("list-archive", false),
    ("list-owner", false),
    ("list-unsubscribe", false),
    ("list-unsubscribe-post", false),
    ("feedback-id", false),
];

/// Characters of a line of the signature field.
const LINE_LEN: usize = 76;

/// A key that signs for a domain, under the selector by which verifiers find its public half.
pub struct Signer {
    domain: String,
    selector: String,
    key: SigningKey,
}

/// Why a message was not signed. It is not to be sent without its signatures.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DkimError {
    /// What was given has no header, or its lines do not end in CRLF.
    #[error("this is not a message: no CRLF CRLF follows the header")]
    NotAMessage,
    /// A header line is neither a field nor the continuation of one.
    #[error("line {0} of the header is not a field")]
    NotAField(usize),
    /// The signature itself failed, for want of random numbers.
    #[error("the signature with selector {selector} failed: the system gave no random numbers")]
    Signature {
        /// Which key.
        selector: String,
    },
}

impl Signer {
    /// A signer with the private key in `pem`: RSA of 2048 bits or more as PKCS#8 or PKCS#1, or
    /// Ed25519 as PKCS#8. `domain` is the one of the From address, in A-labels.
    pub fn from_pem(domain: &str, selector: &str, pem: &str) -> Result<Self, DkimKeyError> {
        Self::new(domain, selector, SigningKey::from_pem(pem)?)
    }

    /// A signer with a new Ed25519 key, and the key as PEM to be kept in a file for the owner only.
    pub fn generate_ed25519(domain: &str, selector: &str) -> Result<(Self, String), DkimKeyError> {
        let (key, pem) = SigningKey::generate_ed25519()?;
        Ok((Self::new(domain, selector, key)?, pem))
    }

    /// The domain that signs (`d=`).
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The selector (`s=`).
    pub fn selector(&self) -> &str {
        &self.selector
    }

    /// The algorithm (`a=`): `rsa-sha256` or `ed25519-sha256`.
    pub fn algorithm(&self) -> &'static str {
        self.key.algorithm()
    }

    /// The TXT record that has to be published before the first signature.
    pub fn dns_record(&self) -> DnsRecord {
        DnsRecord {
            name: format!("{}._domainkey.{}", self.selector, self.domain),
            value: self.key.record(),
        }
    }

    fn new(domain: &str, selector: &str, key: SigningKey) -> Result<Self, DkimKeyError> {
        for name in [domain, selector] {
            let label = |label: &str| {
                (1..=63).contains(&label.len())
                    && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            };
            if name.len() > 253 || !name.split('.').all(label) {
                return Err(DkimKeyError::Name(name.to_owned()));
            }
        }
        Ok(Self {
            domain: domain.to_ascii_lowercase(),
            selector: selector.to_ascii_lowercase(),
            key,
        })
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}._domainkey.{} ({})", self.selector, self.domain, self.algorithm())
    }
}

/// Puts the signatures of `signers` in front of `message`.
pub fn sign(
    signers: &[Signer],
    message: &mut ComposedMessage,
    now: Timestamp,
) -> Result<(), DkimError> {
    let signatures = signatures(signers, message, now)?;
    message.put_in_front(&signatures);
    Ok(())
}

/// The `DKIM-Signature` fields of `signers` for `message`, in their order.
fn signatures(
    signers: &[Signer],
    message: &ComposedMessage,
    now: Timestamp,
) -> Result<Vec<u8>, DkimError> {
    if !message.has_body() {
        return Err(DkimError::NotAMessage);
    }
    let fields = fields(message.header())?;
    let (names, mut signed) = signed_fields(&fields);
    let body_hash = BASE64.encode(body_hash(message).as_ref());
    let signed_len = signed.len();
    let mut out = Vec::with_capacity(signers.len() * 1_024);
    for signer in signers {
        let start = out.len();
        signer.push_field(&names, &body_hash, now, &mut out);
        let (name, value) = out[start..].split_at("DKIM-Signature".len());
        signed.truncate(signed_len);
        push_relaxed(name, &value[1..], &mut signed);
        signed.truncate(signed.len() - 2); // the field's own CRLF is not signed
        let failed = |_| DkimError::Signature { selector: signer.selector.clone() };
        let signature = signer.key.sign(&signed).map_err(failed)?;
        push_cut(BASE64.encode(&signature).as_bytes(), "b=".len() + 1, &mut out);
        out.extend_from_slice(b"\r\n");
    }
    Ok(out)
}

impl Signer {
    /// Writes the field up to and including `b=`.
    fn push_field(&self, names: &str, body_hash: &str, now: Timestamp, out: &mut Vec<u8>) {
        let Self { domain, selector, .. } = self;
        let seconds = now.microseconds().max(0) / 1_000_000;
        let head = format!(
            "DKIM-Signature: v=1; a={}; c=relaxed/simple; t={seconds};\r\n \
             d={domain};\r\n s={selector};\r\n h=",
            self.algorithm(),
        );
        out.extend_from_slice(head.as_bytes());
        push_folded(names, "h=".len() + 1, out);
        out.extend_from_slice(format!(";\r\n bh={body_hash};\r\n b=").as_bytes());
    }
}

/// Writes `names` over as many lines as it takes, broken after a colon.
fn push_folded(names: &str, mut column: usize, out: &mut Vec<u8>) {
    for name in names.split_inclusive(':') {
        if column + name.len() > LINE_LEN {
            out.extend_from_slice(b"\r\n ");
            column = 1;
        }
        out.extend_from_slice(name.as_bytes());
        column += name.len();
    }
}

/// Writes `text` over as many lines as it takes, broken wherever one is full.
fn push_cut(text: &[u8], column: usize, out: &mut Vec<u8>) {
    let (first, rest) = text.split_at(text.len().min(LINE_LEN.saturating_sub(column)));
    out.extend_from_slice(first);
    for line in rest.chunks(LINE_LEN - 1) {
        out.extend_from_slice(b"\r\n ");
        out.extend_from_slice(line);
    }
}

/// One field: its name, and its value with all folds and the last CRLF.
type RawField<'a> = (&'a [u8], &'a [u8]);

fn fields(header: &[u8]) -> Result<Vec<RawField<'_>>, DkimError> {
    let mut fields: Vec<RawField<'_>> = Vec::with_capacity(20);
    let mut start = 0;
    let ends = memchr::memchr_iter(b'\n', header).map(|at| at + 1);
    for (nth, end) in ends.enumerate() {
        let line = &header[start..end];
        if matches!(line[0], b' ' | b'\t') {
            let (_, value) = fields.last_mut().ok_or(DkimError::NotAField(nth + 1))?;
            *value = &header[start - value.len()..end];
        } else {
            let colon = memchr::memchr(b':', line);
            let colon = colon.filter(|&at| at > 0).ok_or(DkimError::NotAField(nth + 1))?;
            fields.push((&line[..colon], &header[start + colon + 1..end]));
        }
        start = end;
    }
    Ok(fields)
}

/// The value of `h=`, and what is signed of the header, in the same order.
fn signed_fields(fields: &[RawField<'_>]) -> (String, Vec<u8>) {
    let mut names = String::with_capacity(512);
    let mut signed = Vec::with_capacity(4_096);
    let mut push_name = |name: &str| {
        if !names.is_empty() {
            names.push(':');
        }
        names.push_str(name);
    };
    for &(name, is_single) in SIGNED {
        // From the last to the first, as RFC 6376 (section 5.4.2) counts them.
        for (known, value) in fields.iter().rev() {
            if known.trim_ascii_end().eq_ignore_ascii_case(name.as_bytes()) {
                push_name(name);
                push_relaxed(name.as_bytes(), value, &mut signed);
            }
        }
        if is_single {
            push_name(name);
        }
    }
    (names, signed)
}

/// Relaxed header canonicalisation (RFC 6376, section 3.4.2).
fn push_relaxed(name: &[u8], value: &[u8], out: &mut Vec<u8>) {
    out.extend(name.iter().map(u8::to_ascii_lowercase));
    out.push(b':');
    let is_space = |octet: &u8| matches!(octet, b' ' | b'\t' | b'\r' | b'\n');
    let start = value.iter().take_while(|octet| is_space(octet)).count();
    let end = value.len() - value.iter().rev().take_while(|octet| is_space(octet)).count();
    let trimmed = value.get(start..end).unwrap_or_default();
    if memchr::memchr3(b'\t', b'\r', b'\n', trimmed).is_none()
        && memchr::memmem::find(trimmed, b"  ").is_none()
    {
        // Most fields are one line with single spaces.
        out.extend_from_slice(trimmed);
        return out.extend_from_slice(b"\r\n");
    }
    let mut words = trimmed.split(is_space).filter(|word| !word.is_empty());
    if let Some(first) = words.next() {
        out.extend_from_slice(first);
    }
    for word in words {
        out.push(b' ');
        out.extend_from_slice(word);
    }
    out.extend_from_slice(b"\r\n");
}

/// The hash of the body in its simple canonical form (RFC 6376, section 3.4.3): one CRLF at the end,
/// whatever was there.
fn body_hash(message: &ComposedMessage) -> Digest {
    let len = message.body().map(<[u8]>::len).sum::<usize>();
    let mut left = len - surplus_line_ends(message.body());
    let mut context = Context::new(&SHA256);
    for slice in message.body() {
        let slice = &slice[..slice.len().min(left)];
        context.update(slice);
        left -= slice.len();
    }
    if len == 0 {
        context.update(b"\r\n");
    }
    context.finish()
}

/// Octets of the line ends behind the first of those that end the body.
fn surplus_line_ends<'a>(body: impl DoubleEndedIterator<Item = &'a [u8]>) -> usize {
    let backwards = body.rev().flat_map(|slice| slice.iter().rev());
    let of_line_ends =
        backwards.zip(b"\n\r".iter().cycle()).take_while(|(one, other)| one == other);
    (of_line_ends.count() & !1).saturating_sub(2)
}

#[cfg(test)]
mod tests;
