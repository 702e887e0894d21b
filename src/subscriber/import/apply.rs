//! Writing a batch: a look at what stands in its way, then the rows that are left, in one
//! transaction of three statements. Rows go in as one JSON array, which SQLite takes apart itself.

use std::collections::{HashMap, HashSet};

use super::{
    Import, ImportError, Refusal,
    rows::{Refused, Row},
};
use crate::{
    db::{self, Db, Tx, record::record, state::SubscriptionState},
    id::SubscriberId,
    subscriber::suppression::Reason,
    timestamp::Timestamp,
};

/// An import under way.
pub(super) struct Applying<'a> {
    db: &'a Db,
    what: &'a Import,
    now: Timestamp,
    import_id: i64,
    /// In a dry run: the addresses of earlier batches, as the first half of their hashes.
    seen: HashSet<u64>,
}

record! {
    /// A row of the batch whose address is known.
    struct Known {
        position: i64,
        reason: Option<String>,
        id: Option<SubscriberId>,
        state: Option<SubscriptionState>,
    }
}

/// Both kinds of connection answer the same question: the dry run's must not write.
const KNOWN: &str = "SELECT j.key AS position, x.reason, s.id, b.state \
     FROM json_each($1) j \
     LEFT JOIN suppression x ON x.address_hash = unhex(j.value) \
     LEFT JOIN subscriber s ON s.address_hash = unhex(j.value) \
     LEFT JOIN subscription b ON b.newsletter_id = $2 AND b.subscriber_id = s.id \
     WHERE x.address_hash IS NOT NULL OR s.id IS NOT NULL";

impl<'a> Applying<'a> {
    pub(super) async fn begin(
        db: &'a Db,
        what: &'a Import,
        now: Timestamp,
    ) -> Result<Self, ImportError> {
        let import_id = if what.dry_run {
            0
        } else {
            db.write(
                "INSERT INTO import (newsletter_id, at, actor, file, consent_source) \
                 VALUES ($1, $2, $3, $4, $5) RETURNING id",
            )
            .bind(what.newsletter)
            .bind(now)
            .bind(what.actor.clone())
            .bind(what.file.clone())
            .bind(what.consent_source.clone())
            .scalar()
            .await?
        };
        Ok(Self { db, what, now, import_id, seen: HashSet::new() })
    }

    /// Writes a batch, and adds what is refused to `refused`. Returns how many were added.
    pub(super) async fn apply(
        &mut self,
        mut rows: Vec<Row>,
        refused: &mut Vec<Refused>,
    ) -> Result<u64, ImportError> {
        // In the order of the index on hashes: its pages are then visited once each.
        rows.sort_unstable_by_key(|row| row.hash);
        let hashes = json_of_hashes(&rows);
        if self.what.dry_run {
            let known = self.db.query(KNOWN).bind(hashes).bind(self.what.newsletter).all().await?;
            let (new, old) = sort_out(rows, known, refused);
            let all = new.into_iter().chain(old.into_iter().map(|(_, row)| row));
            let mut added = 0;
            for row in all {
                if self.seen.insert(first_half(row.hash)) {
                    added += 1;
                } else {
                    refused.push(refusal(&row, Refusal::Standing(SubscriptionState::Active)));
                }
            }
            return Ok(added);
        }
        let mut tx = self.db.begin().await?;
        let known = tx.query(KNOWN).bind(hashes).bind(self.what.newsletter).all().await?;
        let (new, old) = sort_out(rows, known, refused);
        let mut ids: Vec<(SubscriberId, Timestamp)> =
            old.iter().map(|(id, row)| (*id, row.confirmed_at.unwrap_or(self.now))).collect();
        let first = next_id(&mut tx).await?;
        ids.extend(
            (first..)
                .zip(&new)
                .map(|(id, row)| (SubscriberId(id), row.confirmed_at.unwrap_or(self.now))),
        );
        self.insert_subscribers(&mut tx, first, &new).await?;
        self.insert_subscriptions(&mut tx, &mut ids).await?;
        tx.query("UPDATE import SET added = added + $2, skipped = skipped + $3 WHERE id = $1")
            .bind(self.import_id)
            .bind(ids.len() as i64)
            .bind(refused.len() as i64)
            .execute()
            .await?;
        tx.commit().await?;
        Ok(ids.len() as u64)
    }

    async fn insert_subscribers(&self, tx: &mut Tx, first: i64, new: &[Row]) -> db::Result<()> {
        let rows: Vec<_> = (first..)
            .zip(new)
            .map(|(id, row)| {
                (id, row.address.as_str(), hex(row.hash), &row.name, &row.attributes, row.provider)
            })
            .collect();
        let rows = serde_json::to_string(&rows).unwrap_or_default();
        tx.query(
            "INSERT INTO subscriber \
             (id, address, address_hash, name, attributes, provider, created_at) \
             SELECT value ->> 0, value ->> 1, unhex(value ->> 2), value ->> 3, value ->> 4, \
             value ->> 5, $2 FROM json_each($1)",
        )
        .bind(rows)
        .bind(self.now)
        .execute()
        .await?;
        Ok(())
    }

    async fn insert_subscriptions(
        &self,
        tx: &mut Tx,
        ids: &mut [(SubscriberId, Timestamp)],
    ) -> db::Result<()> {
        ids.sort_unstable();
        let rows: Vec<_> = ids.iter().map(|(id, at)| (id.0, at.microseconds())).collect();
        let rows = serde_json::to_string(&rows).unwrap_or_default();
        tx.query(
            "INSERT INTO subscription \
             (newsletter_id, subscriber_id, state, created_at, confirmed_at, import_id) \
             SELECT $2, value ->> 0, 1, $3, value ->> 1, $4 FROM json_each($1)",
        )
        .bind(rows)
        .bind(self.what.newsletter)
        .bind(self.now)
        .bind(self.import_id)
        .execute()
        .await?;
        Ok(())
    }
}

/// The first number that no subscriber ever had. The transaction holds the only right to write, so
/// nobody else takes it.
async fn next_id(tx: &mut Tx) -> db::Result<i64> {
    let last: Option<i64> = tx
        .query("SELECT seq FROM sqlite_sequence WHERE name = 'subscriber'")
        .optional_scalar()
        .await?;
    Ok(last.unwrap_or(0) + 1)
}

/// Splits a batch into new people and known ones without a subscription to this newsletter; all
/// others are refused.
fn sort_out(
    rows: Vec<Row>,
    known: Vec<Known>,
    refused: &mut Vec<Refused>,
) -> (Vec<Row>, Vec<(SubscriberId, Row)>) {
    let mut known: HashMap<usize, Known> =
        known.into_iter().map(|row| (row.position as usize, row)).collect();
    let mut new = Vec::with_capacity(rows.len());
    let mut old = Vec::new();
    for (position, row) in rows.into_iter().enumerate() {
        let Some(found) = known.remove(&position) else {
            new.push(row);
            continue;
        };
        let reason = found.reason.map(|word| Reason::by_name(&word).unwrap_or(Reason::Manual));
        let why = reason.map(Refusal::Suppressed).or(found.state.map(Refusal::Standing));
        match (why, found.id) {
            (Some(why), _) => refused.push(refusal(&row, why)),
            (None, Some(id)) => old.push((id, row)),
            (None, None) => new.push(row),
        }
    }
    (new, old)
}

fn refusal(row: &Row, why: Refusal) -> Refused {
    Refused { line: row.line, why, address: row.address.as_str().to_owned() }
}

fn json_of_hashes(rows: &[Row]) -> String {
    let hashes: Vec<String> = rows.iter().map(|row| hex(row.hash)).collect();
    serde_json::to_string(&hashes).unwrap_or_default()
}

fn hex(hash: [u8; 16]) -> String {
    data_encoding::HEXLOWER.encode(&hash)
}

fn first_half(hash: [u8; 16]) -> u64 {
    (u128::from_be_bytes(hash) >> 64) as u64
}
