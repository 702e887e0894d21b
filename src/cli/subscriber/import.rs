//! `postrider subscriber import`, and the single person of `subscriber add --confirmed`, who is a
//! file of one row.

use std::{
    collections::BTreeMap,
    io::{Cursor, Read},
    path::PathBuf,
};

use anyhow::Context as _;
use indicatif::ProgressBar;
use tokio::io::{AsyncWrite, BufWriter};

use super::AddArgs;
use crate::{
    cli::{
        Context, Refused,
        context::actor,
        output::{self, Format, Table, say},
    },
    newsletter::Newsletter,
    subscriber::import::{Import, Report, import},
    timestamp::Timestamp,
};

/// What `subscriber import` takes.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ImportArgs {
    /// A CSV file whose first line names its columns: address (or email), and, where they are known,
    /// name and `confirmed_at`; `-` reads standard input
    file: PathBuf,
    /// Which newsletter; not needed when there is only one
    #[arg(long, value_name = "SLUG")]
    newsletter: Option<String>,
    /// Where and how these people gave their consent; kept as evidence for each of them
    #[arg(long, value_name = "TEXT")]
    consent_source: String,
    /// Say what would happen, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Write the rows that are refused to this file, with line and reason
    #[arg(long, value_name = "FILE")]
    errors: Option<PathBuf>,
    /// What separates the columns: a comma, a semicolon, or `tab`
    #[arg(long, default_value = ",", value_name = "CHARACTER", value_parser = delimiter)]
    delimiter: u8,
    /// Keep this column as an attribute of each person; may be given several times
    #[arg(long = "attribute", value_name = "COLUMN")]
    attributes: Vec<String>,
    #[command(flatten)]
    format: Format,
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text {
        "," | ";" => Ok(text.as_bytes()[0]),
        "tab" | "\t" | "\\t" => Ok(b'\t'),
        _ => Err("write a comma, a semicolon, or tab".to_owned()),
    }
}

/// What each reason for a refusal means, for people.
fn in_words(refusal: &str) -> &'static str {
    match refusal {
        "unreadable" => "is not UTF-8 text; convert the file",
        "address" => "is not a mail address",
        "confirmed_at" => "is not a time like 2024-08-11 09:05, or lies in the future",
        "role_account" => "is nobody's own mailbox (info@, abuse@, …); they may sign up themselves",
        "repeated" => "came before in the same file",
        "already_subscribed" => "has the newsletter already",
        "pending" => "was asked and has yet to confirm",
        "unsubscribed" => "left; only they can come back, by signing up",
        "expired" => "was asked and never confirmed",
        "suppressed_bounce" => "bounced; a new sign-up of their own lifts that",
        "suppressed_complaint" => "complained; only an operator can lift that",
        "suppressed_erased" => "asked to be erased",
        "suppressed_not_me" => "said that somebody else had signed them up",
        "suppressed_manual" | "suppressed_imported" => "is suppressed by an operator",
        _ => "was refused",
    }
}

/// Imports a file.
pub(in crate::cli) async fn run(context: &Context, args: ImportArgs) -> anyhow::Result<()> {
    let newsletter = context.newsletter(args.newsletter.as_deref()).await?;
    let name = args.file.display().to_string();
    let (file, length): (Box<dyn Read + Send>, Option<u64>) = if args.file.as_os_str() == "-" {
        (Box::new(std::io::stdin()), None)
    } else {
        let file =
            std::fs::File::open(&args.file).with_context(|| format!("cannot read {name}"))?;
        let length = file.metadata().ok().filter(std::fs::Metadata::is_file).map(|m| m.len());
        (Box::new(file), length)
    };
    let mut refusals: Box<dyn AsyncWrite + Unpin> = match &args.errors {
        None => Box::new(tokio::io::sink()),
        Some(path) => Box::new(BufWriter::new(errors_file(&args, path).await?)),
    };
    let what = Import {
        newsletter: newsletter.id,
        file: if name == "-" { "standard input".to_owned() } else { name },
        consent_source: args.consent_source.clone(),
        actor: actor(),
        dry_run: args.dry_run,
        delimiter: args.delimiter,
        attributes: args.attributes.clone(),
    };
    let bar = output::progress(length, if args.dry_run { "Checking" } else { "Importing" });
    let file = Counted { inner: file, bar: bar.clone() };
    let progress = |report: &Report| bar.set_message(format!("{} rows", report.rows));
    let means = (&*context.keyring, &*context.providers);
    let now = Timestamp::now();
    let imported = import(&context.db, means, &what, file, &mut refusals, progress, now).await;
    bar.finish_and_clear();
    let report = imported.with_context(|| {
        format!(
            "{}: what was imported before stays; the same file may be imported again",
            what.file
        )
    })?;
    print(&report, &args, &newsletter)
}

async fn errors_file(args: &ImportArgs, path: &PathBuf) -> anyhow::Result<tokio::fs::File> {
    let same = path.canonicalize().ok().is_some_and(|to| args.file.canonicalize().ok() == Some(to));
    anyhow::ensure!(!same, "--errors would overwrite the file that is imported; name another");
    tokio::fs::File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .await
        .with_context(|| format!("cannot write {}", path.display()))
}

fn print(report: &Report, args: &ImportArgs, newsletter: &Newsletter) -> anyhow::Result<()> {
    if !report.ignored_columns.is_empty() {
        say(format!(
            "not kept: {} (keep a column with --attribute NAME)",
            output::clean(&report.ignored_columns.join(", "))
        ));
    }
    if args.format.json {
        return Ok(output::json(report)?);
    }
    let mut table = Table::new(&["rows", "what", "meaning"]).numbers(&[0]);
    let added = if args.dry_run { "would be added" } else { "added" };
    let name = format!("to {}", newsletter.name);
    table.row([output::count(report.added as i64).as_str(), added, &name]);
    for (why, rows) in &report.refused {
        table.row([output::count(*rows as i64).as_str(), why, in_words(why)]);
    }
    table.row([output::count(report.rows as i64).as_str(), "in all", ""]);
    table.print("")?;
    if !report.refused.is_empty() && args.errors.is_none() {
        say("name a file with --errors to get the refused rows with their lines");
    }
    Ok(())
}

/// Adds the one person of `subscriber add --confirmed`.
pub(super) async fn one(
    context: &Context,
    newsletter: &Newsletter,
    args: &AddArgs,
) -> anyhow::Result<()> {
    let what = Import {
        newsletter: newsletter.id,
        file: "subscriber add --confirmed".to_owned(),
        consent_source: args.consent_source.clone(),
        actor: actor(),
        dry_run: false,
        delimiter: b',',
        attributes: Vec::new(),
    };
    let mut file = csv::Writer::from_writer(Vec::new());
    file.write_record(["address", "name"])?;
    file.write_record([args.address.as_str(), args.name.as_deref().unwrap_or_default()])?;
    let file = Cursor::new(file.into_inner()?);
    let mut refusals = tokio::io::sink();
    let means = (&*context.keyring, &*context.providers);
    let now = Timestamp::now();
    let report = import(&context.db, means, &what, file, &mut refusals, |_| {}, now).await?;
    let why: BTreeMap<_, _> = report.refused;
    match why.keys().next().map(String::as_str) {
        None => Ok(()),
        Some("pending" | "expired" | "unsubscribed" | "suppressed_bounce") => {
            let state = in_words(why.keys().next().map_or("", String::as_str));
            Err(Refused(format!(
                "{} {state}; without --confirmed they are asked to confirm",
                args.address
            ))
            .into())
        }
        Some(reason) => Err(Refused(format!("{} {}", args.address, in_words(reason))).into()),
    }
}

/// A reader that moves the progress bar.
struct Counted<R> {
    inner: R,
    bar: ProgressBar,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(out)?;
        self.bar.inc(count as u64);
        Ok(count)
    }
}
