//! Sessions against servers of every kind.

mod automaton;
mod babble;
mod cuts;
mod dot;
mod envelopes;
mod matrix;
mod opening;
mod reuse;
mod runs;
mod server;
mod tls;

/// Where deadlines are short, nobody may be held up for so long: what came of it then is asked again.
const UNBEARABLE: std::time::Duration = std::time::Duration::from_millis(40);
