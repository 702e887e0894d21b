//! A policy, and the record that announces it, as texts. Pure.

use std::time::Duration;

/// The longest time that a policy may say it holds (RFC 8461, section 3.2).
const MAX_AGE_MAX: u64 = 31_557_600;
/// How many host patterns are read.
const PATTERNS_MAX: usize = 200;

/// What becomes of mail that a policy does not allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// It must not be delivered.
    Enforce,
    /// It is delivered; the domain only wants to hear of it.
    Testing,
    /// There is no policy any more.
    None,
}

/// What a domain demands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// How seriously.
    pub mode: Mode,
    /// For how long it holds.
    pub max_age: Duration,
    /// Patterns of the hosts that take its mail, in lower case.
    pub mx: Vec<String>,
}

/// Why a text is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// Something else, or a later version.
    #[error("it does not say version: STSv1")]
    Version,
    /// No mode, or one that is not known.
    #[error("its mode is not enforce, testing or none")]
    Mode,
    /// No age, or none that is a number of seconds.
    #[error("its max_age is not a number of seconds")]
    MaxAge,
    /// It names nobody who may take mail.
    #[error("it names no mx")]
    NoHost,
}

impl Mode {
    /// Its name in policies.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Testing => "testing",
            Self::None => "none",
        }
    }
}

impl Policy {
    /// Reads a policy (RFC 8461, section 3.2): unknown keys are passed over, of a key that is there
    /// twice the first counts.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let pairs: Vec<(&str, &str)> = text
            .lines()
            .filter_map(|line| line.split_once(':'))
            .map(|(key, value)| (key.trim(), value.trim()))
            .collect();
        let first = |wanted| pairs.iter().find(|(key, _)| *key == wanted).map(|(_, value)| *value);
        if first("version") != Some("STSv1") {
            return Err(PolicyError::Version);
        }
        let mode = match first("mode") {
            Some("enforce") => Mode::Enforce,
            Some("testing") => Mode::Testing,
            Some("none") => Mode::None,
            _ => return Err(PolicyError::Mode),
        };
        let digits = |text: &&str| {
            (1..=10).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
        };
        let seconds = first("max_age").filter(digits).and_then(|text| text.parse::<u64>().ok());
        let seconds = seconds.ok_or(PolicyError::MaxAge)?.min(MAX_AGE_MAX);
        let hosts = pairs.iter().filter(|(key, value)| *key == "mx" && !value.is_empty());
        let host = |value: &str| value.trim_end_matches('.').to_ascii_lowercase();
        let mx: Vec<String> = hosts.take(PATTERNS_MAX).map(|(_, value)| host(value)).collect();
        if mx.is_empty() && mode != Mode::None {
            return Err(PolicyError::NoHost);
        }
        Ok(Self { mode, max_age: Duration::from_secs(seconds), mx })
    }

    /// Whether a host, in lower case, may take the domain's mail. A star stands for exactly one label,
    /// the first (section 4.1).
    pub fn allows(&self, host: &str) -> bool {
        self.mx.iter().any(|pattern| match pattern.strip_prefix("*.") {
            Some(parent) => host.split_once('.').is_some_and(|(_, rest)| rest == parent),
            None => pattern == host,
        })
    }
}

/// The id of the policy that a domain's TXT records announce (section 3.1). Records of other kinds are
/// passed over; with several of this kind there is none.
pub(super) fn id_of(texts: &[String]) -> Option<String> {
    let announces = |text: &&String| {
        let version = text.split(';').next().unwrap_or_default();
        version
            .split_once('=')
            .is_some_and(|(key, value)| (key.trim(), value.trim()) == ("v", "STSv1"))
    };
    let mut found = texts.iter().filter(announces);
    let (text, more) = (found.next()?, found.next());
    let id = text.split(';').filter_map(|field| field.split_once('='));
    let id = id.map(|(key, value)| (key.trim(), value.trim())).find(|(key, _)| *key == "id")?.1;
    let valid = (1..=32).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (more.is_none() && valid).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "version: STSv1\r\nmode: enforce\r\nmx: MX1.example.com\r\n\
                        mx: *.backup.example.com.\r\nmax_age: 604800\r\n";

    #[test]
    fn a_policy_says_what_it_demands() {
        let policy = Policy::parse(GOOD).unwrap();
        assert_eq!((policy.mode, policy.max_age.as_secs()), (Mode::Enforce, 604_800));
        for (host, allowed) in [
            ("mx1.example.com", true),
            ("mx2.example.com", false),
            ("a.backup.example.com", true),
            ("a.b.backup.example.com", false),
            ("backup.example.com", false),
            ("xbackup.example.com", false),
        ] {
            assert_eq!(policy.allows(host), allowed, "{host}");
        }
        let unix = GOOD.replace("\r\n", "\n") + "later: thing\nmode: none";
        assert_eq!(Policy::parse(&unix), Ok(policy));
        let none = Policy::parse("version: STSv1\nmode: none\nmax_age: 99999999999").unwrap_err();
        assert_eq!(none, PolicyError::MaxAge);
        let none = Policy::parse("version: STSv1\nmode: none\nmax_age: 9999999999").unwrap();
        assert_eq!(none.max_age.as_secs(), MAX_AGE_MAX);
    }

    #[test]
    fn what_is_no_policy_is_none() {
        for (from, to, error) in [
            ("STSv1", "STSv2", PolicyError::Version),
            ("version", "Version", PolicyError::Version),
            ("enforce", "Enforce", PolicyError::Mode),
            ("mode", "mood", PolicyError::Mode),
            ("604800", "1 week", PolicyError::MaxAge),
            ("604800", "-5", PolicyError::MaxAge),
            ("max_age", "maxage", PolicyError::MaxAge),
            ("mx:", "my:", PolicyError::NoHost),
        ] {
            assert_eq!(Policy::parse(&GOOD.replace(from, to)), Err(error), "{from} {to}");
        }
        assert_eq!(Policy::parse("<html>not found</html>"), Err(PolicyError::Version));
    }

    #[test]
    fn one_record_announces_one_policy() {
        let id = |texts: &[&str]| {
            id_of(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(id(&["v=STSv1; id=20160831085700Z;"]).as_deref(), Some("20160831085700Z"));
        assert_eq!(id(&["v=spf1 -all", "v=STSv1;id=1"]).as_deref(), Some("1"));
        assert_eq!(id(&["v=STSv1; id=1", "v=STSv1; id=2"]), None);
        for text in ["", "v=STSv1", "v=STSv1; id=", "v=STSv1; id=a-b", "v=STSv2; id=1", "id=1"] {
            assert_eq!(id(&[text]), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(text in "(.|\n|\r){0,300}", host in ".{0,30}") {
            if let Ok(policy) = Policy::parse(&text) {
                prop_assert!(!policy.allows("") || policy.mx.contains(&String::new()));
                let _ = policy.allows(&host);
            }
            let _ = id_of(&[text]);
        }
    }
}
