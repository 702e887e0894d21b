//! Approval of a send by a second person.

use std::time::Duration;

use super::{ControlError, Edition, current};
use crate::{
    audit::{self, Act},
    db::{
        Db,
        state::{EventKind, IssueState},
    },
    event::{self, Event},
    timestamp::Timestamp,
};

/// Whether two actors are one person: `cli:ada` at the command line is `web:ada` on the pages.
pub fn is_same_person(one: &str, other: &str) -> bool {
    let name = |actor: &str| actor.split_once(':').map_or(actor, |(_, name)| name).to_lowercase();
    name(one) == name(other)
}

/// Approves of the send of `edition` in the name of `actor`, who must not be the one who asked for
/// it. Doing so again changes nothing. When its time has passed meanwhile, it begins after
/// `undo_window`.
pub async fn approve(
    db: &Db,
    edition: &Edition,
    (actor, reason): (&str, &str),
    undo_window: Duration,
    now: Timestamp,
) -> Result<Edition, ControlError> {
    let mut tx = db.begin().await?;
    let before = current(&mut tx, edition).await?;
    let number = before.number;
    if before.state != IssueState::Scheduled {
        let problem = "only a send that was asked for and has not begun can be approved";
        return Err(ControlError::WrongState { number, state: before.state, problem });
    }
    if before.approved_by.is_some() {
        return Ok(before);
    }
    if before.asked_by.as_deref().is_some_and(|by| is_same_person(by, actor)) {
        return Err(ControlError::OwnSend { number, by: actor.to_owned() });
    }
    let sends_at = match before.sends_at {
        Some(at) if at > now => at,
        _ => now.plus(undo_window),
    };
    tx.query("UPDATE issue SET approved_by = $2, approved_at = $3, sends_at = $4 WHERE id = $1")
        .bind(before.id)
        .bind(actor.to_owned())
        .bind(now)
        .bind(sends_at)
        .execute()
        .await?;
    let said = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    let event = Event::new(EventKind::Approved, now)
        .about(Some(before.id), None)
        .because(format!("by {actor}{said}"));
    event::record(&mut tx, &[event]).await?;
    let act = Act { actor, action: "issue.approve", target: &before.uid, detail: reason };
    audit::record(&mut tx, act, now).await?;
    let after = current(&mut tx, edition).await?;
    tx.commit().await?;
    Ok(after)
}

#[cfg(test)]
mod tests {
    use super::is_same_person;

    #[test]
    fn a_person_is_one_however_they_come_in() {
        for (one, other, same) in [
            ("cli:ada", "web:ada", true),
            ("cli:ada", "cli:Ada", true),
            ("cli:ada", "web:bob", false),
            ("demo", "web:demo", true),
        ] {
            assert_eq!(is_same_person(one, other), same, "{one} and {other}");
        }
    }
}
