//! The link to one's own data. A newsletter gets forwarded with the reader's links in it, so those
//! links show and erase nothing: they only have another link mailed to the reader, which works for
//! a day.

use std::time::Duration;

use super::{
    confirm::{Confirmation, LinkState, find_link, insert_link, note_sent, reader},
    erase::{self, EraseError},
};
use crate::{
    address::Address,
    audit,
    db::{self, Db},
    provider::ProviderId,
    service_mail::{self, Kind, NewServiceMail},
    timestamp::Timestamp,
    token::{Keyring, Purpose, ReaderToken, hash_token},
};

/// How long a link to one's data works.
const LIFETIME: Duration = Duration::from_hours(24);
/// How soon another one can be asked for.
const PAUSE: Duration = Duration::from_mins(10);

/// Mails the reader a link to their data. Returns whether a mail was queued: not when one was asked
/// for just before, and not for somebody who was erased or suppressed for good.
pub async fn request_data_link(
    db: &Db,
    keyring: &Keyring,
    token: ReaderToken,
    now: Timestamp,
) -> db::Result<bool> {
    let mut tx = db.begin().await?;
    let Some(reader) = reader(&mut tx, token.subscriber).await? else { return Ok(false) };
    let recent: Option<i64> = tx
        .query(
            "SELECT id FROM confirmation WHERE subscriber_id = $1 AND purpose = 'data' \
             AND created_at > $2 LIMIT 1",
        )
        .bind(token.subscriber)
        .bind(now.minus(PAUSE))
        .optional_scalar()
        .await?;
    let suppressed = super::suppression::reason_of(&mut tx, &reader.address_hash).await?;
    let silent = suppressed.is_some_and(|reason| !reason.is_lifted_by_confirmation());
    let Ok(address) = Address::parse(&reader.address) else { return Ok(false) };
    if recent.is_some() || silent {
        return Ok(false);
    }
    let nonce: [u8; 16] = rand::random();
    let secret = keyring.derive(Purpose::MyData, &nonce);
    let times = (now, now.plus(LIFETIME));
    let names = (token.newsletter, token.subscriber);
    let id = insert_link(&mut tx, "data", names, (&nonce, hash_token(&secret)), times).await?;
    let mail = NewServiceMail {
        kind: Kind::MyData,
        newsletter: Some(token.newsletter),
        subscriber: Some(token.subscriber),
        address,
        provider: ProviderId(reader.provider),
        parameters: NewServiceMail::confirmation_parameters(id),
        expires_at: times.1,
    };
    let mail = service_mail::queue(&mut tx, mail, now).await?;
    note_sent(&mut tx, id, mail, times).await?;
    tx.commit().await?;
    Ok(true)
}

/// The link to one's data with `token`, if there is one and it still works.
pub async fn data_link(db: &Db, token: &str, now: Timestamp) -> db::Result<Option<Confirmation>> {
    let link = find_link(db, "data", token, now).await?;
    Ok(link.filter(|link| link.state == LinkState::Open))
}

/// Erases the subscriber behind a link to one's data. Returns whether there was such a link.
pub async fn erase_by_link(
    db: &Db,
    keyring: &Keyring,
    token: &str,
    now: Timestamp,
) -> Result<bool, EraseError> {
    let Some(link) = data_link(db, token, now).await? else { return Ok(false) };
    let target = link.subscriber.to_string();
    let act = audit::Act {
        actor: "reader",
        action: "subscriber.erase",
        target: &target,
        detail: "asked for by the mailed link",
    };
    erase::erase(db, keyring, link.subscriber, act, now).await?;
    Ok(true)
}
