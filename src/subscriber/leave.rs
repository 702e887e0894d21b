//! Leaving: the one act that must always work, at once, any number of times.

use super::{
    Origin,
    consent::{self, NewConsent},
};
use crate::{
    db::{self, Db, Tx, record::record, state::EventKind},
    event::{self, Event},
    id::{NewsletterId, SubscriberId},
    service_mail,
    timestamp::Timestamp,
    token::ReaderToken,
};

/// What is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The newsletter that the token names.
    Newsletter,
    /// All of them.
    Everything,
}

/// How a reader left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// The mail client's button (RFC 8058).
    OneClick,
    /// The page behind the link.
    Page,
    /// A mail to the address in List-Unsubscribe.
    Mail,
    /// An operator, asked by the reader.
    Operator,
}

impl Via {
    /// The word in the table and the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OneClick => "one_click",
            Self::Page => "page",
            Self::Mail => "mail",
            Self::Operator => "operator",
        }
    }
}

/// What leaving did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Left {
    /// The newsletters that were left just now; none when they had been left before.
    pub newsletters: Vec<NewsletterId>,
}

record! {
    struct Ended {
        newsletter_id: NewsletterId,
    }
}

/// Characters of a reader's reason that are kept.
const REASON_CHARS_MAX: usize = 500;

/// Ends the reader's subscription, pending ones included. Does nothing, and succeeds, when there is
/// none: the answer to a second press is that of the first.
///
/// The event names the issue whose link was pressed, so that the gates of its send see it.
pub async fn unsubscribe(
    db: &Db,
    token: ReaderToken,
    scope: Scope,
    how: (Via, Option<&str>),
    origin: &Origin,
    now: Timestamp,
) -> db::Result<Left> {
    let mut tx = db.begin().await?;
    let left = unsubscribe_in(&mut tx, token, scope, how, origin, now).await?;
    if left.newsletters.is_empty() {
        // Nothing to make durable; the transaction ends without a write.
        tx.rollback().await?;
    } else {
        tx.commit().await?;
    }
    Ok(left)
}

/// The same as part of `tx`.
pub(crate) async fn unsubscribe_in(
    tx: &mut Tx,
    token: ReaderToken,
    scope: Scope,
    (via, reason): (Via, Option<&str>),
    origin: &Origin,
    now: Timestamp,
) -> db::Result<Left> {
    let only = (scope == Scope::Newsletter).then_some(token.newsletter);
    let left = end(tx, token.subscriber, only, via.as_str(), now).await?;
    let reason = reason.map(|text| {
        let kept = text.trim().chars().filter(|c| !c.is_control());
        kept.take(REASON_CHARS_MAX).collect::<String>()
    });
    let reason = reason.filter(|text| !text.is_empty());
    for &newsletter in &left {
        let record = NewConsent {
            subscriber: token.subscriber,
            newsletter,
            kind: consent::Kind::Unsubscribed,
            origin,
            source: Some(via.as_str().to_owned()),
            message_id: None,
        };
        consent::append(tx, record, now).await?;
        let issue = token.issue.filter(|_| newsletter == token.newsletter);
        let mut event =
            Event::new(EventKind::Unsubscribed, now).about(issue, Some(token.subscriber));
        event.class = Some(via.as_str().to_owned());
        event.text.clone_from(&reason);
        event::record(tx, &[event]).await?;
    }
    Ok(Left { newsletters: left })
}

/// Ends subscriptions as part of `tx`, and takes back the mails that wait because of them.
pub(super) async fn end(
    tx: &mut Tx,
    subscriber: SubscriberId,
    newsletter: Option<NewsletterId>,
    reason: &str,
    now: Timestamp,
) -> db::Result<Vec<NewsletterId>> {
    let ended: Vec<Ended> = tx
        .query(
            "UPDATE subscription SET state = 2, ended_at = $2, end_reason = $3, \
             paused_until = NULL WHERE subscriber_id = $1 AND state IN (0, 1) \
             AND ($4 IS NULL OR newsletter_id = $4) RETURNING newsletter_id",
        )
        .bind(subscriber)
        .bind(now)
        .bind(reason.to_owned())
        .bind(newsletter)
        .all()
        .await?;
    // A link that is under way must not bring back whoever left after it was asked for.
    tx.query(
        "UPDATE confirmation SET used_at = $2 WHERE subscriber_id = $1 AND used_at IS NULL \
         AND purpose = 'subscription' AND ($3 IS NULL OR newsletter_id = $3)",
    )
    .bind(subscriber)
    .bind(now)
    .bind(newsletter)
    .execute()
    .await?;
    service_mail::cancel_waiting(tx, subscriber, newsletter, reason).await?;
    Ok(ended.into_iter().map(|row| row.newsletter_id).collect())
}
