//! Webhooks of mail providers: who posts events about copies, and how it proves that.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::Url;

use super::{Secret, value::duration};
use crate::bounce::intake::webhook::Provider;

/// One provider's webhook, at `/hooks/NAME` of the public pages.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// The last part of its path: lower-case letters, digits and hyphens.
    pub name: String,
    /// Who posts there.
    pub provider: Provider,
    /// The provider's signing secret, or its public key, or the secret that it shows with each request;
    /// two while one replaces the other. Each as text, `{ env = "NAME" }` or `{ file = "PATH" }`.
    #[serde(default)]
    pub secrets: Vec<Secret>,
    /// For providers that show a secret: the field it stands in, if not `Authorization`.
    #[serde(default)]
    pub header: Option<String>,
    /// For Amazon SES: the ARN of the topic.
    #[serde(default)]
    pub topic: Option<String>,
    /// For Mandrill: the address as it stands there, if it is not the one that `public_url` gives.
    #[serde(default)]
    pub url: Option<Url>,
    /// How old a signature may be; by default as its provider needs it.
    #[serde(default, with = "duration::option")]
    pub tolerance: Option<Duration>,
    /// The relay whose copies it tells of: an event that carries nothing of ours is then tied to the
    /// last copy that this relay took for its address.
    #[serde(default)]
    pub relay: Option<String>,
    /// Where Amazon's certificate is fetched and a subscription confirmed instead: a server on this
    /// machine, for rehearsals.
    #[serde(default)]
    pub rehearsal_origin: Option<Url>,
}

impl super::Config {
    /// Checks the webhooks; the error names a key and a problem.
    pub(super) fn check_webhooks(&self) -> Result<(), (&'static str, String)> {
        let all = &self.bounces.webhook;
        for (index, hook) in all.iter().enumerate() {
            let named =
                |key, problem: &str| Err((key, format!("webhook `{}`: {problem}", hook.name)));
            let valid = (1..=40).contains(&hook.name.len())
                && hook
                    .name
                    .bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            if !valid {
                return named("name", "needs 1 to 40 lower-case letters, digits and hyphens");
            }
            if all[..index].iter().any(|other| other.name == hook.name) {
                return named("name", "there is another one of that name");
            }
            let is_field = |name: &String| axum::http::HeaderName::try_from(name).is_ok();
            if !hook.header.as_ref().is_none_or(is_field) {
                return named("header", "is no name of a header field");
            }
            if let Some(relay) = &hook.relay
                && self.relay.iter().all(|known| known.name != *relay)
            {
                return named("relay", &format!("there is no relay `{relay}`"));
            }
            let on_this_machine = |url: &Url| match url.host() {
                Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
                Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
                _ => false,
            };
            if !hook.rehearsal_origin.as_ref().is_none_or(on_this_machine) {
                return named("rehearsal_origin", "must be an address of this machine itself");
            }
            crate::bounce::intake::webhook::Hook::new(hook, self.public_url.as_str())?;
        }
        Ok(())
    }
}
