//! Settling an uncertain copy: because an operator says so, or by evidence.

use super::{ControlError, Edition};
use crate::{
    audit::{self, Act},
    db::{
        self, Db, Tx,
        state::{CopyState, EventKind, IssueState},
    },
    delivery::queue,
    event::{self, Event},
    id::{CopyId, SubscriberId},
    timestamp::Timestamp,
};

/// How an operator settles an uncertain copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// It arrived.
    Accepted,
    /// Send it again.
    Resend,
}

async fn issue_state(tx: &mut Tx, edition: &Edition) -> db::Result<IssueState> {
    tx.query("SELECT state FROM issue WHERE id = $1").bind(edition.id).scalar().await
}

/// Settles the uncertain copy of `edition` to `subscriber`; false when it is not uncertain.
///
/// # Errors
/// Nothing of a cancelled issue is sent again.
pub async fn resolve(
    db: &Db,
    edition: &Edition,
    subscriber: SubscriberId,
    how: Resolution,
    actor: &str,
    reason: &str,
    now: Timestamp,
) -> Result<bool, ControlError> {
    let mut tx = db.begin().await?;
    if how == Resolution::Resend && issue_state(&mut tx, edition).await? == IssueState::Cancelled {
        return Err(ControlError::WrongState {
            number: edition.number,
            state: IssueState::Cancelled,
            problem: "nothing of it is sent any more; settle the copy as accepted, or leave it",
        });
    }
    let (state, due_at, word) = match how {
        Resolution::Accepted => (CopyState::Accepted, None, "accepted"),
        Resolution::Resend => (CopyState::Waiting, Some(now), "to be sent again"),
    };
    let changed = tx
        .query(
            "UPDATE delivery SET state = $3, due_at = $4, reason = NULL \
             WHERE issue_id = $1 AND subscriber_id = $2 AND state = 5",
        )
        .bind(edition.id)
        .bind(subscriber)
        .bind(state)
        .bind(due_at)
        .execute()
        .await?;
    if changed == 0 {
        tx.rollback().await?;
        return Ok(false);
    }
    if how == Resolution::Resend {
        // An issue that was called sent has a copy to send again; time to live begins anew for it.
        tx.query(
            "UPDATE issue SET state = 2, finished_at = NULL, \
             expires_at = MAX(coalesce(expires_at, 0), $2) WHERE id = $1 AND state = 6",
        )
        .bind(edition.id)
        .bind(now.plus(std::time::Duration::from_hours(24)))
        .execute()
        .await?;
    }
    let event = Event::new(EventKind::Resolved, now)
        .about(Some(edition.id), Some(subscriber))
        .because(format!("{word}: {reason}"));
    event::record(&mut tx, &[event]).await?;
    let target = format!("{} {subscriber}", edition.uid);
    let act = Act { actor, action: "delivery.resolve", target: &target, detail: word };
    audit::record(&mut tx, act, now).await?;
    tx.commit().await?;
    Ok(true)
}

/// Settles the uncertain copy of `edition` to `subscriber` by evidence that it reached `state`; false
/// when it is not uncertain.
pub async fn settle_by_evidence(
    db: &Db,
    edition: &Edition,
    subscriber: SubscriberId,
    (state, evidence): (CopyState, &str),
    actor: &str,
    now: Timestamp,
) -> db::Result<bool> {
    let mut tx = db.begin().await?;
    let copy = CopyId::Issue { issue: edition.id, subscriber };
    let reason = (state != CopyState::Accepted).then_some(evidence);
    if !queue::settle_uncertain(&mut tx, copy, state, reason).await? {
        tx.rollback().await?;
        return Ok(false);
    }
    let text = format!("{state}: {evidence}");
    let event = Event::new(EventKind::Resolved, now)
        .about(Some(edition.id), Some(subscriber))
        .because(text.clone());
    event::record(&mut tx, &[event]).await?;
    let target = format!("{} {subscriber}", edition.uid);
    let act = Act { actor, action: "delivery.resolve", target: &target, detail: &text };
    audit::record(&mut tx, act, now).await?;
    tx.commit().await?;
    Ok(true)
}
