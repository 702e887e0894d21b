//! Subscribers: people with an address, what they subscribed to, and the evidence behind it.
//!
//! Owns the tables `subscriber`, `subscription`, `consent`, `confirmation`, `suppression`,
//! `signup_count` and `import`, and every statement on them but the audience's and the handoff
//! gate's. Three facts decide whether somebody is mailed, and each stands in one place only:
//! `subscription.state`, `subscription.paused_until` and a row in `suppression`.
//!
//! A subscription goes `pending` → `active` by a confirmation, → `expired` when none comes, and
//! `unsubscribed` by its owner's act. Nothing but a new confirmation leads back to `active`.
//! Sending mail is not done here: what has to be mailed is queued in [`crate::service_mail`].

mod caps;
mod confirm;
pub mod consent;
mod erase;
mod export;
mod housekeeping;
pub mod import;
mod leave;
mod list;
mod my_data;
mod preferences;
mod seed;
mod sign_up;
pub mod suppression;
#[cfg(test)]
pub(crate) mod tests;

use std::net::IpAddr;

use serde::Serialize;

pub use caps::Limit;
pub use confirm::{
    ConfirmOutcome, Confirmation, LinkState, confirm, find_confirmation, mailed_link, not_me,
};
pub use erase::{EraseError, erase};
pub use export::{OwnData, export_csv, own_data};
pub use housekeeping::{Housekeeping, expire_pending};
pub(crate) use leave::unsubscribe_in;
pub use leave::{Left, Scope, Via, unsubscribe};
pub use list::{Filter, ListedSubscriber, list, state_counts};
pub use my_data::{data_link, erase_by_link, request_data_link};
pub use preferences::{pause, resume, set_name, set_seed};
pub use seed::{SeedError, add_seed, remove_seed};
pub use sign_up::{SignUp, SignUpError, SignUpOutcome, Silence, renew, sign_up};

use crate::{
    address::Address,
    db::{self, Db, record::record, state::SubscriptionState},
    id::{NewsletterId, SubscriberId},
    timestamp::Timestamp,
    token::Keyring,
};

record! {
    /// A person with an address. After an erasure only the row's number is left of them.
    #[derive(Debug, Clone, Serialize)]
    pub struct Subscriber {
        /// Their row.
        pub id: SubscriberId,
        /// Where their mail goes, as they typed it; none after an erasure.
        pub address: Option<String>,
        /// Their name, where one is known.
        pub name: Option<String>,
        /// Further data as a JSON object of texts.
        pub attributes: Option<String>,
        /// Who runs their mailbox.
        pub provider: i64,
        /// When they were first seen.
        pub created_at: Timestamp,
        /// When they were erased.
        pub erased_at: Option<Timestamp>,
    }
}

record! {
    /// Somebody's standing with one newsletter.
    #[derive(Debug, Clone, Serialize)]
    pub struct Subscription {
        /// Which newsletter.
        pub newsletter_id: NewsletterId,
        /// Its slug.
        pub newsletter: String,
        /// Its name for people.
        pub newsletter_name: String,
        /// Whether they get it.
        pub state: SubscriptionState,
        /// Whether they are on the seed list, which gets every issue first.
        pub seed: bool,
        /// When they signed up.
        pub created_at: Timestamp,
        /// When they confirmed.
        pub confirmed_at: Option<Timestamp>,
        /// When it ended.
        pub ended_at: Option<Timestamp>,
        /// Why it ended.
        pub end_reason: Option<String>,
        /// Until when they want no issues.
        pub paused_until: Option<Timestamp>,
    }
}

/// Where an act came from: the evidence that is kept with it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The address it came from.
    pub ip: Option<IpAddr>,
    /// What the program called itself.
    pub user_agent: Option<String>,
    /// The form that was shown: its version and its words.
    pub form: Option<String>,
}

/// Characters of a user agent that are kept.
const USER_AGENT_CHARS_MAX: usize = 300;

impl Origin {
    /// An origin whose texts are safe to keep: no controls, bounded length.
    pub fn new(ip: Option<IpAddr>, user_agent: Option<&str>, form: Option<String>) -> Self {
        let user_agent = user_agent.map(|text| {
            text.chars().filter(|c| !c.is_control()).take(USER_AGENT_CHARS_MAX).collect()
        });
        Self { ip, user_agent, form }
    }
}

/// The subscriber with `address`, in whatever spelling of case.
pub async fn find(db: &Db, keyring: &Keyring, address: &Address) -> db::Result<Option<Subscriber>> {
    db.query(
        "SELECT id, address, name, attributes, provider, created_at, erased_at FROM subscriber \
         WHERE address_hash = $1",
    )
    .bind(keyring.address_hash(address).to_vec())
    .optional()
    .await
}

/// Whether `keyring` is the one whose hashes this database holds, as far as one reader shows; none
/// when there is no reader to tell by. With another ring nobody is found and nobody is suppressed.
pub async fn fits_keyring(db: &Db, keyring: &Keyring) -> db::Result<Option<bool>> {
    let row: Option<(String, Vec<u8>)> = db
        .query(
            "SELECT address, address_hash FROM subscriber WHERE address IS NOT NULL \
             ORDER BY id DESC LIMIT 1",
        )
        .optional()
        .await?;
    Ok(row.and_then(|(address, hash)| {
        let address = Address::parse(&address).ok()?;
        Some(keyring.address_hash(&address).as_slice() == hash)
    }))
}

/// The subscriber in row `id`.
pub async fn get(db: &Db, id: SubscriberId) -> db::Result<Option<Subscriber>> {
    db.query(
        "SELECT id, address, name, attributes, provider, created_at, erased_at FROM subscriber \
         WHERE id = $1",
    )
    .bind(id)
    .optional()
    .await
}

/// Everything `subscriber` ever subscribed to, by newsletter.
pub async fn subscriptions(db: &Db, subscriber: SubscriberId) -> db::Result<Vec<Subscription>> {
    db.query(
        "SELECT b.newsletter_id, n.slug AS newsletter, n.name AS newsletter_name, b.state, \
         b.seed, b.created_at, b.confirmed_at, b.ended_at, b.end_reason, b.paused_until \
         FROM subscription b JOIN newsletter n ON n.id = b.newsletter_id \
         WHERE b.subscriber_id = $1 ORDER BY n.slug",
    )
    .bind(subscriber)
    .all()
    .await
}
