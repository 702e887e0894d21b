//! Queueing of service mail: the mails that one person's act causes (confirmation, welcome, …).
//!
//! A mail is queued inside the transaction that makes it necessary, so there is neither an act
//! without its mail nor a mail without its act. Claiming, rendering and sending are the delivery
//! engine's; rows in `service_mail` go through the same states as a copy of an issue.

use serde_json::{Value, json};

use crate::{
    address::Address,
    db::{self, Tx, state::CopyState},
    id::{NewsletterId, ServiceMailId, SubscriberId},
    provider::ProviderId,
    timestamp::Timestamp,
};

/// What a service mail is about; decides its template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Asks for the confirmation of a subscription. Parameters: `{"confirmation": row}`.
    Confirmation,
    /// Repeats that, once. Parameters: `{"confirmation": row}`.
    Reminder,
    /// Follows a confirmation.
    Welcome,
    /// Answers a sign-up of somebody who is subscribed.
    AlreadySubscribed,
    /// Follows an unsubscription where the reader asked for it.
    Goodbye,
    /// Carries the link to a reader's own data, at their request. Parameters:
    /// `{"confirmation": row}`.
    MyData,
    /// Tells an operator something.
    OperatorNotice,
    /// Finds out whether a mailbox with soft bounces takes mail.
    Probe,
}

impl Kind {
    /// Every kind there is.
    pub const ALL: &[Self] = &[
        Self::Confirmation,
        Self::Reminder,
        Self::Welcome,
        Self::AlreadySubscribed,
        Self::Goodbye,
        Self::MyData,
        Self::OperatorNotice,
        Self::Probe,
    ];

    /// The word in the table, in logs and in template names.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Confirmation => "confirmation",
            Self::Reminder => "reminder",
            Self::Welcome => "welcome",
            Self::AlreadySubscribed => "already_subscribed",
            Self::Goodbye => "goodbye",
            Self::MyData => "my_data",
            Self::OperatorNotice => "operator_notice",
            Self::Probe => "probe",
        }
    }

    /// The kind that `word` names.
    pub fn by_name(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == word)
    }

    /// Whether it may go to an address that is suppressed for a bounce or after an erasure: the
    /// kinds by which its owner, who asked for them, can lift that suppression or see their data.
    /// No other suppression lets any mail through.
    pub const fn may_reach_liftable_suppression(self) -> bool {
        matches!(self, Self::Confirmation | Self::MyData)
    }
}

/// A mail to be queued.
#[derive(Debug, Clone)]
pub struct NewServiceMail {
    /// What it is about.
    pub kind: Kind,
    /// In whose name it goes out.
    pub newsletter: Option<NewsletterId>,
    /// Whom it concerns.
    pub subscriber: Option<SubscriberId>,
    /// Where it goes.
    pub address: Address,
    /// Who runs that mailbox.
    pub provider: ProviderId,
    /// What its template needs besides newsletter and subscriber: a JSON object, never a secret.
    pub parameters: Value,
    /// When it is not worth sending any more.
    pub expires_at: Timestamp,
}

impl NewServiceMail {
    /// The parameters of a mail that carries a confirmation's link: its row, from which the link
    /// is derived when the mail is rendered.
    pub fn confirmation_parameters(confirmation: i64) -> Value {
        json!({ "confirmation": confirmation })
    }
}

/// Queues a mail as part of `tx`; it is due at once.
pub async fn queue(tx: &mut Tx, new: NewServiceMail, now: Timestamp) -> db::Result<ServiceMailId> {
    tx.query(
        "INSERT INTO service_mail (kind, newsletter_id, subscriber_id, address, provider, \
         parameters, state, due_at, created_at, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8, $9) RETURNING id",
    )
    .bind(new.kind.as_str())
    .bind(new.newsletter)
    .bind(new.subscriber)
    .bind(String::from(new.address))
    .bind(new.provider.0)
    .bind(new.parameters.to_string())
    .bind(CopyState::Waiting)
    .bind(now)
    .bind(new.expires_at)
    .scalar()
    .await
}

/// Takes back the mails to `subscriber` that have not been claimed yet: those about `newsletter`, or
/// all of them. What is in flight is stopped, if at all, by the handoff gate.
pub async fn cancel_waiting(
    tx: &mut Tx,
    subscriber: SubscriberId,
    newsletter: Option<NewsletterId>,
    reason: &str,
) -> db::Result<u64> {
    tx.query(
        "UPDATE service_mail SET state = $1, reason = $2 WHERE subscriber_id = $3 AND state = $4 \
         AND ($5 IS NULL OR newsletter_id = $5)",
    )
    .bind(CopyState::Cancelled)
    .bind(reason.to_owned())
    .bind(subscriber)
    .bind(CopyState::Waiting)
    .bind(newsletter)
    .execute()
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_name_their_kinds() {
        for &kind in Kind::ALL {
            assert_eq!(Kind::by_name(kind.as_str()), Some(kind));
        }
        assert_eq!(Kind::by_name("spam"), None);
    }
}
