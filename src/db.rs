//! The database façade: statements are plain SQL with `$1` placeholders and bound parameters, kept
//! beside the room whose tables they touch; this room owns opening, pragmas, transactions,
//! migrations and how our own types are stored. It knows no table but its own bookkeeping.
//!
//! SQLite has one writer at a time. Readers use a pool of connections that cannot write; every
//! write goes through [`Db::begin`] or [`Db::write`] on the single writer connection, so that
//! writers inside the process queue here instead of failing with `SQLITE_BUSY`.

mod backup;
mod migrate;
mod open;
mod query;
pub(crate) mod record;
pub mod state;
mod types;

pub use migrate::{MigrationStatus, migrate};
pub use open::{DaemonLock, DatabaseError, OpenOptions};
pub use query::{Param, Query, Scalar, Tx};

use sqlx::SqlitePool;

/// An open database.
#[derive(Debug, Clone)]
pub struct Db {
    readers: SqlitePool,
    writer: SqlitePool,
}

/// What a statement can fail with.
pub type Result<T> = std::result::Result<T, sqlx::Error>;

/// Whether `error` says that a unique key is already taken.
pub fn is_unique_violation(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}
