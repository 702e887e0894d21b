//! `postrider issue approve`, `undo`, `pause`, `halt`, `resume`, `widen`, `cancel`: what people do to a
//! send that was asked for.

use super::Which;
use crate::{
    cli::{Context, Refused, context::actor, output},
    db::state::IssueState,
    delivery::{
        control::{self, ControlError, Move},
        gates::Finding,
    },
    timestamp::Timestamp,
};

/// Which send, and why.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Course {
    /// The issue's number
    number: i64,
    #[command(flatten)]
    which: Which,
    /// Why; kept in the delivery log and the audit log
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

/// Which send, and why: there has to be a reason.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Weighty {
    /// The issue's number
    number: i64,
    #[command(flatten)]
    which: Which,
    /// Why; kept in the delivery log and the audit log
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// What `widen` takes.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Widen {
    #[command(flatten)]
    course: Weighty,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// What `resume` takes.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Resume {
    #[command(flatten)]
    course: Course,
    /// Do not ask before a halted send goes on
    #[arg(long, short)]
    yes: bool,
}

/// What `cancel` takes.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Cancel {
    #[command(flatten)]
    course: Course,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

/// Takes back a send whose first copy has not left.
pub(super) async fn undo(context: &Context, args: Course) -> anyhow::Result<()> {
    let said = "is a draft again; nothing was sent";
    change(context, &args, Move::Undo, said).await
}

/// Stops a send for now.
pub(super) async fn pause(context: &Context, args: Course) -> anyhow::Result<()> {
    let said = "is paused: copies on their way arrive, no other is handed off. \
                `postrider issue resume` goes on";
    change(context, &args, Move::Pause, said).await
}

/// Goes on; after a halt only once a person has seen why, and says a reason.
pub(super) async fn resume(context: &Context, args: Resume) -> anyhow::Result<()> {
    let Resume { course, yes } = args;
    let (_, edition) = course.which.issue(context, Some(course.number)).await?;
    if edition.state == IssueState::Halted {
        say_halt(&edition);
        if course.reason.trim().is_empty() {
            let why = "say with --reason why a halted send may go on; it is kept in the audit log";
            return Err(Refused(why.to_owned()).into());
        }
        output::confirm("Go on sending?", yes)?;
    }
    change(context, &course, Move::Resume, "goes on").await
}

/// Gives up what has not left.
pub(super) async fn cancel(context: &Context, args: Cancel) -> anyhow::Result<()> {
    let question =
        format!("Give up all copies of issue {} that have not left?", args.course.number);
    // An unknown issue is told before the question.
    args.course.which.issue(context, Some(args.course.number)).await?;
    output::confirm(&question, args.yes)?;
    let said = "is cancelled; copies that had left stay sent";
    change(context, &args.course, Move::Cancel, said).await
}

/// Stops a send as a gate would.
pub(super) async fn halt(context: &Context, args: Weighty) -> anyhow::Result<()> {
    let Weighty { number, which, reason } = args;
    let said = "is halted: copies on their way arrive, no other is handed off. \
                `postrider issue resume`, `widen` or `cancel` ends it";
    change(context, &Course { number, which, reason }, Move::Halt, said).await
}

/// Releases the next stage now.
pub(super) async fn widen(context: &Context, args: Widen) -> anyhow::Result<()> {
    let Widen { course: Weighty { number, which, reason }, yes } = args;
    let (_, edition) = which.issue(context, Some(number)).await?;
    say_halt(&edition);
    output::confirm("Release the next stage now?", yes)?;
    let now = Timestamp::now();
    let stage =
        control::widen(&context.db, &edition, &actor(), &reason, now).await.map_err(refused)?;
    let (_, edition) = which.issue(context, Some(number)).await?;
    let alone = if edition.hold_after.is_some() {
        "; the send halts again when it is through, until `widen` or `resume`"
    } else {
        ""
    };
    output::say(format!("issue {number}: stage {stage} is released{alone}"));
    Ok(())
}

/// Approves of a send that somebody else asked for.
pub(super) async fn approve(context: &Context, args: Course) -> anyhow::Result<()> {
    let (_, edition) = args.which.issue(context, Some(args.number)).await?;
    let (window, now) = (context.config.sending.undo_window, Timestamp::now());
    let by = actor();
    let edition = control::approve(&context.db, &edition, (&by, &args.reason), window, now)
        .await
        .map_err(refused)?;
    let approved_by = edition.approved_by.as_deref().unwrap_or(&by);
    let leaves = edition.sends_at.map_or_else(String::new, |at| {
        let wait = at.since(now);
        let wait =
            if wait.is_zero() { String::new() } else { format!(" (in {})", output::span(wait)) };
        format!("; its first copy leaves at {}{wait}", output::time(at))
    });
    output::say(format!("issue {} is approved by {approved_by}{leaves}", edition.number));
    Ok(())
}

/// Says why a halted send is so.
fn say_halt(edition: &control::Edition) {
    let halt = edition.halt.as_deref().and_then(|json| serde_json::from_str::<Finding>(json).ok());
    if let Some(halt) = halt {
        output::say(format!("issue {} was halted: {}", edition.number, halt_in_words(&halt)));
    }
}

async fn change(context: &Context, args: &Course, step: Move, said: &str) -> anyhow::Result<()> {
    let (_, edition) = args.which.issue(context, Some(args.number)).await?;
    let (db, now) = (&context.db, Timestamp::now());
    control::change_course(db, &edition, step, &actor(), &args.reason, now)
        .await
        .map_err(refused)?;
    output::say(format!("issue {} {said}", edition.number));
    Ok(())
}

/// What the rules refuse ends with the exit code for that.
pub(super) fn refused(error: ControlError) -> anyhow::Error {
    match error {
        ControlError::Database(_) | ControlError::Unknown(_) => error.into(),
        ControlError::NoReason => Refused(format!("{error}; give it with --reason")).into(),
        error => Refused(error.to_string()).into(),
    }
}

/// A halt's figures in one sentence, and its commonest replies.
pub(super) fn halt_in_words(halt: &Finding) -> String {
    let mut text = if halt.gate.counts() {
        format!(
            "{}: {} of {} in stage {} (limit {})",
            halt.gate.describe(),
            output::count(halt.hits),
            output::count(halt.sample),
            halt.stage,
            halt.limit
        )
    } else {
        output::clean(&halt.in_words()).into_owned()
    };
    for reply in &halt.replies {
        text.push_str("\n  reply: ");
        text.push_str(&output::clean(reply));
    }
    text
}
