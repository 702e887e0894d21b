//! Kept mails and events, read once more by the rules of today.
//!
//! Each is one transaction, which a dry run takes back at its end: what it says would happen is
//! what happens. A failure that is read as it was read before is left as it is, so that replaying
//! twice does no more than replaying once. What follows newly is logged as read again, and counts as of
//! the day on which the mail came. A suppression that would not follow any more is shown and stays:
//! lifting it is an operator's act (`subscriber unsuppress`).

use serde::Serialize;

use super::{
    ApplyError, Outcome,
    attribution::{self, Named},
    inbound::{self, Received, kind_word},
    provider::{Post, Taking, provider_of},
    reader::Reader,
    returned::{Arrived, unattributed},
};
use crate::{
    bounce::{
        classify::Classification,
        intake::webhook,
        policy::Attribution,
        report::{self, Kind, Report},
    },
    config,
    db::{self, Db, Tx},
    provider::ProviderId,
    timestamp::Timestamp,
    token::Keyring,
};

/// How a kept mail is read today, beside how it was read when it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Replayed {
    /// Its row.
    pub id: i64,
    /// What it was taken for.
    pub kind_before: String,
    /// What it is taken for today.
    pub kind: String,
    /// What it did.
    pub effect_before: String,
    /// What it does today; as before, where nothing new follows.
    pub effect: String,
    /// The class and rule of today, of a failure.
    pub class: Option<String>,
    /// Whether anything is different.
    pub changes: bool,
}

impl Replayed {
    fn unchanged(received: &Received) -> Self {
        Self {
            id: received.id,
            kind_before: received.kind.clone(),
            kind: received.kind.clone(),
            effect_before: received.effect.clone(),
            effect: received.effect.clone(),
            class: None,
            changes: false,
        }
    }
}

/// Which mails are read again.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// These and no others, unless there are none.
    pub ids: Vec<i64>,
    /// Of this kind, unless empty.
    pub kind: String,
    /// Not older than this.
    pub since: Timestamp,
}

pub(super) const SELECT: &str = "SELECT id FROM inbound_mail WHERE id > 0 AND received_at >= $1 \
     AND ($2 = '' OR kind = $2) AND ($3 = '' OR id IN (SELECT value FROM json_each($3))) \
     AND length(raw) > 0 ORDER BY id";

/// The rows of the mails that a selection names and of which anything is kept, in the order in
/// which they came.
pub async fn select(db: &Db, selection: &Selection) -> db::Result<Vec<i64>> {
    let ids = match selection.ids.as_slice() {
        [] => String::new(),
        ids => crate::delivery::queue::json_array(ids.iter().copied()),
    };
    let rows: Vec<(i64,)> =
        db.query(SELECT).bind(selection.since).bind(selection.kind.clone()).bind(ids).all().await?;
    Ok(rows.into_iter().map(|(id,)| id).collect())
}

/// Reads one mail again, and does what newly follows if `apply`; none when it is not kept any more.
pub async fn replay(
    db: &Db,
    keyring: &Keyring,
    rules: &config::Bounces,
    id: i64,
    apply: bool,
    now: Timestamp,
) -> Result<Option<Replayed>, ApplyError> {
    let Some((received, raw)) = inbound::show(db, id).await? else { return Ok(None) };
    if raw.is_empty() {
        return Ok(None);
    }
    // Whoever left by a mail may have come back since.
    if matches!(received.effect.as_str(), "unsubscribed" | "repeated")
        && received.kind == "unsubscribe"
    {
        return Ok(Some(Replayed::unchanged(&received)));
    }
    let again = Again { keyring, rules, received_at: received.received_at, now };
    let mut tx = db.begin().await?;
    let read = match provider_of(&received.source) {
        Some(provider) => {
            let hook = received.source.rsplit(' ').next().unwrap_or_default();
            let relay = rules.webhook.iter().find(|one| one.name == hook);
            let relay = relay.and_then(|one| one.relay.as_deref());
            again.event(&mut tx, Post { hook, provider, relay }, &raw).await?
        }
        None => again.mail(&mut tx, &received.rcpt_to, raw).await?,
    };
    let Some(read) = read else {
        tx.rollback().await?;
        return Ok(None);
    };
    let kind = kind_word(read.kind);
    // What is as it was, or was done by this or another mail before.
    let as_before =
        matches!(read.outcome, Outcome::Repeated | Outcome::SuppressedBefore | Outcome::Nothing)
            && (kind == received.kind || read.outcome != Outcome::Nothing);
    let effect = if as_before { received.effect.clone() } else { read.outcome.as_str().to_owned() };
    let changes = kind != received.kind || effect != received.effect;
    if apply && changes {
        tx.query(
            "UPDATE inbound_mail SET kind = $2, effect = $3, issue_id = coalesce($4, issue_id), \
             subscriber_id = coalesce($5, subscriber_id) WHERE id = $1",
        )
        .bind(id)
        .bind(kind)
        .bind(effect.clone())
        .bind(read.reader.as_ref().and_then(|reader| reader.issue))
        .bind(read.reader.as_ref().map(|reader| reader.subscriber))
        .execute()
        .await?;
    }
    if apply {
        tx.commit().await?;
    } else {
        tx.rollback().await?;
    }
    let class = read.class.as_ref();
    let class = class.map(|c| format!("{} by {}", crate::delivery::policy::class_name(c), c.rule));
    Ok(Some(Replayed {
        id,
        kind_before: received.kind,
        kind: kind.to_owned(),
        effect_before: received.effect,
        effect,
        class,
        changes,
    }))
}

/// What was read and done.
struct Read {
    kind: Kind,
    outcome: Outcome,
    class: Option<Classification>,
    reader: Option<Reader>,
}

struct Again<'a> {
    keyring: &'a Keyring,
    rules: &'a config::Bounces,
    received_at: Timestamp,
    now: Timestamp,
}

impl Again<'_> {
    async fn mail(
        &self,
        tx: &mut Tx,
        rcpt_to: &str,
        raw: Vec<u8>,
    ) -> Result<Option<Read>, ApplyError> {
        let to = Some(rcpt_to.to_owned()).filter(|text| !text.is_empty());
        let read = move || report::read(&raw, to.as_deref());
        let report = tokio::task::spawn_blocking(read).await.map_err(|_| ApplyError::Broken)??;
        // What was genuine when it came still is.
        let (attribution, named) = attribution::attribute(self.keyring, &report, self.received_at);
        Ok(Some(self.follow(tx, &report, attribution, named, None).await?))
    }

    async fn event(
        &self,
        tx: &mut Tx,
        post: Post<'_>,
        raw: &[u8],
    ) -> Result<Option<Read>, ApplyError> {
        // A part of a payload (a reader's events were many) cannot be read.
        let Ok(events) = webhook::read(post.provider, raw) else { return Ok(None) };
        let [event] = &events[..] else { return Ok(None) };
        let (keyring, rules) = (self.keyring, self.rules);
        let taking = Taking { keyring, rules, post, event, now: self.received_at };
        let (attribution, named) = taking.about(tx).await?;
        let class = |provider| event.classify(provider);
        let report = event.report();
        Ok(Some(self.follow(tx, &report, attribution, named, Some(&class)).await?))
    }

    async fn follow(
        &self,
        tx: &mut Tx,
        report: &Report,
        attribution: Attribution,
        named: Option<Named>,
        class: Option<&(dyn Fn(ProviderId) -> Classification + Sync)>,
    ) -> db::Result<Read> {
        let reader = match named {
            Some(named) => Reader::named(tx, named).await?,
            None => None,
        };
        let Some(reader) = reader else {
            let outcome = unattributed(report.kind);
            return Ok(Read { kind: report.kind, outcome, class: None, reader: None });
        };
        if self.joined_since(tx, &reader).await? && report.kind != Kind::Complaint {
            let (kind, outcome) = (report.kind, Outcome::Nothing);
            return Ok(Read { kind, outcome, class: None, reader: Some(reader) });
        }
        let arrived = Arrived {
            report,
            reader: &reader,
            attribution,
            rules: self.rules,
            class: class.map(|class| class(ProviderId(reader.provider))),
            again: true,
            at: self.received_at,
            now: self.now,
        };
        let class = (report.kind == Kind::Failed).then(|| arrived.class_of_reader());
        let outcome = arrived.apply(tx, named).await?;
        Ok(Read { kind: report.kind, outcome, class, reader: Some(reader) })
    }

    /// Whether the reader has said yes again since the mail came: that is worth more than the mail.
    async fn joined_since(&self, tx: &mut Tx, reader: &Reader) -> db::Result<bool> {
        let found: Option<i64> = tx
            .query(JOINED_SINCE)
            .bind(reader.subscriber)
            .bind(self.received_at)
            .optional_scalar()
            .await?;
        Ok(found.is_some())
    }
}

const JOINED_SINCE: &str = "SELECT 1 FROM subscription WHERE subscriber_id = $1 \
     AND coalesce(confirmed_at, created_at) > $2 LIMIT 1";
