//! The parts of an engine while it is put together: what earlier daemons left is settled, then every part
//! is made, and started in the order in which they need each other. Whatever can fail does so before
//! anything runs.

use std::{
    collections::BTreeSet,
    sync::{Arc, RwLock, atomic::AtomicI64},
};

use tokio::{
    sync::Notify,
    task::{AbortHandle, JoinHandle, JoinSet},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Parts, StartError,
    node::{Node, keep_lease},
    settings,
};
use crate::{
    config::Config,
    db::Db,
    delivery::{
        clock::Tempo,
        compose::{Composer, Ingredients},
        conductor::{Conductor, Course, in_motion},
        connection::{Connection, Shared},
        dispatch::Dispatch,
        feeder::Feeder,
        grouping::Grouping,
        journal::{self, Journal},
        ledger::{Ledger, Writer},
        mark::{self, Mark},
        recovery::{self, Recovered},
        relay::Relay,
        restored,
        rule_halts::RuleHalts,
        shedding::Shedding,
        status::Publisher,
        tallies::{self, Tallies},
    },
    dns::Resolver,
    link::Links,
    provider::Providers,
    telemetry::Metrics,
    timestamp::Timestamp,
};

/// What a daemon keeps beside its database, begun anew after what was there before was made use of.
pub(super) struct Records {
    journal: Arc<Journal>,
    mark: Mark,
    /// What became of what earlier daemons left.
    pub(super) recovered: Recovered,
}

impl Records {
    /// Settles what earlier daemons left behind, and begins records for `node`.
    pub(super) async fn of_the_past(
        db: &Db,
        config: &Config,
        node: &Node,
        now: Timestamp,
    ) -> Result<Self, StartError> {
        let path = config.journal_file();
        let journal_failed =
            |source| StartError::Journal { path: path.display().to_string(), source };
        let marked = config.mark_file();
        let mark_failed = |source| StartError::Mark { path: marked.display().to_string(), source };
        let kept = mark::read(&marked).map_err(mark_failed)?;
        let (lineage, is_older) = restored::look(db, kept.as_ref(), now).await?;
        // What an older database does not know of, the journal of a younger one cannot tell by silence.
        let remains = journal::read(&path).map_err(journal_failed)?.filter(|_| !is_older);
        let rules = recovery::Rules {
            retry_delays: &config.sending.retry_delays,
            brake_percent: config.bounces.brake_percent,
        };
        let recovered = recovery::recover(db, remains.as_ref(), node.id, rules, now).await?;
        let journal =
            Journal::create(&path, &node.uid, lineage.handoffs).map_err(journal_failed)?;
        let mark = Mark::create(&marked, &lineage).map_err(mark_failed)?;
        Ok(Self { journal: Arc::new(journal), mark, recovered })
    }
}

/// Every part that others need.
pub(super) struct Assembly {
    pub(super) db: Db,
    config: Arc<Config>,
    providers: Arc<Providers>,
    pub(super) node: Node,
    tempo: Tempo,
    pub(super) relays: Vec<Arc<Relay>>,
    pub(super) dispatch: Arc<Dispatch>,
    limited_providers: BTreeSet<i64>,
    pub(super) tallies: Arc<Tallies>,
    pub(super) metrics: Arc<Metrics>,
    composer: Arc<Composer>,
    grouping: Option<Arc<Grouping>>,
    rule_halts: Arc<RuleHalts>,
    course: Course,
    pub(super) bell: Arc<Notify>,
    pub(super) shedding: Arc<Shedding>,
    pub(super) stop: CancellationToken,
}

impl Assembly {
    /// Makes the parts; none of them runs yet.
    pub(super) async fn new(
        parts: Parts,
        node: Node,
        tempo: Tempo,
        now: Timestamp,
    ) -> Result<Self, StartError> {
        let Parts { db, config, keyring, renderer, providers, speed: _ } = parts;
        let relays = Relay::all(&config).map_err(StartError::Configuration)?;
        let (limits, limited_providers) = settings::limits(&db, &config, &providers, now).await?;
        let terms = settings::terms(&config, &providers);
        let names = config.relay.iter().map(|relay| relay.name.as_str());
        let metrics = Arc::new(Metrics::new(&providers, names));
        let composer = Composer::new(Ingredients {
            db: db.clone(),
            keyring,
            links: Links::new(&config.public_url),
            renderer,
            signers: settings::signers(&config)?,
            mail: config.mail.clone(),
            work: metrics.work().clone(),
        });
        let bell = Arc::new(Notify::new());
        let grouping = if config.dns.group_by_mx {
            let resolver = Resolver::new(&config.dns).map_err(StartError::Configuration)?;
            let (providers, bell) = (Arc::clone(&providers), Arc::clone(&bell));
            Some(Arc::new(Grouping::new(db.clone(), resolver, providers, bell)))
        } else {
            None
        };
        let tallies = Arc::new(Tallies::default());
        for issue in in_motion(&db).await? {
            tallies.put(issue.id, tallies::load(&db, issue.id).await?);
        }
        Ok(Self {
            node,
            tempo,
            relays,
            dispatch: Arc::new(Dispatch::new(terms, limits).at(tempo)),
            limited_providers,
            tallies,
            metrics,
            composer: Arc::new(composer),
            grouping,
            rule_halts: Arc::new(RuleHalts::new(tempo)),
            course: Arc::new(RwLock::new(Vec::new())),
            bell,
            shedding: Arc::new(Shedding::default()),
            stop: CancellationToken::new(),
            db,
            config,
            providers,
        })
    }

    /// Starts who writes the ledger.
    pub(super) fn write(&self, records: Records) -> (Arc<Journal>, Ledger, JoinHandle<()>) {
        let Records { journal, mark, recovered: _ } = records;
        let writer = Writer {
            db: self.db.clone(),
            node: self.node.id,
            journal: Arc::clone(&journal),
            mark,
            tallies: Arc::clone(&self.tallies),
            dispatch: Arc::clone(&self.dispatch),
            brake_percent: self.config.bounces.brake_percent,
            metrics: Arc::clone(&self.metrics),
        };
        let (ledger, writer) = writer.start();
        (journal, ledger, writer)
    }

    /// Starts the connections of every relay.
    pub(super) fn connect(
        &self,
        ledger: &Ledger,
        journal: Arc<Journal>,
    ) -> (TaskTracker, Vec<AbortHandle>) {
        let shared = Arc::new(Shared {
            dispatch: Arc::clone(&self.dispatch),
            ledger: ledger.clone(),
            journal,
            composer: Arc::clone(&self.composer),
            node: self.node.id,
            lease: Arc::clone(&self.node.lease),
            retry_delays: Arc::from(self.config.sending.retry_delays.as_slice()),
            idle: self.config.smtp.idle,
            sessions: AtomicI64::new(1),
            metrics: Arc::clone(&self.metrics),
            rule_halts: Arc::clone(&self.rule_halts),
            stop: self.stop.clone(),
        });
        let connections = TaskTracker::new();
        let mut workers = Vec::new();
        for (relay, settings) in self.relays.iter().zip(&self.config.relay) {
            for number in 0..settings.connections {
                // With four connections or more, one is kept free for confirmations.
                let reserved = settings.connections >= 4 && number == 0;
                let connection = Connection::new(Arc::clone(&shared), Arc::clone(relay), reserved);
                workers.push(connections.spawn(connection.run()).abort_handle());
            }
        }
        connections.close();
        (connections, workers)
    }

    /// Starts what goes on behind the connections: who says what is to be sent, who fetches it, and
    /// those who look after the lease, the machine, the relays and what operators see.
    pub(super) async fn watch(&self, ledger: Ledger) -> JoinSet<()> {
        self.shedding.look_around(&self.config.shedding, &self.config.data_folder).await;
        let mut background = JoinSet::new();
        background.spawn(self.conductor(ledger.clone()).run(self.stop.clone()));
        background.spawn(self.feeder(ledger).run(self.stop.clone()));
        let (db, lease) = (self.db.clone(), Arc::clone(&self.node.lease));
        background.spawn(keep_lease(db, self.node.id, lease, self.stop.clone()));
        let (db, config) = (self.db.clone(), Arc::clone(&self.config));
        let (shedding, stop) = (Arc::clone(&self.shedding), self.stop.clone());
        background.spawn(async move {
            shedding.watch(db, &config.shedding, &config.data_folder, stop).await;
        });
        background.spawn(self.publisher().run(self.stop.clone()));
        for relay in &self.relays {
            let Some(direct) = relay.direct.clone() else { continue };
            direct.keep_policies_in(&self.db);
            let (index, dispatch) = (relay.index, Arc::clone(&self.dispatch));
            let (idle, stop) = (self.config.smtp.idle, self.stop.clone());
            background.spawn(async move { direct.run(index, &dispatch, idle, stop).await });
        }
        let (timer, until) = (Arc::clone(&self.dispatch), self.stop.clone());
        background.spawn(async move {
            tokio::select! {
                () = until.cancelled() => {}
                () = timer.run_timer() => {}
            }
        });
        background
    }

    fn conductor(&self, ledger: Ledger) -> Conductor {
        Conductor {
            db: self.db.clone(),
            grouping: self.grouping.clone(),
            config: Arc::clone(&self.config),
            providers: Arc::clone(&self.providers),
            dispatch: Arc::clone(&self.dispatch),
            ledger,
            tallies: Arc::clone(&self.tallies),
            rule_halts: Arc::clone(&self.rule_halts),
            relays: self.relays.clone(),
            course: Arc::clone(&self.course),
            metrics: Arc::clone(&self.metrics),
            shedding: Arc::clone(&self.shedding),
            bell: Arc::clone(&self.bell),
            tempo: self.tempo,
        }
    }

    fn feeder(&self, ledger: Ledger) -> Feeder {
        Feeder {
            db: self.db.clone(),
            dispatch: Arc::clone(&self.dispatch),
            ledger,
            composer: Arc::clone(&self.composer),
            course: Arc::clone(&self.course),
            shedding: Arc::clone(&self.shedding),
            limited_providers: self.limited_providers.clone(),
            tempo: self.tempo,
        }
    }

    fn publisher(&self) -> Publisher {
        Publisher {
            db: self.db.clone(),
            node: self.node.id,
            dispatch: Arc::clone(&self.dispatch),
            relays: self.relays.clone(),
            providers: Arc::clone(&self.providers),
            shedding: Arc::clone(&self.shedding),
        }
    }
}
