//! Confirmation: the owner of a mailbox answers the mail that asked them. Only a POST comes here;
//! looking at a link changes nothing.

use super::{
    Origin, caps,
    consent::{self, NewConsent},
    suppression::{self, Reason},
};
use crate::{
    address::Address,
    db::{
        self, Db, Tx,
        record::record,
        state::{EventKind, SubscriptionState},
    },
    event::{self, Event},
    id::{CopyId, NewsletterId, ServiceMailId, SubscriberId},
    provider::ProviderId,
    service_mail::{self, Kind, NewServiceMail},
    smtp::message::message_id,
    timestamp::Timestamp,
    token::{Keyring, Purpose, ReaderToken, hash_token},
};

/// Characters of the longest token that is looked up.
const TOKEN_CHARS_MAX: usize = 100;

/// Whether a mailed link still works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// It does.
    Open,
    /// It was used.
    Used,
    /// Its time is over.
    Expired,
}

/// A mailed link, found by its token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirmation {
    /// Its row.
    pub id: i64,
    /// The newsletter it is about.
    pub newsletter: NewsletterId,
    /// Whom it was mailed to.
    pub subscriber: SubscriberId,
    /// Whether it still works.
    pub state: LinkState,
}

record! {
    struct Row {
        id: i64,
        newsletter_id: NewsletterId,
        subscriber_id: SubscriberId,
        expires_at: Timestamp,
        used_at: Option<Timestamp>,
        service_id: Option<ServiceMailId>,
    }
}

impl Row {
    fn state(&self, now: Timestamp) -> LinkState {
        match self.used_at {
            Some(_) => LinkState::Used,
            None if self.expires_at <= now => LinkState::Expired,
            None => LinkState::Open,
        }
    }

    fn link(&self, now: Timestamp) -> Confirmation {
        Confirmation {
            id: self.id,
            newsletter: self.newsletter_id,
            subscriber: self.subscriber_id,
            state: self.state(now),
        }
    }
}

/// The confirmation link with `token`, if there is one.
pub async fn find_confirmation(
    db: &Db,
    token: &str,
    now: Timestamp,
) -> db::Result<Option<Confirmation>> {
    find_link(db, "subscription", token, now).await
}

/// The link for `purpose` with `token`, if there is one.
pub(super) async fn find_link(
    db: &Db,
    purpose: &'static str,
    token: &str,
    now: Timestamp,
) -> db::Result<Option<Confirmation>> {
    if token.len() > TOKEN_CHARS_MAX {
        return Ok(None);
    }
    let row: Option<Row> = db
        .query(
            "SELECT id, newsletter_id, subscriber_id, expires_at, used_at, service_id \
             FROM confirmation WHERE token_hash = $1 AND purpose = $2",
        )
        .bind(hash_token(token).to_vec())
        .bind(purpose)
        .optional()
        .await?;
    Ok(row.map(|row| row.link(now)))
}

/// Writes a link that is about to be mailed.
pub(super) async fn insert_link(
    tx: &mut Tx,
    purpose: &'static str,
    (newsletter, subscriber): (NewsletterId, SubscriberId),
    (nonce, token_hash): (&[u8], [u8; 32]),
    (now, expires_at): (Timestamp, Timestamp),
) -> db::Result<i64> {
    tx.query(
        "INSERT INTO confirmation (purpose, token_hash, nonce, newsletter_id, subscriber_id, \
         created_at, expires_at, sent_at, sent_count) VALUES ($1, $2, $3, $4, $5, $6, $7, $6, 0) \
         RETURNING id",
    )
    .bind(purpose)
    .bind(token_hash.to_vec())
    .bind(nonce.to_vec())
    .bind(newsletter)
    .bind(subscriber)
    .bind(now)
    .bind(expires_at)
    .scalar()
    .await
}

/// Notes which mail carries the link now.
pub(super) async fn note_sent(
    tx: &mut Tx,
    id: i64,
    mail: ServiceMailId,
    (now, expires_at): (Timestamp, Timestamp),
) -> db::Result<()> {
    tx.query(
        "UPDATE confirmation SET service_id = $2, sent_at = $3, expires_at = $4, \
         sent_count = sent_count + 1 WHERE id = $1",
    )
    .bind(id)
    .bind(mail)
    .bind(now)
    .bind(expires_at)
    .execute()
    .await?;
    Ok(())
}

/// The token that goes into the mail about confirmation row `id`: [`Purpose::Confirm`] for a
/// subscription, [`Purpose::MyData`] for a link to one's data. `None` when the row is gone or was
/// used, or when the key that made it is not in the ring any more.
pub async fn mailed_link(
    db: &Db,
    keyring: &Keyring,
    id: i64,
) -> db::Result<Option<(Purpose, String)>> {
    record! {
        struct Made {
            purpose: String,
            nonce: Vec<u8>,
            token_hash: Vec<u8>,
        }
    }
    let made: Option<Made> = db
        .query(
            "SELECT purpose, nonce, token_hash FROM confirmation WHERE id = $1 AND used_at IS NULL",
        )
        .bind(id)
        .optional()
        .await?;
    Ok(made.and_then(|made| {
        let purpose = if made.purpose == "data" { Purpose::MyData } else { Purpose::Confirm };
        let hash = made.token_hash.try_into().ok()?;
        Some((purpose, keyring.derive_again(purpose, &made.nonce, &hash)?))
    }))
}

/// What a confirmation led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConfirmOutcome {
    /// The subscription is active from now on.
    Confirmed(Confirmation),
    /// It was confirmed with this link before, and is active.
    AlreadyActive(Confirmation),
    /// The link was used, and the subscription has ended since: links work once.
    Used(Confirmation),
    /// The link is too old; a new one can be asked for.
    Expired(Confirmation),
    /// The address must not be mailed until an operator lifts that.
    Blocked(Confirmation),
    /// There is no such link.
    Unknown,
}

/// Confirms the subscription behind `token`, with the evidence for it. Lifts a bounce, an erasure or
/// an earlier unsubscription; a complaint or an operator's word stays.
pub async fn confirm(
    db: &Db,
    keyring: &Keyring,
    message_id_domain: &str,
    (token, origin): (&str, &Origin),
    now: Timestamp,
) -> db::Result<ConfirmOutcome> {
    if token.len() > TOKEN_CHARS_MAX {
        return Ok(ConfirmOutcome::Unknown);
    }
    let mut tx = db.begin().await?;
    let row: Option<Row> = tx
        .query(
            "SELECT id, newsletter_id, subscriber_id, expires_at, used_at, service_id \
             FROM confirmation WHERE token_hash = $1 AND purpose = 'subscription'",
        )
        .bind(hash_token(token).to_vec())
        .optional()
        .await?;
    let Some(row) = row else { return Ok(ConfirmOutcome::Unknown) };
    let link = row.link(now);
    match link.state {
        LinkState::Used => {
            let active = state_of(&mut tx, &link).await? == Some(SubscriptionState::Active);
            let outcome = if active { ConfirmOutcome::AlreadyActive } else { ConfirmOutcome::Used };
            return Ok(outcome(link));
        }
        LinkState::Expired => return Ok(ConfirmOutcome::Expired(link)),
        LinkState::Open => {}
    }
    let Some(reader) = reader(&mut tx, link.subscriber).await? else {
        return Ok(ConfirmOutcome::Unknown);
    };
    let suppressed = suppression::reason_of(&mut tx, &reader.address_hash).await?;
    if suppressed.is_some_and(|reason| !reason.is_lifted_by_confirmation()) {
        return Ok(ConfirmOutcome::Blocked(link));
    }
    // Whoever pressed the button reads mail there: old failures say nothing any more.
    suppression::lift(&mut tx, &reader.address_hash).await?;
    activate(&mut tx, &link, now).await?;
    caps::forgive(&mut tx, link.newsletter, &reader.address_hash, now).await?;
    service_mail::cancel_waiting(&mut tx, link.subscriber, Some(link.newsletter), "confirmed")
        .await?;
    let record = NewConsent {
        subscriber: link.subscriber,
        newsletter: link.newsletter,
        kind: consent::Kind::Confirmed,
        origin,
        source: None,
        message_id: row
            .service_id
            .map(|id| message_id(keyring, CopyId::Service(id), message_id_domain)),
    };
    consent::append(&mut tx, record, now).await?;
    let mut confirmed = Event::new(EventKind::Confirmed, now).about(None, Some(link.subscriber));
    confirmed.text = suppressed.map(|reason| format!("ends the suppression for: {reason}"));
    event::record(&mut tx, &[confirmed]).await?;
    welcome(&mut tx, &link, &reader, now).await?;
    tx.commit().await?;
    Ok(ConfirmOutcome::Confirmed(link))
}

record! {
    /// What acts on a subscriber need of them.
    pub(super) struct Reader {
        pub(super) address: String,
        pub(super) address_hash: Vec<u8>,
        pub(super) provider: i64,
    }
}

/// The subscriber in row `id`, unless they were erased.
pub(super) async fn reader(tx: &mut Tx, id: SubscriberId) -> db::Result<Option<Reader>> {
    tx.query(
        "SELECT address, address_hash, provider FROM subscriber \
         WHERE id = $1 AND address IS NOT NULL",
    )
    .bind(id)
    .optional()
    .await
}

async fn state_of(tx: &mut Tx, link: &Confirmation) -> db::Result<Option<SubscriptionState>> {
    tx.query("SELECT state FROM subscription WHERE newsletter_id = $1 AND subscriber_id = $2")
        .bind(link.newsletter)
        .bind(link.subscriber)
        .optional_scalar()
        .await
}

async fn activate(tx: &mut Tx, link: &Confirmation, now: Timestamp) -> db::Result<()> {
    tx.query(
        "INSERT INTO subscription (newsletter_id, subscriber_id, state, created_at, confirmed_at) \
         VALUES ($1, $2, 1, $3, $3) ON CONFLICT (newsletter_id, subscriber_id) DO UPDATE SET \
         state = 1, confirmed_at = excluded.confirmed_at, ended_at = NULL, end_reason = NULL, \
         paused_until = NULL",
    )
    .bind(link.newsletter)
    .bind(link.subscriber)
    .bind(now)
    .execute()
    .await?;
    // Whatever other links to the same effect are about: one answer answers them all.
    tx.query(
        "UPDATE confirmation SET used_at = $3 WHERE subscriber_id = $1 AND newsletter_id = $2 \
         AND purpose = 'subscription' AND used_at IS NULL",
    )
    .bind(link.subscriber)
    .bind(link.newsletter)
    .bind(now)
    .execute()
    .await?;
    Ok(())
}

async fn welcome(
    tx: &mut Tx,
    link: &Confirmation,
    reader: &Reader,
    now: Timestamp,
) -> db::Result<()> {
    // An address that no longer parses was written by other hands; it gets no mail.
    let Ok(address) = Address::parse(&reader.address) else { return Ok(()) };
    let mail = NewServiceMail {
        kind: Kind::Welcome,
        newsletter: Some(link.newsletter),
        subscriber: Some(link.subscriber),
        address,
        provider: ProviderId(reader.provider),
        parameters: serde_json::json!({}),
        expires_at: now.plus(std::time::Duration::from_hours(48)),
    };
    service_mail::queue(tx, mail, now).await?;
    Ok(())
}

/// Blocks the address that a confirmation mail went to, because its owner says that somebody else
/// typed it. Returns whether there was such a reader.
pub async fn not_me(
    db: &Db,
    token: ReaderToken,
    origin: &Origin,
    now: Timestamp,
) -> db::Result<bool> {
    let mut tx = db.begin().await?;
    let Some(reader) = reader(&mut tx, token.subscriber).await? else { return Ok(false) };
    let detail = "the owner of the mailbox had not signed up";
    let address = Some(reader.address.as_str());
    if suppression::add(&mut tx, &reader.address_hash, address, Reason::NotMe, detail, now).await? {
        let record = NewConsent {
            subscriber: token.subscriber,
            newsletter: token.newsletter,
            kind: consent::Kind::NotMe,
            origin,
            source: None,
            message_id: None,
        };
        consent::append(&mut tx, record, now).await?;
        let suppressed = Event::new(EventKind::Suppressed, now)
            .about(None, Some(token.subscriber))
            .because(Reason::NotMe.as_str());
        event::record(&mut tx, &[suppressed]).await?;
    }
    tx.query(
        "UPDATE subscription SET state = 3, ended_at = $2, end_reason = 'not_me' \
         WHERE subscriber_id = $1 AND state = 0",
    )
    .bind(token.subscriber)
    .bind(now)
    .execute()
    .await?;
    tx.query("UPDATE confirmation SET used_at = $2 WHERE subscriber_id = $1 AND used_at IS NULL")
        .bind(token.subscriber)
        .bind(now)
        .execute()
        .await?;
    service_mail::cancel_waiting(&mut tx, token.subscriber, None, "not_me").await?;
    tx.commit().await?;
    Ok(true)
}
