//! How many mails one client may bring in a minute. Pure: the moment is given.

use std::{
    collections::HashMap,
    net::IpAddr,
    time::{Duration, Instant},
};

/// Clients that are remembered: some 60 bytes each.
const CLIENTS_MAX: usize = 10_000;
/// What a client may bring at once after a minute of silence is a minute's worth.
const MINUTE: Duration = Duration::from_mins(1);

/// The mails of each client, an IPv4 address or an IPv6 /64. One instant a client is enough: when
/// it would be done if its mails had come evenly (GCRA).
#[derive(Debug)]
pub(super) struct Allowance {
    interval: Duration,
    done_at: HashMap<IpAddr, Instant>,
    swept_at: Option<Instant>,
}

impl Allowance {
    /// Lets every client bring `per_minute` mails.
    pub(super) fn new(per_minute: u32) -> Self {
        let interval = MINUTE / per_minute.max(1);
        Self { interval, done_at: HashMap::new(), swept_at: None }
    }

    /// Counts a mail of `client`; false when it has brought enough.
    pub(super) fn take(&mut self, client: IpAddr, now: Instant) -> bool {
        if !self.done_at.contains_key(&client) && !self.has_room(now) {
            return false;
        }
        let done_at = self.done_at.entry(client).or_insert(now);
        let next = (*done_at).max(now) + self.interval;
        let allowed = next.duration_since(now) <= MINUTE;
        if allowed {
            *done_at = next;
        }
        allowed
    }

    /// Forgets those whose mails are long done; looks for them once a second at most.
    fn has_room(&mut self, now: Instant) -> bool {
        let fresh = self.swept_at.is_some_and(|at| now.duration_since(at).as_secs() == 0);
        if self.done_at.len() >= CLIENTS_MAX && !fresh {
            self.swept_at = Some(now);
            self.done_at.retain(|_, done_at| *done_at > now);
        }
        self.done_at.len() < CLIENTS_MAX
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn client(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(number))
    }

    #[test]
    fn a_minutes_worth_at_once_and_then_evenly() {
        let (mut allowance, start) = (Allowance::new(60), Instant::now());
        let taken = |allowance: &mut Allowance, who, at| {
            (0..100).filter(|_| allowance.take(client(who), start + at)).count()
        };
        assert_eq!(taken(&mut allowance, 1, Duration::ZERO), 60);
        assert_eq!(taken(&mut allowance, 2, Duration::ZERO), 60, "each client has its own");
        assert_eq!(taken(&mut allowance, 1, Duration::from_millis(2_500)), 2);
        assert_eq!(taken(&mut allowance, 1, Duration::from_mins(5)), 60, "and no more is saved up");
    }

    #[test]
    fn memory_is_bounded_and_clients_that_are_done_make_room() {
        let (mut allowance, start) = (Allowance::new(6), Instant::now());
        let all = CLIENTS_MAX as u32;
        assert!((0..all).all(|number| allowance.take(client(number), start)));
        assert!(!allowance.take(client(all), start));
        assert!(allowance.take(client(0), start), "who is known is judged by its own mails");
        let later = start + Duration::from_secs(11);
        assert!(allowance.take(client(all), later));
        assert!(allowance.done_at.len() < 10);
    }
}
