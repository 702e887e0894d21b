//! What rules see of a text: the reply in it, in lower case, without what could be anybody's.

use std::sync::LazyLock;

use super::super::phrases::{Phrases, push_lower};

/// Octets of text that are looked at.
const TEXT_MAX: usize = 4_096;

/// The text as rules see it: lower case, one space between words, the codes that repeat on each
/// line of a reply gone, and every address replaced, so that no reader's name can choose a rule.
pub(super) fn normalised(text: &str) -> String {
    let text = &text[..text.floor_char_boundary(TEXT_MAX)];
    let mut out = String::with_capacity(text.len());
    let words = text.split_whitespace();
    for word in words {
        // `550-5.7.1 first` and the next line's `550-5.7.1`: a phrase may run across them.
        let digits = word.len() >= 4 && word.as_bytes()[..3].iter().all(u8::is_ascii_digit);
        if digits && word.as_bytes()[3] == b'-' {
            continue;
        }
        if !out.is_empty() {
            out.push(' ');
        }
        if memchr::memchr(b'@', word.as_bytes()).is_some() && !word.contains("://") {
            out.push_str("<>");
            // What is glued to an address still counts: `<ada@example.org>:`.
            out.extend(word.rsplit('>').next().filter(|rest| !rest.contains('@')));
        } else {
            push_lower(&mut out, word);
        }
    }
    out
}

/// Words with which the writers of reports introduce the reply that they got. Lower case.
const INTRODUCTIONS: [&str; 14] = [
    " said: ",
    "returned was: ",
    "response was: ",
    "responded with: ",
    "responded as follows: ",
    "server responded: ",
    "response from the remote server: ",
    "error message below: ",
    "unknown address error ",
    "other network problem ",
    "bad destination email address ",
    "remote server returned ",
    "server message: ",
    "reason given by the server: ",
];

/// What the writers of reports add to every reply, whatever it says. Lower case.
const AFTERTHOUGHTS: [&str; 4] =
    ["giving up on ", "i'm not going to try again", "(delivery attempts", "(in reply to "];

/// The reply that a report quotes, when it introduces one that has words: what stands around it is
/// the reporting server's own manner of speaking.
pub(super) fn quoted_reply(text: &str) -> Option<&str> {
    static BEFORE: LazyLock<Phrases> = LazyLock::new(|| Phrases::new(INTRODUCTIONS));
    static AFTER: LazyLock<Phrases> = LazyLock::new(|| Phrases::new(AFTERTHOUGHTS));
    let start = BEFORE.all(text).last()?.1;
    let reply = &text[start..];
    let end = AFTER.all(reply).next().map(|(which, end)| end - AFTERTHOUGHTS[which].len());
    let reply = &reply[..end.unwrap_or(reply.len())];
    let letters = reply.bytes().filter(u8::is_ascii_alphabetic).count();
    (letters >= 6).then_some(reply)
}
