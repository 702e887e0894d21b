//! The delivery engine: from an audience to outcomes, one durable row per copy.
//!
//! A copy goes `plan` → `queue` (rows) → `feeder` (claims batches) → `dispatch` (limits, order) →
//! `connection` (handoff, `compose`, SMTP) → `ledger` (outcomes, in groups). `conductor` moves whole
//! issues: stages, gates, the end. `recovery` mends what a crash left, with the help of `journal`.
//!
//! Rules that hold everywhere in here:
//! * nothing is sent whose handoff is not committed ([`queue::hand_off`] is the only place);
//! * a copy that may have arrived is never tried again by itself;
//! * every write names the claim it acts under;
//! * limits, policy, gates and tallies are pure: no clock, no database, no network.

pub mod breaker;
pub mod clock;
pub mod compose;
pub mod concurrency;
pub mod conductor;
pub mod connection;
pub mod content;
pub mod control;
pub mod dispatch;
pub mod engine;
pub mod feeder;
mod front;
pub mod gates;
pub mod grouping;
pub mod health;
pub mod history;
pub mod journal;
pub mod lease;
pub mod ledger;
pub mod limits;
pub mod mark;
pub mod mx;
pub mod plan;
pub mod policy;
pub mod preflight;
pub mod queue;
pub mod recovery;
pub mod rehearsed;
pub mod relay;
pub mod restored;
pub mod rule_halts;
pub mod session_length;
pub mod shedding;
pub mod status;
pub mod suspension;
pub mod tallies;
pub mod tally;
pub mod token_command;
pub mod uncertain;
pub mod view;
