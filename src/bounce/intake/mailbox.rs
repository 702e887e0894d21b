//! Returned mail that is fetched: IMAP, POP3, maildirs. One task for each mailbox of the
//! configuration looks into it, applies what is new, and only then takes it away.
//!
//! A mail is applied in one transaction with its stored bytes, and taken from the mailbox after that.
//! A crash in between means that it is applied again, which counts nothing twice: a second report on
//! the same copy is `repeated`. mbox files are not among these: a mail can only be taken out of one by
//! writing it anew, under locks on which mail programs do not agree; `bounce ingest --mbox` reads one
//! as a whole, as often as one likes.
//!
//! Whose mail it is decides what becomes of it: with a genuine token of ours in it, it is handled;
//! without, it may be a person's, and stays where it is unless the configuration says otherwise. Such
//! a mail's bytes are not kept when it is no report at all.

mod desk;
mod error;
mod imap;
mod login;
mod maildir;
mod memory;
mod pop3;
mod retry;
#[cfg(test)]
mod tests;
mod wire;

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

pub use self::{desk::Look, error::MailboxError};
use self::{
    desk::{Desk, Place, Verdict},
    error::cut,
    imap::Imap,
    login::Login,
    pop3::Pop3,
    retry::Retry,
};
use crate::{
    bounce::apply::Source,
    config::{self, BounceMailbox, MailboxKind},
    db::Db,
    telemetry::MailboxSeries,
    timestamp::Timestamp,
    token::Keyring,
};

/// Octets that are read of a mail that is too large: a report's own parts come first.
const HEAD: usize = 256 * 1024;
/// How long a check by hand may take.
const CHECK_MAX: Duration = Duration::from_secs(20);

/// What every mailbox needs.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The database.
    pub db: Db,
    /// The keys behind our tokens.
    pub keyring: Arc<Keyring>,
    /// What follows from a report.
    pub rules: config::Bounces,
}

/// A way to look into a mailbox.
enum Account {
    Imap(Imap),
    Pop3(Pop3),
    Maildir,
}

impl Account {
    /// Blocking: reads certificates.
    fn new(settings: &Arc<BounceMailbox>) -> Result<Self, MailboxError> {
        let login = Login::new(Arc::clone(settings))?;
        Ok(match settings.kind {
            MailboxKind::Imap => Self::Imap(Imap::new(login)),
            MailboxKind::Pop3 => Self::Pop3(Pop3::new(login)),
            MailboxKind::Maildir => Self::Maildir,
        })
    }

    async fn look(&mut self, desk: &Desk, look: &mut Look) -> Result<(), MailboxError> {
        look.more = false;
        match self {
            Self::Imap(imap) => imap.look(desk, look).await,
            Self::Pop3(pop3) => pop3.look(desk, look).await,
            Self::Maildir => maildir::look(desk, look).await,
        }
    }

    /// Waits until it is worth looking again.
    async fn wait(&mut self, desk: &Desk) -> Result<(), MailboxError> {
        let until = Instant::now() + desk.settings.poll;
        match self {
            Self::Imap(imap) => imap.wait(until, desk).await,
            Self::Pop3(_) | Self::Maildir => {
                tokio::time::sleep_until(until).await;
                Ok(())
            }
        }
    }

    async fn close(&mut self) {
        if let Self::Imap(imap) = self {
            imap.close().await;
        }
    }
}

/// A mailbox, ready to be looked into.
pub struct Mailbox {
    account: Account,
    desk: Desk,
}

impl Mailbox {
    /// Prepares a mailbox; `series` counts what comes.
    pub async fn new(
        settings: &BounceMailbox,
        parts: &Parts,
        series: MailboxSeries,
    ) -> Result<Self, MailboxError> {
        let settings = Arc::new(settings.clone());
        let account = {
            let settings = Arc::clone(&settings);
            let made = tokio::task::spawn_blocking(move || Account::new(&settings)).await;
            made.unwrap_or_else(|error| Err(MailboxError::Settings(error.to_string())))?
        };
        let Parts { db, keyring, rules } = parts.clone();
        let source = Source::Mailbox(settings.kind.as_str(), settings.name.as_str().into());
        let desk = Desk { db, keyring, rules, settings, source, series };
        Ok(Self { account, desk })
    }

    /// Looks until there is nothing new, once.
    ///
    /// # Errors
    /// With what was done before it went wrong in `look`.
    pub async fn fetch(&mut self, look: &mut Look) -> Result<(), MailboxError> {
        loop {
            self.account.look(&self.desk, look).await?;
            if !look.more {
                self.account.close().await;
                return Ok(());
            }
        }
    }

    /// Forgets which mails were left in it, so that they are looked at again.
    pub async fn forget(&self) -> Result<(), MailboxError> {
        Ok(memory::forget(&self.desk.db, &self.desk.settings.name).await?)
    }

    /// Keeps looking, until `stop`. A look under way is broken off, which loses nothing.
    pub async fn watch(mut self, stop: CancellationToken) {
        let mailbox = self.desk.settings.name.clone();
        let mut retry = Retry::default();
        let watching = async {
            loop {
                let mut look = Look::default();
                let mut looked = self.account.look(&self.desk, &mut look).await;
                if looked.is_ok() {
                    self.well(&look, retry.is_failing());
                    if !look.more {
                        looked = self.account.wait(&self.desk).await;
                    }
                }
                let Err(problem) = looked else {
                    retry = Retry::default();
                    continue;
                };
                let pause = retry.next(&problem);
                self.desk.series.failed(Timestamp::now(), problem.to_string());
                let pause_s = pause.as_secs();
                if problem.needs_somebody() {
                    error!(mailbox, error = %problem, pause_s, "a mailbox cannot be looked into");
                } else {
                    warn!(mailbox, error = %problem, pause_s, "a mailbox cannot be looked into now");
                }
                self.pause(&problem, pause).await;
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = watching => {}
        }
    }

    fn well(&self, look: &Look, was_failing: bool) {
        let mailbox = self.desk.settings.name.as_str();
        let series = &self.desk.series;
        series.up.set(1);
        series.more.set(i64::from(look.more));
        series.last_success.set(Timestamp::now().microseconds() as f64 / 1e6);
        if was_failing {
            info!(mailbox, "a mailbox can be looked into again");
        }
        let Look { fetched, handled, left, aside, vanished, .. } = *look;
        if fetched + handled + vanished > 0 {
            debug!(mailbox, fetched, handled, left, aside, vanished, "looked into a mailbox");
        }
    }

    /// Waits before the next try; not for long once somebody has changed a password that was wrong.
    async fn pause(&self, problem: &MailboxError, pause: Duration) {
        let until = Instant::now() + pause;
        let changed = async {
            let login = match &self.account {
                Account::Imap(imap) => imap.login(),
                Account::Pop3(pop3) => pop3.login(),
                Account::Maildir => return std::future::pending().await,
            };
            if problem.needs_somebody() && !login.is_by_command() {
                login.secret_changes().await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = tokio::time::sleep_until(until) => {}
            () = changed => {}
        }
    }
}

/// How many mails were left in a mailbox, as not ours.
pub async fn left_in(db: &Db, mailbox: &str) -> crate::db::Result<i64> {
    memory::count_left(db, mailbox).await
}

/// Connects to a mailbox as the daemon would, logs in, and counts the mails in it; takes none.
pub async fn check(settings: &BounceMailbox) -> Result<u64, MailboxError> {
    let settings = Arc::new(settings.clone());
    let shared = Arc::clone(&settings);
    let made = tokio::task::spawn_blocking(move || Account::new(&shared)).await;
    let account = made.unwrap_or_else(|error| Err(MailboxError::Settings(error.to_string())))?;
    let checking = async {
        match account {
            Account::Imap(mut imap) => imap.check(&settings.folders).await,
            Account::Pop3(mut pop3) => pop3.check().await,
            Account::Maildir => maildir::check(&settings.path).await,
        }
    };
    timeout(CHECK_MAX, checking).await.unwrap_or(Err(MailboxError::TooSlow))
}
