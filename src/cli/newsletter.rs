//! `postrider newsletter`: what readers subscribe to, and the seed list that gets every issue first.

use std::path::Path;

use serde::Serialize;

use super::{
    Context,
    context::actor,
    output::{self, Format, Table},
};
use crate::{
    address::Address,
    db::state::SubscriptionState,
    id::SubscriberId,
    newsletter::{self, NewNewsletter, Newsletter, SETTINGS},
    subscriber,
    timestamp::Timestamp,
};

/// How many members of a seed list are shown.
const SEEDS_MAX: u32 = 1_000;

/// What can be done to newsletters.
#[derive(Debug, clap::Subcommand)]
pub(super) enum NewsletterCommand {
    /// Create a newsletter
    Create(Create),
    /// List all newsletters
    List(Format),
    /// Show a newsletter's settings, its readers by state and its seed list
    Show(Show),
    /// Change a setting or the seed list
    #[command(after_help = settings_help())]
    Set(Set),
}

/// What `create` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Create {
    /// Its name in URLs and commands: lower-case letters, digits and hyphens
    slug: String,
    /// Its name for people
    #[arg(long)]
    name: String,
    /// The address it is sent from
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    from: Address,
    /// The name beside that address [default: the newsletter's name]
    #[arg(long, value_name = "NAME")]
    from_name: Option<String>,
    /// Where answers go: a mailbox that people read [default: the from address]
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    reply_to: Option<Address>,
    /// A sentence or two for its public page
    #[arg(long, default_value = "")]
    description: String,
    /// The postal address of whoever sends it, which many laws ask for
    #[arg(long, value_name = "TEXT")]
    postal_address: Option<String>,
    /// The language it is written in, such as en or de-AT
    #[arg(long, value_name = "TAG")]
    language: Option<String>,
    /// An address of the team that gets every issue first; may be repeated
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    seed: Vec<Address>,
}

/// What `show` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// Which newsletter; may be left out when there is only one
    slug: Option<String>,
    #[command(flatten)]
    format: Format,
}

/// What `set` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Set {
    /// Which newsletter
    slug: String,
    /// The setting
    #[arg(value_parser = SETTINGS.to_vec(), requires = "value", hide_possible_values = true,
          required_unless_present_any = ["seed", "remove_seed"])]
    key: Option<String>,
    /// Its new value
    value: Option<String>,
    /// Put this address on the seed list, whose members get every issue first; may be repeated
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    seed: Vec<Address>,
    /// Take this address off the seed list; it stays subscribed; may be repeated
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    remove_seed: Vec<Address>,
}

fn settings_help() -> String {
    format!("Settings: {}", SETTINGS.join(", "))
}

/// An address on the command line; clap adds which argument it was.
pub(super) fn address(text: &str) -> Result<Address, String> {
    Address::parse(text).map_err(|error| error.to_string())
}

/// Runs one of the commands.
pub(super) async fn run(config: Option<&Path>, command: NewsletterCommand) -> anyhow::Result<()> {
    let context = Context::open(config).await?;
    let ran = match command {
        NewsletterCommand::Create(args) => create(&context, args).await,
        NewsletterCommand::List(format) => list(&context, format).await,
        NewsletterCommand::Show(args) => show(&context, args).await,
        NewsletterCommand::Set(args) => set(&context, args).await,
    };
    context.db.close().await;
    ran
}

async fn create(context: &Context, args: Create) -> anyhow::Result<()> {
    let new = NewNewsletter {
        slug: args.slug.clone(),
        name: args.name,
        description: args.description,
        from_address: args.from,
    };
    let newsletter = newsletter::create(&context.db, &new, Timestamp::now()).await?;
    let reply_to = args.reply_to.map(|address| address.as_str().to_owned());
    let further = [
        ("from_name", args.from_name),
        ("reply_to", reply_to),
        ("postal_address", args.postal_address),
        ("language", args.language),
    ];
    for (key, value) in further {
        if let Some(value) = value {
            let change = (key, value.as_str());
            newsletter::set(&context.db, &args.slug, change, &actor(), Timestamp::now()).await?;
        }
    }
    add_seeds(context, &newsletter, &args.seed).await?;
    let page = context.links().newsletter(&newsletter.slug);
    output::say(format!("newsletter `{}` is made; readers sign up at {page}", newsletter.slug));
    if args.seed.is_empty() {
        output::say(format!(
            "next: `postrider newsletter set {} --seed YOU@…` puts your own inbox on the seed list",
            newsletter.slug
        ));
    }
    Ok(())
}

async fn list(context: &Context, format: Format) -> anyhow::Result<()> {
    let mut lines = Vec::new();
    for newsletter in newsletter::list(&context.db).await? {
        let readers = readers(context, &newsletter).await?;
        lines.push(Listed { newsletter, readers });
    }
    if format.json {
        return Ok(output::json(&lines)?);
    }
    let mut table = Table::new(&["slug", "name", "from", "active", "pending"]).numbers(&[3, 4]);
    for Listed { newsletter, readers } in &lines {
        table.row([
            &newsletter.slug,
            &newsletter.name,
            &newsletter.from_address,
            &output::count(readers.active),
            &output::count(readers.pending),
        ]);
    }
    Ok(table.print("there is no newsletter yet; make one with `postrider newsletter create`")?)
}

#[derive(Serialize)]
struct Listed {
    #[serde(flatten)]
    newsletter: Newsletter,
    readers: Readers,
}

/// How many readers a newsletter has.
#[derive(Default, Serialize)]
struct Readers {
    active: i64,
    pending: i64,
    unsubscribed: i64,
    expired: i64,
}

async fn readers(context: &Context, newsletter: &Newsletter) -> anyhow::Result<Readers> {
    let mut readers = Readers::default();
    for (state, count) in subscriber::state_counts(&context.db, newsletter.id).await? {
        match state {
            SubscriptionState::Active => readers.active = count,
            SubscriptionState::Pending => readers.pending = count,
            SubscriptionState::Unsubscribed => readers.unsubscribed = count,
            SubscriptionState::Expired => readers.expired = count,
        }
    }
    Ok(readers)
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    listed: Listed,
    seeds: Vec<String>,
    url: String,
}

async fn show(context: &Context, args: Show) -> anyhow::Result<()> {
    let newsletter = context.newsletter(args.slug.as_deref()).await?;
    let seeds = seeds(context, &newsletter).await?;
    let readers = readers(context, &newsletter).await?;
    let url = context.links().newsletter(&newsletter.slug);
    let shown = Shown { listed: Listed { newsletter, readers }, seeds, url };
    if args.format.json {
        return Ok(output::json(&shown)?);
    }
    let Shown { listed: Listed { newsletter, readers }, seeds, url } = shown;
    let settings = [
        newsletter.name,
        newsletter.description,
        newsletter.from_name,
        newsletter.from_address,
        newsletter.reply_to,
        newsletter.subject_pattern,
        newsletter.language,
        newsletter.postal_address,
        newsletter.accent_color,
    ];
    let mut table = Table::new(&["setting", "value"]);
    table.row(["slug", &newsletter.slug]);
    for (key, value) in SETTINGS.iter().zip(&settings) {
        table.row([*key, value]);
    }
    table.row(["page", &url]);
    table.row(["readers", &describe_readers(&readers)]);
    table.row(["seed list", &if seeds.is_empty() { "-".to_owned() } else { seeds.join(", ") }]);
    Ok(table.print("")?)
}

fn describe_readers(readers: &Readers) -> String {
    format!(
        "{} active, {} pending, {} unsubscribed, {} expired",
        output::count(readers.active),
        output::count(readers.pending),
        output::count(readers.unsubscribed),
        output::count(readers.expired)
    )
}

async fn seeds(context: &Context, newsletter: &Newsletter) -> anyhow::Result<Vec<String>> {
    let filter = subscriber::Filter {
        state: Some(SubscriptionState::Active),
        seed: Some(true),
        ..subscriber::Filter::default()
    };
    let first = SubscriberId(0);
    let members = subscriber::list(&context.db, newsletter.id, &filter, first, SEEDS_MAX).await?;
    Ok(members.into_iter().filter_map(|member| member.address).collect())
}

async fn set(context: &Context, args: Set) -> anyhow::Result<()> {
    let newsletter = context.newsletter(Some(&args.slug)).await?;
    if let (Some(key), Some(value)) = (&args.key, &args.value) {
        let change = (key.as_str(), value.as_str());
        newsletter::set(&context.db, &args.slug, change, &actor(), Timestamp::now()).await?;
        output::say(format!("{}: {key} is now `{}`", args.slug, output::clean(value)));
    }
    add_seeds(context, &newsletter, &args.seed).await?;
    for address in &args.remove_seed {
        let (db, keyring) = (&context.db, &context.keyring);
        let now = Timestamp::now();
        let was = subscriber::remove_seed(db, keyring, &newsletter, address, &actor(), now).await?;
        let what = if was { "is off the seed list; it stays subscribed" } else { "is not on it" };
        output::say(format!("{}: {address} {what}", newsletter.slug));
    }
    Ok(())
}

async fn add_seeds(
    context: &Context,
    newsletter: &Newsletter,
    seeds: &[Address],
) -> anyhow::Result<()> {
    for address in seeds {
        let is_new = subscriber::add_seed(
            &context.db,
            (&context.keyring, &context.providers),
            newsletter,
            address,
            &actor(),
            Timestamp::now(),
        )
        .await?;
        let what = if is_new { "is now on the seed list" } else { "is on the seed list already" };
        output::say(format!("{}: {address} {what}", newsletter.slug));
    }
    Ok(())
}
