//! `postrider rehearse`: what a send would do, found out without sending.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use jiff::tz::TimeZone;

use super::{
    Which,
    manuscript::{FileArgs, Manuscript},
    send::duration,
};
use crate::{
    cli::{
        Context,
        output::{self, Format},
    },
    delivery::{
        control::{self, ControlError, Draft},
        preflight,
    },
    rehearsal::{self, Options},
    sink::faults::profile::Profile,
    timestamp::Timestamp,
};

/// What takes the mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Against {
    /// The built-in sink, one in the place of each relay
    Sink,
}

/// What `rehearse` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = METHOD)]
pub(in crate::cli) struct RehearseArgs {
    /// An issue file, or the number of an issue that is stored
    issue: String,
    #[command(flatten)]
    which: Which,
    /// What takes the mail; nothing else can
    #[arg(long, value_enum, default_value_t = Against::Sink)]
    against: Against,
    /// How the relays behave: a fault profile (`postrider sink --faults-example` shows one), for all
    /// or, as NAME=FILE, for the relay of that name; may be repeated
    #[arg(long, value_name = "[NAME=]FILE")]
    faults: Vec<String>,
    /// How much faster than real time; 1 for real time
    #[arg(long, value_name = "FACTOR", default_value_t = 60,
          value_parser = clap::value_parser!(u32).range(1..=3600))]
    speed: u32,
    /// How long a relay takes for a reply
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "0s")]
    latency: Duration,
    /// How long the send is followed, in its own time
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "6h")]
    until: Duration,
    /// Go on after a gate halts, to see what would come then
    #[arg(long)]
    resume_halts: bool,
    #[command(flatten)]
    format: Format,
}

const METHOD: &str = "The issue goes to its whole audience through the real engine, on a copy of the \
    database, with a sink on this machine in the place of every relay. Nothing is written to the \
    real data, and no relay is connected to. Rates, warm-up ramps, breakers, the times of reply \
    rules, soaks and retries all go by the send's own time; the machine does not get faster, and the \
    report says for how long it was all that held the send back.";

/// Rehearses a send and prints what it would have done.
pub(in crate::cli) async fn run(config: Option<&Path>, args: RehearseArgs) -> anyhow::Result<()> {
    let context = Context::open(config).await?;
    let rehearsed = rehearse(&context, &args).await;
    context.db.close().await;
    rehearsed
}

async fn rehearse(context: &Context, args: &RehearseArgs) -> anyhow::Result<()> {
    let Against::Sink = args.against;
    let options = options(context, args)?;
    let draft = draft(context, args).await?;
    let bar = output::progress(Some(0), "Rehearsing");
    let report = rehearsal::run(context, &draft, &options, |done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
    })
    .await?;
    bar.finish_and_clear();
    if args.format.json {
        return Ok(output::json(&report)?);
    }
    for line in report.to_text().lines() {
        output::line(output::clean(line))?;
    }
    Ok(())
}

fn options(context: &Context, args: &RehearseArgs) -> anyhow::Result<Options> {
    let mut faults = Profile::default();
    let mut relay_faults = HashMap::new();
    let relays: Vec<&str> = context.config.relay.iter().map(|relay| relay.name.as_str()).collect();
    for given in &args.faults {
        match given.split_once('=') {
            Some((name, file)) => {
                anyhow::ensure!(
                    relays.contains(&name),
                    "--faults {given}: there is no relay `{name}`; those are: {}",
                    relays.join(", ")
                );
                relay_faults.insert(name.to_owned(), Profile::load(Path::new(file))?);
            }
            None => faults = Profile::load(Path::new(given))?,
        }
    }
    Ok(Options {
        speed: args.speed,
        faults,
        relay_faults,
        latency: args.latency,
        until: args.until,
        resume_halts: args.resume_halts,
    })
}

/// The issue as it would be stored when its send is asked for.
async fn draft(context: &Context, args: &RehearseArgs) -> anyhow::Result<Draft> {
    if let Ok(number) = args.issue.parse::<i64>() {
        let newsletter = args.which.newsletter(context).await?;
        let found = control::find(&context.db, newsletter.id, number).await?;
        let edition = found.ok_or(ControlError::Unknown(number))?;
        let stored = preflight::stored_draft(&context.db, &edition).await?;
        return stored.with_context(|| format!("the content of issue {number} is gone"));
    }
    let file = FileArgs { file: PathBuf::from(&args.issue), which: args.which.clone() };
    let now = Timestamp::now();
    let manuscript = Manuscript::read(context, &file, (now, &TimeZone::system())).await?;
    let content = manuscript.content(context)?;
    manuscript.draft(content)
}
