//! The typed contents of tokens: row numbers as varints (LEB128), so that a VERP address stays short.

use super::{Keyring, Payload, Purpose, TokenError};
use crate::{
    id::{CopyId, IssueId, NewsletterId, ServiceMailId, SubscriberId},
    timestamp::Timestamp,
};

/// Names one copy; what a return path and a Message-ID carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeliveryToken(pub CopyId);

impl DeliveryToken {
    /// The token for a copy's return path (`smtp::verp`).
    pub fn seal(self, keyring: &Keyring) -> String {
        keyring.seal(Purpose::Bounce, &self.octets())
    }

    /// The copy that a return path names.
    pub fn open(keyring: &Keyring, token: &str, now: Timestamp) -> Result<Self, TokenError> {
        Self::from_payload(&keyring.open(Purpose::Bounce, token, now)?)
    }

    /// The token for a copy's Message-ID: the same in every attempt, whichever key signs by then.
    pub(crate) fn seal_message_id(self, keyring: &Keyring) -> String {
        keyring.seal_for_ever(Purpose::MessageId, &self.octets())
    }

    /// The copy that a Message-ID names.
    pub(crate) fn open_message_id(
        keyring: &Keyring,
        token: &str,
        now: Timestamp,
    ) -> Result<Self, TokenError> {
        Self::from_payload(&keyring.open(Purpose::MessageId, token, now)?)
    }

    fn octets(self) -> Octets {
        let mut octets = Octets::default();
        match self.0 {
            CopyId::Issue { issue, subscriber } => {
                octets.push(0);
                octets.push_varint(issue.0);
                octets.push_varint(subscriber.0);
            }
            CopyId::Service(id) => {
                octets.push(1);
                octets.push_varint(id.0);
            }
        }
        octets
    }

    fn from_payload(payload: &Payload) -> Result<Self, TokenError> {
        let mut rest = Varints(payload);
        let copy = match rest.octet()? {
            0 => CopyId::Issue {
                issue: IssueId(rest.varint()?),
                subscriber: SubscriberId(rest.varint()?),
            },
            1 => CopyId::Service(ServiceMailId(rest.varint()?)),
            _ => return Err(TokenError::Malformed),
        };
        rest.end(Self(copy))
    }
}

/// Names a reader of a newsletter: what the unsubscribe and preferences links carry. It goes on
/// working after the issue was deleted or the address changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReaderToken {
    /// Which newsletter.
    pub newsletter: NewsletterId,
    /// Which reader.
    pub subscriber: SubscriberId,
    /// The issue whose copy had the link, for the report of that issue.
    pub issue: Option<IssueId>,
}

impl ReaderToken {
    /// The token for a link of `purpose` ([`Purpose::Unsubscribe`], [`Purpose::Preferences`],
    /// [`Purpose::MyData`], [`Purpose::NotMe`]).
    pub fn seal(self, keyring: &Keyring, purpose: Purpose) -> String {
        let mut octets = Octets::default();
        octets.push_varint(self.newsletter.0);
        octets.push_varint(self.subscriber.0);
        if let Some(issue) = self.issue {
            octets.push_varint(issue.0);
        }
        keyring.seal(purpose, &octets)
    }

    /// The reader that a link of `purpose` names.
    pub fn open(
        keyring: &Keyring,
        purpose: Purpose,
        token: &str,
        now: Timestamp,
    ) -> Result<Self, TokenError> {
        let payload = keyring.open(purpose, token, now)?;
        let mut rest = Varints(&payload);
        let newsletter = NewsletterId(rest.varint()?);
        let subscriber = SubscriberId(rest.varint()?);
        let issue = if rest.0.is_empty() { None } else { Some(IssueId(rest.varint()?)) };
        rest.end(Self { newsletter, subscriber, issue })
    }
}

/// When a form was served: too young an answer comes from a program, too old a one from a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FormTime(pub Timestamp);

impl FormTime {
    /// The token for the form's hidden field.
    pub fn seal(self, keyring: &Keyring) -> String {
        keyring.seal(Purpose::FormTime, &self.0.microseconds().to_be_bytes())
    }

    /// When the form with this token was served.
    pub fn open(keyring: &Keyring, token: &str, now: Timestamp) -> Result<Self, TokenError> {
        let payload = keyring.open(Purpose::FormTime, token, now)?;
        let octets = <[u8; 8]>::try_from(&*payload).map_err(|_| TokenError::Malformed)?;
        Ok(Self(Timestamp::from_microseconds(i64::from_be_bytes(octets))))
    }
}

/// A payload being written: at most three varints of ten octets and a tag.
#[derive(Default)]
struct Octets {
    octets: [u8; 31],
    len: usize,
}

impl Octets {
    fn push(&mut self, octet: u8) {
        self.octets[self.len] = octet;
        self.len += 1;
    }

    fn push_varint(&mut self, value: i64) {
        let mut rest = value as u64;
        while rest > 0x7f {
            self.push((rest as u8 & 0x7f) | 0x80);
            rest >>= 7;
        }
        self.push(rest as u8);
    }
}

impl std::ops::Deref for Octets {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.octets[..self.len]
    }
}

/// A payload being read.
struct Varints<'a>(&'a [u8]);

impl Varints<'_> {
    fn octet(&mut self) -> Result<u8, TokenError> {
        let (&first, rest) = self.0.split_first().ok_or(TokenError::Malformed)?;
        self.0 = rest;
        Ok(first)
    }

    fn varint(&mut self) -> Result<i64, TokenError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let octet = self.octet()?;
            value |= u64::from(octet & 0x7f) << shift;
            if octet < 0x80 {
                return Ok(value as i64);
            }
        }
        Err(TokenError::Malformed)
    }

    fn end<T>(&self, value: T) -> Result<T, TokenError> {
        if self.0.is_empty() { Ok(value) } else { Err(TokenError::Malformed) }
    }
}
