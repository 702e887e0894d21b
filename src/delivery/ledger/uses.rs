//! How far limits were used, kept across restarts: the tables `rate_limit` and `warm_up`.

use crate::{
    db::{self, Db, Tx},
    delivery::limits::{Progress, Uses},
};

/// Keeps how far limits were used, in the transaction of the handoffs that used them: a handoff whose
/// use cannot be kept does not happen.
pub(super) async fn keep_limits(tx: &mut Tx, uses: &Uses) -> db::Result<()> {
    for (name, used_until) in &uses.rates {
        tx.query(
            "INSERT INTO rate_limit (name, tat) VALUES ($1, $2) \
             ON CONFLICT (name) DO UPDATE SET tat = excluded.tat",
        )
        .bind(name.clone())
        .bind(*used_until)
        .execute()
        .await?;
    }
    for (relay, provider, progress) in &uses.warm_ups {
        tx.query(
            "INSERT INTO warm_up (relay, provider, first_day, day, copies) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (relay, provider) \
             DO UPDATE SET day = excluded.day, copies = excluded.copies",
        )
        .bind(relay.clone())
        .bind(*provider)
        .bind(progress.first_day)
        .bind(progress.day)
        .bind(i64::from(progress.copies))
        .execute()
        .await?;
    }
    Ok(())
}

/// How far limits had been used when a daemon last wrote it down.
pub async fn kept_uses(db: &Db) -> db::Result<Uses> {
    let rates = db.query("SELECT name, tat FROM rate_limit").all().await?;
    let rows: Vec<(String, i64, i64, i64, i64)> =
        db.query("SELECT relay, provider, first_day, day, copies FROM warm_up").all().await?;
    let warm_up = |(relay, provider, first_day, day, copies): (String, i64, i64, i64, i64)| {
        let copies = u32::try_from(copies).unwrap_or(u32::MAX);
        (relay, provider, Progress { first_day, day, copies })
    };
    Ok(Uses { rates, warm_ups: rows.into_iter().map(warm_up).collect(), version: 0 })
}
