//! Issues in motion, as their rows say.

use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock},
};

use crate::{
    db::{self, Db, record::record, state::IssueState},
    id::{IssueId, NewsletterId},
    timestamp::Timestamp,
};

record! {
    /// An issue whose copies may be on their way.
    #[derive(Debug, Clone)]
    pub struct InMotion {
        /// The issue.
        pub id: IssueId,
        /// Its newsletter.
        pub newsletter_id: NewsletterId,
        /// Its number.
        pub number: i64,
        /// How far it has come.
        pub state: IssueState,
        /// The last released stage.
        pub stage: i64,
        /// How many stages it has; 0 before it started.
        pub stages: i64,
        /// When its first copy may leave.
        pub sends_at: Option<Timestamp>,
        /// When its send began.
        pub started_at: Option<Timestamp>,
        /// When its copies are given up.
        pub expires_at: Option<Timestamp>,
        /// Halts that an operator resumed, a JSON array.
        pub acknowledged: String,
        /// What gates warned of, a JSON array.
        pub warnings: String,
        /// When a second person approved of its send.
        pub approved_at: Option<Timestamp>,
        /// The stage after which it halts again.
        pub hold_after: Option<i64>,
        /// Its newsletter's rate, in copies a second.
        pub per_second: Option<f64>,
        /// Providers that stay behind, and their stages: a JSON array of pairs.
        pub held: String,
    }
}

impl InMotion {
    /// Providers that stay behind, with the last stage that is released to them.
    pub fn held_providers(&self) -> BTreeMap<i64, i64> {
        let pairs: Vec<(i64, i64)> = serde_json::from_str(&self.held).unwrap_or_default();
        pairs.into_iter().collect()
    }
}

/// Issues in motion as the feeder sees them.
pub type Course = Arc<RwLock<Vec<InMotion>>>;

/// Every issue whose copies may be on their way.
pub async fn in_motion(db: &Db) -> db::Result<Vec<InMotion>> {
    db.query(
        "SELECT id, newsletter_id, number, state, stage, sends_at, started_at, expires_at, \
         acknowledged, warnings, approved_at, hold_after, \
         (SELECT COUNT(*) FROM issue_stage WHERE issue_id = issue.id) AS stages, \
         (SELECT per_second FROM newsletter WHERE id = newsletter_id) AS per_second, \
         (SELECT json_group_array(json_array(provider, stage)) FROM held_provider \
           WHERE issue_id = issue.id) AS held \
         FROM issue INDEXED BY issue_in_motion \
         WHERE state > 0 AND finished_at IS NULL ORDER BY id",
    )
    .all()
    .await
}
