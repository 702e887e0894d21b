//! Events that a provider posted, from their proof to the rows.
//!
//! They go the way of returned mail: the same policy, the same log, the same evidence. Two things
//! differ. An event is about a copy if something that was in the copy came back with it; where the
//! operator has named the relay that a webhook belongs to, its address is enough, as the provider has
//! proven itself and the copy is known to have gone there. And an event counts once, whatever number
//! of times its provider (or somebody who overheard it) sends it.

use std::{collections::BTreeMap, time::Duration};

use aws_lc_rs::digest;

use super::{
    Outcome,
    attribution::{self, Named},
    inbound::{self, Inbound},
    reader::Reader,
    returned::{Arrived, tell, unattributed},
};
use crate::{
    address::Address,
    bounce::{
        intake::webhook::{self, HookEvent, Provider},
        policy::Attribution,
        report::Kind,
    },
    config,
    db::{self, Db, Tx, record::record},
    id::{CopyId, IssueId, ServiceMailId, SubscriberId},
    timestamp::Timestamp,
    token::Keyring,
};

/// Events in one transaction: others have to write too.
const BATCH: usize = 100;
/// How long after a copy was taken an event that names only its address can be about it.
const COPY_AGE_MAX: Duration = Duration::from_hours(7 * 24);
/// By how much a provider's clock may be behind ours.
const CLOCKS: Duration = Duration::from_mins(5);

/// Whose events these are.
#[derive(Debug, Clone, Copy)]
pub struct Post<'a> {
    /// The webhook's name.
    pub hook: &'a str,
    /// The provider behind it.
    pub provider: Provider,
    /// The relay whose copies it tells of.
    pub relay: Option<&'a str>,
}

impl Post<'_> {
    /// Where an event came in, as the list shows it; [`provider_of`] reads it back.
    fn source(&self) -> String {
        format!("webhook {} {}", self.provider, self.hook)
    }
}

/// The provider behind what came in from `source`; none for mails.
pub fn provider_of(source: &str) -> Option<Provider> {
    Provider::by_name(source.strip_prefix("webhook ")?.split(' ').next()?)
}

/// Does what follows from events that were proven; says how many had which outcome. Events of a day
/// long past and those of which nothing can follow are counted as [`Outcome::Nothing`].
///
/// # Errors
/// When the database fails. What was done before counts once when the events come again.
pub async fn provider_events(
    db: &Db,
    keyring: &Keyring,
    rules: &config::Bounces,
    post: Post<'_>,
    events: &[HookEvent],
    now: Timestamp,
) -> db::Result<BTreeMap<&'static str, u64>> {
    let mut outcomes = BTreeMap::new();
    let counts = |event: &&HookEvent| {
        // The signature of this one covers nothing but the number, which must not serve twice.
        let numbered = post.provider == Provider::Mailgun;
        (event.matters() || numbered) && webhook::is_of_our_time(event, now)
    };
    let relevant: Vec<&HookEvent> = events.iter().filter(counts).collect();
    let nothing = (events.len() - relevant.len()) as u64;
    if nothing > 0 {
        outcomes.insert(Outcome::Nothing.as_str(), nothing);
    }
    for batch in relevant.chunks(BATCH) {
        let mut tx = db.begin().await?;
        let mut done = Vec::with_capacity(batch.len());
        for event in batch {
            let taking = Taking { keyring, rules, post, event, now };
            done.push(taking.apply(&mut tx).await?);
        }
        tx.commit().await?;
        for outcome in done {
            *outcomes.entry(outcome.as_str()).or_default() += 1;
        }
    }
    Ok(outcomes)
}

/// One event on its way.
pub(super) struct Taking<'a> {
    pub(super) keyring: &'a Keyring,
    pub(super) rules: &'a config::Bounces,
    pub(super) post: Post<'a>,
    pub(super) event: &'a HookEvent,
    pub(super) now: Timestamp,
}

impl Taking<'_> {
    async fn apply(&self, tx: &mut Tx) -> db::Result<Outcome> {
        if !self.is_new(tx).await? {
            return Ok(Outcome::Repeated);
        }
        if !self.event.matters() {
            return Ok(Outcome::Nothing);
        }
        let done = self.follow(tx).await?;
        let Done { kind, outcome, issue, subscriber, erased } = done;
        // Of the copies that simply arrived, which are most, nothing is kept.
        if kind == Kind::Delivered && outcome == Outcome::Nothing {
            return Ok(outcome);
        }
        let path = format!("/hooks/{}", self.post.hook);
        let kept = Inbound {
            source: self.post.source(),
            mail_from: "",
            rcpt_to: &path,
            kind,
            outcome,
            issue,
            subscriber,
            raw: if erased { &[] } else { &self.event.raw },
        };
        let inbound = inbound::keep(tx, &kept, self.now).await?;
        tell(inbound, kind, outcome);
        Ok(outcome)
    }

    async fn follow(&self, tx: &mut Tx) -> db::Result<Done> {
        let report = self.event.report();
        let (attribution, named) = self.about(tx).await?;
        let reader = match named {
            Some(named) => Reader::named(tx, named).await?,
            None => None,
        };
        let outcome = match &reader {
            Some(reader) => {
                let class = Some(self.event.classify(crate::provider::ProviderId(reader.provider)));
                let arrived = Arrived {
                    report: &report,
                    reader,
                    attribution,
                    rules: self.rules,
                    class,
                    again: false,
                    at: self.now,
                    now: self.now,
                };
                arrived.apply(tx, named).await?
            }
            None => unattributed(report.kind),
        };
        Ok(Done {
            kind: report.kind,
            outcome,
            issue: reader.as_ref().and_then(|reader| reader.issue),
            subscriber: reader.as_ref().map(|reader| reader.subscriber),
            erased: reader.is_none() && named.is_some(),
        })
    }

    /// Whose copy it is about: by what came back of it, else by its address.
    pub(super) async fn about(&self, tx: &mut Tx) -> db::Result<(Attribution, Option<Named>)> {
        let carried = &self.event.carried;
        let (attribution, named) = attribution::attribute_event(self.keyring, carried, self.now);
        if named.is_some() {
            return Ok((attribution, named));
        }
        Ok((Attribution::Recipient, self.by_address(tx).await?))
    }

    /// The last copy that the webhook's relay took for the event's address.
    async fn by_address(&self, tx: &mut Tx) -> db::Result<Option<Named>> {
        let (Some(relay), Some(recipient)) = (self.post.relay, &self.event.recipient) else {
            return Ok(None);
        };
        let Ok(address) = Address::parse(recipient) else { return Ok(None) };
        let at = self.event.at.unwrap_or(self.now);
        let found: Option<Taken> = tx
            .query(LAST_TAKEN)
            .bind(self.keyring.address_hash(&address).to_vec())
            .bind(relay.to_owned())
            .bind(at.minus(COPY_AGE_MAX))
            .bind(at.plus(CLOCKS))
            .optional()
            .await?;
        Ok(found.and_then(|taken| {
            Some(Named::Copy(match (taken.issue_id, taken.service_id) {
                (Some(issue), _) => CopyId::Issue { issue, subscriber: taken.subscriber_id },
                (None, Some(id)) => CopyId::Service(id),
                (None, None) => return None,
            }))
        }))
    }

    /// Remembers the event; false when it was remembered before.
    async fn is_new(&self, tx: &mut Tx) -> db::Result<bool> {
        let written = tx
            .query(
                "INSERT INTO seen_event (digest, seen_at) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            )
            .bind(self.digest())
            .bind(self.now)
            .execute()
            .await?;
        Ok(written > 0)
    }

    /// What tells the event from others: its number, else everything that it says.
    fn digest(&self) -> Vec<u8> {
        let event = self.event;
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(self.post.hook.as_bytes());
        match &event.id {
            Some(id) => {
                context.update(b"\0id\0");
                context.update(id.as_bytes());
                // One number may tell of a delay first and of the end later.
                if self.post.provider != Provider::Mailgun {
                    context.update(event.what.as_str().as_bytes());
                }
            }
            None => {
                context.update(b"\0all\0");
                context.update(&event.raw);
            }
        }
        context.finish().as_ref()[..16].to_vec()
    }
}

/// What came of an event.
struct Done {
    kind: Kind,
    outcome: Outcome,
    issue: Option<IssueId>,
    subscriber: Option<SubscriberId>,
    erased: bool,
}

record! {
    struct Taken {
        subscriber_id: SubscriberId,
        issue_id: Option<IssueId>,
        service_id: Option<ServiceMailId>,
    }
}

pub(super) const LAST_TAKEN: &str = "SELECT e.subscriber_id, e.issue_id, e.service_id \
     FROM subscriber s JOIN event e ON e.subscriber_id = s.id \
     WHERE s.address_hash = $1 AND e.kind = 2 AND e.relay = $2 AND e.at BETWEEN $3 AND $4 \
     ORDER BY e.id DESC LIMIT 1";

pub(super) const FORGET_EVENTS: &str = "DELETE FROM seen_event WHERE digest IN \
     (SELECT digest FROM seen_event WHERE seen_at < $1 ORDER BY seen_at LIMIT $2)";
