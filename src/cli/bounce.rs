//! `postrider bounce ingest`: returned mail from standard input, as a mail server's pipe delivers
//! it. Ends with the exit codes that such pipes understand (`sysexits.h`): 65 when the mail itself is
//! at fault, 75 when it should come again later. Whatever happens, nothing is mailed back.
//! `postrider bounce explain` (in `explain`) says how a mail is read and does nothing; `list` and
//! `show` (in `received`) say what came in and what was made of it; `replay` reads it again by the
//! rules of today; `fetch` looks into mailboxes.

mod explain;
mod fetch;
mod received;
mod replay;

use std::path::Path;

use tokio::io::BufReader;

use super::{
    Context,
    output::{self, Format, Table},
};
use crate::bounce::intake::pipe::{IngestError, ingest, ingest_mbox};

/// `EX_TEMPFAIL`: the mail should come again later.
const TRY_AGAIN: u8 = 75;

/// What can be done with returned mail.
#[derive(Debug, clap::Subcommand)]
pub(super) enum BounceCommand {
    /// Take in the message on standard input: a bounce, a complaint, an unsubscription
    ///
    /// Exit codes: 0 taken in; 65 the mail is at fault and need not come again; 75 it should come
    /// again later.
    Ingest(IngestArgs),
    /// Say how mails are read, and why so; does nothing, and needs no configuration
    Explain(explain::ExplainArgs),
    /// Look into the configured mailboxes once, and say what came
    Fetch(fetch::FetchArgs),
    /// List the mails that came in, the latest first, and what they did
    List(received::ListArgs),
    /// Show one of them: what was made of it, how it is read today, and its bytes as far as kept
    Show(received::ShowArgs),
    /// Read kept mails again by today's rules, and say (or with --apply do) what newly follows
    Replay(replay::ReplayArgs),
}

/// What `bounce ingest` takes.
#[derive(Debug, clap::Args)]
pub(super) struct IngestArgs {
    /// The address it came to [default: what the mail server noted in the message]
    #[arg(long, value_name = "ADDRESS")]
    recipient: Option<String>,
    /// Standard input is an mbox file, with any number of messages
    #[arg(long)]
    mbox: bool,
    #[command(flatten)]
    format: Format,
}

/// A failure with the exit code that tells a mail server's pipe what to do.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct PipeError {
    message: String,
    /// One of `sysexits.h`.
    pub(super) exit_code: u8,
}

/// Runs the command.
pub(super) async fn run(config: Option<&Path>, command: BounceCommand) -> anyhow::Result<()> {
    let args = match command {
        BounceCommand::Ingest(args) => args,
        BounceCommand::Explain(args) => return explain::run(config, &args),
        BounceCommand::Fetch(args) => return fetch::run(config, &args).await,
        BounceCommand::List(args) => return received::list(config, &args).await,
        BounceCommand::Show(args) => return received::show(config, &args).await,
        BounceCommand::Replay(args) => return replay::run(config, &args).await,
    };
    take_in(config, &args).await.map_err(|error| {
        // Anything but the mail itself (a configuration, a full disk) can be mended, and the mail
        // is not to be lost for it.
        let exit_code = error.downcast_ref().map_or(TRY_AGAIN, IngestError::exit_code);
        PipeError { message: format!("{error:#}"), exit_code }.into()
    })
}

async fn take_in(config: Option<&Path>, args: &IngestArgs) -> anyhow::Result<()> {
    let context = Context::open(config).await?;
    let (db, keyring, rules) = (&context.db, &context.keyring, &context.config.bounces);
    let input = tokio::io::stdin();
    let recipient = args.recipient.as_deref();
    if args.mbox {
        let done = ingest_mbox(db, keyring, rules, BufReader::new(input), recipient).await?;
        if args.format.json {
            output::json(&done)?;
        } else {
            let mut table = Table::new(&["messages", "outcome"]).numbers(&[0]);
            for (outcome, count) in &done.outcomes {
                table.row([output::count(*count as i64).as_str(), outcome]);
            }
            if done.too_large > 0 {
                table.row([output::count(done.too_large as i64).as_str(), "too large to be read"]);
            }
            table.row([output::count(done.messages as i64).as_str(), "in all"]);
            table.print("")?;
        }
    } else {
        let applied = ingest(db, keyring, rules, input, recipient).await?;
        if args.format.json {
            output::json(&serde_json::json!({ "outcome": applied.outcome }))?;
        } else {
            output::line(applied.outcome.as_str())?;
        }
    }
    context.db.close().await;
    Ok(())
}
