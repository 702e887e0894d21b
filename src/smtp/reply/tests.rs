//! Replies in every shape servers give them.

use proptest::prelude::*;

use super::*;

/// Reads `bytes` in pieces of the given sizes, repeated, until the end or an error.
fn read_in(bytes: &[u8], sizes: &[usize]) -> (Vec<Reply>, Option<ReplyError>) {
    let mut buffer = ReplyBuffer::default();
    let mut replies = Vec::new();
    let mut rest = bytes;
    let mut sizes = sizes.iter().copied().cycle();
    loop {
        loop {
            match buffer.next_reply() {
                Ok(Some(reply)) => replies.push(reply),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(buffer.next_reply(), Err(error), "an error repeats");
                    return (replies, Some(error));
                }
            }
        }
        if rest.is_empty() {
            return (replies, None);
        }
        let space = buffer.space();
        assert!(!space.is_empty(), "there is room unless a reply can be taken");
        let size = sizes.next().unwrap().clamp(1, rest.len()).min(space.len());
        space[..size].copy_from_slice(&rest[..size]);
        buffer.filled(size);
        rest = &rest[size..];
        assert!(buffer.bytes.len() <= REPLY_BYTES_MAX + READ_CHUNK, "memory stays bounded");
    }
}

fn one(bytes: &[u8]) -> Reply {
    let (mut replies, error) = read_in(bytes, &[usize::MAX]);
    assert_eq!((replies.len(), error), (1, None), "{:?}", String::from_utf8_lossy(bytes));
    replies.remove(0)
}

#[test]
fn reads_what_servers_send() {
    let cases: &[(&[u8], u16, Option<EnhancedCode>, &str)] = &[
        (b"250 2.1.0 Ok\r\n", 250, Some(EnhancedCode(2, 1, 0)), "2.1.0 Ok"),
        (b"250 Ok\r\n", 250, None, "Ok"),
        (b"250\r\n", 250, None, ""),
        (b"250 \r\n", 250, None, ""),
        (b"250 ok\n", 250, None, "ok"),
        (b"250 ok\r\r\n", 250, None, "ok"),
        (b"250\tok\r\n", 250, None, "ok"),
        (b"354-go\r\n354 on\r\n", 354, None, "go\non"),
        (b"550 4.2.2 odd\r\n", 550, Some(EnhancedCode(4, 2, 2)), "4.2.2 odd"),
        (b"550 5.1.1\r\n", 550, Some(EnhancedCode(5, 1, 1)), "5.1.1"),
        (b"550 5.1 x\r\n", 550, None, "5.1 x"),
        (b"550 5.1.1000 x\r\n", 550, None, "5.1.1000 x"),
        (b"550 192.0.2.1 x\r\n", 550, None, "192.0.2.1 x"),
        (b"550-5.7.1 a\r\n550 b\r\n", 550, Some(EnhancedCode(5, 7, 1)), "5.7.1 a\nb"),
        (
            b"550-5.7.1 a\r\n550 5.7.26 b\r\n",
            550,
            Some(EnhancedCode(5, 7, 26)),
            "5.7.1 a\n5.7.26 b",
        ),
        (b"554 caf\xe9 \x1b[31mred\r\n", 554, None, "caf\u{fffd}  [31mred"),
        ("554 nicht möglich\r\n".as_bytes(), 554, None, "nicht möglich"),
    ];
    for (bytes, code, enhanced, text) in cases {
        let reply = one(bytes);
        assert_eq!((reply.code, reply.enhanced, reply.text.as_str()), (*code, *enhanced, *text));
        assert!(!reply.contradictory);
    }
}

#[test]
fn the_last_line_decides_and_a_yes_with_a_no_is_marked() {
    let reply = one(b"250-fine\r\n550 no\r\n");
    assert_eq!((reply.code, reply.contradictory), (550, true));
    let reply = one(b"550-no\r\n250 fine\r\n");
    assert_eq!((reply.code, reply.contradictory), (250, true));
    let reply = one(b"450-later\r\n550 never\r\n");
    assert_eq!((reply.code, reply.contradictory), (550, false), "both are a no");
    let reply = one(b"250-fine\r\n251 also\r\n");
    assert_eq!((reply.code, reply.contradictory), (251, false));
}

#[test]
fn refuses_what_is_no_reply() {
    let line = |len: usize| [b"250 ".to_vec(), vec![b'x'; len], b"\r\n".to_vec()].concat();
    let lines = |count: usize| [b"250-x\r\n".repeat(count - 1), b"250 x\r\n".to_vec()].concat();
    let cases: &[(Vec<u8>, ReplyError)] = &[
        (b"HTTP/1.1 400 Bad Request\r\n".to_vec(), ReplyError::NoCode),
        (b"25\r\n".to_vec(), ReplyError::NoCode),
        (b"2500 x\r\n".to_vec(), ReplyError::NoCode),
        (b"150 x\r\n".to_vec(), ReplyError::NoCode),
        (b"650 x\r\n".to_vec(), ReplyError::NoCode),
        (b"\r\n".to_vec(), ReplyError::NoCode),
        (b"250-x\r\ntext\r\n".to_vec(), ReplyError::NoCode),
        (b"250 o\0k\r\n".to_vec(), ReplyError::Nul),
        (lines(REPLY_LINES_MAX + 1), ReplyError::TooManyLines),
        (lines(1000), ReplyError::TooManyLines),
        (line(REPLY_BYTES_MAX), ReplyError::TooLong),
        (vec![b'2'; 1 << 20], ReplyError::TooLong),
        (b"250-0123456789\r\n".repeat(5000), ReplyError::TooManyLines),
    ];
    for (bytes, error) in cases {
        assert_eq!(read_in(bytes, &[usize::MAX]), (vec![], Some(*error)));
        assert_eq!(read_in(bytes, &[7]), (vec![], Some(*error)));
    }
    assert_eq!(one(&lines(REPLY_LINES_MAX)).text.lines().count(), REPLY_LINES_MAX);
    assert_eq!(one(&line(REPLY_BYTES_MAX - 6)).text.len(), REPLY_BYTES_MAX - 6);
}

#[test]
fn a_truncated_reply_is_not_a_reply() {
    for bytes in [&b"25"[..], b"250", b"250 ok", b"250 ok\r", b"250-ok\r\n", b"250-ok\r\n250"] {
        assert_eq!(read_in(bytes, &[1]), (vec![], None));
    }
}

#[test]
fn a_reply_reads_well_in_a_log() {
    assert_eq!(one(b"550-5.1.1 No such\r\n550 user\r\n").to_string(), "550 5.1.1 No such user");
    assert_eq!(Reply::new(250, "2.0.0 Ok").enhanced, Some(EnhancedCode(2, 0, 0)));
}

/// Bytes that are often replies and often nearly so.
fn streams() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => Just(b"250 ok\r\n".to_vec()),
        8 => Just(b"550-5.1.1 no\r\n".to_vec()),
        8 => "[2-5][0-9]{2}[ -][ -~]{0,40}\r?\n".prop_map(String::into_bytes),
        2 => proptest::collection::vec(any::<u8>(), 0..40),
        1 => (0..3_usize).prop_map(|n| [b"250 ".to_vec(), vec![b'x'; n * 33_000]].concat()),
        1 => (60..140_usize).prop_map(|n| b"250-x\n".repeat(n)),
        1 => Just(vec![0]),
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_cut_gives_the_same_replies(
        bytes in streams(),
        sizes in proptest::collection::vec(1..5000_usize, 1..8),
    ) {
        let whole = read_in(&bytes, &[usize::MAX]);
        prop_assert_eq!(&read_in(&bytes, &sizes), &whole);
        for reply in &whole.0 {
            prop_assert!((200..600).contains(&reply.code));
            prop_assert!(reply.text.lines().count() <= REPLY_LINES_MAX);
            prop_assert!(!reply.text.contains(|c: char| c.is_control() && c != '\n'));
        }
    }

    #[test]
    fn enhanced_codes_survive_their_text(class in 0..3_usize, subject in 0..1000_u16, detail in 0..1000_u16) {
        let code = EnhancedCode([2, 4, 5][class], subject, detail);
        prop_assert_eq!(code.to_string().parse(), Ok(code));
    }
}
