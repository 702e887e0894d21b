//! Opening the SQLite file: pragmas, pools and the lock that keeps a second daemon out.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use sqlx::sqlite::{
    SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};

use super::{Db, migrate};

/// How a database is opened.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// The data file. Its folder must exist.
    pub path: PathBuf,
    /// Whether a missing file is created.
    pub create: bool,
    /// How long a statement waits for another process's write to end.
    pub busy_timeout: Duration,
    /// How many connections read at once.
    pub readers: u32,
}

impl OpenOptions {
    /// The usual way to open `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), create: true, busy_timeout: Duration::from_secs(30), readers: 4 }
    }
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The file is not there or cannot be opened.
    #[error("cannot open the database {}: {source}", path.display())]
    Open {
        /// The data file.
        path: PathBuf,
        /// What the driver said.
        source: sqlx::Error,
    },
    /// The schema could not be brought up to date.
    #[error("cannot bring the database {} up to date: {source}", path.display())]
    Migrate {
        /// The data file.
        path: PathBuf,
        /// What went wrong.
        source: sqlx::migrate::MigrateError,
    },
    /// Another daemon works on the same file.
    #[error(
        "another postrider daemon is running on {}; two daemons on one SQLite file would send \
         twice, so this one stops (find the other with `fuser {}`)",
        path.display(),
        lock.display()
    )]
    Locked {
        /// The data file.
        path: PathBuf,
        /// The lock file beside it.
        lock: PathBuf,
    },
    /// The lock file cannot be used.
    #[error("cannot use the lock file {}: {source}", lock.display())]
    LockFile {
        /// The lock file.
        lock: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// The daemon's exclusive hold on a data file; released when dropped or when the process dies.
#[derive(Debug)]
pub struct DaemonLock {
    _file: File,
}

impl Db {
    /// Opens the database and brings its schema up to date.
    pub async fn open(options: &OpenOptions) -> Result<Self, DatabaseError> {
        let path = &options.path;
        let failed = |source| DatabaseError::Open { path: path.clone(), source };
        let connect = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(options.create)
            .journal_mode(SqliteJournalMode::Wal)
            // An outcome counts as durable once it is committed: that promise needs the fsync.
            .synchronous(SqliteSynchronous::Full)
            .auto_vacuum(SqliteAutoVacuum::Incremental)
            .foreign_keys(true)
            .busy_timeout(options.busy_timeout)
            .statement_cache_capacity(256);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .min_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .acquire_timeout(options.busy_timeout)
            .connect_with(connect.clone().pragma("cache_size", "-5000"))
            .await
            .map_err(failed)?;
        migrate(&writer)
            .await
            .map_err(|source| DatabaseError::Migrate { path: path.clone(), source })?;
        let readers = SqlitePoolOptions::new()
            .max_connections(options.readers)
            .acquire_timeout(options.busy_timeout)
            .connect_with(connect.pragma("query_only", "on").pragma("cache_size", "-1000"))
            .await
            .map_err(failed)?;
        Ok(Self { readers, writer })
    }

    /// Takes the exclusive right to run a daemon on the data file at `path`.
    pub fn lock_for_daemon(path: &Path) -> Result<DaemonLock, DatabaseError> {
        let lock = path.with_added_extension("lock");
        let io = |source| DatabaseError::LockFile { lock: lock.clone(), source };
        let file =
            File::options().create(true).truncate(false).write(true).open(&lock).map_err(io)?;
        match file.try_lock() {
            Ok(()) => Ok(DaemonLock { _file: file }),
            Err(std::fs::TryLockError::WouldBlock) => {
                Err(DatabaseError::Locked { path: path.to_owned(), lock })
            }
            Err(std::fs::TryLockError::Error(source)) => Err(io(source)),
        }
    }

    /// Closes every connection after folding the write-ahead log into the data file.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}
