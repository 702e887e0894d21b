//! Codes and SMTP phases inside the prose of servers: `550 5.1.1`, `(#5.1.1)`, "in reply to RCPT
//! TO command". Knows nothing of whose fault anything is.

use std::sync::LazyLock;

use crate::{
    bounce::phrases::Phrases,
    smtp::{client::Phase, reply::EnhancedCode},
};

/// What a piece of diagnostic text says in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Codes {
    /// The first reply code of class 4 or 5.
    pub(super) reply: Option<u16>,
    /// The enhanced code beside the reply code, else the first one.
    pub(super) enhanced: Option<EnhancedCode>,
    /// Some code in the text is of class 4.
    pub(super) temporary: bool,
}

/// Finds the codes of a diagnostic text.
pub(super) fn codes(text: &str) -> Codes {
    let mut found = Codes::default();
    let mut beside = None;
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if !bytes[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        let end = at + bytes[at..].iter().take_while(|b| b.is_ascii_digit() || **b == b'.').count();
        let token = text[at..end].trim_end_matches('.');
        let free = at == 0
            || !(bytes[at - 1].is_ascii_alphanumeric() || matches!(bytes[at - 1], b'.' | b'_'));
        if free && let Ok(code) = token.parse::<EnhancedCode>() {
            found.temporary |= code.0 == 4;
            found.enhanced.get_or_insert(code);
            if let Some(reply_end) = beside.take()
                && at - reply_end <= 3
            {
                found.enhanced = Some(code);
            }
        } else if free && let Some(code) = reply_code(bytes, at, token) {
            found.temporary |= code < 500;
            if found.reply.is_none() {
                found.reply = Some(code);
                beside = Some(at + 3);
            }
        }
        at = end.max(at + 1);
    }
    found
}

/// A reply code stands where a reply begins: at the start, after a punctuation mark, or before
/// an enhanced code. "within 500 minutes" is none.
fn reply_code(bytes: &[u8], at: usize, token: &str) -> Option<u16> {
    let code: u16 = token.parse().ok().filter(|c| token.len() == 3 && (400..=599).contains(c))?;
    let after = bytes.get(at + 3).copied();
    if !after.is_none_or(|b| matches!(b, b' ' | b'-' | b':' | b',' | b')' | b'\n' | b'\t')) {
        return None;
    }
    let before = bytes[..at].iter().rev().find(|b| **b != b' ' && **b != b'\t');
    let begins = before.is_none_or(|b| b.is_ascii_punctuation() || *b == b'\n');
    let tail = bytes.get(at + 4..).unwrap_or_default();
    let tail = &tail[..tail.len().min(12)];
    let tail = tail.strip_prefix(b"'").unwrap_or(tail);
    let token = tail.split(|b| !(b.is_ascii_digit() || *b == b'.')).next().unwrap_or_default();
    let speaks = std::str::from_utf8(token).is_ok_and(|t| t.parse::<EnhancedCode>().is_ok());
    (begins || speaks).then_some(code)
}

/// Phrases by which mail servers name the command that was refused. Lower case.
const PHASES: &[(&str, Phase)] = &[
    ("end of data command", Phase::Dot),
    ("after end of data", Phase::Dot),
    ("after sending the message", Phase::Dot),
    ("failed after i sent the message", Phase::Dot),
    ("final data", Phase::Dot),
    ("for text command", Phase::Dot),
    ("sent: data", Phase::Data),
    ("smtp:data", Phase::Data),
    ("rejected command data", Phase::Data),
    ("following data command", Phase::Data),
    ("reply to data", Phase::Data),
    ("after data", Phase::Data),
    (">>> data", Phase::Data),
    ("data command", Phase::Data),
    ("smtp command data", Phase::Data),
    ("reply to rcpt", Phase::RcptTo),
    ("after rcpt", Phase::RcptTo),
    ("our rcpt to", Phase::RcptTo),
    (">>> rcpt", Phase::RcptTo),
    ("[rcpt_to]", Phase::RcptTo),
    ("rcpt command", Phase::RcptTo),
    ("> rcpt to", Phase::RcptTo),
    ("< rcpt to", Phase::RcptTo),
    ("sent: rcpt to", Phase::RcptTo),
    ("smtp:rcpt", Phase::RcptTo),
    ("error, rcpt to", Phase::RcptTo),
    ("following rcpt command", Phase::RcptTo),
    ("rejected command rcpt", Phase::RcptTo),
    ("rejected recipient <", Phase::RcptTo),
    ("does not like recipient", Phase::RcptTo),
    ("recipient command", Phase::RcptTo),
    ("> mail from", Phase::MailFrom),
    ("< mail from", Phase::MailFrom),
    ("sent: mail from", Phase::MailFrom),
    ("smtp:mail", Phase::MailFrom),
    ("following mail command", Phase::MailFrom),
    ("rejected command mail", Phase::MailFrom),
    ("does not like sender", Phase::MailFrom),
    ("reply to mail", Phase::MailFrom),
    ("after mail from", Phase::MailFrom),
    ("our mail from", Phase::MailFrom),
    (">>> mail", Phase::MailFrom),
    ("[mail_from]", Phase::MailFrom),
    ("sender was rejected", Phase::MailFrom),
    ("server rejected mail from", Phase::MailFrom),
    ("reply to helo", Phase::Ehlo),
    ("reply to ehlo", Phase::Ehlo),
    ("after helo", Phase::Ehlo),
    ("after ehlo", Phase::Ehlo),
    (">>> ehlo", Phase::Ehlo),
    (">>> helo", Phase::Ehlo),
    ("my name was rejected", Phase::Ehlo),
    ("starttls command", Phase::StartTls),
    ("after initial connection", Phase::Greeting),
    ("refused to talk to me", Phase::Greeting),
];

/// The command that was refused, if the text, which is one line, names it; the last one named counts,
/// as transcripts run in order.
pub(super) fn phase(line: &str) -> Option<Phase> {
    static WORDS: LazyLock<Phrases> =
        LazyLock::new(|| Phrases::new(PHASES.iter().map(|(words, _)| words)));
    let text = line.to_ascii_lowercase();
    let start = |(which, end): &(usize, usize)| end - PHASES[*which].0.len();
    WORDS.all(&text).max_by_key(start).map(|(which, _)| PHASES[which].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_found_where_replies_begin() {
        let check = |text: &str, reply: Option<u16>, enhanced: Option<EnhancedCode>| {
            let found = codes(text);
            assert_eq!((found.reply, found.enhanced), (reply, enhanced), "{text}");
        };
        check("smtp; 550 5.1.1 <ada@example.org>: no", Some(550), Some(EnhancedCode(5, 1, 1)));
        check("550-5.7.26 first\n550 5.7.26 second", Some(550), Some(EnhancedCode(5, 7, 26)));
        check("mx.example [192.0.2.5]: 451 later", Some(451), None);
        check("Sorry, no such box. (#5.1.1)", None, Some(EnhancedCode(5, 1, 1)));
        check("tried 500 times in 432000 seconds", None, None);
        check("5.1.0 - unknown: 550-'5.7.1 no access'", Some(550), Some(EnhancedCode(5, 7, 1)));
        check("address 5.5.5.5 and version v4.1.2", None, None);
        check("550: 5.2.1 disabled", Some(550), Some(EnhancedCode(5, 2, 1)));
        check("220-mx 421 4.2.1 later", Some(421), Some(EnhancedCode(4, 2, 1)));
        check("", None, None);
        assert!(codes("554 5.4.7 expired <421 4.4.2 timed out>").temporary);
        assert!(!codes("554 5.1.1 no").temporary);
    }

    #[test]
    fn phases_are_named_in_many_ways() {
        assert_eq!(phase("550 no (in reply to RCPT TO command)"), Some(Phase::RcptTo));
        assert_eq!(phase("error after MAIL FROM:<a@b>: 550 no"), Some(Phase::MailFrom));
        assert_eq!(phase(">>> RCPT To:<a@b> <<< 250 ok >>> DATA <<< 554 spam"), Some(Phase::Data));
        assert_eq!(phase("host gone"), None);
    }
}
