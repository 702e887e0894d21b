//! `postrider relay`: the servers mail is handed to. What the running daemon knows about them is read
//! from the state that it publishes; `check` asks the servers themselves.

use std::{path::Path, time::Duration};

use clap::Subcommand;
use futures_util::future::join_all;
use serde::Serialize;

use super::{
    Context, Refused,
    context::{actor, load_config},
    output::{self, Format, Table, say, time},
};
use crate::{
    app::relay_to,
    config::{Config, Relay, RelayKind, RelayTls},
    delivery::{
        relay,
        status::{self, BreakerState, RelayState},
        suspension::{self, Suspension},
    },
    smtp::client::Capabilities,
    timestamp::Timestamp,
};

/// How long each step of a check may take: somebody is waiting.
const CHECK_STEP_MAX: Duration = Duration::from_secs(10);
/// How long a check may take in all.
const CHECK_MAX: Duration = Duration::from_secs(30);

/// All that can be said of a relay that has a server for each domain.
const DNS: &str = "DNS answers";

/// What can be asked and done about relays.
#[derive(Debug, Subcommand)]
pub(super) enum RelayCommand {
    /// List the relays and how they are
    List(Format),
    /// Connect to the relays and log in, without sending any mail
    Check(CheckArgs),
    /// Keep mail away from a relay
    Suspend(SuspendArgs),
    /// Let mail go to a relay again
    Resume(ResumeArgs),
}

/// What `relay check` takes.
#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// Only this one
    name: Option<String>,
    #[command(flatten)]
    format: Format,
}

/// What `relay suspend` takes.
#[derive(Debug, clap::Args)]
pub(super) struct SuspendArgs {
    /// Which one
    name: String,
    /// Why, for whoever asks later
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

/// What `relay resume` takes.
#[derive(Debug, clap::Args)]
pub(super) struct ResumeArgs {
    /// Which one
    name: String,
    /// Why, for whoever asks later
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

/// Runs one of the commands.
pub(super) async fn run(config: Option<&Path>, command: RelayCommand) -> anyhow::Result<()> {
    if let RelayCommand::Check(args) = command {
        // Needs no data, and must work before there is any.
        return check(&load_config(config)?, args).await;
    }
    let context = Context::open(config).await?;
    match command {
        RelayCommand::List(format) => list(&context, format).await?,
        RelayCommand::Suspend(args) => suspend(&context, args).await?,
        RelayCommand::Resume(args) => resume(&context, args).await?,
        RelayCommand::Check(_) => {}
    }
    context.db.close().await;
    Ok(())
}

/// The relays that a daemon with this configuration uses: the built-in mailbox, when there is none.
pub(super) fn relays(config: &Config) -> Vec<Relay> {
    if config.relay.is_empty() {
        vec![relay_to(config.mailbox.smtp_listen)]
    } else {
        config.relay.clone()
    }
}

#[derive(Serialize)]
struct Listed {
    name: String,
    kind: RelayKind,
    address: String,
    tls: RelayTls,
    priority: u32,
    weight: f64,
    connections: u32,
    per_second: Option<f64>,
    /// What the running daemon last found; none when no daemon runs.
    state: Option<RelayState>,
    suspension: Option<Suspension>,
}

async fn list(context: &Context, format: Format) -> anyhow::Result<()> {
    let engine = status::read(&context.db).await?;
    let suspensions = suspension::list(&context.db).await?;
    let listed: Vec<Listed> = relays(&context.config)
        .into_iter()
        .map(|relay| Listed {
            state: engine
                .as_ref()
                .and_then(|engine| engine.relays.iter().find(|state| state.name == relay.name))
                .cloned(),
            suspension: suspensions.iter().find(|found| found.relay == relay.name).cloned(),
            kind: relay.kind,
            address: relay.address(),
            name: relay.name,
            tls: relay.tls,
            priority: relay.priority,
            weight: relay.weight,
            connections: relay.connections,
            per_second: relay.per_second,
        })
        .collect();
    if format.json {
        return Ok(output::json(&listed)?);
    }
    let headings = [
        "name",
        "address",
        "tls",
        "priority",
        "weight",
        "connections",
        "per second",
        "state",
        "limited by",
    ];
    let mut table = Table::new(&headings).numbers(&[3, 4, 5, 6]);
    for relay in &listed {
        let limited_by = relay.state.as_ref().map(|state| state.limited_by.as_str());
        table.row([
            relay.name.clone(),
            relay.address.clone(),
            tls(relay.tls).to_owned(),
            relay.priority.to_string(),
            relay.weight.to_string(),
            relay.connections.to_string(),
            relay.per_second.map_or_else(|| "-".to_owned(), |rate| rate.to_string()),
            in_words(relay),
            limited_by.unwrap_or("-").to_owned(),
        ]);
    }
    table.print("")?;
    for relay in &listed {
        let breakers = relay.state.iter().flat_map(|state| &state.breakers);
        let direct = relay.state.iter().filter_map(|state| state.direct.as_ref());
        for direct in direct {
            let (known, sessions) = (direct.destinations, direct.sessions);
            say(format!("{}: {known} destinations, {sessions} sessions", relay.name));
            for destination in &direct.troubled {
                say(format!("{}: {}", relay.name, destination.describe()));
            }
            if direct.in_trouble > direct.troubled.len() {
                let more = direct.in_trouble - direct.troubled.len();
                say(format!("{}: {more} more destinations get less than they could", relay.name));
            }
        }
        for breaker in breakers.filter(|breaker| breaker.is_notable()) {
            say(format!("{}: {}", relay.name, breaker.describe()));
        }
    }
    match engine {
        Some(engine) => say(format!("what holds mail back now: {}", engine.limited_by)),
        None => say("no daemon runs; `postrider relay check` asks the servers themselves"),
    }
    Ok(())
}

const fn tls(mode: RelayTls) -> &'static str {
    match mode {
        RelayTls::None => "none",
        RelayTls::Starttls => "starttls",
        RelayTls::Implicit => "implicit",
        RelayTls::Opportunistic => "opportunistic",
    }
}

fn in_words(relay: &Listed) -> String {
    if let Some(found) = &relay.suspension {
        return format!("suspended by {} since {}: {}", found.by, time(found.since), found.reason);
    }
    match &relay.state {
        None => "not known".to_owned(),
        Some(state) if state.good => {
            state.breaker().map_or_else(|| "good".to_owned(), BreakerState::describe)
        }
        Some(RelayState { last_failure: Some((at, what)), .. }) => {
            format!("fails since {}: {what}", time(*at))
        }
        Some(_) => "fails".to_owned(),
    }
}

/// What a relay answered.
#[derive(Serialize)]
pub(super) struct Checked {
    /// Its name in the configuration.
    pub(super) name: String,
    /// Where it is.
    pub(super) address: String,
    /// Whether mail could be handed to it.
    pub(super) good: bool,
    /// What went wrong.
    pub(super) problem: Option<String>,
    /// Whether the connection was encrypted.
    encrypted: bool,
    /// Whether it took our login; none when none is configured.
    logged_in: Option<bool>,
    /// The name it gave itself.
    server_name: Option<String>,
    /// What it offers that makes a difference.
    offers: Vec<String>,
    /// How long it took until mail could have been handed over.
    took_ms: u64,
}

impl Checked {
    /// That it is good, in one sentence.
    pub(super) fn in_words(&self) -> String {
        if self.offers == [DNS] {
            return format!("{} goes to {}; {DNS}", self.name, self.address);
        }
        format!("{} at {} answers", self.name, self.address)
    }
}

/// Connects to `relay` as the daemon would, logs in, and says goodbye.
pub(super) async fn ask(config: &Config, relay: &Relay) -> Checked {
    let since = std::time::Instant::now();
    let mut checked = Checked {
        name: relay.name.clone(),
        address: relay.address(),
        good: false,
        problem: None,
        encrypted: false,
        logged_in: None,
        server_name: None,
        offers: Vec::new(),
        took_ms: 0,
    };
    let opened = async {
        let (settings, all) = (relay.clone(), config.clone());
        // Certificates are read from files.
        let relay = tokio::task::spawn_blocking(move || relay::Relay::new(0, &settings, &all));
        let mut relay = relay.await.map_err(|error| error.to_string())??;
        if let Some(direct) = &relay.direct {
            // There is no server that could be asked for all domains.
            direct.ask_dns(&config.mail.bounce_domain).await?;
            return Ok(None);
        }
        let deadlines = &mut relay.endpoint.deadlines;
        deadlines.connect = deadlines.connect.min(CHECK_STEP_MAX);
        deadlines.greeting = deadlines.greeting.min(CHECK_STEP_MAX);
        relay.connect().await.map(Some).map_err(|error| error.to_string())
    };
    match tokio::time::timeout(CHECK_MAX, opened).await {
        Ok(Ok(None)) => {
            checked.good = true;
            checked.offers.push(DNS.to_owned());
        }
        Ok(Ok(Some(session))) => {
            checked.good = true;
            checked.encrypted = session.is_encrypted();
            checked.logged_in = relay.username.as_ref().map(|_| true);
            let offered = session.capabilities();
            checked.server_name = Some(offered.server_name.clone());
            checked.offers = offers(offered);
            session.quit().await;
        }
        Ok(Err(problem)) => checked.problem = Some(problem),
        Err(_) => {
            checked.problem = Some(format!("not done within {} s", CHECK_MAX.as_secs()));
        }
    }
    checked.took_ms = since.elapsed().as_millis() as u64;
    checked
}

fn offers(offered: &Capabilities) -> Vec<String> {
    let named = [
        (offered.pipelining, "PIPELINING"),
        (offered.starttls, "STARTTLS"),
        (offered.smtputf8, "SMTPUTF8"),
        (offered.eight_bit_mime, "8BITMIME"),
        (offered.dsn, "DSN"),
        (offered.enhanced_status_codes, "ENHANCEDSTATUSCODES"),
    ];
    let mut offers: Vec<String> =
        named.into_iter().filter(|(has, _)| *has).map(|(_, name)| name.to_owned()).collect();
    if let Some(size) = offered.size_max {
        offers.push(format!("SIZE {size}"));
    }
    if !offered.mechanisms.is_empty() {
        let names: Vec<_> = offered.mechanisms.iter().map(|one| one.as_str()).collect();
        offers.push(format!("AUTH {}", names.join(" ")));
    }
    offers
}

async fn check(config: &Config, args: CheckArgs) -> anyhow::Result<()> {
    let mut relays = relays(config);
    if let Some(name) = &args.name {
        let known: Vec<_> = relays.iter().map(|relay| relay.name.clone()).collect();
        relays.retain(|relay| relay.name == *name);
        if relays.is_empty() {
            anyhow::bail!(unknown(name, &known));
        }
    }
    let checked = join_all(relays.iter().map(|relay| ask(config, relay))).await;
    if args.format.json {
        output::json(&checked)?;
    } else {
        let headings = ["name", "address", "result", "tls", "login", "server", "ms", "offers"];
        let mut table = Table::new(&headings).numbers(&[6]);
        for found in &checked {
            table.row([
                found.name.as_str(),
                &found.address,
                if found.good { "good" } else { "FAILED" },
                if found.encrypted { "yes" } else { "no" },
                if found.logged_in == Some(true) { "yes" } else { "-" },
                found.server_name.as_deref().unwrap_or("-"),
                &found.took_ms.to_string(),
                &found.offers.join(", "),
            ]);
        }
        table.print("")?;
    }
    let failed: Vec<_> = checked.iter().filter(|found| !found.good).collect();
    for found in &failed {
        say(format!("{}: {}", found.name, found.problem.as_deref().unwrap_or_default()));
    }
    if config.relay.is_empty() {
        say("no relay is configured: mail goes to the built-in mailbox, which runs in the daemon");
    }
    if failed.is_empty() {
        return Ok(());
    }
    let (failed, all) = (failed.len(), checked.len());
    Err(Refused(format!("{failed} of {all} relays cannot be used")).into())
}

fn unknown(name: &str, known: &[String]) -> String {
    format!("there is no relay `{name}` in the configuration; those are: {}", known.join(", "))
}

async fn suspend(context: &Context, args: SuspendArgs) -> anyhow::Result<()> {
    let known: Vec<_> = relays(&context.config).into_iter().map(|relay| relay.name).collect();
    anyhow::ensure!(known.contains(&args.name), unknown(&args.name, &known));
    let (name, now) = (&args.name, Timestamp::now());
    if !suspension::suspend(&context.db, name, &actor(), &args.reason, now).await? {
        say(format!("{name} was suspended before; nothing changed"));
        return Ok(());
    }
    say(format!("{name} gets no new mail from now on; copies under way there are finished"));
    let suspended = suspension::list(&context.db).await?;
    if known.iter().all(|name| suspended.iter().any(|found| found.relay == *name)) {
        say("no relay is left: everything waits, confirmations too");
    }
    Ok(())
}

async fn resume(context: &Context, args: ResumeArgs) -> anyhow::Result<()> {
    let (name, now) = (&args.name, Timestamp::now());
    if suspension::resume(&context.db, name, &actor(), &args.reason, now).await? {
        say(format!("{name} gets mail again"));
    } else {
        say(format!("{name} was not suspended; nothing changed"));
    }
    Ok(())
}
