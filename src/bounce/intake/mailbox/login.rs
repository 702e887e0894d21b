//! What a mailbox's server is shown: TLS settings, and a password or token that is looked up anew for
//! every login, so that a changed one needs no restart.

use std::{fmt, sync::Arc, time::Duration};

use super::MailboxError;
use crate::{
    config::{BounceMailbox, MailboxKind, MailboxTls},
    delivery::token_command::TokenCommand,
    smtp::tls::{TlsClient, TlsTrust},
};

/// How often a password that was refused is looked up, to see whether it is another one now.
const PASSWORD_LOOK: Duration = Duration::from_secs(2);

/// A password or token.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Secret(String);

impl Secret {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// How to get into a mailbox.
#[derive(Debug, Clone)]
pub(super) struct Login {
    pub(super) settings: Arc<BounceMailbox>,
    pub(super) tls: Option<TlsClient>,
    token: Option<Arc<TokenCommand>>,
}

impl Login {
    /// Reads certificates. Blocking.
    pub(super) fn new(settings: Arc<BounceMailbox>) -> Result<Self, MailboxError> {
        let is_remote = settings.kind != MailboxKind::Maildir;
        let tls = if is_remote && settings.tls != MailboxTls::None {
            let trust = TlsTrust { extra_ca: settings.ca_file.clone(), ..TlsTrust::default() };
            let client = TlsClient::new(&settings.host, &trust);
            Some(client.map_err(|error| MailboxError::Settings(error.to_string()))?)
        } else {
            None
        };
        let command = settings.token_command.clone();
        let token = command.map(|words| TokenCommand::new(words, settings.token_lifetime));
        Ok(Self { settings, tls, token: token.map(Arc::new) })
    }

    /// The password or token of this moment.
    pub(super) async fn secret(&self) -> Result<Secret, MailboxError> {
        if let Some(command) = &self.token {
            let token = command.token().await;
            let token = token.map_err(|error| MailboxError::Settings(error.to_string()))?;
            return Ok(Secret(token.secret));
        }
        let settings = Arc::clone(&self.settings);
        let reveal = move || match &settings.password {
            Some(secret) => secret.reveal(),
            None => Err("there is no password".to_owned()),
        };
        let revealed = tokio::task::spawn_blocking(reveal).await;
        let revealed = revealed.unwrap_or_else(|_| Err("it cannot be looked up".to_owned()));
        revealed.map(Secret).map_err(|why| MailboxError::Settings(format!("the password: {why}")))
    }

    /// What the server said to it: a token that it refused is not shown again.
    pub(super) async fn tell<T>(&self, opened: &Result<T, MailboxError>, secret: &Secret) {
        if let (Err(MailboxError::Login(_)), Some(command)) = (opened, &self.token) {
            command.refused(secret.as_str()).await;
        }
    }

    /// Whether a command says it.
    pub(super) fn is_by_command(&self) -> bool {
        self.settings.token_command.is_some()
    }

    /// Waits until the password is another one.
    pub(super) async fn secret_changes(&self) {
        let refused = self.secret().await.ok();
        loop {
            tokio::time::sleep(PASSWORD_LOOK).await;
            if self.secret().await.ok() != refused {
                return;
            }
        }
    }
}
