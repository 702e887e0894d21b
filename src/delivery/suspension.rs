//! Suspensions: relays that an operator keeps mail away from. Owns the table `relay_state`, which a
//! running engine follows twice a second ([`super::status`]); so a suspension works from any process
//! and outlives a restart. Copies under way at the relay are finished.

use serde::Serialize;

use crate::{
    audit::{self, Act},
    db::{self, Db, record::record},
    timestamp::Timestamp,
};

record! {
    /// A suspended relay.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    pub struct Suspension {
        /// The relay's name in the configuration.
        pub relay: String,
        /// Since when.
        pub since: Timestamp,
        /// Who suspended it.
        pub by: String,
        /// Why.
        pub reason: String,
    }
}

/// The suspended relays, by name; ones that the configuration no longer has included.
pub async fn list(db: &Db) -> db::Result<Vec<Suspension>> {
    db.query(
        "SELECT name AS relay, suspended_at AS since, coalesce(suspended_by, '') AS by, \
         coalesce(suspended_reason, '') AS reason FROM relay_state \
         WHERE suspended_at IS NOT NULL ORDER BY name",
    )
    .all()
    .await
}

/// Keeps mail away from `relay`. Returns false when it was suspended before: the first reason stays.
pub async fn suspend(
    db: &Db,
    relay: &str,
    actor: &str,
    reason: &str,
    now: Timestamp,
) -> db::Result<bool> {
    let mut tx = db.begin().await?;
    let changed = tx
        .query(
            "INSERT INTO relay_state (name, suspended_at, suspended_by, suspended_reason) \
             VALUES ($1, $2, $3, $4) ON CONFLICT (name) DO UPDATE SET \
             suspended_at = excluded.suspended_at, suspended_by = excluded.suspended_by, \
             suspended_reason = excluded.suspended_reason WHERE suspended_at IS NULL",
        )
        .bind(relay.to_owned())
        .bind(now)
        .bind(actor.to_owned())
        .bind(reason.to_owned())
        .execute()
        .await?;
    if changed == 0 {
        tx.rollback().await?;
        return Ok(false);
    }
    let act = Act { actor, action: "relay.suspend", target: relay, detail: reason };
    audit::record(&mut tx, act, now).await?;
    tx.commit().await?;
    Ok(true)
}

/// Lets mail go to `relay` again. Returns false when it was not suspended.
pub async fn resume(
    db: &Db,
    relay: &str,
    actor: &str,
    reason: &str,
    now: Timestamp,
) -> db::Result<bool> {
    let mut tx = db.begin().await?;
    let changed = tx
        .query("DELETE FROM relay_state WHERE name = $1 AND suspended_at IS NOT NULL")
        .bind(relay.to_owned())
        .execute()
        .await?;
    if changed == 0 {
        tx.rollback().await?;
        return Ok(false);
    }
    let act = Act { actor, action: "relay.resume", target: relay, detail: reason };
    audit::record(&mut tx, act, now).await?;
    tx.commit().await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::OpenOptions;

    #[tokio::test]
    async fn a_suspension_stands_once_until_it_is_lifted() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(&OpenOptions::new(folder.path().join("test.db"))).await.unwrap();
        let now = Timestamp::from_microseconds(1);
        assert!(suspend(&db, "main", "ada", "migration", now).await.unwrap());
        assert!(!suspend(&db, "main", "bob", "again", now).await.unwrap());
        let expected = Suspension {
            relay: "main".into(),
            since: now,
            by: "ada".into(),
            reason: "migration".into(),
        };
        assert_eq!(list(&db).await.unwrap(), [expected]);
        assert!(resume(&db, "main", "ada", "done", now).await.unwrap());
        assert!(!resume(&db, "main", "ada", "done", now).await.unwrap());
        assert!(list(&db).await.unwrap().is_empty());
        let acts: Vec<(String,)> =
            db.query("SELECT action FROM audit ORDER BY id").all().await.unwrap();
        assert_eq!(acts, [("relay.suspend".to_owned(),), ("relay.resume".to_owned(),)]);
    }
}
