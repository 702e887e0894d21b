//! `postrider delivery uncertain` and `resolve`: the final dot of these copies went out and no reply
//! came. An operator says what became of them, or the relay's log does.

mod by_log;

use std::path::PathBuf;

use anyhow::Context as _;
use serde::Serialize;

use self::by_log::ByLog;
use super::edition;
use crate::{
    address::Address,
    cli::{
        Context, Refused,
        context::actor,
        output::{self, Format, Table, say, time_or_dash},
    },
    delivery::{
        control::{self, ControlError, Edition, Resolution},
        uncertain::{self, UncertainCopy},
    },
    id::{CopyId, SubscriberId},
    provider::ProviderId,
    smtp::message::message_id,
    subscriber,
    timestamp::Timestamp,
};

/// Copies that are read at once.
const PAGE: u32 = 500;

/// What `delivery uncertain` takes.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct UncertainArgs {
    /// Of which issue
    #[arg(long, value_name = "NUMBER")]
    issue: i64,
    /// Whose issue that is; not needed when there is only one newsletter
    #[arg(long, value_name = "SLUG")]
    newsletter: Option<String>,
    #[command(flatten)]
    format: Format,
}

/// How copies are settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum As {
    /// They arrived
    Accepted,
    /// They did not: send them again
    Resend,
}

/// What `delivery resolve` takes.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("which").required(true))]
pub(in crate::cli) struct ResolveArgs {
    /// Of which issue
    #[arg(long, value_name = "NUMBER")]
    issue: i64,
    /// Whose issue that is; not needed when there is only one newsletter
    #[arg(long, value_name = "SLUG")]
    newsletter: Option<String>,
    /// The copy to this address
    #[arg(long, value_name = "ADDRESS", group = "which")]
    subscriber: Option<Address>,
    /// Every uncertain copy of the issue
    #[arg(long, group = "which")]
    all: bool,
    /// Those that the log of a Postfix relay knows about, by Message-ID; `-` reads standard input,
    /// several files are read in their order, which must be the oldest first, and those that gzip
    /// compressed are unpacked
    #[arg(long, value_name = "FILE", group = "which", conflicts_with_all = ["how", "reason"])]
    postfix_log: Vec<PathBuf>,
    /// What became of them
    #[arg(long = "as", value_enum, required_unless_present = "postfix_log")]
    how: Option<As>,
    /// How you know, for whoever asks later
    #[arg(long, value_name = "TEXT", required_unless_present = "postfix_log")]
    reason: Option<String>,
    /// Only say what the log settles
    #[arg(long, conflicts_with_all = ["subscriber", "all"])]
    dry_run: bool,
    /// Do not ask before copies are sent again
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    copy: &'a UncertainCopy,
    provider_name: &'a str,
    message_id: String,
}

/// Lists the uncertain copies of an issue.
pub(in crate::cli) async fn list(context: &Context, args: UncertainArgs) -> anyhow::Result<()> {
    let edition = edition(context, args.newsletter.as_deref(), args.issue).await?;
    let copies = all(context, &edition).await?;
    let domain = &context.config.mail.message_id_domain;
    let listed: Vec<_> = copies
        .iter()
        .map(|copy| {
            let id = CopyId::Issue { issue: edition.id, subscriber: copy.subscriber_id };
            Listed {
                copy,
                provider_name: context.providers.name(ProviderId(copy.provider)),
                message_id: message_id(&context.keyring, id, domain),
            }
        })
        .collect();
    if args.format.json {
        return Ok(output::json(&listed)?);
    }
    let mut table =
        Table::new(&["address", "provider", "relay", "since", "Message-ID", "what happened"]);
    for Listed { copy, provider_name, message_id } in &listed {
        table.row([
            copy.address.as_deref().unwrap_or("(erased)"),
            provider_name,
            copy.relay.as_deref().unwrap_or("-"),
            &time_or_dash(copy.since),
            message_id,
            copy.what.as_deref().unwrap_or_default(),
        ]);
    }
    table.print(&format!("no copy of issue {} is uncertain", edition.number))?;
    if !copies.is_empty() {
        say("look for the Message-IDs in the relay's log, then settle each with \
             `postrider delivery resolve`; for a Postfix relay --postfix-log does both");
    }
    Ok(())
}

async fn all(context: &Context, edition: &Edition) -> anyhow::Result<Vec<UncertainCopy>> {
    let mut copies: Vec<UncertainCopy> = Vec::new();
    loop {
        let last = copies.last().map_or(SubscriberId(0), |copy| copy.subscriber_id);
        let page = uncertain::list(&context.db, edition.id, last, PAGE).await?;
        let is_last = page.len() < PAGE as usize;
        copies.extend(page);
        if is_last {
            return Ok(copies);
        }
    }
}

/// Settles uncertain copies.
pub(in crate::cli) async fn resolve(context: &Context, args: ResolveArgs) -> anyhow::Result<()> {
    let edition = edition(context, args.newsletter.as_deref(), args.issue).await?;
    let (Some(how), Some(reason)) = (args.how, &args.reason) else {
        let copies = all(context, &edition).await?;
        let by_log =
            ByLog { files: args.postfix_log, dry_run: args.dry_run, json: args.format.json };
        return by_log::resolve(context, &edition, copies, by_log).await;
    };
    let readers = match &args.subscriber {
        Some(address) => {
            let found = subscriber::find(&context.db, &context.keyring, address).await?;
            vec![found.with_context(|| format!("there is no subscriber {address}"))?.id]
        }
        None => all(context, &edition).await?.iter().map(|copy| copy.subscriber_id).collect(),
    };
    let how = match how {
        As::Accepted => Resolution::Accepted,
        As::Resend => Resolution::Resend,
    };
    if how == Resolution::Resend && !readers.is_empty() {
        let copies = if readers.len() == 1 { "copy" } else { "copies" };
        let question = format!(
            "Send {} {copies} again? Whoever got it after all gets it twice.",
            output::count(readers.len() as i64)
        );
        output::confirm(&question, args.yes)?;
    }
    let actor = actor();
    let mut settled = 0;
    for reader in readers {
        let now = Timestamp::now();
        let done = control::resolve(&context.db, &edition, reader, how, &actor, reason, now);
        let done = done.await.map_err(|error| match error {
            ControlError::Database(_) => anyhow::Error::from(error),
            refused => Refused(refused.to_string()).into(),
        })?;
        settled += i64::from(done);
    }
    let copies = if settled == 1 { "copy" } else { "copies" };
    let what = match how {
        Resolution::Accepted => "settled as accepted",
        Resolution::Resend => "will be sent again",
    };
    if let (0, Some(address)) = (settled, &args.subscriber) {
        let problem = format!(
            "the copy of issue {} to {address} is not uncertain; `postrider delivery uncertain \
             --issue {}` lists those that are",
            edition.number, edition.number
        );
        return Err(Refused(problem).into());
    }
    if args.format.json {
        return Ok(output::json(&serde_json::json!({ "settled": settled }))?);
    }
    say(format!("{} {copies} of issue {}: {what}", output::count(settled), edition.number));
    Ok(())
}
