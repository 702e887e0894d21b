//! `postrider delivery log`: the events of the log, as columns for people or as lines of JSON.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use anyhow::Context as _;

use super::edition;
use crate::{
    address::Address,
    cli::{
        Context, moment,
        output::{self, Format},
    },
    db::{Db, state::EventKind},
    event::{Filter, Line, Step},
    provider::{ProviderId, Providers},
    report::{self, Start},
    subscriber,
    timestamp::Timestamp,
};

/// How often the log is looked at while it is followed.
const TICK: Duration = Duration::from_millis(300);
/// Lines that are read at once.
const PAGE: u32 = 1_000;

/// What `delivery log` takes.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct LogArgs {
    /// Go on printing what happens, until Ctrl-C
    #[arg(long, short)]
    follow: bool,
    /// Only of this issue
    #[arg(long, value_name = "NUMBER")]
    issue: Option<i64>,
    /// Whose issue that is; not needed when there is only one newsletter
    #[arg(long, value_name = "SLUG")]
    newsletter: Option<String>,
    /// Only about the person with this address
    #[arg(long, value_name = "ADDRESS")]
    subscriber: Option<Address>,
    /// Only for mailboxes of this provider
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Only what ended so: accepted, deferred, rejected, uncertain, bounced, …; or the steps before
    /// that: `claimed`, `handed_off`
    #[arg(long, value_name = "KIND", value_parser = kind)]
    outcome: Option<EventKind>,
    /// Print for each try when the copy was claimed and handed off, as lines of their own
    #[arg(long)]
    steps: bool,
    /// Only what was put down to this: recipient, mailbox, network, policy, …
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
    /// Not before: how long ago (90m, 2d) or when (2024-08-11 09:05, in UTC)
    #[arg(long, value_name = "TIME", value_parser = moment::past)]
    since: Option<Timestamp>,
    /// Not after
    #[arg(long, value_name = "TIME", value_parser = moment::past)]
    until: Option<Timestamp>,
    /// The latest so many lines
    #[arg(long, default_value_t = 100, value_name = "COUNT",
          value_parser = clap::value_parser!(u32).range(0..=100_000))]
    limit: u32,
    /// Every line, however many there are
    #[arg(long, conflicts_with_all = ["limit", "follow"])]
    all: bool,
    #[command(flatten)]
    format: Format,
}

fn kind(word: &str) -> Result<EventKind, String> {
    EventKind::by_name(word).ok_or_else(|| {
        let words: Vec<_> = EventKind::ALL.iter().map(|kind| kind.as_str()).collect();
        format!("one of {}", words.join(", "))
    })
}

/// Prints the log.
pub(in crate::cli) async fn run(context: &Context, args: LogArgs) -> anyhow::Result<()> {
    let filter = filter(context, &args).await?;
    let (db, providers) = (&context.db, &*context.providers);
    let show = |lines: Vec<Line>| {
        let lines = if args.steps { oldest_first(lines) } else { lines };
        print_lines(providers, &lines, args.format.json)
    };
    if args.all {
        let mut last = 0;
        loop {
            let (lines, more) = on(db, &filter, &mut last).await?;
            show(lines)?;
            if !more {
                return Ok(());
            }
        }
    }
    let (mut lines, mut last) = report::latest_lines(db, &filter, args.limit).await?;
    lines.reverse();
    if lines.is_empty() && !args.follow {
        output::say("nothing in the log is like that");
    }
    show(lines)?;
    say_what_is_in_hand(context, &filter).await?;
    if !args.follow {
        return Ok(());
    }
    loop {
        let (lines, more) = on(db, &filter, &mut last).await?;
        show(lines)?;
        if !more {
            tokio::time::sleep(TICK).await;
        }
    }
}

/// The lines behind `last`, oldest first, and whether there may be more at once; moves `last` on.
async fn on(db: &Db, filter: &Filter, last: &mut i64) -> anyhow::Result<(Vec<Line>, bool)> {
    let mut page = report::log_page(db, filter, Start::After(*last), PAGE).await?;
    *last = page.newer.max(*last);
    page.lines.reverse();
    let more = page.stopped_early || page.lines.len() == PAGE as usize;
    Ok((page.lines, more))
}

/// Each line behind the steps that led to it.
fn oldest_first(lines: Vec<Line>) -> Vec<Line> {
    let steps = |line: Line| {
        let mut lines: Vec<Line> = line.with_steps().collect();
        lines.reverse();
        lines
    };
    lines.into_iter().flat_map(steps).collect()
}

/// Says of copies in hand, for which the log has no line yet, where they are to be seen.
async fn say_what_is_in_hand(context: &Context, filter: &Filter) -> anyhow::Result<()> {
    if let Some(subscriber) = filter.subscriber {
        for copy in report::copies_in_hand(&context.db, subscriber).await? {
            let since = copy.in_hand_since.map(|at| format!(", claimed at {}", output::time(at)));
            output::say(format!(
                "the copy of {}#{} is in hand now: {}{}",
                copy.newsletter,
                copy.number,
                copy.state,
                since.unwrap_or_default()
            ));
        }
    } else if filter.kind.is_some_and(|kind| Step::of(kind).is_some()) {
        output::say(
            "a try comes to the log with its outcome; `postrider issue status` counts the copies in \
             hand now",
        );
    }
    Ok(())
}

async fn filter(context: &Context, args: &LogArgs) -> anyhow::Result<Filter> {
    let issue = match args.issue {
        Some(number) => Some(edition(context, args.newsletter.as_deref(), number).await?.id),
        None => None,
    };
    let subscriber = match &args.subscriber {
        Some(address) => {
            let found = subscriber::find(&context.db, &context.keyring, address).await?;
            Some(found.with_context(|| format!("there is no subscriber {address}"))?.id)
        }
        None => None,
    };
    let provider = match &args.provider {
        Some(name) => Some(super::provider(context, name)?.0),
        None => None,
    };
    Ok(Filter {
        issue,
        subscriber,
        provider,
        kind: args.outcome,
        class: args.class.clone(),
        since: args.since,
        until: args.until,
    })
}

/// Prints lines of the log, the oldest first: as columns, or one JSON object a line.
pub(in crate::cli) fn print_lines(
    providers: &Providers,
    lines: &[Line],
    json: bool,
) -> anyhow::Result<()> {
    let colour = !json && output::colour_on_stdout();
    let mut out = io::BufWriter::new(io::stdout().lock());
    for line in lines {
        if json {
            serde_json::to_writer(&mut out, &report::line_in_json(line, providers)?)
                .map_err(io::Error::from)?;
            out.write_all(b"\n")?;
        } else {
            writeln!(out, "{}", for_people(providers, line, colour))?;
        }
    }
    Ok(out.flush()?)
}

fn for_people(providers: &Providers, line: &Line, colour: bool) -> String {
    let at = line.at.to_jiff().strftime("%Y-%m-%d %H:%M:%S%.3f");
    let issue = match (&line.newsletter, line.issue) {
        (Some(newsletter), Some(number)) => format!("{newsletter}#{number}"),
        _ => "-".to_owned(),
    };
    let (on, off) = if colour { (colour_of(line.kind), "\u{1b}[0m") } else { ("", "") };
    let provider = line.provider.map_or("-", |id| providers.name(ProviderId(id)));
    let address = output::clean(line.address.as_deref().unwrap_or("-"));
    let mut text = format!(
        "{at}  {on}{:<14}{off}  {issue:<10}  {address:<30}  {provider:<10}  {:<10}",
        line.kind.as_str(),
        line.relay.as_deref().unwrap_or("-"),
    );
    for part in why(line) {
        text.push_str("  ");
        text.push_str(&output::clean(&part));
    }
    text.truncate(text.trim_end().len());
    text
}

/// What follows the columns: phase and codes, class, how long it took, and the text.
fn why(line: &Line) -> Vec<String> {
    let mut parts = Vec::new();
    let code = line.code.map(|code| code.to_string());
    let phase = line.phase.clone().filter(|_| line.kind != EventKind::Accepted);
    let head: Vec<String> = [phase, code, line.enhanced.clone()].into_iter().flatten().collect();
    if !head.is_empty() {
        parts.push(head.join(" "));
    }
    if let Some(class) = &line.class {
        parts.push(format!("[{class}]"));
    }
    if let Some(attempt) = line.attempt.filter(|attempt| *attempt > 1) {
        parts.push(format!("try {attempt}"));
    }
    parts.extend(line.host.as_ref().map(|host| format!("at {host}")));
    if let Some(took) = line.duration_us {
        parts.push(format!("{:.1} ms", took as f64 / 1e3));
    }
    parts.extend(line.text.clone());
    parts
}

const fn colour_of(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Accepted | EventKind::Confirmed | EventKind::Sent => "\u{1b}[32m",
        EventKind::Deferred | EventKind::Delayed | EventKind::Skipped | EventKind::Paused => {
            "\u{1b}[33m"
        }
        EventKind::Rejected
        | EventKind::Bounced
        | EventKind::Complained
        | EventKind::Halted
        | EventKind::Expired
        | EventKind::BreakerOpened => "\u{1b}[31m",
        EventKind::Uncertain => "\u{1b}[35m",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(kind: EventKind) -> Line {
        Line {
            id: 7,
            at: "2024-08-11T09:05:07.25Z".parse().unwrap(),
            kind,
            newsletter: Some("sre".into()),
            subscriber_id: None,
            issue: Some(437),
            address: Some("ada@gmail.com".into()),
            attempt: Some(2),
            relay: Some("main".into()),
            host: None,
            provider: Some(1),
            session: Some(3),
            phase: Some("rcpt_to".into()),
            code: Some(550),
            enhanced: Some("5.1.1".into()),
            text: Some("no such user\u{1b}[2J".into()),
            class: Some("recipient".into()),
            rule: None,
            duration_us: Some(12_345),
            bytes: Some(61_000),
            due_at: None,
            claimed_at: None,
            handed_off_at: None,
        }
    }

    #[test]
    fn a_line_for_people_cannot_steer_the_terminal() {
        let text = for_people(Providers::embedded(), &line(EventKind::Rejected), false);
        insta::assert_snapshot!(text, @"2024-08-11 09:05:07.250  rejected        sre#437     ada@gmail.com                   google      main        rcpt_to 550 5.1.1  [recipient]  try 2  12.3 ms  no such user [2J");
        let text = for_people(Providers::embedded(), &line(EventKind::Rejected), true);
        assert!(text.contains("\u{1b}[31mrejected      \u{1b}[0m"), "{text}");
        assert_eq!(text.matches('\u{1b}').count(), 2);
        let direct = Line { host: Some("mx.test [192.0.2.7]".into()), ..line(EventKind::Accepted) };
        let text = for_people(Providers::embedded(), &direct, false);
        assert!(text.contains("try 2  at mx.test [192.0.2.7]  12.3 ms"), "{text}");
    }

    #[test]
    fn a_line_for_programs_names_the_provider() {
        let value =
            report::line_in_json(&line(EventKind::Rejected), Providers::embedded()).unwrap();
        assert_eq!(value["provider"], "google");
        assert_eq!(value["kind"], "rejected");
        assert_eq!(value["text"], "no such user\u{1b}[2J");
    }
}
