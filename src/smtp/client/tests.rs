//! Sessions against servers of every kind.

mod reuse;
mod server;
