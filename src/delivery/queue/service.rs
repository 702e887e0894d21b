//! The same moves for service mail, whose rows carry what the mail is about.

use super::{Claimed, Handed, Opened, Settlement, Withheld, json_array};
use crate::{
    db::{self, Tx, record::record, state::EventKind},
    event::{self, Event},
    id::{CopyId, NewsletterId, NodeId, ServiceMailId, SubscriberId},
    timestamp::Timestamp,
};

record! {
    /// A claimed service mail: what it is about, and where it goes.
    #[derive(Debug, Clone)]
    pub struct ServiceMail {
        /// Its row.
        pub id: ServiceMailId,
        /// Which mail it is.
        pub kind: String,
        /// The newsletter it is about.
        pub newsletter_id: Option<NewsletterId>,
        /// The subscriber it is for.
        pub subscriber_id: Option<SubscriberId>,
        /// Where it goes.
        pub address: String,
        /// The provider of that address.
        pub provider: i64,
        /// What it says, a JSON object.
        pub parameters: String,
        /// How often it was tried before.
        pub attempt: i64,
        /// When it was asked for.
        pub created_at: Timestamp,
        /// When this try was due.
        pub due_at: Timestamp,
        /// When it is of no use any more.
        pub expires_at: Timestamp,
    }
}

pub(in crate::delivery) const CLAIM: &str = "UPDATE service_mail SET state = 1, claim_id = $1 \
     WHERE id IN (SELECT id FROM service_mail INDEXED BY service_mail_due \
       WHERE state = 0 AND due_at <= $2 ORDER BY due_at LIMIT $3) \
     RETURNING id, kind, newsletter_id, subscriber_id, address, provider, parameters, attempt, \
       created_at, due_at, expires_at";

/// Claims up to `limit` service mails that are due.
pub async fn claim(tx: &mut Tx, claim: Opened, limit: u32) -> db::Result<Vec<ServiceMail>> {
    let mut mails: Vec<ServiceMail> =
        tx.query(CLAIM).bind(claim.id).bind(claim.at).bind(i64::from(limit)).all().await?;
    mails.sort_unstable_by_key(|mail| mail.id);
    Ok(mails)
}

/// What a service mail must not be sent any more for: its time is over, or its address was suppressed
/// for anything but a bounce or an erasure meanwhile (those are what a new confirmation may lift).
macro_rules! in_vain {
    ($now:literal) => {
        concat!(
            "(expires_at <= ",
            $now,
            " OR EXISTS (SELECT 1 FROM subscriber p JOIN suppression x \
             ON x.address_hash = p.address_hash \
             WHERE p.id = service_mail.subscriber_id AND x.reason NOT IN ('bounce', 'erased')))"
        )
    };
}

/// Hands off service mails held by `claim`. One that would be sent in vain is skipped; what waits for
/// anything else (our lease ran out) goes back to the queue: somebody waits for it.
pub async fn hand_off(
    tx: &mut Tx,
    node: NodeId,
    claim: i64,
    copies: Vec<Claimed>,
    now: Timestamp,
) -> db::Result<(Vec<Handed>, Vec<(Claimed, Withheld)>)> {
    let id_of = |copy: CopyId| match copy {
        CopyId::Service(id) => Some(id.0),
        CopyId::Issue { .. } => None,
    };
    let ids = json_array(copies.iter().filter_map(|copy| id_of(copy.copy)));
    let marked: Vec<(i64, String)> = tx
        .query(concat!(
            "UPDATE service_mail SET state = 2 \
             WHERE id IN (SELECT value FROM json_each($1)) AND state = 1 AND claim_id = $2 \
             AND EXISTS (SELECT 1 FROM claim c JOIN node n ON n.id = c.node_id \
               WHERE c.id = $2 AND n.id = $3 AND n.lease_until > $4) AND NOT ",
            in_vain!("$4"),
            " RETURNING id, address"
        ))
        .bind(ids)
        .bind(claim)
        .bind(node)
        .bind(now)
        .all()
        .await?;
    let (mut handed, mut withheld) = (Vec::new(), Vec::new());
    for claimed in copies {
        match marked.iter().find(|(id, _)| Some(*id) == id_of(claimed.copy)) {
            Some((_, address)) => {
                let address = address.clone();
                handed.push(Handed { claimed, at: now, address, name: None, attributes: None });
            }
            None => withheld.push((withhold(tx, claimed.copy, claim, now).await?, claimed)),
        }
    }
    let withheld = withheld.into_iter().map(|(why, claimed)| (claimed, why)).collect();
    Ok((handed, withheld))
}

/// Skips a mail that the gate held back, or gives it back.
async fn withhold(tx: &mut Tx, copy: CopyId, claim: i64, now: Timestamp) -> db::Result<Withheld> {
    const WHY: &str = "expired or suppressed before it left";
    let CopyId::Service(id) = copy else { return Ok(Withheld::Stale) };
    let skipped = tx
        .query(concat!(
            "UPDATE service_mail SET state = 6, reason = $4 \
             WHERE id = $1 AND claim_id = $2 AND state = 1 AND ",
            in_vain!("$3")
        ))
        .bind(id)
        .bind(claim)
        .bind(now)
        .bind(WHY)
        .execute()
        .await?;
    if skipped == 0 {
        release(tx, id, claim).await?;
        return Ok(Withheld::Waits);
    }
    let mut event = Event::new(EventKind::Skipped, now).because(WHY);
    event.service_id = Some(id);
    event::record(tx, &[event]).await?;
    Ok(Withheld::Skipped(WHY.to_owned()))
}

/// Writes what became of a service mail.
pub(super) async fn settle(
    tx: &mut Tx,
    id: ServiceMailId,
    to: &Settlement,
    now: Timestamp,
) -> db::Result<u64> {
    tx.query(
        "UPDATE service_mail SET state = $3, attempt = $4, due_at = coalesce($5, due_at), \
         reason = $6 WHERE id = $1 AND claim_id = $2 AND state = 2",
    )
    .bind(id)
    .bind(to.claim)
    .bind(to.state)
    .bind(to.attempts)
    .bind(to.due_at(now))
    .bind(to.reason.clone())
    .execute()
    .await
}

/// Gives a claimed service mail back.
pub(super) async fn release(tx: &mut Tx, id: ServiceMailId, claim: i64) -> db::Result<()> {
    tx.query("UPDATE service_mail SET state = 0 WHERE id = $1 AND claim_id = $2 AND state = 1")
        .bind(id)
        .bind(claim)
        .execute()
        .await?;
    Ok(())
}
