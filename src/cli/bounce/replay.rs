//! `postrider bounce replay`: kept mails and events, read again by the rules of today.

use std::path::Path;

use anyhow::ensure;

use crate::{
    bounce::apply::{self, Replayed, Selection},
    cli::{
        Context, moment,
        output::{self, Format, Table},
    },
    timestamp::Timestamp,
};

/// What `bounce replay` takes.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ReplayArgs {
    /// The mails' numbers, as the list shows them
    #[arg(value_name = "MAIL")]
    ids: Vec<i64>,
    /// All of this kind, such as failed or complaint
    #[arg(long, value_name = "KIND", conflicts_with = "ids")]
    kind: Option<String>,
    /// All that came since then: 90m or 2d ago, or a time
    #[arg(long, value_name = "TIME", value_parser = moment::past, conflicts_with = "ids")]
    since: Option<Timestamp>,
    /// Do what newly follows, instead of only saying it
    #[arg(long)]
    apply: bool,
    #[command(flatten)]
    format: Format,
}

/// Runs the command.
pub(super) async fn run(config: Option<&Path>, args: &ReplayArgs) -> anyhow::Result<()> {
    ensure!(
        !args.ids.is_empty() || args.kind.is_some() || args.since.is_some(),
        "say which mails: by their numbers, by --kind, or by --since"
    );
    let context = Context::open(config).await?;
    let selection = Selection {
        ids: args.ids.clone(),
        kind: args.kind.clone().unwrap_or_default(),
        since: args.since.unwrap_or_default(),
    };
    let ids = apply::select(&context.db, &selection).await?;
    let (keyring, rules) = (&context.keyring, &context.config.bounces);
    let mut read = Vec::new();
    for id in &ids {
        let now = Timestamp::now();
        let replayed = apply::replay(&context.db, keyring, rules, *id, args.apply, now).await?;
        read.extend(replayed);
    }
    context.db.close().await;
    let changed: Vec<&Replayed> = read.iter().filter(|one| one.changes).collect();
    if args.format.json {
        output::json(&changed)?;
    } else {
        print(&changed)?;
    }
    let done = if args.apply { "changed" } else { "would change; --apply does it" };
    output::say(format!(
        "{} read again, {} {done}",
        output::counted(read.len() as i64, "mail"),
        changed.len()
    ));
    let missing = args.ids.iter().filter(|id| !ids.contains(id)).count();
    ensure!(missing == 0, "{} not kept any more", output::counted(missing as i64, "mail"));
    Ok(())
}

fn print(changed: &[&Replayed]) -> anyhow::Result<()> {
    let mut table = Table::new(&["mail", "was", "is", "did", "does", "class"]).numbers(&[0]);
    for one in changed {
        table.row([
            one.id.to_string().as_str(),
            &one.kind_before,
            &one.kind,
            &one.effect_before,
            &one.effect,
            one.class.as_deref().unwrap_or("-"),
        ]);
    }
    table.print("nothing is read otherwise than when it came")?;
    Ok(())
}
