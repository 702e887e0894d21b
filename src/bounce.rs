//! Returned mail: what a report says, whose fault it is, and what follows from it.
//!
//! ```text
//! bytes ──report──▶ Report ──classify──▶ Classification ──policy──▶ Effect ──▶ rows and events
//!              our own SMTP reply ──▶ Evidence ──┘
//! ```
//!
//! * [`report`] turns bytes into a typed [`Report`](report::Report): delivery status notifications,
//!   feedback reports, free-text bounces, auto-replies, unsubscribe mails, or none of these.
//! * [`classify`] gives the words of a refusal two properties: whose fault, and whether it lasts. The
//!   same classifier reads reports and the replies that our own SMTP client got.
//! * [`policy`] decides what a classified failure does to reader, issue and sending.
//! * [`explain`] says all of this of one mail, with what decided.
//!
//! These are pure: values in, values out, no clock, network or database. Two more work with
//! rows and sockets:
//!
//! * [`apply`] does to rows what the policy decided, in one transaction with its evidence.
//! * [`intake`] takes mail in, from listeners, mailboxes, standard input and webhooks, and hands it to
//!   `apply`.
//!
//! Reports are written by strangers, so nothing here panics, recurses or grows with hostile input,
//! and nothing here ever mails anyone back.

pub mod apply;
pub mod classify;
pub mod explain;
pub mod intake;
mod phrases;
pub mod policy;
pub mod report;

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod forms;
