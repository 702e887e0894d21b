//! `postrider delivery`: the delivery log, and copies whose fate is not known.

mod log;
mod uncertain;

use std::path::Path;

use anyhow::Context as _;
use clap::Subcommand;

pub(super) use log::print_lines;

use super::Context;
use crate::{
    delivery::control::{self, ControlError, Edition},
    provider::ProviderId,
};

/// What can be asked and done about deliveries.
#[derive(Debug, Subcommand)]
pub(super) enum DeliveryCommand {
    /// Show what happened to copies, the latest last; --follow goes on
    Log(log::LogArgs),
    /// List the copies of an issue whose fate is not known
    Uncertain(uncertain::UncertainArgs),
    /// Say what became of uncertain copies, or send them again
    Resolve(uncertain::ResolveArgs),
}

/// Runs one of the commands.
pub(super) async fn run(config: Option<&Path>, command: DeliveryCommand) -> anyhow::Result<()> {
    let context = Context::open(config).await?;
    match command {
        DeliveryCommand::Log(args) => log::run(&context, args).await?,
        DeliveryCommand::Uncertain(args) => uncertain::list(&context, args).await?,
        DeliveryCommand::Resolve(args) => uncertain::resolve(&context, args).await?,
    }
    context.db.close().await;
    Ok(())
}

/// The provider of this name, or an error that lists those there are.
pub(super) fn provider(context: &Context, name: &str) -> anyhow::Result<ProviderId> {
    context.providers.by_name(name).with_context(|| {
        let known: Vec<_> = context.providers.iter().map(|known| known.name.as_str()).collect();
        format!("there is no provider `{name}`; those are: {}", known.join(", "))
    })
}

/// The issue with this number.
async fn edition(
    context: &Context,
    newsletter: Option<&str>,
    number: i64,
) -> anyhow::Result<Edition> {
    let newsletter = context.newsletter(newsletter).await?;
    let found = control::find(&context.db, newsletter.id, number).await?;
    Ok(found.ok_or(ControlError::Unknown(number))?)
}
