//! `postrider bench`: how fast mail gets out, as ratios against public senders within one run.
//!
//! Every comparison alternates: ours, theirs, ours, theirs …, all into the same sink, so that a
//! machine whose speed drifts does both justice. Figures are medians. Ours is the whole engine on
//! SQLite with `synchronous=FULL`, every copy personal; theirs send identical copies of one size and
//! keep no record. Runs on loopback only.

mod bounces;
mod engine;
mod intake;
mod peers;
mod profile;

use std::{path::PathBuf, time::Duration};

use anyhow::Context as _;
use serde::Serialize;

pub use bounces::Reading;
pub use engine::{Audience, Sent, Signature};
pub use intake::Intake;
pub use profile::Profile;

/// Measure how fast mail gets out, against smtp-source and lettre.
///
/// Sends the same number of messages of the same size through the same connections into the same
/// sink, alternating between senders, and prints rates, CPU time and ratios of medians. Postfix's
/// smtp-source and smtp-sink are used when they are installed.
#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// Copies each sender sends in each run.
    #[arg(long, default_value_t = 20_000)]
    copies: u64,
    /// Kilobytes a copy has, about.
    #[arg(long, default_value_t = 30)]
    size_kb: usize,
    /// Connections, a comparison each.
    #[arg(long, value_delimiter = ',', default_values_t = [8, 32])]
    connections: Vec<u32>,
    /// Runs of each sender.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// What to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [What::Sink, What::SmtpSink, What::Latency, What::Lettre])]
    what: Vec<What>,
    /// Recipients of the memory run.
    #[arg(long, default_value_t = 1_000_000)]
    recipients: u64,
    /// A folder of returned mails, a file each, for `--what bounces`.
    #[arg(long, value_name = "FOLDER", required_if_eq("what", "bounces"))]
    mails: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// Where to keep databases while measuring [default: the system's temporary folder].
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

/// One comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum What {
    /// Into our own sink, which discards: against smtp-source.
    Sink,
    /// Into Postfix's smtp-sink: against smtp-source.
    SmtpSink,
    /// Into our own sink with 20 ms of answered latency: against smtp-source, with as many
    /// connections that send issues as it has. Of four or more we keep one for confirmations, so ours
    /// has one more.
    Latency,
    /// Into our own sink: against lettre's pooled transport.
    Lettre,
    /// Signing with Ed25519, into our own sink: against smtp-source.
    Signed,
    /// Signing with RSA of 2048 bits: against signing and nothing else, on every processor.
    Rsa,
    /// A million recipients: import, planning, sending, memory.
    Memory,
    /// The same without sending.
    Queue,
    /// Reading returned mail (`--mails`): against flufl.bounce and Sisimai, where `python3` and `perl`
    /// have them.
    Bounces,
    /// A report on each of `--copies` copies through the SMTP listener: rate and memory.
    Intake,
}

/// A comparison's figures.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    /// What was compared.
    pub name: String,
    /// Connections of either side.
    pub connections: u32,
    /// Copies of either side in each run.
    pub copies: u64,
    /// Our messages a second, each run.
    pub ours_per_second: Vec<f64>,
    /// The other sender's messages a second, each run.
    pub theirs_per_second: Vec<f64>,
    /// Our CPU microseconds a message, each run.
    pub ours_cpu_us: Vec<f64>,
    /// The other sender's CPU microseconds a message, each run.
    pub theirs_cpu_us: Vec<f64>,
    /// Median of ours over median of theirs.
    pub ratio: f64,
    /// Median CPU of ours over median CPU of theirs.
    pub cpu_ratio: f64,
    /// What the ratio is meant to be at least.
    pub goal: f64,
    /// Where a copy's time went, in our last run.
    pub profile: Profile,
}

/// Figures of a send to a large audience.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Large {
    /// Recipients.
    pub recipients: u64,
    /// Subscribers imported a second.
    pub imported_per_second: f64,
    /// Seconds to plan and queue.
    pub queue_seconds: f64,
    /// Copies a second; 0 when none were sent.
    pub per_second: f64,
    /// What claiming a copy costs in the last fifth of the send, over what it costs in the first.
    pub claim_growth: f64,
    /// The most memory the engine's process had resident while sending, in megabytes.
    pub resident_mb_max: f64,
}

/// Everything a run of the bench found.
#[derive(Debug, Default, Serialize)]
pub struct Findings {
    /// Comparisons.
    pub comparisons: Vec<Comparison>,
    /// The send to a large audience.
    pub large: Option<Large>,
    /// Returned mail.
    pub readings: Vec<Reading>,
    /// Reports through the listener.
    pub intake: Option<Intake>,
}

const LATENCY: Duration = Duration::from_millis(20);

/// Measures and prints.
pub async fn run(args: BenchArgs) -> anyhow::Result<()> {
    let parent = args.folder.clone().unwrap_or_else(std::env::temp_dir);
    let folder = tempfile::tempdir_in(&parent)
        .with_context(|| format!("no folder can be made in {}", parent.display()))?;
    let mut findings = Findings::default();
    for what in &args.what {
        if matches!(what, What::Memory | What::Queue) {
            eprintln!("a send to {} recipients …", args.recipients);
            let send = *what == What::Memory;
            let large = engine::large(folder.path(), args.recipients, send).await?;
            eprintln!("{}", large.describe());
            findings.large = Some(large);
            continue;
        }
        if let (What::Bounces, Some(mails)) = (what, args.mails.clone()) {
            let runs = args.runs;
            let read = tokio::task::spawn_blocking(move || bounces::compare(&mails, runs));
            findings.readings = read.await??;
            continue;
        }
        if *what == What::Intake {
            eprintln!("{} reports through the listener …", args.copies);
            findings.intake = Some(intake::run(folder.path(), args.copies).await?);
            continue;
        }
        for &connections in &args.connections {
            match compare(&args, folder.path(), *what, connections).await? {
                Some(comparison) => {
                    eprintln!("{}", comparison.describe());
                    findings.comparisons.push(comparison);
                }
                None => eprintln!("{what:?}: skipped, Postfix's tools are not installed"),
            }
        }
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        for comparison in &findings.comparisons {
            println!("{}", comparison.describe());
        }
        for reading in &findings.readings {
            println!("{}", reading.describe());
        }
        if let Some(intake) = &findings.intake {
            println!("{}", intake.describe());
        }
        if let Some(large) = &findings.large {
            println!("{}", large.describe());
        }
    }
    Ok(())
}

async fn compare(
    args: &BenchArgs,
    folder: &std::path::Path,
    what: What,
    connections: u32,
) -> anyhow::Result<Option<Comparison>> {
    let needs_postfix = !matches!(what, What::Lettre | What::Rsa);
    if needs_postfix && peers::find("smtp-source").is_none() {
        return Ok(None);
    }
    let (name, goal) = match what {
        What::Sink => ("into our sink, against smtp-source", 1.3),
        What::SmtpSink => ("into smtp-sink, against smtp-source", 1.0),
        What::Latency => ("with 20 ms latency, against smtp-source", 3.5),
        What::Lettre => ("into our sink, against lettre's pooled transport", 20.0),
        What::Signed => ("signed with Ed25519, against smtp-source", 0.7),
        What::Rsa => ("signed with RSA-2048, against bare signatures", 0.85),
        What::Memory | What::Queue | What::Bounces | What::Intake => return Ok(None),
    };
    // A slow peer sends less: what counts is its rate.
    let slow = matches!(what, What::Latency | What::Rsa);
    let copies = if slow { args.copies.min(6_000) } else { args.copies };
    let their_copies = match what {
        What::Lettre => (copies / 50).max(200),
        What::Latency => copies / 2,
        _ => copies,
    };
    let mut comparison = Comparison::new(name, connections, copies, goal);
    for run in 0..=args.runs {
        let sink = match what {
            What::SmtpSink => match peers::Sink::smtp_sink(connections).await? {
                Some(sink) => sink,
                None => return Ok(None),
            },
            What::Latency => peers::Sink::ours(LATENCY).await?,
            _ => peers::Sink::ours(Duration::ZERO).await?,
        };
        let audience = Audience {
            copies,
            size: args.size_kb * 1024,
            connections: connections + u32::from(what == What::Latency && connections >= 3),
            relay: sink.address,
            signature: match what {
                What::Signed => Signature::Ed25519,
                What::Rsa => Signature::Rsa,
                _ => Signature::None,
            },
        };
        let (ours, profile) =
            engine::send(&folder.join(format!("{what:?}-{connections}-{run}")), &audience).await?;
        let bytes = ours.bytes_each;
        let theirs = match what {
            What::Lettre => peers::lettre(sink.address, their_copies, bytes, connections).await?,
            What::Rsa => tokio::task::spawn_blocking(|| peers::bare_signatures(6_000)).await??,
            _ => peers::smtp_source(sink.address, their_copies, bytes, connections).await?,
        };
        // The first run warms caches and counts for nothing.
        if run > 0 {
            comparison.add(&ours, &theirs);
            comparison.profile = profile;
        }
    }
    comparison.conclude();
    Ok(Some(comparison))
}

impl Comparison {
    fn new(name: &str, connections: u32, copies: u64, goal: f64) -> Self {
        Self {
            name: name.to_owned(),
            connections,
            copies,
            ours_per_second: Vec::new(),
            theirs_per_second: Vec::new(),
            ours_cpu_us: Vec::new(),
            theirs_cpu_us: Vec::new(),
            ratio: 0.0,
            cpu_ratio: 0.0,
            goal,
            profile: Profile::default(),
        }
    }

    fn add(&mut self, ours: &Sent, theirs: &Sent) {
        self.ours_per_second.push(ours.per_second());
        self.theirs_per_second.push(theirs.per_second());
        self.ours_cpu_us.push(ours.cpu_us_each());
        self.theirs_cpu_us.push(theirs.cpu_us_each());
    }

    fn conclude(&mut self) {
        self.ratio = median(&self.ours_per_second) / median(&self.theirs_per_second);
        self.cpu_ratio = median(&self.ours_cpu_us) / median(&self.theirs_cpu_us);
    }

    fn describe(&self) -> String {
        format!(
            "{}, {} connections: {:.0}/s against {:.0}/s: {:.2} × (goal {} ×); CPU {:.0} against \
             {:.0} µs a message: {:.2} ×\n  {}",
            self.name,
            self.connections,
            median(&self.ours_per_second),
            median(&self.theirs_per_second),
            self.ratio,
            self.goal,
            median(&self.ours_cpu_us),
            median(&self.theirs_cpu_us),
            self.cpu_ratio,
            self.profile,
        )
    }
}

impl Large {
    fn describe(&self) -> String {
        let millions = self.recipients as f64 / 1e6;
        let queue_goal = if millions <= 1.0 { 3.0 } else { 4.0 * millions };
        let sent = if self.per_second > 0.0 {
            format!(
                ", sent at {:.0}/s, a claim at the end costs {:.2} × one at the start (goal 1.5)",
                self.per_second, self.claim_growth
            )
        } else {
            String::new()
        };
        format!(
            "{} recipients: imported at {:.0}/s (goal 25000), planned and queued in {:.1} s (goal \
             {queue_goal:.0}){sent}, at most {:.0} MB resident (goal 64)",
            self.recipients, self.imported_per_second, self.queue_seconds, self.resident_mb_max
        )
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}
