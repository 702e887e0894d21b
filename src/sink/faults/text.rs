//! The small languages inside a fault profile: address patterns, escaped bytes, durations.

/// An address pattern: `*` stands for any text, case does not matter.
#[derive(Debug)]
pub(super) struct Pattern {
    parts: Vec<String>,
}

impl Pattern {
    pub(super) fn new(text: &str) -> Self {
        Self { parts: text.split('*').map(str::to_lowercase).collect() }
    }

    pub(super) fn matches(&self, address: &str) -> bool {
        let address = address.to_lowercase();
        let [first, middle @ .., last] = self.parts.as_slice() else {
            return self.parts.first().is_some_and(|whole| *whole == address);
        };
        let Some(mut rest) = address.strip_prefix(first.as_str()) else { return false };
        for part in middle {
            let Some(at) = rest.find(part.as_str()) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last.as_str())
    }
}

/// Reads the escapes of `raw` and `extra`.
pub(super) fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let (byte, used) = match tail {
            [b'r', ..] => (b'\r', 1),
            [b'n', ..] => (b'\n', 1),
            [b'0', ..] => (0, 1),
            [b'\\', ..] => (b'\\', 1),
            [b'x', high, low, ..] => {
                let digit = |byte: u8| (byte as char).to_digit(16);
                let value = digit(*high).zip(digit(*low)).map(|(high, low)| high * 16 + low);
                (value.ok_or("`\\x` needs two hexadecimal digits")? as u8, 3)
            }
            _ => return Err("an escape is one of \\r \\n \\0 \\\\ \\xNN".into()),
        };
        out.push(byte);
        rest = &tail[used..];
    }
    Ok(out)
}

/// Durations as people write them: `"1500ms"`, `"2s"`, `"10m"`.
pub(super) mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(in crate::sink::faults) fn serialize<S: Serializer>(
        value: &Duration,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{}ms", value.as_millis()))
    }

    pub(in crate::sink::faults) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Duration, D::Error> {
        let text = String::deserialize(from)?;
        let signed: jiff::SignedDuration = text.parse().map_err(D::Error::custom)?;
        Duration::try_from(signed).map_err(|_| D::Error::custom("a duration cannot be negative"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_addresses() {
        for (pattern, address, expected) in [
            ("*", "a@b", true),
            ("*@slow.example", "A@Slow.Example", true),
            ("*@slow.example", "a@slow.example.org", false),
            ("a@b", "a@b", true),
            ("a@b", "xa@b", false),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "acb", false),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(Pattern::new(pattern).matches(address), expected, "{pattern} {address}");
        }
    }

    #[test]
    fn escapes_are_read() {
        assert_eq!(unescape(r"2\x35\r\n\0\\é").unwrap(), b"25\r\n\0\\\xc3\xa9");
        assert!(unescape(r"\x2").is_err());
        assert!(unescape(r"\q").is_err());
    }
}
