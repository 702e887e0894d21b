//! One destination: the set of hosts that takes the mail of one domain, or of many. Domains with the
//! same hosts are one destination, because that is what its operator sees; they share sessions, limits
//! and a breaker. A destination that is down puts off its own copies and nobody else's.
//!
//! No clock and no waiting here: times come in as values.

use std::{
    fmt::Write as _,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    config::Breakers,
    delivery::{
        breaker::{Admission, Breaker, Hit, State as BreakerState},
        limits::Gcra,
    },
    dns::{MailHost, MailHosts},
    timestamp::Timestamp,
};

/// After this time nobody waits any more for what became of the message of a half-open breaker.
const PROBE_MAX: Duration = Duration::from_mins(20);
/// How soon a copy is looked at again that found all connections busy.
const BUSY: Duration = Duration::from_secs(1);
/// The shortest and the longest distance at which copies that wait are put one behind the other.
const GAP: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(1));

/// One destination.
#[derive(Debug)]
pub struct Destination {
    /// Its hosts, as people read them: commas between those of different preference, bars between
    /// equals.
    pub name: String,
    /// Who takes its mail, in the order of preference.
    pub hosts: MailHosts,
    /// Whether only encrypted sessions with hosts whose certificate is good will do.
    pub verified_tls: bool,
    /// How many sessions there may be.
    connections: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    breaker: Breaker,
    rate: Option<Gcra>,
    /// Sessions that stand or are being made.
    open: u32,
    /// Whether a session could be made, and nothing has failed since.
    proven: bool,
    /// When the message of a half-open breaker went on its way.
    probe_since: Option<Timestamp>,
    /// About how long one copy takes.
    pace: Duration,
    /// Where the line of copies that wait ends.
    line_end: Timestamp,
    used_at: Timestamp,
}

/// Whether a copy may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// It may.
    Go,
    /// Not before this time, for a reason that people can read.
    Later(Timestamp, String),
}

/// How a destination is, for people.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Its name.
    pub name: String,
    /// Its breaker.
    pub breaker: BreakerState,
    /// Why that is not closed.
    pub cause: String,
}

/// On what terms destinations are used.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// How many sessions each may have.
    pub connections: u32,
    /// Copies a second to each.
    pub per_second: Option<f64>,
    /// When breakers trip, and for how long.
    pub breakers: Breakers,
}

/// What tells one destination from another.
pub(super) fn name_of(hosts: &[MailHost]) -> String {
    let mut name = String::new();
    for (at, host) in hosts.iter().enumerate() {
        let between = match at.checked_sub(1).map(|before| &hosts[before]) {
            None => "",
            Some(before) if before.preference == host.preference => "|",
            Some(_) => ",",
        };
        let _ = write!(name, "{between}{}", host.host);
    }
    name
}

impl Destination {
    /// A destination that nothing is known of.
    pub fn new(name: String, hosts: MailHosts, verified_tls: bool, terms: &Terms) -> Self {
        // Nobody answers, or everybody is refused: one small server needs more rest than a relay.
        let breakers = Breakers {
            rest: terms.breakers.open_for,
            rest_max: terms.breakers.open_for_max,
            ..terms.breakers
        };
        Self {
            name,
            hosts,
            verified_tls,
            connections: terms.connections,
            state: Mutex::new(State {
                breaker: Breaker::new(breakers),
                rate: terms.per_second.map(|rate| Gcra::new(rate, None)),
                open: 0,
                proven: false,
                probe_since: None,
                pace: Duration::from_millis(20),
                line_end: Timestamp::default(),
                used_at: Timestamp::default(),
            }),
        }
    }

    /// Whether one copy more may go; if so it is counted.
    pub fn take_turn(&self, now: Timestamp) -> Turn {
        let mut state = self.lock();
        state.used_at = now;
        if state.probe_since.is_some_and(|since| now.since(since) > PROBE_MAX) {
            state.withdraw_probe(now);
        }
        match state.breaker.admits(now) {
            Admission::OneMessage => {
                state.breaker.probe_begins();
                state.probe_since = Some(now);
                return Turn::Go;
            }
            Admission::Nothing(until) => {
                let until = until.unwrap_or_else(|| now.plus(BUSY));
                let why = format!("{}: {}", self.name, state.breaker.cause());
                let gap = state.pace;
                return Turn::Later(state.stand_in_line(until, gap), why);
            }
            Admission::All | Admission::OneConnection => {}
        }
        let Some(rate) = &mut state.rate else { return Turn::Go };
        if rate.available(now) > 0 {
            rate.take(1, now);
            return Turn::Go;
        }
        let (until, gap) = (rate.next_at(now), rate.interval());
        let until = state.stand_in_line(until, gap);
        Turn::Later(until, format!("{}: its rate is used up", self.name))
    }

    /// Whether one session more may be made; if so it is counted, and [`Destination::closed`] has to
    /// follow. While nothing is known of a destination it is approached by one at a time.
    pub fn may_connect(&self, now: Timestamp) -> Turn {
        let mut state = self.lock();
        let throttled = state.breaker.admits(now) != Admission::All;
        let most = if state.proven && !throttled { self.connections } else { 1 };
        if state.open < most {
            state.open += 1;
            return Turn::Go;
        }
        let gap = state.pace / most;
        let until = state.stand_in_line(now.plus(BUSY), gap);
        Turn::Later(until, format!("{}: its {most} connections are busy", self.name))
    }

    /// A session was made.
    pub fn reached(&self) {
        self.lock().proven = true;
    }

    /// A session is gone, or could not be made.
    pub fn closed(&self) {
        let mut state = self.lock();
        state.open = state.open.saturating_sub(1);
    }

    /// No session could be made.
    pub fn unreachable(&self, cause: &str, now: Timestamp) {
        let mut state = self.lock();
        state.proven = false;
        state.probe_since = None;
        let _ = state.breaker.unreachable(cause, now);
    }

    /// A copy was taken, or refused for its own sake.
    pub fn fine(&self, took: Duration, now: Timestamp) {
        let mut state = self.lock();
        state.pace = (state.pace * 7 + took) / 8;
        if state.probe_since.take().is_some() {
            let _ = state.breaker.probe_passed();
        }
        let _ = state.breaker.outcomes(1, 0, "", now);
    }

    /// A copy was refused for now and not for its own sake, or the session broke; and what a reply
    /// rule says of it.
    pub fn refused(&self, cause: &str, hit: Option<&Hit>, now: Timestamp) {
        let mut state = self.lock();
        if state.probe_since.take().is_some() {
            let _ = state.breaker.probe_failed(cause, now);
        } else {
            let _ = state.breaker.outcomes(0, 1, cause, now);
        }
        if let Some(hit) = hit {
            let _ = state.breaker.hit(hit, cause, now);
        }
    }

    /// The copy that was to go did not.
    pub fn withdrawn(&self, now: Timestamp) {
        self.lock().withdraw_probe(now);
    }

    /// Whether nothing is lost when it is forgotten: nobody is connected, nothing failed lately.
    pub fn is_forgettable(&self, now: Timestamp) -> bool {
        let state = self.lock();
        let quiet = now.since(state.used_at) > Duration::from_mins(10) || now < state.used_at;
        state.open == 0 && state.breaker.is_passable(now) && quiet
    }

    /// How it is.
    pub fn standing(&self, now: Timestamp) -> Standing {
        let state = self.lock();
        Standing {
            name: self.name.clone(),
            breaker: state.breaker.state(now),
            cause: state.breaker.cause().to_owned(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change leaves the state whole, so a panic elsewhere does no harm here.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A time for one more copy that waits, not before `earliest` and `gap` behind the one before it:
    /// together they would only be in each other's way.
    fn stand_in_line(&mut self, earliest: Timestamp, gap: Duration) -> Timestamp {
        let at = self.line_end.max(earliest);
        // A clock that was set back leaves no line for as long as the jump.
        let far = at.since(earliest) > Duration::from_hours(4);
        let at = if far { earliest } else { at };
        self.line_end = at.plus(gap.clamp(GAP.0, GAP.1));
        at
    }

    fn withdraw_probe(&mut self, now: Timestamp) {
        if self.probe_since.take().is_some() {
            self.breaker.probe_withdrawn(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_microseconds(1_700_000_000_000_000).plus(SECOND * seconds as u32)
    }

    fn destination(connections: u32, per_second: Option<f64>) -> Destination {
        let terms = Terms { connections, per_second, breakers: Breakers::default() };
        let hosts = MailHosts::Explicit(Vec::new());
        Destination::new("mx.example".to_owned(), hosts, false, &terms)
    }

    fn later(turn: &Turn) -> Timestamp {
        match turn {
            Turn::Later(until, _) => *until,
            Turn::Go => panic!("it went"),
        }
    }

    #[test]
    fn a_name_shows_hosts_and_their_order() {
        let host = |preference, host: &str| MailHost { preference, host: host.to_owned() };
        let hosts = [host(5, "a"), host(5, "b"), host(9, "c")];
        assert_eq!(name_of(&hosts), "a|b,c");
        assert_eq!(name_of(&[]), "");
    }

    #[test]
    fn strangers_are_approached_by_one_at_a_time() {
        let to = destination(3, None);
        assert_eq!(to.may_connect(at(0)), Turn::Go);
        assert_eq!(later(&to.may_connect(at(0))), at(1));
        assert!(later(&to.may_connect(at(0))) > at(1), "who waits stands in line");
        to.reached();
        assert_eq!(to.may_connect(at(0)), Turn::Go);
        assert_eq!(to.may_connect(at(0)), Turn::Go);
        assert!(matches!(to.may_connect(at(0)), Turn::Later(..)));
        to.closed();
        assert_eq!(to.may_connect(at(0)), Turn::Go);
    }

    #[test]
    fn nobody_home_is_asked_again_by_one_message_after_growing_rests() {
        let to = destination(3, None);
        let rest = Breakers::default().open_for.as_secs();
        let mut now = 0;
        for length in [rest, rest * 2, rest * 4] {
            assert_eq!(to.take_turn(at(now)), Turn::Go);
            to.unreachable("connection refused", at(now));
            let Turn::Later(until, why) = to.take_turn(at(now)) else { panic!("it went") };
            assert!(until >= at(now + length), "{until:?}");
            assert_eq!(why, "mx.example: connection refused");
            now += length;
        }
        assert_eq!(to.take_turn(at(now)), Turn::Go);
        assert!(matches!(to.take_turn(at(now)), Turn::Later(..)), "one message");
        to.withdrawn(at(now));
        assert_eq!(to.take_turn(at(now)), Turn::Go);
        to.fine(SECOND, at(now));
        assert_eq!(to.take_turn(at(now)), Turn::Go);
        assert_eq!(to.take_turn(at(now)), Turn::Go);
    }

    #[test]
    fn a_message_that_nobody_hears_of_does_not_keep_a_breaker_half_open() {
        let to = destination(3, None);
        to.unreachable("gone", at(0));
        let soon = Breakers::default().open_for.as_secs();
        assert_eq!(to.take_turn(at(soon)), Turn::Go);
        assert!(matches!(to.take_turn(at(soon + 60)), Turn::Later(..)));
        assert_eq!(to.take_turn(at(soon + PROBE_MAX.as_secs() + 1)), Turn::Go);
    }

    #[test]
    fn a_rate_lets_its_burst_through_and_spaces_the_others() {
        let to = destination(3, Some(2.0));
        assert_eq!([to.take_turn(at(0)), to.take_turn(at(0))], [Turn::Go, Turn::Go]);
        let waits: Vec<Timestamp> = (0..4).map(|_| later(&to.take_turn(at(0)))).collect();
        for pair in waits.windows(2) {
            assert_eq!(pair[1].since(pair[0]), Duration::from_millis(500));
        }
        assert_eq!(to.take_turn(waits[0]), Turn::Go);
    }
}
