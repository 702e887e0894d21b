//! Whose copy a returned mail is about, as far as our own signatures prove it. Pure: the key ring
//! and the mail in, a name out.

use crate::{
    bounce::{
        intake::webhook::Carried,
        policy::Attribution,
        report::{Report, TokenPlace},
    },
    id::{CopyId, IssueId, NewsletterId, SubscriberId},
    smtp::{
        message::copy_of_message_id,
        verp::{self, TokenMailbox},
    },
    timestamp::Timestamp,
    token::{DeliveryToken, Keyring, Purpose, ReaderToken},
};

/// What a genuine token names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    /// One copy.
    Copy(CopyId),
    /// A reader of a newsletter; the issue whose copy had the link, when the link said so.
    Reader { newsletter: NewsletterId, subscriber: SubscriberId, issue: Option<IssueId> },
}

/// What `mail` is about: by the token in the address it was sent to, else by our own Message-ID,
/// ENVID, return path or unsubscribe address in what came back.
pub(super) fn attribute(
    keyring: &Keyring,
    report: &Report,
    now: Timestamp,
) -> (Attribution, Option<Named>) {
    let tokens: Vec<_> = report.tokens().collect();
    let opened = |place: TokenPlace| {
        let mut there = tokens.iter().filter(|(at, ..)| *at == place);
        there.find_map(|(_, mailbox, token)| open(keyring, *mailbox, token, now))
    };
    if let Some(named) = opened(TokenPlace::Envelope) {
        return (Attribution::Verp, Some(named));
    }
    let original = report.original.as_ref();
    let by_message_id = || {
        let id = original?.message_id.as_deref()?;
        copy_of_message_id(keyring, id, now).ok().map(Named::Copy)
    };
    let by_envelope_id = || {
        let id = report.envelope_id.as_deref()?;
        open(keyring, TokenMailbox::Bounce, id.trim(), now)
    };
    let named =
        by_message_id().or_else(by_envelope_id).or_else(|| opened(TokenPlace::ReturnedHeaders));
    match named {
        Some(named) => (Attribution::ReturnedHeaders, Some(named)),
        None => (Attribution::None, None),
    }
}

/// What an event of a provider is about: by what was in our copy and came back with the event.
pub(super) fn attribute_event(
    keyring: &Keyring,
    carried: &Carried,
    now: Timestamp,
) -> (Attribution, Option<Named>) {
    let by_message_id = || {
        let mut ids = carried.message_ids.iter();
        ids.find_map(|id| copy_of_message_id(keyring, id, now).ok().map(Named::Copy))
    };
    let list = carried.list_unsubscribe.as_deref().unwrap_or_default();
    let addresses = || carried.return_path.as_deref().into_iter().chain(list.split(',').take(8));
    let by_address = || {
        let mut found = addresses().filter_map(verp::find);
        found.find_map(|(mailbox, token)| open(keyring, mailbox, token, now))
    };
    match by_message_id().or_else(by_address) {
        Some(named) => (Attribution::ReturnedHeaders, Some(named)),
        None => (Attribution::None, None),
    }
}

/// The copy (`issue.subscriber`, or `s` and a service mail's number) or reader (`newsletter/subscriber`)
/// that a genuine token in `report` names.
pub fn named_by(keyring: &Keyring, report: &Report, now: Timestamp) -> Option<String> {
    Some(match attribute(keyring, report, now).1? {
        Named::Copy(copy) => copy.to_string(),
        Named::Reader { newsletter, subscriber, .. } => format!("{newsletter}/{subscriber}"),
    })
}

/// What `token` in such a mailbox names, if it is genuine.
fn open(keyring: &Keyring, mailbox: TokenMailbox, token: &str, now: Timestamp) -> Option<Named> {
    match mailbox {
        TokenMailbox::Bounce => {
            DeliveryToken::open(keyring, token, now).ok().map(|token| Named::Copy(token.0))
        }
        TokenMailbox::Unsubscribe => {
            let token = ReaderToken::open(keyring, Purpose::Unsubscribe, token, now).ok()?;
            let ReaderToken { newsletter, subscriber, issue } = token;
            Some(Named::Reader { newsletter, subscriber, issue })
        }
    }
}

/// Whether `token` in such a mailbox is one of ours.
pub(in crate::bounce) fn is_genuine(
    keyring: &Keyring,
    mailbox: TokenMailbox,
    token: &str,
    now: Timestamp,
) -> bool {
    open(keyring, mailbox, token, now).is_some()
}
