//! Newsletters: what readers subscribe to. Owns the table `newsletter`; issues, subscriptions and
//! the ledger belong to other rooms.

use serde::Serialize;
use uuid::Uuid;

use crate::{
    audit::{self, Act},
    db::{self, Db, is_unique_violation, record::record},
    id::NewsletterId,
    timestamp::Timestamp,
};

record! {
    /// A newsletter and how it presents itself.
    #[derive(Debug, Clone, PartialEq, Serialize)]
    pub struct Newsletter {
        /// Its row.
        pub id: NewsletterId,
        /// What the outside knows it by.
        pub uid: String,
        /// Its name in URLs, file names and commands.
        pub slug: String,
        /// Its name for people.
        pub name: String,
        /// A sentence or two on its public page.
        pub description: String,
        /// The display name of its From address.
        pub from_name: String,
        /// Its From address.
        pub from_address: String,
        /// A mailbox that people read.
        pub reply_to: String,
        /// The subject of an issue that has none of its own; `{{newsletter}}` and `{{number}}` stand for
        /// the newsletter's name and the number.
        pub subject_pattern: String,
        /// A BCP 47 language tag.
        pub language: String,
        /// The sender's postal address, which many laws ask for in bulk mail.
        pub postal_address: String,
        /// The colour of links and buttons, `#rrggbb`.
        pub accent_color: String,
        /// How many copies of its issues may leave a second; none for no limit of its own.
        pub per_second: Option<f64>,
        /// When it was created.
        pub created_at: Timestamp,
    }
}

/// What a new newsletter is made from.
#[derive(Debug, Clone)]
pub struct NewNewsletter {
    /// Its name in URLs: lower-case letters, digits and hyphens.
    pub slug: String,
    /// Its name for people.
    pub name: String,
    /// A sentence or two.
    pub description: String,
    /// Its From address.
    pub from_address: crate::address::Address,
}

/// Why a newsletter could not be made, found or changed.
#[derive(Debug, thiserror::Error)]
pub enum NewsletterError {
    /// A value is not one that can be used.
    #[error("{0}")]
    Invalid(String),
    /// Another newsletter has the slug.
    #[error("there is already a newsletter `{0}`; choose another slug")]
    Taken(String),
    /// No newsletter has the slug.
    #[error("there is no newsletter `{0}`; `postrider newsletter list` shows those there are")]
    Unknown(String),
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
}

/// The keys that [`set`] takes, in the order people are shown them.
pub const SETTINGS: &[&str] = &[
    "name",
    "description",
    "from_name",
    "from_address",
    "reply_to",
    "subject_pattern",
    "language",
    "postal_address",
    "accent_color",
    "per_second",
];

/// Creates a newsletter; what is not given starts with a sensible value.
pub async fn create(
    db: &Db,
    new: &NewNewsletter,
    now: Timestamp,
) -> Result<Newsletter, NewsletterError> {
    let slug_valid = (1..=40).contains(&new.slug.len())
        && new.slug.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !new.slug.starts_with('-');
    if !slug_valid {
        return Err(NewsletterError::Invalid(format!(
            "`{}` cannot be a slug: use 1 to 40 lower-case letters, digits and hyphens",
            new.slug
        )));
    }
    if new.slug == "hooks" {
        let text = "`hooks` cannot be a slug: providers post there".to_owned();
        return Err(NewsletterError::Invalid(text));
    }
    check("name", &new.name)?;
    check("description", &new.description)?;
    let inserted = db
        .write(
            "INSERT INTO newsletter (uid, slug, name, description, from_name, from_address, \
             reply_to, subject_pattern, language, postal_address, accent_color, created_at) \
             VALUES ($1, $2, $3, $4, $3, $5, $5, '{{newsletter}} #{{number}}', 'en', '', '#1f5fbf', $6)",
        )
        .bind(Uuid::now_v7().to_string())
        .bind(new.slug.clone())
        .bind(new.name.clone())
        .bind(new.description.clone())
        .bind(new.from_address.as_str().to_owned())
        .bind(now)
        .execute()
        .await;
    match inserted {
        Ok(_) => find(db, &new.slug).await,
        Err(error) if is_unique_violation(&error) => Err(NewsletterError::Taken(new.slug.clone())),
        Err(error) => Err(error.into()),
    }
}

/// The newsletter with this slug.
pub async fn find(db: &Db, slug: &str) -> Result<Newsletter, NewsletterError> {
    db.query("SELECT * FROM newsletter WHERE slug = $1")
        .bind(slug.to_owned())
        .optional()
        .await?
        .ok_or_else(|| NewsletterError::Unknown(slug.to_owned()))
}

/// The newsletter with this id.
pub async fn by_id(db: &Db, id: NewsletterId) -> db::Result<Option<Newsletter>> {
    db.query("SELECT * FROM newsletter WHERE id = $1").bind(id).optional().await
}

/// All newsletters, by slug.
pub async fn list(db: &Db) -> db::Result<Vec<Newsletter>> {
    db.query("SELECT * FROM newsletter ORDER BY slug").all().await
}

/// Changes one of the [`SETTINGS`].
pub async fn set(
    db: &Db,
    slug: &str,
    (key, value): (&str, &str),
    actor: &str,
    now: Timestamp,
) -> Result<(), NewsletterError> {
    let statement = match key {
        "name" => "UPDATE newsletter SET name = $2 WHERE slug = $1",
        "description" => "UPDATE newsletter SET description = $2 WHERE slug = $1",
        "from_name" => "UPDATE newsletter SET from_name = $2 WHERE slug = $1",
        "from_address" => "UPDATE newsletter SET from_address = $2 WHERE slug = $1",
        "reply_to" => "UPDATE newsletter SET reply_to = $2 WHERE slug = $1",
        "subject_pattern" => "UPDATE newsletter SET subject_pattern = $2 WHERE slug = $1",
        "language" => "UPDATE newsletter SET language = $2 WHERE slug = $1",
        "postal_address" => "UPDATE newsletter SET postal_address = $2 WHERE slug = $1",
        "accent_color" => "UPDATE newsletter SET accent_color = $2 WHERE slug = $1",
        "per_second" => {
            "UPDATE newsletter SET per_second = CAST(nullif($2, '') AS REAL) WHERE slug = $1"
        }
        _ => {
            return Err(NewsletterError::Invalid(format!(
                "`{key}` is not a setting of a newsletter; those are: {}",
                SETTINGS.join(", ")
            )));
        }
    };
    check(key, value)?;
    let mut tx = db.begin().await?;
    let changed =
        tx.query(statement).bind(slug.to_owned()).bind(value.to_owned()).execute().await?;
    if changed == 0 {
        tx.rollback().await?;
        return Err(NewsletterError::Unknown(slug.to_owned()));
    }
    let detail = format!("{key} = {value}");
    let act = Act { actor, action: "newsletter.set", target: slug, detail: &detail };
    audit::record(&mut tx, act, now).await?;
    Ok(tx.commit().await?)
}

/// Refuses what could not stand in a header, a page or a style.
fn check(key: &str, value: &str) -> Result<(), NewsletterError> {
    let invalid = |problem: &str| Err(NewsletterError::Invalid(format!("{key}: {problem}")));
    if value.chars().any(|c| c.is_control() && !(key == "postal_address" && c == '\n')) {
        return invalid("line breaks and control characters are not allowed");
    }
    if value.chars().count() > 1000 {
        return invalid("at most 1000 characters");
    }
    match key {
        "name" | "from_name" | "subject_pattern" if value.trim().is_empty() => invalid("is empty"),
        "from_address" | "reply_to" => match crate::address::Address::parse(value) {
            Ok(_) => Ok(()),
            Err(error) => invalid(&error.to_string()),
        },
        "accent_color" => {
            let hex = value.strip_prefix('#').unwrap_or_default();
            if hex.len() == 6 && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
                Ok(())
            } else {
                invalid("write a colour like #1f5fbf")
            }
        }
        "per_second" if !value.is_empty() => match value.parse::<f64>() {
            Ok(rate) if rate > 0.0 && rate.is_finite() => Ok(()),
            _ => invalid("write copies a second, like 20 or 0.5, or nothing for no limit"),
        },
        "language" if !value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') => {
            invalid("write a language tag like en or de-AT")
        }
        _ => Ok(()),
    }
}
