//! Where fetched mails are applied, and what that says about where they belong.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;
use tracing::{error, warn};

use super::MailboxError;
use crate::{
    bounce::{
        apply::{ApplyError, Source, returned_mail},
        intake::pipe,
    },
    config::{self, BounceMailbox, HandledMail, MailboxKind, OtherMail},
    db::Db,
    telemetry::MailboxSeries,
    timestamp::Timestamp,
    token::Keyring,
};

/// How long applying one mail may take.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);

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
    pub(super) more: bool,
}

/// What a mail turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It has a genuine token of ours.
    Ours,
    /// It has none.
    Other,
    /// It is too large, of which only the beginning was applied, or cannot be had at all.
    Unreadable,
}

/// Where a mail belongs after that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Where it is.
    Here,
    /// In the folder of handled mail.
    Handled,
    /// In the folder of other mail.
    Aside,
    /// It is deleted.
    Nowhere,
}

/// Where a mailbox's mails are applied, and counted.
pub(super) struct Desk {
    pub(super) db: Db,
    pub(super) keyring: Arc<Keyring>,
    pub(super) rules: config::Bounces,
    pub(super) settings: Arc<BounceMailbox>,
    pub(super) source: Source,
    pub(super) series: MailboxSeries,
}

impl Desk {
    /// Applies a mail; of one that is too large, its beginning.
    pub(super) async fn take(
        &self,
        raw: Vec<u8>,
        whole: bool,
        look: &mut Look,
    ) -> Result<Verdict, MailboxError> {
        let mailbox = self.settings.name.as_str();
        let mail = pipe::with_envelope(&self.keyring, raw, None, self.source.clone());
        let applying = returned_mail(&self.db, &self.keyring, &self.rules, mail, Timestamp::now());
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
    pub(super) fn place(&self, verdict: Verdict) -> Place {
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
    pub(super) fn settled(&self, verdict: Verdict, look: &mut Look) {
        let (count, series) = match (verdict, self.place(verdict)) {
            (Verdict::Ours, _) => (&mut look.handled, &self.series.handled),
            (_, Place::Here) => (&mut look.left, &self.series.left),
            _ => (&mut look.aside, &self.series.aside),
        };
        *count += 1;
        series.inc();
    }
}
