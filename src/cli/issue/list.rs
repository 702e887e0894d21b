//! `postrider issue list`.

use super::Which;
use crate::{
    cli::{
        Context,
        output::{self, Format, Table, time_or_dash},
    },
    delivery::control,
};

/// What `list` takes.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct List {
    #[command(flatten)]
    which: Which,
    /// How many at most, latest first
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    limit: u32,
    #[command(flatten)]
    format: Format,
}

/// Lists issues, latest first.
pub(super) async fn run(context: &Context, args: List) -> anyhow::Result<()> {
    let newsletter = args.which.newsletter(context).await?;
    let issues = control::list(&context.db, newsletter.id, args.limit).await?;
    if args.format.json {
        return Ok(output::json(&issues)?);
    }
    let mut table =
        Table::new(&["number", "state", "first copy", "finished", "subject"]).numbers(&[0]);
    for issue in &issues {
        table.row([
            &issue.number.to_string(),
            issue.state.as_str(),
            &time_or_dash(issue.started_at.or(issue.sends_at)),
            &time_or_dash(issue.finished_at),
            &issue.subject,
        ]);
    }
    Ok(table.print("no issue was sent or asked for yet; `postrider issue send FILE` sends one")?)
}
