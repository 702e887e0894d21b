//! I9: every copy carries its own reader's data and nobody else's. Each message that a sink kept is
//! taken apart; every address, name and token in it has to be its reader's, or the house's own.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
};

use postrider::{
    cli::Context,
    id::{CopyId, IssueId, SubscriberId},
    sink::content::Content,
    smtp::{message::copy_of_message_id, verp},
    timestamp::Timestamp,
    token::{Keyring, Purpose, ReaderToken, TOKEN_LEN_MIN},
};

use super::{Copy, Handoff};
use crate::harness::Sink;

/// How many messages of a sink are read, unless the environment asks for all: reading one takes
/// longer than sending it.
const SAMPLE: usize = 1000;

/// Whose an address or a name is, over all readers of the ledger.
struct Readers<'a> {
    addresses: HashMap<&'a str, SubscriberId>,
    names: HashMap<&'a str, SubscriberId>,
}

/// Reads what `sink` kept of `issue`.
pub(super) fn check(context: &Context, sink: &Sink, issue: IssueId, copies: &BTreeMap<i64, Copy>) {
    let handoffs = || {
        let all = copies.values();
        all.flat_map(|copy| copy.handoffs.iter().map(|handoff| (handoff, copy.subscriber)))
    };
    let first_names = handoffs().filter_map(|(handoff, whose)| {
        let name = handoff.name.split(' ').next()?;
        Some((name, whose)).filter(|(name, _)| !name.is_empty())
    });
    let readers = Readers {
        addresses: handoffs().map(|(handoff, whose)| (handoff.address.as_str(), whose)).collect(),
        names: first_names.collect(),
    };
    let mails = sink.mails();
    let sample =
        if std::env::var_os("POSTRIDER_TEST_NIGHTLY").is_some() { mails.len() } else { SAMPLE };
    let mut read = 0;
    for path in mails.iter().step_by(mails.len().div_ceil(sample.max(1)).max(1)) {
        let content = Content::parse(&fs::read(path).unwrap());
        let id = content.header("Message-ID").unwrap();
        let CopyId::Issue { issue: of, subscriber } =
            copy_of_message_id(&context.keyring, id, Timestamp::now()).unwrap()
        else {
            continue;
        };
        if of != issue {
            continue;
        }
        let copy = &copies[&subscriber.0];
        own_copy(&context.keyring, &content, copy, issue, &readers);
        read += 1;
    }
    assert!(read > 0 || mails.is_empty(), "no copy was read");
}

fn own_copy(
    keyring: &Keyring,
    content: &Content,
    copy: &Copy,
    issue: IssueId,
    readers: &Readers<'_>,
) {
    let subject = content.header("Subject").unwrap();
    assert!(!subject.contains("EDITED"), "{subject}");
    let bodies = [content.text.as_deref().unwrap(), content.html.as_deref().unwrap()];
    let to = content.header("To").unwrap();
    let whole = |handoff: &&Handoff| {
        to.contains(&handoff.address)
            && bodies
                .iter()
                .all(|body| body.contains(&handoff.name) && body.contains(&handoff.address))
    };
    assert!(
        copy.handoffs.iter().any(|handoff| whole(&handoff)),
        "I9: {to}, {bodies:?} of {copy:?}"
    );
    let edited = bodies.iter().any(|body| body.contains("EDITED"));
    assert!(!edited, "a copy says what was written after its send began: {copy:?}");
    let mut tokens = 0;
    let headers = content.headers.iter().map(|(_, value)| value.as_str());
    for text in headers.chain(bodies).chain(content.links.iter().map(String::as_str)) {
        for word in text.split(|c: char| !is_of_a_word(c)) {
            let whose = readers.addresses.get(word);
            let own = whose.is_none_or(|whose| *whose == copy.subscriber);
            assert!(own, "I9: {word} of {whose:?} in {copy:?}");
            for part in word.split(|c: char| !c.is_ascii_alphanumeric()) {
                let whose = readers.names.get(part);
                let own = whose.is_none_or(|whose| *whose == copy.subscriber);
                assert!(own, "I9: the name {part} of {whose:?} in {copy:?}");
                tokens += usize::from(own_token(keyring, part, copy, issue));
            }
        }
    }
    // A link to leave and one to preferences, in headers and both bodies.
    assert!(tokens >= 4, "I9: only {tokens} tokens in {copy:?}");
    let leave = content.header("List-Unsubscribe").unwrap();
    let mailto = leave.split("mailto:").nth(1).expect("a way to leave by mail");
    assert!(verp::find(mailto).is_some(), "I9: {leave}");
}

/// What addresses, names and tokens are made of.
fn is_of_a_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '@' | '.' | '-' | '+' | '_')
}

/// Whether `word` is a token; then it has to be this reader's, and of this issue.
fn own_token(keyring: &Keyring, word: &str, copy: &Copy, issue: IssueId) -> bool {
    if word.len() < TOKEN_LEN_MIN {
        return false;
    }
    let now = Timestamp::now();
    let opens = |purpose| ReaderToken::open(keyring, purpose, word, now).ok();
    let Some(token) = [Purpose::Unsubscribe, Purpose::Preferences].into_iter().find_map(opens)
    else {
        return false;
    };
    assert_eq!((token.subscriber, token.issue), (copy.subscriber, Some(issue)), "I9: {copy:?}");
    true
}
