//! Who did not get an issue, and why.

use futures_util::stream::{BoxStream, StreamExt as _};
use serde::Serialize;

use super::{Equation, newsletter_of};
use crate::{
    db::{
        self, Db,
        record::record,
        state::{CopyState, IssueState},
    },
    delivery::{control::Edition, queue, tally::Tally},
    id::SubscriberId,
};

/// How many reasons are told apart.
const REASONS_MAX: i64 = 50;

/// An issue's end, in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IssueReport {
    /// The newsletter's slug.
    pub newsletter: String,
    /// The issue's number.
    pub number: i64,
    /// Its subject.
    pub subject: String,
    /// How far it has come.
    pub state: IssueState,
    /// How many copies are in each state.
    pub equation: Equation,
    /// Copies that a relay took and that came back later.
    pub bounced_later: i64,
    /// Readers who called it spam.
    pub complaints: i64,
    /// Why copies did not arrive, most frequent first.
    pub reasons: Vec<Reason>,
}

record! {
    /// Why some copies did not arrive.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    pub struct Reason {
        /// What became of them.
        pub state: CopyState,
        /// Whose fault, and whether for good; for refusals.
        pub class: Option<String>,
        /// One of the reasons given.
        pub example: Option<String>,
        /// How many copies.
        pub copies: i64,
    }
}

record! {
    /// A copy that did not arrive, as far as is known.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    pub struct Missed {
        /// The reader.
        pub subscriber_id: SubscriberId,
        /// The reader's address; none after an erasure.
        pub address: Option<String>,
        /// The provider of the address.
        pub provider: i64,
        /// Where the copy stands.
        pub state: CopyState,
        /// Whether a relay had taken it and it came back.
        pub bounced_later: bool,
        /// How often it was tried.
        pub attempts: i64,
        /// Whose fault, and whether for good.
        pub class: Option<String>,
        /// Why.
        pub reason: Option<String>,
    }
}

/// Refusals by class, what was never sent by its reason.
const REASONS: &str = "SELECT d.state, c.class, MAX(d.reason) AS example, COUNT(*) AS copies \
     FROM delivery d LEFT JOIN (SELECT subscriber_id, class, MAX(id) FROM event \
       INDEXED BY event_by_issue WHERE issue_id = $1 AND kind = 4 AND kind <> 2 \
       GROUP BY subscriber_id) c \
       ON d.state = 4 AND c.subscriber_id = d.subscriber_id \
     WHERE d.issue_id = $1 AND d.state IN (4, 5, 6, 7, 8) \
     GROUP BY d.state, c.class, iif(d.state = 6, d.reason, '') \
     ORDER BY copies DESC LIMIT $2";

pub(super) const MISSED: &str = "SELECT d.subscriber_id, s.address, d.provider, d.state, \
     false AS bounced_later, d.attempt AS attempts, d.reason, \
     (SELECT e.class FROM event e INDEXED BY event_by_subscriber \
       WHERE e.subscriber_id = d.subscriber_id AND e.issue_id = d.issue_id \
       AND e.class IS NOT NULL ORDER BY e.id DESC LIMIT 1) AS class \
     FROM delivery d LEFT JOIN subscriber s ON s.id = d.subscriber_id \
     WHERE d.issue_id = $1 AND d.state <> 3 ORDER BY d.subscriber_id";

pub(super) const BOUNCED_LATER: &str = "SELECT e.subscriber_id, s.address, d.provider, d.state, \
     true AS bounced_later, d.attempt AS attempts, e.text AS reason, e.class \
     FROM event e INDEXED BY event_by_issue \
     CROSS JOIN delivery d ON d.issue_id = e.issue_id AND d.subscriber_id = e.subscriber_id \
     LEFT JOIN subscriber s ON s.id = e.subscriber_id \
     WHERE e.issue_id = $1 AND e.kind = 8 AND e.kind <> 2 AND d.state = 3 ORDER BY e.id";

pub(super) const READERS_OF_KIND: &str = "SELECT COUNT(DISTINCT subscriber_id) \
     FROM event INDEXED BY event_by_issue WHERE issue_id = $1 AND kind = $2 AND kind <> 2";

/// How `edition` went, in numbers. Counts the issue's rows: for the end of a send, not for a page
/// that looks every few seconds.
pub async fn issue_report(db: &Db, edition: &Edition) -> db::Result<IssueReport> {
    let newsletter = newsletter_of(db, edition).await?;
    let tally = Tally::from_counts(&queue::count(db, edition.id).await?);
    let readers = |kind: i64| db.query(READERS_OF_KIND).bind(edition.id).bind(kind).scalar();
    Ok(IssueReport {
        newsletter: newsletter.slug,
        number: edition.number,
        subject: edition.subject.clone(),
        state: edition.state,
        equation: Equation::of_tally(&tally, edition.stage),
        bounced_later: readers(8).await?,
        complaints: readers(9).await?,
        reasons: db.query(REASONS).bind(edition.id).bind(REASONS_MAX).all().await?,
    })
}

/// Every copy of `edition` that did not arrive, reader by reader, as rows come in: first those that
/// no relay took (yet), then those that came back.
pub fn missed<'a>(db: &'a Db, edition: &Edition) -> BoxStream<'a, db::Result<Missed>> {
    let not_taken = db.query(MISSED).bind(edition.id).stream::<Missed>();
    let came_back = db.query(BOUNCED_LATER).bind(edition.id).stream::<Missed>();
    not_taken.chain(came_back).boxed()
}
