//! `postrider subscriber`: people, one by one and in files. Every act on a person goes into the audit
//! log with the name of whoever runs the command.

mod import;
mod show;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Subcommand;

use super::{
    Context, Refused,
    context::actor,
    output::{self, say},
};
use crate::{
    address::Address,
    audit::Act,
    subscriber::{
        self, Origin, SignUp, SignUpOutcome, Silence, Subscriber,
        suppression::{self, Reason},
    },
    timestamp::Timestamp,
};

/// What can be done with subscribers.
#[derive(Debug, Subcommand)]
pub(super) enum SubscriberCommand {
    /// Subscribe one person: they are asked to confirm, unless they have already
    Add(AddArgs),
    /// Show one person: subscriptions, consent, suppression, what happened to their mail
    Show(show::ShowArgs),
    /// List the subscribers of a newsletter
    List(show::ListArgs),
    /// Import a CSV file of people who gave their consent elsewhere
    Import(import::ImportArgs),
    /// Write the subscribers of a newsletter as CSV
    Export(ExportArgs),
    /// Never mail an address again, whatever it subscribes to
    Suppress(SuppressArgs),
    /// Lift a suppression
    Unsuppress(UnsuppressArgs),
    /// Erase a person: what is left is a keyed hash, so that they stay unmailed
    Erase(EraseArgs),
}

/// What `subscriber add` takes.
#[derive(Debug, clap::Args)]
pub(super) struct AddArgs {
    /// Their address
    address: Address,
    /// Which newsletter; not needed when there is only one
    #[arg(long, value_name = "SLUG")]
    newsletter: Option<String>,
    /// Where and how they asked for it; kept as evidence
    #[arg(long, value_name = "TEXT")]
    consent_source: String,
    /// Their name
    #[arg(long)]
    name: Option<String>,
    /// They have confirmed already, as the consent source says: mail them without asking again
    #[arg(long)]
    confirmed: bool,
}

/// What `subscriber export` takes.
#[derive(Debug, clap::Args)]
pub(super) struct ExportArgs {
    /// Which newsletter; not needed when there is only one
    #[arg(long, value_name = "SLUG")]
    newsletter: Option<String>,
    /// The file to write, which must not be there yet [default: standard output]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// What `subscriber suppress` takes.
#[derive(Debug, clap::Args)]
pub(super) struct SuppressArgs {
    /// The address
    address: Address,
    /// Why, for whoever asks later
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// What `subscriber unsuppress` takes.
#[derive(Debug, clap::Args)]
pub(super) struct UnsuppressArgs {
    /// The address
    address: Address,
    /// Why, for whoever asks later
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// What `subscriber erase` takes.
#[derive(Debug, clap::Args)]
pub(super) struct EraseArgs {
    /// Their address
    address: Address,
    /// Do not ask
    #[arg(long)]
    yes: bool,
}

/// Runs one of the commands.
pub(super) async fn run(config: Option<&Path>, command: SubscriberCommand) -> anyhow::Result<()> {
    let context = Context::open(config).await?;
    match command {
        SubscriberCommand::Add(args) => add(&context, args).await?,
        SubscriberCommand::Show(args) => show::show(&context, args).await?,
        SubscriberCommand::List(args) => show::list(&context, args).await?,
        SubscriberCommand::Import(args) => import::run(&context, args).await?,
        SubscriberCommand::Export(args) => export(&context, args).await?,
        SubscriberCommand::Suppress(args) => suppress(&context, args).await?,
        SubscriberCommand::Unsuppress(args) => unsuppress(&context, args).await?,
        SubscriberCommand::Erase(args) => erase(&context, args).await?,
    }
    context.db.close().await;
    Ok(())
}

/// The person with this address, or an error that says so.
async fn known(context: &Context, address: &Address) -> anyhow::Result<Subscriber> {
    subscriber::find(&context.db, &context.keyring, address)
        .await?
        .with_context(|| format!("there is no subscriber {address}"))
}

async fn add(context: &Context, args: AddArgs) -> anyhow::Result<()> {
    let newsletter = context.newsletter(args.newsletter.as_deref()).await?;
    anyhow::ensure!(
        !args.consent_source.trim().is_empty(),
        "say with --consent-source where they asked for it: it is kept as evidence"
    );
    if args.confirmed {
        import::one(context, &newsletter, &args).await?;
        say(format!("{} is subscribed to {}", args.address, newsletter.name));
        return Ok(());
    }
    let origin = Origin::new(
        None,
        Some(&format!("postrider subscriber add ({})", actor())),
        Some(args.consent_source),
    );
    let request = SignUp { newsletter: newsletter.id, address: args.address.clone(), origin };
    let (db, rules) = (&context.db, &context.config.signup);
    let (keyring, providers) = (&context.keyring, &context.providers);
    let outcome =
        subscriber::sign_up(db, keyring, providers, rules, &request, Timestamp::now()).await?;
    let address = &args.address;
    let refused = |why: String| Err(Refused(why).into());
    match outcome {
        SignUpOutcome::ConfirmationQueued => {
            if let Some(name) = &args.name {
                let person = known(context, address).await?;
                subscriber::set_name(db, person.id, name).await?;
            }
            say(format!(
                "{address} is asked to confirm; the mail leaves as soon as the daemon runs"
            ));
            Ok(())
        }
        SignUpOutcome::AlreadySubscribedQueued => {
            say(format!("{address} has {} already", newsletter.name));
            Ok(())
        }
        SignUpOutcome::Nothing(Silence::Pause | Silence::AddressCap) => refused(format!(
            "{address} was asked to confirm less than a day ago; one mail a day is what they get"
        )),
        SignUpOutcome::Nothing(Silence::Suppressed(reason)) => refused(format!(
            "{address} is suppressed ({reason}) and stays so; `postrider subscriber show \
             {address}` says why, `subscriber unsuppress` lifts it"
        )),
    }
}

async fn export(context: &Context, args: ExportArgs) -> anyhow::Result<()> {
    let newsletter = context.newsletter(args.newsletter.as_deref()).await?;
    let count = match &args.output {
        None => {
            subscriber::export_csv(&context.db, newsletter.id, &mut tokio::io::stdout()).await?
        }
        Some(path) => {
            let mut file = tokio::fs::File::options()
                .create_new(true)
                .write(true)
                .mode(0o600)
                .open(path)
                .await
                .with_context(|| format!("cannot make {}", path.display()))?;
            let count = subscriber::export_csv(&context.db, newsletter.id, &mut file).await?;
            file.sync_all().await?;
            count
        }
    };
    say(format!("{} of {}", output::counted(count as i64, "subscriber"), newsletter.name));
    Ok(())
}

async fn suppress(context: &Context, args: SuppressArgs) -> anyhow::Result<()> {
    let address = &args.address;
    let actor = actor();
    // The audit log outlives an erasure, so it does not name anybody.
    let target = address.redacted().to_string();
    let act =
        Act { actor: &actor, action: "subscriber.suppress", target: &target, detail: &args.reason };
    let now = Timestamp::now();
    let (db, keyring) = (&context.db, &context.keyring);
    if suppression::suppress(db, keyring, address, Reason::Manual, act, now).await? {
        say(format!("{address} is not mailed any more"));
    } else {
        let standing = suppression::find(db, keyring, address).await?;
        let reason = standing.map_or_else(|| "unknown".to_owned(), |found| found.reason);
        say(format!("{address} was suppressed before ({reason}); nothing changed"));
    }
    Ok(())
}

async fn unsuppress(context: &Context, args: UnsuppressArgs) -> anyhow::Result<()> {
    let address = &args.address;
    let actor = actor();
    let target = address.redacted().to_string();
    let act = Act {
        actor: &actor,
        action: "subscriber.unsuppress",
        target: &target,
        detail: &args.reason,
    };
    let lifted =
        suppression::unsuppress(&context.db, &context.keyring, address, act, Timestamp::now())
            .await?;
    match lifted {
        Some(reason) => say(format!("{address} may be mailed again (was: {reason})")),
        None => say(format!("{address} was not suppressed; nothing changed")),
    }
    Ok(())
}

async fn erase(context: &Context, args: EraseArgs) -> anyhow::Result<()> {
    let person = known(context, &args.address).await?;
    let question = format!(
        "Erase everything about {}? This cannot be undone, and a backup made before still has it.",
        args.address
    );
    output::confirm(&question, args.yes)?;
    let actor = actor();
    let target = format!("subscriber {}", person.id);
    let act = Act { actor: &actor, action: "subscriber.erase", target: &target, detail: "" };
    subscriber::erase(&context.db, &context.keyring, person.id, act, Timestamp::now()).await?;
    say(format!("{} is erased, and is not mailed again", args.address));
    Ok(())
}
