//! What the server answers: replies as RFC 5321 (section 4.2) writes them, with enhanced status
//! codes (RFC 3463), and the deliberate misbehaviour that rehearsals ask for instead.

use std::{borrow::Cow, fmt, str::FromStr, sync::Arc, time::Duration};

/// A well-formed SMTP reply of one or more lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    code: u16,
    enhanced: Option<Cow<'static, str>>,
    text: Cow<'static, str>,
}

impl Reply {
    /// A reply with an enhanced status code, both known when the program is written.
    pub const fn new(code: u16, enhanced: &'static str, text: &'static str) -> Self {
        Self { code, enhanced: Some(Cow::Borrowed(enhanced)), text: Cow::Borrowed(text) }
    }

    /// A reply without an enhanced status code, such as a greeting.
    pub const fn plain(code: u16, text: &'static str) -> Self {
        Self { code, enhanced: None, text: Cow::Borrowed(text) }
    }

    /// The same reply with another text; line breaks in it make a multi-line reply.
    #[must_use]
    pub fn with_text(mut self, text: impl Into<Cow<'static, str>>) -> Self {
        self.text = text.into();
        self
    }

    /// The reply code, 200 to 599.
    pub const fn code(&self) -> u16 {
        self.code
    }

    /// The enhanced status code, such as `5.1.1`.
    pub fn enhanced(&self) -> Option<&str> {
        self.enhanced.as_deref()
    }

    /// The text without codes.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the code says that the command did what was asked (2yz or 3yz).
    pub const fn is_positive(&self) -> bool {
        self.code < 400
    }

    /// Appends the reply as it goes on the wire, every line ended by CRLF.
    pub(crate) fn write_to(&self, out: &mut Vec<u8>) {
        let code = [
            b'0' + (self.code / 100 % 10) as u8,
            b'0' + (self.code / 10 % 10) as u8,
            b'0' + (self.code % 10) as u8,
        ];
        let mut lines = self.text.split('\n').peekable();
        while let Some(line) = lines.next() {
            out.extend_from_slice(&code);
            out.push(if lines.peek().is_some() { b'-' } else { b' ' });
            if let Some(enhanced) = &self.enhanced {
                out.extend_from_slice(enhanced.as_bytes());
                out.push(b' ');
            }
            out.extend(line.bytes().map(|byte| if byte.is_ascii_control() { b' ' } else { byte }));
            out.extend_from_slice(b"\r\n");
        }
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        if let Some(enhanced) = &self.enhanced {
            write!(f, " {enhanced}")?;
        }
        write!(f, " {}", self.text)
    }
}

/// Why a text is not a reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not an SMTP reply; write a code from 200 to 599, then (optionally) an enhanced \
         status code, then text: `450 4.2.0 try again later`"
)]
pub struct InvalidReply(String);

impl FromStr for Reply {
    type Err = InvalidReply;

    fn from_str(line: &str) -> Result<Self, InvalidReply> {
        let invalid = || InvalidReply(line.to_owned());
        let (code, rest) = line.split_once(' ').unwrap_or((line, ""));
        if code.len() != 3 {
            return Err(invalid());
        }
        let code =
            code.parse().ok().filter(|code| (200..600).contains(code)).ok_or_else(invalid)?;
        let (word, text) = rest.split_once(' ').unwrap_or((rest, ""));
        let (enhanced, text) = if is_enhanced_code(word) {
            (Some(Cow::Owned(word.to_owned())), text)
        } else {
            (None, rest)
        };
        Ok(Self { code, enhanced, text: Cow::Owned(text.to_owned()) })
    }
}

/// Whether `word` is an enhanced status code (RFC 3463, section 2).
pub(crate) fn is_enhanced_code(word: &str) -> bool {
    let mut parts = word.split('.');
    let class = parts.next().is_some_and(|class| matches!(class, "2" | "4" | "5"));
    let number = |part: Option<&str>| {
        part.is_some_and(|part| {
            (1..=3).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
        })
    };
    class && number(parts.next()) && number(parts.next()) && parts.next().is_none()
}

/// A handler's word on one stage of the dialogue.
#[derive(Debug, Clone, Default)]
pub enum Response {
    /// The stage takes its usual course: the server writes the success reply.
    #[default]
    Proceed,
    /// This reply instead; its code decides whether the stage succeeded.
    Reply(Reply),
    /// A reply for each recipient of a message, in the order of its envelope (RFC 2033, section 4.2).
    /// SMTP has one reply for all: the first refusal, so that the message comes again for everybody.
    Each(Vec<Reply>),
    /// Something no good server does, for rehearsals and tests.
    Misbehave(Arc<Misbehaviour>),
}

impl From<Reply> for Response {
    fn from(reply: Reply) -> Self {
        Self::Reply(reply)
    }
}

/// How a reply departs from what a good server would send. The fields apply in the order in which
/// they stand here; the default changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Misbehaviour {
    /// Silence before anything is written.
    pub delay: Duration,
    /// What is answered in place of the stage's usual reply.
    pub answer: Answer,
    /// How that reply is spoilt.
    pub shape: Shape,
    /// Only this many bytes of the reply are written; 0 withholds it.
    pub cut: Option<usize>,
    /// The reply is written one byte at a time with this pause after each.
    pub trickle: Option<Duration>,
    /// Bytes written after the reply, in the same write unless trickled.
    pub extra: Vec<u8>,
    /// What becomes of the connection.
    pub then: Then,
    /// Whether the stage took effect on the server's side, where the reply does not tell.
    pub success: Option<bool>,
}

/// What a misbehaving server answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Answer {
    /// The reply that the stage would have had anyway.
    #[default]
    Usual,
    /// Another well-formed reply.
    Reply(Reply),
    /// Exactly these bytes.
    Raw(Vec<u8>),
}

/// A way to spoil a well-formed reply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Shape {
    /// As it should be.
    #[default]
    Intact,
    /// Lines end with LF alone.
    BareLf,
    /// A NUL stands in the text.
    Nul,
    /// The text holds bytes that are no UTF-8.
    InvalidUtf8,
    /// The enhanced status code is left out.
    NoEnhancedCode,
    /// The reply is preceded by this many continuation lines.
    Lines(u32),
    /// The reply's last line is filled up to this many bytes.
    LongLine(u32),
}

/// What becomes of a connection after a misbehaving reply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Then {
    /// The session goes on.
    #[default]
    GoOn,
    /// Closed properly (FIN).
    Close,
    /// Torn down (RST).
    Reset,
    /// Kept open in silence until the client leaves or the session's time is up.
    Stall,
}

impl Misbehaviour {
    /// Whether the stage took effect, given that its usual reply is a success. A withheld reply is
    /// taken for a failure unless [`Misbehaviour::success`] says otherwise.
    pub fn success(&self) -> bool {
        self.success.unwrap_or(match &self.answer {
            _ if self.cut == Some(0) => false,
            Answer::Usual => true,
            Answer::Reply(reply) => reply.is_positive(),
            Answer::Raw(bytes) => bytes.first().is_some_and(|class| matches!(class, b'2' | b'3')),
        })
    }

    /// The bytes of the reply, given the stage's usual one as it goes on the wire.
    pub(crate) fn reply_bytes(&self, usual: &[u8]) -> Vec<u8> {
        let mut bytes = match &self.answer {
            Answer::Usual => usual.to_vec(),
            Answer::Reply(reply) => {
                let mut bytes = Vec::new();
                reply.write_to(&mut bytes);
                bytes
            }
            Answer::Raw(bytes) => bytes.clone(),
        };
        self.shape.apply(&mut bytes);
        if let Some(cut) = self.cut {
            bytes.truncate(cut);
        }
        bytes
    }
}

impl Shape {
    fn apply(self, bytes: &mut Vec<u8>) {
        let end = bytes.len().saturating_sub(2);
        match self {
            Self::Intact => {}
            Self::BareLf => bytes.retain(|byte| *byte != b'\r'),
            Self::Nul => drop(bytes.splice(end..end, *b" \0 nul")),
            Self::InvalidUtf8 => drop(bytes.splice(end..end, *b" \xff\xfe\xc3\x28")),
            Self::NoEnhancedCode => {
                let text = bytes.get(4..).unwrap_or_default();
                let word = text.split(|byte| *byte == b' ').next().unwrap_or_default();
                if std::str::from_utf8(word).is_ok_and(is_enhanced_code) {
                    bytes.drain(4..(5 + word.len()).min(bytes.len()));
                }
            }
            Self::Lines(count) => {
                let Some(code) = bytes.get(..3).map(<[u8]>::to_vec) else { return };
                let mut lines = Vec::new();
                for number in 0..count {
                    lines.extend_from_slice(&code);
                    lines.extend_from_slice(format!("-line {number}\r\n").as_bytes());
                }
                drop(bytes.splice(0..0, lines));
            }
            Self::LongLine(length) => {
                let missing = (length as usize).saturating_sub(bytes.len());
                drop(bytes.splice(end..end, std::iter::repeat_n(b'x', missing)));
            }
        }
    }
}

/// A misbehaviour that strikes while the server waits for the client.
#[derive(Debug, Clone)]
pub struct Interrupt {
    /// When it strikes.
    pub after: InterruptAfter,
    /// What it does; [`Answer::Usual`] writes nothing.
    pub misbehaviour: Arc<Misbehaviour>,
}

/// When an [`Interrupt`] strikes.
#[derive(Debug, Clone, Copy)]
pub enum InterruptAfter {
    /// In a message's data, once this many bytes have come.
    Bytes(u64),
    /// Between messages, once nothing has come for this long.
    Idle(Duration),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(reply: &Reply) -> String {
        let mut out = Vec::new();
        reply.write_to(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn replies_are_read_and_written() {
        for (line, expected) in [
            ("450 4.2.0 later", "450 4.2.0 later\r\n"),
            ("250", "250 \r\n"),
            ("421 bye", "421 bye\r\n"),
            ("550 5.1.1 one\ntwo", "550-5.1.1 one\r\n550 5.1.1 two\r\n"),
            ("550 5.1.1 a\rb", "550 5.1.1 a b\r\n"),
            ("250 5.x.1 odd", "250 5.x.1 odd\r\n"),
        ] {
            assert_eq!(wire(&line.parse().unwrap()), expected);
        }
        for line in ["", "99 x", "600 x", "abc", "1234", "+25 x"] {
            assert!(line.parse::<Reply>().is_err(), "{line}");
        }
    }

    #[test]
    fn shapes_spoil_replies_as_they_say() {
        let spoilt = |shape| {
            let misbehaviour = Misbehaviour { shape, ..Misbehaviour::default() };
            misbehaviour.reply_bytes(b"550 5.1.1 no\r\n")
        };
        assert_eq!(spoilt(Shape::Intact), b"550 5.1.1 no\r\n");
        assert_eq!(spoilt(Shape::BareLf), b"550 5.1.1 no\n");
        assert_eq!(spoilt(Shape::NoEnhancedCode), b"550 no\r\n");
        assert_eq!(spoilt(Shape::Nul), b"550 5.1.1 no \0 nul\r\n");
        assert!(std::str::from_utf8(&spoilt(Shape::InvalidUtf8)).is_err());
        assert_eq!(spoilt(Shape::Lines(2)), b"550-line 0\r\n550-line 1\r\n550 5.1.1 no\r\n");
        assert_eq!(spoilt(Shape::LongLine(5000)).len(), 5000);
    }
}
