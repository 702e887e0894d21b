//! Where a message's data ends (RFC 5321, section 4.5.2), found in chunks of any size without
//! looking at every byte, and the removal of the sender's dot-stuffing.
//!
//! Only CRLF `.` CRLF ends a message. None of the look-alikes with bare CR or LF does, so that no
//! message can hide a second one in its body (SMTP smuggling).

use memchr::{arch::all::packedpair::HeuristicFrequencyRank, memchr_iter, memmem};

const TERMINATOR: &[u8] = b"\r\n.\r\n";

/// How rare bytes are in mail, for the search: a dot beside a line feed is, a carriage return is in
/// every line.
struct InMail;

impl HeuristicFrequencyRank for InMail {
    fn rank(&self, byte: u8) -> u8 {
        match byte {
            b'.' => 0,
            b'\n' => 1,
            _ => u8::MAX,
        }
    }
}

/// Finds the end of one message's data.
#[derive(Debug)]
pub struct DataScanner {
    /// How many bytes of the terminator the data so far ends with.
    matched: usize,
    finder: memmem::Finder<'static>,
}

/// What a [`DataScanner`] made of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scanned {
    /// How many bytes of the chunk belong to the data, the terminator included.
    pub taken: usize,
    /// Whether the terminator is complete.
    pub complete: bool,
}

impl DataScanner {
    /// A scanner for data that begins with the next byte.
    pub fn new() -> Self {
        let finder = memmem::FinderBuilder::new().build_forward_with_ranker(InMail, TERMINATOR);
        let mut scanner = Self { matched: 0, finder };
        scanner.restart();
        scanner
    }

    /// Makes the scanner ready for another message. The line end after `DATA` counts as the first
    /// half of the terminator: an empty message is `.` CRLF.
    pub fn restart(&mut self) {
        self.matched = 2;
    }

    /// Looks for the terminator in the next chunk.
    pub fn scan(&mut self, chunk: &[u8]) -> Scanned {
        let mut taken = 0;
        while self.matched > 0 {
            let Some(&byte) = chunk.get(taken) else {
                return Scanned { taken, complete: false };
            };
            self.advance(byte);
            taken += 1;
            if self.matched == TERMINATOR.len() {
                return Scanned { taken, complete: true };
            }
        }
        let rest = &chunk[taken..];
        if let Some(at) = self.finder.find(rest) {
            self.matched = TERMINATOR.len();
            return Scanned { taken: taken + at + TERMINATOR.len(), complete: true };
        }
        for &byte in &rest[rest.len().saturating_sub(TERMINATOR.len() - 1)..] {
            self.advance(byte);
        }
        Scanned { taken: chunk.len(), complete: false }
    }

    fn advance(&mut self, byte: u8) {
        self.matched = match (self.matched, byte) {
            (4, b'\n') => 5,
            (3, b'\r') => 4,
            (2, b'.') => 3,
            (1, b'\n') => 2,
            (_, b'\r') => 1,
            _ => 0,
        };
    }
}

impl Default for DataScanner {
    fn default() -> Self {
        Self::new()
    }
}

/// Turns raw data, terminator included, into the message: the terminator's dot and every dot that
/// the sender put before a line's own are removed, in place.
pub fn unstuff(data: &mut Vec<u8>) {
    data.truncate(data.len().saturating_sub(b".\r\n".len()));
    let mut written = 0;
    let mut read = usize::from(data.first() == Some(&b'.'));
    let finder = memmem::Finder::new(b"\r\n.");
    while let Some(at) = finder.find(&data[read..]) {
        let keep = read..read + at + 2;
        let length = keep.len();
        if written != keep.start {
            data.copy_within(keep, written);
        }
        written += length;
        read += at + 3;
    }
    if written != read {
        data.copy_within(read.., written);
        data.truncate(data.len() - (read - written));
    }
}

/// Whether `message` holds a CR or LF outside the pair CRLF, which RFC 5321 (section 2.3.8)
/// forbids.
pub fn has_bare_newline(message: &[u8]) -> bool {
    let bare_lf = memchr_iter(b'\n', message).any(|at| at == 0 || message[at - 1] != b'\r');
    bare_lf || memchr_iter(b'\r', message).any(|at| message.get(at + 1) != Some(&b'\n'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Scans `stream` in chunks cut at the given sizes and returns the messages found and the rest.
    fn messages(stream: &[u8], mut cuts: impl Iterator<Item = usize>) -> (Vec<Vec<u8>>, Vec<u8>) {
        let mut scanner = DataScanner::new();
        let (mut found, mut current, mut rest) = (Vec::new(), Vec::new(), stream);
        while !rest.is_empty() {
            let size = cuts.next().unwrap_or(rest.len()).clamp(1, rest.len());
            let mut chunk = &rest[..size];
            rest = &rest[size..];
            while !chunk.is_empty() {
                let found_end = scanner.scan(chunk);
                current.extend_from_slice(&chunk[..found_end.taken]);
                chunk = &chunk[found_end.taken..];
                if found_end.complete {
                    unstuff(&mut current);
                    found.push(std::mem::take(&mut current));
                    scanner.restart();
                }
            }
        }
        (found, current)
    }

    /// The sender's side, written from the RFC's words without an eye on the code above.
    fn stuff(message: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut line_start = true;
        for (at, &byte) in message.iter().enumerate() {
            if line_start && byte == b'.' {
                out.push(b'.');
            }
            out.push(byte);
            line_start = byte == b'\n' && at > 0 && message[at - 1] == b'\r';
        }
        if !message.is_empty() && !line_start {
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b".\r\n");
        out
    }

    /// Bytes that make line ends and dots likely.
    fn tricky() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(
            prop::sample::select(vec![b'\r', b'\n', b'.', b'\r', b'\n', b'a', 0]),
            0..60,
        )
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_messages(
            stream in tricky(), cuts in prop::collection::vec(1_usize..7, 0..60)
        ) {
            let whole = messages(&stream, std::iter::empty());
            prop_assert_eq!(&messages(&stream, cuts.into_iter()), &whole);
            prop_assert_eq!(&messages(&stream, std::iter::repeat(1)), &whole);
        }

        #[test]
        fn what_a_sender_stuffs_comes_out_as_it_was(
            texts in prop::collection::vec(tricky(), 1..4), cut in 1_usize..9
        ) {
            // A text's own line end is the sender's; here every text ends with CRLF or is empty.
            let texts: Vec<Vec<u8>> = texts.into_iter().map(|mut text| {
                if !text.is_empty() && !text.ends_with(b"\r\n") {
                    text.extend_from_slice(b"\r\n");
                }
                text
            }).collect();
            let stream: Vec<u8> = texts.iter().flat_map(|text| stuff(text)).collect();
            let (found, rest) = messages(&stream, std::iter::repeat(cut));
            prop_assert_eq!(found, texts);
            prop_assert!(rest.is_empty());
        }
    }

    #[test]
    fn look_alike_terminators_never_split_a_message() {
        for look_alike in [
            "\n.\n",
            "\r.\r",
            "\n.\r\n",
            "\r\n.\n",
            "\r\n.\r",
            "\r.\r\n",
            "\r\n\0.\r\n",
            "\r\n.\0\r\n",
            "\r\r\n.\r\r\n",
            "\n\n.\r\n",
            "\r\n..\r\n",
            "\r\n.\r.\n",
            "\r\n .\r\n",
        ] {
            let stream = format!("a{look_alike}MAIL FROM:<evil@example.org>\r\n.\r\n");
            let (found, rest) = messages(stream.as_bytes(), std::iter::repeat(1));
            assert_eq!(found.len(), 1, "{look_alike:?}");
            assert!(found[0].ends_with(b"MAIL FROM:<evil@example.org>\r\n"), "{look_alike:?}");
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn bare_newlines_are_seen() {
        for (text, expected) in [
            ("a\r\nb\r\n", false),
            ("", false),
            ("a\nb", true),
            ("\n", true),
            ("a\rb", true),
            ("a\r", true),
        ] {
            assert_eq!(has_bare_newline(text.as_bytes()), expected, "{text:?}");
        }
    }
}
