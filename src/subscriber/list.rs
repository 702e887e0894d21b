//! Lists of subscribers for operators: filtered, in pages, each page found by where the last ended.

use serde::Serialize;

use crate::{
    db::{self, Db, record::record, state::SubscriptionState},
    id::{NewsletterId, SubscriberId},
    timestamp::Timestamp,
};

/// Which subscribers are wanted; what is empty does not narrow.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// In this state.
    pub state: Option<SubscriptionState>,
    /// Whose mailbox this provider runs.
    pub provider: Option<i64>,
    /// Suppressed ones only, or all but those.
    pub suppressed: Option<bool>,
    /// Members of the seed list only, or all but those.
    pub seed: Option<bool>,
    /// Whose address contains this.
    pub address_contains: Option<String>,
}

record! {
    /// One line of a list.
    #[derive(Debug, Clone, Serialize)]
    pub struct ListedSubscriber {
        /// Their row: the next page begins after it.
        pub id: SubscriberId,
        /// Where their mail goes; none after an erasure.
        pub address: Option<String>,
        /// Their name, where one is known.
        pub name: Option<String>,
        /// Who runs their mailbox.
        pub provider: i64,
        /// Their standing with the newsletter.
        pub state: SubscriptionState,
        /// Whether they are on the seed list.
        pub seed: bool,
        /// When they signed up.
        pub created_at: Timestamp,
        /// When they confirmed.
        pub confirmed_at: Option<Timestamp>,
        /// When it ended.
        pub ended_at: Option<Timestamp>,
        /// Why it ended.
        pub end_reason: Option<String>,
        /// Until when they want no issues.
        pub paused_until: Option<Timestamp>,
        /// Why they must not be mailed, if so.
        pub suppressed: Option<String>,
    }
}

macro_rules! select_listed {
    ($rest:literal) => {
        concat!(
            "SELECT s.id, s.address, s.name, s.provider, b.state, b.seed, b.created_at, \
             b.confirmed_at, b.ended_at, b.end_reason, b.paused_until, x.reason AS suppressed \
             FROM subscription b CROSS JOIN subscriber s ON s.id = b.subscriber_id \
             LEFT JOIN suppression x ON x.address_hash = s.address_hash \
             WHERE b.newsletter_id = $1 AND b.subscriber_id > $2 ",
            $rest
        )
    };
}
pub(super) use select_listed;

/// Up to `limit` subscribers of `newsletter` after row `after` ([`ListedSubscriber::id`] of the
/// page before; 0 for the first).
pub async fn list(
    db: &Db,
    newsletter: NewsletterId,
    filter: &Filter,
    after: SubscriberId,
    limit: u32,
) -> db::Result<Vec<ListedSubscriber>> {
    db.query(select_listed!(
        "AND ($3 IS NULL OR b.state = $3) AND ($4 IS NULL OR s.provider = $4) \
         AND ($5 IS NULL OR (x.reason IS NOT NULL) = $5) AND ($6 IS NULL OR b.seed = $6) \
         AND ($7 IS NULL OR instr(s.address, $7) > 0) ORDER BY b.subscriber_id LIMIT $8"
    ))
    .bind(newsletter)
    .bind(after)
    .bind(filter.state)
    .bind(filter.provider)
    .bind(filter.suppressed)
    .bind(filter.seed)
    .bind(filter.address_contains.clone())
    .bind(i64::from(limit))
    .all()
    .await
}

record! {
    struct Count {
        state: SubscriptionState,
        count: i64,
    }
}

/// How many subscriptions of `newsletter` are in each state.
pub async fn state_counts(
    db: &Db,
    newsletter: NewsletterId,
) -> db::Result<Vec<(SubscriptionState, i64)>> {
    let counts: Vec<Count> = db
        .query(
            "SELECT state, count(*) AS count FROM subscription WHERE newsletter_id = $1 \
             GROUP BY state ORDER BY state",
        )
        .bind(newsletter)
        .all()
        .await?;
    Ok(counts.into_iter().map(|row| (row.state, row.count)).collect())
}
