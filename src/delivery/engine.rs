//! The engine as a whole: starts every part in the right order, and stops them in the reverse one.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, RwLock, atomic::AtomicI64},
    time::{Duration, Instant},
};

use tokio::{
    sync::Notify,
    task::{AbortHandle, JoinHandle, JoinSet},
    time::timeout_at,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};
use uuid::Uuid;

use super::{
    clock::{self, Clock, Tempo},
    compose::{Composer, Ingredients},
    conductor::{Conductor, Course},
    connection::{Connection, Shared},
    dispatch::{Dispatch, RelayTerms},
    feeder::Feeder,
    grouping::Grouping,
    journal::{self, Journal},
    lease::Lease,
    ledger::{self, Writer},
    limits::{Gcra, LimitName, Limits},
    mark::{self, Mark},
    recovery::{self, Recovered},
    relay::Relay,
    restored,
    rule_halts::RuleHalts,
    shedding::Shedding,
    status::Publisher,
    tallies::{self, Tallies},
    view::View,
};
use crate::{
    config::{self, Config},
    db::{self, Db},
    dns::Resolver,
    id::NodeId,
    issue::render::Renderer,
    link::Links,
    provider::Providers,
    smtp::dkim::Signer,
    telemetry::Metrics,
    timestamp::Timestamp,
    token::Keyring,
};

/// How often it is looked whether the lease is to be renewed.
const LEASE_LOOK: Duration = Duration::from_millis(500);
/// How much longer than the drain a stop may take, for what is written last.
const CLOSING: Duration = Duration::from_secs(5);

/// What an engine is built from.
pub struct Parts {
    /// The database, with the daemon's lock held.
    pub db: Db,
    /// The configuration; its relays are the ones to use.
    pub config: Arc<Config>,
    /// Keys behind links and return paths.
    pub keyring: Arc<Keyring>,
    /// Templates.
    pub renderer: Arc<Renderer>,
    /// The provider table.
    pub providers: Arc<Providers>,
    /// How many seconds of limits, breakers, rules and warm-up ramps pass in one: 1, but for
    /// rehearsals. Times of the configuration itself come as they shall be.
    pub speed: u32,
}

/// Why an engine cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The journal cannot be read or written.
    #[error("the delivery journal {path} cannot be used: {source}")]
    Journal {
        /// Where it is.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file that says how far the database has come cannot be read or written.
    #[error("the mark {path} cannot be used: {source}")]
    Mark {
        /// Where it is.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something in the configuration does not work.
    #[error("{0}")]
    Configuration(String),
}

/// A running engine.
pub struct Engine {
    db: Db,
    node: NodeId,
    dispatch: Arc<Dispatch>,
    relays: Vec<Arc<Relay>>,
    tallies: Arc<Tallies>,
    metrics: Arc<Metrics>,
    bell: Arc<Notify>,
    shedding: Arc<Shedding>,
    stop: CancellationToken,
    connections: TaskTracker,
    workers: Vec<AbortHandle>,
    background: JoinSet<()>,
    writer: JoinHandle<()>,
    recovered: Recovered,
    drain: Duration,
}

impl Engine {
    /// Settles what an earlier daemon left, then begins to send.
    pub async fn start(parts: Parts) -> Result<Self, StartError> {
        let Parts { db, config, keyring, renderer, providers, speed } = parts;
        let now = Timestamp::now();
        let tempo = Tempo::new(now, speed);
        let uid = Uuid::now_v7().to_string();
        let lease = Arc::new(Lease::new(config.sending.lease, now));
        let node = register(&db, &uid, &lease, now).await?;
        let path = config.journal_file();
        let journal_failed =
            |source| StartError::Journal { path: path.display().to_string(), source };
        let marked = config.mark_file();
        let mark_failed = |source| StartError::Mark { path: marked.display().to_string(), source };
        let kept = mark::read(&marked).map_err(mark_failed)?;
        let (lineage, is_older) = restored::look(&db, kept.as_ref(), now).await?;
        // What an older database does not know of, the journal of a younger one cannot tell by silence.
        let remains = journal::read(&path).map_err(journal_failed)?.filter(|_| !is_older);
        let rules = recovery::Rules {
            retry_delays: &config.sending.retry_delays,
            brake_percent: config.bounces.brake_percent,
        };
        let recovered = recovery::recover(&db, remains.as_ref(), node, rules, now).await?;
        let journal = Journal::create(&path, &uid, lineage.handoffs).map_err(journal_failed)?;
        let journal = Arc::new(journal);
        let mark = Mark::create(&marked, &lineage).map_err(mark_failed)?;

        let relays = Relay::all(&config).map_err(StartError::Configuration)?;
        let (limits, limited_providers) = limits(&db, &config, &providers, now).await?;
        let dispatch = Arc::new(Dispatch::new(terms(&config, &providers), limits).at(tempo));
        let tallies = Arc::new(Tallies::default());
        let metrics = Arc::new(Metrics::new(
            &providers,
            config.relay.iter().map(|relay| relay.name.as_str()),
        ));
        let writer = Writer {
            db: db.clone(),
            node,
            journal: Arc::clone(&journal),
            mark,
            tallies: Arc::clone(&tallies),
            dispatch: Arc::clone(&dispatch),
            brake_percent: config.bounces.brake_percent,
            metrics: Arc::clone(&metrics),
        };
        let (ledger, writer) = writer.start();
        let composer = Arc::new(Composer::new(Ingredients {
            db: db.clone(),
            keyring,
            links: Links::new(&config.public_url),
            renderer,
            signers: signers(&config)?,
            mail: config.mail.clone(),
            work: metrics.work().clone(),
        }));
        let course: Course = Arc::new(RwLock::new(Vec::new()));
        for issue in super::conductor::in_motion(&db).await? {
            tallies.put(issue.id, tallies::load(&db, issue.id).await?);
        }
        let rule_halts = Arc::new(RuleHalts::new(tempo));
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            dispatch: Arc::clone(&dispatch),
            ledger: ledger.clone(),
            journal,
            composer: Arc::clone(&composer),
            node,
            lease: Arc::clone(&lease),
            retry_delays: Arc::from(config.sending.retry_delays.as_slice()),
            idle: config.smtp.idle,
            sessions: AtomicI64::new(1),
            metrics: Arc::clone(&metrics),
            rule_halts: Arc::clone(&rule_halts),
            stop: stop.clone(),
        });
        let connections = TaskTracker::new();
        let mut workers = Vec::new();
        for (relay, settings) in relays.iter().zip(&config.relay) {
            for number in 0..settings.connections {
                // With four connections or more, one is kept free for confirmations.
                let reserved = settings.connections >= 4 && number == 0;
                let connection = Connection::new(Arc::clone(&shared), Arc::clone(relay), reserved);
                workers.push(connections.spawn(connection.run()).abort_handle());
            }
        }
        connections.close();
        let bell = Arc::new(Notify::new());
        let shedding = Arc::new(Shedding::default());
        shedding.look_around(&config.shedding, &config.data_folder).await;
        let mut background = JoinSet::new();
        let grouping = if config.dns.group_by_mx {
            let resolver = Resolver::new(&config.dns).map_err(StartError::Configuration)?;
            let providers = Arc::clone(&providers);
            Some(Arc::new(Grouping::new(db.clone(), resolver, providers, Arc::clone(&bell))))
        } else {
            None
        };
        let conductor = Conductor {
            db: db.clone(),
            grouping,
            config: Arc::clone(&config),
            providers: Arc::clone(&providers),
            dispatch: Arc::clone(&dispatch),
            ledger: ledger.clone(),
            tallies: Arc::clone(&tallies),
            rule_halts,
            relays: relays.clone(),
            course: Arc::clone(&course),
            metrics: Arc::clone(&metrics),
            shedding: Arc::clone(&shedding),
            bell: Arc::clone(&bell),
            tempo,
        };
        background.spawn(conductor.run(stop.clone()));
        let feeder = Feeder {
            db: db.clone(),
            dispatch: Arc::clone(&dispatch),
            ledger,
            composer,
            course,
            shedding: Arc::clone(&shedding),
            limited_providers,
            tempo,
        };
        background.spawn(feeder.run(stop.clone()));
        background.spawn(keep_lease(db.clone(), node, lease, stop.clone()));
        background.spawn({
            let (db, config) = (db.clone(), Arc::clone(&config));
            let (shedding, stop) = (Arc::clone(&shedding), stop.clone());
            async move {
                shedding.watch(db, &config.shedding, &config.data_folder, stop).await;
            }
        });
        let publisher = Publisher {
            db: db.clone(),
            node,
            dispatch: Arc::clone(&dispatch),
            relays: relays.clone(),
            providers: Arc::clone(&providers),
            shedding: Arc::clone(&shedding),
        };
        background.spawn(publisher.run(stop.clone()));
        for relay in &relays {
            let Some(direct) = relay.direct.clone() else { continue };
            direct.keep_policies_in(&db);
            let (index, dispatch) = (relay.index, Arc::clone(&dispatch));
            let (idle, stop) = (config.smtp.idle, stop.clone());
            background.spawn(async move { direct.run(index, &dispatch, idle, stop).await });
        }
        let timer = Arc::clone(&dispatch);
        let until = stop.clone();
        background.spawn(async move {
            tokio::select! {
                () = until.cancelled() => {}
                () = timer.run_timer() => {}
            }
        });
        let drain = config.sending.drain;
        info!(node = %uid, relays = relays.len(), "the delivery engine runs");
        Ok(Self {
            db,
            node,
            dispatch,
            relays,
            tallies,
            metrics,
            bell,
            shedding,
            stop,
            connections,
            workers,
            background,
            writer,
            recovered,
            drain,
        })
    }

    /// Says that a row was changed: an issue was scheduled, a service mail was queued.
    pub fn ring(&self) {
        self.bell.notify_one();
    }

    /// A handle that rings from elsewhere.
    pub fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.bell)
    }

    /// What is given up for want of something.
    pub fn shedding(&self) -> Arc<Shedding> {
        Arc::clone(&self.shedding)
    }

    /// What recovery found at the start.
    pub fn recovered(&self) -> Recovered {
        self.recovered
    }

    /// The relays and how they are.
    pub fn relays(&self) -> &[Arc<Relay>] {
        &self.relays
    }

    /// What stands between the queue and the wire now.
    pub fn dispatch(&self) -> &Arc<Dispatch> {
        &self.dispatch
    }

    /// What pages and `/metrics` read off the engine. It may outlive the engine.
    pub fn view(&self) -> View {
        View {
            metrics: Arc::clone(&self.metrics),
            dispatch: Arc::clone(&self.dispatch),
            tallies: Arc::clone(&self.tallies),
            relays: self.relays.clone(),
            shedding: Arc::clone(&self.shedding),
        }
    }

    /// Finishes the copies under way, within the configured bound, and stops. Whatever cannot be
    /// finished is settled from the journal at the next start, as after a crash: a database that
    /// cannot be written holds a stop up for [`CLOSING`] and no longer.
    pub async fn drain(self) {
        let Self { db, node, dispatch, connections, mut background, mut writer, .. } = self;
        let until = tokio::time::Instant::now() + self.drain;
        dispatch.drain();
        self.stop.cancel();
        if timeout_at(until, connections.wait()).await.is_err() {
            warn!(
                drain_ms = self.drain.as_millis() as u64,
                connections = connections.len(),
                "copies were still under way at the end of the drain; the journal keeps their state"
            );
            for worker in &self.workers {
                worker.abort();
            }
            connections.wait().await;
        }
        let closing = async {
            while background.join_next().await.is_some() {}
            // The writer ends once every sender of requests is gone.
            let _ = (&mut writer).await;
            if let Err(problem) = sign_off(&db, node).await {
                error!(error = %problem, "claims could not be released; the next start does it");
            }
        };
        if timeout_at(until + CLOSING, closing).await.is_err() {
            error!(
                "the database could not be written to the end; the journal keeps the outcomes, and \
                 the next start settles them"
            );
            background.shutdown().await;
            writer.abort();
        }
        info!("the delivery engine stopped");
    }
}

async fn register(db: &Db, uid: &str, lease: &Lease, now: Timestamp) -> db::Result<NodeId> {
    db.write("INSERT INTO node (uid, started_at, lease_until) VALUES ($1, $2, $3) RETURNING id")
        .bind(uid.to_owned())
        .bind(now)
        .bind(lease.renewal(now))
        .scalar()
        .await
}

/// Renews the lease when a quarter of it is over, and soon after the clock was set; then, due times
/// go with the clock.
async fn keep_lease(db: Db, node: NodeId, lease: Arc<Lease>, stop: CancellationToken) {
    let mut clock = Clock::new(Timestamp::now(), Instant::now());
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LEASE_LOOK) => {}
        }
        let now = Timestamp::now();
        if let Some(back) = clock.set_back(now, Instant::now()) {
            let moved = clock::bring_forward(&db, back, now).await;
            warn!(
                back_ms = back.as_millis() as u64,
                moved = moved.as_ref().copied().unwrap_or_default(),
                "the clock was set back; copies that wait were brought forward"
            );
            if let Err(problem) = moved {
                error!(error = %problem, "copies that wait will wait until the clock is where it was");
            }
        }
        if !lease.wants_renewal(now) {
            continue;
        }
        let renewed = db
            .write("UPDATE node SET lease_until = $2 WHERE id = $1")
            .bind(node)
            .bind(lease.renewal(now))
            .execute()
            .await;
        match renewed {
            Ok(_) => lease.renewed(now),
            Err(problem) => {
                error!(error = %problem, "the lease cannot be renewed; handoffs stop when it runs out");
            }
        }
    }
}

async fn sign_off(db: &Db, node: NodeId) -> db::Result<()> {
    let now = Timestamp::now();
    let mut tx = db.begin().await?;
    recovery::release_claims(&mut tx, now).await?;
    tx.query("UPDATE node SET stopped_at = $2, lease_until = $2 WHERE id = $1")
        .bind(node)
        .bind(now)
        .execute()
        .await?;
    tx.commit().await
}

/// What the dispatch is told of relays.
fn terms(config: &Config, providers: &Providers) -> Vec<RelayTerms> {
    let named = config.limits.provider.iter();
    let own =
        named.filter_map(|limit| Some((providers.by_name(&limit.name)?.0, limit.connections?)));
    let shipped = providers.iter().filter_map(|entry| Some((entry.id.0, entry.connections?)));
    let provider_connections: Arc<BTreeMap<i64, u32>> = Arc::new(shipped.chain(own).collect());
    let relay = |relay: &config::Relay| RelayTerms {
        name: relay.name.clone(),
        priority: relay.priority,
        weight: relay.weight,
        connections: relay.connections,
        provider_connections: Arc::clone(&provider_connections),
        breakers: config.breakers,
    };
    config.relay.iter().map(relay).collect()
}

/// The limits of the configuration, used as far as they were, and the providers that have one.
async fn limits(
    db: &Db,
    config: &Config,
    providers: &Providers,
    now: Timestamp,
) -> Result<(Limits, BTreeSet<i64>), StartError> {
    let names: Vec<String> = config.relay.iter().map(|relay| relay.name.clone()).collect();
    let provider = |key: &str, name: &str| {
        providers.by_name(name).map(|id| id.0).ok_or_else(|| {
            let known: Vec<_> = providers.iter().map(|provider| provider.name.as_str()).collect();
            StartError::Configuration(format!(
                "{key}: there is no provider `{name}`; those are: {}",
                known.join(", ")
            ))
        })
    };
    let mut limits = Limits::new(names.clone());
    if let Some(per_second) = config.limits.per_second {
        limits.add(LimitName::Total, Gcra::new(per_second, config.limits.burst));
    }
    for (index, relay) in config.relay.iter().enumerate() {
        if let Some(per_second) = relay.per_second {
            limits.add(LimitName::Relay(index), Gcra::new(per_second, relay.burst));
        }
    }
    let mut limited = BTreeSet::new();
    for limit in &config.limits.provider {
        let id = provider("limits.provider", &limit.name)?;
        if let Some(per_second) = limit.per_second {
            limits.add(LimitName::Provider(id), Gcra::new(per_second, limit.burst));
            limited.insert(id);
        }
    }
    for ramp in &config.limits.warm_up {
        let id =
            ramp.provider.as_deref().map(|name| provider("limits.warm_up", name)).transpose()?;
        // The configuration is refused when it names a relay that it does not have.
        if let Some(relay) = names.iter().position(|name| *name == ramp.relay) {
            limits.add_warm_up(relay, id, &ramp.copies_per_day);
        }
    }
    let kept = ledger::kept_uses(db).await?;
    limits.restore(kept.rates, &kept.warm_ups, now);
    Ok((limits, limited))
}

/// The signing keys of the configuration.
pub fn signers(config: &Config) -> Result<Vec<Signer>, StartError> {
    let signer = |dkim: &config::Dkim| {
        let fail = |problem: String| {
            StartError::Configuration(format!("dkim key {}: {problem}", dkim.key_file.display()))
        };
        let pem =
            std::fs::read_to_string(&dkim.key_file).map_err(|error| fail(error.to_string()))?;
        Signer::from_pem(&dkim.domain, &dkim.selector, &pem)
            .map_err(|error| fail(error.to_string()))
    };
    config.dkim.iter().map(signer).collect()
}
