//! How direct delivery fares, for lists and metrics.

use serde::{Deserialize, Serialize};

use super::{Direct, lock};
use crate::{delivery::breaker::State, timestamp::Timestamp};

/// How many destinations in trouble are told of: whoever has more has another trouble.
const TROUBLED_MAX: usize = 50;

/// Direct delivery at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectState {
    /// How many destinations are known.
    pub destinations: usize,
    /// How many sessions there are, those that wait for their next copy too.
    pub sessions: u32,
    /// How many destinations get no mail now, or less than they could.
    pub in_trouble: usize,
    /// The first of those, by name.
    pub troubled: Vec<DestinationState>,
}

/// One destination in trouble.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestinationState {
    /// Its hosts.
    pub name: String,
    /// `throttled`, `half_open` or `open`.
    pub state: String,
    /// Until when.
    pub until: Option<Timestamp>,
    /// Why.
    pub cause: String,
}

impl Direct {
    /// How it fares now.
    pub fn state(&self) -> DirectState {
        let now = Timestamp::now();
        let destinations = lock(&self.destinations);
        let known = destinations.len();
        let standings = destinations.values().map(|destination| destination.standing(now));
        let troubled = standings.filter(|found| found.breaker != State::Closed);
        let mut troubled: Vec<DestinationState> = troubled
            .map(|found| DestinationState {
                name: found.name,
                state: found.breaker.word().to_owned(),
                until: match found.breaker {
                    State::Throttled(until) | State::Open(until) => Some(until),
                    State::Closed | State::HalfOpen => None,
                },
                cause: found.cause,
            })
            .collect();
        drop(destinations);
        let in_trouble = troubled.len();
        troubled.sort_by(|a, b| a.name.cmp(&b.name));
        troubled.truncate(TROUBLED_MAX);
        DirectState {
            destinations: known,
            sessions: self.open.load(std::sync::atomic::Ordering::Relaxed),
            in_trouble,
            troubled,
        }
    }
}

impl DestinationState {
    /// In words: `mx.example: open until …: why`.
    pub fn describe(&self) -> String {
        let until = self.until.map_or_else(String::new, |until| format!(" until {until:.0}"));
        format!("{}: {}{until}: {}", self.name, self.state, self.cause)
    }
}
