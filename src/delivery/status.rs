//! What the running engine knows and rows do not: which limit holds it, how its relays are. It is
//! published to a row, so that the command line in another process can show it; and suspensions,
//! which are rows, are read here.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use super::{
    connection::Relay,
    dispatch::{Dispatch, LimitedBy},
    shedding::{Level, Shedding},
};
use crate::{
    db::{self, Db},
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
    /// Each relay.
    pub relays: Vec<RelayState>,
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
}

/// Publishes the state and follows suspensions until `stop`.
pub async fn publish(
    db: Db,
    dispatch: Arc<Dispatch>,
    relays: Vec<Arc<Relay>>,
    shedding: Arc<Shedding>,
    stop: CancellationToken,
) {
    let mut published: Option<EngineState> = None;
    loop {
        match suspended_relays(&db).await {
            Ok(suspended) => {
                for relay in &relays {
                    let is_suspended = suspended.contains(&relay.name);
                    if dispatch.set_suspended(relay.index, is_suspended) {
                        info!(relay = %relay.name, suspended = is_suspended, "a relay's use changed");
                    }
                }
                let mut state = state(&dispatch, &relays, &suspended);
                let verdict = shedding.verdict();
                if verdict.level > Level::Nothing {
                    state.limited_by = verdict.in_words();
                }
                let stale = published.as_ref().is_none_or(|last| {
                    let same = EngineState { at: state.at, ..last.clone() } == state;
                    !same || state.at.since(last.at) > FRESH / 3
                });
                if stale {
                    if let Err(problem) = write(&db, &state).await {
                        error!(error = %problem, "the engine's state cannot be published");
                    }
                    published = Some(state);
                }
            }
            Err(problem) => error!(error = %problem, "suspensions of relays cannot be read"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(TICK) => {}
        }
    }
}

fn state(dispatch: &Dispatch, relays: &[Arc<Relay>], suspended: &[String]) -> EngineState {
    let limited_by: LimitedBy = dispatch.limited_by();
    let relays = relays.iter().map(|relay| RelayState {
        name: relay.name.clone(),
        address: format!("{}:{}", relay.endpoint.host, relay.endpoint.port),
        suspended: suspended.contains(&relay.name),
        good: relay.health.is_good(),
        last_failure: relay.health.last_failure().map(|failure| (failure.at, failure.what)),
    });
    EngineState {
        at: Timestamp::now(),
        limited_by: limited_by.describe(),
        relays: relays.collect(),
    }
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
