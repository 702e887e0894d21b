//! `postrider bounce fetch`: looks into the configured mailboxes once, as the daemon does all the
//! time, and says what came. It may run beside the daemon.

use std::path::Path;

use serde::Serialize;

use crate::{
    bounce::intake::mailbox::{Look, Mailbox, Parts, check},
    cli::{
        Context, Refused,
        context::load_config,
        output::{self, Format, Table},
    },
    config::BounceMailbox,
    telemetry::MailboxSeries,
};

/// What `bounce fetch` takes.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct FetchArgs {
    /// Only this mailbox [default: all of the configuration]
    name: Option<String>,
    /// Log in and count the mails, and take none
    #[arg(long)]
    check: bool,
    /// Look again at mails that were left where they are
    #[arg(long, conflicts_with = "check")]
    again: bool,
    #[command(flatten)]
    format: Format,
}

/// What a look into one mailbox came to.
#[derive(Serialize)]
struct Fetched {
    mailbox: String,
    address: String,
    /// How many mails lie in it, of a check.
    #[serde(skip_serializing_if = "Option::is_none")]
    mails: Option<u64>,
    #[serde(flatten)]
    look: Look,
    problem: Option<String>,
}

/// Runs the command.
pub(super) async fn run(config: Option<&Path>, args: &FetchArgs) -> anyhow::Result<()> {
    let settings = load_config(config)?;
    let all = &settings.bounces.mailbox;
    let wanted: Vec<&BounceMailbox> =
        all.iter().filter(|one| args.name.as_ref().is_none_or(|name| one.name == *name)).collect();
    if let Some(name) = args.name.as_ref().filter(|_| wanted.is_empty()) {
        let known: Vec<_> = all.iter().map(|one| one.name.as_str()).collect();
        anyhow::bail!("there is no mailbox `{name}`; those are: {}", known.join(", "));
    }
    anyhow::ensure!(
        !wanted.is_empty(),
        "no mailbox is configured: give one in a [[bounces.mailbox]] block"
    );
    let context = if args.check { None } else { Some(Context::open(config).await?) };
    let mut fetched = Vec::new();
    for settings in wanted {
        let (mailbox, address) = (settings.name.clone(), settings.address());
        let (mut look, mut mails) = (Look::default(), None);
        let done = match &context {
            None => check(settings).await.map(|count| mails = Some(count)),
            Some(context) => fetch(context, settings, args.again, &mut look).await,
        };
        let problem = done.err().map(|problem| problem.to_string());
        fetched.push(Fetched { mailbox, address, mails, look, problem });
    }
    if let Some(context) = context {
        context.db.close().await;
    }
    show(&fetched, args)?;
    let failed = fetched.iter().filter(|one| one.problem.is_some()).count();
    if failed == 0 {
        return Ok(());
    }
    Err(Refused(format!("{failed} of {} mailboxes cannot be looked into", fetched.len())).into())
}

async fn fetch(
    context: &Context,
    settings: &BounceMailbox,
    again: bool,
    look: &mut Look,
) -> Result<(), crate::bounce::intake::mailbox::MailboxError> {
    let parts = Parts {
        db: context.db.clone(),
        keyring: std::sync::Arc::clone(&context.keyring),
        rules: context.config.bounces.clone(),
    };
    let mut mailbox = Mailbox::new(settings, &parts, MailboxSeries::default()).await?;
    if again {
        mailbox.forget().await?;
    }
    mailbox.fetch(look).await
}

fn show(fetched: &[Fetched], args: &FetchArgs) -> anyhow::Result<()> {
    if args.format.json {
        return Ok(output::json(&fetched)?);
    }
    let counted: &[&str] =
        if args.check { &["mails"] } else { &["fetched", "handled", "left", "aside", "vanished"] };
    let headings = [&["mailbox", "address", "result"], counted].concat();
    let mut table = Table::new(&headings).numbers(&[3, 4, 5, 6, 7][..counted.len()]);
    for one in fetched {
        let result = if one.problem.is_some() { "FAILED" } else { "good" };
        let Look { fetched, handled, left, aside, vanished, .. } = one.look;
        let mails = [one.mails.unwrap_or(0)];
        let look = [fetched, handled, left, aside, vanished];
        let counts = if args.check { &mails[..] } else { &look };
        let counts = counts.iter().map(|count| output::count(*count as i64));
        let start = [one.mailbox.clone(), one.address.clone(), result.to_owned()];
        table.row(start.into_iter().chain(counts));
    }
    table.print("")?;
    for one in fetched {
        if let Some(problem) = &one.problem {
            output::say(format!("{}: {problem}", one.mailbox));
        }
    }
    Ok(())
}
