//! The schema's steps, embedded in the binary.

use std::borrow::Cow;

use sqlx::{
    SqlSafeStr, SqlitePool,
    migrate::{MigrateError, Migration, MigrationType, Migrator},
};

/// Where a database's schema stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MigrationStatus {
    /// Steps that this version of the program knows.
    pub known: usize,
}

const STEPS: &[(i64, &str, &str)] =
    &[(1, "initial", include_str!("../../migrations/sqlite/0001_initial.sql"))];

/// Applies the steps that `pool`'s database has not seen yet.
///
/// # Errors
/// When a step fails, when a step that was already applied has since been edited, or when the
/// database was made by a newer version of the program.
pub async fn migrate(pool: &SqlitePool) -> Result<MigrationStatus, MigrateError> {
    let steps = STEPS.iter().map(|&(version, name, sql)| {
        let kind = MigrationType::Simple;
        Migration::new(version, Cow::Borrowed(name), kind, sql.into_sql_str(), false)
    });
    Migrator::with_migrations(steps.collect()).run(pool).await?;
    Ok(MigrationStatus { known: STEPS.len() })
}

#[cfg(test)]
mod tests {
    use crate::db::{Db, OpenOptions};

    #[tokio::test]
    async fn the_schema_is_made_once_and_readers_cannot_write() {
        let folder = tempfile::tempdir().unwrap();
        let options = OpenOptions::new(folder.path().join("test.db"));
        for _ in 0..2 {
            let db = Db::open(&options).await.unwrap();
            let insert = "INSERT INTO meta (name, value) VALUES ('a', 'b') ON CONFLICT DO NOTHING";
            assert!(db.query(insert).execute().await.is_err());
            db.write(insert).execute().await.unwrap();
            let value: String = db
                .query("SELECT value FROM meta WHERE name = $1")
                .bind("a")
                .scalar()
                .await
                .unwrap();
            assert_eq!(value, "b");
            db.close().await;
        }
    }

    #[tokio::test]
    async fn a_second_daemon_is_refused_until_the_first_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.db");
        let held = Db::lock_for_daemon(&path).unwrap();
        let refused = Db::lock_for_daemon(&path).unwrap_err();
        assert!(refused.to_string().contains("another postrider daemon"), "{refused}");
        drop(held);
        Db::lock_for_daemon(&path).unwrap();
    }
}
