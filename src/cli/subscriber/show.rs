//! `postrider subscriber show` and `list`.

use serde::Serialize;

use super::known;
use crate::{
    address::Address,
    cli::{
        Context,
        delivery::print_lines,
        output::{self, Format, Table, say, time, time_or_dash},
    },
    db::state::SubscriptionState,
    event,
    id::SubscriberId,
    provider::ProviderId,
    subscriber::{self, Filter, ListedSubscriber, Subscription, consent::Consent, suppression},
};

/// What `subscriber show` takes.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ShowArgs {
    /// Their address
    address: Address,
    /// How many of the latest lines of the log to show
    #[arg(long, default_value_t = 20, value_name = "COUNT")]
    events: u32,
    #[command(flatten)]
    format: Format,
}

/// What `subscriber list` takes.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ListArgs {
    /// Which newsletter; not needed when there is only one
    #[arg(long, value_name = "SLUG")]
    newsletter: Option<String>,
    /// Only those who are pending, active, unsubscribed or expired
    #[arg(long, value_parser = state)]
    state: Option<SubscriptionState>,
    /// Only those whose mailbox this provider runs
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// Only those whose address is suppressed
    #[arg(long, conflicts_with = "not_suppressed")]
    suppressed: bool,
    /// Only those whose address is not suppressed
    #[arg(long)]
    not_suppressed: bool,
    /// Only the seed list, which gets every issue first
    #[arg(long)]
    seed: bool,
    /// Only addresses that contain this
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 100, value_name = "COUNT",
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// Go on after this subscriber's number, as the list before said
    #[arg(long, default_value_t = 0, value_name = "NUMBER")]
    after: i64,
    #[command(flatten)]
    format: Format,
}

fn state(word: &str) -> Result<SubscriptionState, String> {
    SubscriptionState::by_name(word)
        .ok_or_else(|| "one of pending, active, unsubscribed, expired".to_owned())
}

/// Prints one person.
pub(in crate::cli) async fn show(context: &Context, args: ShowArgs) -> anyhow::Result<()> {
    let db = &context.db;
    let suppression = suppression::find(db, &context.keyring, &args.address).await?;
    let person = match known(context, &args.address).await {
        Ok(person) => person,
        Err(unknown) => {
            let Some(suppression) = suppression else { return Err(unknown) };
            // Nobody we know, and yet an address that is never mailed.
            if args.format.json {
                return Ok(output::json(&serde_json::json!({ "suppression": suppression }))?);
            }
            return Ok(output::line(suppressed_in_words(&args.address, &suppression))?);
        }
    };
    if args.format.json {
        return Ok(output::json(&subscriber::own_data(db, person.id).await?)?);
    }
    let provider = context.providers.name(ProviderId(person.provider));
    output::line(format!("{}  ({provider})", person.address.as_deref().unwrap_or("erased")))?;
    if let Some(name) = &person.name {
        output::line(format!("name      {}", output::clean(name)))?;
    }
    if let Some(attributes) = &person.attributes {
        output::line(format!("also      {}", output::clean(attributes)))?;
    }
    output::line(format!("known     since {}", time(person.created_at)))?;
    match &suppression {
        Some(found) => output::line(suppressed_in_words(&args.address, found))?,
        None => output::line("mailed    yes, where subscribed")?,
    }
    heading("Subscriptions")?;
    print_subscriptions(&subscriber::subscriptions(db, person.id).await?)?;
    heading("Consent")?;
    print_consent(&subscriber::consent::of(db, person.id).await?)?;
    heading("Log")?;
    let filter = event::Filter { subscriber: Some(person.id), ..event::Filter::default() };
    let (mut lines, _) = crate::report::latest_lines(db, &filter, args.events).await?;
    lines.reverse();
    if lines.is_empty() {
        say("nothing happened yet");
    }
    print_lines(&context.providers, &lines, false)
}

fn heading(text: &str) -> std::io::Result<()> {
    output::line(format!("\n{text}"))
}

fn suppressed_in_words(address: &Address, found: &suppression::Suppression) -> String {
    let detail = if found.detail.is_empty() {
        String::new()
    } else {
        format!(": {}", output::clean(&found.detail))
    };
    format!(
        "mailed    never: {address} is suppressed since {} ({}){detail}",
        time(found.created_at),
        found.reason
    )
}

fn print_subscriptions(subscriptions: &[Subscription]) -> std::io::Result<()> {
    let mut table = Table::new(&[
        "newsletter",
        "state",
        "signed up",
        "confirmed",
        "ended",
        "why",
        "pause until",
    ]);
    for found in subscriptions {
        let seed = if found.seed { " (seed list)" } else { "" };
        table.row([
            found.newsletter.clone(),
            format!("{}{seed}", found.state),
            time(found.created_at),
            time_or_dash(found.confirmed_at),
            time_or_dash(found.ended_at),
            found.end_reason.clone().unwrap_or_else(|| "-".to_owned()),
            time_or_dash(found.paused_until),
        ]);
    }
    table.print("none")
}

fn print_consent(records: &[Consent]) -> std::io::Result<()> {
    let mut table = Table::new(&["at", "newsletter", "what", "from", "evidence"]);
    for record in records {
        let evidence = [&record.source, &record.form, &record.user_agent, &record.message_id];
        let evidence: Vec<&str> = evidence.into_iter().flatten().map(String::as_str).collect();
        table.row([
            time(record.at).as_str(),
            &record.newsletter,
            &record.kind,
            record.ip.as_deref().unwrap_or("-"),
            &evidence.join("; "),
        ]);
    }
    table.print("none")
}

/// A listed subscriber, for programs.
#[derive(Serialize)]
struct Listed<'a> {
    #[serde(flatten)]
    subscriber: &'a ListedSubscriber,
    provider_name: &'a str,
}

/// Prints a page of subscribers.
pub(in crate::cli) async fn list(context: &Context, args: ListArgs) -> anyhow::Result<()> {
    let newsletter = context.newsletter(args.newsletter.as_deref()).await?;
    let provider = match &args.provider {
        Some(name) => Some(super::super::delivery::provider(context, name)?.0),
        None => None,
    };
    let filter = Filter {
        state: args.state,
        provider,
        suppressed: match (args.suppressed, args.not_suppressed) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        },
        seed: args.seed.then_some(true),
        address_contains: args.search,
    };
    let after = SubscriberId(args.after);
    let mut page =
        subscriber::list(&context.db, newsletter.id, &filter, after, args.limit + 1).await?;
    let more = page.len() > args.limit as usize;
    page.truncate(args.limit as usize);
    let provider = |found: &ListedSubscriber| context.providers.name(ProviderId(found.provider));
    if args.format.json {
        let listed: Vec<_> = page
            .iter()
            .map(|found| Listed { subscriber: found, provider_name: provider(found) })
            .collect();
        output::json(&listed)?;
    } else {
        let headings = ["address", "name", "state", "provider", "since", "suppressed"];
        let mut table = Table::new(&headings);
        for found in &page {
            let since = match found.state {
                SubscriptionState::Active => found.confirmed_at,
                SubscriptionState::Pending => Some(found.created_at),
                _ => found.ended_at,
            };
            table.row([
                found.address.as_deref().unwrap_or("(erased)"),
                found.name.as_deref().unwrap_or_default(),
                &format!("{}{}", found.state, if found.seed { ", seed" } else { "" }),
                provider(found),
                &time_or_dash(since),
                found.suppressed.as_deref().unwrap_or_default(),
            ]);
        }
        table.print("nobody")?;
    }
    if let (true, Some(last)) = (more, page.last()) {
        say(format!("there are more: --after {} goes on, --limit shows more at once", last.id));
    }
    Ok(())
}
