//! The latest issues of all newsletters, for an overview.

use serde::Serialize;

use crate::{
    db::{self, Db, record::record, state::IssueState},
    id::IssueId,
    timestamp::Timestamp,
};

record! {
    /// One issue in a list.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    pub struct IssueLine {
        /// Its row.
        pub id: IssueId,
        /// The newsletter's slug.
        pub newsletter: String,
        /// Its number.
        pub number: i64,
        /// Its subject.
        pub subject: String,
        /// How far it has come.
        pub state: IssueState,
        /// The last released stage.
        pub stage: i64,
        /// When its first copy may leave.
        pub sends_at: Option<Timestamp>,
        /// When its send began.
        pub started_at: Option<Timestamp>,
        /// When nothing remained.
        pub finished_at: Option<Timestamp>,
        /// How many copies it has; 0 before its send began.
        pub audience: i64,
        /// How it went, once it is done: `480 accepted, 3 uncertain`.
        pub outcome: Option<String>,
    }
}

pub(super) const LATEST: &str = "SELECT i.id, n.slug AS newsletter, i.number, i.subject, i.state, \
     i.stage, i.sends_at, i.started_at, i.finished_at, \
     (SELECT coalesce(SUM(size), 0) FROM issue_stage WHERE issue_id = i.id) AS audience, \
     (SELECT text FROM event INDEXED BY event_by_issue \
       WHERE issue_id = i.id AND kind = 19 AND kind <> 2 ORDER BY id DESC LIMIT 1) AS outcome \
     FROM (SELECT * FROM issue ORDER BY id DESC LIMIT $1) i \
     JOIN newsletter n ON n.id = i.newsletter_id \
     ORDER BY i.state IN (1, 2, 3, 4) DESC, i.id DESC";

/// The `limit` latest issues, those in motion first.
pub async fn latest_issues(db: &Db, limit: u32) -> db::Result<Vec<IssueLine>> {
    db.query(LATEST).bind(i64::from(limit)).all().await
}
