//! Postrider delivers newsletters and can say what happened to every single copy.
//!
//! Two ways lead through this house:
//!
//! * **A copy's way out**: [`issue`] (file → model → rendered body with merge fields) → `delivery`
//!   (plan → claim → handoff → compose → SMTP → outcome, in groups) → `event`.
//! * **A report's way in**: intake (SMTP, standard input, our own SMTP reply) → [`bounce`] (bytes →
//!   typed report → class → what it does to delivery, subscriber and suppression) → `event`.
//!
//! Faces (`web`, `cli`) call the domain and never write SQL. Leaves (`timestamp`, `id`, `token`,
//! `provider`) know nothing of the program. `ARCHITECTURE.md` has the map on one page.

pub mod account;
pub mod address;
pub mod app;
pub mod archive;
pub mod audit;
#[cfg(test)]
#[path = "../tests/suite/authority.rs"]
mod authority;
pub mod bench;
pub mod bounce;
pub mod cli;
pub mod config;
pub mod db;
pub mod delivery;
pub mod demo;
pub mod diagnostic;
pub mod dns;
pub mod event;
pub mod fail_point;
pub mod id;
pub mod issue;
pub mod link;
pub mod merge;
pub mod mta_sts;
pub mod newsletter;
pub mod provider;
pub mod rehearsal;
pub mod report;
pub mod service_mail;
pub mod sink;
#[cfg(test)]
mod skip;
pub mod smtp;
#[cfg(test)]
#[path = "../tests/suite/stillness.rs"]
mod stillness;
pub mod subscriber;
pub mod telemetry;
pub mod timestamp;
pub mod token;
pub mod web;
pub mod webhook;
