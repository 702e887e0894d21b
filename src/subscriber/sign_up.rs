//! Sign-up: a person types an address, and the mailbox behind it is asked to confirm.
//!
//! Whoever types an address learns nothing about it: every address gets the same answer after the
//! same work (one transaction that is made durable), and what differs is only the mail, which only
//! the mailbox's owner sees.

use std::time::Duration;

use super::{
    Origin,
    caps::{self, Limit},
    confirm::{self, LinkState},
    consent::{self, NewConsent},
    suppression,
};
use crate::{
    address::Address,
    config::Signup,
    db::{
        self, Db, Tx,
        record::record,
        state::{EventKind, SubscriptionState},
    },
    event::{self, Event},
    id::{NewsletterId, ServiceMailId, SubscriberId},
    provider::Providers,
    service_mail::{self, Kind, NewServiceMail},
    timestamp::Timestamp,
    token::{Keyring, Purpose, hash_token},
};

/// A request to subscribe.
#[derive(Debug, Clone)]
pub struct SignUp {
    /// To which newsletter.
    pub newsletter: NewsletterId,
    /// The address that was typed.
    pub address: Address,
    /// Where the request came from.
    pub origin: Origin,
}

/// What a sign-up led to. For logs and tests; whoever signed up must not be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignUpOutcome {
    /// The mailbox is asked to confirm.
    ConfirmationQueued,
    /// The mailbox, which has the newsletter already, is told so.
    AlreadySubscribedQueued,
    /// Nothing is sent.
    Nothing(Silence),
}

/// Why a sign-up leads to no mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// The address had its mails for today.
    AddressCap,
    /// The last confirmation mail is too fresh to be repeated.
    Pause,
    /// The address must not be mailed, and only an operator can change that.
    Suppressed(suppression::Reason),
}

/// Why a sign-up was not taken. Says nothing about the address.
#[derive(Debug, thiserror::Error)]
pub enum SignUpError {
    /// Too many sign-ups today.
    #[error("too many sign-ups today ({0:?})")]
    Limited(Limit),
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
}

record! {
    /// The subscriber's standing when they sign up.
    struct Standing {
        id: SubscriberId,
        state: Option<SubscriptionState>,
    }
}

record! {
    /// A confirmation link that still works.
    struct OpenLink {
        id: i64,
        nonce: Vec<u8>,
        token_hash: Vec<u8>,
        sent_at: Timestamp,
        expires_at: Timestamp,
    }
}

/// Takes a sign-up: counts it, and queues the mail that the address should get, if any.
pub async fn sign_up(
    db: &Db,
    keyring: &Keyring,
    providers: &Providers,
    rules: &Signup,
    request: &SignUp,
    now: Timestamp,
) -> Result<SignUpOutcome, SignUpError> {
    let domain = caps::counted_domain(providers, &request.address);
    let scopes = caps::scopes(rules, request.origin.ip, domain.as_deref());
    if let Some(limit) = caps::used_up(db, &scopes, now).await? {
        return Err(SignUpError::Limited(limit));
    }
    let mut tx = db.begin().await?;
    if let Some(limit) = caps::admit(&mut tx, &scopes, now).await? {
        tx.commit().await?;
        return Err(SignUpError::Limited(limit));
    }
    let outcome = Desk { keyring, providers, rules, now }.take(&mut tx, request).await?;
    tx.commit().await?;
    Ok(outcome)
}

/// Mails a fresh link to the address behind an expired one. `None` when `token` is no such link.
pub async fn renew(
    db: &Db,
    keyring: &Keyring,
    providers: &Providers,
    rules: &Signup,
    (token, origin): (&str, Origin),
    now: Timestamp,
) -> Result<Option<SignUpOutcome>, SignUpError> {
    let Some(old) = confirm::find_confirmation(db, token, now).await? else { return Ok(None) };
    if old.state == LinkState::Used {
        return Ok(None);
    }
    let subscriber = super::get(db, old.subscriber).await?;
    let address = subscriber.and_then(|s| s.address).and_then(|text| Address::parse(&text).ok());
    let Some(address) = address else { return Ok(None) };
    let request = SignUp { newsletter: old.newsletter, address, origin };
    sign_up(db, keyring, providers, rules, &request, now).await.map(Some)
}

/// What a sign-up is judged with.
struct Desk<'a> {
    keyring: &'a Keyring,
    providers: &'a Providers,
    rules: &'a Signup,
    now: Timestamp,
}

impl Desk<'_> {
    async fn take(&self, tx: &mut Tx, request: &SignUp) -> db::Result<SignUpOutcome> {
        let hash = self.keyring.address_hash(&request.address);
        let suppressed = suppression::reason_of(tx, &hash).await?;
        let standing: Option<Standing> = tx
            .query(
                "SELECT s.id, b.state FROM subscriber s LEFT JOIN subscription b \
                 ON b.newsletter_id = $1 AND b.subscriber_id = s.id WHERE s.address_hash = $2",
            )
            .bind(request.newsletter)
            .bind(hash.to_vec())
            .optional()
            .await?;
        if let Some(reason) = suppressed.filter(|reason| !reason.is_lifted_by_confirmation()) {
            return Ok(SignUpOutcome::Nothing(Silence::Suppressed(reason)));
        }
        let active = standing.as_ref().and_then(|s| s.state) == Some(SubscriptionState::Active);
        let open = match &standing {
            Some(standing) if !active => self.open_link(tx, request, standing.id).await?,
            _ => None,
        };
        if open.as_ref().is_some_and(|link| self.now < link.sent_at.plus(self.pause())) {
            return Ok(SignUpOutcome::Nothing(Silence::Pause));
        }
        if !caps::admit_mail(tx, self.rules, request.newsletter, &hash, self.now).await? {
            return Ok(SignUpOutcome::Nothing(Silence::AddressCap));
        }
        let subscriber = match standing {
            Some(standing) => standing.id,
            None => self.insert_subscriber(tx, request, &hash).await?,
        };
        if active && suppressed.is_none() {
            let expires_at = self.now.plus(DAY);
            let kind = Kind::AlreadySubscribed;
            let parameters = serde_json::json!({});
            self.queue(tx, request, subscriber, (kind, parameters, expires_at)).await?;
            return Ok(SignUpOutcome::AlreadySubscribedQueued);
        }
        self.set_pending(tx, request, subscriber, active).await?;
        self.ask_to_confirm(tx, request, subscriber, open).await?;
        self.keep_evidence(tx, request, subscriber).await?;
        Ok(SignUpOutcome::ConfirmationQueued)
    }

    /// How soon a confirmation mail may be repeated: the day's mails, spread over the day.
    fn pause(&self) -> Duration {
        DAY / self.rules.per_address_and_newsletter.max(1)
    }

    async fn insert_subscriber(
        &self,
        tx: &mut Tx,
        request: &SignUp,
        hash: &[u8],
    ) -> db::Result<SubscriberId> {
        tx.query(
            "INSERT INTO subscriber (address, address_hash, provider, created_at) \
             VALUES ($1, $2, $3, $4) RETURNING id",
        )
        .bind(request.address.as_str().to_owned())
        .bind(hash.to_vec())
        .bind(self.providers.of_domain(request.address.domain()).0)
        .bind(self.now)
        .scalar()
        .await
    }

    /// The subscription waits for its confirmation. One that its owner ended stays ended until
    /// then: a stranger who types the address must not wipe out that they left.
    async fn set_pending(
        &self,
        tx: &mut Tx,
        request: &SignUp,
        subscriber: SubscriberId,
        active: bool,
    ) -> db::Result<()> {
        if active {
            return Ok(());
        }
        tx.query(
            "INSERT INTO subscription (newsletter_id, subscriber_id, state, created_at) \
             VALUES ($1, $2, 0, $3) ON CONFLICT (newsletter_id, subscriber_id) DO UPDATE SET \
             state = 0, created_at = excluded.created_at, ended_at = NULL, end_reason = NULL \
             WHERE state = 3",
        )
        .bind(request.newsletter)
        .bind(subscriber)
        .bind(self.now)
        .execute()
        .await?;
        // Nobody has confirmed the spelling so far: the newest one is as good as any.
        tx.query(
            "UPDATE subscriber SET address = $2 WHERE id = $1 AND address <> $2 AND NOT EXISTS \
             (SELECT 1 FROM subscription WHERE subscriber_id = $1 AND state IN (1, 2))",
        )
        .bind(subscriber)
        .bind(request.address.as_str().to_owned())
        .execute()
        .await?;
        Ok(())
    }

    /// The newest link that was not used.
    async fn open_link(
        &self,
        tx: &mut Tx,
        request: &SignUp,
        subscriber: SubscriberId,
    ) -> db::Result<Option<OpenLink>> {
        tx.query(
            "SELECT id, nonce, token_hash, sent_at, expires_at FROM confirmation \
             WHERE subscriber_id = $1 AND newsletter_id = $2 AND purpose = 'subscription' \
             AND used_at IS NULL ORDER BY id DESC LIMIT 1",
        )
        .bind(subscriber)
        .bind(request.newsletter)
        .optional()
        .await
    }

    /// Queues the confirmation mail: with the link that is still open, or with a new one.
    async fn ask_to_confirm(
        &self,
        tx: &mut Tx,
        request: &SignUp,
        subscriber: SubscriberId,
        open: Option<OpenLink>,
    ) -> db::Result<()> {
        let expires_at = self.now.plus(self.rules.confirmation_lifetime);
        let again = open.filter(|link| link.expires_at > self.now && self.can_derive(link));
        let id = if let Some(link) = again {
            link.id
        } else {
            let nonce: [u8; 16] = rand::random();
            let token = self.keyring.derive(Purpose::Confirm, &nonce);
            confirm::insert_link(
                tx,
                "subscription",
                (request.newsletter, subscriber),
                (&nonce, hash_token(&token)),
                (self.now, expires_at),
            )
            .await?
        };
        let mail = (Kind::Confirmation, NewServiceMail::confirmation_parameters(id), expires_at);
        let mail = self.queue(tx, request, subscriber, mail).await?;
        confirm::note_sent(tx, id, mail, (self.now, expires_at)).await
    }

    /// Whether the key that made a link is still in the ring.
    fn can_derive(&self, link: &OpenLink) -> bool {
        <[u8; 32]>::try_from(link.token_hash.as_slice()).is_ok_and(|hash| {
            self.keyring.derive_again(Purpose::Confirm, &link.nonce, &hash).is_some()
        })
    }

    async fn queue(
        &self,
        tx: &mut Tx,
        request: &SignUp,
        subscriber: SubscriberId,
        (kind, parameters, expires_at): (Kind, serde_json::Value, Timestamp),
    ) -> db::Result<ServiceMailId> {
        let mail = NewServiceMail {
            kind,
            newsletter: Some(request.newsletter),
            subscriber: Some(subscriber),
            address: request.address.clone(),
            provider: self.providers.of_domain(request.address.domain()),
            parameters,
            expires_at,
        };
        service_mail::queue(tx, mail, self.now).await
    }

    async fn keep_evidence(
        &self,
        tx: &mut Tx,
        request: &SignUp,
        subscriber: SubscriberId,
    ) -> db::Result<()> {
        let record = NewConsent {
            subscriber,
            newsletter: request.newsletter,
            kind: consent::Kind::SignedUp,
            origin: &request.origin,
            source: None,
            message_id: None,
        };
        consent::append(tx, record, self.now).await?;
        let signed_up = Event::new(EventKind::SignedUp, self.now).about(None, Some(subscriber));
        event::record(tx, &[signed_up]).await
    }
}

const DAY: Duration = Duration::from_hours(24);
