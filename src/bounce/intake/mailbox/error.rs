//! Why a mailbox cannot be looked into, in words for an operator.

use std::{io, path::PathBuf};

use super::desk::PATIENCE;

/// Characters of a server's words in an error.
const SAID_MAX: usize = 200;

/// Why a mailbox cannot be looked into.
#[derive(Debug, thiserror::Error)]
pub enum MailboxError {
    /// The login is wrong.
    #[error("the login was refused: {0}; see that name and password are right")]
    Login(String),
    /// Something needed for the login is missing.
    #[error("{0}")]
    Settings(String),
    /// There is no connection.
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    /// There is no encryption.
    #[error("TLS failed: {0}")]
    Tls(#[source] io::Error),
    /// The connection broke.
    #[error("the connection was lost: {0}")]
    Lost(#[source] io::Error),
    /// The server is silent.
    #[error("the server took too long")]
    TooSlow,
    /// The server speaks another language.
    #[error("the server cannot be used: {0}")]
    Protocol(&'static str),
    /// The server said no.
    #[error("{command} was refused: {said}")]
    Refused {
        /// To what.
        command: &'static str,
        /// In its words.
        said: String,
    },
    /// The files of a maildir.
    #[error("{}: {}", .0.display(), .1)]
    Files(PathBuf, #[source] io::Error),
    /// Our own database.
    #[error("the mail was not taken in, as the database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// Our own database is too slow.
    #[error("the mail was not taken in, as the database took more than {} s", PATIENCE.as_secs())]
    DatabaseSlow,
}

impl MailboxError {
    pub(super) fn refused(command: &'static str, said: impl AsRef<str>) -> Self {
        Self::Refused { command, said: cut(said.as_ref()) }
    }

    /// Whether trying again helps only once somebody has changed something.
    pub const fn needs_somebody(&self) -> bool {
        matches!(self, Self::Login(_) | Self::Settings(_) | Self::Tls(_))
    }
}

/// A server's words, without what would break a line.
pub(super) fn cut(said: &str) -> String {
    said.chars().filter(|c| !c.is_control()).take(SAID_MAX).collect()
}
