//! `postrider issue plan`: who gets an issue, who does not and why, in which stages, until when.

use std::{sync::Arc, time::Duration};

use jiff::tz::TimeZone;
use serde::Serialize;

use super::manuscript::{FileArgs, Manuscript, composer};
use crate::{
    cli::{
        Context,
        output::{self, Format, Table, count, counted, span, time},
    },
    config::Config,
    delivery::{
        content::Content,
        grouping::Grouping,
        plan::{self, Imported, Plan},
        preflight::{self, Rehearsal},
    },
    dns::Resolver,
    newsletter::Newsletter,
    timestamp::Timestamp,
};

/// What `plan` takes.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct PlanArgs {
    #[command(flatten)]
    file: FileArgs,
    #[command(flatten)]
    format: Format,
}

/// A plan and what came of making every copy of it.
#[derive(Debug, Serialize)]
pub(super) struct Outlook {
    /// Who gets it and when.
    #[serde(flatten)]
    pub(super) plan: Plan,
    /// Every recipient's copy, made once; none when the issue cannot be rendered yet.
    pub(super) rehearsal: Option<Rehearsal>,
}

/// Prints the plan, as if the send were asked for now.
pub(super) async fn run(context: &Context, args: PlanArgs) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let manuscript = Manuscript::read(context, &args.file, (now, &TimeZone::system())).await?;
    let sends_at = now.plus(context.config.sending.undo_window);
    let content = manuscript.content(context).ok();
    let outlook =
        outlook(context, &manuscript.newsletter, content.as_ref(), (now, sends_at)).await?;
    if args.format.json {
        return Ok(output::json(&outlook)?);
    }
    output::line(outlook.to_text(now).trim_end())?;
    if !manuscript.diagnostics.is_empty() {
        let findings = counted(manuscript.diagnostics.len() as i64, "finding");
        output::say(format!("the file has {findings}: `postrider issue lint` shows them"));
    }
    Ok(())
}

/// The plan of a send whose first copy leaves at `sends_at`, and a look at every copy.
pub(super) async fn outlook(
    context: &Context,
    newsletter: &Newsletter,
    content: Option<&Content>,
    (now, sends_at): (Timestamp, Timestamp),
) -> anyhow::Result<Outlook> {
    let mut config = Config::clone(&context.config);
    config.sending.undo_window = sends_at.since(now);
    if config.dns.group_by_mx {
        // As the daemon does it before the copies are queued; what is found is remembered for it.
        let resolver = Resolver::new(&config.dns).map_err(anyhow::Error::msg)?;
        let (db, providers) = (context.db.clone(), Arc::clone(&context.providers));
        let grouping = Grouping::new(db, resolver, providers, Arc::default());
        grouping.group(newsletter.id, now).await?;
    }
    let plan = plan::compute(&context.db, newsletter.id, &config, &context.providers, now).await?;
    let rehearsal = match content {
        None => None,
        Some(content) => {
            let bar =
                output::progress(u64::try_from(plan.recipients).ok(), "Making every copy once");
            let composer = composer(context, false)?;
            let rehearsal =
                preflight::rehearse(&context.db, composer, newsletter.id, content, now, |done| {
                    bar.set_position(done as u64);
                })
                .await?;
            bar.finish_and_clear();
            Some(rehearsal)
        }
    };
    Ok(Outlook { plan, rehearsal })
}

impl Outlook {
    /// The plan for people.
    pub(super) fn to_text(&self, now: Timestamp) -> String {
        let Self { plan, rehearsal } = self;
        let mut lines = vec![format!("{}", counted(plan.recipients, "recipient"))];
        lines.push(self.left_out());
        let absent = plan.not_subscribed;
        lines.push(format!(
            "not in the audience: {} unsubscribed, {} not confirmed",
            count(absent.unsubscribed),
            count(absent.pending)
        ));
        if let Some(rehearsal) = rehearsal {
            lines.push(format!("largest message: {}", output::bytes(rehearsal.largest_bytes)));
        }
        lines.push(String::new());
        let mut stages = Table::new(&["stage", "name", "readers"]).numbers(&[0, 2]);
        for stage in &plan.stages {
            stages.row([stage.number.to_string(), stage.name.clone(), count(stage.size)]);
        }
        if let Some(imported) = &plan.imported {
            lines.push(because(imported));
        }
        lines.push(stages.to_text());
        if !plan.providers.is_empty() {
            let mut providers = Table::new(&["provider", "readers"]).numbers(&[1]);
            for share in &plan.providers {
                providers.row([share.provider.clone(), count(share.recipients)]);
            }
            lines.push(providers.to_text());
        }
        lines.push(format!(
            "first copy: {}{}",
            time(plan.starts_at),
            from_now(plan.starts_at.since(now))
        ));
        lines.push(format!(
            "last copy:  {} at today's limits{}",
            time(plan.ends_at),
            from_now(plan.ends_at.since(now))
        ));
        lines.push(match &plan.limited_by {
            Some(limit) => format!("limited by: {limit}"),
            None => "limited by: the soaks between stages, and the relays' own speed".to_owned(),
        });
        if plan.unsent > 0 {
            lines.push(format!(
                "attention:  {} would expire: the limits do not let them go within the time to live",
                counted(plan.unsent, "copy").replace("copys", "copies")
            ));
        }
        lines.push(String::new());
        lines.join("\n")
    }

    fn left_out(&self) -> String {
        let out = self.plan.excluded;
        let parts = [
            ("bounced", out.bounced),
            ("complained", out.complained),
            ("suppressed", out.suppressed),
            ("paused by the reader", out.paused),
        ];
        let sum: i64 = parts.iter().map(|(_, number)| number).sum();
        let named: Vec<String> = parts
            .iter()
            .filter(|(_, number)| *number > 0)
            .map(|(why, number)| format!("{why} {}", count(*number)))
            .collect();
        if named.is_empty() {
            return "0 active subscribers left out".to_owned();
        }
        format!("{} left out ({})", counted(sum, "active subscriber"), named.join(", "))
    }
}

/// Why there is one more stage.
fn because(imported: &Imported) -> String {
    let since = match imported.since {
        Some(at) => format!("since the last issue ({})", time(at)),
        None => "before the first issue".to_owned(),
    };
    format!(
        "staged smaller at first: {} readers ({:.0} %) were imported {since}",
        count(imported.readers),
        imported.percent
    )
}

fn from_now(wait: Duration) -> String {
    if wait.is_zero() { String::new() } else { format!(" (in {})", span(wait)) }
}
