//! `postrider demo`: the whole story on one machine, with real parts. A daemon on SQLite, readers
//! who fill in the form and follow the links they are mailed, an issue sent in stages at a limited
//! rate, mailboxes that bounce, defer and complain, readers who leave in the middle, and a check
//! that every number adds up.
//!
//! Readers act over HTTP only, and know only what is in their mail; the story looks at the database
//! just to check itself.

mod check;
mod readers;

use std::{io::IsTerminal, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{
    account,
    address::Address,
    app::Daemon,
    config::Config,
    db::state::{CopyState, IssueState},
    delivery::{
        compose::brand_of,
        content::Content,
        control::{self, Draft, Scheduled},
        tallies,
    },
    issue,
    newsletter::{self, NewNewsletter, Newsletter},
    sink::{
        Sink,
        faults::profile::{FaultStage, Profile, Return, ReturnKind, Rule},
        mailbox::{Filter, Received},
    },
    timestamp::Timestamp,
};
use readers::{Cast, Readers};

/// Show everything at once: sign-ups, an issue sent in stages, bounces, people who leave.
///
/// Runs a daemon in a temporary folder with the built-in mailbox; nothing leaves this machine.
#[derive(Debug, Clone, clap::Args)]
pub struct DemoArgs {
    /// How many people sign up.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(100..=5000))]
    readers: u32,
    /// Copies a second.
    #[arg(long, default_value_t = 60.0)]
    rate: f64,
    /// Stop when the story is told; the exit code says whether everything held.
    #[arg(long)]
    exit: bool,
}

/// Who may see the operators' pages of a demo.
const OPERATOR: &str = "operator";

/// How long each chapter may take before the story is given up.
const PATIENCE: Duration = Duration::from_secs(50);

/// Tells the story; fails when a number does not add up.
pub async fn run(args: DemoArgs) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("no temporary folder can be made")?;
    let daemon = Daemon::start(config(folder.path(), args.rate)).await?;
    let told = tell(&args, &daemon).await;
    if told.is_ok() {
        println!("\nEverything adds up.");
    }
    if !args.exit {
        if let Err(error) = &told {
            println!("\nSomething does not add up: {error:#}");
        }
        show_around(&daemon).await?;
        tokio::signal::ctrl_c().await.context("Ctrl-C cannot be awaited")?;
    }
    daemon.stop().await;
    told.map_err(|error| crate::cli::Refused(format!("{error:#}")).into())
}

async fn tell(args: &DemoArgs, daemon: &Daemon) -> anyhow::Result<()> {
    let context = daemon.context();
    let mailbox = daemon.mailbox().context("the demo needs the built-in mailbox")?;
    let newsletter = create(context).await?;
    println!("Newsletter: {}", context.links().newsletter(&newsletter.slug));

    let cast = Cast::new(args.readers);
    let readers = Readers::new(context.links(), newsletter.slug.clone(), mailbox)?;
    println!("{} people sign up through the form …", cast.all.len());
    readers.sign_up(&cast).await?;
    println!("… and {} confirm with the link in their mail.", cast.confirming().count());
    readers.confirm(&cast, PATIENCE).await?;

    mailbox.set_faults(&faults(&cast))?;
    let edition = schedule(context, &newsletter).await?;
    daemon.engine().ring();
    println!("Issue {} goes out in stages, at {} copies a second:", edition.number, args.rate);
    let progress = watch(daemon, mailbox, &newsletter, edition.number);
    let leaving = readers.leave_in_the_middle(&cast, PATIENCE);
    let (watched, left) = tokio::join!(progress, leaving);
    watched?;
    left?;
    check::bounces_came_back(context, &cast, PATIENCE).await?;
    let summary = check::summary(context, mailbox, &cast, &newsletter, edition.number).await?;
    println!("{summary}");
    check::holds(context, mailbox, &cast, &newsletter, edition.number).await
}

fn config(folder: &Path, rate: f64) -> Config {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config { data_folder: folder.to_owned(), ..Config::default() };
    // Port 0 asks for a free one; the daemon fills in which it got.
    let _ = config.public_url.set_port(Some(0));
    config.public.listen = any;
    config.admin.listen = any;
    config.mailbox.smtp_listen = any;
    config.mailbox.http_listen = any;
    config.mailbox.messages_max = 20_000;
    config.bounces.listen = Some(any);
    config.limits.per_second = Some(rate);
    config.limits.burst = Some(rate.ceil() as u32 / 4);
    config.sending.undo_window = Duration::from_secs(1);
    config.sending.soak = Duration::from_secs(1);
    config.sending.retry_delays = vec![Duration::from_secs(2)];
    config.gates.recipient_percent = 10.0;
    // Everybody in this story signs up from the same machine, at machine speed.
    config.signup.per_network = 100_000;
    config.signup.per_domain = 100_000;
    config.signup.form_age_min = Duration::ZERO;
    "warn".clone_into(&mut config.log.filter);
    config
}

async fn create(context: &crate::cli::Context) -> anyhow::Result<Newsletter> {
    let new = NewNewsletter {
        slug: "night-shift".to_owned(),
        name: "Night Shift".to_owned(),
        description: "Ten good reads a week for people who keep systems running.".to_owned(),
        from_address: Address::parse("editor@night-shift.example")?,
    };
    let db = &context.db;
    newsletter::create(db, &new, Timestamp::now()).await?;
    let address = ("postal_address", "Night Shift, 1 Example Street, Vienna");
    newsletter::set(db, &new.slug, address, "demo", Timestamp::now()).await?;
    Ok(newsletter::find(db, &new.slug).await?)
}

/// What some mailboxes do once they are subscribed.
fn faults(cast: &Cast) -> Profile {
    let refuse = |address: &str| Rule {
        recipient: Some(address.to_owned()),
        reply: Some("550 5.1.1 No such mailbox".to_owned()),
        ..Rule::at(FaultStage::Rcpt)
    };
    let defer = |address: &str| Rule {
        recipient: Some(address.to_owned()),
        reply: Some("451 4.7.1 Greylisted, please come back".to_owned()),
        times: Some(1),
        ..Rule::at(FaultStage::Rcpt)
    };
    let bounce = |address: &str| Rule {
        recipient: Some(address.to_owned()),
        returned: Some(Return {
            kind: ReturnKind::Bounce,
            after: Duration::from_millis(500),
            status: "5.1.1".to_owned(),
            diagnostic: "550 5.1.1 The account was closed".to_owned(),
        }),
        ..Rule::at(FaultStage::Dot)
    };
    let refused = cast.refused.iter().map(|address| refuse(address));
    let deferred = cast.deferred.iter().map(|address| defer(address));
    let bouncing = cast.bouncing.iter().map(|address| bounce(address));
    Profile { rules: refused.chain(deferred).chain(bouncing).collect(), ..Profile::default() }
}

async fn schedule(
    context: &crate::cli::Context,
    newsletter: &Newsletter,
) -> anyhow::Result<control::Edition> {
    let links = context.links();
    let parsed = issue::parse("sample-issue.md", issue::SAMPLE.as_bytes());
    let source = issue::SAMPLE.to_owned();
    let document = parsed
        .into_document()
        .map_err(|findings| anyhow::anyhow!("the sample issue has {} errors", findings.len()))?;
    let number = i64::from(document.number.context("the sample issue has no number")?);
    let rendered = context.renderer()?.issue(&document, &brand_of(newsletter, &links))?;
    let content =
        Content::new(newsletter, number, rendered.subject, rendered.html, rendered.text, &links);
    let draft = Draft {
        newsletter: newsletter.id,
        number,
        model: serde_json::to_string(&document)?,
        source,
        content,
    };
    let now = Timestamp::now();
    let sends_at = now.plus(context.config.sending.undo_window);
    match control::schedule(&context.db, &draft, sends_at, "demo", now).await? {
        Scheduled::New(edition) => Ok(edition),
        Scheduled::Already(_) => anyhow::bail!("the issue was scheduled twice"),
    }
}

/// Shows how far the send is until it is done.
async fn watch(
    daemon: &Daemon,
    mailbox: &Sink,
    newsletter: &Newsletter,
    number: i64,
) -> anyhow::Result<()> {
    let db = &daemon.context().db;
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}")?;
    let target = if std::io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(0), target).with_style(style);
    let begin = tokio::time::Instant::now();
    let mut told_at = begin;
    loop {
        let edition =
            control::find(db, newsletter.id, number).await?.context("the issue is gone")?;
        let cell = tallies::load(db, edition.id).await?.total();
        let limit = daemon.engine().dispatch().limited_by(&daemon.context().providers);
        let line = format!(
            "accepted {}, deferred {}, rejected {}, skipped {}; stage {}; held by: {limit}",
            cell.get(CopyState::Accepted),
            cell.deferred,
            cell.get(CopyState::Rejected),
            cell.get(CopyState::Skipped),
            edition.stage,
        );
        bar.set_length(cell.total() as u64);
        bar.set_position(cell.finished() as u64);
        bar.set_message(line.clone());
        if bar.is_hidden() && told_at.elapsed() >= Duration::from_secs(2) {
            println!("  {line}");
            told_at = tokio::time::Instant::now();
        }
        match edition.state {
            IssueState::Sent => {
                bar.finish_and_clear();
                println!("  {line}");
                return Ok(());
            }
            IssueState::Scheduled | IssueState::Sending => {}
            state => {
                let halt = edition.halt.unwrap_or_default();
                anyhow::bail!("the issue is {state} and not sent; {halt}");
            }
        }
        let held = mailbox.mailbox().len();
        anyhow::ensure!(begin.elapsed() < PATIENCE, "not sent in time; {held} mails arrived");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn show_around(daemon: &Daemon) -> anyhow::Result<()> {
    let password = crate::token::random_token();
    let (db, now) = (&daemon.context().db, Timestamp::now());
    let (passwords, role) = (account::Passwords::default(), account::Role::Operator);
    account::create(db, &passwords, OPERATOR, &password, role, "demo", now).await?;
    let links = daemon.context().links();
    println!("\nThe daemon runs on; look around:");
    println!("  newsletter and archive  {}", links.newsletter("night-shift"));
    if let Some(address) = daemon.mailbox().and_then(|mailbox| mailbox.http_addr) {
        println!("  everybody's inbox       http://{address}/");
    }
    for (what, url) in daemon.operator_pages() {
        println!("  {what:<23} {url}");
    }
    println!("  (log in there as `{OPERATOR}` with the password {password})");
    println!("Ctrl-C ends it and removes its data.");
    Ok(())
}

/// The mails that came to `address`.
fn mails_to(mailbox: &Sink, address: &str) -> Vec<Arc<Received>> {
    let to = Some(address.to_owned());
    mailbox.mailbox().find(&Filter { to, ..Filter::default() })
}
