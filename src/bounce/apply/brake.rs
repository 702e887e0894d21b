//! How many addresses of one provider an issue found dead, and of how many copies. The number
//! decides whether suppressions are held; it is kept as a counter, because a count over the ledger
//! reads a million rows.

use super::{held, reader::Reader};
use crate::{
    bounce::policy::{BRAKE_ADDRESSES, ProviderTally},
    db::{self, Tx, record::record},
    id::IssueId,
    timestamp::Timestamp,
};

record! {
    struct Count {
        dead: i64,
        counted_at: i64,
        decided: i64,
    }
}

impl Count {
    /// The share as it was when copies were last counted.
    fn tally(&self) -> ProviderTally {
        ProviderTally { decided: self.decided as u64, failed_hard: self.counted_at as u64 }
    }

    /// Whether enough addresses died since the last count to count again: a tenth more, so that
    /// ten times as many dead addresses cost about 25 counts.
    fn is_stale(&self) -> bool {
        self.dead as u64 >= BRAKE_ADDRESSES && self.dead >= self.counted_at + self.counted_at / 10
    }
}

pub(super) const DECIDED: &str = "SELECT COUNT(*) FROM delivery \
     WHERE issue_id = $1 AND provider = $2 AND state IN (3, 4, 5)";

/// The figures for `reader`'s provider in `issue`, this address not included.
pub(super) async fn tally(
    tx: &mut Tx,
    reader: &Reader,
    issue: IssueId,
) -> db::Result<ProviderTally> {
    let count: Option<Count> = tx
        .query(
            "SELECT dead, counted_at, decided FROM dead_address_count \
             WHERE issue_id = $1 AND provider = $2",
        )
        .bind(issue)
        .bind(reader.provider)
        .optional()
        .await?;
    Ok(count.map_or_else(ProviderTally::default, |count| count.tally()))
}

/// Counts one more dead address. When that is the one that makes the brake hold, the suppressions
/// that this issue had brought to this provider's readers so far are held too.
pub(super) async fn count(
    tx: &mut Tx,
    reader: &Reader,
    issue: IssueId,
    percent: f64,
    now: Timestamp,
) -> db::Result<ProviderTally> {
    let mut count: Count = tx
        .query(
            "INSERT INTO dead_address_count (issue_id, provider, dead) VALUES ($1, $2, 1) \
             ON CONFLICT (issue_id, provider) DO UPDATE SET dead = dead + 1 \
             RETURNING dead, counted_at, decided",
        )
        .bind(issue)
        .bind(reader.provider)
        .one()
        .await?;
    if !count.is_stale() {
        return Ok(count.tally());
    }
    let held_before = count.tally().brakes(percent);
    count.decided = tx.query(DECIDED).bind(issue).bind(reader.provider).scalar().await?;
    count.counted_at = count.dead;
    tx.query(
        "UPDATE dead_address_count SET counted_at = $3, decided = $4 \
         WHERE issue_id = $1 AND provider = $2",
    )
    .bind(issue)
    .bind(reader.provider)
    .bind(count.counted_at)
    .bind(count.decided)
    .execute()
    .await?;
    let tally = count.tally();
    if tally.brakes(percent) && !held_before {
        held::take_back(tx, issue, reader.provider, now).await?;
    }
    Ok(tally)
}
