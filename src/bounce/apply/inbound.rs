//! What came in, kept for 30 days: the evidence behind what was done, or was not.

use std::time::Duration;

use serde::Serialize;

use super::provider::FORGET_EVENTS;
use crate::{
    bounce::{apply::Outcome, report::Kind},
    db::{self, Db, Tx, record::record},
    id::{IssueId, SubscriberId},
    timestamp::Timestamp,
};

/// How long a raw mail is kept.
const KEPT: Duration = Duration::from_hours(30 * 24);
/// Mails that one round of forgetting deletes: at up to 5 MB each, a bounded write.
const BATCH: i64 = 200;
/// The same of remembered events, which are small.
const EVENTS: i64 = 10_000;
/// Octets kept of a mail that no token of ours vouches for, which anyone can send.
const HEAD: usize = 16 * 1024;
/// Mails about one reader that are kept whole, and in part. A real reader's month brings a handful.
const WHOLE_PER_READER: i64 = 20;
const HEADS_PER_READER: i64 = 100;

/// A mail to be kept.
pub(super) struct Inbound<'a> {
    pub(super) source: String,
    pub(super) mail_from: &'a str,
    pub(super) rcpt_to: &'a str,
    pub(super) kind: Kind,
    pub(super) outcome: Outcome,
    pub(super) issue: Option<IssueId>,
    pub(super) subscriber: Option<SubscriberId>,
    pub(super) raw: &'a [u8],
}

/// Keeps a mail as part of `tx`; returns its row.
pub(super) async fn keep(tx: &mut Tx, mail: &Inbound<'_>, now: Timestamp) -> db::Result<i64> {
    let kept: i64 = match mail.subscriber {
        None => WHOLE_PER_READER,
        Some(subscriber) => {
            tx.query("SELECT COUNT(*) FROM inbound_mail WHERE subscriber_id = $1")
                .bind(subscriber)
                .scalar()
                .await?
        }
    };
    let room = match kept {
        ..WHOLE_PER_READER => usize::MAX,
        WHOLE_PER_READER..HEADS_PER_READER => HEAD,
        HEADS_PER_READER.. => 0,
    };
    let raw = &mail.raw[..mail.raw.len().min(room)];
    tx.query(
        "INSERT INTO inbound_mail (received_at, source, mail_from, rcpt_to, kind, effect, \
         issue_id, subscriber_id, raw) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING id",
    )
    .bind(now)
    .bind(mail.source.clone())
    .bind(super::cut(mail.mail_from))
    .bind(super::cut(mail.rcpt_to))
    .bind(kind_word(mail.kind))
    .bind(mail.outcome.as_str())
    .bind(mail.issue)
    .bind(mail.subscriber)
    .bind(raw.to_vec())
    .scalar()
    .await
}

pub(super) const fn kind_word(kind: Kind) -> &'static str {
    match kind {
        Kind::Failed => "failed",
        Kind::Delayed => "delayed",
        Kind::Delivered => "delivered",
        Kind::Complaint => "complaint",
        Kind::AuthFailure => "auth_failure",
        Kind::AutoReply => "auto_reply",
        Kind::Challenge => "challenge",
        Kind::Unsubscribe => "unsubscribe",
        Kind::NotAReport => "not_a_report",
    }
}

record! {
    /// A mail that came in, as a list shows it.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    pub struct Received {
        /// Its row.
        pub id: i64,
        /// When.
        pub received_at: Timestamp,
        /// Where it came in.
        pub source: String,
        /// The envelope sender; empty for the null sender.
        pub mail_from: String,
        /// The address it came to.
        pub rcpt_to: String,
        /// What it was taken for.
        pub kind: String,
        /// What it did ([`Outcome`]).
        pub effect: String,
        /// The issue it is about.
        pub issue_id: Option<IssueId>,
        /// The reader it is about.
        pub subscriber_id: Option<SubscriberId>,
        /// Octets kept of it: less than it had where a reader's mails were many, none where they
        /// were too many or the reader was erased.
        pub octets: i64,
    }
}

pub(super) const LIST: &str = "SELECT id, received_at, source, mail_from, rcpt_to, kind, effect, \
     issue_id, subscriber_id, length(raw) AS octets FROM inbound_mail WHERE id < $1 \
     AND ($2 = '' OR kind = $2) AND ($3 = '' OR effect = $3) ORDER BY id DESC LIMIT $4";

/// The mails that came in last, the latest first: those of one kind and effect only, unless these
/// are empty.
pub async fn list(db: &Db, kind: &str, effect: &str, limit: u32) -> db::Result<Vec<Received>> {
    db.query(LIST)
        .bind(i64::MAX)
        .bind(kind.to_owned())
        .bind(effect.to_owned())
        .bind(i64::from(limit))
        .all()
        .await
}

/// One mail that came in, and what is kept of its bytes.
pub async fn show(db: &Db, id: i64) -> db::Result<Option<(Received, Vec<u8>)>> {
    let found = "SELECT id, received_at, source, mail_from, rcpt_to, kind, effect, issue_id, \
                 subscriber_id, length(raw) AS octets FROM inbound_mail WHERE id = $1";
    let Some(received) = db.query(found).bind(id).optional().await? else { return Ok(None) };
    let raw = "SELECT raw FROM inbound_mail WHERE id = $1";
    let raw: Option<Vec<u8>> = db.query(raw).bind(id).optional_scalar().await?;
    Ok(raw.map(|raw| (received, raw)))
}

/// What one round of forgetting did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Mails deleted.
    pub mails: u64,
    /// Whether there may be more to do at once.
    pub more: bool,
}

pub(super) const FORGET: &str = "DELETE FROM inbound_mail WHERE id IN \
     (SELECT id FROM inbound_mail WHERE received_at < $1 ORDER BY received_at LIMIT $2)";

/// Deletes a batch of mails older than 30 days. Call it every few minutes, and again at once while
/// [`Forgotten::more`] says so.
pub async fn forget_old(db: &Db, now: Timestamp) -> db::Result<Forgotten> {
    let mails = db.write(FORGET).bind(now.minus(KEPT)).bind(BATCH).execute().await?;
    let events = db.write(FORGET_EVENTS).bind(now.minus(KEPT)).bind(EVENTS).execute().await?;
    Ok(Forgotten { mails, more: mails >= BATCH as u64 || events >= EVENTS as u64 })
}
