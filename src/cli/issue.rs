//! `postrider issue`: from a file to a send and what became of it. One verb a file below; here is
//! what they share: which newsletter, which issue.

mod course;
mod lint;
mod list;
mod manuscript;
mod moment;
mod new;
mod plan;
mod preview;
mod rehearse;
mod report;
mod send;
mod status;
mod trial;

use std::path::Path;

pub(super) use self::rehearse::{RehearseArgs, run as rehearse};
use super::Context;
use crate::{
    delivery::control::{self, Edition},
    newsletter::Newsletter,
};

/// What can be done with issues.
#[derive(Debug, clap::Subcommand)]
pub(super) enum IssueCommand {
    /// Write a file to start from, with comments that explain it
    New(new::New),
    /// Say what is wrong with an issue file, and what to do about it
    Lint(lint::Lint),
    /// Write an issue as readers will see it to files, or show it in a browser
    Preview(preview::Preview),
    /// Send one copy, marked as a test, straight through the first relay
    Test(trial::Test),
    /// Show who would get an issue, who would not and why, in which stages, and until when
    Plan(plan::PlanArgs),
    /// Check an issue, show its plan and send it: seed list first, then stage by stage
    Send(send::Send),
    /// Check an issue and have it sent at a time of day
    Schedule(send::Schedule),
    /// Approve of a send that somebody else asked for
    Approve(course::Course),
    /// Take back a send whose first copy has not left
    Undo(course::Course),
    /// Stop a send for now
    Pause(course::Course),
    /// Stop a send as a gate would, for a reason
    Halt(course::Weighty),
    /// Release the next stage now; after a halt that stage alone
    Widen(course::Widen),
    /// Go on after a pause or a halt
    Resume(course::Resume),
    /// Give up all copies of an issue that have not left
    Cancel(course::Cancel),
    /// Show how far a send has come
    Status(status::StatusArgs),
    /// Show who did not get an issue, and why
    Report(report::ReportArgs),
    /// List the issues of a newsletter
    List(list::List),
}

/// Which newsletter a command is about.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Which {
    /// The newsletter; may be left out when there is only one
    #[arg(long, short, value_name = "SLUG")]
    newsletter: Option<String>,
}

/// Runs one of the commands.
pub(super) async fn run(config: Option<&Path>, command: IssueCommand) -> anyhow::Result<()> {
    let context = Context::open(config).await?;
    let db = context.db.clone();
    let ran = match command {
        IssueCommand::New(args) => new::run(&context, args).await,
        IssueCommand::Lint(args) => lint::run(&context, args).await,
        IssueCommand::Preview(args) => preview::run(context, args).await,
        IssueCommand::Test(args) => trial::run(&context, args).await,
        IssueCommand::Plan(args) => plan::run(&context, args).await,
        IssueCommand::Send(args) => send::send(&context, args).await,
        IssueCommand::Schedule(args) => send::schedule(&context, args).await,
        IssueCommand::Approve(args) => course::approve(&context, args).await,
        IssueCommand::Undo(args) => course::undo(&context, args).await,
        IssueCommand::Pause(args) => course::pause(&context, args).await,
        IssueCommand::Halt(args) => course::halt(&context, args).await,
        IssueCommand::Widen(args) => course::widen(&context, args).await,
        IssueCommand::Resume(args) => course::resume(&context, args).await,
        IssueCommand::Cancel(args) => course::cancel(&context, args).await,
        IssueCommand::Status(args) => status::run(&context, args).await,
        IssueCommand::Report(args) => report::run(&context, args).await,
        IssueCommand::List(args) => list::run(&context, args).await,
    };
    db.close().await;
    ran
}

impl Which {
    async fn newsletter(&self, context: &Context) -> anyhow::Result<Newsletter> {
        context.newsletter(self.newsletter.as_deref()).await
    }

    /// The issue with this number; with none named, the latest.
    async fn issue(
        &self,
        context: &Context,
        number: Option<i64>,
    ) -> anyhow::Result<(Newsletter, Edition)> {
        let newsletter = self.newsletter(context).await?;
        let edition = match number {
            Some(number) => control::find(&context.db, newsletter.id, number)
                .await?
                .ok_or(control::ControlError::Unknown(number))?,
            None => control::list(&context.db, newsletter.id, 1).await?.pop().ok_or_else(|| {
                anyhow::anyhow!(
                    "{} has no issue yet; `postrider issue send FILE` sends one",
                    newsletter.name
                )
            })?,
        };
        Ok((newsletter, edition))
    }
}
