//! One relay as its connections see it: where it is, how it is spoken to and logged in at, when a
//! connection is worn, and how the last attempts to reach it went.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    health::Health,
    mx::Direct,
    session_length::SessionLength,
    token_command::{TokenCommand, TokenError},
};
use crate::{
    config::{self, Config, EventField, RelayAuth, RelayKind, RelayTls},
    smtp::{
        client::{
            Credentials, Deadlines, Endpoint, Mechanism, Phase, Session, SessionError,
            SessionErrorKind,
        },
        reply::Reply,
        tls::{Encryption, Identity, TlsMode, TlsTrust},
    },
};

/// One relay.
#[derive(Debug)]
pub struct Relay {
    /// Its number in the dispatch.
    pub index: usize,
    /// What operators call it.
    pub name: String,
    /// Where it is, for lists.
    pub address: String,
    /// Where it is and how it is spoken to.
    pub endpoint: Endpoint,
    /// After how many copies a connection is made anew.
    pub messages_per_connection: u64,
    /// At what age it is.
    pub connection_age: Duration,
    /// The field in front of every message by which the relay's events find back to it.
    pub event_field: Option<EventField>,
    /// Whether it can be reached, over all its connections.
    pub health: Health,
    /// How many messages its sessions carry before it ends them.
    pub session_length: SessionLength,
    /// How it brings mail to the servers of domains, if it does.
    pub direct: Option<Arc<Direct>>,
    tokens: Option<TokenCommand>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The relay or the way there.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// There is no token to log in with.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Direct delivery goes to nobody.
    #[error("{0}")]
    Direct(String),
}

impl ConnectError {
    /// The reply with which the relay refused, and when it said so.
    pub fn reply(&self) -> Option<(Phase, &Reply)> {
        match self {
            Self::Session(SessionError { phase, kind: SessionErrorKind::Refused(reply) }) => {
                Some((*phase, reply))
            }
            _ => None,
        }
    }

    /// Whether the relay refused our login for good.
    pub fn is_login_refused(&self) -> bool {
        self.reply().is_some_and(|(phase, reply)| phase == Phase::Auth && reply.is_permanent())
    }
}

impl Relay {
    /// Reads what the settings name. Blocking: certificates are read from files. The error is a
    /// sentence.
    pub fn new(index: usize, settings: &config::Relay, config: &Config) -> Result<Self, String> {
        let tokens = settings.token_command.clone();
        let endpoint = endpoint(settings, config)?;
        let direct = match settings.kind {
            RelayKind::Smarthost => None,
            RelayKind::Mx => Some(Arc::new(Direct::new(settings, endpoint.clone(), config)?)),
        };
        Ok(Self {
            index,
            name: settings.name.clone(),
            address: settings.address(),
            endpoint,
            direct,
            messages_per_connection: u64::from(settings.messages_per_connection),
            connection_age: settings.connection_age,
            event_field: settings.event_field.clone(),
            health: Health::default(),
            session_length: SessionLength::default(),
            tokens: tokens.map(|command| TokenCommand::new(command, settings.token_lifetime)),
        })
    }

    /// Every relay of the configuration.
    pub fn all(config: &Config) -> Result<Vec<Arc<Self>>, String> {
        let relay = |(index, settings): (usize, &config::Relay)| {
            Self::new(index, settings, config)
                .map(Arc::new)
                .map_err(|problem| format!("relay `{}`: {problem}", settings.name))
        };
        config.relay.iter().enumerate().map(relay).collect()
    }

    /// Connects and logs in. A kept token that is refused is made anew, once.
    pub async fn connect(&self) -> Result<Session, ConnectError> {
        let Some(tokens) = &self.tokens else {
            return Ok(Session::connect(&self.endpoint).await?);
        };
        loop {
            let token = tokens.token().await?;
            let mut endpoint = self.endpoint.clone();
            if let Some(credentials) = &mut endpoint.credentials {
                credentials.secret.clone_from(&token.secret);
            }
            let error = match Session::connect(&endpoint).await {
                Ok(session) => return Ok(session),
                Err(error) => ConnectError::from(error),
            };
            if !error.is_login_refused() {
                return Err(error);
            }
            tokens.refused(&token.secret).await;
            if token.is_new {
                return Err(error);
            }
        }
    }

    /// A session for a copy to `address`: with the relay, or with a mail server of the address's domain.
    pub async fn connect_for(&self, address: &str) -> Result<Session, ConnectError> {
        match &self.direct {
            None => self.connect().await,
            Some(direct) => direct.connect_for(address).await.map_err(ConnectError::Direct),
        }
    }

    /// Whether a session has carried or seen enough.
    pub fn is_worn(&self, session: &Session) -> bool {
        let most = self.messages_per_connection.min(self.session_length.known(Instant::now()));
        session.messages_sent() >= most || session.age() >= self.connection_age
    }

    /// Whether the next message is a session's last.
    pub fn is_last_message(&self, session: &Session) -> bool {
        let most = self.messages_per_connection.min(self.session_length.known(Instant::now()));
        session.messages_sent() + 1 >= most || session.age() >= self.connection_age
    }
}

fn endpoint(relay: &config::Relay, config: &Config) -> Result<Endpoint, String> {
    let mode = match relay.tls {
        // Whoever brings mail to a domain's own servers decides for each of them.
        _ if relay.kind == RelayKind::Mx => TlsMode::None,
        RelayTls::None | RelayTls::Opportunistic => TlsMode::None,
        RelayTls::Starttls => TlsMode::StartTls,
        RelayTls::Implicit => TlsMode::Implicit,
    };
    let identity = relay.client_cert_file.as_ref().zip(relay.client_key_file.as_ref());
    let identity =
        identity.map(|(chain, key)| Identity { chain_file: chain.clone(), key_file: key.clone() });
    let trust = TlsTrust { extra_ca: relay.ca_file.clone(), identity, ..TlsTrust::default() };
    let encryption =
        Encryption::new(mode, &relay.host, &trust).map_err(|error| error.to_string())?;
    let secret = match (&relay.password, &relay.token_command) {
        (Some(password), _) => Some(password.reveal()?),
        // The token is put in when a connection is made.
        (None, Some(_)) => Some(String::new()),
        (None, None) => None,
    };
    let credentials = relay.username.clone().zip(secret).map(|(username, secret)| Credentials {
        username,
        secret,
        mechanism: match relay.auth {
            RelayAuth::Auto => None,
            RelayAuth::Plain => Some(Mechanism::Plain),
            RelayAuth::Login => Some(Mechanism::Login),
            RelayAuth::Xoauth2 => Some(Mechanism::XOAuth2),
        },
    });
    let smtp = &config.smtp;
    let deadlines = Deadlines {
        connect: smtp.connect,
        greeting: smtp.greeting,
        envelope: smtp.envelope,
        data: smtp.data,
        dot: smtp.dot,
        ..Deadlines::default()
    };
    let helo_name = relay.helo_name.as_ref().unwrap_or(&config.mail.helo_name);
    let mut endpoint = Endpoint::new(&relay.host, relay.port, helo_name);
    endpoint.encryption = encryption;
    endpoint.credentials = credentials;
    // The configuration refuses a clear-text login to anywhere but this machine.
    endpoint.allow_clear_text_auth = relay.tls == RelayTls::None;
    endpoint.deadlines = deadlines;
    Ok(endpoint)
}
