//! Payloads in JSON, walked without trust: what is missing or of another type is nothing.

use serde_json::Value;

use super::Refusal;
use crate::timestamp::Timestamp;

/// Objects and lists in a payload. Each costs some hundred octets of memory, whatever it costs its
/// sender; ten thousand events of the most talkative provider have fewer.
const CONTAINERS_MAX: usize = 120_000;
/// Members and items in a payload.
const ITEMS_MAX: usize = 1_000_000;
/// From here on a number of seconds is one of milliseconds (the year 5138).
const MILLISECONDS: f64 = 1e11;

/// Parses a payload of bounded weight.
pub(super) fn parse(octets: &[u8]) -> Result<Value, Refusal> {
    let (mut containers, mut items) = (0, 0);
    for octet in octets {
        match octet {
            b'{' | b'[' => containers += 1,
            b',' => items += 1,
            _ => {}
        }
    }
    if containers > CONTAINERS_MAX || items > ITEMS_MAX {
        return Err(Refusal::TooMuch);
    }
    serde_json::from_slice(octets).map_err(|_| Refusal::Unreadable("it is no JSON"))
}

/// A value in a payload, or the lack of one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Doc<'a>(pub(super) Option<&'a Value>);

impl<'a> Doc<'a> {
    /// The member that a path of names leads to, `mail.destination`.
    pub(super) fn at(self, path: &str) -> Self {
        Self(
            self.0.and_then(|value| path.split('.').try_fold(value, |value, name| value.get(name))),
        )
    }

    /// Whether there is anything but `null`.
    pub(super) fn is_some(self) -> bool {
        self.0.is_some_and(|value| !value.is_null())
    }

    /// The text there; a number as its digits.
    pub(super) fn text(self, path: &str) -> Option<String> {
        match self.at(path).0? {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        }
        .filter(|text| !text.is_empty())
    }

    /// The text there, or the empty one.
    pub(super) fn word(self, path: &str) -> &'a str {
        self.at(path).0.and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether the value there is `true`, or says so.
    pub(super) fn is_true(self, path: &str) -> bool {
        match self.at(path).0 {
            Some(Value::Bool(truth)) => *truth,
            Some(Value::Number(number)) => number.as_i64() == Some(1),
            Some(Value::String(text)) => matches!(text.as_str(), "true" | "1"),
            _ => false,
        }
    }

    /// The items of a list; a single value is a list of one.
    pub(super) fn items(self) -> impl Iterator<Item = Doc<'a>> {
        let (list, one) = match self.0 {
            Some(Value::Array(items)) => (items.as_slice(), None),
            Some(Value::Null) | None => (&[][..], None),
            one => (&[][..], one),
        };
        list.iter().chain(one).map(|value| Doc(Some(value)))
    }

    /// The instant there: seconds or milliseconds since 1970, or a date and time.
    pub(super) fn time(self, path: &str) -> Option<Timestamp> {
        match self.at(path).0? {
            Value::Number(number) => instant(number.as_f64()?),
            Value::String(text) => time(text),
            _ => None,
        }
    }

    /// The value as it would be sent.
    pub(super) fn to_octets(self) -> Vec<u8> {
        self.0.map(|value| serde_json::to_vec(value).unwrap_or_default()).unwrap_or_default()
    }
}

impl<'a> From<&'a Value> for Doc<'a> {
    fn from(value: &'a Value) -> Self {
        Self(Some(value))
    }
}

/// The instant that a text names. A time without a zone is in UTC.
pub(super) fn time(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    if text.len() > 64 {
        return None;
    }
    if let Ok(seconds) = text.parse::<f64>() {
        return instant(seconds);
    }
    text.parse().ok().or_else(|| {
        let local: jiff::civil::DateTime = text.parse().ok()?;
        let utc = local.to_zoned(jiff::tz::TimeZone::UTC).ok()?;
        Some(Timestamp::from_microseconds(utc.timestamp().as_microsecond()))
    })
}

fn instant(number: f64) -> Option<Timestamp> {
    let seconds = if number.abs() >= MILLISECONDS { number / 1e3 } else { number };
    let in_range = seconds.is_finite() && seconds.abs() < MILLISECONDS;
    in_range.then(|| Timestamp::from_microseconds((seconds * 1e6).round() as i64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_every_form_that_providers_use() {
        let expected: Timestamp = "2024-09-06T23:22:40Z".parse().unwrap();
        for text in [
            "2024-09-06T23:22:40Z",
            "2024-09-07T01:22:40+02:00",
            "2024-09-06 23:22:40",
            "1725664960",
            "1725664960.0",
            "1725664960000",
        ] {
            assert_eq!(time(text), Some(expected), "{text}");
        }
        for text in ["", "soon", "NaN", "inf", "1e300", "-1e300", "2024-13-01"] {
            assert_eq!(time(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_heavier_than_it_looks_is_not_parsed() {
        assert!(matches!(parse(&b"[".repeat(CONTAINERS_MAX + 1)), Err(Refusal::TooMuch)));
        let flat = format!("[{}1]", "1,".repeat(ITEMS_MAX));
        assert!(parse(flat.as_bytes()).is_ok());
        let flat = format!("[{}1]", "1,".repeat(ITEMS_MAX + 1));
        assert!(matches!(parse(flat.as_bytes()), Err(Refusal::TooMuch)));
        let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
        assert!(matches!(parse(deep.as_bytes()), Err(Refusal::Unreadable(_))));
    }

    #[test]
    fn what_is_not_there_is_nothing() {
        let value = parse(br#"{"a":{"b":[1,{"c":"d"}],"n":null,"t":"true"}}"#).unwrap();
        let doc = Doc::from(&value);
        assert_eq!(doc.text("a.b"), None);
        assert_eq!(doc.at("a.b").items().count(), 2);
        assert_eq!(doc.at("a.n").items().count(), 0);
        assert_eq!(doc.at("a.t").items().count(), 1);
        assert!(doc.is_true("a.t") && !doc.is_true("a.b") && !doc.at("a.n").is_some());
        assert_eq!(doc.at("a.x.y.z").items().count(), 0);
    }
}
