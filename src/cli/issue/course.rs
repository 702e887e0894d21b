//! `postrider issue undo`, `pause`, `resume`, `cancel`: what people do to a send under way.

use super::Which;
use crate::{
    cli::{Context, Refused, context::actor, output},
    db::state::IssueState,
    delivery::{
        control::{self, ControlError, Move},
        gates::Halt,
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
        let halt = edition.halt.as_deref().and_then(|json| serde_json::from_str::<Halt>(json).ok());
        if let Some(halt) = halt {
            output::say(format!("issue {} was halted: {}", edition.number, halt_in_words(&halt)));
        }
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

async fn change(context: &Context, args: &Course, step: Move, said: &str) -> anyhow::Result<()> {
    let (_, edition) = args.which.issue(context, Some(args.number)).await?;
    let (db, now) = (&context.db, Timestamp::now());
    match control::change_course(db, &edition, step, &actor(), &args.reason, now).await {
        Ok(_) => {
            output::say(format!("issue {} {said}", edition.number));
            Ok(())
        }
        Err(error @ ControlError::WrongState { .. }) => Err(Refused(error.to_string()).into()),
        Err(error) => Err(error.into()),
    }
}

/// A halt's figures in one sentence, and its commonest replies.
pub(super) fn halt_in_words(halt: &Halt) -> String {
    let mut text = format!(
        "{}: {} of {} in stage {} (limit {})",
        halt.gate.describe(),
        output::count(halt.hits),
        output::count(halt.sample),
        halt.stage,
        halt.limit
    );
    for reply in &halt.replies {
        text.push_str("\n  reply: ");
        text.push_str(&output::clean(reply));
    }
    text
}
