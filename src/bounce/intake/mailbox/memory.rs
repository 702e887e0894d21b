//! Which mails were looked at and left where they are. Owns the tables `mailbox_cursor`, for folders
//! whose mails have rising numbers, and `mailbox_left`, for mailboxes whose mails have names.

use std::collections::HashSet;

use crate::{
    db::{self, Db},
    timestamp::Timestamp,
};

/// Up to which UID the mails of a folder were dealt with.
pub(super) async fn cursor(
    db: &Db,
    mailbox: &str,
    folder: &str,
    uid_validity: u32,
) -> db::Result<u32> {
    let uid: Option<i64> = db
        .query(
            "SELECT uid FROM mailbox_cursor \
             WHERE mailbox = $1 AND folder = $2 AND uid_validity = $3",
        )
        .bind(mailbox.to_owned())
        .bind(folder.to_owned())
        .bind(i64::from(uid_validity))
        .optional_scalar()
        .await?;
    Ok(uid.and_then(|uid| u32::try_from(uid).ok()).unwrap_or(0))
}

/// Says so.
pub(super) async fn set_cursor(
    db: &Db,
    mailbox: &str,
    folder: &str,
    uid_validity: u32,
    uid: u32,
) -> db::Result<()> {
    db.write(
        "INSERT INTO mailbox_cursor (mailbox, folder, uid_validity, uid) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (mailbox, folder) DO UPDATE SET \
         uid_validity = excluded.uid_validity, uid = excluded.uid",
    )
    .bind(mailbox.to_owned())
    .bind(folder.to_owned())
    .bind(i64::from(uid_validity))
    .bind(i64::from(uid))
    .execute()
    .await
    .map(drop)
}

/// The names of the mails that were left.
pub(super) async fn left(db: &Db, mailbox: &str) -> db::Result<HashSet<String>> {
    let names =
        "SELECT coalesce(json_group_array(name), '[]') FROM mailbox_left WHERE mailbox = $1";
    let names: String = db.query(names).bind(mailbox.to_owned()).scalar().await?;
    Ok(serde_json::from_str(&names).unwrap_or_default())
}

/// How many mails were left.
pub(super) async fn count_left(db: &Db, mailbox: &str) -> db::Result<i64> {
    let sql = "SELECT COUNT(*) FROM mailbox_left WHERE mailbox = $1";
    db.query(sql).bind(mailbox.to_owned()).scalar().await
}

/// Remembers one that is left.
pub(super) async fn leave(db: &Db, mailbox: &str, name: &str, now: Timestamp) -> db::Result<()> {
    db.write(
        "INSERT INTO mailbox_left (mailbox, name, left_at) VALUES ($1, $2, $3) \
         ON CONFLICT (mailbox, name) DO NOTHING",
    )
    .bind(mailbox.to_owned())
    .bind(name.to_owned())
    .bind(now)
    .execute()
    .await
    .map(drop)
}

/// Forgets those that are not there any more: all of `left` but `there`.
pub(super) async fn forget_gone(
    db: &Db,
    mailbox: &str,
    left: &HashSet<String>,
    there: &HashSet<&str>,
) -> db::Result<()> {
    let gone: Vec<&String> = left.iter().filter(|name| !there.contains(name.as_str())).collect();
    if gone.is_empty() {
        return Ok(());
    }
    let gone = serde_json::to_string(&gone).unwrap_or_default();
    db.write(
        "DELETE FROM mailbox_left WHERE mailbox = $1 \
         AND name IN (SELECT value FROM json_each($2))",
    )
    .bind(mailbox.to_owned())
    .bind(gone)
    .execute()
    .await
    .map(drop)
}

/// Forgets everything about a mailbox, so that all of it is looked at again.
pub(super) async fn forget(db: &Db, mailbox: &str) -> db::Result<()> {
    let mut tx = db.begin().await?;
    for table in [
        "DELETE FROM mailbox_cursor WHERE mailbox = $1",
        "DELETE FROM mailbox_left WHERE mailbox = $1",
    ] {
        tx.query(table).bind(mailbox.to_owned()).execute().await?;
    }
    tx.commit().await
}
