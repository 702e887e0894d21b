//! Uncertain copies: the final dot went out and no reply was seen. They are listed here and settled
//! by [`super::control::resolve`] or by evidence: a report that came back, a line of the relay's log
//! ([`postfix_log`]). Nothing else ever touches them.

pub mod postfix_log;

use serde::Serialize;

use crate::{
    db::{self, Db, record::record},
    id::{IssueId, SubscriberId},
    timestamp::Timestamp,
};

record! {
    /// A copy whose fate is not known, and what the log says about it.
    #[derive(Debug, Clone, Serialize)]
    pub struct UncertainCopy {
        /// Whose copy it is.
        pub subscriber_id: SubscriberId,
        /// Their address; none after an erasure.
        pub address: Option<String>,
        /// The provider of the address.
        pub provider: i64,
        /// How often it was tried.
        pub attempts: i64,
        /// Since when nothing is known.
        pub since: Option<Timestamp>,
        /// The relay that may have taken it.
        pub relay: Option<String>,
        /// What happened to the connection.
        pub what: Option<String>,
    }
}

/// Up to `limit` uncertain copies of `issue` behind the reader `after`, in the order of readers'
/// rows.
pub async fn list(
    db: &Db,
    issue: IssueId,
    after: SubscriberId,
    limit: u32,
) -> db::Result<Vec<UncertainCopy>> {
    db.query(
        "SELECT d.subscriber_id, s.address, d.provider, d.attempt AS attempts, e.at AS since, \
         e.relay, coalesce(e.text, d.reason) AS what FROM delivery d \
         LEFT JOIN subscriber s ON s.id = d.subscriber_id \
         LEFT JOIN event e ON e.id = (SELECT max(l.id) FROM event l \
           WHERE l.subscriber_id = d.subscriber_id AND l.issue_id = d.issue_id AND l.kind = 5) \
         WHERE d.issue_id = $1 AND d.subscriber_id > $2 AND d.state = 5 \
         ORDER BY d.subscriber_id LIMIT $3",
    )
    .bind(issue)
    .bind(after)
    .bind(i64::from(limit))
    .all()
    .await
}
