//! Erasure: what is left of a person is a row number, that something happened and when, and a keyed
//! hash by which their address stays unmailed until they sign up again themselves.

use super::{
    confirm, leave,
    suppression::{self, Reason},
};
use crate::{
    audit,
    db::{self, Db, Tx},
    id::SubscriberId,
    timestamp::Timestamp,
    token::Keyring,
};

/// Why somebody could not be erased.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    /// There is no such subscriber, or they were erased before.
    #[error("there is no such subscriber (any more)")]
    Unknown,
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
}

/// Erases `subscriber`: ends their subscriptions, removes everything personal from every table, and
/// suppresses the hash of their address. `act` goes into the audit log; it must not name them.
pub async fn erase(
    db: &Db,
    _keyring: &Keyring,
    subscriber: SubscriberId,
    act: audit::Act<'_>,
    now: Timestamp,
) -> Result<(), EraseError> {
    let mut tx = db.begin().await?;
    let Some(reader) = confirm::reader(&mut tx, subscriber).await? else {
        return Err(EraseError::Unknown);
    };
    leave::end(&mut tx, subscriber, None, Reason::Erased.as_str(), now).await?;
    let hash = &reader.address_hash;
    suppression::add(&mut tx, hash, None, Reason::Erased, "", now).await?;
    tx.query("UPDATE suppression SET address = NULL, detail = '' WHERE address_hash = $1")
        .bind(hash.clone())
        .execute()
        .await?;
    anonymise(&mut tx, subscriber, now).await?;
    audit::record(&mut tx, act, now).await?;
    tx.commit().await?;
    Ok(())
}

/// Removes what is personal from every row that names `subscriber`.
async fn anonymise(tx: &mut Tx, subscriber: SubscriberId, now: Timestamp) -> db::Result<()> {
    // The row no longer answers to the address, so that a new sign-up makes a new subscriber.
    tx.query(
        "UPDATE subscriber SET address = NULL, address_hash = randomblob(16), name = NULL, \
         attributes = NULL, erased_at = $2 WHERE id = $1",
    )
    .bind(subscriber)
    .bind(now)
    .execute()
    .await?;
    for statement in [
        "UPDATE consent SET ip = NULL, user_agent = NULL, message_id = NULL \
         WHERE subscriber_id = $1",
        "DELETE FROM confirmation WHERE subscriber_id = $1",
        "DELETE FROM soft_bounce WHERE subscriber_id = $1",
        "DELETE FROM held_suppression WHERE subscriber_id = $1",
        "DELETE FROM inbound_mail WHERE subscriber_id = $1",
        "UPDATE service_mail SET address = '', parameters = '{}', reason = NULL \
         WHERE subscriber_id = $1",
        // A server's reply often repeats the address.
        "UPDATE event SET text = NULL WHERE subscriber_id = $1 AND text IS NOT NULL",
    ] {
        tx.query(statement).bind(subscriber).execute().await?;
    }
    Ok(())
}
