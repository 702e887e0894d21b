//! Copies of the data file that are whole at one moment, whoever writes meanwhile, and the question
//! whether a data file is sound.

use std::path::Path;

use super::{Db, Result};

impl Db {
    /// Writes a compact copy of the database, as it is at this moment, to `path`, where no file may
    /// be. Others read and write meanwhile. The copy is a plain data file without a log beside it.
    pub async fn copy_to(&self, path: &Path) -> Result<()> {
        let path = path.to_str().ok_or_else(|| {
            sqlx::Error::Configuration("SQLite takes only paths that are UTF-8".into())
        })?;
        // On the writing connection: reading ones refuse every statement that writes anywhere.
        self.write("VACUUM INTO $1").bind(path.to_owned()).execute().await?;
        Ok(())
    }

    /// What is broken in the data file, as SQLite tells it; nothing when it is sound. Reads the
    /// whole file.
    pub async fn faults(&self) -> Result<Vec<String>> {
        let lines: Vec<(String,)> = self.query("PRAGMA quick_check(20)").all().await?;
        Ok(lines.into_iter().map(|(line,)| line).filter(|line| line != "ok").collect())
    }

    /// How many steps of the schema the database has.
    pub async fn schema_steps(&self) -> Result<i64> {
        self.query("SELECT count(*) FROM _sqlx_migrations WHERE success").scalar().await
    }
}

#[cfg(test)]
mod tests {
    use crate::db::{Db, OpenOptions};

    #[tokio::test]
    async fn a_copy_holds_what_was_committed_and_stands_alone() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(&OpenOptions::new(folder.path().join("test.db"))).await.unwrap();
        let insert = "INSERT INTO meta (name, value) VALUES ('a', 'b')";
        db.write(insert).execute().await.unwrap();
        let path = folder.path().join("it's a copy.db");
        db.copy_to(&path).await.unwrap();
        assert!(db.copy_to(&path).await.is_err(), "a copy must not replace a file");
        let copy = Db::open(&OpenOptions::new(path)).await.unwrap();
        let value: String =
            copy.query("SELECT value FROM meta WHERE name = 'a'").scalar().await.unwrap();
        assert_eq!(value, "b");
        assert!(copy.faults().await.unwrap().is_empty());
        assert_eq!(copy.schema_steps().await.unwrap(), db.schema_steps().await.unwrap());
    }
}
