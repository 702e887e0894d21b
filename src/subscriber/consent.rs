//! Consent records: the evidence behind a subscription. Rows are only added; an erasure takes the
//! personal data out of them and leaves that something happened, and when.

use serde::Serialize;

use super::Origin;
use crate::{
    db::{self, Db, Tx, record::record},
    id::{NewsletterId, SubscriberId},
    timestamp::Timestamp,
};

/// What a consent record is evidence of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Somebody typed the address into a form.
    SignedUp,
    /// The owner of the mailbox confirmed.
    Confirmed,
    /// The address came in a file, with a stated source of consent.
    Imported,
    /// The owner left.
    Unsubscribed,
    /// The owner of the mailbox said that they had not signed up.
    NotMe,
}

impl Kind {
    /// The word in the table and in exports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SignedUp => "signed_up",
            Self::Confirmed => "confirmed",
            Self::Imported => "imported",
            Self::Unsubscribed => "unsubscribed",
            Self::NotMe => "not_me",
        }
    }
}

record! {
    /// One piece of evidence.
    #[derive(Debug, Clone, Serialize)]
    pub struct Consent {
        /// The newsletter it is about.
        pub newsletter: String,
        /// What happened.
        pub kind: String,
        /// When.
        pub at: Timestamp,
        /// From which address.
        pub ip: Option<String>,
        /// With which program.
        pub user_agent: Option<String>,
        /// Which form was shown: its version and its words.
        pub form: Option<String>,
        /// For imports: where consent was given, as the importer stated it.
        pub source: Option<String>,
        /// The Message-ID of the mail that was answered.
        pub message_id: Option<String>,
    }
}

/// Evidence to be added.
#[derive(Debug)]
pub(super) struct NewConsent<'a> {
    pub(super) subscriber: SubscriberId,
    pub(super) newsletter: NewsletterId,
    pub(super) kind: Kind,
    pub(super) origin: &'a Origin,
    pub(super) source: Option<String>,
    pub(super) message_id: Option<String>,
}

/// Adds a record as part of `tx`.
pub(super) async fn append(tx: &mut Tx, new: NewConsent<'_>, now: Timestamp) -> db::Result<()> {
    tx.query(
        "INSERT INTO consent (subscriber_id, newsletter_id, kind, at, ip, user_agent, form, \
         source, message_id) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(new.subscriber)
    .bind(new.newsletter)
    .bind(new.kind.as_str())
    .bind(now)
    .bind(new.origin.ip.map(|ip| ip.to_canonical().to_string()))
    .bind(new.origin.user_agent.clone())
    .bind(new.origin.form.clone())
    .bind(new.source)
    .bind(new.message_id)
    .execute()
    .await?;
    Ok(())
}

/// All evidence about `subscriber`, oldest first. An import's stated source counts as evidence for
/// everybody it brought.
pub async fn of(db: &Db, subscriber: SubscriberId) -> db::Result<Vec<Consent>> {
    db.query(
        "SELECT n.slug AS newsletter, c.kind, c.at, c.ip, c.user_agent, c.form, c.source, \
         c.message_id FROM consent c JOIN newsletter n ON n.id = c.newsletter_id \
         WHERE c.subscriber_id = $1 \
         UNION ALL \
         SELECT n.slug, 'imported', i.at, NULL, NULL, NULL, i.consent_source, NULL \
         FROM subscription b JOIN import i ON i.id = b.import_id \
         JOIN newsletter n ON n.id = b.newsletter_id WHERE b.subscriber_id = $1 \
         ORDER BY 3",
    )
    .bind(subscriber)
    .all()
    .await
}
