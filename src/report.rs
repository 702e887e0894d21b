//! What happened: the read side of sends, for pages and commands alike.
//!
//! Everything here only reads, and everything is bounded: a list has a limit, a sample has a size, a
//! walk through the log stops after a number of lines and says where. What is asked while a send is
//! under way uses an index or a range of ids; a test reads SQLite's plans. The one exception is the
//! count of an issue's copies, which a running daemon keeps in memory ([`Scope::tally`]).

mod equation;
mod line;
mod log;
mod missed;
mod overview;
mod pace;
mod replies;
mod status;
#[cfg(test)]
pub(crate) mod tests;
mod timeline;

pub use equation::Equation;
pub use line::line_in_json;
pub use log::{LOOKED_THROUGH_MAX, LogPage, Start, latest_lines, log_page};
pub use missed::{IssueReport, Missed, Reason, issue_report, missed};
pub use overview::{IssueLine, latest_issues};
pub use pace::{Pace, Percentiles, Rate};
pub use replies::ReplyGroup;
pub use status::{
    HaltStatus, IssueStatus, ProviderStatus, StageStatus, Uncertain, issue_status, outcome,
};
pub use timeline::{CopyLine, ServiceLine, Timeline, copies_in_hand, timeline};

use crate::{
    config::Config,
    db::{self, Db},
    delivery::{control::Edition, tally::Tally},
    newsletter::{self, Newsletter},
    provider::Providers,
    timestamp::Timestamp,
};

/// What a report is read with.
#[derive(Debug, Clone)]
pub struct Scope<'a> {
    /// Soak time and limits.
    pub config: &'a Config,
    /// The names of providers.
    pub providers: &'a Providers,
    /// The issue's counts, where a running engine has them; without, the ledger is counted.
    pub tally: Option<Tally>,
    /// The time of the report.
    pub now: Timestamp,
}

/// The newsletter that `edition` is of.
async fn newsletter_of(db: &Db, edition: &Edition) -> db::Result<Newsletter> {
    newsletter::by_id(db, edition.newsletter_id).await?.ok_or(sqlx::Error::RowNotFound)
}
