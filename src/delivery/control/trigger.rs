//! Asking for a send, so that it starts once however often it is asked for.

use aws_lc_rs::digest;

use super::{ControlError, Edition, edition_sql};
use crate::{
    audit::{self, Act},
    db::{self, Db, Tx, record::record, state::IssueState},
    delivery::content::Content,
    id::{IssueId, NewsletterId},
    timestamp::Timestamp,
};

/// What is stored of an issue before it is sent.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Its newsletter.
    pub newsletter: NewsletterId,
    /// Its number.
    pub number: i64,
    /// The typed model, as JSON.
    pub model: String,
    /// The file's text.
    pub source: String,
    /// What copies are made from.
    pub content: Content,
}

/// What came of asking for a send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scheduled {
    /// The send was asked for now; its first copy leaves at this time.
    New(Edition),
    /// It had been asked for before: nothing was started.
    Already(Edition),
}

/// When and by whom a send is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Trigger<'a> {
    /// When the first copy may leave.
    pub sends_at: Timestamp,
    /// Who asks.
    pub actor: &'a str,
    /// The idempotency key, chosen by a program that may have to ask again.
    pub key: Option<&'a str>,
}

record! {
    /// A key that was used, for which issue and text.
    struct Used {
        issue_id: IssueId,
        digest: Vec<u8>,
    }
}

/// Stores `draft` and asks for its send, the first copy at `sends_at`, without a key.
pub async fn schedule(
    db: &Db,
    draft: &Draft,
    sends_at: Timestamp,
    actor: &str,
    now: Timestamp,
) -> Result<Scheduled, ControlError> {
    ask(db, draft, Trigger { sends_at, actor, key: None }, now).await
}

/// Stores `draft` and asks for its send. The same trigger twice (a double click, a retried call)
/// starts one send: an issue is asked for once, by its number, and a key starts one send for good,
/// even if that was taken back since.
pub async fn ask(
    db: &Db,
    draft: &Draft,
    trigger: Trigger<'_>,
    now: Timestamp,
) -> Result<Scheduled, ControlError> {
    let Trigger { sends_at, actor, key } = trigger;
    let mut tx = db.begin().await?;
    if let Some(key) = key
        && let Some(before) = used(&mut tx, key).await?
    {
        return before.held_against(draft, &mut tx).await;
    }
    let sql = edition_sql!("WHERE newsletter_id = $1 AND number = $2");
    let before: Option<Edition> =
        tx.query(sql).bind(draft.newsletter).bind(draft.number).optional().await?;
    if let Some(edition) = before.filter(|edition| edition.state != IssueState::Draft) {
        return Ok(Scheduled::Already(edition));
    }
    store(&mut tx, draft, now).await?;
    tx.query(
        "UPDATE issue SET state = 1, sends_at = $3, asked_by = $4, approved_by = NULL, \
         approved_at = NULL, halt = NULL WHERE newsletter_id = $1 AND number = $2",
    )
    .bind(draft.newsletter)
    .bind(draft.number)
    .bind(sends_at)
    .bind(actor.to_owned())
    .execute()
    .await?;
    let edition: Edition = tx.query(sql).bind(draft.newsletter).bind(draft.number).one().await?;
    if let Some(key) = key {
        remember(&mut tx, key, &edition, draft, now).await?;
    }
    let act = Act {
        actor,
        action: "issue.schedule",
        target: &edition.uid,
        detail: &format!("issue {}, first copy at {sends_at}", draft.number),
    };
    audit::record(&mut tx, act, now).await?;
    tx.commit().await?;
    Ok(Scheduled::New(edition))
}

async fn store(tx: &mut Tx, draft: &Draft, now: Timestamp) -> db::Result<()> {
    let id: IssueId = tx
        .query(
            "INSERT INTO issue (uid, newsletter_id, number, subject, state, model, source, \
             created_at) VALUES ($1, $2, $3, $4, 0, $5, $6, $7) \
             ON CONFLICT (newsletter_id, number) DO UPDATE SET subject = excluded.subject, \
             model = excluded.model, source = excluded.source RETURNING id",
        )
        .bind(uuid::Uuid::now_v7().to_string())
        .bind(draft.newsletter)
        .bind(draft.number)
        .bind(draft.content.subject.clone())
        .bind(draft.model.clone())
        .bind(draft.source.clone())
        .bind(now)
        .scalar()
        .await?;
    let content = serde_json::to_string(&draft.content).unwrap_or_default();
    tx.query(
        "INSERT INTO issue_content (issue_id, content) VALUES ($1, $2) \
         ON CONFLICT (issue_id) DO UPDATE SET content = excluded.content",
    )
    .bind(id)
    .bind(content)
    .execute()
    .await?;
    Ok(())
}

impl Used {
    /// The same request again is answered like before; another one is refused.
    async fn held_against(self, draft: &Draft, tx: &mut Tx) -> Result<Scheduled, ControlError> {
        let sql = edition_sql!("WHERE id = $1");
        let edition: Edition = tx.query(sql).bind(self.issue_id).one().await?;
        let same_number =
            (edition.newsletter_id, edition.number) == (draft.newsletter, draft.number);
        if same_number && self.digest == digest_of(draft) {
            return Ok(Scheduled::Already(edition));
        }
        Err(ControlError::KeyUsed { number: edition.number, same_number })
    }
}

async fn used(tx: &mut Tx, key: &str) -> db::Result<Option<Used>> {
    tx.query("SELECT issue_id, digest FROM trigger_key WHERE key = $1")
        .bind(key.to_owned())
        .optional()
        .await
}

async fn remember(
    tx: &mut Tx,
    key: &str,
    edition: &Edition,
    draft: &Draft,
    now: Timestamp,
) -> db::Result<()> {
    tx.query("INSERT INTO trigger_key (key, issue_id, digest, at) VALUES ($1, $2, $3, $4)")
        .bind(key.to_owned())
        .bind(edition.id)
        .bind(digest_of(draft))
        .bind(now)
        .execute()
        .await?;
    Ok(())
}

/// What a text is recognised by.
fn digest_of(draft: &Draft) -> Vec<u8> {
    digest::digest(&digest::SHA256, draft.source.as_bytes()).as_ref().to_vec()
}
