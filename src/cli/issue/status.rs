//! `postrider issue status`: how far a send has come.

use serde::Serialize;

use super::{Which, course::halt_in_words};
use crate::{
    cli::{
        Context,
        output::{self, Format, Table, count, time_or_dash},
    },
    db::state::CopyState,
    delivery::{
        control::Edition,
        gates::Halt,
        status, tallies,
        tally::{Cell, Tally},
    },
    provider::ProviderId,
};

/// What `status` takes.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct StatusArgs {
    /// The issue's number; without one, the latest
    number: Option<i64>,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    format: Format,
}

/// Copies by where they stand, in the words of the audience equation.
#[derive(Debug, Clone, Copy, Default, Serialize)]
struct Standing {
    audience: i64,
    planned: i64,
    queued: i64,
    deferred: i64,
    claimed: i64,
    handed_off: i64,
    accepted: i64,
    rejected: i64,
    uncertain: i64,
    skipped: i64,
    expired: i64,
    cancelled: i64,
}

impl Standing {
    fn of(total: &Cell, released: &Cell) -> Self {
        let get = |state| total.get(state);
        Self {
            audience: total.total(),
            planned: get(CopyState::Waiting) - released.get(CopyState::Waiting),
            queued: released.get(CopyState::Waiting) - released.deferred,
            deferred: released.deferred,
            claimed: get(CopyState::Claimed),
            handed_off: get(CopyState::HandedOff),
            accepted: get(CopyState::Accepted),
            rejected: get(CopyState::Rejected),
            uncertain: get(CopyState::Uncertain),
            skipped: get(CopyState::Skipped),
            expired: get(CopyState::Expired),
            cancelled: get(CopyState::Cancelled),
        }
    }

    /// `1 planned + 2 queued + … = 48,211 copies`
    fn equation(&self) -> String {
        let parts = [
            (self.planned, "planned"),
            (self.queued, "queued"),
            (self.deferred, "deferred"),
            (self.claimed, "claimed"),
            (self.handed_off, "handed off"),
            (self.accepted, "accepted"),
            (self.rejected, "rejected"),
            (self.uncertain, "uncertain"),
            (self.skipped, "skipped"),
            (self.expired, "expired"),
            (self.cancelled, "cancelled"),
        ];
        let terms: Vec<String> = parts
            .iter()
            .filter(|(number, _)| *number > 0)
            .map(|(number, word)| format!("{} {word}", count(*number)))
            .collect();
        let left = if terms.is_empty() { "0".to_owned() } else { terms.join(" + ") };
        format!("{left} = {} in the audience", count(self.audience))
    }
}

#[derive(Serialize)]
struct Status {
    #[serde(flatten)]
    issue: Edition,
    copies: Standing,
    halted_by: Option<Halt>,
    limited_by: Option<String>,
}

/// Prints how far an issue has come.
pub(super) async fn run(context: &Context, args: StatusArgs) -> anyhow::Result<()> {
    let (_, issue) = args.which.issue(context, args.number).await?;
    let tally = tallies::load(&context.db, issue.id).await?;
    let copies = Standing::of(&tally.total(), &tally.up_to_stage(issue.stage));
    let halted_by = issue.halt.as_deref().and_then(|json| serde_json::from_str(json).ok());
    let engine = status::read(&context.db).await?;
    let limited_by = engine.map(|engine| engine.limited_by);
    let status = Status { issue, copies, halted_by, limited_by };
    if args.format.json {
        return Ok(output::json(&status)?);
    }
    let Status { issue, copies, halted_by, limited_by } = status;
    output::line(format!("issue {}: {}", issue.number, output::clean(&issue.subject)))?;
    output::line(format!("state: {}", issue.state))?;
    output::line(format!("first copy: {}", time_or_dash(issue.started_at.or(issue.sends_at))))?;
    output::line(format!("finished:   {}", time_or_dash(issue.finished_at)))?;
    output::line(copies.equation())?;
    if let Some(halt) = &halted_by {
        output::line(format!("halted: {}", halt_in_words(halt)))?;
    }
    output::line(match &limited_by {
        Some(limit) => format!("limited by: {limit}"),
        None => "no daemon is running on this data".to_owned(),
    })?;
    print_providers(context, &tally)
}

fn print_providers(context: &Context, tally: &Tally) -> anyhow::Result<()> {
    let headings = ["provider", "copies", "waiting", "accepted", "rejected", "uncertain", "other"];
    let mut table = Table::new(&headings).numbers(&[1, 2, 3, 4, 5, 6]);
    for (provider, cell) in tally.providers() {
        let waiting =
            [CopyState::Waiting, CopyState::Claimed, CopyState::HandedOff].map(|s| cell.get(s));
        let decided =
            [CopyState::Accepted, CopyState::Rejected, CopyState::Uncertain].map(|s| cell.get(s));
        let waiting: i64 = waiting.iter().sum();
        let other = cell.total() - waiting - decided.iter().sum::<i64>();
        table.row([
            context.providers.name(ProviderId(provider)).to_owned(),
            count(cell.total()),
            count(waiting),
            count(decided[0]),
            count(decided[1]),
            count(decided[2]),
            count(other),
        ]);
    }
    Ok(table.print("no copy is in the ledger yet")?)
}
