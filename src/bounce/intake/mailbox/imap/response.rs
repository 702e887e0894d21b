//! What an IMAP server says (RFC 3501, section 7), as far as we ask: a response is text with
//! literals in it, of which we need numbers, names and bodies. Pure.

/// A response: its text, in which `{n}` stands for literal number n, and the literals; none for one
/// that was too long to be kept.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) text: Vec<u8>,
    pub(super) literals: Vec<Option<Vec<u8>>>,
}

/// A piece of a response's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Open,
    Close,
    Literal(usize),
    Word(&'a [u8]),
    Quoted(&'a [u8]),
}

/// The octets that a literal announces at the end of a line (RFC 3501, section 4.3): `{123}`.
pub(super) fn announced(line: &[u8]) -> Option<u64> {
    let inner = line.strip_suffix(b"}")?;
    let open = inner.iter().rposition(|byte| *byte == b'{')?;
    number(&inner[open + 1..])
}

/// The message number and items of `* 12 FETCH (…)`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fetched {
    pub(super) uid: Option<u32>,
    pub(super) size: Option<u64>,
    pub(super) deleted: bool,
    /// The literal that is the body; one that is not there when the body is no literal.
    pub(super) body: Option<usize>,
}

impl Response {
    /// What follows `* `, unless it is the answer to a command.
    pub(super) fn untagged(&self) -> Option<&[u8]> {
        self.text.strip_prefix(b"* ")
    }

    /// The number of `* 12 NAME`.
    pub(super) fn numbered(&self, name: &[u8]) -> Option<u32> {
        let mut words = self.untagged()?.split(|byte| *byte == b' ');
        let number = number(words.next()?)?;
        let named = words.next()?.eq_ignore_ascii_case(name);
        named.then(|| u32::try_from(number).ok())?
    }

    /// The words of `* NAME …`.
    pub(super) fn words(&self, name: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
        let mut words = self.untagged()?.split(|byte| *byte == b' ');
        words.next()?.eq_ignore_ascii_case(name).then_some(words)
    }

    /// The number in a response code: `* OK [UIDVALIDITY 12] …` (RFC 3501, section 7.1).
    pub(super) fn code_number(&self, name: &str) -> Option<u32> {
        let text = self.untagged()?;
        let open = text.iter().position(|byte| *byte == b'[')?;
        let code = text[open + 1..].split(|byte| *byte == b']').next()?;
        let mut words = code.split(|byte| *byte == b' ');
        let named = words.next()?.eq_ignore_ascii_case(name.as_bytes());
        named.then(|| u32::try_from(number(words.next()?)?).ok())?
    }

    /// The items of a FETCH response.
    pub(super) fn fetched(&self) -> Option<Fetched> {
        self.numbered(b"FETCH")?;
        let mut tokens = tokens(&self.text).skip_while(|token| *token != Token::Open).skip(1);
        let mut fetched = Fetched::default();
        loop {
            let name = match tokens.next()? {
                Token::Close => return Some(fetched),
                Token::Word(name) => name,
                _ => return None,
            };
            let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
            match tokens.next()? {
                Token::Word(value) if is("UID") => fetched.uid = u32::try_from(number(value)?).ok(),
                Token::Word(value) if is("RFC822.SIZE") => fetched.size = number(value),
                Token::Literal(index) if is_body(name) => fetched.body = Some(index),
                // Not a literal: there is nothing in it, or nearly so.
                Token::Quoted(_) | Token::Word(_) if is_body(name) => {
                    fetched.body = Some(usize::MAX);
                }
                Token::Open => {
                    // FLAGS, or a list that nobody asked for.
                    let mut depth = 1;
                    while depth > 0 {
                        match tokens.next()? {
                            Token::Open => depth += 1,
                            Token::Close => depth -= 1,
                            Token::Word(flag) if is("FLAGS") => {
                                fetched.deleted |= flag.eq_ignore_ascii_case(b"\\Deleted");
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
    }
}

fn is_body(name: &[u8]) -> bool {
    name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case(b"BODY["))
}

/// A number of digits and nothing else.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    let digits = text.iter().all(u8::is_ascii_digit) && !text.is_empty();
    digits.then(|| std::str::from_utf8(text).ok()?.parse().ok())?
}

/// The pieces of a text. `BODY[HEADER.FIELDS (A B)]<0>` is one word.
fn tokens(text: &[u8]) -> impl Iterator<Item = Token<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let skip = rest.iter().take_while(|byte| **byte == b' ').count();
        rest = &rest[skip..];
        let (token, len) = match rest.first()? {
            b'(' => (Token::Open, 1),
            b')' => (Token::Close, 1),
            b'"' => {
                let len = quoted_len(rest);
                (Token::Quoted(&rest[..len]), len)
            }
            b'{' => {
                let len =
                    rest.iter().position(|byte| *byte == b'}').map_or(rest.len(), |at| at + 1);
                let inner = rest.get(1..len.max(2) - 1).unwrap_or_default();
                let index = number(inner).map_or(usize::MAX, |index| index as usize);
                (Token::Literal(index), len)
            }
            _ => {
                let len = word_len(rest);
                (Token::Word(&rest[..len]), len)
            }
        };
        rest = &rest[len..];
        Some(token)
    })
}

fn quoted_len(text: &[u8]) -> usize {
    let mut escaped = false;
    for (at, byte) in text.iter().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn word_len(text: &[u8]) -> usize {
    let mut brackets = 0_usize;
    for (at, byte) in text.iter().enumerate() {
        match byte {
            b'[' => brackets += 1,
            b']' => brackets = brackets.saturating_sub(1),
            b' ' | b'(' | b')' if brackets == 0 => return at.max(1),
            _ => {}
        }
    }
    text.len()
}

/// A folder's name as IMAP writes it (RFC 3501, section 5.1.3), in quotes: what is not printable
/// ASCII stands in a Base64 of its own.
pub(super) fn folder(name: &str) -> String {
    let mut out = String::from("\"");
    let mut shifted: Vec<u8> = Vec::new();
    let shift_back = |shifted: &mut Vec<u8>, out: &mut String| {
        if !shifted.is_empty() {
            let encoded = data_encoding::BASE64_NOPAD.encode(shifted).replace('/', ",");
            out.extend(["&", &encoded, "-"]);
            shifted.clear();
        }
    };
    for c in name.chars() {
        if c.is_ascii_graphic() || c == ' ' {
            shift_back(&mut shifted, &mut out);
            match c {
                '&' => out.push_str("&-"),
                '"' | '\\' => out.extend(['\\', c]),
                c => out.push(c),
            }
        } else {
            shifted.extend(c.encode_utf16(&mut [0; 2]).iter().flat_map(|unit| unit.to_be_bytes()));
        }
    }
    shift_back(&mut shifted, &mut out);
    out.push('"');
    out
}

/// Text in quotes, if it can be written so (RFC 3501, section 4.3).
pub(super) fn quoted(text: &str) -> Option<String> {
    let plain = text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    plain.then(|| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")))
}

/// A set of numbers as IMAP writes it, runs together: `4:6,9`. The numbers rise.
pub(super) fn set(numbers: &[u32]) -> String {
    let runs = numbers.chunk_by(|a, b| a.checked_add(1) == Some(*b));
    let written = runs.map(|run| match run {
        [one] => one.to_string(),
        [first, .., last] => format!("{first}:{last}"),
        [] => String::new(),
    });
    written.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn response(text: &str) -> Response {
        Response { text: text.as_bytes().to_vec(), literals: Vec::new() }
    }

    #[test]
    fn items_are_read_in_any_order() {
        let fetched = |text| response(text).fetched();
        let whole = Fetched { uid: Some(7), size: Some(1234), deleted: true, body: Some(0) };
        for text in [
            "* 3 FETCH (UID 7 FLAGS (\\Seen \\Deleted) RFC822.SIZE 1234 BODY[] {0})",
            "* 3 fetch (body[]<0> {0} rfc822.size 1234 flags (\\deleted) uid 7)",
            "* 3 FETCH (MODSEQ (12) X-NEW \"a ) \\\" b\" UID 7 RFC822.SIZE 1234 FLAGS (\\Deleted) BODY[] {0})",
        ] {
            assert_eq!(fetched(text).as_ref(), Some(&whole), "{text}");
        }
        assert_eq!(fetched("* 3 FETCH (FLAGS ())"), Some(Fetched::default()));
        // RFC 3501, section 7.4.2: an empty body may be NIL.
        let nil = fetched("* 3 FETCH (UID 7 BODY[] NIL)").unwrap();
        assert_eq!((nil.uid, nil.body), (Some(7), Some(usize::MAX)));
        for text in ["* 3 EXISTS", "* FETCH (UID 7)", "* 3 FETCH (UID 7", "* 3 FETCH UID", "A1 OK"]
        {
            assert_eq!(fetched(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_and_words_are_found() {
        assert_eq!(response("* 23 EXISTS").numbered(b"EXISTS"), Some(23));
        assert_eq!(response("* 23 exists").numbered(b"EXISTS"), Some(23));
        assert_eq!(response("* OK still here").numbered(b"EXISTS"), None);
        let code = response("* OK [UIDVALIDITY 3857529045] UIDs valid");
        assert_eq!(code.code_number("UIDVALIDITY"), Some(3_857_529_045));
        assert_eq!(code.code_number("UIDNEXT"), None);
        let offered = response("* CAPABILITY IMAP4rev1 MOVE");
        let words: Vec<_> = offered.words(b"CAPABILITY").unwrap().collect();
        assert_eq!(words, [&b"IMAP4rev1"[..], b"MOVE"]);
        for (line, count) in
            [("* 1 FETCH (BODY[] {310}", Some(310)), ("{}", None), ("{1", None), ("x", None)]
        {
            assert_eq!(announced(line.as_bytes()), count, "{line}");
        }
    }

    #[test]
    fn names_and_sets_are_written_as_the_standard_wants() {
        for (name, written) in [
            ("INBOX", "\"INBOX\""),
            ("Sent & \"done\"", "\"Sent &- \\\"done\\\"\""),
            ("台北", "\"&U,BTFw-\""),
            ("~peter/mail/台北/日本語", "\"~peter/mail/&U,BTFw-/&ZeVnLIqe-\""),
            ("Zurückgekommen", "\"Zur&APw-ckgekommen\""),
        ] {
            assert_eq!(folder(name), written);
        }
        assert_eq!(set(&[1]), "1");
        assert_eq!(set(&[1, 2, 3, 7, 9, 10]), "1:3,7,9:10");
        assert_eq!(quoted("a\"b\\"), Some("\"a\\\"b\\\\\"".to_owned()));
        assert_eq!(quoted("ü"), None);
        assert_eq!(quoted("a\r\nb"), None);
    }

    proptest! {
        #[test]
        fn nothing_that_a_server_says_makes_it_panic(text in "(\\* [0-9]{0,3} FETCH )?[ -~]{0,60}") {
            let said = response(&text);
            let _ = (said.fetched(), said.numbered(b"EXISTS"), said.code_number("UIDVALIDITY"));
            let _ = announced(text.as_bytes());
        }

        #[test]
        fn any_bytes_are_taken(text in prop::collection::vec(any::<u8>(), 0..80)) {
            let said = Response { text: [b"* 1 FETCH (", text.as_slice()].concat(), literals: vec![] };
            let _ = said.fetched();
        }
    }
}
