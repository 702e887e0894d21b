//! `postrider issue status`: how far a send has come, once or again and again.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use super::{Which, course::halt_in_words};
use crate::{
    cli::{
        Context,
        output::{self, Format, Table, count, counted, span, time, time_or_dash},
    },
    db::state::IssueState,
    delivery::{control::Edition, gates::Finding},
    report::{self, Equation, IssueStatus, Pace, Percentiles, Rate, Scope},
    timestamp::Timestamp,
};

/// How often a followed send is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What `status` takes.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct StatusArgs {
    /// The issue's number; without one, the latest
    number: Option<i64>,
    #[command(flatten)]
    which: Which,
    /// Go on until the issue is sent, cancelled or a draft again; with --json, one line a look
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    format: Format,
}

/// Prints how far an issue has come.
pub(super) async fn run(context: &Context, args: StatusArgs) -> anyhow::Result<()> {
    let (_, edition) = args.which.issue(context, args.number).await?;
    if args.follow {
        return follow(context, &args, edition).await;
    }
    let now = Timestamp::now();
    let status = read(context, &edition, now).await?;
    if args.format.json {
        return Ok(output::json(&status)?);
    }
    let halt = edition.halt.as_deref().and_then(|json| serde_json::from_str(json).ok());
    Ok(output::line(to_text(&status, halt.as_ref(), now).trim_end())?)
}

async fn read(context: &Context, edition: &Edition, now: Timestamp) -> anyhow::Result<IssueStatus> {
    let (config, providers) = (&context.config, &context.providers);
    let scope = Scope { config, providers, tally: None, now };
    Ok(report::issue_status(&context.db, edition, &scope).await?)
}

/// On a terminal the same screen again and again; else a line whenever something changed.
async fn follow(context: &Context, args: &StatusArgs, edition: Edition) -> anyhow::Result<()> {
    let number = edition.number;
    let redraw = io::stdout().is_terminal() && !args.format.json;
    let mut said = String::new();
    loop {
        let (_, edition) = args.which.issue(context, Some(number)).await?;
        let now = Timestamp::now();
        let status = read(context, &edition, now).await?;
        let halt = edition.halt.as_deref().and_then(|json| serde_json::from_str(json).ok());
        if args.format.json {
            output::json_line(&status)?;
        } else if redraw {
            // Home, the text, and away with what is left of the one before.
            let text = to_text(&status, halt.as_ref(), now).replace('\n', "\u{1b}[K\n");
            output::line(format!("\u{1b}[H{text}\u{1b}[J"))?;
        } else {
            let line = in_one_line(&status);
            if line != said {
                output::line(format!("{}  {line}", time(now)))?;
                said = line;
            }
        }
        let rests =
            matches!(status.state, IssueState::Draft | IssueState::Sent | IssueState::Cancelled);
        if rests && status.equation.remaining() == 0 {
            return Ok(());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn in_one_line(status: &IssueStatus) -> String {
    let halted = match &status.halt {
        Some(halt) if halt.gate.counts() => {
            format!(" ({}: {} of {})", halt.what, halt.hits, halt.sample)
        }
        Some(halt) => format!(" ({})", halt.what),
        None => String::new(),
    };
    format!("{}{halted}: {}", status.state, sum(&status.equation))
}

/// The words of the equation that count something: `2 queued + 48,209 accepted`.
pub(super) fn sum(equation: &Equation) -> String {
    let terms: Vec<String> = equation
        .entries()
        .iter()
        .filter(|(_, copies)| *copies > 0)
        .map(|(word, copies)| format!("{} {word}", count(*copies)))
        .collect();
    if terms.is_empty() { "no copies yet".to_owned() } else { terms.join(" + ") }
}

fn to_text(status: &IssueStatus, halt: Option<&Finding>, now: Timestamp) -> String {
    let mut lines = vec![
        format!(
            "{} issue {}: {}",
            output::clean(&status.newsletter_name),
            status.number,
            output::clean(&status.subject)
        ),
        format!("state:       {}", status.state),
        format!("first copy:  {}", time_or_dash(status.started_at.or(status.sends_at))),
    ];
    if let Some(at) = status.finished_at {
        lines.push(format!("finished:    {}", time(at)));
    } else if let Some(at) = status.eta {
        lines.push(format!("likely done: {} (in {})", time(at), span(at.since(now))));
    }
    lines.push(format!("limited by:  {}", status.limited_by));
    lines.push(format!("next:        {}", output::clean(&status.next)));
    let pace = pace_in_words(&status.pace);
    if !pace.is_empty() {
        lines.push(format!("pace:        {pace}"));
    }
    let times = [
        ("queue wait:  ", status.pace.queue_wait),
        ("SMTP:        ", status.pace.smtp),
        ("end to end:  ", status.pace.end_to_end),
    ];
    for (label, found) in times {
        lines.extend(found.map(|found| format!("{label}{}", times_in_words(found))));
    }
    let audience = count(status.audience);
    let equation = sum(&status.equation);
    lines.push(if status.holds {
        format!("copies:      {equation} = {audience} in the audience")
    } else {
        format!(
            "copies:      {equation}, which is NOT the audience of {audience}: please report this"
        )
    });
    if let Some(by) = &status.approval.asked_by {
        let approved = match &status.approval.approved_by {
            Some(approved_by) => format!(", approved by {approved_by}"),
            None if status.approval.waits => ", not approved yet".to_owned(),
            None => String::new(),
        };
        lines.insert(3, format!("asked for:   by {by}{approved}"));
    }
    for warning in &status.warnings {
        let at = warning.provider.as_ref().map_or_else(String::new, |name| format!(" at {name}"));
        lines.push(format!(
            "warning:     {}{at}: {} of {} ({:.1} %, warns at {} %)",
            warning.what,
            count(warning.hits),
            count(warning.sample),
            warning.percent,
            warning.limit
        ));
    }
    if let Some(halt) = halt {
        lines.push(format!("halted:      {}", halt_in_words(halt)));
        lines.push(format!(
            "             `postrider issue resume {0} --reason …` goes on, `issue widen {0}` releases \
             one stage, `issue cancel {0}` gives up",
            status.number
        ));
    }
    lines.push(String::new());
    tables(&mut lines, status);
    lines.join("\n")
}

fn pace_in_words(pace: &Pace) -> String {
    let rate = |rate: Option<Rate>| rate.filter(|rate| rate.attempts > 0);
    let mut words = Vec::new();
    if let Some(rate) = rate(pace.last_10_s) {
        words.push(format!("{:.1} attempts/s now", rate.per_second));
    }
    if let Some(rate) = rate(pace.last_60_s) {
        words.push(format!("{:.1}/s over {:.0} s", rate.per_second, rate.seconds));
    }
    words.join("; ")
}

fn times_in_words(found: Percentiles) -> String {
    let time = |us: i64| match us {
        ..1_000_000 => format!("{:.1} ms", us as f64 / 1e3),
        1_000_000..120_000_000 => format!("{:.1} s", us as f64 / 1e6),
        _ => span(Duration::from_micros(us as u64)),
    };
    let [p50, p90, p99] = [found.p50_us, found.p90_us, found.p99_us].map(time);
    format!("p50 {p50}, p90 {p90}, p99 {p99} (of {})", count(found.sample))
}

fn tables(lines: &mut Vec<String>, status: &IssueStatus) {
    let cells = |equation: &Equation| {
        let waiting = equation.remaining() - equation.deferred;
        let gone = equation.skipped + equation.expired + equation.cancelled;
        let figures = [
            equation.total(),
            waiting,
            equation.deferred,
            equation.accepted,
            equation.rejected,
            equation.uncertain,
            gone,
        ];
        figures.map(count)
    };
    let headings =
        ["copies", "waiting", "deferred", "accepted", "rejected", "uncertain", "not sent"];
    if !status.stages.is_empty() {
        let head: Vec<&str> = ["stage", "released"].into_iter().chain(headings).collect();
        let mut table = Table::new(&head).numbers(&[2, 3, 4, 5, 6, 7, 8]);
        for stage in &status.stages {
            let name = format!("{} {}", stage.number, stage.name);
            let released = if stage.released { "yes" } else { "no" }.to_owned();
            table.row([name, released].into_iter().chain(cells(&stage.equation)));
        }
        lines.push(table.to_text());
    }
    if !status.providers.is_empty() {
        let head: Vec<&str> = ["provider"].into_iter().chain(headings).collect();
        let mut table = Table::new(&head).numbers(&[1, 2, 3, 4, 5, 6, 7]);
        for provider in &status.providers {
            let stays = provider.stays_at.map(|stage| format!(" (stays at stage {stage})"));
            let name = format!("{}{}", provider.provider, stays.unwrap_or_default());
            table.row([name].into_iter().chain(cells(&provider.equation)));
        }
        lines.push(table.to_text());
    }
    if !status.replies.is_empty() {
        let mut table = Table::new(&["times", "outcome", "reply"]).numbers(&[0]);
        for group in &status.replies {
            let code = group.code.map_or_else(String::new, |code| format!("{code} "));
            let text = group.example.as_deref().unwrap_or_default();
            let reply = format!("{code}{}", text.chars().take(100).collect::<String>());
            table.row([count(group.attempts), group.kind.to_string(), reply]);
        }
        lines.push(table.to_text());
    }
    if !status.uncertain.is_empty() {
        lines.push(format!(
            "{} of unknown fate, never sent again by themselves; \
             `postrider delivery uncertain` lists them, `delivery resolve` settles them",
            counted(status.equation.uncertain, "copy").replace("copys", "copies")
        ));
    }
}
