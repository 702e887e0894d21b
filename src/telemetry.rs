//! What the process says about itself: its log on standard error, ids that tie log lines to requests,
//! and the registry behind `/metrics`.
//!
//! Nobody logs readers' addresses, so the log has none to redact. The registry is filled by those who
//! know (the ledger's writer counts outcomes); what can be read off at any time is set when somebody
//! asks (`Metrics`).

mod metrics;
mod requests;
mod work;

use std::io::{self, IsTerminal as _};

use tracing_subscriber::{EnvFilter, layer::SubscriberExt as _, util::SubscriberInitExt as _};

pub use metrics::{
    Attempt, BreakerSample, HookSeries, Lane, MailboxSeries, Metrics, RelaySample, Sample,
};
pub use requests::{RequestId, trace_requests};
pub use work::{Step, Watch, Work};

use crate::config::LogFormat;

/// Why the log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not one.
    #[error(
        "log.filter `{filter}` cannot be read: {problem}; write it like `info` or `info,postrider::delivery=debug`"
    )]
    Filter {
        /// As configured.
        filter: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A log was started before.
    #[error("the log was started twice")]
    Twice,
}

/// Starts the process log on standard error.
pub fn init(format: LogFormat, filter: &str) -> Result<(), LogError> {
    let filter = filter_of(filter)?;
    let registry = tracing_subscriber::registry().with(filter);
    let started = match format {
        LogFormat::Text => {
            let lines = tracing_subscriber::fmt::layer()
                .with_writer(io::stderr)
                .with_ansi(io::stderr().is_terminal());
            registry.with(lines).try_init()
        }
        LogFormat::Json => {
            let lines =
                tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(io::stderr);
            registry.with(lines).try_init()
        }
    };
    started.map_err(|_| LogError::Twice)
}

fn filter_of(filter: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::builder()
        .parse(filter)
        .map_err(|error| LogError::Filter { filter: filter.to_owned(), problem: error.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_cannot_be_read_is_named() {
        assert!(filter_of("info,postrider::delivery=debug").is_ok());
        let error = filter_of("postrider=loud").unwrap_err().to_string();
        assert!(error.contains("`postrider=loud`"), "{error}");
    }
}
