//! What providers post about copies: an HTTP request in, proven events out. Owns how each provider
//! proves itself and how its payloads are read. Pure: the clock is an argument, and the one thing that
//! has to be fetched (the certificate that Amazon signs with) is too. Sockets belong to `web::hooks`,
//! rows to [`apply`](crate::bounce::apply).
//!
//! A request is only read as a whole once it is proven. Before that, nothing is parsed into memory
//! but the few texts that the proof itself consists of. No compare of secrets tells by its time how
//! much was right. What a proof leaves open (a captured request that is sent again) is closed by the
//! age of the request, of the event, and by what `apply` remembers.
//!
//! Any bytes give an answer in linear time and bounded memory.

mod event;
mod form;
mod json;
mod md5;
mod proof;
mod readers;
mod shape;
mod sns;
#[cfg(test)]
pub(crate) mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use event::{Carried, HookEvent, Verdict, What};
pub use proof::Request;
pub use shape::is_json;
pub use sns::Certificate;

use crate::{config, timestamp::Timestamp};

/// Octets of the largest payload: as much as the largest mail. The largest batches of any provider
/// have less.
pub const SIZE_MAX: usize = crate::bounce::report::SIZE_MAX;
/// Events in one payload.
pub const EVENTS_MAX: usize = 10_000;
/// An event that is older than this does nothing any more: by then `apply` has forgotten whether it
/// came before.
pub const EVENT_AGE_MAX: Duration = Duration::from_hours(29 * 24);
/// How far a provider's clock may be ahead of ours.
const AHEAD_MAX: Duration = Duration::from_hours(24);

/// Who posts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provider {
    /// Amazon SES, over a topic of Amazon SNS.
    AmazonSes,
    /// Azure Communication Services, over Azure Event Grid.
    Azure,
    /// Brevo.
    Brevo,
    /// Forward Email.
    ForwardEmail,
    /// Anything that signs as the README says.
    Generic,
    /// MailerSend.
    Mailersend,
    /// Mailgun.
    Mailgun,
    /// Mailjet.
    Mailjet,
    /// Mailtrap.
    Mailtrap,
    /// Mailchimp Transactional.
    Mandrill,
    /// Postal.
    Postal,
    /// Postmark.
    Postmark,
    /// Resend.
    Resend,
    /// Twilio SendGrid.
    Sendgrid,
    /// SparkPost.
    Sparkpost,
    /// Unisender Go.
    UnisenderGo,
}

impl Provider {
    /// All of them, by name.
    pub const ALL: [Self; 16] = [
        Self::AmazonSes,
        Self::Azure,
        Self::Brevo,
        Self::ForwardEmail,
        Self::Generic,
        Self::Mailersend,
        Self::Mailgun,
        Self::Mailjet,
        Self::Mailtrap,
        Self::Mandrill,
        Self::Postal,
        Self::Postmark,
        Self::Resend,
        Self::Sendgrid,
        Self::Sparkpost,
        Self::UnisenderGo,
    ];

    /// The name in the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AmazonSes => "amazon-ses",
            Self::Azure => "azure",
            Self::Brevo => "brevo",
            Self::ForwardEmail => "forward-email",
            Self::Generic => "generic",
            Self::Mailersend => "mailersend",
            Self::Mailgun => "mailgun",
            Self::Mailjet => "mailjet",
            Self::Mailtrap => "mailtrap",
            Self::Mandrill => "mandrill",
            Self::Postal => "postal",
            Self::Postmark => "postmark",
            Self::Resend => "resend",
            Self::Sendgrid => "sendgrid",
            Self::Sparkpost => "sparkpost",
            Self::UnisenderGo => "unisender-go",
        }
    }

    /// The provider of that name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|provider| provider.as_str() == name)
    }

    /// How old a signature may be. Those who sign every try anew get five minutes; the others may
    /// repeat a request for a day, and its number is remembered for longer.
    const fn tolerance(self) -> Duration {
        match self {
            Self::Resend | Self::Generic => Duration::from_mins(5),
            _ => Duration::from_hours(24),
        }
    }

    /// Whether a shared secret comes along with the request, instead of a signature over it.
    const fn shows_a_secret(self) -> bool {
        matches!(self, Self::Azure | Self::Brevo | Self::Mailjet | Self::Postmark | Self::Sparkpost)
    }
}

impl std::fmt::Display for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a request is not taken. None of these gets better by being sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing proves who sent it.
    #[error("the request is not authentic: {0}")]
    NotAuthentic(&'static str),
    /// It was proven once, and is too old now, or its time is yet to come.
    #[error("the request is too old, or one of the two clocks is wrong")]
    Stale,
    /// It cannot be read.
    #[error("the request cannot be read: {0}")]
    Unreadable(&'static str),
    /// It says more than any provider sends at once.
    #[error("the request holds more than {EVENTS_MAX} events or {SIZE_MAX} octets")]
    TooMuch,
}

/// What a proven request wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// That these events are taken.
    Events(Vec<HookEvent>),
    /// That the subscription is confirmed by fetching this address, which is one of Amazon's.
    Confirm(String),
    /// An answer with this code in it.
    Handshake(String),
}

/// One configured webhook, with its keys ready.
#[derive(Clone)]
pub struct Hook {
    /// The last part of its path.
    pub name: String,
    /// Who posts there.
    pub provider: Provider,
    /// The relay whose copies it tells of, where an address alone may name one.
    pub relay: Option<String>,
    keys: Vec<Vec<u8>>,
    header: String,
    topic: String,
    /// The address as it stands at the provider.
    url: String,
    tolerance: Duration,
}

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hook")
            .field("name", &self.name)
            .field("provider", &self.provider)
            .finish_non_exhaustive()
    }
}

/// Octets of the shortest secret that is one.
const SECRET_MIN: usize = 16;

impl Hook {
    /// A webhook as configured. `public_url` ends in a slash.
    ///
    /// # Errors
    /// The key that is wrong, and what about it.
    pub fn new(config: &config::Webhook, public_url: &str) -> Result<Self, (&'static str, String)> {
        let provider = config.provider;
        let named = |key, problem: &str| (key, format!("webhook `{}`: {problem}", config.name));
        let mut keys = Vec::new();
        for secret in &config.secrets {
            let text = secret.reveal().map_err(|problem| named("secrets", &problem))?;
            keys.push(proof::key(provider, &text).map_err(|problem| named("secrets", problem))?);
        }
        let by_topic = provider == Provider::AmazonSes;
        if by_topic != config.topic.is_some() {
            return Err(named("topic", "amazon-ses needs its topic's ARN, and no other has one"));
        }
        if by_topic && !keys.is_empty() {
            return Err(named("secrets", "amazon-ses has none: Amazon's certificate proves it"));
        }
        if !by_topic && keys.is_empty() {
            return Err(named("secrets", "needs one, or two while it is being replaced"));
        }
        if keys.len() > 2 {
            return Err(named("secrets", "at most two: the one in use and the one before it"));
        }
        if config.header.is_some() && !provider.shows_a_secret() {
            return Err(named("header", "only for providers that show a secret with each request"));
        }
        let own = || format!("{public_url}hooks/{}", config.name);
        Ok(Self {
            name: config.name.clone(),
            provider,
            relay: config.relay.clone(),
            keys,
            header: config.header.clone().unwrap_or_else(|| "x-webhook-secret".to_owned()),
            topic: config.topic.clone().unwrap_or_default(),
            url: config.url.as_ref().map_or_else(own, ToString::to_string),
            tolerance: config.tolerance.unwrap_or(provider.tolerance()),
        })
    }

    /// Whether a request may go on to send its body: false when its header alone shows that it is
    /// not authentic.
    pub fn admits(&self, request: &Request<'_>) -> bool {
        !self.provider.shows_a_secret() || proof::shown(self, request)
    }

    /// Whether a request shows the secret, at providers that do.
    pub fn is_shown_a_secret(&self, request: &Request<'_>) -> bool {
        self.provider.shows_a_secret() && proof::shown(self, request)
    }

    /// The certificate without which the request cannot be proven. Where it is to be had is pinned:
    /// an address of Amazon's, whatever the request says.
    pub fn certificate(&self, request: &Request<'_>) -> Result<Option<String>, Refusal> {
        match self.provider {
            Provider::AmazonSes => sns::certificate(self, request).map(Some),
            _ => Ok(None),
        }
    }

    /// Proves a request and reads it.
    pub fn open(
        &self,
        request: &Request<'_>,
        certificate: Option<&Certificate>,
        now: Timestamp,
    ) -> Result<Opened, Refusal> {
        let body = request.body;
        if body.len() > SIZE_MAX {
            return Err(Refusal::TooMuch);
        }
        if asks_nothing(self.provider, body) {
            return Ok(Opened::Events(Vec::new()));
        }
        let proof = match self.provider {
            Provider::AmazonSes => {
                let certificate = certificate.ok_or(Refusal::NotAuthentic("no certificate"))?;
                let proof = sns::prove(self, request, certificate)?;
                self.is_fresh(proof.at, now)?;
                if let Some(url) = proof.confirm {
                    return Ok(Opened::Confirm(url));
                }
                proof::Proof::default()
            }
            _ => proof::prove(self, request)?,
        };
        if proof.dated {
            self.is_fresh(proof.at, now)?;
        }
        if self.provider == Provider::Azure
            && let Some(code) = readers::handshake(body)
        {
            return Ok(Opened::Handshake(code));
        }
        let mut events = readers::read(self.provider, body)?;
        if let ([event], Some(id)) = (events.as_mut_slice(), proof.id) {
            event.id.get_or_insert(id);
        }
        Ok(Opened::Events(events))
    }

    fn is_fresh(&self, at: Option<Timestamp>, now: Timestamp) -> Result<(), Refusal> {
        let apart = |at: Timestamp| now.since(at).max(at.since(now));
        match at {
            Some(at) if apart(at) <= self.tolerance => Ok(()),
            _ => Err(Refusal::Stale),
        }
    }
}

/// Reads a payload that was proven when it came.
///
/// # Errors
/// When it cannot be read any more.
pub fn read(provider: Provider, payload: &[u8]) -> Result<Vec<HookEvent>, Refusal> {
    if payload.len() > SIZE_MAX {
        return Err(Refusal::TooMuch);
    }
    readers::read(provider, payload)
}

/// Whether an event is of a time that counts.
pub fn is_of_our_time(event: &HookEvent, now: Timestamp) -> bool {
    event.at.is_none_or(|at| now.since(at) <= EVENT_AGE_MAX && at.since(now) <= AHEAD_MAX)
}

/// What providers send while a webhook is being set up, before they know the secret: it says nothing
/// and is answered by nothing, whoever sent it.
fn asks_nothing(provider: Provider, body: &[u8]) -> bool {
    match provider {
        Provider::Mandrill => matches!(body, b"mandrill_events=%5B%5D" | b"mandrill_events=[]"),
        Provider::Mailersend => readers::is_ping(body),
        _ => false,
    }
}
