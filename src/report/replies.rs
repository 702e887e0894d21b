//! The replies that relays gave, grouped: a thousand refusals are rarely more than five reasons.

use serde::Serialize;

use crate::{
    db::{self, Db, record::record, state::EventKind},
    id::IssueId,
};

/// How many of the newest lines of each kind are grouped.
const SAMPLE_MAX: i64 = 5_000;
/// How many groups are told.
const GROUPS_MAX: usize = 12;
/// How many groups of one kind are read.
const GROUPS_PER_KIND: i64 = 12;

record! {
    /// Attempts that were answered alike.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    pub struct ReplyGroup {
        /// What became of the copies.
        pub kind: EventKind,
        /// The reply's code.
        pub code: Option<i64>,
        /// The reply's enhanced code.
        pub enhanced: Option<String>,
        /// Whose fault, and whether for good.
        pub class: Option<String>,
        /// How many, of the newest 5,000 of its kind.
        pub attempts: i64,
        /// At how many providers.
        pub providers: i64,
        /// One of the texts.
        pub example: Option<String>,
    }
}

pub(super) const GROUPS: &str = "SELECT kind, code, enhanced, class, COUNT(*) AS attempts, \
       COUNT(DISTINCT provider) AS providers, MAX(text) AS example \
     FROM (SELECT kind, code, enhanced, class, provider, text \
       FROM event INDEXED BY event_by_issue \
       WHERE issue_id = $1 AND kind = $2 AND kind <> 2 ORDER BY id DESC LIMIT $3) \
     GROUP BY code, enhanced, class ORDER BY attempts DESC LIMIT $4";

/// The commonest replies to an issue's copies that were not taken, most frequent first.
pub(super) async fn commonest(db: &Db, issue: IssueId) -> db::Result<Vec<ReplyGroup>> {
    let mut groups: Vec<ReplyGroup> = Vec::new();
    for kind in [EventKind::Rejected, EventKind::Uncertain, EventKind::Deferred] {
        let found = db.query(GROUPS).bind(issue).bind(kind).bind(SAMPLE_MAX).bind(GROUPS_PER_KIND);
        groups.extend(found.all::<ReplyGroup>().await?);
    }
    groups.sort_by_key(|group| std::cmp::Reverse(group.attempts));
    groups.truncate(GROUPS_MAX);
    Ok(groups)
}
