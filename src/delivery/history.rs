//! What is normal for a newsletter: how many readers leave after one of its issues. Only reads.

use std::time::Duration;

use crate::{
    db::{self, Db, record::record},
    id::{IssueId, NewsletterId},
};

/// How many of the latest issues are looked at.
const ISSUES: i64 = 10;
/// With fewer than so many, nothing is known to be normal.
const ISSUES_MIN: usize = 3;
/// How long after its beginning a reader's leaving still counts for an issue.
const WITHIN: Duration = Duration::from_hours(24);
/// A newsletter that hardly anybody leaves would halt at the first who does: no less than this is
/// taken for normal, in percent.
const NORMAL_MIN_PERCENT: f64 = 0.1;

record! {
    struct Past {
        accepted: i64,
        left_readers: i64,
    }
}

/// The median share, in percent, of the readers who left within a day by a link or a mail of one of
/// the newsletter's last ten issues that were sent, and at least 0.1 %. None before there were three
/// of them with `sample_min` accepted copies.
pub async fn normal_unsubscribes(
    db: &Db,
    newsletter: NewsletterId,
    but: IssueId,
    sample_min: u32,
) -> db::Result<Option<f64>> {
    let past: Vec<Past> = db
        .query(
            "SELECT i.accepted, (SELECT COUNT(DISTINCT e.subscriber_id) FROM event e \
               INDEXED BY event_by_issue WHERE e.issue_id = i.id AND e.kind <> 2 AND e.kind = 10 \
               AND e.at <= i.started_at + $4) AS left_readers \
             FROM issue i WHERE i.newsletter_id = $1 AND i.id <> $2 AND i.state = 6 \
             AND i.accepted >= $3 AND i.started_at IS NOT NULL ORDER BY i.started_at DESC LIMIT $5",
        )
        .bind(newsletter)
        .bind(but)
        .bind(i64::from(sample_min.max(1)))
        .bind(WITHIN.as_micros() as i64)
        .bind(ISSUES)
        .all()
        .await?;
    let shares = past.iter().map(|past| 100.0 * past.left_readers as f64 / past.accepted as f64);
    Ok(normal(shares.collect()))
}

fn normal(mut shares: Vec<f64>) -> Option<f64> {
    if shares.len() < ISSUES_MIN {
        return None;
    }
    shares.sort_by(f64::total_cmp);
    let middle = shares.len() / 2;
    let median = if shares.len() % 2 == 1 {
        shares[middle]
    } else {
        f64::midpoint(shares[middle - 1], shares[middle])
    };
    Some(median.max(NORMAL_MIN_PERCENT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_normal_is_a_median_with_a_floor() {
        for (shares, expected) in [
            (vec![], None),
            (vec![1.0, 1.0], None),
            (vec![0.2, 9.0, 0.4], Some(0.4)),
            (vec![0.2, 9.0, 0.4, 0.6], Some(0.5)),
            (vec![0.0, 0.0, 0.01], Some(0.1)),
        ] {
            assert_eq!(normal(shares.clone()), expected, "{shares:?}");
        }
    }
}
