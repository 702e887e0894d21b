//! `postrider bounce list` and `show`: mails that came in during the last 30 days, and what was made
//! of them.

use std::{
    io::{self, Write as _},
    path::Path,
};

use anyhow::Context as _;
use serde::Serialize;

use super::explain::in_words;
use crate::{
    bounce::{
        apply::{self, Received},
        explain::{Explanation, explain, explain_event},
        intake::webhook,
        report,
    },
    cli::{
        Context,
        output::{self, Format, Table, clean},
    },
};

/// What `bounce list` takes.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ListArgs {
    /// Only this kind, such as failed, complaint or unsubscribe
    #[arg(long, value_name = "KIND", default_value = "", hide_default_value = true)]
    kind: String,
    /// Only what had this effect, such as suppressed, counted or unattributed
    #[arg(long, value_name = "EFFECT", default_value = "", hide_default_value = true)]
    effect: String,
    /// How many
    #[arg(long, value_name = "COUNT", default_value_t = 50)]
    limit: u32,
    #[command(flatten)]
    format: Format,
}

/// What `bounce show` takes.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ShowArgs {
    /// The mail's number, as the list shows it
    id: i64,
    /// Print its bytes and nothing else
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    format: Format,
}

/// Lists what came in.
pub(super) async fn list(config: Option<&Path>, args: &ListArgs) -> anyhow::Result<()> {
    let context = Context::open(config).await?;
    let received = apply::list(&context.db, &args.kind, &args.effect, args.limit).await?;
    context.db.close().await;
    if args.format.json {
        return Ok(output::json(&received)?);
    }
    let headings = ["mail", "received", "kind", "effect", "issue", "reader", "came to"];
    let mut table = Table::new(&headings).numbers(&[0]);
    for mail in &received {
        let number = |id: Option<i64>| id.map_or_else(|| "-".to_owned(), |id| id.to_string());
        table.row([
            mail.id.to_string(),
            output::time(mail.received_at),
            mail.kind.clone(),
            mail.effect.clone(),
            number(mail.issue_id.map(|id| id.0)),
            number(mail.subscriber_id.map(|id| id.0)),
            mail.rcpt_to.clone(),
        ]);
    }
    table.print("nothing came in")?;
    Ok(())
}

/// A mail with how it is read today.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    received: &'a Received,
    today: Explanation,
}

/// Shows one mail.
pub(super) async fn show(config: Option<&Path>, args: &ShowArgs) -> anyhow::Result<()> {
    let context = Context::open(config).await?;
    let found = apply::show(&context.db, args.id).await?;
    context.db.close().await;
    let (received, raw) = found
        .with_context(|| format!("there is no mail {}; they are kept for 30 days", args.id))?;
    if args.raw {
        return Ok(io::stdout().lock().write_all(&raw)?);
    }
    let recipient = Some(received.rcpt_to.as_str()).filter(|address| !address.is_empty());
    let today = match apply::provider_of(&received.source) {
        Some(provider) => webhook::read(provider, &raw)?
            .first()
            .map(|event| explain_event(provider, event, &context.providers))
            .with_context(|| format!("nothing is kept of event {}", received.id))?,
        None => explain(&report::read(&raw, recipient)?, &context.providers),
    };
    if args.format.json {
        return Ok(output::json(&Shown { received: &received, today })?);
    }
    output::line(format!(
        "received:  {} over {}",
        output::time(received.received_at),
        received.source
    ))?;
    output::line(clean(&format!("came to:   {}", received.rcpt_to)))?;
    output::line(format!("was taken: for {}; effect: {}", received.kind, received.effect))?;
    output::line(format!("kept:      {}", output::bytes(received.octets.unsigned_abs())))?;
    output::line("today it is read so:")?;
    for line in in_words(&today) {
        output::line(format!("  {}", clean(&line)))?;
    }
    Ok(())
}
