//! What workers tell the board of slices, copies and sessions, and what breakers and concurrency make
//! of it.

use super::{Board, NOTICES_MAX};
use crate::{
    bounce::classify::Scope,
    delivery::{
        breaker::Change,
        dispatch::{Notice, Report, Wrong, slots::Probe},
    },
    timestamp::Timestamp,
};

/// So many connections in a row that cannot be made, while others stand, count as if none stood.
const FAILURES_MAX: u32 = 5;

impl Board {
    /// A worker is through with its slice, `fine` copies of which it has not reported yet.
    pub(in crate::delivery::dispatch) fn done(&mut self, worker: usize, fine: u32, now: Timestamp) {
        let hands = &mut self.workers[worker];
        let relay = hands.relay;
        let Some(provider) = hands.busy else { return };
        let probe = hands.probe.take();
        hands.busy = hands.next.take();
        let (idle, works_here) = (hands.busy.is_none(), hands.busy == Some(provider));
        self.note_fine(relay, provider, fine, now);
        self.end_probe(relay, provider, probe, fine > 0, now);
        let slot = &mut self.relays[relay];
        if !works_here {
            let pair = slot.pair(provider);
            pair.in_use = pair.in_use.saturating_sub(1);
        }
        if idle {
            slot.in_use = slot.in_use.saturating_sub(1);
        }
    }

    fn note_fine(&mut self, relay: usize, provider: i64, fine: u32, now: Timestamp) {
        if fine == 0 {
            return;
        }
        let slot = &mut self.relays[relay];
        slot.failures = 0;
        slot.concurrency.succeeded(fine);
        // Without a refusal nothing can trip.
        let _ = slot.breaker.outcomes(fine, 0, "", now);
        let pair = slot.pair(provider);
        pair.concurrency.succeeded(fine);
        let _ = pair.breaker.outcomes(fine, 0, "", now);
    }

    fn end_probe(
        &mut self,
        relay: usize,
        provider: i64,
        probe: Option<Probe>,
        passed: bool,
        now: Timestamp,
    ) {
        let Some(probe) = probe else { return };
        let slot = &mut self.relays[relay];
        let mut changes = [None, None];
        if probe.relay {
            if passed {
                changes[0] = slot.breaker.probe_passed();
            } else {
                slot.breaker.probe_withdrawn(now);
            }
        }
        if probe.pair {
            let breaker = &mut slot.pair(provider).breaker;
            if passed {
                changes[1] = breaker.probe_passed();
            } else {
                breaker.probe_withdrawn(now);
            }
        }
        let [at_relay, at_pair] = changes;
        self.tell(relay, None, at_relay, now);
        self.tell(relay, Some(provider), at_pair, now);
    }

    /// A worker's word on a copy that did not go well.
    pub(in crate::delivery::dispatch) fn report(
        &mut self,
        worker: usize,
        report: &Report,
        now: Timestamp,
    ) {
        let hands = &mut self.workers[worker];
        let relay = hands.relay;
        let Some(provider) = hands.busy else { return };
        let probe = hands.probe.take();
        self.note_fine(relay, provider, report.fine, now);
        let cause = &report.cause;
        let hits = |scope| report.hit.as_ref().filter(|(_, of)| *of == scope).map(|(hit, _)| hit);
        let (hits_relay, hits_pair) = (hits(Scope::Relay), hits(Scope::Provider));
        let slot = &mut self.relays[relay];
        if report.closing {
            slot.concurrency.lower(now);
            slot.pair(provider).concurrency.lower(now);
        }
        let refused = u32::from(report.wrong == Wrong::Provider);
        let broken = u32::from(report.wrong == Wrong::Relay);
        let failed_there = broken > 0 || hits_relay.is_some();
        let failed_here = refused > 0 || hits_pair.is_some();
        let mut at_relay = match probe {
            Some(Probe { relay: true, .. }) if failed_there => {
                slot.breaker.probe_failed(cause, now)
            }
            Some(Probe { relay: true, .. }) => slot.breaker.probe_passed(),
            _ => slot.breaker.outcomes(refused, broken, cause, now),
        };
        if let Some(hit) = hits_relay {
            at_relay = slot.breaker.hit(hit, cause, now).or(at_relay);
        }
        let breaker = &mut slot.pair(provider).breaker;
        let mut at_pair = match probe {
            Some(Probe { pair: true, .. }) if failed_here => breaker.probe_failed(cause, now),
            // The relay failed before the provider had a say.
            Some(Probe { pair: true, .. }) if failed_there => {
                breaker.probe_withdrawn(now);
                None
            }
            Some(Probe { pair: true, .. }) => breaker.probe_passed(),
            _ => breaker.outcomes(0, refused, cause, now),
        };
        if let Some(hit) = hits_pair {
            at_pair = breaker.hit(hit, cause, now).or(at_pair);
        }
        self.tell(relay, None, at_relay, now);
        self.tell(relay, Some(provider), at_pair, now);
    }

    /// A worker has a session.
    pub(in crate::delivery::dispatch) fn connected(&mut self, relay: usize) {
        let slot = &mut self.relays[relay];
        slot.sessions += 1;
        slot.failures = 0;
    }

    /// A worker's session is gone.
    pub(in crate::delivery::dispatch) fn disconnected(&mut self, relay: usize) {
        let slot = &mut self.relays[relay];
        slot.sessions = slot.sessions.saturating_sub(1);
    }

    /// A worker could not connect. Where other sessions stand the relay is there, and takes fewer
    /// connections than it was offered.
    pub(in crate::delivery::dispatch) fn unreachable(
        &mut self,
        worker: usize,
        report: &Report,
        now: Timestamp,
    ) {
        let hands = &mut self.workers[worker];
        let (relay, provider) = (hands.relay, hands.busy);
        let probe = hands.probe.take();
        let slot = &mut self.relays[relay];
        slot.failures += 1;
        let lost = slot.sessions == 0 || slot.failures >= FAILURES_MAX;
        slot.concurrency.lower(now);
        if let Some(provider) = provider {
            let pair = slot.pair(provider);
            pair.concurrency.lower(now);
            if probe.is_some_and(|probe| probe.pair) {
                pair.breaker.probe_withdrawn(now);
            }
        }
        let mut change = match probe {
            Some(Probe { relay: true, .. }) => slot.breaker.probe_failed(&report.cause, now),
            _ if lost => slot.breaker.unreachable(&report.cause, now),
            _ => None,
        };
        if let Some((hit, _)) = &report.hit {
            change = slot.breaker.hit(hit, &report.cause, now).or(change);
        }
        self.tell(relay, None, change, now);
    }

    fn tell(
        &mut self,
        relay: usize,
        provider: Option<i64>,
        change: Option<Change>,
        now: Timestamp,
    ) {
        let Some(change) = change else { return };
        let slot = &mut self.relays[relay];
        let (concurrency, cause) = match provider {
            Some(provider) => {
                let pair = slot.pair(provider);
                (&mut pair.concurrency, pair.breaker.cause().to_owned())
            }
            None => (&mut slot.concurrency, slot.breaker.cause().to_owned()),
        };
        match change {
            Change::Opened(_) => {
                concurrency.restart();
                slot.failures = 0;
                self.openings += 1;
            }
            Change::Throttled(_) => concurrency.restart(),
            Change::Closed => {}
        }
        if self.notices.len() < NOTICES_MAX {
            self.notices.push(Notice { at: now, relay, provider, change, cause });
        }
    }
}
