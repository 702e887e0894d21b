//! Suppressions: addresses that must not be mailed, across all newsletters. A row names the keyed
//! hash of an address; the address itself stands beside it until its owner is erased.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    address::Address,
    audit,
    db::{self, Db, Tx, record::record},
    timestamp::Timestamp,
    token::Keyring,
};

/// Why an address must not be mailed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It does not exist any more.
    Bounce,
    /// Its owner called our mail spam.
    Complaint,
    /// An operator said so.
    Manual,
    /// It came in a list of such addresses from elsewhere.
    Imported,
    /// Its owner answered a confirmation with "this was not me".
    NotMe,
    /// Its owner asked to be erased.
    Erased,
}

impl Reason {
    /// Every reason there is.
    pub const ALL: &[Self] =
        &[Self::Bounce, Self::Complaint, Self::Manual, Self::Imported, Self::NotMe, Self::Erased];

    /// The word in the table, in commands and exports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bounce => "bounce",
            Self::Complaint => "complaint",
            Self::Manual => "manual",
            Self::Imported => "imported",
            Self::NotMe => "not_me",
            Self::Erased => "erased",
        }
    }

    /// The reason that `word` names.
    pub fn by_name(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|reason| reason.as_str() == word)
    }

    /// Whether a new sign-up with its confirmation ends it. All others need an operator.
    pub const fn is_lifted_by_confirmation(self) -> bool {
        matches!(self, Self::Bounce | Self::Erased)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

record! {
    /// An address that must not be mailed.
    #[derive(Debug, Clone, Serialize)]
    pub struct Suppression {
        /// The address; none after an erasure.
        pub address: Option<String>,
        /// One of [`Reason`].
        pub reason: String,
        /// What was found: a reply, a note.
        pub detail: String,
        /// Since when.
        pub created_at: Timestamp,
    }
}

/// Suppresses the address behind `address_hash` as part of `tx`. Returns whether that changed
/// anything: a row that only an operator can lift replaces one that a confirmation can, nothing
/// else replaces a row.
pub async fn add(
    tx: &mut Tx,
    address_hash: &[u8],
    address: Option<&str>,
    reason: Reason,
    detail: &str,
    now: Timestamp,
) -> db::Result<bool> {
    let changed = tx
        .query(
            "INSERT INTO suppression (address_hash, address, reason, detail, created_at) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (address_hash) DO UPDATE SET \
             reason = excluded.reason, detail = excluded.detail, \
             created_at = excluded.created_at, \
             address = coalesce(excluded.address, address) \
             WHERE reason IN ('bounce', 'erased') \
             AND excluded.reason NOT IN ('bounce', 'erased')",
        )
        .bind(address_hash.to_vec())
        .bind(address.map(str::to_owned))
        .bind(reason.as_str())
        .bind(detail.chars().take(500).collect::<String>())
        .bind(now)
        .execute()
        .await?;
    Ok(changed > 0)
}

/// Suppresses `address` in an operator's name. Returns whether it was not suppressed so before.
pub async fn suppress(
    db: &Db,
    keyring: &Keyring,
    address: &Address,
    reason: Reason,
    act: audit::Act<'_>,
    now: Timestamp,
) -> db::Result<bool> {
    let hash = keyring.address_hash(address);
    let mut tx = db.begin().await?;
    let changed = add(&mut tx, &hash, Some(address.as_str()), reason, act.detail, now).await?;
    if changed {
        audit::record(&mut tx, act, now).await?;
    }
    tx.commit().await?;
    Ok(changed)
}

/// Lifts a suppression, whatever its reason: an operator's act. Soft bounces that were counted are
/// forgotten with it. Returns the reason that stood there.
pub async fn unsuppress(
    db: &Db,
    keyring: &Keyring,
    address: &Address,
    act: audit::Act<'_>,
    now: Timestamp,
) -> db::Result<Option<Reason>> {
    let mut tx = db.begin().await?;
    let lifted = lift(&mut tx, &keyring.address_hash(address)).await?;
    if lifted.is_some() {
        audit::record(&mut tx, act, now).await?;
    }
    tx.commit().await?;
    Ok(lifted)
}

/// Takes a suppression away as part of `tx`, and with it all that speaks against the address: soft
/// bounces, and a suppression that waits for an operator.
pub(super) async fn lift(tx: &mut Tx, address_hash: &[u8]) -> db::Result<Option<Reason>> {
    let reason: Option<String> = tx
        .query("DELETE FROM suppression WHERE address_hash = $1 RETURNING reason")
        .bind(address_hash.to_vec())
        .optional_scalar()
        .await?;
    for statement in [
        "DELETE FROM soft_bounce WHERE subscriber_id IN \
         (SELECT id FROM subscriber WHERE address_hash = $1)",
        "DELETE FROM held_suppression WHERE subscriber_id IN \
         (SELECT id FROM subscriber WHERE address_hash = $1)",
    ] {
        tx.query(statement).bind(address_hash.to_vec()).execute().await?;
    }
    // A reason that this version does not know counts as an operator's.
    Ok(reason.map(|word| Reason::by_name(&word).unwrap_or(Reason::Manual)))
}

/// Why the address behind `address_hash` must not be mailed, as part of `tx`.
pub(crate) async fn reason_of(tx: &mut Tx, address_hash: &[u8]) -> db::Result<Option<Reason>> {
    let reason: Option<String> = tx
        .query("SELECT reason FROM suppression WHERE address_hash = $1")
        .bind(address_hash.to_vec())
        .optional_scalar()
        .await?;
    Ok(reason.map(|word| Reason::by_name(&word).unwrap_or(Reason::Manual)))
}

/// The suppression of `address`, if there is one.
pub async fn find(
    db: &Db,
    keyring: &Keyring,
    address: &Address,
) -> db::Result<Option<Suppression>> {
    db.query("SELECT address, reason, detail, created_at FROM suppression WHERE address_hash = $1")
        .bind(keyring.address_hash(address).to_vec())
        .optional()
        .await
}

/// Up to `limit` suppressions made before `before`, newest first; of one reason, or of all.
pub async fn list(
    db: &Db,
    reason: Option<Reason>,
    before: Timestamp,
    limit: u32,
) -> db::Result<Vec<Suppression>> {
    db.query(
        "SELECT address, reason, detail, created_at FROM suppression WHERE created_at < $1 \
         AND ($2 IS NULL OR reason = $2) ORDER BY created_at DESC LIMIT $3",
    )
    .bind(before)
    .bind(reason.map(Reason::as_str))
    .bind(i64::from(limit))
    .all()
    .await
}
