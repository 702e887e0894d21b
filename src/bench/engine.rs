//! Our side: a database with an audience, the whole engine, and a clock.

use std::{
    io::Write as _,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;

use super::{
    Large,
    profile::{Cpu, Profile},
};
use crate::{
    cli::Context,
    db::state::IssueState,
    delivery::{
        content::Content,
        control::{self, Draft},
        engine::{Engine, Parts},
    },
    id::{IssueId, NewsletterId},
    merge::{Escape, Field, MergeText, Segment},
    newsletter::Newsletter,
    smtp::dkim::Signer,
    telemetry::Step,
    timestamp::Timestamp,
};

/// Who gets how much, over what.
#[derive(Debug, Clone)]
pub struct Audience {
    /// How many readers.
    pub copies: u64,
    /// How many bytes a copy has, about.
    pub size: usize,
    /// How many connections.
    pub connections: u32,
    /// Where the copies go.
    pub relay: SocketAddr,
    /// How they are signed.
    pub signature: Signature,
}

/// How the bench's copies are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signature {
    /// Not at all.
    None,
    /// With Ed25519.
    Ed25519,
    /// With RSA of 2048 bits.
    Rsa,
}

/// The RSA key of the bench; the tests' own, which signs nobody's mail.
pub(super) const RSA_KEY: &str = include_str!("../../tests/keys/rsa2048-pkcs8.pem");

/// What one sender did.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// Messages that were taken.
    pub messages: u64,
    /// From the first to the last of them.
    pub seconds: f64,
    /// User and system time of the sender's process.
    pub cpu: Duration,
    /// Bytes of one message.
    pub bytes_each: usize,
}

impl Sent {
    /// Messages a second.
    pub fn per_second(&self) -> f64 {
        self.messages as f64 / self.seconds
    }

    /// CPU microseconds a message.
    pub fn cpu_us_each(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.messages as f64
    }
}

/// Sends one issue to `audience` with everything on, in a database of its own below `folder`.
pub(super) async fn send(folder: &Path, audience: &Audience) -> anyhow::Result<(Sent, Profile)> {
    let (context, newsletter, _) = prepare(folder, audience).await?;
    let started_cpu = cpu_time()?;
    let before = Cpu::now()?;
    let engine = start(&context).await?;
    let work = engine.view().work();
    work.tell_details();
    schedule(&context, &newsletter, audience.size).await?;
    engine.ring();
    wait_until(&context, newsletter.id, |state| state == IssueState::Sent).await?;
    let cpu = cpu_time()?.saturating_sub(started_cpu);
    let profile = Profile::between(&before, &Cpu::now()?, &work, audience.copies);
    engine.drain().await;
    let sent = figures(&context, cpu).await?;
    anyhow::ensure!(
        sent.messages == audience.copies,
        "{} of {} copies were accepted",
        sent.messages,
        audience.copies
    );
    context.db.close().await;
    std::fs::remove_dir_all(folder).context("the bench's folder cannot be removed")?;
    Ok((sent, profile))
}

/// A send to so many readers: import, planning, memory, and with `send` the copies too.
pub(super) async fn large(folder: &Path, recipients: u64, send: bool) -> anyhow::Result<Large> {
    let sink = super::peers::Sink::ours(Duration::ZERO).await?;
    let audience = Audience {
        copies: recipients,
        size: 30 * 1024,
        connections: 64,
        relay: sink.address,
        signature: Signature::None,
    };
    let (context, newsletter, imported) = prepare(&folder.join("large"), &audience).await?;
    let mut large = Large {
        recipients,
        imported_per_second: recipients as f64 / imported.as_secs_f64(),
        ..Large::default()
    };
    let begin = Instant::now();
    let engine = start(&context).await?;
    schedule(&context, &newsletter, audience.size).await?;
    engine.ring();
    let mut resident_max = 0;
    let mut claims = Vec::new();
    let view = engine.view();
    let issue = control::find(&context.db, newsletter.id, 1).await?.context("no issue")?.id;
    wait_until(&context, newsletter.id, |state| {
        if state != IssueState::Scheduled && large.queue_seconds == 0.0 {
            large.queue_seconds = begin.elapsed().as_secs_f64();
        }
        resident_max = resident_max.max(resident_bytes().unwrap_or(0));
        let done = view.tally(issue).map_or(0, |tally| tally.total().finished());
        claims.push((done, view.work().taken(Step::Claim)));
        state == IssueState::Sent || (!send && state != IssueState::Scheduled)
    })
    .await?;
    engine.drain().await;
    if send {
        large.per_second = figures(&context, Duration::ZERO).await?.per_second();
        large.claim_growth = claim_growth(&claims, recipients as i64);
    }
    context.db.close().await;
    large.resident_mb_max = resident_max as f64 / 1e6;
    Ok(large)
}

/// An issue that went out to so many readers, whose numbers begin with 1, and its data.
pub(super) async fn sent(folder: &Path, readers: u64) -> anyhow::Result<(Context, IssueId)> {
    let sink = super::peers::Sink::ours(Duration::ZERO).await?;
    let audience = Audience {
        copies: readers,
        size: 4 * 1024,
        connections: 16,
        relay: sink.address,
        signature: Signature::None,
    };
    let (context, newsletter, _) = prepare(folder, &audience).await?;
    let engine = start(&context).await?;
    schedule(&context, &newsletter, audience.size).await?;
    engine.ring();
    wait_until(&context, newsletter.id, |state| state == IssueState::Sent).await?;
    engine.drain().await;
    let issue = control::find(&context.db, newsletter.id, 1).await?.context("no issue")?.id;
    Ok((context, issue))
}

/// What claiming a copy costs in the last fifth of a send, over what it cost in the first.
fn claim_growth(claims: &[(i64, Duration)], copies: i64) -> f64 {
    let each = |from: i64, to: i64| {
        let mut within = claims.iter().filter(|(done, _)| (from..=to).contains(done));
        let first = within.next();
        let (Some(first), Some(last)) = (first, within.next_back()) else { return f64::NAN };
        (last.1.saturating_sub(first.1)).as_secs_f64() / (last.0 - first.0).max(1) as f64
    };
    each(copies * 4 / 5, copies - 1) / each(1, copies / 5)
}

/// A database with an audience, made by the commands that people use: a process of their own each,
/// so that what an import needs is not counted as the sender's. Also says how long the import took.
async fn prepare(
    folder: &Path,
    audience: &Audience,
) -> anyhow::Result<(Context, Newsletter, Duration)> {
    std::fs::create_dir_all(folder)?;
    let config = folder.join("config.toml");
    std::fs::write(&config, settings(folder, audience)?)?;
    let list = folder.join("readers.csv");
    let mut csv = std::io::BufWriter::new(std::fs::File::create(&list)?);
    writeln!(csv, "address,name")?;
    for number in 0..audience.copies {
        writeln!(csv, "reader{number}@readers.example,Reader {number}")?;
    }
    csv.flush()?;
    drop(csv);
    let create = ["newsletter", "create", "bench", "--name", "Bench Weekly", "--from"];
    postrider(&config, &[&create[..], &["editor@news.example"]].concat()).await?;
    let begin = Instant::now();
    let list = list.to_str().context("the bench's folder is not UTF-8")?;
    let import = ["subscriber", "import", list, "--consent-source", "made up for a measurement"];
    postrider(&config, &import).await?;
    let imported = begin.elapsed();
    let context = Context::open(Some(&config)).await?;
    let newsletter = context.newsletter(Some("bench")).await?;
    Ok((context, newsletter, imported))
}

/// The configuration: one relay, no waiting, no stages.
fn settings(folder: &Path, audience: &Audience) -> anyhow::Result<String> {
    let (ip, port) = (audience.relay.ip(), audience.relay.port());
    let connections = audience.connections;
    let mut config = format!(
        "data_folder = \"data\"\n[sending]\nundo_window = \"0s\"\nsoak = \"0s\"\n\
         stages_percent = []\n[[relay]]\nname = \"sink\"\nhost = \"{ip}\"\nport = {port}\n\
         tls = \"none\"\nconnections = {connections}\nmessages_per_connection = 100000\n"
    );
    let key = match audience.signature {
        Signature::None => None,
        Signature::Ed25519 => Some(Signer::generate_ed25519("news.example", "bench")?.1),
        Signature::Rsa => Some(RSA_KEY.to_owned()),
    };
    if let Some(pem) = key {
        std::fs::write(folder.join("dkim.pem"), pem)?;
        config.push_str(
            "[[dkim]]\ndomain = \"news.example\"\nselector = \"bench\"\nkey_file = \"dkim.pem\"\n",
        );
    }
    Ok(config)
}

/// Runs a command of this program to its end.
async fn postrider(config: &Path, args: &[&str]) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("this program's file is not known")?;
    let mut command = tokio::process::Command::new(program);
    let ran = command.args(args).arg("--config").arg(config).output().await?;
    let said = String::from_utf8_lossy(&ran.stderr);
    anyhow::ensure!(ran.status.success(), "`postrider {}` failed: {said}", args.join(" "));
    Ok(())
}

async fn start(context: &Context) -> anyhow::Result<Engine> {
    Ok(Engine::start(Parts {
        db: context.db.clone(),
        config: Arc::clone(&context.config),
        keyring: Arc::clone(&context.keyring),
        renderer: Arc::new(context.renderer()?),
        providers: Arc::clone(&context.providers),
        speed: 1,
    })
    .await?)
}

async fn schedule(context: &Context, newsletter: &Newsletter, size: usize) -> anyhow::Result<()> {
    let now = Timestamp::now();
    let (html, text) = bodies(size);
    let subject = "An issue of the bench".to_owned();
    let content = Content::new(newsletter, 1, subject, html, text, &context.links());
    let draft = Draft {
        newsletter: newsletter.id,
        number: 1,
        model: "{}".to_owned(),
        source: String::new(),
        content,
    };
    control::schedule(&context.db, &draft, now, "bench", now).await?;
    Ok(())
}

/// Bodies of about `size` bytes together once they are encoded, with the slots an issue has.
fn bodies(size: usize) -> (MergeText, MergeText) {
    let slot = |field, escape, fallback: Option<&str>| Segment::Slot {
        field,
        escape,
        fallback: fallback.map(str::to_owned),
    };
    let sentence = "Nothing goes everywhere at once, and nobody is left out without a reason. ";
    let prose = |bytes: usize| sentence.repeat(bytes / sentence.len() + 1);
    let text_bytes = size / 4;
    let html_bytes = size - text_bytes - 1500;
    let mut html = vec![Segment::Literal("<html lang=\"en\"><body><p>Dear ".to_owned())];
    let mut text = vec![Segment::Literal("Dear ".to_owned())];
    for (segments, escape, bytes) in
        [(&mut html, Escape::Html, html_bytes), (&mut text, Escape::Text, text_bytes)]
    {
        segments.push(slot(Field::Name, escape, Some("reader")));
        for _ in 0..8 {
            segments.push(Segment::Literal(prose(bytes / 9)));
            segments.push(slot(Field::UnsubscribeUrl, escape, None));
        }
        segments.push(Segment::Literal(prose(bytes / 9)));
        segments.push(slot(Field::Address, escape, None));
    }
    html.push(Segment::Literal("</p></body></html>".to_owned()));
    (MergeText { segments: html }, MergeText { segments: text })
}

/// Waits until `done` says so of the state of the bench's issue.
async fn wait_until(
    context: &Context,
    newsletter: NewsletterId,
    mut done: impl FnMut(IssueState) -> bool,
) -> anyhow::Result<()> {
    loop {
        let edition = control::find(&context.db, newsletter, 1).await?;
        let state = edition.context("the issue is gone")?.state;
        if done(state) {
            return Ok(());
        }
        anyhow::ensure!(
            matches!(state, IssueState::Scheduled | IssueState::Sending),
            "the bench's issue is {state}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// How many copies were accepted, and from the send's begin to the last of them.
async fn figures(context: &Context, cpu: Duration) -> anyhow::Result<Sent> {
    let (messages, begin, end, bytes): (i64, i64, i64, i64) = context
        .db
        .query(
            "SELECT COUNT(*), MIN(at - duration_us), MAX(at), coalesce(MAX(bytes), 0) \
             FROM event WHERE kind = 2 AND issue_id IS NOT NULL",
        )
        .one()
        .await?;
    let seconds = (end - begin).max(1) as f64 / 1e6;
    Ok(Sent { messages: messages as u64, seconds, cpu, bytes_each: bytes as usize })
}

/// User and system time of this process so far.
pub(super) fn cpu_time() -> anyhow::Result<Duration> {
    super::peers::cpu_of("self")
}

/// Memory that this process has resident.
pub(super) fn resident_bytes() -> anyhow::Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = statm.split(' ').nth(1).context("no resident size")?.parse()?;
    Ok(pages * 4096)
}
