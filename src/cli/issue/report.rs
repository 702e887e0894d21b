//! `postrider issue report`: who did not get an issue, and why.

use std::io::{self, Write as _};

use futures_util::TryStreamExt as _;

use super::{Which, status::sum};
use crate::{
    cli::{
        Context,
        output::{self, Format, Table, count, counted},
    },
    db::state::IssueState,
    provider::ProviderId,
    report::{self, IssueReport, Missed},
};

/// How many readers are listed for people unless all are asked for.
const LISTED: usize = 100;

/// What `report` takes.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ReportArgs {
    /// The issue's number; without one, the latest
    number: Option<i64>,
    #[command(flatten)]
    which: Which,
    /// List every reader who did not get it; else the first 100
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    format: Format,
}

/// Prints the figures, then reader by reader.
pub(super) async fn run(context: &Context, args: ReportArgs) -> anyhow::Result<()> {
    let (_, edition) = args.which.issue(context, args.number).await?;
    let figures = report::issue_report(&context.db, &edition).await?;
    let mut missed = report::missed(&context.db, &edition);
    if args.format.json {
        // Reader by reader, so that a hundred thousand of them need no memory.
        let mut out = io::BufWriter::new(io::stdout());
        write!(out, "{{\"report\":{},\"missed\":[", serde_json::to_string(&figures)?)?;
        let mut comma = "";
        while let Some(reader) = missed.try_next().await? {
            write!(out, "{comma}\n{}", serde_json::to_string(&reader)?)?;
            comma = ",";
        }
        out.write_all(b"]}\n")?;
        return Ok(out.flush()?);
    }
    output::line(to_text(&figures).trim_end())?;
    let mut listed = 0;
    while let Some(reader) = missed.try_next().await? {
        if listed == 0 {
            output::line("\nWho did not get it")?;
        }
        if listed == LISTED && !args.all {
            output::say("there are more; --all lists every one, --json for programs");
            break;
        }
        output::line(line(context, &reader))?;
        listed += 1;
    }
    if listed == 0 {
        output::line("Everybody in the audience got it, as far as the relays told.")?;
    }
    Ok(())
}

fn to_text(figures: &IssueReport) -> String {
    let mut lines = vec![
        format!("issue {}: {}", figures.number, output::clean(&figures.subject)),
        format!("state:  {}", figures.state),
        format!("copies: {} = {}", sum(&figures.equation), count(figures.equation.total())),
    ];
    if !matches!(figures.state, IssueState::Sent | IssueState::Cancelled) {
        lines.push("the send is not over: copies that wait are listed too".to_owned());
    }
    if figures.bounced_later > 0 {
        lines.push(format!("{} of the accepted came back later", count(figures.bounced_later)));
    }
    if figures.complaints > 0 {
        lines.push(format!("{} called it spam", counted(figures.complaints, "reader")));
    }
    lines.push(String::new());
    if !figures.reasons.is_empty() {
        let mut table = Table::new(&["copies", "outcome", "class", "for example"]).numbers(&[0]);
        for reason in &figures.reasons {
            let example = reason.example.as_deref().unwrap_or("-");
            table.row([
                count(reason.copies).as_str(),
                reason.state.as_str(),
                reason.class.as_deref().unwrap_or("-"),
                &example.chars().take(100).collect::<String>(),
            ]);
        }
        lines.push(table.to_text());
    }
    lines.join("\n")
}

fn line(context: &Context, reader: &Missed) -> String {
    let address = reader.address.as_deref().unwrap_or("(erased)");
    let provider = context.providers.name(ProviderId(reader.provider));
    let what = if reader.bounced_later { "bounced later" } else { reader.state.as_str() };
    let why = reader.reason.as_deref().or(reader.class.as_deref()).unwrap_or("-");
    let line = format!("{address:<36} {provider:<11} {what:<13} {why}");
    output::clean(&line).into_owned()
}
