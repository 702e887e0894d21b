//! `postrider migrate`: the schema, brought up to date without doing anything else.

use std::path::Path;

use super::{Context, output::say};

/// What `migrate` takes.
#[derive(Debug, clap::Args)]
pub(super) struct MigrateArgs {}

/// Opens the database, which brings it up to date.
pub(super) async fn run(config: Option<&Path>, _args: MigrateArgs) -> anyhow::Result<()> {
    let context = Context::open(config).await?;
    let steps = context.db.schema_steps().await?;
    let file = context.config.database_file();
    say(format!("{} is up to date (schema step {steps})", file.display()));
    context.db.close().await;
    Ok(())
}
