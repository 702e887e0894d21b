//! Quoted-printable (RFC 2045, section 6.7) for text that goes after DATA as it is.
//!
//! Stricter than the RFC asks: no line begins with a dot (so that nothing is left to dot-stuff,
//! RFC 5321 section 4.5.2) nor with `From ` (which mailbox files mangle), no line ends in whitespace
//! (so that the body is canonical for DKIM), and no character is cut by a soft line break.

/// Characters of a line before the `=` of a soft break; with it they are the 76 of RFC 2045.
const LINE_LEN_MAX: usize = 75;

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// Octets that always stand for themselves: printable ASCII but `=`, space, `.` and `F`, which do
/// not at some places.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut octet = 0x21;
    while octet < 0x7f {
        plain[octet] = !matches!(octet as u8, b'=' | b'.' | b'F');
        octet += 1;
    }
    plain
};

/// Appends `text` to `out`, which ends at the beginning of a line, and returns how many characters
/// then stand on the last line. `\n` and `\r\n` become line breaks, a lone `\r` does not.
///
/// The last line never ends in whitespace; where more text follows, the caller puts a soft line
/// break ([`soft_break`]) in between.
pub(super) fn encode(text: &str, out: &mut Vec<u8>) -> usize {
    let octets = text.as_bytes();
    let mut column = 0;
    let mut at = 0;
    while at < octets.len() {
        let plain = octets[at..].iter().take_while(|&&octet| PLAIN[usize::from(octet)]).count();
        if plain > 0 {
            column = push_plain(&octets[at..at + plain], column, out);
            at += plain;
            continue;
        }
        let rest = &octets[at..];
        if let Some(len) = line_break_len(rest) {
            out.extend_from_slice(b"\r\n");
            column = 0;
            at += len;
            continue;
        }
        let len = character_len(rest[0]).min(rest.len());
        column = push_special(rest, len, column, out);
        at += len;
    }
    column
}

/// Appends a soft line break: the next octet stands at the beginning of a line, the text goes on.
pub(super) fn soft_break(out: &mut Vec<u8>) {
    out.extend_from_slice(b"=\r\n");
}

/// The most octets that `octets` octets of text can take, line breaks included.
pub(super) const fn encoded_len_max(octets: usize) -> usize {
    let escaped = octets.saturating_mul(3);
    // A line is broken when at most 11 characters are left (four octets of one character).
    escaped.saturating_add((escaped / (LINE_LEN_MAX - 11) + 1).saturating_mul(3))
}

/// Octets that stand for themselves wherever they are, over as many lines as it takes.
fn push_plain(mut octets: &[u8], mut column: usize, out: &mut Vec<u8>) -> usize {
    loop {
        let room = LINE_LEN_MAX - column;
        if octets.len() <= room {
            out.extend_from_slice(octets);
            return column + octets.len();
        }
        let (now, later) = octets.split_at(room);
        out.extend_from_slice(now);
        soft_break(out);
        (octets, column) = (later, 0);
    }
}

/// One character of `len` octets at the beginning of `rest`, plain or escaped as its place demands.
fn push_special(rest: &[u8], len: usize, column: usize, out: &mut Vec<u8>) -> usize {
    let may_be_plain = len == 1 && matches!(rest[0], b' ' | b'\t' | b'.' | b'F');
    let width = if may_be_plain { 1 } else { 3 * len };
    let mut column = column;
    if column + width > LINE_LEN_MAX {
        soft_break(out);
        column = 0;
    }
    if may_be_plain && !is_escaped_at(rest, column) {
        out.push(rest[0]);
        return column + 1;
    }
    if column + 3 * len > LINE_LEN_MAX {
        soft_break(out);
        column = 0;
    }
    for octet in &rest[..len] {
        out.extend_from_slice(&[b'=', HEX[usize::from(octet >> 4)], HEX[usize::from(octet & 15)]]);
    }
    column + 3 * len
}

/// Whether the character at the beginning of `rest` is one of those that must not stand here.
fn is_escaped_at(rest: &[u8], column: usize) -> bool {
    match rest[0] {
        b'.' => column == 0,
        b'F' => column == 0 && rest.starts_with(b"From "),
        _ => rest.len() == 1 || line_break_len(&rest[1..]).is_some(),
    }
}

fn line_break_len(octets: &[u8]) -> Option<usize> {
    match octets {
        [b'\n', ..] => Some(1),
        [b'\r', b'\n', ..] => Some(2),
        _ => None,
    }
}

/// How many octets the UTF-8 character with this first octet has.
const fn character_len(first: u8) -> usize {
    match first {
        0xf0.. => 4,
        0xe0.. => 3,
        0xc0.. => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(text: &str) -> String {
        let mut out = Vec::new();
        let column = encode(text, &mut out);
        let out = String::from_utf8(out).unwrap();
        assert_eq!(out.rsplit('\n').next().unwrap().len(), column);
        out
    }

    /// A decoder by the letter of the RFC.
    pub(crate) fn decoded(text: &str) -> Vec<u8> {
        let joined = text.replace("=\r\n", "");
        let mut octets = joined.bytes();
        let mut out = Vec::new();
        while let Some(octet) = octets.next() {
            if octet == b'=' {
                let hex = [octets.next().unwrap(), octets.next().unwrap()];
                out.push(u8::from_str_radix(std::str::from_utf8(&hex).unwrap(), 16).unwrap());
            } else {
                out.push(octet);
            }
        }
        out
    }

    #[test]
    fn what_must_not_stand_somewhere_is_escaped_there_only() {
        for (text, expected) in [
            ("a.b = c", "a.b =3D c"),
            (".", "=2E"),
            ("..\n.", "=2E.\r\n=2E"),
            ("From here\nFront From here", "=46rom here\r\nFront From here"),
            ("trailing \nand\t", "trailing=20\r\nand=09"),
            ("two  \r\n", "two =20\r\n"),
            ("a\rb\0", "a=0Db=00"),
            ("é🦀", "=C3=A9=F0=9F=A6=80"),
            ("\n\n", "\r\n\r\n"),
            ("", ""),
        ] {
            assert_eq!(encoded(text), expected, "{text:?}");
        }
    }

    #[test]
    fn lines_break_at_seventy_six_and_never_inside_a_character() {
        let text = format!("{}🦀.", "a".repeat(70));
        assert_eq!(encoded(&text), format!("{}=\r\n=F0=9F=A6=80.", "a".repeat(70)));
        let text = format!("{}.b", "a".repeat(75));
        assert_eq!(encoded(&text), format!("{}=\r\n=2Eb", "a".repeat(75)));
        let text = format!("{} ", "a".repeat(74));
        assert_eq!(encoded(&text), format!("{}=\r\n=20", "a".repeat(74)));
    }

    proptest! {
        #[test]
        fn it_decodes_to_the_text(
            text in prop_oneof![any::<String>(), "[a .F\n\r\t=é🦀]{0,200}", "(From |\\.| |\n|a{70,80}){0,9}"]
        ) {
            let encoded = encoded(&text);
            let expected = text.replace("\r\n", "\n").replace('\n', "\r\n");
            prop_assert_eq!(String::from_utf8(decoded(&encoded)).unwrap(), expected);
            prop_assert!(encoded.len() <= encoded_len_max(text.len()));
            for line in encoded.split("\r\n") {
                prop_assert!(line.len() <= 76);
                prop_assert!(line.bytes().all(|b| (b' '..=b'~').contains(&b) || b == b'\t'));
                prop_assert!(!line.starts_with(['.']) && !line.starts_with("From "));
                prop_assert!(!line.ends_with([' ', '\t']));
            }
        }
    }
}
