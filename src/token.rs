//! Signed tokens: what a link, a return path or a Message-ID says, and the proof that we said it.
//!
//! A token is lower-case base32 without padding (read in any case, because mail servers may change
//! the case of an address) of one octet key id, the payload, and 80 bits of HMAC-SHA-256 over
//! purpose, key id and payload. Tokens are signed, not encrypted: whoever holds one may read the row
//! numbers in it. Confirmation tokens carry nothing at all; see [`Keyring::derive`].
//!
//! Owns the key ring and every token format. Does not know what a token permits, nor the mailbox or
//! URL that it stands in (`smtp::verp`, `web`).

mod keyring;
mod payload;

use std::{sync::LazyLock, time::Duration};

use aws_lc_rs::{digest, hmac};
use data_encoding::{BASE32_NOPAD_NOCASE, Encoding, Specification};

pub use self::{
    keyring::{Keyring, KeyringError, KeyringFault},
    payload::{DeliveryToken, FormTime, ReaderToken},
};
use crate::{address::Address, timestamp::Timestamp};

static BASE32: Encoding = BASE32_NOPAD_NOCASE;
/// What tokens are written with.
static LOWER_CASE: LazyLock<Encoding> = LazyLock::new(|| {
    let mut specification = Specification::new();
    specification.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    specification.encoding().expect("32 different symbols are an encoding")
});

/// Octets of the MAC in a token: 80 bits, which nobody guesses over a network.
const MAC_OCTETS: usize = 10;
/// Octets of the longest token that is read; ours have at most 40.
const TOKEN_OCTETS_MAX: usize = 80;
/// The fewest characters a token can have: a key id, one octet of payload, the MAC.
pub const TOKEN_LEN_MIN: usize = (1 + 1 + MAC_OCTETS) * 8 / 5;
/// How long after its replacement a key still opens the tokens of purposes that end.
pub const OLD_KEY_ACCEPTED: Duration = Duration::from_hours(60 * 24);

/// What a token is for. A token made for one purpose opens for no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// The return path (VERP) of a copy.
    Bounce,
    /// The Message-ID of a copy.
    MessageId,
    /// Leaving a newsletter, by link, one-click POST or mail.
    Unsubscribe,
    /// The preferences page of a reader.
    Preferences,
    /// The reader's own data: export and erasure.
    MyData,
    /// Confirmation of a subscription; derived, never sealed.
    Confirm,
    /// "This was not me" in a confirmation mail.
    NotMe,
    /// When a form was served.
    FormTime,
    /// The keyed hash of an erased address; never leaves the database.
    AddressHash,
}

impl Purpose {
    /// The part of the MAC's input that keeps purposes apart. It ends in NUL, so that none is the
    /// beginning of another. Changing one makes all tokens of that purpose void.
    const fn label(self) -> &'static [u8] {
        match self {
            Self::Bounce => b"bounce\0",
            Self::MessageId => b"message-id\0",
            Self::Unsubscribe => b"unsubscribe\0",
            Self::Preferences => b"preferences\0",
            Self::MyData => b"my-data\0",
            Self::Confirm => b"confirm\0",
            Self::NotMe => b"not-me\0",
            Self::FormTime => b"form-time\0",
            Self::AddressHash => b"address-hash\0",
        }
    }

    /// Whether tokens stay good for as long as there is a newsletter, whatever becomes of the key:
    /// a reader may press "unsubscribe" in a mail of five years ago.
    const fn is_permanent(self) -> bool {
        matches!(self, Self::Unsubscribe | Self::Preferences | Self::MyData)
    }
}

/// Why a token does not open. For the log and for tests; a reader is told only that it is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not base32, too short, too long, or a payload of another shape.
    #[error("the token is malformed")]
    Malformed,
    /// Signed with a key that is not in the ring.
    #[error("the token names a key that this installation does not have")]
    UnknownKey,
    /// The MAC is wrong: altered, of another purpose, or never ours.
    #[error("the token's signature is wrong")]
    Forged,
    /// The key was replaced more than [`OLD_KEY_ACCEPTED`] ago.
    #[error("the token was signed with a key that was replaced more than 60 days ago")]
    KeyExpired,
}

/// The authentic content of a token.
#[derive(Debug, Clone, Copy)]
pub struct Payload {
    octets: [u8; TOKEN_OCTETS_MAX],
    end: usize,
}

impl std::ops::Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.octets.get(1..self.end).unwrap_or_default()
    }
}

impl Keyring {
    /// A token with `payload`, signed with the current key.
    pub fn seal(&self, purpose: Purpose, payload: &[u8]) -> String {
        seal_with(self.current(), purpose, payload)
    }

    /// Like [`Self::seal`], but the same in all years: signed with the ring's first key.
    fn seal_for_ever(&self, purpose: Purpose, payload: &[u8]) -> String {
        seal_with(self.first(), purpose, payload)
    }

    /// The payload of a token that we made for `purpose`. Takes the same time whatever is wrong with
    /// the MAC.
    pub fn open(
        &self,
        purpose: Purpose,
        token: &str,
        now: Timestamp,
    ) -> Result<Payload, TokenError> {
        let mut octets = [0; TOKEN_OCTETS_MAX];
        let len = BASE32.decode_len(token.len()).map_err(|_| TokenError::Malformed)?;
        if token.len() < TOKEN_LEN_MIN || len > TOKEN_OCTETS_MAX {
            return Err(TokenError::Malformed);
        }
        BASE32
            .decode_mut(token.as_bytes(), &mut octets[..len])
            .map_err(|_| TokenError::Malformed)?;
        let end = len - MAC_OCTETS;
        let key = self.key(octets[0]).ok_or(TokenError::UnknownKey)?;
        let expected = mac(&key.hmac, purpose, &octets[..end]);
        if !equal(&key.hmac, &octets[end..len], &expected.as_ref()[..MAC_OCTETS]) {
            return Err(TokenError::Forged);
        }
        // The oldest key makes the Message-IDs for ever; see `seal_for_ever`.
        let ends = !purpose.is_permanent() && purpose != Purpose::MessageId;
        match self.replaced_at(octets[0]) {
            Some(at) if ends && now > at.plus(OLD_KEY_ACCEPTED) => Err(TokenError::KeyExpired),
            _ => Ok(Payload { octets, end }),
        }
    }

    /// A secret of 160 bits that can be made again from `nonce`, so that the database keeps only its
    /// [`hash_token`]. Made with the current key; [`Self::derive_again`] makes it later.
    pub fn derive(&self, purpose: Purpose, nonce: &[u8]) -> String {
        derive_with(&self.current().hmac, purpose, nonce)
    }

    /// The token that [`Self::derive`] made from `nonce` when its hash was `hash`, whichever key was
    /// current then; `None` when no key of the ring did.
    pub fn derive_again(&self, purpose: Purpose, nonce: &[u8], hash: &[u8; 32]) -> Option<String> {
        let newest_first = self.keys().iter().rev();
        let mut tokens = newest_first.map(|key| derive_with(&key.hmac, purpose, nonce));
        tokens.find(|token| hash_token(token) == *hash)
    }

    /// The keyed hash of a mailbox ([`Address::key`]), by which an erased address stays suppressed.
    /// The same in all years: made with the ring's first key, which must never be lost.
    pub fn address_hash(&self, address: &Address) -> [u8; 16] {
        let tag = mac(&self.first().hmac, Purpose::AddressHash, address.key().as_bytes());
        let mut hash = [0; 16];
        hash.copy_from_slice(&tag.as_ref()[..16]);
        hash
    }
}

/// What the database keeps of a secret token: SHA-256 of it in lower case.
pub fn hash_token(token: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    let lower = token.to_ascii_lowercase();
    hash.copy_from_slice(digest::digest(&digest::SHA256, lower.as_bytes()).as_ref());
    hash
}

/// A fresh secret of 160 random bits, written as tokens are.
pub fn random_token() -> String {
    LOWER_CASE.encode(&rand::random::<[u8; 20]>())
}

fn seal_with(key: &keyring::Key, purpose: Purpose, payload: &[u8]) -> String {
    let signed = 1 + payload.len();
    let end = signed + MAC_OCTETS;
    debug_assert!(end <= TOKEN_OCTETS_MAX, "a token that `open` refuses is of no use");
    let mut token = [0; TOKEN_OCTETS_MAX];
    token[0] = key.id;
    token[1..signed].copy_from_slice(payload);
    let tag = mac(&key.hmac, purpose, &token[..signed]);
    token[signed..end].copy_from_slice(&tag.as_ref()[..MAC_OCTETS]);
    LOWER_CASE.encode(&token[..end])
}

fn derive_with(key: &hmac::Key, purpose: Purpose, nonce: &[u8]) -> String {
    LOWER_CASE.encode(&mac(key, purpose, nonce).as_ref()[..20])
}

fn mac(key: &hmac::Key, purpose: Purpose, octets: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    context.update(purpose.label());
    context.update(octets);
    context.sign()
}

/// Whether two truncated MACs are equal, in constant time: only whole tags can be verified, so the MAC
/// of the one is verified against the other.
fn equal(key: &hmac::Key, presented: &[u8], expected: &[u8]) -> bool {
    let of_expected = hmac::sign(key, expected);
    hmac::verify(key, presented, of_expected.as_ref()).is_ok()
}

#[cfg(test)]
mod tests;
