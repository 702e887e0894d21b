//! Fault profiles as data: what a TOML file may say, and what tests build.
//!
//! ```toml
//! seed = 7                      # other readers for every `share`
//!
//! [[rule]]                      # greylisting: everybody is deferred once
//! stage = "rcpt"
//! times = 1
//! reply = "450 4.2.0 Greylisted, try again"
//!
//! [[rule]]                      # one message in fifty is taken, and the reply is lost
//! stage = "dot"
//! message = { every = 50 }
//! accepted = true
//! cut = 0
//! then = "close"
//! ```

use std::{path::Path, time::Duration};

use serde::{Deserialize, Serialize};

use crate::smtp::server::{Shape, Then};

use super::text::duration;

/// A profile that explains every key, and shows some rules worth having.
pub const EXAMPLE: &str = include_str!("example.toml");

/// A set of faults.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// Decides whom a `share` hits; the same seed hits the same readers.
    #[serde(default)]
    pub seed: u64,
    /// The rules; the first that matches strikes.
    #[serde(default, rename = "rule")]
    pub rules: Vec<Rule>,
}

/// Where in the dialogue a rule strikes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultStage {
    /// The connection was accepted. A reply here stands in for the greeting.
    Connect,
    /// The greeting.
    Greeting,
    /// `EHLO`, `HELO` or `LHLO`.
    Hello,
    /// `STARTTLS`.
    Starttls,
    /// `AUTH`, with the credentials shown.
    Auth,
    /// `MAIL`.
    Mail,
    /// `RCPT`.
    #[default]
    Rcpt,
    /// `DATA`.
    Data,
    /// In the data, after [`Rule::after_bytes`].
    Body,
    /// The reply after the final dot.
    Dot,
    /// After a message, once the client was silent for [`Rule::after_idle`].
    Idle,
    /// `RSET`.
    Rset,
    /// `NOOP`.
    Noop,
    /// `QUIT`.
    Quit,
}

impl FaultStage {
    /// Every stage, in the order of a session; for generated matrices.
    pub const ALL: [Self; 14] = [
        Self::Connect,
        Self::Greeting,
        Self::Hello,
        Self::Starttls,
        Self::Auth,
        Self::Mail,
        Self::Rcpt,
        Self::Data,
        Self::Body,
        Self::Dot,
        Self::Idle,
        Self::Rset,
        Self::Noop,
        Self::Quit,
    ];
}

/// One rule. All conditions that are set must hold; the default strikes always and changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// A name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where it strikes.
    pub stage: FaultStage,
    /// Only recipients like this: `*` stands for anything (`*@slow.example`). From `rcpt` on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recipient: Option<String>,
    /// Only envelope senders like this. From `mail` on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sender: Option<String>,
    /// Only this share, 0 to 1: of recipients from `rcpt` on, of messages at `mail`, of connections
    /// at other stages. Who is in it depends on the seed and the address alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// Only these connections of the sink's run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<Ordinals>,
    /// Only these transactions of the sink's run. From `mail` on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<Ordinals>,
    /// Only the first so many times: for each recipient from `rcpt` on, else in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,

    /// Silence before anything is written: `"59s"`.
    #[serde(default, with = "duration", skip_serializing_if = "Duration::is_zero")]
    pub delay: Duration,
    /// A reply in place of the usual one: `"450 4.2.0 try again later"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<String>,
    /// Exactly these bytes in place of the usual reply; `\r`, `\n`, `\0`, `\\` and `\xNN` are
    /// understood.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<String>,
    /// How the reply is spoilt.
    #[serde(default, skip_serializing_if = "RuleShape::is_intact")]
    pub shape: RuleShape,
    /// So many lines before the reply's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<u32>,
    /// The reply's line filled up to so many bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line_bytes: Option<u32>,
    /// Only so many bytes of the reply; 0 withholds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<usize>,
    /// A pause before every byte of the reply: `"1s"`.
    #[serde(default, with = "duration", skip_serializing_if = "Duration::is_zero")]
    pub trickle: Duration,
    /// Bytes after the reply, such as a second reply; escapes as in `raw`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extra: Option<String>,
    /// What becomes of the connection: `go-on`, `close`, `reset` or `stall`.
    #[serde(default)]
    pub then: Then,
    /// Whether the stage took effect where the reply does not say so: at `dot`, whether the
    /// message counts as accepted (journal and mailbox).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<bool>,
    /// At `body`: strike once so many bytes have come.
    #[serde(default)]
    pub after_bytes: u64,
    /// At `idle`: strike after so much silence.
    #[serde(default, with = "duration", skip_serializing_if = "Duration::is_zero")]
    pub after_idle: Duration,
    /// At `dot`: what is sent back to the envelope sender later, if the message was accepted.
    #[serde(default, rename = "return", skip_serializing_if = "Option::is_none")]
    pub returned: Option<Return>,
}

impl Rule {
    /// A rule that strikes at `stage` and so far changes nothing.
    pub fn at(stage: FaultStage) -> Self {
        Self { stage, ..Self::default() }
    }
}

/// A way to spoil a reply that takes no number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuleShape {
    /// Left as it is.
    #[default]
    Intact,
    /// LF alone at line ends.
    BareLf,
    /// A NUL in the text.
    Nul,
    /// Bytes that are no UTF-8.
    InvalidUtf8,
    /// No enhanced status code.
    NoEnhancedCode,
}

impl RuleShape {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
    fn is_intact(&self) -> bool {
        *self == Self::Intact
    }
}

impl From<RuleShape> for Shape {
    fn from(shape: RuleShape) -> Self {
        match shape {
            RuleShape::Intact => Self::Intact,
            RuleShape::BareLf => Self::BareLf,
            RuleShape::Nul => Self::Nul,
            RuleShape::InvalidUtf8 => Self::InvalidUtf8,
            RuleShape::NoEnhancedCode => Self::NoEnhancedCode,
        }
    }
}

/// Which of things that are counted from 1. All conditions that are set must hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ordinals {
    /// This one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nth: Option<u64>,
    /// Every so-manieth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<u64>,
    /// This one and later ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// This one and earlier ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
}

impl Ordinals {
    /// Just the `n`-th.
    pub fn nth(n: u64) -> Self {
        Self { nth: Some(n), ..Self::default() }
    }

    /// Every `n`-th.
    pub fn every(n: u64) -> Self {
        Self { every: Some(n), ..Self::default() }
    }

    pub(super) fn contains(self, number: u64) -> bool {
        self.nth.is_none_or(|nth| number == nth)
            && self.every.is_none_or(|every| every > 0 && number.is_multiple_of(every))
            && self.from.is_none_or(|from| number >= from)
            && self.to.is_none_or(|to| number <= to)
    }
}

/// A report sent back for a message that was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Return {
    /// What kind of report.
    pub kind: ReturnKind,
    /// How long after the message.
    #[serde(with = "duration")]
    pub after: Duration,
    /// The `Status` of a bounce (RFC 3464, section 2.3.4).
    pub status: String,
    /// The reply that the bounce quotes as its diagnostic code.
    pub diagnostic: String,
}

impl Default for Return {
    fn default() -> Self {
        Self {
            kind: ReturnKind::Bounce,
            after: Duration::ZERO,
            status: "5.1.1".into(),
            diagnostic: "550 5.1.1 No such user here".into(),
        }
    }
}

/// The kinds of report that can come back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReturnKind {
    /// A delivery status notification with `Action: failed` (RFC 3464).
    #[default]
    Bounce,
    /// One with `Action: delayed`.
    Delay,
    /// A feedback report of abuse (RFC 5965).
    Complaint,
}

/// Why a profile cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    /// The file cannot be read.
    #[error("cannot read the fault profile {path}: {error}")]
    Unreadable {
        /// Which file.
        path: String,
        /// Why.
        #[source]
        error: std::io::Error,
    },
    /// The text is not a profile.
    #[error("the fault profile is not valid:\n{0}")]
    Syntax(#[from] toml::de::Error),
    /// A rule makes no sense.
    #[error("fault rule {number}{name}: {what}")]
    Rule {
        /// Counts from 1.
        number: usize,
        /// Its name in brackets, if it has one.
        name: String,
        /// What is wrong.
        what: String,
    },
}

impl ProfileError {
    pub(super) fn rule(index: usize, rule: &Rule, what: String) -> Self {
        let name = rule.name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
        Self::Rule { number: index + 1, name, what }
    }
}

impl Profile {
    /// Reads a profile from TOML and checks it.
    pub fn from_toml(text: &str) -> Result<Self, ProfileError> {
        let profile: Self = toml::from_str(text)?;
        super::Faults::compile(&profile, false)?;
        Ok(profile)
    }

    /// Reads a profile from a TOML file and checks it.
    pub fn load(path: &Path) -> Result<Self, ProfileError> {
        let text = std::fs::read_to_string(path).map_err(|error| ProfileError::Unreadable {
            path: path.display().to_string(),
            error,
        })?;
        Self::from_toml(&text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_is_read_written_and_read_again() {
        let text = r#"
            seed = 7
            [[rule]]
            name = "greylist"
            stage = "rcpt"
            recipient = "*@slow.example"
            share = 0.5
            times = 2
            delay = "1500ms"
            reply = "450 4.2.0 later"
            [[rule]]
            stage = "dot"
            message = { every = 50, from = 100 }
            raw = "25\\x00"
            then = "reset"
            accepted = true
            return = { kind = "complaint", after = "2s" }
        "#;
        let profile = Profile::from_toml(text).unwrap();
        assert_eq!(profile.rules[0].delay, Duration::from_millis(1500));
        assert_eq!(profile.rules[1].returned.as_ref().unwrap().kind, ReturnKind::Complaint);
        let again = serde_json::to_value(&profile).unwrap();
        assert_eq!(serde_json::from_value::<Profile>(again).unwrap(), profile);
    }

    #[test]
    fn the_example_is_valid_and_names_every_key() {
        let profile = Profile::from_toml(EXAMPLE).unwrap();
        assert_eq!(profile.rules.len(), 6);
        let text = "[[rule]]\nstage = \"rcpt\"\nnonsense = 1";
        let error = Profile::from_toml(text).unwrap_err().to_string();
        let (_, expected) = error.split_once("expected one of").expect("the error lists all keys");
        let keys: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
        assert!(keys.len() > 20, "{keys:?}");
        for key in keys {
            assert!(EXAMPLE.contains(&format!("{key} = ")), "{key} is not explained");
        }
    }

    #[test]
    fn mistakes_are_pointed_at() {
        for (text, expected) in [
            ("[[rule]]\nstage = \"rcpt\"\nrepyl = \"450 x\"", "repyl"),
            ("[[rule]]\nstage = \"lunch\"", "lunch"),
            ("[[rule]]\nstage = \"rcpt\"\ndelay = \"soon\"", "line 3"),
            ("[[rule]]\nname = \"odd\"\nstage = \"rcpt\"\nreply = \"x\"", "rule 1 (odd)"),
        ] {
            let error = Profile::from_toml(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
