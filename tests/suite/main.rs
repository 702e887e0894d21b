//! The program as people meet it: the built binary, run in folders of its own.

mod checker;
mod cli_backup;
mod cli_delivery;
mod cli_init;
mod cli_issue;
mod cli_newsletter;
mod cli_relay;
mod cli_send;
mod cli_subscriber;
mod course;
mod demo;
mod failpoints;
mod harness;
mod hostile;
mod installation;
mod kills;
mod matrix;
mod model;
mod postfix;
mod rate;
mod real_issues;
mod rehearse;
mod relays;
mod shedding;
mod stages;
mod suspended;
