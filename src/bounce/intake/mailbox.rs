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

mod imap;
mod login;
mod maildir;
mod memory;
mod pop3;
mod retry;
#[cfg(test)]
mod tests;
mod wire;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use self::{imap::Imap, login::Login, pop3::Pop3, retry::Retry};
use super::pipe;
use crate::{
    bounce::apply::{ApplyError, Source, returned_mail},
    config::{self, BounceMailbox, HandledMail, MailboxKind, OtherMail},
    db::Db,
    telemetry::MailboxSeries,
    timestamp::Timestamp,
    token::Keyring,
};

/// Octets that are read of a mail that is too large: a report's own parts come first.
const HEAD: usize = 256 * 1024;
/// How long applying one mail may take.
const PATIENCE: Duration = Duration::from_mins(1);
/// How long a check by hand may take.
const CHECK_MAX: Duration = Duration::from_secs(20);
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
    fn refused(command: &'static str, said: impl AsRef<str>) -> Self {
        Self::Refused { command, said: cut(said.as_ref()) }
    }

    /// Whether trying again helps only once somebody has changed something.
    pub const fn needs_somebody(&self) -> bool {
        matches!(self, Self::Login(_) | Self::Settings(_) | Self::Tls(_))
    }
}

/// A server's words, without what would break a line.
fn cut(said: &str) -> String {
    said.chars().filter(|c| !c.is_control()).take(SAID_MAX).collect()
}

/// What looking into a mailbox came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Look {
    /// Mails that were fetched and applied.
    pub fetched: u64,
    /// Mails with a token of ours, moved or deleted.
    pub handled: u64,
    /// Mails that were left where they are.
    pub left: u64,
    /// Mails that were moved aside or deleted without having a token of ours, or without being read.
    pub aside: u64,
    /// Mails that somebody else took away in between.
    pub vanished: u64,
    /// Whether there is more to be had at once.
    #[serde(skip)]
    more: bool,
}

/// What a mail turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It has a genuine token of ours.
    Ours,
    /// It has none.
    Other,
    /// It is too large, of which only the beginning was applied, or cannot be had at all.
    Unreadable,
}

/// Where a mail belongs after that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Where it is.
    Here,
    /// In the folder of handled mail.
    Handled,
    /// In the folder of other mail.
    Aside,
    /// It is deleted.
    Nowhere,
}

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

/// Where a mailbox's mails are applied, and counted.
struct Desk {
    db: Db,
    keyring: Arc<Keyring>,
    rules: config::Bounces,
    settings: Arc<BounceMailbox>,
    source: Source,
    series: MailboxSeries,
}

impl Desk {
    /// Applies a mail; of one that is too large, its beginning.
    async fn take(
        &self,
        raw: Vec<u8>,
        whole: bool,
        look: &mut Look,
    ) -> Result<Verdict, MailboxError> {
        let mailbox = self.settings.name.as_str();
        let mail = pipe::with_envelope(&self.keyring, raw, None, self.source.clone());
        let applying = returned_mail(&self.db, &self.keyring, &self.rules, &mail, Timestamp::now());
        let applied = match timeout(PATIENCE, applying).await {
            Err(_) => return Err(MailboxError::DatabaseSlow),
            Ok(Err(ApplyError::Database(error))) => return Err(error.into()),
            Ok(Err(problem)) => {
                error!(mailbox, error = %problem, "a mail cannot be read");
                None
            }
            Ok(Ok(applied)) => Some(applied),
        };
        look.fetched += 1;
        self.series.fetched.inc();
        Ok(match applied {
            Some(applied) if whole => {
                if applied.genuine {
                    Verdict::Ours
                } else {
                    Verdict::Other
                }
            }
            Some(applied) => {
                warn!(
                    mailbox,
                    inbound = applied.inbound,
                    "a mail is too large: its start was read"
                );
                Verdict::Unreadable
            }
            None => Verdict::Unreadable,
        })
    }

    /// Where a mail belongs.
    fn place(&self, verdict: Verdict) -> Place {
        match (verdict, self.settings.handled, self.settings.others) {
            (Verdict::Ours, HandledMail::Move, _) => Place::Handled,
            (Verdict::Ours, HandledMail::Delete, _) | (Verdict::Other, _, OtherMail::Delete) => {
                Place::Nowhere
            }
            (Verdict::Other, _, OtherMail::Leave) => Place::Here,
            (Verdict::Unreadable, ..) if self.settings.kind == MailboxKind::Pop3 => Place::Here,
            (Verdict::Unreadable, ..) | (Verdict::Other, _, OtherMail::Move) => Place::Aside,
        }
    }

    /// Counts a mail that is where it belongs.
    fn settled(&self, verdict: Verdict, look: &mut Look) {
        let (count, series) = match (verdict, self.place(verdict)) {
            (Verdict::Ours, _) => (&mut look.handled, &self.series.handled),
            (_, Place::Here) => (&mut look.left, &self.series.left),
            _ => (&mut look.aside, &self.series.aside),
        };
        *count += 1;
        series.inc();
    }
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
                self.desk.series.failures.inc();
                self.desk.series.up.set(0);
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

/// How often a password that was refused is looked up, to see whether it is another one now.
const PASSWORD_LOOK: Duration = Duration::from_secs(2);

impl Login {
    fn is_by_command(&self) -> bool {
        self.settings.token_command.is_some()
    }

    /// Waits until the password is another one.
    async fn secret_changes(&self) {
        let refused = self.secret().await.ok();
        loop {
            sleep(PASSWORD_LOOK).await;
            if self.secret().await.ok() != refused {
                return;
            }
        }
    }
}
