//! A rehearsal: the real issue to the real audience, through the real engine, into the built-in sink.
//!
//! Everything happens on a copy of the database in a folder that is deleted afterwards, and every
//! relay of the configuration is replaced by a sink on this machine that behaves as a fault profile
//! says. The real ledger is read once, to be copied; no real relay is ever connected to.
//!
//! Time can be made to run faster: at speed 60 a minute takes a second. Limits of every kind, warm-up
//! ramps, breakers and the times of reply rules live in that time ([`Engine`] has a speed); soaks,
//! retries, deadlines and what the sink does go down by the factor. The machine gets no faster, so
//! that the higher the speed, the coarser the times, and a rehearsal says for how long the machine
//! was all that held the send back.

mod report;

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    app::relay_to,
    bounce::intake,
    cli::Context,
    config::{Config, MissedSchedule, Relay},
    db::state::IssueState,
    delivery::{
        control::{self, Draft, Edition, Move},
        dispatch::LimitedBy,
        engine::{Engine, Parts},
        gates::Finding,
        rehearsed, tallies,
    },
    sink::{Sink, SinkConfig, faults::profile::Profile, mailbox::MailboxLimits},
    smtp::server::Protocol,
    timestamp::Timestamp,
};

pub use report::{Halted, Minute, Report};

/// How often the rehearsal is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// A command of a scaled session has at least so long: the machine is no faster than it is.
const DEADLINE_MIN: Duration = Duration::from_secs(2);

/// How a rehearsal goes.
#[derive(Debug, Clone)]
pub struct Options {
    /// How much faster than real time; 1 for real time.
    pub speed: u32,
    /// How every relay behaves, unless it has a profile of its own.
    pub faults: Profile,
    /// How single relays behave, by name.
    pub relay_faults: HashMap<String, Profile>,
    /// How long a relay takes for each reply, in real time.
    pub latency: Duration,
    /// How long the send is followed, in its own time.
    pub until: Duration,
    /// Whether a halt is resumed at once, to see what would come after it.
    pub resume_halts: bool,
}

/// Rehearses the send of `draft`; `progress` is told how many copies are decided, of how many.
pub async fn run(
    context: &Context,
    draft: &Draft,
    options: &Options,
    progress: impl FnMut(i64, i64),
) -> anyhow::Result<Report> {
    let stage = Stage::build(context, draft, options).await?;
    let played = stage.play(draft, options, progress).await;
    let folder = stage.clear().await;
    let report = played?;
    // Here, where a failure can be told, and not when it is dropped.
    folder.close().context("the rehearsal's copy of the data cannot be deleted")?;
    Ok(report)
}

/// Where the rehearsal takes place.
struct Stage {
    folder: TempDir,
    copy: Context,
    sinks: Vec<Sink>,
    engine: Engine,
    stop: CancellationToken,
}

impl Stage {
    async fn build(real: &Context, draft: &Draft, options: &Options) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("rehearsal-")
            .tempdir_in(&real.config.data_folder)
            .context("no folder for the rehearsal can be made in the data folder")?;
        let stop = CancellationToken::new();
        let returns = TcpListener::bind(("127.0.0.1", 0)).await?;
        let mut config = scaled(&real.config, options.speed);
        config.data_folder = folder.path().to_owned();
        config.bounces.listen = Some(returns.local_addr()?);
        // All reports of a fast-forwarded send come from one client.
        config.bounces.mails_per_minute_and_client = u32::MAX;
        let mut sinks = Vec::new();
        let mut relays = Vec::new();
        let relays_before = std::mem::take(&mut config.relay);
        if relays_before.is_empty() {
            let sink = sink("mailbox", &config, options, &stop).await?;
            relays.push(relay_to(sink.smtp_addr));
            sinks.push(sink);
        }
        for relay in &relays_before {
            let sink = sink(&relay.name, &config, options, &stop).await?;
            relays.push(stand_in(relay, &sink));
            sinks.push(sink);
        }
        config.relay = relays;
        real.db.copy_to(&config.database_file()).await.context("the database cannot be copied")?;
        std::fs::copy(real.config.key_file(), config.key_file())
            .context("the key file cannot be copied")?;
        let copy = Context::with(config).await?;
        rehearsed::need_not_last(&copy.db).await?;
        rehearsed::make_ready(&copy.db, draft.newsletter, draft.number, Timestamp::now()).await?;
        let (db, keyring) = (copy.db.clone(), Arc::clone(&copy.keyring));
        let intake = intake::smtp::server(db, keyring, &copy.config, Protocol::Smtp, stop.clone());
        tokio::spawn(intake.serve(returns));
        let engine = Engine::start(Parts {
            db: copy.db.clone(),
            config: Arc::clone(&copy.config),
            keyring: Arc::clone(&copy.keyring),
            renderer: Arc::new(copy.renderer()?),
            providers: Arc::clone(&copy.providers),
            speed: options.speed,
        })
        .await?;
        Ok(Self { folder, copy, sinks, engine, stop })
    }

    /// Sends, and follows the send until it rests or time is up.
    async fn play(
        &self,
        draft: &Draft,
        options: &Options,
        mut progress: impl FnMut(i64, i64),
    ) -> anyhow::Result<Report> {
        let db = &self.copy.db;
        let begin = Timestamp::now();
        control::schedule(db, draft, begin, "rehearsal", begin).await?;
        self.engine.ring();
        let mut halts = Vec::new();
        let mut machine_bound = Duration::ZERO;
        let edition = loop {
            let edition = control::find(db, draft.newsletter, draft.number)
                .await?
                .context("the rehearsal's issue is gone")?;
            let view = self.engine.view();
            if let Some(tally) = view.tally(edition.id) {
                progress(tally.total().finished(), tally.total().total());
            }
            let now = Timestamp::now();
            let begin = edition.started_at.unwrap_or(begin);
            let elapsed = now.since(begin) * options.speed;
            if edition.state == IssueState::Halted {
                halts.extend(self.halted(&edition, elapsed));
                if !options.resume_halts {
                    break edition;
                }
                let reason = "the rehearsal goes on";
                control::change_course(db, &edition, Move::Resume, "rehearsal", reason, now)
                    .await?;
                self.engine.ring();
            }
            if matches!(edition.state, IssueState::Sent) || elapsed >= options.until {
                break edition;
            }
            let by = self.engine.dispatch().explain().everything;
            let before = Instant::now();
            tokio::time::sleep(LOOK).await;
            if matches!(by, LimitedBy::Claiming | LimitedBy::Connections) {
                machine_bound += before.elapsed();
            }
        };
        let mut report = self.report(&edition, options, halts).await?;
        report.machine_bound_s = (machine_bound * options.speed).as_secs_f64();
        Ok(report)
    }

    fn halted(&self, edition: &Edition, after: Duration) -> Option<Halted> {
        let finding: Finding = serde_json::from_str(edition.halt.as_deref()?).ok()?;
        Some(Halted::new(&finding, after, &self.copy.providers))
    }

    async fn report(
        &self,
        edition: &Edition,
        options: &Options,
        halts: Vec<Halted>,
    ) -> anyhow::Result<Report> {
        let db = &self.copy.db;
        let total = tallies::load(db, edition.id).await?.total();
        let begin = edition.started_at.unwrap_or_else(Timestamp::now);
        let speed = i64::from(options.speed);
        let minutes = rehearsed::happened(db, edition.id, begin, 60_000_000 / speed).await?;
        let stretches = rehearsed::happened(db, edition.id, begin, 10_000_000 / speed).await?;
        let notes = rehearsed::notes(db, edition.id, begin).await?;
        let connections = self.sinks.iter().map(|sink| sink.stats().connections_peak).sum();
        let mut report = Report::new(edition, &total, options.speed, halts);
        report.connections_peak = connections;
        report.fill(&minutes, &stretches, notes, begin, &self.copy.providers);
        Ok(report)
    }

    async fn clear(self) -> TempDir {
        self.engine.drain().await;
        self.stop.cancel();
        for sink in self.sinks {
            sink.stopped().await;
        }
        self.copy.db.close().await;
        self.folder
    }
}

async fn sink(
    relay: &str,
    config: &Config,
    options: &Options,
    stop: &CancellationToken,
) -> anyhow::Result<Sink> {
    let profile = options.relay_faults.get(relay).unwrap_or(&options.faults);
    let sink = SinkConfig {
        http: None,
        discard: true,
        magic: false,
        mailbox: MailboxLimits { messages: 1, ..MailboxLimits::default() },
        faults: faster(profile, options.speed),
        returns_to: config.bounces.listen,
        latency: options.latency / options.speed,
        ..SinkConfig::default()
    };
    let started = Sink::start(sink, stop.clone()).await;
    started.with_context(|| format!("the sink in the place of relay `{relay}` cannot start"))
}

/// A sink in the place of `relay`: its name and limits, and nothing that leads to the real one.
fn stand_in(relay: &Relay, sink: &Sink) -> Relay {
    Relay {
        name: relay.name.clone(),
        priority: relay.priority,
        weight: relay.weight,
        connection_age: relay.connection_age,
        connections: relay.connections,
        per_second: relay.per_second,
        burst: relay.burst,
        messages_per_connection: relay.messages_per_connection,
        ..relay_to(sink.smtp_addr)
    }
}

/// `config` for a time that runs `speed` times as fast: all but what counts by the engine's own time.
fn scaled(config: &Config, speed: u32) -> Config {
    let mut config = config.clone();
    let sending = &mut config.sending;
    sending.undo_window = Duration::ZERO;
    sending.approval = false;
    sending.missed_schedule = MissedSchedule::Send;
    sending.soak /= speed;
    sending.time_to_live /= speed;
    sending.drain = Duration::from_secs(2);
    for delay in &mut sending.retry_delays {
        *delay /= speed;
    }
    let smtp = &mut config.smtp;
    for deadline in
        [&mut smtp.connect, &mut smtp.greeting, &mut smtp.envelope, &mut smtp.data, &mut smtp.dot]
    {
        *deadline = (*deadline / speed).max(DEADLINE_MIN.min(*deadline));
    }
    config
}

/// `profile` for a time that runs `speed` times as fast.
fn faster(profile: &Profile, speed: u32) -> Profile {
    let mut profile = profile.clone();
    for rule in &mut profile.rules {
        rule.delay /= speed;
        rule.trickle /= speed;
        rule.after_idle /= speed;
        if let Some(returned) = &mut rule.returned {
            returned.after /= speed;
        }
    }
    profile
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stand_in_leads_nowhere_but_to_this_machine() {
        let real = "[[relay]]\nname = \"main\"\nhost = \"smtp.example.com\"\nport = 465\n\
                    tls = \"implicit\"\nusername = \"u\"\npassword = \"p\"\nper_second = 7.0\n";
        let config = Config::parse(real, "config.toml").unwrap();
        let stop = CancellationToken::new();
        let sink = Sink::start(SinkConfig::default(), stop.clone()).await.unwrap();
        let relay = stand_in(&config.relay[0], &sink);
        assert_eq!((relay.host.as_str(), relay.port), ("127.0.0.1", sink.smtp_addr.port()));
        assert!(relay.username.is_none() && relay.password.is_none());
        assert_eq!((relay.name.as_str(), relay.per_second), ("main", Some(7.0)));
        stop.cancel();
    }

    #[test]
    fn a_faster_time_has_shorter_waits() {
        let mut config = Config::default();
        config.limits.per_second = Some(20.0);
        let fast = scaled(&config, 60);
        assert_eq!(fast.limits, config.limits, "the engine's own time runs faster");
        assert_eq!(fast.breakers, config.breakers);
        assert_eq!(fast.sending.soak, Duration::from_secs(5));
        assert_eq!(fast.sending.retry_delays[0], Duration::from_secs(5));
        assert_eq!(fast.smtp.dot, Duration::from_secs(10));
        assert_eq!(fast.smtp.connect, DEADLINE_MIN);
        let real = scaled(&config, 1);
        assert_eq!(real.limits, config.limits);
        assert_eq!(real.sending.retry_delays, config.sending.retry_delays);
    }
}
