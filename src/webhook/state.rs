//! How far each webhook has come, in the table `webhook`.

use uuid::Uuid;

use super::batch::Batch;
use crate::{
    db::{self, Db, Tx, record::record},
    timestamp::Timestamp,
};

/// Characters of an error that are kept.
const ERROR_CHARACTERS_MAX: usize = 300;

record! {
    /// How a webhook does, for those who look.
    #[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
    pub struct HookState {
        /// What operators call it.
        pub name: String,
        /// The line of the log up to which its events were taken.
        pub sent_to: i64,
        /// The line up to which the batch under way reaches.
        pub batch_to: Option<i64>,
        /// How many events it took.
        pub events: i64,
        /// When it took some last.
        pub delivered_at: Option<Timestamp>,
        /// Since when it takes none.
        pub failing_since: Option<Timestamp>,
        /// What went wrong last, while it takes none.
        pub problem: Option<String>,
    }
}

/// Every webhook that was ever used.
pub async fn list(db: &Db) -> db::Result<Vec<HookState>> {
    db.query(
        "SELECT name, sent_to, batch_to, events, delivered_at, failing_since, problem \
         FROM webhook ORDER BY name",
    )
    .all()
    .await
}

/// The newest line of the log.
pub async fn newest_event(db: &Db) -> db::Result<i64> {
    db.query("SELECT coalesce(MAX(id), 0) FROM event").scalar().await
}

/// Gives the batches of every webhook new ids: after a backup was restored, lines of the log get
/// numbers that were used before.
pub async fn begin_anew(tx: &mut Tx) -> db::Result<()> {
    let hooks: Vec<(String,)> = tx.query("SELECT name FROM webhook").all().await?;
    for (name,) in hooks {
        tx.query("UPDATE webhook SET uid = $2 WHERE name = $1")
            .bind(name)
            .bind(Uuid::now_v7().simple().to_string())
            .execute()
            .await?;
    }
    Ok(())
}

record! {
    /// A webhook's place in the log.
    #[derive(Debug)]
    pub(super) struct Cursor {
        name: String,
        uid: String,
        pub(super) sent_to: i64,
        pub(super) batch_to: Option<i64>,
        pub(super) failing_since: Option<Timestamp>,
    }
}

impl Cursor {
    /// Where the webhook stands; a new one begins with what happens from now on.
    pub(super) async fn load(db: &Db, name: &str) -> db::Result<Self> {
        db.write(
            "INSERT INTO webhook (name, uid, sent_to) \
             VALUES ($1, $2, (SELECT coalesce(MAX(id), 0) FROM event)) ON CONFLICT DO NOTHING",
        )
        .bind(name.to_owned())
        .bind(Uuid::now_v7().simple().to_string())
        .execute()
        .await?;
        db.query("SELECT name, uid, sent_to, batch_to, failing_since FROM webhook WHERE name = $1")
            .bind(name.to_owned())
            .one()
            .await
    }

    /// What `webhook-id` is for the batch up to this line.
    pub(super) fn message_id(&self, up_to: i64) -> String {
        format!("msg_{}_{up_to}", self.uid)
    }

    /// Writes down what is posted next, before it is: after a crash the same goes again.
    pub(super) async fn promise(&mut self, db: &Db, up_to: i64) -> db::Result<()> {
        if self.batch_to == Some(up_to) {
            return Ok(());
        }
        db.write("UPDATE webhook SET sent_to = $2, batch_to = $3 WHERE name = $1")
            .bind(self.name.clone())
            .bind(self.sent_to)
            .bind(up_to)
            .execute()
            .await?;
        self.batch_to = Some(up_to);
        Ok(())
    }

    /// The batch was taken.
    pub(super) async fn delivered(
        &mut self,
        db: &Db,
        batch: &Batch,
        now: Timestamp,
    ) -> db::Result<()> {
        db.write(
            "UPDATE webhook SET sent_to = $2, batch_to = NULL, events = events + $3, \
             delivered_at = $4, failing_since = NULL, problem = NULL WHERE name = $1",
        )
        .bind(self.name.clone())
        .bind(batch.up_to)
        .bind(batch.events as i64)
        .bind(now)
        .execute()
        .await?;
        (self.sent_to, self.batch_to, self.failing_since) = (batch.up_to, None, None);
        Ok(())
    }

    /// The batch was not taken.
    pub(super) async fn failed(&mut self, db: &Db, what: &str, now: Timestamp) -> db::Result<()> {
        let since = *self.failing_since.get_or_insert(now);
        db.write("UPDATE webhook SET failing_since = $2, problem = $3 WHERE name = $1")
            .bind(self.name.clone())
            .bind(since)
            .bind(what.chars().take(ERROR_CHARACTERS_MAX).collect::<String>())
            .execute()
            .await?;
        Ok(())
    }
}
