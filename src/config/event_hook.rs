//! Webhooks of others that the delivery log's events are posted to.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use url::Url;

use super::{Secret, load::is_loopback, value::duration};
use crate::{db::state::EventKind, event::Step, webhook::Signer};

/// An address that events are posted to.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EventHook {
    /// What operators call it: lower-case letters, digits and hyphens.
    pub name: String,
    /// Where events are posted to: https, or http on this machine.
    pub url: Url,
    /// What is posted; without it, everything.
    #[serde(default)]
    pub events: Vec<String>,
    /// What batches are signed with: `whsec_` and base64, as text, `{ env = "NAME" }` or
    /// `{ file = "PATH" }`.
    pub secret: Secret,
    /// Whether readers' addresses are posted in full.
    #[serde(default)]
    pub addresses: bool,
    /// Certificates (PEM) to trust besides the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// How long one request may take.
    #[serde(default = "timeout", with = "duration")]
    pub timeout: Duration,
    /// How long it may fail before operators are told; then it is tried less often.
    #[serde(default = "failing_after", with = "duration")]
    pub failing_after: Duration,
}

const fn timeout() -> Duration {
    Duration::from_secs(15)
}

const fn failing_after() -> Duration {
    Duration::from_hours(4)
}

impl EventHook {
    /// The kinds of events it gets; none for all.
    pub fn kinds(&self) -> Option<Vec<EventKind>> {
        let kinds = self.events.iter().filter_map(|word| EventKind::by_name(word)).collect();
        Some(kinds).filter(|_| !self.events.is_empty())
    }

    /// What is wrong with it by itself: a key and a problem.
    fn check(&self) -> Result<(), (&'static str, String)> {
        let valid = (1..=40).contains(&self.name.len())
            && self.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !valid {
            let problem = "needs 1 to 40 lower-case letters, digits and hyphens";
            return Err(("name", problem.to_owned()));
        }
        let is_safe = match (self.url.scheme(), self.url.host_str()) {
            ("https", Some(_)) => true,
            ("http", Some(host)) => is_loopback(host.trim_matches(['[', ']'])),
            _ => false,
        };
        if !is_safe {
            return Err(("url", "must be https, or http to this machine".to_owned()));
        }
        if !self.url.username().is_empty() || self.url.password().is_some() {
            let problem = "must not have a login in it; the signature proves who posts";
            return Err(("url", problem.to_owned()));
        }
        for word in &self.events {
            match EventKind::by_name(word) {
                None => {
                    let words: Vec<_> = EventKind::ALL
                        .iter()
                        .filter(|kind| Step::of(**kind).is_none())
                        .map(|kind| kind.as_str())
                        .collect();
                    let problem = format!("there is no `{word}`; those are: {}", words.join(", "));
                    return Err(("events", problem));
                }
                Some(kind) if Step::of(kind).is_some() => {
                    let problem = format!(
                        "`{word}` is no event of its own: every outcome says when the copy was claimed \
                         and handed off"
                    );
                    return Err(("events", problem));
                }
                Some(_) => {}
            }
        }
        if self.timeout < Duration::from_secs(1) || self.timeout > Duration::from_mins(2) {
            return Err(("timeout", "must be between 1s and 2m".to_owned()));
        }
        let secret = self.secret.reveal().map_err(|problem| ("secret", problem))?;
        Signer::new(&secret).map(drop).map_err(|problem| ("secret", problem.to_owned()))
    }
}

impl super::Config {
    /// Checks where events are posted to; the error names the block, a key and a problem.
    pub(super) fn check_event_hooks(&self) -> Result<(), (usize, &'static str, String)> {
        for (index, hook) in self.webhooks.iter().enumerate() {
            let named = |(key, problem): (&'static str, String)| {
                (index, key, format!("webhook `{}`: {problem}", hook.name))
            };
            hook.check().map_err(named)?;
            if self.webhooks[..index].iter().any(|other| other.name == hook.name) {
                return Err(named(("name", "there is another one of that name".to_owned())));
            }
        }
        Ok(())
    }
}
