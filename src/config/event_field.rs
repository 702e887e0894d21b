//! The header field by which a sending service's events find back to a copy.
//!
//! Many services replace our Message-ID with one of their own. What most of them do hand back with
//! each event is data that a field of the message gave them, each under a name of its own; so the
//! operator writes the field, and we put the Message-ID into it.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Where the Message-ID goes.
const PLACE: &str = "{message_id}";
/// Octets of the line without the Message-ID, which takes up to about three hundred of the 998 that a
/// line may have (RFC 5322, section 2.1.1).
const LENGTH_MAX: usize = 600;
/// Fields that are ours to write.
const OURS: [&str; 9] = [
    "from",
    "to",
    "subject",
    "date",
    "message-id",
    "reply-to",
    "dkim-signature",
    "feedback-id",
    "received",
];
/// Families of fields that are.
const OUR_FAMILIES: [&str; 4] = ["list-", "content-", "mime-", "resent-"];

/// A header field with a place for the Message-ID.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventField {
    before: String,
    after: String,
}

impl EventField {
    fn parse(text: &str) -> Result<Self, String> {
        let Some((before, after)) =
            text.split_once(PLACE).filter(|(_, after)| !after.contains(PLACE))
        else {
            return Err(format!("must have {PLACE} in it, once"));
        };
        let name = before.split_once(": ").map(|(name, _)| name.to_ascii_lowercase());
        // RFC 5322, section 2.2: what may stand in the name of a field.
        let is_name = |name: &String| {
            !name.is_empty() && name.bytes().all(|octet| octet.is_ascii_graphic() && octet != b':')
        };
        let Some(name) = name.filter(is_name) else {
            return Err(format!("must read \"Name: value\", with {PLACE} in the value"));
        };
        if OURS.contains(&name.as_str()) || OUR_FAMILIES.iter().any(|start| name.starts_with(start))
        {
            return Err(format!("the field `{name}` is written already"));
        }
        if text.len() > LENGTH_MAX || !text.bytes().all(|octet| matches!(octet, b' '..=b'~')) {
            return Err(format!("must be one line of ASCII, of up to {LENGTH_MAX} characters"));
        }
        Ok(Self { before: before.to_owned(), after: after.to_owned() })
    }

    /// The field of the message with this id, which is without angle brackets, and its line end.
    pub fn line(&self, message_id: &str) -> String {
        [&self.before, message_id, &self.after, "\r\n"].concat()
    }
}

impl<'de> Deserialize<'de> for EventField {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        Self::parse(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

impl Serialize for EventField {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        [&self.before, PLACE, &self.after].concat().serialize(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_id_takes_its_place() {
        let field =
            EventField::parse(r#"X-Mailgun-Variables: {"postrider": "{message_id}"}"#).unwrap();
        let line = "X-Mailgun-Variables: {\"postrider\": \"a.b@news.example\"}\r\n";
        assert_eq!(field.line("a.b@news.example"), line);
        let text = serde_json::to_value(&field).unwrap();
        assert_eq!(serde_json::from_value::<EventField>(text).unwrap(), field);
    }

    #[test]
    fn what_would_break_a_header_is_refused() {
        for text in [
            "X-Data: nothing",
            "X-Data: {message_id} {message_id}",
            "{message_id}: x",
            "X Data: {message_id}",
            "X-Data:{message_id}",
            ": {message_id}",
            "X-Data: {message_id}\r\nBcc: all@example.com",
            "X-Data: {message_id}\u{e9}",
            "Message-ID: <{message_id}>",
            "DKIM-Signature: {message_id}",
            "List-Unsubscribe: {message_id}",
            "Content-Type: {message_id}",
            &format!("X-Data: {}{{message_id}}", "x".repeat(LENGTH_MAX)),
        ] {
            assert!(EventField::parse(text).is_err(), "{text:?}");
        }
    }
}
