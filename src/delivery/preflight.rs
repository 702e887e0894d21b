//! What is looked at before a send: the rows that the lint has to know of, and every recipient's
//! copy, made once and thrown away, so that no missing merge field surfaces at number 40,000. Only
//! reads; what is asked for afterwards is `control`'s business.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::TryStreamExt as _;
use jiff::{civil::Date, tz::TimeZone};
use serde::Serialize;

use super::{
    compose::{Compiled, Composer, Prepared},
    content::{Content, ContentError},
    control::{Draft, Edition},
    queue::{Claimed, Handed},
};
use crate::{
    config::Config,
    db::{self, Db, record::record, state::IssueState},
    id::{CopyId, IssueId, NewsletterId, SubscriberId},
    issue::{
        Brand, IssueDocument,
        lint::{Interest, InterestKind, LintContext, archive_keys},
    },
    newsletter::Newsletter,
    smtp::message::ComposedMessage,
    timestamp::Timestamp,
};

/// How many earlier issues' links a new one is held against: four years of a weekly.
const ARCHIVE_ISSUES: i64 = 208;
/// How many recipients are looked at in one go.
const CHUNK: i64 = 2_000;
/// How many of the recipients whose copy cannot be made are named.
const PROBLEMS_NAMED: usize = 5;

record! {
    struct Taken {
        number: i64,
        state: IssueState,
        started_at: Option<Timestamp>,
        source: Option<String>,
    }
}

record! {
    struct Archived {
        number: i64,
        model: String,
    }
}

/// The text that is stored of an issue, if there is such an issue.
pub async fn stored_source(
    db: &Db,
    newsletter: NewsletterId,
    number: i64,
) -> db::Result<Option<String>> {
    db.query("SELECT source FROM issue WHERE newsletter_id = $1 AND number = $2")
        .bind(newsletter)
        .bind(number)
        .optional_scalar()
        .await
}

record! {
    struct StoredDraft {
        model: String,
        source: String,
        content: String,
    }
}

/// What is stored of `edition`, as it was when its send was asked for; none when its content is gone
/// or of another version's form.
pub async fn stored_draft(db: &Db, edition: &Edition) -> db::Result<Option<Draft>> {
    let stored: Option<StoredDraft> = db
        .query(
            "SELECT i.model, i.source, c.content FROM issue i \
             JOIN issue_content c ON c.issue_id = i.id WHERE i.id = $1",
        )
        .bind(edition.id)
        .optional()
        .await?;
    Ok(stored.and_then(|StoredDraft { model, source, content }| {
        let content = serde_json::from_str(&content).ok()?;
        let (newsletter, number) = (edition.newsletter_id, edition.number);
        Some(Draft { newsletter, number, model, source, content })
    }))
}

/// What the lint has to know beside the file: numbers taken, links of the archive, when the audience
/// was mailed last. `own` is the number and text of the issue it is about, which is not held against
/// itself; `zone` is where `sends_at` is a day of the calendar.
pub async fn lint_context(
    db: &Db,
    config: &Config,
    newsletter: &Newsletter,
    brand: Brand,
    own: (Option<u32>, &str),
    (sends_at, zone): (Timestamp, &TimeZone),
) -> db::Result<LintContext> {
    let date = |at: Timestamp| at.to_jiff().to_zoned(zone.clone()).date();
    let own_number = own.0.map(i64::from);
    let taken: Vec<Taken> = db
        .query(
            "SELECT number, state, started_at, CASE WHEN number = $2 THEN source END AS source \
             FROM issue WHERE newsletter_id = $1",
        )
        .bind(newsletter.id)
        .bind(own_number)
        .all()
        .await?;
    let is_own = |issue: &Taken| {
        Some(issue.number) == own_number
            && (issue.state == IssueState::Draft || issue.source.as_deref() == Some(own.1))
    };
    let others = || taken.iter().filter(|issue| !is_own(issue));
    let taken_numbers: BTreeSet<u32> = others()
        .filter(|issue| issue.state != IssueState::Draft)
        .filter_map(|issue| u32::try_from(issue.number).ok())
        .collect();
    let last_mailed: Option<Date> = others().filter_map(|issue| issue.started_at).max().map(date);
    Ok(LintContext {
        brand,
        today: Some(date(sends_at)),
        taken_numbers,
        archive_links: archive_links(db, newsletter.id, own_number).await?,
        interests: interests(config),
        last_mailed,
        quiet_days: days(config.sending.quiet_period),
        rendered: None,
    })
}

/// Whole days, the last one begun counting as one.
fn days(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs().div_ceil(86_400)).unwrap_or(u32::MAX)
}

fn interests(config: &Config) -> Vec<Interest> {
    let employer = |name: &String| Interest {
        name: name.clone(),
        hosts: Vec::new(),
        kind: InterestKind::Employer,
    };
    config.lint.disclose.iter().map(employer).collect()
}

/// The links of the latest issues, with the number of the latest that had each.
async fn archive_links(
    db: &Db,
    newsletter: NewsletterId,
    own_number: Option<i64>,
) -> db::Result<HashMap<String, u32>> {
    let mut issues = db
        .query(
            "SELECT number, model FROM issue WHERE newsletter_id = $1 AND state <> 0 \
             AND ($2 IS NULL OR number <> $2) ORDER BY number DESC LIMIT $3",
        )
        .bind(newsletter)
        .bind(own_number)
        .bind(ARCHIVE_ISSUES)
        .stream::<Archived>();
    let mut links = HashMap::new();
    while let Some(issue) = issues.try_next().await? {
        // A model of an older form has no links to compare; that stops no send.
        let Ok(document) = serde_json::from_str::<IssueDocument>(&issue.model) else { continue };
        let number = u32::try_from(issue.number).unwrap_or(u32::MAX);
        for link in archive_keys(&document) {
            links.entry(link).or_insert(number);
        }
    }
    Ok(links)
}

/// What came of making every recipient's copy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Rehearsal {
    /// How many copies were made.
    pub copies: i64,
    /// The size of the largest one on the wire, without signatures, in bytes.
    pub largest_bytes: u64,
    /// How many copies cannot be made.
    pub unsendable: i64,
    /// The first of those, with the reason.
    pub problems: Vec<Problem>,
}

/// A recipient whose copy cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Who it is.
    pub address: String,
    /// Why.
    pub why: String,
}

/// Why recipients could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum RehearsalError {
    /// The content cannot be made a message at all.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The thread that made copies ended without a word.
    #[error("the look at the recipients was interrupted")]
    Interrupted,
}

record! {
    struct Recipient {
        id: SubscriberId,
        address: String,
        name: Option<String>,
        attributes: Option<String>,
    }
}

/// The same people as in the plan's audience, a chunk at a time.
const RECIPIENTS: &str = "SELECT p.id, p.address, p.name, p.attributes \
     FROM subscription s CROSS JOIN subscriber p ON p.id = s.subscriber_id \
     LEFT JOIN suppression x ON x.address_hash = p.address_hash \
     WHERE s.newsletter_id = $1 AND s.subscriber_id > $2 AND s.state = 1 \
     AND x.address_hash IS NULL AND NOT coalesce(s.paused_until > $3, 0) \
     AND p.address IS NOT NULL ORDER BY s.subscriber_id LIMIT $4";

/// Makes the copy of every recipient of `newsletter` as it would be sent, and throws it away. Memory
/// is bounded by a chunk of recipients; `progress` is told how many were looked at.
pub async fn rehearse(
    db: &Db,
    composer: Arc<Composer>,
    newsletter: NewsletterId,
    content: &Content,
    now: Timestamp,
    mut progress: impl FnMut(i64),
) -> Result<Rehearsal, RehearsalError> {
    let compiled = Compiled::new(content, newsletter, UNSTORED)?;
    let prepared = Prepared::Issue(Arc::new(compiled));
    let mut sum = Rehearsal::default();
    let mut after = SubscriberId(0);
    loop {
        let recipients: Vec<Recipient> =
            db.query(RECIPIENTS).bind(newsletter).bind(after).bind(now).bind(CHUNK).all().await?;
        let Some(last) = recipients.last() else { return Ok(sum) };
        after = last.id;
        let (composer, prepared) = (Arc::clone(&composer), prepared.clone());
        let chunk = tokio::task::spawn_blocking(move || compose(&composer, &prepared, recipients));
        sum.add(chunk.await.map_err(|_| RehearsalError::Interrupted)?);
        progress(sum.copies + sum.unsendable);
    }
}

/// The number of no issue: rows begin at 1.
const UNSTORED: IssueId = IssueId(0);

/// What stands for the row of a copy that is not in the ledger. Its links and return path name no
/// row, so that nothing done with it can change anything.
pub fn unrecorded_copy(subscriber: SubscriberId, reader: &Addressee) -> Handed {
    let copy = CopyId::Issue { issue: UNSTORED, subscriber };
    Handed {
        claimed: Claimed {
            copy,
            claim: 0,
            place: 0,
            claimed_at: Timestamp::default(),
            due_at: Timestamp::default(),
            first_due_at: Timestamp::default(),
            provider: 0,
            stage: 0,
            attempts: 0,
        },
        at: Timestamp::default(),
        address: reader.address.clone(),
        name: reader.name.clone(),
        attributes: reader.attributes.clone(),
    }
}

/// Whom an unrecorded copy is for.
#[derive(Debug, Clone)]
pub struct Addressee {
    /// Their address.
    pub address: String,
    /// Their name.
    pub name: Option<String>,
    /// Their attributes, a JSON object.
    pub attributes: Option<String>,
}

fn compose(composer: &Composer, prepared: &Prepared, recipients: Vec<Recipient>) -> Rehearsal {
    let mut part = Rehearsal::default();
    let mut message = ComposedMessage::default();
    for Recipient { id, address, name, attributes } in recipients {
        let handed = unrecorded_copy(id, &Addressee { address, name, attributes });
        match composer.compose(&handed, prepared, &mut message) {
            Ok(()) => {
                part.copies += 1;
                part.largest_bytes = part.largest_bytes.max(message.len() as u64);
            }
            Err(error) => {
                part.unsendable += 1;
                if part.problems.len() < PROBLEMS_NAMED {
                    let why = error.to_string();
                    part.problems.push(Problem { address: handed.address, why });
                }
            }
        }
    }
    part
}

impl Rehearsal {
    fn add(&mut self, part: Self) {
        self.copies += part.copies;
        self.largest_bytes = self.largest_bytes.max(part.largest_bytes);
        self.unsendable += part.unsendable;
        let room = PROBLEMS_NAMED - self.problems.len();
        self.problems.extend(part.problems.into_iter().take(room));
    }
}
