//! What time does to sign-ups that nobody confirms: one reminder, then expiry, then deletion. And to
//! the day counters. Work is done in bounded batches, so that no write holds the database for long.

use super::caps;
use crate::{
    address::Address,
    config::Signup,
    db::{self, Db, Tx, record::record},
    id::{NewsletterId, SubscriberId},
    provider::ProviderId,
    service_mail::{self, Kind, NewServiceMail},
    timestamp::Timestamp,
};

/// Rows that one call looks at, for each kind of work.
const BATCH: i64 = 500;

/// What one round did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Housekeeping {
    /// Reminders queued.
    pub reminded: u64,
    /// Subscriptions that are expired now.
    pub expired: u64,
    /// Subscriptions that were deleted, with the subscriber where nothing else was left.
    pub deleted: u64,
    /// Whether a batch was full: there may be more to do at once.
    pub more: bool,
}

record! {
    struct Unanswered {
        id: i64,
        newsletter_id: NewsletterId,
        subscriber_id: SubscriberId,
        expires_at: Timestamp,
        address: Option<String>,
        provider: i64,
        due: bool,
    }
}

record! {
    struct Forgotten {
        newsletter_id: NewsletterId,
        subscriber_id: SubscriberId,
    }
}

/// One round of reminders, expiry and deletion. Call it every few minutes, and again at once while
/// [`Housekeeping::more`] says so.
pub async fn expire_pending(db: &Db, rules: &Signup, now: Timestamp) -> db::Result<Housekeeping> {
    let mut tx = db.begin().await?;
    let (reminded, seen) = remind(&mut tx, rules, now).await?;
    let expired = expire(&mut tx, now, rules).await?;
    let deleted = delete(&mut tx, rules, now).await?;
    caps::forget_past_days(&mut tx, now).await?;
    tx.commit().await?;
    let full = |count: u64| count >= BATCH as u64;
    let more = full(seen) || full(expired) || full(deleted);
    Ok(Housekeeping { reminded, expired, deleted, more })
}

/// Queues the one reminder of every confirmation that is old enough and still waited for. Returns
/// how many were queued and how many links were looked at.
async fn remind(tx: &mut Tx, rules: &Signup, now: Timestamp) -> db::Result<(u64, u64)> {
    if rules.reminder_after.is_zero() {
        return Ok((0, 0));
    }
    let links: Vec<Unanswered> = tx
        .query(
            "SELECT c.id, c.newsletter_id, c.subscriber_id, c.expires_at, s.address, s.provider, \
             c.purpose = 'subscription' AND c.expires_at > $1 AND b.state = 0 \
             AND NOT EXISTS (SELECT 1 FROM suppression x WHERE x.address_hash = s.address_hash) \
             AS due FROM confirmation c \
             JOIN subscriber s ON s.id = c.subscriber_id \
             LEFT JOIN subscription b \
             ON b.newsletter_id = c.newsletter_id AND b.subscriber_id = c.subscriber_id \
             WHERE c.used_at IS NULL AND c.reminded_at IS NULL AND c.created_at <= $2 \
             ORDER BY c.created_at LIMIT $3",
        )
        .bind(now)
        .bind(now.minus(rules.reminder_after))
        .bind(BATCH)
        .all()
        .await?;
    let mut reminded = 0;
    for link in &links {
        tx.query("UPDATE confirmation SET reminded_at = $2 WHERE id = $1")
            .bind(link.id)
            .bind(now)
            .execute()
            .await?;
        let address = link.address.as_deref().and_then(|text| Address::parse(text).ok());
        if let (true, Some(address)) = (link.due, address) {
            let mail = NewServiceMail {
                kind: Kind::Reminder,
                newsletter: Some(link.newsletter_id),
                subscriber: Some(link.subscriber_id),
                address,
                provider: ProviderId(link.provider),
                parameters: NewServiceMail::confirmation_parameters(link.id),
                expires_at: link.expires_at,
            };
            service_mail::queue(tx, mail, now).await?;
            reminded += 1;
        }
    }
    Ok((reminded, links.len() as u64))
}

/// Marks pending subscriptions whose links are all over. They started at least one lifetime ago.
async fn expire(tx: &mut Tx, now: Timestamp, rules: &Signup) -> db::Result<u64> {
    tx.query(
        "UPDATE subscription SET state = 3, ended_at = $1, end_reason = 'not confirmed' \
         WHERE (newsletter_id, subscriber_id) IN ( \
         SELECT b.newsletter_id, b.subscriber_id FROM subscription b \
         WHERE b.state IN (0, 3) AND b.state = 0 AND b.created_at <= $2 AND NOT EXISTS ( \
         SELECT 1 FROM confirmation c WHERE c.subscriber_id = b.subscriber_id \
         AND c.newsletter_id = b.newsletter_id AND c.used_at IS NULL AND c.expires_at > $1) \
         LIMIT $3)",
    )
    .bind(now)
    .bind(now.minus(rules.confirmation_lifetime))
    .bind(BATCH)
    .execute()
    .await
}

/// Deletes subscriptions that expired and are old enough, and subscribers that have no other.
async fn delete(tx: &mut Tx, rules: &Signup, now: Timestamp) -> db::Result<u64> {
    let gone: Vec<Forgotten> = tx
        .query(
            "SELECT newsletter_id, subscriber_id FROM subscription \
             WHERE state IN (0, 3) AND state = 3 AND created_at <= $1 LIMIT $2",
        )
        .bind(now.minus(rules.forget_after))
        .bind(BATCH)
        .all()
        .await?;
    for row in &gone {
        for statement in [
            "DELETE FROM subscription WHERE newsletter_id = $1 AND subscriber_id = $2",
            "DELETE FROM confirmation WHERE newsletter_id = $1 AND subscriber_id = $2",
            "DELETE FROM consent WHERE newsletter_id = $1 AND subscriber_id = $2",
            // Mails keep their state for the figures; whom they went to is forgotten.
            "UPDATE service_mail SET subscriber_id = NULL, address = '', parameters = '{}' \
             WHERE newsletter_id = $1 AND subscriber_id = $2 AND state NOT IN (0, 1, 2)",
        ] {
            tx.query(statement).bind(row.newsletter_id).bind(row.subscriber_id).execute().await?;
        }
        tx.query(
            "DELETE FROM subscriber WHERE id = $1 AND erased_at IS NULL \
             AND NOT EXISTS (SELECT 1 FROM subscription WHERE subscriber_id = $1) \
             AND NOT EXISTS (SELECT 1 FROM consent WHERE subscriber_id = $1) \
             AND NOT EXISTS (SELECT 1 FROM confirmation WHERE subscriber_id = $1) \
             AND NOT EXISTS (SELECT 1 FROM soft_bounce WHERE subscriber_id = $1) \
             AND NOT EXISTS (SELECT 1 FROM held_suppression WHERE subscriber_id = $1) \
             AND NOT EXISTS (SELECT 1 FROM service_mail WHERE subscriber_id = $1)",
        )
        .bind(row.subscriber_id)
        .execute()
        .await?;
    }
    Ok(gone.len() as u64)
}
