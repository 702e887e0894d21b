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
