//! Everything that happened to one reader.

use serde::Serialize;

use super::log::{Start, log_page};
use crate::{
    db::{
        self, Db,
        record::record,
        state::{CopyState, IssueState},
    },
    event::{Filter, Line},
    id::SubscriberId,
    subscriber::{self, Subscriber, Subscription, suppression::Suppression},
    timestamp::Timestamp,
};

/// How many lines of the log are shown.
const LINES_MAX: u32 = 200;
/// Of how many of the latest issues the copies are looked up.
const ISSUES_MAX: i64 = 200;
/// How many service mails are shown.
const SERVICE_MAILS_MAX: i64 = 20;

/// One reader, and what happened to them.
#[derive(Debug, Clone, Serialize)]
pub struct Timeline {
    /// Who.
    pub subscriber: Subscriber,
    /// What they subscribed to.
    pub subscriptions: Vec<Subscription>,
    /// Why they must not be mailed, if so.
    pub suppression: Option<Suppression>,
    /// Their copies of the latest issues, newest first.
    pub copies: Vec<CopyLine>,
    /// Service mails to them, newest first.
    pub service_mails: Vec<ServiceLine>,
    /// What the log says of them, each try with its steps, newest first.
    pub lines: Vec<Line>,
    /// Whether the log has more.
    pub more_lines: bool,
}

record! {
    /// One copy.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    pub struct CopyLine {
        /// The newsletter's slug.
        pub newsletter: String,
        /// The issue's number.
        pub number: i64,
        /// The issue's subject.
        pub subject: String,
        /// How far the issue has come.
        pub issue_state: IssueState,
        /// Where the copy stands.
        pub state: CopyState,
        /// Its stage.
        pub stage: i64,
        /// How often it was tried.
        pub attempts: i64,
        /// When it is tried again.
        pub due_at: Option<Timestamp>,
        /// Why it did not leave or arrive.
        pub reason: Option<String>,
        /// Since when it is in hand, if it is: claimed, and perhaps handed off. The log tells of that
        /// when the try has an outcome.
        pub in_hand_since: Option<Timestamp>,
    }
}

record! {
    /// One service mail.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    pub struct ServiceLine {
        /// Which mail it is.
        pub kind: String,
        /// Where it stands.
        pub state: CopyState,
        /// How often it was tried.
        pub attempts: i64,
        /// When it was asked for.
        pub created_at: Timestamp,
        /// Why it did not arrive.
        pub reason: Option<String>,
    }
}

pub(super) const COPIES: &str = "SELECT n.slug AS newsletter, i.number, i.subject, \
     i.state AS issue_state, d.state, d.stage, d.attempt AS attempts, d.due_at, d.reason, \
     (SELECT c.at FROM claim c WHERE c.id = d.claim_id AND d.state IN (1, 2)) AS in_hand_since \
     FROM (SELECT id, newsletter_id, number, subject, state FROM issue ORDER BY id DESC LIMIT $2) i \
     CROSS JOIN delivery d ON d.issue_id = i.id AND d.subscriber_id = $1 \
     JOIN newsletter n ON n.id = i.newsletter_id ORDER BY i.id DESC";
pub(super) const SERVICE_MAILS: &str = "SELECT kind, state, attempt AS attempts, created_at, \
     reason FROM service_mail INDEXED BY service_mail_by_subscriber \
     WHERE subscriber_id = $1 ORDER BY id DESC LIMIT $2";
pub(super) const SUPPRESSION: &str = "SELECT x.address, x.reason, x.detail, x.created_at \
     FROM subscriber s CROSS JOIN suppression x ON x.address_hash = s.address_hash \
     WHERE s.id = $1";

/// The reader's copies that a daemon has in hand.
pub async fn copies_in_hand(db: &Db, id: SubscriberId) -> db::Result<Vec<CopyLine>> {
    let mut copies: Vec<CopyLine> = db.query(COPIES).bind(id).bind(ISSUES_MAX).all().await?;
    copies.retain(|copy| matches!(copy.state, CopyState::Claimed | CopyState::HandedOff));
    Ok(copies)
}

/// Everything about one reader; none when there never was such a one.
pub async fn timeline(db: &Db, id: SubscriberId) -> db::Result<Option<Timeline>> {
    let Some(subscriber) = subscriber::get(db, id).await? else { return Ok(None) };
    let filter = Filter { subscriber: Some(id), ..Filter::default() };
    let page = log_page(db, &filter, Start::Newest, LINES_MAX).await?;
    Ok(Some(Timeline {
        subscriber,
        subscriptions: subscriber::subscriptions(db, id).await?,
        suppression: db.query(SUPPRESSION).bind(id).optional().await?,
        copies: db.query(COPIES).bind(id).bind(ISSUES_MAX).all().await?,
        service_mails: db.query(SERVICE_MAILS).bind(id).bind(SERVICE_MAILS_MAX).all().await?,
        more_lines: page.older.is_some(),
        lines: page.lines.into_iter().flat_map(Line::with_steps).collect(),
    }))
}
