//! The seed list: the team's own inboxes, which get every issue before any reader. A member is an
//! active subscription like any other, with evidence that says how it came about.

use super::{
    Origin,
    consent::{self, NewConsent},
    suppression,
};
use crate::{
    address::Address,
    audit::{self, Act},
    db::{self, Db, Tx, state::SubscriptionState},
    id::{NewsletterId, SubscriberId},
    newsletter::Newsletter,
    provider::Providers,
    timestamp::Timestamp,
    token::Keyring,
};

/// Why an address cannot join the seed list.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// It must not be mailed.
    #[error(
        "{0} must not be mailed ({1}); `postrider subscriber unsuppress` lifts that if it is wrong"
    )]
    Suppressed(Address, suppression::Reason),
    /// Its owner left the newsletter.
    #[error(
        "{0} left this newsletter; only a new sign-up and confirmation by its owner bring it back"
    )]
    Left(Address),
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
}

/// Puts `address` on the seed list of `newsletter`, subscribing it if need be. Returns whether it
/// was not on it before.
pub async fn add_seed(
    db: &Db,
    (keyring, providers): (&Keyring, &Providers),
    newsletter: &Newsletter,
    address: &Address,
    actor: &str,
    now: Timestamp,
) -> Result<bool, SeedError> {
    let hash = keyring.address_hash(address);
    let mut tx = db.begin().await?;
    if let Some(reason) = suppression::reason_of(&mut tx, &hash).await? {
        return Err(SeedError::Suppressed(address.clone(), reason));
    }
    let known: Option<SubscriberId> = tx
        .query("SELECT id FROM subscriber WHERE address_hash = $1 AND address IS NOT NULL")
        .bind(hash.to_vec())
        .optional_scalar()
        .await?;
    let subscriber = match known {
        Some(id) => id,
        None => insert(&mut tx, address, &hash, providers, now).await?,
    };
    let standing: Option<(SubscriptionState, bool)> = tx
        .query(
            "SELECT state, seed FROM subscription WHERE newsletter_id = $1 AND subscriber_id = $2",
        )
        .bind(newsletter.id)
        .bind(subscriber)
        .optional()
        .await?;
    match standing {
        Some((SubscriptionState::Active, true)) => return Ok(false),
        Some((SubscriptionState::Unsubscribed, _)) => return Err(SeedError::Left(address.clone())),
        _ => {}
    }
    subscribe(&mut tx, newsletter.id, subscriber, now).await?;
    if !matches!(standing, Some((SubscriptionState::Active, _))) {
        let record = NewConsent {
            subscriber,
            newsletter: newsletter.id,
            kind: consent::Kind::Imported,
            origin: &Origin::default(),
            source: Some("seed list".to_owned()),
            message_id: None,
        };
        consent::append(&mut tx, record, now).await?;
    }
    let target = format!("{} {subscriber}", newsletter.slug);
    let act = Act { actor, action: "seed.add", target: &target, detail: "" };
    audit::record(&mut tx, act, now).await?;
    tx.commit().await?;
    Ok(true)
}

async fn insert(
    tx: &mut Tx,
    address: &Address,
    hash: &[u8],
    providers: &Providers,
    now: Timestamp,
) -> db::Result<SubscriberId> {
    tx.query(
        "INSERT INTO subscriber (address, address_hash, provider, created_at) \
         VALUES ($1, $2, $3, $4) RETURNING id",
    )
    .bind(address.as_str().to_owned())
    .bind(hash.to_vec())
    .bind(providers.of_domain(address.domain()).0)
    .bind(now)
    .scalar()
    .await
}

async fn subscribe(
    tx: &mut Tx,
    newsletter: NewsletterId,
    subscriber: SubscriberId,
    now: Timestamp,
) -> db::Result<()> {
    tx.query(
        "INSERT INTO subscription (newsletter_id, subscriber_id, state, seed, created_at, \
         confirmed_at) VALUES ($1, $2, 1, 1, $3, $3) \
         ON CONFLICT (newsletter_id, subscriber_id) DO UPDATE SET seed = 1, \
         confirmed_at = CASE WHEN state = 1 THEN confirmed_at ELSE excluded.confirmed_at END, \
         state = 1, ended_at = NULL, end_reason = NULL",
    )
    .bind(newsletter)
    .bind(subscriber)
    .bind(now)
    .execute()
    .await?;
    Ok(())
}

/// Takes `address` off the seed list of `newsletter`; it stays subscribed. Returns whether it was
/// on it.
pub async fn remove_seed(
    db: &Db,
    keyring: &Keyring,
    newsletter: &Newsletter,
    address: &Address,
    actor: &str,
    now: Timestamp,
) -> db::Result<bool> {
    let mut tx = db.begin().await?;
    let changed: Option<SubscriberId> = tx
        .query(
            "UPDATE subscription SET seed = 0 WHERE newsletter_id = $1 AND seed = 1 \
             AND subscriber_id = (SELECT id FROM subscriber WHERE address_hash = $2) \
             RETURNING subscriber_id",
        )
        .bind(newsletter.id)
        .bind(keyring.address_hash(address).to_vec())
        .optional_scalar()
        .await?;
    let Some(subscriber) = changed else { return Ok(false) };
    let target = format!("{} {subscriber}", newsletter.slug);
    let act = Act { actor, action: "seed.remove", target: &target, detail: "" };
    audit::record(&mut tx, act, now).await?;
    tx.commit().await?;
    Ok(true)
}
