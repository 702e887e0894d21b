//! The reader behind a token, and what a failure does to them.

use super::{Outcome, attribution::Named, brake, cut, held, soft};
use crate::{
    bounce::{
        classify::{Classification, Fault, Permanence},
        policy::{self, Attribution, Effect, Failure, History, ProviderTally, SuppressReason},
    },
    db::{
        self, Tx,
        record::record,
        state::{CopyState, EventKind},
    },
    event::{self, Event},
    id::{CopyId, IssueId, NewsletterId, ServiceMailId, SubscriberId},
    subscriber::suppression::{self, Reason},
    timestamp::Timestamp,
};

record! {
    struct Row {
        subscriber_id: SubscriberId,
        address: Option<String>,
        address_hash: Vec<u8>,
        provider: i64,
        newsletter_id: Option<NewsletterId>,
        state: Option<CopyState>,
    }
}

/// A reader, by one of their copies.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    pub(super) subscriber: SubscriberId,
    pub(super) address: String,
    pub(super) address_hash: Vec<u8>,
    pub(super) provider: i64,
    pub(super) newsletter: Option<NewsletterId>,
    pub(super) issue: Option<IssueId>,
    pub(super) service: Option<ServiceMailId>,
    /// Where the copy stands, if one is named.
    pub(super) state: Option<CopyState>,
}

pub(super) const BY_COPY: &str = "SELECT s.id AS subscriber_id, s.address, s.address_hash, \
     d.provider, i.newsletter_id, d.state FROM delivery d JOIN issue i ON i.id = d.issue_id \
     JOIN subscriber s ON s.id = d.subscriber_id WHERE d.issue_id = $1 AND d.subscriber_id = $2";
pub(super) const BY_SERVICE_MAIL: &str = "SELECT s.id AS subscriber_id, s.address, \
     s.address_hash, m.provider, m.newsletter_id, m.state FROM service_mail m \
     JOIN subscriber s ON s.id = m.subscriber_id WHERE m.id = $1";
pub(super) const BY_ID: &str = "SELECT id AS subscriber_id, address, address_hash, provider, \
     NULL AS newsletter_id, NULL AS state FROM subscriber WHERE id = $1";

impl Reader {
    /// The reader of a copy; none when the copy is not in the ledger or its reader was erased.
    pub(super) async fn of_copy(tx: &mut Tx, copy: CopyId) -> db::Result<Option<Self>> {
        let row: Option<Row> = match copy {
            CopyId::Issue { issue, subscriber } => {
                tx.query(BY_COPY).bind(issue).bind(subscriber).optional().await?
            }
            CopyId::Service(id) => tx.query(BY_SERVICE_MAIL).bind(id).optional().await?,
        };
        let (issue, service) = match copy {
            CopyId::Issue { issue, .. } => (Some(issue), None),
            CopyId::Service(id) => (None, Some(id)),
        };
        Ok(row.and_then(|row| Self::from_row(row, issue, service)))
    }

    /// The reader that a token names.
    pub(super) async fn named(tx: &mut Tx, named: Named) -> db::Result<Option<Self>> {
        let (newsletter, subscriber, issue) = match named {
            Named::Copy(copy) => return Self::of_copy(tx, copy).await,
            Named::Reader { newsletter, subscriber, issue } => (newsletter, subscriber, issue),
        };
        if let Some(issue) = issue
            && let Some(reader) = Self::of_copy(tx, CopyId::Issue { issue, subscriber }).await?
        {
            return Ok(Some(reader));
        }
        let row: Option<Row> = tx.query(BY_ID).bind(subscriber).optional().await?;
        let reader = row.and_then(|row| Self::from_row(row, None, None));
        Ok(reader.map(|reader| Self { newsletter: Some(newsletter), ..reader }))
    }

    fn from_row(row: Row, issue: Option<IssueId>, service: Option<ServiceMailId>) -> Option<Self> {
        Some(Self {
            subscriber: row.subscriber_id,
            address: row.address?,
            address_hash: row.address_hash,
            provider: row.provider,
            newsletter: row.newsletter_id,
            issue,
            service,
            state: row.state,
        })
    }

    /// An event about this reader's copy.
    pub(super) fn event(&self, kind: EventKind, now: Timestamp) -> Event {
        let mut event = Event::new(kind, now).about(self.issue, Some(self.subscriber));
        event.service_id = self.service;
        event.provider = Some(self.provider);
        event
    }

    /// Suppresses the address, with its line in the log.
    pub(super) async fn suppress(
        &self,
        tx: &mut Tx,
        reason: Reason,
        detail: &str,
        class: Option<&Classification>,
        now: Timestamp,
    ) -> db::Result<Outcome> {
        let (hash, address) = (&self.address_hash, Some(self.address.as_str()));
        if !suppression::add(tx, hash, address, reason, detail, now).await? {
            return Ok(Outcome::SuppressedBefore);
        }
        held::settled(tx, self.subscriber).await?;
        let mut event =
            self.event(EventKind::Suppressed, now).because(format!("{reason}: {}", cut(detail)));
        if let Some(class) = class {
            name_class(&mut event, class);
        }
        event::record(tx, &[event]).await?;
        Ok(Outcome::Suppressed)
    }
}

/// Writes the class and its rule into an event.
pub(super) fn name_class(event: &mut Event, class: &Classification) {
    event.class = Some(crate::delivery::policy::class_name(class));
    event.rule = Some(class.rule.to_owned());
}

/// A copy that failed for good.
pub(super) struct Failed<'a> {
    pub(super) reader: &'a Reader,
    pub(super) class: &'a Classification,
    pub(super) attribution: Attribution,
    /// What the server said.
    pub(super) words: &'a str,
    pub(super) brake_percent: f64,
    /// The address was counted as dead for this issue before.
    pub(super) counted: bool,
    /// When the failure was told: what counts for rules about time.
    pub(super) at: Timestamp,
    pub(super) now: Timestamp,
}

impl Failed<'_> {
    /// Does what follows. The line in the log that the copy failed is the caller's.
    pub(super) async fn apply(&self, tx: &mut Tx) -> db::Result<Outcome> {
        let effect = self.judge(tx).await?;
        let (reader, now) = (self.reader, self.now);
        match effect {
            Effect::Suppress(reason) => {
                let detail = match reason {
                    SuppressReason::SoftFailures => format!(
                        "{} issues in a row failed over more than {} days, the last with: {}",
                        policy::SOFT_ISSUES,
                        policy::SOFT_SPAN.as_secs() / 86_400,
                        self.words
                    ),
                    SuppressReason::Dead | SuppressReason::Complaint => self.words.to_owned(),
                };
                reader.suppress(tx, Reason::Bounce, &detail, Some(self.class), now).await
            }
            Effect::HoldSuppression(reason) => {
                if reason == SuppressReason::SoftFailures {
                    soft::count(tx, self, false, false).await?;
                }
                if suppression::reason_of(tx, &reader.address_hash).await?.is_some() {
                    return Ok(Outcome::SuppressedBefore);
                }
                held::hold(tx, reader, self.class, self.words, now).await?;
                Ok(Outcome::Held)
            }
            Effect::CountSoft { half, worded_dead } => {
                soft::count(tx, self, half, worded_dead).await?;
                Ok(Outcome::Counted)
            }
            Effect::FlagIssue => Ok(Outcome::MessageRefused),
            Effect::ThrottleOrHalt => Ok(Outcome::SenderRefused),
            Effect::NotifyOperator | Effect::Unsubscribe | Effect::Nothing => Ok(Outcome::Nothing),
        }
    }

    /// Loads what the rules need, and no more: most refusals are not about the reader at all.
    async fn judge(&self, tx: &mut Tx) -> db::Result<Effect> {
        let class = self.class;
        let (mut history, mut tally) = (History::default(), ProviderTally::default());
        if let Some(issue) = self.reader.issue.filter(|_| class.fault.concerns_reader()) {
            if !class.is_hard() {
                history = soft::history(tx, self.reader.subscriber, issue).await?;
            }
            let dead = class.fault == Fault::Recipient && class.permanence == Permanence::Permanent;
            tally = if dead && !self.counted {
                brake::count(tx, self.reader, issue, self.brake_percent, self.now).await?
            } else {
                brake::tally(tx, self.reader, issue).await?
            };
        }
        Ok(policy::failed(&Failure {
            class,
            attribution: self.attribution,
            issue: self.reader.issue,
            at: self.at,
            history: &history,
            tally,
            brake_percent: self.brake_percent,
        }))
    }
}
