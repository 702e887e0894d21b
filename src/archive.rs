//! Published issues as the archive and the feeds show them. Reads `issue`, which belongs to the rooms
//! that plan and send; an issue is published once its first copy was due.

use crate::{
    db::{self, Db, record::record},
    id::{IssueId, NewsletterId},
    issue::{Brand, IssueDocument, RenderError, Renderer},
    link::Links,
    newsletter::Newsletter,
    timestamp::Timestamp,
};

record! {
    /// One line of an archive.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct ArchivedIssue {
        /// Its row.
        pub id: IssueId,
        /// What the outside knows it by.
        pub uid: String,
        /// Its number.
        pub number: i64,
        /// Its subject.
        pub subject: String,
        /// When its first copy left.
        pub started_at: Timestamp,
    }
}

record! {
    struct Stored {
        model: String,
    }
}

/// Why an issue cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// The stored model is not one that this version reads.
    #[error("issue {0}: the stored model cannot be read: {1}")]
    Model(IssueId, serde_json::Error),
    /// The templates refuse it.
    #[error("issue {0}: {1}")]
    Render(IssueId, RenderError),
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
}

/// Up to `limit` published issues with a number below `before`, newest first.
pub async fn published(
    db: &Db,
    newsletter: NewsletterId,
    before: i64,
    limit: u32,
) -> db::Result<Vec<ArchivedIssue>> {
    db.query(
        "SELECT id, uid, number, subject, started_at FROM issue WHERE newsletter_id = $1 \
         AND number < $2 AND state IN (2, 3, 4, 6) AND started_at IS NOT NULL \
         ORDER BY number DESC LIMIT $3",
    )
    .bind(newsletter)
    .bind(before)
    .bind(i64::from(limit))
    .all()
    .await
}

/// The published issue with `number`, if there is one.
pub async fn find(
    db: &Db,
    newsletter: NewsletterId,
    number: i64,
) -> db::Result<Option<ArchivedIssue>> {
    let mut found = published(db, newsletter, number.saturating_add(1), 1).await?;
    Ok(found.pop().filter(|issue| issue.number == number))
}

/// The number of the first published issue after `number`.
pub async fn next(db: &Db, newsletter: NewsletterId, number: i64) -> db::Result<Option<i64>> {
    db.query(
        "SELECT number FROM issue WHERE newsletter_id = $1 AND number > $2 \
         AND state IN (2, 3, 4, 6) AND started_at IS NOT NULL ORDER BY number LIMIT 1",
    )
    .bind(newsletter)
    .bind(number)
    .optional_scalar()
    .await
}

/// The HTML of an issue for its page and for feeds: its body alone, nothing of any reader.
pub async fn web_html(
    db: &Db,
    renderer: &Renderer,
    (newsletter, links): (&Newsletter, &Links),
    issue: IssueId,
) -> Result<String, ArchiveError> {
    let stored: Stored =
        db.query("SELECT model FROM issue WHERE id = $1").bind(issue).one().await?;
    let document: IssueDocument =
        serde_json::from_str(&stored.model).map_err(|error| ArchiveError::Model(issue, error))?;
    let html = renderer
        .issue(&document, &brand(newsletter, links))
        .map_err(|error| ArchiveError::Render(issue, error))?;
    Ok(html.web_html().to_owned())
}

/// What the newsletter puts around its issues.
fn brand(newsletter: &Newsletter, links: &Links) -> Brand {
    let filled = |text: &String| (!text.is_empty()).then(|| text.clone());
    Brand {
        description: filled(&newsletter.description),
        language: newsletter.language.clone(),
        postal_address: filled(&newsletter.postal_address),
        accent: newsletter.accent_color.clone(),
        sender_name: newsletter.from_name.clone(),
        subject_pattern: newsletter.subject_pattern.clone(),
        ..Brand::new(newsletter.name.clone(), links.newsletter(&newsletter.slug))
    }
}
