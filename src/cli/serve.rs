//! `postrider serve`: the daemon, until Ctrl-C or SIGTERM.

use std::path::Path;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use super::context::load_config;
use crate::{app::Daemon, telemetry};

/// What `serve` takes.
#[derive(Debug, clap::Args)]
pub(super) struct ServeArgs {}

/// Runs the daemon until it is told to stop.
pub(super) async fn run(config: Option<&Path>, _args: ServeArgs) -> anyhow::Result<()> {
    let config = load_config(config)?;
    telemetry::init(config.log.format, &config.log.filter)?;
    let daemon = Daemon::start(config).await?;
    daemon.announce();
    wait_for_stop().await?;
    // A second Ctrl-C is for those who cannot wait: the journal keeps what is under way.
    tokio::select! {
        () = daemon.stop() => Ok(()),
        stopped = wait_for_stop() => {
            stopped?;
            anyhow::bail!("stopped before the copies under way were finished")
        }
    }
}

/// Returns at the next SIGINT or SIGTERM.
async fn wait_for_stop() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be awaited")?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted.context("Ctrl-C cannot be awaited"),
        _ = terminate.recv() => Ok(()),
    }
}
