//! The people who run a newsletter: their names, passwords, roles and logins.
//!
//! Owns the tables `user` and `web_session`. A user who left is disabled and keeps the row, because
//! the audit log names it. What a role permits is declared by those who ask for it (the web's table
//! of routes); here roles only have an order.

mod attempts;
mod login;
mod password;
mod session;
#[cfg(test)]
mod tests;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use attempts::Attempts;
pub use login::{LogIn, LoginError, Logins};
pub use password::{Busy, PASSWORD_CHARS_MIN, PASSWORD_OCTETS_MAX, Passwords};
pub use session::{Session, end, find as find_session};

use crate::{
    audit::{self, Act},
    db::{self, Db, is_unique_violation, record::record},
    timestamp::Timestamp,
};

/// What somebody may do. Each role may do all that the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sees issues and the delivery log; addresses are redacted.
    Viewer,
    /// Writes and sends issues; addresses are redacted.
    Editor,
    /// Sees readers, steers sends and relays.
    Operator,
}

impl Role {
    /// Every role, least first.
    pub const ALL: &[Self] = &[Self::Viewer, Self::Editor, Self::Operator];

    /// The word in the table, on pages and in commands.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Editor => "editor",
            Self::Operator => "operator",
        }
    }

    /// The role that `word` names.
    pub fn by_name(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|role| role.as_str() == word)
    }

    /// Whether readers' addresses are shown to this role in full.
    pub const fn sees_addresses(self) -> bool {
        matches!(self, Self::Operator)
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A user's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UserId(pub i64);

/// Somebody who may log in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct User {
    /// Their row.
    pub id: UserId,
    /// The name they log in with.
    pub name: String,
    /// What they may do.
    pub role: Role,
    /// When they were added.
    pub created_at: Timestamp,
    /// Since when they cannot log in any more.
    pub disabled_at: Option<Timestamp>,
}

record! {
    struct Row {
        id: i64,
        name: String,
        role: String,
        created_at: Timestamp,
        disabled_at: Option<Timestamp>,
    }
}

impl From<Row> for User {
    fn from(row: Row) -> Self {
        // A role that this version does not know permits the least.
        let role = Role::by_name(&row.role).unwrap_or(Role::Viewer);
        let Row { id, name, created_at, disabled_at, .. } = row;
        Self { id: UserId(id), name, role, created_at, disabled_at }
    }
}

/// Why a user could not be added, found or changed.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// A name or password that cannot be used.
    #[error("{0}")]
    Invalid(String),
    /// Somebody else has the name.
    #[error("there is already a user `{0}`")]
    Taken(String),
    /// Nobody has the name.
    #[error("there is no user `{0}`; `postrider user list` shows those there are")]
    Unknown(String),
    /// The machine is busy with other passwords.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
}

/// Characters of the longest name.
const NAME_CHARS_MAX: usize = 40;

/// Adds a user. `actor` is who does it, for the audit log.
pub async fn create(
    db: &Db,
    passwords: &Passwords,
    name: &str,
    password: &str,
    role: Role,
    actor: &str,
    now: Timestamp,
) -> Result<User, AccountError> {
    check_name(name)?;
    check_password(name, password)?;
    let hash = passwords.hash(password).await?;
    let mut tx = db.begin().await?;
    let inserted: db::Result<i64> = tx
        .query(
            "INSERT INTO user (name, password_hash, role, created_at) VALUES ($1, $2, $3, $4) \
             RETURNING id",
        )
        .bind(name.to_owned())
        .bind(hash)
        .bind(role.as_str())
        .bind(now)
        .scalar()
        .await;
    let id = match inserted {
        Ok(id) => UserId(id),
        Err(error) if is_unique_violation(&error) => {
            return Err(AccountError::Taken(name.to_owned()));
        }
        Err(error) => return Err(error.into()),
    };
    let act = Act { actor, action: "user.add", target: name, detail: role.as_str() };
    audit::record(&mut tx, act, now).await?;
    tx.commit().await?;
    Ok(User { id, name: name.to_owned(), role, created_at: now, disabled_at: None })
}

/// Gives a user another password, and ends all their logins. A disabled user can log in again.
pub async fn set_password(
    db: &Db,
    passwords: &Passwords,
    name: &str,
    password: &str,
    actor: &str,
    now: Timestamp,
) -> Result<(), AccountError> {
    check_password(name, password)?;
    let hash = passwords.hash(password).await?;
    let sql = "UPDATE user SET password_hash = $2, disabled_at = NULL WHERE name = $1 RETURNING id";
    change(db, name, actor, "user.password", sql, hash, now).await
}

/// Keeps a user from logging in, and ends all their logins.
pub async fn disable(db: &Db, name: &str, actor: &str, now: Timestamp) -> Result<(), AccountError> {
    let sql = "UPDATE user SET disabled_at = coalesce(disabled_at, $2) WHERE name = $1 \
               RETURNING id";
    change(db, name, actor, "user.disable", sql, now, now).await
}

/// Changes one row, ends the user's logins and writes the act down, all or nothing.
async fn change(
    db: &Db,
    name: &str,
    actor: &str,
    action: &str,
    sql: &'static str,
    value: impl db::Param,
    now: Timestamp,
) -> Result<(), AccountError> {
    let mut tx = db.begin().await?;
    let id: Option<i64> = tx.query(sql).bind(name.to_owned()).bind(value).optional_scalar().await?;
    let id = id.ok_or_else(|| AccountError::Unknown(name.to_owned()))?;
    tx.query("DELETE FROM web_session WHERE user_id = $1").bind(id).execute().await?;
    audit::record(&mut tx, Act { actor, action, target: name, detail: "" }, now).await?;
    tx.commit().await?;
    Ok(())
}

/// Every user, by name.
pub async fn list(db: &Db) -> db::Result<Vec<User>> {
    let rows: Vec<Row> = db
        .query("SELECT id, name, role, created_at, disabled_at FROM user ORDER BY name")
        .all()
        .await?;
    Ok(rows.into_iter().map(User::from).collect())
}

/// Whether there is anybody who could log in.
pub async fn any(db: &Db) -> db::Result<bool> {
    db.query("SELECT EXISTS (SELECT 1 FROM user WHERE disabled_at IS NULL)").scalar().await
}

fn check_name(name: &str) -> Result<(), AccountError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '@' | '+');
    if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(allowed) {
        return Err(AccountError::Invalid(format!(
            "`{name}` cannot be a user's name: use 1 to {NAME_CHARS_MAX} letters, digits and . - _ @ +"
        )));
    }
    Ok(())
}

/// Length is what makes a password hard to guess (NIST SP 800-63B, section 3.1.1); rules about
/// character classes only make it hard to remember.
fn check_password(name: &str, password: &str) -> Result<(), AccountError> {
    let invalid = |problem: String| Err(AccountError::Invalid(problem));
    if password.chars().count() < PASSWORD_CHARS_MIN {
        return invalid(format!(
            "the password is too short: use {PASSWORD_CHARS_MIN} characters or more"
        ));
    }
    if password.len() > PASSWORD_OCTETS_MAX {
        return invalid(format!(
            "the password is too long: use at most {PASSWORD_OCTETS_MAX} octets"
        ));
    }
    let mut characters = password.chars();
    let first = characters.next();
    if characters.all(|c| Some(c) == first) || password.eq_ignore_ascii_case(name) {
        return invalid("the password is too easy to guess: use a few words".to_owned());
    }
    Ok(())
}
