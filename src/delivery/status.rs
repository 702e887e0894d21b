//! What the running engine knows and rows do not: what limits it, how its relays and breakers are. It
//! is published to a row, so that the command line in another process can show it; suspensions, which
//! are rows, are read here; and breakers' changes are written to the delivery log.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    breaker::{Change, State},
    dispatch::{Dispatch, Names, Notice, Standing},
    mx::DirectState,
    relay::Relay,
    shedding::{Level, Shedding},
};
use crate::{
    db::{self, Db, state::EventKind},
    event::{self, Event},
    id::{IssueId, NodeId},
    provider::Providers,
    timestamp::Timestamp,
};

/// How often the state is published while it changes.
const TICK: Duration = Duration::from_millis(500);
/// State that is older than this comes from a daemon that has stopped.
pub const FRESH: Duration = Duration::from_secs(10);

/// The engine's own state at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EngineState {
    /// When it was so.
    pub at: Timestamp,
    /// What holds mail back, in words.
    pub limited_by: String,
    /// What is given up for want of disk, database or memory, in words.
    pub shedding: Option<String>,
    /// What holds back the copies of each issue that are in memory, in words.
    pub issues: Vec<IssueLimit>,
    /// The same for each provider.
    pub providers: Vec<ProviderLimit>,
    /// Each relay.
    pub relays: Vec<RelayState>,
}

/// What limits one issue now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IssueLimit {
    /// The issue.
    pub issue: IssueId,
    /// In words.
    pub limited_by: String,
}

/// What limits mail to one provider now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProviderLimit {
    /// The provider's name.
    pub provider: String,
    /// In words.
    pub limited_by: String,
}

/// One relay at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RelayState {
    /// What operators call it.
    pub name: String,
    /// Where it is.
    pub address: String,
    /// Whether an operator suspended it.
    pub suspended: bool,
    /// Whether the last connection worked.
    pub good: bool,
    /// What went wrong last, and when.
    pub last_failure: Option<(Timestamp, String)>,
    /// What limits it, in words.
    pub limited_by: String,
    /// How many connections have copies in hand.
    pub in_use: u32,
    /// How many may have.
    pub connections: u32,
    /// Its breaker, and those of the providers there that are not free.
    pub breakers: Vec<BreakerState>,
    /// The destinations that it brings mail to, if it is of kind `mx`.
    #[serde(default)]
    pub direct: Option<DirectState>,
}

/// One breaker at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BreakerState {
    /// The provider it keeps mail from; none for the whole relay.
    pub provider: Option<String>,
    /// `closed`, `throttled`, `half_open` or `open`.
    pub state: String,
    /// Until when.
    pub until: Option<Timestamp>,
    /// Why.
    pub cause: String,
    /// How many connections may work there.
    pub connections: u32,
}

impl RelayState {
    /// Its own breaker, if that is not closed.
    pub fn breaker(&self) -> Option<&BreakerState> {
        let whole = |breaker: &&BreakerState| breaker.provider.is_none();
        self.breakers.iter().find(whole).filter(|breaker| breaker.state != State::Closed.word())
    }
}

impl BreakerState {
    /// Whether there is something to say: it is not closed, or it is a provider's that gets fewer
    /// connections than it may have.
    pub fn is_notable(&self) -> bool {
        self.provider.is_some() || self.state != State::Closed.word()
    }

    /// In words: `provider google: open until …: why`.
    pub fn describe(&self) -> String {
        let place =
            self.provider.as_ref().map_or("relay".to_owned(), |name| format!("provider {name}"));
        if self.state == State::Closed.word() {
            let plural = if self.connections == 1 { "" } else { "s" };
            return format!("{place}: {} connection{plural} at once", self.connections);
        }
        let state = self.state.replace('_', "-");
        let until = self.until.map_or_else(String::new, |until| format!(" until {until}"));
        format!("{place}: {state}{until}: {}", self.cause)
    }
}

/// What the state is read off and where it goes.
pub struct Publisher {
    /// Where it is written.
    pub db: Db,
    /// The daemon, for the log.
    pub node: NodeId,
    /// What limits mail.
    pub dispatch: Arc<Dispatch>,
    /// How relays are reached.
    pub relays: Vec<Arc<Relay>>,
    /// What people call providers.
    pub providers: Arc<Providers>,
    /// What is given up for want of something.
    pub shedding: Arc<Shedding>,
}

impl Publisher {
    /// Publishes the state, follows suspensions and logs breakers' changes until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let mut published: Option<EngineState> = None;
        let mut notices = Vec::new();
        loop {
            // What happened up to the end is logged too.
            let stopping = stop.is_cancelled();
            match suspended_relays(&self.db).await {
                Ok(suspended) => self.suspend(&suspended),
                Err(problem) => error!(error = %problem, "suspensions of relays cannot be read"),
            }
            let news = self.dispatch.take_notices();
            for notice in &news {
                self.tell(notice);
            }
            notices.extend(news);
            if let Err(problem) = self.record(&mut notices).await {
                error!(error = %problem, "changes of breakers cannot be logged");
            }
            let state = self.state();
            let stale = published.as_ref().is_none_or(|last| {
                let same = EngineState { at: state.at, ..last.clone() } == state;
                !same || state.at.since(last.at) > FRESH / 3
            });
            if stale {
                if let Err(problem) = write(&self.db, &state).await {
                    error!(error = %problem, "the engine's state cannot be published");
                }
                published = Some(state);
            }
            if stopping {
                return;
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(TICK) => {}
            }
        }
    }

    fn suspend(&self, suspended: &[String]) {
        for relay in &self.relays {
            let is_suspended = suspended.contains(&relay.name);
            if self.dispatch.set_suspended(relay.index, is_suspended) {
                info!(relay = %relay.name, suspended = is_suspended, "a relay's use changed");
            }
        }
    }

    fn names(&self) -> Names<'_> {
        Names { relays: self.dispatch.relay_names(), providers: &self.providers }
    }

    fn state(&self) -> EngineState {
        let names = self.names();
        let explanation = self.dispatch.explain();
        let standings = self.dispatch.standings();
        let relays = self.relays.iter().zip(standings).zip(&explanation.relays);
        let verdict = self.shedding.verdict();
        let shedding = (verdict.level > Level::Nothing).then(|| verdict.in_words());
        EngineState {
            at: Timestamp::now(),
            limited_by: shedding.clone().unwrap_or_else(|| explanation.everything.describe(&names)),
            shedding,
            issues: explanation
                .issues
                .iter()
                .map(|found| IssueLimit { issue: found.issue, limited_by: found.describe(&names) })
                .collect(),
            providers: explanation
                .providers
                .iter()
                .map(|(provider, by)| ProviderLimit {
                    provider: names.provider(*provider).to_owned(),
                    limited_by: by.describe(&names),
                })
                .collect(),
            relays: relays
                .map(|((relay, standing), by)| RelayState {
                    name: relay.name.clone(),
                    address: relay.address.clone(),
                    suspended: standing.suspended,
                    good: relay.health.is_good(),
                    last_failure: relay
                        .health
                        .last_failure()
                        .map(|failure| (failure.at, failure.what)),
                    limited_by: by.describe(&names),
                    in_use: standing.in_use,
                    connections: standing.connections,
                    breakers: breakers(&standing, &names),
                    direct: relay.direct.as_ref().map(|direct| direct.state()),
                })
                .collect(),
        }
    }

    /// Says in the process log what a breaker did.
    fn tell(&self, notice: &Notice) {
        let names = self.names();
        let relay = names.relay(notice.relay);
        let provider = notice.provider.map_or("all", |provider| names.provider(provider));
        let cause = &notice.cause;
        match notice.change {
            Change::Opened(until) => {
                warn!(relay, provider, %until, cause, "a breaker opened: nothing is sent there");
            }
            Change::Throttled(until) => {
                warn!(relay, provider, %until, cause, "a breaker throttles to one connection");
            }
            Change::Closed => info!(relay, provider, "a breaker closed: mail goes there again"),
        }
    }

    /// Writes openings and closings to the delivery log; what cannot be written is tried again.
    async fn record(&self, notices: &mut Vec<Notice>) -> db::Result<()> {
        let events: Vec<Event> = notices.iter().filter_map(|notice| self.event(notice)).collect();
        if !events.is_empty() {
            let mut tx = self.db.begin().await?;
            event::record(&mut tx, &events).await?;
            tx.commit().await?;
        }
        notices.clear();
        Ok(())
    }

    fn event(&self, notice: &Notice) -> Option<Event> {
        let names = self.names();
        let event = match notice.change {
            Change::Throttled(_) => return None,
            Change::Opened(until) => {
                let text = format!("until {until}: {}", notice.cause);
                Event::new(EventKind::BreakerOpened, notice.at).because(text)
            }
            Change::Closed => Event::new(EventKind::BreakerClosed, notice.at),
        };
        let relay = Some(names.relay(notice.relay).to_owned());
        Some(Event { node_id: Some(self.node), relay, provider: notice.provider, ..event })
    }
}

fn breakers(standing: &Standing, names: &Names<'_>) -> Vec<BreakerState> {
    let breaker = |provider: Option<String>, state: State, cause: &str, connections| BreakerState {
        provider,
        state: state.word().to_owned(),
        until: match state {
            State::Throttled(until) | State::Open(until) => Some(until),
            State::Closed | State::HalfOpen => None,
        },
        cause: cause.to_owned(),
        connections,
    };
    let (state, cause) = &standing.breaker;
    let whole = breaker(None, *state, cause, standing.connections);
    let of_providers = standing.providers.iter().map(|(provider, state, cause, connections)| {
        breaker(Some(names.provider(*provider).to_owned()), *state, cause, *connections)
    });
    std::iter::once(whole).chain(of_providers).collect()
}

async fn suspended_relays(db: &Db) -> db::Result<Vec<String>> {
    let rows: Vec<(String,)> =
        db.query("SELECT name FROM relay_state WHERE suspended_at IS NOT NULL").all().await?;
    Ok(rows.into_iter().map(|(name,)| name).collect())
}

async fn write(db: &Db, state: &EngineState) -> db::Result<()> {
    db.write(
        "INSERT INTO meta (name, value) VALUES ('engine_state', $1) \
         ON CONFLICT (name) DO UPDATE SET value = excluded.value",
    )
    .bind(serde_json::to_string(state).unwrap_or_default())
    .execute()
    .await?;
    Ok(())
}

/// The state that a running daemon published last; none when none runs.
pub async fn read(db: &Db) -> db::Result<Option<EngineState>> {
    let json: Option<String> =
        db.query("SELECT value FROM meta WHERE name = 'engine_state'").optional_scalar().await?;
    let state: Option<EngineState> = json.and_then(|json| serde_json::from_str(&json).ok());
    Ok(state.filter(|state| Timestamp::now().since(state.at) < FRESH))
}
