//! Values that TOML has no type for: durations in words, and secrets kept elsewhere.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

/// A secret: the text itself, or where it is kept.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Secret {
    /// The text itself.
    Text(String),
    /// An environment variable.
    Environment {
        /// Its name.
        env: String,
    },
    /// A file, whose first line is taken.
    File {
        /// Its path.
        file: PathBuf,
    },
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Secret(…)"),
            Self::Environment { env } => write!(f, "Secret(env {env})"),
            Self::File { file } => write!(f, "Secret(file {})", file.display()),
        }
    }
}

impl Secret {
    /// The path of its file, if it is kept in one.
    pub(super) fn file_mut(&mut self) -> Option<&mut PathBuf> {
        match self {
            Self::File { file } => Some(file),
            Self::Text(_) | Self::Environment { .. } => None,
        }
    }

    /// The secret's text.
    ///
    /// # Errors
    /// A sentence that says which variable or file is missing.
    pub fn reveal(&self) -> Result<String, String> {
        match self {
            Self::Text(text) => Ok(text.clone()),
            Self::Environment { env } => std::env::var(env)
                .map_err(|_| format!("the environment variable {env} is not set (or not UTF-8)")),
            Self::File { file } => match std::fs::read_to_string(file) {
                Ok(text) => Ok(text.lines().next().unwrap_or_default().to_owned()),
                Err(error) => Err(format!("the file {} cannot be read: {error}", file.display())),
            },
        }
    }
}

/// Durations as people write them: `10m`, `36h`, `250ms`, `1h 30m`.
pub(crate) mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    fn parse(text: &str) -> Result<Duration, String> {
        let duration: jiff::SignedDuration = text
            .parse()
            .map_err(|_| format!("`{text}` is not a duration; write one like 30s, 10m or 36h"))?;
        Duration::try_from(duration).map_err(|_| format!("`{text}` is less than nothing"))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        parse(&String::deserialize(from)?).map_err(D::Error::custom)
    }

    fn text(duration: Duration) -> String {
        let duration =
            jiff::SignedDuration::try_from(duration).unwrap_or(jiff::SignedDuration::MAX);
        format!("{duration:#}")
    }

    pub(crate) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&text(*value))
    }

    /// Durations that may be left out.
    pub(crate) mod option {
        use super::{Deserialize, Deserializer, Duration, Error, Serializer, parse, text};

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Option<Duration>, D::Error> {
            let written = Option::<String>::deserialize(from)?;
            written.map(|text| parse(&text)).transpose().map_err(D::Error::custom)
        }

        #[expect(clippy::ref_option, reason = "the signature that serde calls")]
        pub(crate) fn serialize<S: Serializer>(
            value: &Option<Duration>,
            to: S,
        ) -> Result<S::Ok, S::Error> {
            match value {
                Some(duration) => to.serialize_some(&text(*duration)),
                None => to.serialize_none(),
            }
        }
    }

    /// Lists of durations.
    pub(crate) mod list {
        use super::{Deserialize, Deserializer, Duration, Error, Serializer, parse, text};

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Vec<Duration>, D::Error> {
            let texts = Vec::<String>::deserialize(from)?;
            texts.iter().map(|text| parse(text)).collect::<Result<_, _>>().map_err(D::Error::custom)
        }

        pub(crate) fn serialize<S: Serializer>(
            values: &[Duration],
            to: S,
        ) -> Result<S::Ok, S::Error> {
            to.collect_seq(values.iter().map(|value| text(*value)))
        }
    }
}
