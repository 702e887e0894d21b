//! Changes of an issue's course: undo, pause, halt, resume, widen, cancel.

use super::{ControlError, Edition, current};
use crate::{
    audit::{self, Act},
    db::{
        self, Db, Tx,
        state::{EventKind, IssueState},
    },
    delivery::{
        gates::{Finding, Gate},
        queue,
    },
    event::{self, Event},
    timestamp::Timestamp,
};

/// One thing that can be done to an issue's course.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// Take back a send whose first copy has not left.
    Undo,
    /// Stop for now.
    Pause,
    /// Stop as a gate would: for a reason, and to go on only for another.
    Halt,
    /// Go on after a pause or a halt.
    Resume,
    /// Give up what has not left.
    Cancel,
}

impl Move {
    const fn action(self) -> &'static str {
        match self {
            Self::Undo => "issue.undo",
            Self::Pause => "issue.pause",
            Self::Halt => "issue.halt",
            Self::Resume => "issue.resume",
            Self::Cancel => "issue.cancel",
        }
    }

    /// Whether it can be done to an issue in this state, of which a copy was planned or none.
    const fn is_possible(self, state: IssueState, begun: bool) -> bool {
        use IssueState::{Halted, Paused, Scheduled, Sending};
        match self {
            // One whose time was missed is halted before it has begun.
            Self::Undo => matches!(state, Scheduled) || (matches!(state, Halted) && !begun),
            Self::Pause => matches!(state, Sending),
            Self::Halt => matches!(state, Sending | Paused),
            Self::Resume => matches!(state, Paused | Halted),
            Self::Cancel => matches!(state, Scheduled | Sending | Paused | Halted),
        }
    }

    const fn to(self, begun: bool) -> IssueState {
        match self {
            Self::Undo => IssueState::Draft,
            Self::Pause => IssueState::Paused,
            Self::Halt => IssueState::Halted,
            Self::Resume if begun => IssueState::Sending,
            Self::Resume => IssueState::Scheduled,
            Self::Cancel => IssueState::Cancelled,
        }
    }

    const fn event(self) -> EventKind {
        match self {
            Self::Undo => EventKind::Undone,
            Self::Pause => EventKind::Paused,
            Self::Halt => EventKind::Halted,
            Self::Resume => EventKind::Resumed,
            Self::Cancel => EventKind::Cancelled,
        }
    }

    const fn problem(self) -> &'static str {
        match self {
            Self::Undo => {
                "only a send whose first copy has not left can be undone; `issue cancel` \
                 stops one under way"
            }
            Self::Pause => "only a send under way can be paused",
            Self::Halt => "only a send under way or paused can be halted",
            Self::Resume => "only a paused or halted send can be resumed",
            Self::Cancel => "only a send that is asked for or under way can be cancelled",
        }
    }
}

/// Changes the course of `edition`. Doing again what is done already succeeds and changes nothing.
/// To halt, and to end a halt, takes a reason.
pub async fn change_course(
    db: &Db,
    edition: &Edition,
    step: Move,
    actor: &str,
    reason: &str,
    now: Timestamp,
) -> Result<IssueState, ControlError> {
    let mut tx = db.begin().await?;
    let before = current(&mut tx, edition).await?;
    let (number, state, begun) = (before.number, before.state, before.started_at.is_some());
    let to = step.to(begun);
    if state == to && step != Move::Resume {
        return Ok(state);
    }
    if !step.is_possible(state, begun) {
        return Err(ControlError::WrongState { number, state, problem: step.problem() });
    }
    let weighty = step == Move::Halt
        || (state == IssueState::Halted && matches!(step, Move::Resume | Move::Cancel));
    if weighty && reason.trim().is_empty() {
        return Err(ControlError::NoReason);
    }
    tx.query(
        "UPDATE issue SET state = $2, hold_after = CASE WHEN $2 = 2 THEN NULL ELSE hold_after END, \
         sends_at = CASE WHEN $2 = 0 THEN NULL WHEN $2 = 1 THEN $3 ELSE sends_at END \
         WHERE id = $1",
    )
    .bind(before.id)
    .bind(to)
    .bind(now)
    .execute()
    .await?;
    match step {
        Move::Halt => halt_by_hand(&mut tx, &before, actor, reason).await?,
        Move::Resume if state == IssueState::Halted => acknowledge(&mut tx, &before).await?,
        _ => {}
    }
    let event = Event::new(step.event(), now).about(Some(before.id), None).because(reason);
    event::record(&mut tx, &[event]).await?;
    let act = Act { actor, action: step.action(), target: &before.uid, detail: reason };
    audit::record(&mut tx, act, now).await?;
    tx.commit().await?;
    Ok(to)
}

/// Releases the next stage of `edition` now: of a send under way without waiting any longer; of a
/// halted one that stage alone, and then it halts again. Returns the number of the stage.
pub async fn widen(
    db: &Db,
    edition: &Edition,
    actor: &str,
    reason: &str,
    now: Timestamp,
) -> Result<i64, ControlError> {
    if reason.trim().is_empty() {
        return Err(ControlError::NoReason);
    }
    let mut tx = db.begin().await?;
    let before = current(&mut tx, edition).await?;
    let (number, state) = (before.number, before.state);
    let begun = before.started_at.is_some();
    if !begun || !matches!(state, IssueState::Sending | IssueState::Halted) {
        let problem = "only a send under way, or one that halted on its way, can be widened";
        return Err(ControlError::WrongState { number, state, problem });
    }
    let stages: i64 = tx
        .query("SELECT COUNT(*) FROM issue_stage WHERE issue_id = $1")
        .bind(before.id)
        .scalar()
        .await?;
    let next = before.stage + 1;
    if next >= stages {
        return Err(ControlError::NoStage(number));
    }
    let alone = state == IssueState::Halted || before.hold_after.is_some();
    // After the last stage there is nothing to hold back.
    let hold_after = (alone && next + 1 < stages).then_some(next);
    tx.query(
        "UPDATE issue SET state = 2, stage = $2, stage_since = $3, hold_after = $4 WHERE id = $1",
    )
    .bind(before.id)
    .bind(next)
    .bind(now)
    .bind(hold_after)
    .execute()
    .await?;
    queue::stage_released(&mut tx, before.id, next, now).await?;
    if state == IssueState::Halted {
        acknowledge(&mut tx, &before).await?;
    }
    let mut text = format!("stage {next}, by hand: {reason}");
    if hold_after.is_some() {
        text.push_str(" (the send halts again when it is through)");
    }
    let event =
        Event::new(EventKind::StageReleased, now).about(Some(before.id), None).because(text);
    event::record(&mut tx, &[event]).await?;
    let detail = format!("stage {next}: {reason}");
    let act = Act { actor, action: "issue.widen", target: &before.uid, detail: &detail };
    audit::record(&mut tx, act, now).await?;
    tx.commit().await?;
    Ok(next)
}

async fn halt_by_hand(tx: &mut Tx, edition: &Edition, actor: &str, reason: &str) -> db::Result<()> {
    let said = format!("{reason} ({actor})");
    let finding = Finding::without_figures(Gate::ByHand, edition.stage, said);
    tx.query("UPDATE issue SET halt = $2 WHERE id = $1")
        .bind(edition.id)
        .bind(serde_json::to_string(&finding).unwrap_or_default())
        .execute()
        .await?;
    Ok(())
}

/// Remembers that an operator saw the figures of a halt, so that the same figures do not halt again.
async fn acknowledge(tx: &mut Tx, edition: &Edition) -> db::Result<()> {
    tx.query(
        "UPDATE issue SET halt = NULL, \
         acknowledged = json_insert(acknowledged, '$[#]', json(halt)) \
         WHERE id = $1 AND halt IS NOT NULL",
    )
    .bind(edition.id)
    .execute()
    .await?;
    Ok(())
}
