//! Statements and transactions. A statement is text known at compile time; values are bound.

use futures_util::stream::{BoxStream, StreamExt};
use sqlx::{
    Arguments, Decode, Encode, FromRow, Sqlite, SqliteConnection, SqlitePool, Transaction, Type,
    sqlite::{SqliteArguments, SqliteRow},
};

use super::{Db, Result};

/// An open transaction, rolled back unless committed.
#[derive(Debug)]
pub struct Tx(Transaction<'static, Sqlite>);

/// A statement and its arguments, bound to a pool or a transaction.
#[must_use = "a statement does nothing until it is executed or fetched"]
pub struct Query<'c> {
    sql: &'static str,
    on: On<'c>,
    arguments: SqliteArguments,
    failed: Option<sqlx::Error>,
}

enum On<'c> {
    Pool(&'c SqlitePool),
    Connection(&'c mut SqliteConnection),
}

impl Db {
    /// A statement that only reads.
    pub fn query(&self, sql: &'static str) -> Query<'_> {
        Query::new(sql, On::Pool(&self.readers))
    }

    /// A single statement that writes, in a transaction of its own.
    pub fn write(&self, sql: &'static str) -> Query<'_> {
        Query::new(sql, On::Pool(&self.writer))
    }

    /// Opens a transaction that only reads. From its first statement on it sees the data as it was
    /// then. While it is open the write-ahead log grows: it should not be for long.
    pub async fn snapshot(&self) -> Result<Tx> {
        Ok(Tx(self.readers.begin().await?))
    }

    /// Opens a transaction that may write.
    ///
    /// The write lock is taken at once: a deferred transaction that reads first and writes later
    /// fails with `SQLITE_BUSY` without waiting when another process wrote in between.
    ///
    /// A COMMIT that fails (the disk is full, say) is undone by SQLite itself; the driver does not
    /// see that, and would refuse every further transaction on its connection. That connection is
    /// given up for a new one.
    pub async fn begin(&self) -> Result<Tx> {
        const BEGIN: &str = "BEGIN IMMEDIATE";
        match self.writer.begin_with(BEGIN).await {
            Err(sqlx::Error::InvalidSavePointStatement) => {
                self.writer.acquire().await?.close().await?;
                Ok(Tx(self.writer.begin_with(BEGIN).await?))
            }
            begun => Ok(Tx(begun?)),
        }
    }
}

impl Tx {
    /// A statement inside this transaction.
    pub fn query(&mut self, sql: &'static str) -> Query<'_> {
        Query::new(sql, On::Connection(&mut self.0))
    }

    /// Makes everything done in this transaction durable.
    pub async fn commit(self) -> Result<()> {
        self.0.commit().await
    }

    /// Undoes everything done in this transaction.
    pub async fn rollback(self) -> Result<()> {
        self.0.rollback().await
    }
}

macro_rules! run {
    ($query:expr, $with:path, |$q:ident, $e:ident| $run:expr) => {{
        let query = $query;
        if let Some(error) = query.failed {
            return Err(error);
        }
        match query.on {
            On::Pool($e) => {
                let $q = $with(query.sql, query.arguments);
                $run
            }
            On::Connection($e) => {
                let $q = $with(query.sql, query.arguments);
                $run
            }
        }
    }};
}

impl<'c> Query<'c> {
    fn new(sql: &'static str, on: On<'c>) -> Self {
        Self { sql, on, arguments: SqliteArguments::default(), failed: None }
    }

    /// Binds the next placeholder.
    pub fn bind(mut self, value: impl Param) -> Self {
        if let Err(error) = self.arguments.add(value) {
            self.failed.get_or_insert(sqlx::Error::Encode(error));
        }
        self
    }

    /// Runs the statement; returns how many rows it changed.
    pub async fn execute(self) -> Result<u64> {
        run!(self, sqlx::query_with, |q, e| Ok(q.execute(e).await?.rows_affected()))
    }

    /// The only row.
    pub async fn one<T: Record>(self) -> Result<T> {
        run!(self, sqlx::query_as_with, |q, e| q.fetch_one(e).await)
    }

    /// The only row, or none.
    pub async fn optional<T: Record>(self) -> Result<Option<T>> {
        run!(self, sqlx::query_as_with, |q, e| q.fetch_optional(e).await)
    }

    /// All rows: for results that are bounded by the statement.
    pub async fn all<T: Record>(self) -> Result<Vec<T>> {
        run!(self, sqlx::query_as_with, |q, e| q.fetch_all(e).await)
    }

    /// The first column of the only row.
    pub async fn scalar<T: Scalar>(self) -> Result<T> {
        run!(self, sqlx::query_scalar_with, |q, e| q.fetch_one(e).await)
    }

    /// The first column of the only row, or none when there is no row.
    pub async fn optional_scalar<T: Scalar>(self) -> Result<Option<T>> {
        run!(self, sqlx::query_scalar_with, |q, e| q.fetch_optional(e).await)
    }

    /// Rows as they arrive, for exports.
    pub fn stream<T: Record + 'c>(self) -> BoxStream<'c, Result<T>> {
        if let Some(error) = self.failed {
            return futures_util::stream::once(async { Err(error) }).boxed();
        }
        match self.on {
            On::Pool(e) => sqlx::query_as_with(self.sql, self.arguments).fetch(e).boxed(),
            On::Connection(e) => sqlx::query_as_with(self.sql, self.arguments).fetch(e).boxed(),
        }
    }
}

/// A value that can be bound.
pub trait Param: Type<Sqlite> + for<'q> Encode<'q, Sqlite> {}
impl<T> Param for T where T: Type<Sqlite> + for<'q> Encode<'q, Sqlite> {}

/// A row that can be read.
pub trait Record: for<'r> FromRow<'r, SqliteRow> + Send + Unpin {}
impl<T> Record for T where T: for<'r> FromRow<'r, SqliteRow> + Send + Unpin {}

/// A column that can be read.
pub trait Scalar: Type<Sqlite> + for<'r> Decode<'r, Sqlite> + Send + Unpin {}
impl<T> Scalar for T where T: Type<Sqlite> + for<'r> Decode<'r, Sqlite> + Send + Unpin {}
