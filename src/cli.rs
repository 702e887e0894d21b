//! The command line: one file a noun, one function a verb. Commands call the domain and print; what
//! they print for programs (`--json`, lists) goes to standard output, what they say to people while
//! they work goes to standard error.
//!
//! Exit codes: 0 done; 1 it failed, and standard error says why; 2 the command line is wrong;
//! 3 refused, because lint found errors or a check did not hold.

mod backup;
mod bounce;
pub mod context;
mod delivery;
mod doctor;
mod init;
mod issue;
mod migrate;
mod moment;
mod newsletter;
pub mod output;
mod password;
mod relay;
mod rules;
mod serve;
mod subscriber;
mod user;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

pub use context::Context;

/// Newsletter delivery that can say what happened to every single copy.
#[derive(Debug, Parser)]
#[command(name = "postrider", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Arguments {
    /// The configuration file [default: config.toml, if there is one; else built-in defaults]
    #[arg(long, short, global = true, value_name = "FILE", env = "POSTRIDER_CONFIG")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed; 2 wrong command line; 3 refused (lint errors, \
                          a check that does not hold)";

#[derive(Debug, Subcommand)]
enum Command {
    /// Show everything at once, on this machine alone
    Demo(crate::demo::DemoArgs),
    /// Set up an installation: configuration, key file, database, a first user
    Init(init::InitArgs),
    /// Run the daemon: pages, delivery, bounce intake
    Serve(serve::ServeArgs),
    /// Look for what is wrong or missing in an installation
    Doctor(doctor::DoctorArgs),
    /// Create, list, show and change newsletters and their seed lists
    #[command(subcommand)]
    Newsletter(newsletter::NewsletterCommand),
    /// Write, check, send and follow issues
    #[command(subcommand)]
    Issue(issue::IssueCommand),
    /// Play a send against a sink that misbehaves, on a copy of the data, and say what it would do
    Rehearse(issue::RehearseArgs),
    /// Add, show, import, export, suppress and erase subscribers
    #[command(subcommand)]
    Subscriber(subscriber::SubscriberCommand),
    /// Read the delivery log; settle copies whose fate is not known
    #[command(subcommand)]
    Delivery(delivery::DeliveryCommand),
    /// List, check, suspend and resume the servers mail is handed to
    #[command(subcommand)]
    Relay(relay::RelayCommand),
    /// Explain how replies of servers are read
    #[command(subcommand)]
    Rules(rules::RulesCommand),
    /// Take in returned mail
    #[command(subcommand)]
    Bounce(bounce::BounceCommand),
    /// Manage who may log in to the operators' pages
    #[command(subcommand)]
    User(user::UserCommand),
    /// Write a copy of the database, while the daemon runs or not
    Backup(backup::BackupArgs),
    /// Put a backup in the place of the database; no send goes on by itself
    Restore(backup::RestoreArgs),
    /// Bring the database's schema up to date, as every command does
    Migrate(migrate::MigrateArgs),
    /// Run the built-in mailbox and fault-injecting SMTP server alone
    Sink(crate::sink::cli::SinkArgs),
    /// Measure how fast mail gets out
    Bench(crate::bench::BenchArgs),
}

/// A command that was understood and refused: exit code 3.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: the runtime cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(arguments)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            exit_code(&error)
        }
    }
}

fn exit_code(error: &anyhow::Error) -> ExitCode {
    if error.is::<Refused>() {
        ExitCode::from(3)
    } else if let Some(pipe) = error.downcast_ref::<bounce::PipeError>() {
        ExitCode::from(pipe.exit_code)
    } else {
        ExitCode::FAILURE
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let config = arguments.config.as_deref();
    match arguments.command {
        Command::Demo(args) => crate::demo::run(args).await,
        Command::Init(args) => init::run(config, args).await,
        Command::Serve(args) => serve::run(config, args).await,
        Command::Doctor(args) => doctor::run(config, args).await,
        Command::Newsletter(command) => newsletter::run(config, command).await,
        Command::Issue(command) => issue::run(config, command).await,
        Command::Rehearse(args) => issue::rehearse(config, args).await,
        Command::Subscriber(command) => subscriber::run(config, command).await,
        Command::Delivery(command) => delivery::run(config, command).await,
        Command::Relay(command) => relay::run(config, command).await,
        Command::Rules(command) => rules::run(config, command),
        Command::Bounce(command) => bounce::run(config, command).await,
        Command::User(command) => user::run(config, command).await,
        Command::Backup(args) => backup::backup(config, args).await,
        Command::Restore(args) => backup::restore(config, args).await,
        Command::Migrate(args) => migrate::run(config, args).await,
        Command::Sink(args) => crate::sink::cli::run(args),
        Command::Bench(args) => crate::bench::run(args).await,
    }
}

/// Whether the reader of our output went away: `| head` is no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}
