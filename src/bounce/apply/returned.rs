//! A mail that came back, from its bytes to the rows.

use std::{net::IpAddr, sync::Arc};

use serde::Serialize;
use tracing::warn;

use super::{
    Outcome,
    attribution::{self, Named},
    cut,
    inbound::{self, Inbound},
    reader::{Failed, Reader, name_class},
};
use crate::{
    bounce::{
        classify::{Classification, Evidence, classify},
        policy::{self, Attribution, Effect},
        report::{self, Action, Kind, ReadError, Report, ReportedRecipient},
    },
    config,
    db::{
        self, Db, Tx,
        record::record,
        state::{CopyState, EventKind},
    },
    delivery::queue,
    event::{self, Event},
    id::{CopyId, IssueId, SubscriberId},
    provider::ProviderId,
    service_mail,
    subscriber::{self, Origin, Scope, Via, suppression::Reason},
    timestamp::Timestamp,
    token::{Keyring, ReaderToken},
};

/// Where a mail came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The SMTP listener, from this client.
    Smtp(IpAddr),
    /// The LMTP listener, from this client.
    Lmtp(IpAddr),
    /// A mailbox that it was fetched from: its kind, and what operators call it. People may have mail
    /// of their own there.
    Mailbox(&'static str, Arc<str>),
    /// Standard input.
    Pipe,
    /// One of the messages of an mbox file.
    Mbox,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Smtp(peer) => write!(f, "smtp {peer}"),
            Self::Lmtp(peer) => write!(f, "lmtp {peer}"),
            Self::Mailbox(kind, name) => write!(f, "{kind} {name}"),
            Self::Pipe => f.write_str("pipe"),
            Self::Mbox => f.write_str("mbox"),
        }
    }
}

/// A mail from outside, with its envelope.
#[derive(Debug, Clone)]
pub struct ReturnedMail {
    /// Its bytes.
    pub raw: Arc<[u8]>,
    /// The envelope sender; empty for the null sender.
    pub mail_from: String,
    /// The address it came to; empty when nobody knows.
    pub rcpt_to: String,
    /// Where it came in.
    pub source: Source,
}

/// What a returned mail was and did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Applied {
    /// The row under which the mail is kept.
    pub inbound: i64,
    /// What it is.
    pub kind: Kind,
    /// How it was tied to a reader.
    pub attribution: Attribution,
    /// Whether it has a genuine token of ours, even of a reader who was erased since.
    pub genuine: bool,
    /// The issue it is about.
    pub issue: Option<IssueId>,
    /// The reader it is about.
    pub subscriber: Option<SubscriberId>,
    /// What it did.
    pub outcome: Outcome,
}

/// Why a mail was not applied. Nothing of it was kept.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// It is too large, and will be next time.
    #[error(transparent)]
    Unreadable(#[from] ReadError),
    /// The database failed; the mail should come again.
    #[error("the mail was not taken in, as the database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The reader of reports broke off.
    #[error("the mail was not taken in, as reading it broke off; this is a bug in Postrider")]
    Broken,
}

/// Reads a mail that came back and does what follows from it, in one transaction with the stored
/// mail.
pub async fn returned_mail(
    db: &Db,
    keyring: &Keyring,
    rules: &config::Bounces,
    mail: ReturnedMail,
    now: Timestamp,
) -> Result<Applied, ApplyError> {
    let read = ReadMail::read(keyring, mail, now).await?;
    let mut tx = db.begin().await?;
    let applied = read.apply(&mut tx, rules).await?;
    tx.commit().await?;
    applied.tell();
    Ok(applied)
}

/// A mail that came back and was read: what it says, and about whom.
#[derive(Debug)]
pub struct ReadMail {
    mail: ReturnedMail,
    report: Report,
    attribution: Attribution,
    named: Option<Named>,
    now: Timestamp,
}

impl ReadMail {
    /// Reads `mail`, which came at `now`.
    ///
    /// # Errors
    /// When it is too large.
    pub async fn read(
        keyring: &Keyring,
        mail: ReturnedMail,
        now: Timestamp,
    ) -> Result<Self, ApplyError> {
        let (raw, rcpt_to) = (Arc::clone(&mail.raw), mail.rcpt_to.clone());
        // Five megabytes of hostile MIME take long enough to keep them off the threads that send.
        let read =
            move || report::read(&raw, Some(rcpt_to.as_str()).filter(|text| !text.is_empty()));
        let report = tokio::task::spawn_blocking(read).await.map_err(|_| ApplyError::Broken)??;
        let (attribution, named) = attribution::attribute(keyring, &report, now);
        Ok(Self { mail, report, attribution, named, now })
    }

    /// Does what follows from it and stores it, as part of `tx`. Tell of it when that is committed.
    pub async fn apply(&self, tx: &mut Tx, rules: &config::Bounces) -> db::Result<Applied> {
        let Self { mail, report, named, now, .. } = self;
        let (named, now) = (*named, *now);
        let reader = match named {
            Some(named) => Reader::named(tx, named).await?,
            None => None,
        };
        // A token of a copy that this database does not know: restored from an older backup, or
        // erased.
        let attribution = if reader.is_some() { self.attribution } else { Attribution::None };
        let outcome = match &reader {
            Some(reader) => {
                let (class, again, at) = (None, false, now);
                let arrived = Arrived { report, reader, attribution, rules, class, again, at, now };
                arrived.apply(tx, named).await?
            }
            None => unattributed(report.kind),
        };
        let erased = reader.is_none() && named.is_some();
        // What people write to each other is nobody's business, and stays in their mailbox.
        let private = matches!(mail.source, Source::Mailbox(..))
            && named.is_none()
            && matches!(report.kind, Kind::NotAReport | Kind::AutoReply);
        let kept = Inbound {
            source: mail.source.to_string(),
            mail_from: if private { "" } else { &mail.mail_from },
            rcpt_to: if private { "" } else { &mail.rcpt_to },
            kind: report.kind,
            outcome,
            issue: reader.as_ref().and_then(|reader| reader.issue),
            subscriber: reader.as_ref().map(|reader| reader.subscriber),
            // Whoever was erased is not stored again.
            raw: if erased || private { &[] } else { &mail.raw },
        };
        let inbound = inbound::keep(tx, &kept, now).await?;
        Ok(Applied {
            inbound,
            kind: report.kind,
            attribution,
            genuine: named.is_some(),
            issue: kept.issue,
            subscriber: kept.subscriber,
            outcome,
        })
    }
}

impl Applied {
    /// Tells the process' log of it.
    pub fn tell(&self) {
        tell(self.inbound, self.kind, self.outcome);
    }
}

/// What is worth an operator's eye.
pub(super) fn tell(inbound: i64, kind: Kind, outcome: Outcome) {
    match (kind, outcome) {
        (Kind::AuthFailure, _) => {
            warn!(inbound, "a receiver reports that mail in our name did not authenticate");
        }
        (Kind::Complaint | Kind::Unsubscribe, Outcome::Unattributed) => {
            warn!(inbound, kind = ?kind, "a reader's wish came without a token of ours; look at it");
        }
        _ => tracing::debug!(inbound, kind = ?kind, outcome = outcome.as_str(), "mail came back"),
    }
}

/// What a mail is that nothing ties to a reader.
pub(super) fn unattributed(kind: Kind) -> Outcome {
    match kind {
        Kind::Failed | Kind::Complaint | Kind::Unsubscribe => Outcome::Unattributed,
        _ => Outcome::Nothing,
    }
}

/// A report about a reader.
pub(super) struct Arrived<'a> {
    pub(super) report: &'a Report,
    pub(super) reader: &'a Reader,
    pub(super) attribution: Attribution,
    pub(super) rules: &'a config::Bounces,
    /// Whose fault it is, where more is known than the report's words.
    pub(super) class: Option<Classification>,
    /// It was taken in before and is read once more: what it did then it does not do again.
    pub(super) again: bool,
    /// When it came.
    pub(super) at: Timestamp,
    pub(super) now: Timestamp,
}

impl Arrived<'_> {
    pub(super) async fn apply(&self, tx: &mut Tx, named: Option<Named>) -> db::Result<Outcome> {
        let about = self.report.about(&self.reader.address);
        // Of a provider's event more is known than words: it still tries.
        let given_up = self.class.is_none() && about.is_some_and(ReportedRecipient::is_given_up);
        // A report on several recipients says of each how it went.
        let kind = match (self.report.kind, about.and_then(|about| about.action)) {
            (Kind::Failed | Kind::Delayed, _) if given_up => Kind::Failed,
            (Kind::Failed, Some(Action::Delayed)) => Kind::Delayed,
            (Kind::Failed, Some(Action::Delivered)) => Kind::Delivered,
            (kind, _) => kind,
        };
        match kind {
            Kind::Failed => self.failed(tx, about).await,
            Kind::Delayed => self.delayed(tx, about).await,
            Kind::Delivered => self.arrived(tx, "a report says that it was delivered").await,
            _ => match policy::reported(kind, self.attribution) {
                Effect::Suppress(_) => self.complained(tx).await,
                Effect::Unsubscribe => self.unsubscribed(tx, named).await,
                _ => Ok(Outcome::Nothing),
            },
        }
    }

    async fn failed(&self, tx: &mut Tx, about: Option<&ReportedRecipient>) -> db::Result<Outcome> {
        let class = self.class(about);
        let before = self.read_before(tx).await?;
        let same = |before: &ReadBefore| {
            let name = crate::delivery::policy::class_name(&class);
            before.class.as_ref() == Some(&name) && before.rule.as_deref() == Some(class.rule)
        };
        if before.as_ref().is_some_and(|before| !self.again || same(before)) {
            return Ok(Outcome::Repeated);
        }
        let words = self.words(about);
        let text = if self.again { format!("read again: {words}") } else { words.clone() };
        let mut event = self.event(EventKind::Bounced, about, &text);
        name_class(&mut event, &class);
        event::record(tx, &[event]).await?;
        self.settle(tx, CopyState::Rejected, &format!("it came back: {words}")).await?;
        let dead = |before: &ReadBefore| before.class.as_deref() == Some("recipient.permanent");
        let failed = Failed {
            reader: self.reader,
            class: &class,
            attribution: self.attribution,
            words: &words,
            brake_percent: self.rules.brake_percent,
            counted: before.as_ref().is_some_and(dead),
            at: self.at,
            now: self.now,
        };
        failed.apply(tx).await
    }

    async fn delayed(&self, tx: &mut Tx, about: Option<&ReportedRecipient>) -> db::Result<Outcome> {
        if self.is_known(tx, EventKind::Delayed).await? {
            return Ok(Outcome::Repeated);
        }
        let mut event = self.event(EventKind::Delayed, about, &self.words(about));
        name_class(&mut event, &self.class(about));
        event::record(tx, &[event]).await?;
        Ok(Outcome::Delayed)
    }

    async fn arrived(&self, tx: &mut Tx, evidence: &str) -> db::Result<Outcome> {
        let settled = self.settle(tx, CopyState::Accepted, evidence).await?;
        Ok(if settled { Outcome::Arrived } else { Outcome::Nothing })
    }

    async fn complained(&self, tx: &mut Tx) -> db::Result<Outcome> {
        if self.is_known(tx, EventKind::Complained).await? {
            return Ok(Outcome::Repeated);
        }
        let what = self.report.feedback_type.as_deref().unwrap_or("abuse");
        let by = self.report.reporting_mta.as_deref().map(|mta| format!(", reported by {mta}"));
        let words = cut(&format!("{what}{}", by.unwrap_or_default()));
        let event = self.reader.event(EventKind::Complained, self.now).because(words.clone());
        event::record(tx, &[event]).await?;
        self.arrived(tx, "its reader complained about it").await?;
        // Nobody writes to that person, not even what was queued before.
        let reason = Reason::Complaint;
        service_mail::cancel_waiting(tx, self.reader.subscriber, None, reason.as_str()).await?;
        self.reader.suppress(tx, reason, &words, None, self.now).await
    }

    async fn unsubscribed(&self, tx: &mut Tx, named: Option<Named>) -> db::Result<Outcome> {
        let newsletter = match named {
            Some(Named::Reader { newsletter, .. }) => Some(newsletter),
            _ => self.reader.newsletter,
        };
        let Some(newsletter) = newsletter else { return Ok(Outcome::Nothing) };
        let subscriber = self.reader.subscriber;
        let token = ReaderToken { newsletter, subscriber, issue: self.reader.issue };
        let how = (Via::Mail, None);
        let origin = Origin::default();
        let left = subscriber::unsubscribe_in(tx, token, Scope::Newsletter, how, &origin, self.now)
            .await?;
        let again = left.newsletters.is_empty();
        Ok(if again { Outcome::Repeated } else { Outcome::Unsubscribed })
    }

    /// How the last report on this copy was read that said it had failed.
    async fn read_before(&self, tx: &mut Tx) -> db::Result<Option<ReadBefore>> {
        tx.query(READ_BEFORE)
            .bind(self.reader.subscriber)
            .bind(EventKind::Bounced)
            .bind(self.reader.issue)
            .bind(self.reader.service)
            .optional()
            .await
    }

    /// Whose fault a failure is, as the reader's own entry in the report says.
    pub(super) fn class_of_reader(&self) -> Classification {
        self.class(self.report.about(&self.reader.address))
    }

    /// Whether an event of this kind is there already for this copy.
    async fn is_known(&self, tx: &mut Tx, kind: EventKind) -> db::Result<bool> {
        let found: Option<i64> = tx
            .query(KNOWN)
            .bind(self.reader.subscriber)
            .bind(kind)
            .bind(self.reader.issue)
            .bind(self.reader.service)
            .optional_scalar()
            .await?;
        Ok(found.is_some())
    }

    /// Settles the copy if its fate was not known.
    async fn settle(&self, tx: &mut Tx, state: CopyState, evidence: &str) -> db::Result<bool> {
        let copy = match (self.reader.issue, self.reader.service) {
            (Some(issue), _) => CopyId::Issue { issue, subscriber: self.reader.subscriber },
            (None, Some(id)) => CopyId::Service(id),
            (None, None) => return Ok(false),
        };
        let uncertain = self.reader.state == Some(CopyState::Uncertain);
        let reason = (state == CopyState::Rejected).then_some(evidence);
        if !uncertain || !queue::settle_uncertain(tx, copy, state, reason).await? {
            return Ok(false);
        }
        let text = format!("{state}: {evidence}");
        let event = self.reader.event(EventKind::Resolved, self.now).because(text);
        event::record(tx, &[event]).await?;
        Ok(true)
    }

    fn class(&self, about: Option<&ReportedRecipient>) -> Classification {
        let provider = ProviderId(self.reader.provider);
        if let Some(class) = &self.class {
            return class.clone();
        }
        match about {
            Some(about) => about.classify(provider),
            None => {
                classify(&Evidence { phase: None, code: None, enhanced: None, text: "", provider })
            }
        }
    }

    /// What the report says, and about whom if that is not the reader: the token is right, and
    /// the reader forwards.
    fn words(&self, about: Option<&ReportedRecipient>) -> String {
        let Some(about) = about else { return cut(&self.report.subject) };
        let said = [&about.diagnostic, &about.notice].into_iter().find(|text| !text.is_empty());
        let said = cut(said.unwrap_or(&self.report.subject));
        let is_reader = |address: &str| address.eq_ignore_ascii_case(&self.reader.address);
        let other = about.address.contains('@')
            && !is_reader(&about.address)
            && !about.original.as_deref().is_some_and(is_reader);
        if other { format!("{said} (reported for {})", cut(&about.address)) } else { said }
    }

    fn event(&self, kind: EventKind, about: Option<&ReportedRecipient>, words: &str) -> Event {
        let mut event = self.reader.event(kind, self.now).because(words);
        if let Some(about) = about {
            event.phase = about.phase.map(|phase| phase.to_string());
            event.code = about.code.map(i64::from);
            event.enhanced = about.status.map(|status| status.to_string());
        }
        event
    }
}

record! {
    /// A failure as the log has it.
    struct ReadBefore {
        class: Option<String>,
        rule: Option<String>,
    }
}

pub(super) const READ_BEFORE: &str = "SELECT class, rule FROM event WHERE subscriber_id = $1 \
     AND kind = $2 AND issue_id IS $3 AND service_id IS $4 ORDER BY id DESC LIMIT 1";
/// Looks through one reader's events.
pub(super) const KNOWN: &str = "SELECT 1 FROM event WHERE subscriber_id = $1 AND kind = $2 \
     AND issue_id IS $3 AND service_id IS $4 LIMIT 1";
