//! How far a data file has to have come: a number beside it that grows with every handoff.
//!
//! The database counts handoffs in the transaction that makes them; once that is committed the number is
//! written to a file of its own, and only then do the copies leave. So the file never says more than
//! the database did. When it does, the database is an older one that somebody put there by hand, and
//! copies left since that it knows nothing of: every send is held, as after `postrider restore`.
//!
//! A crash at any moment leaves the file at most as far as the database. So does a loss of power: the
//! database is on the disk before the file is written, and a file that was lost or cut is no file.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt as _,
    path::Path,
};

use uuid::Uuid;

use crate::db::{self, Db, Tx};

const MAGIC: &str = "postrider-mark 1";

/// What a data file says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage {
    /// Which data it is: copies of a file have the same.
    pub uid: String,
    /// How many commits handed copies off.
    pub handoffs: i64,
}

impl Lineage {
    /// What `db` says; a new one gets a name.
    pub async fn of(db: &Db) -> db::Result<Self> {
        db.write(
            "INSERT INTO lineage (id, uid, handoffs) VALUES (1, $1, 0) ON CONFLICT DO NOTHING",
        )
        .bind(Uuid::now_v7().to_string())
        .execute()
        .await?;
        Self::read_from(db).await?.ok_or(sqlx::Error::RowNotFound)
    }

    /// The same, without a name for a new one: nothing, if no daemon ever ran on it.
    pub async fn read_from(db: &Db) -> db::Result<Option<Self>> {
        let row: Option<(String, i64)> =
            db.query("SELECT uid, handoffs FROM lineage").optional().await?;
        Ok(row.map(|(uid, handoffs)| Self { uid, handoffs }))
    }

    /// Whether a file that was beside this data says that it had come further.
    pub fn is_behind(&self, kept: Option<&Self>) -> bool {
        kept.is_some_and(|kept| kept.uid == self.uid && kept.handoffs > self.handoffs)
    }
}

/// Counts a handoff in the transaction that makes it. Returns the number to keep.
pub(super) async fn count(tx: &mut Tx) -> db::Result<i64> {
    tx.query("UPDATE lineage SET handoffs = handoffs + 1 RETURNING handoffs").scalar().await
}

/// Makes the data as old as the file says, so that it is found behind once.
pub(super) async fn catch_up(tx: &mut Tx, handoffs: i64) -> db::Result<()> {
    tx.query("UPDATE lineage SET handoffs = $1").bind(handoffs).execute().await?;
    Ok(())
}

/// What the file at `path` says; nothing when there is none, or no whole one.
///
/// # Errors
/// When it is there and cannot be read.
pub fn read(path: &Path) -> io::Result<Option<Lineage>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let text = String::from_utf8_lossy(&bytes);
    let words = text.strip_suffix('\n').and_then(|line| line.strip_prefix(MAGIC));
    let words = words.and_then(|words| words.trim_start().split_once(' '));
    Ok(words.and_then(|(uid, handoffs)| {
        let is_whole = handoffs.len() == DIGITS;
        let handoffs = handoffs.parse().ok().filter(|_| is_whole)?;
        Some(Lineage { uid: uid.to_owned(), handoffs })
    }))
}

/// The number is written over itself, always in as many digits.
const DIGITS: usize = 19;

/// The file of a running daemon.
#[derive(Debug)]
pub struct Mark {
    file: File,
    /// Where in it the number stands.
    at: u64,
}

impl Mark {
    /// Begins a file for `lineage` at `path`, in the place of what is there.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn create(path: &Path, lineage: &Lineage) -> io::Result<Self> {
        let head = format!("{MAGIC} {} ", lineage.uid);
        let text = format!("{head}{:0DIGITS$}\n", lineage.handoffs);
        let new = path.with_added_extension("new");
        std::fs::write(&new, text)?;
        std::fs::rename(&new, path)?;
        let file = OpenOptions::new().write(true).open(path)?;
        Ok(Self { file, at: head.len() as u64 })
    }

    /// Notes that `handoffs` is committed. Goes to the page cache and takes about a microsecond.
    ///
    /// # Errors
    /// When it cannot be written: then a data file that is put back by hand may not be noticed.
    pub fn reach(&self, handoffs: i64) -> io::Result<()> {
        self.file.write_all_at(format!("{handoffs:0DIGITS$}").as_bytes(), self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage(uid: &str, handoffs: i64) -> Lineage {
        Lineage { uid: uid.into(), handoffs }
    }

    #[test]
    fn the_file_says_what_was_reached_last() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mark");
        assert_eq!(read(&path).unwrap(), None);
        let mark = Mark::create(&path, &lineage("a", 7)).unwrap();
        assert_eq!(read(&path).unwrap(), Some(lineage("a", 7)));
        for handoffs in [8, 1_000, i64::MAX] {
            mark.reach(handoffs).unwrap();
            assert_eq!(read(&path).unwrap(), Some(lineage("a", handoffs)));
        }
        let again = Mark::create(&path, &lineage("b", 1)).unwrap();
        again.reach(2).unwrap();
        assert_eq!(read(&path).unwrap(), Some(lineage("b", 2)));
    }

    #[test]
    fn a_file_that_was_cut_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mark");
        Mark::create(&path, &lineage("a", 123)).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(read(&path).unwrap(), None, "{cut}");
        }
        std::fs::write(&path, vec![0; whole.len()]).unwrap();
        assert_eq!(read(&path).unwrap(), None);
    }

    #[test]
    fn only_an_older_copy_of_the_same_data_is_behind() {
        let data = lineage("a", 10);
        for (kept, behind) in [
            (None, false),
            (Some(lineage("a", 9)), false),
            (Some(lineage("a", 10)), false),
            (Some(lineage("a", 11)), true),
            (Some(lineage("b", 11)), false),
        ] {
            assert_eq!(data.is_behind(kept.as_ref()), behind, "{kept:?}");
        }
    }
}
