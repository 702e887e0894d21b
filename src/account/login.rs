//! Logging in: a name, a password, and a limit on how often both are tried.

use std::{net::IpAddr, time::Duration};

use super::{Attempts, Busy, Passwords, Row, Session, User, session};
use crate::{
    audit::{self, Act},
    db::{self, Db, record::record},
    timestamp::Timestamp,
};

/// The way in.
#[derive(Debug)]
pub struct Logins {
    db: Db,
    passwords: Passwords,
    attempts: Attempts,
    lifetime: Duration,
}

/// What somebody typed, and where it came from.
#[derive(Clone, Copy)]
pub struct LogIn<'a> {
    /// The name.
    pub name: &'a str,
    /// The password.
    pub password: &'a str,
    /// The client's address.
    pub ip: Option<IpAddr>,
}

/// Why somebody is not let in.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// Nobody has that name, or the password is another, or the user is disabled: which one is
    /// nobody's business.
    #[error("the name or the password is wrong")]
    Wrong,
    /// Too many tries.
    #[error("too many tries; wait {} minutes", .0.as_secs().div_ceil(60))]
    TooMany(Duration),
    /// The machine is busy with other passwords.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
}

record! {
    struct Secret {
        id: i64,
        password_hash: String,
    }
}

impl Logins {
    /// The way in for the users of `db`; a login lasts `lifetime`.
    pub fn new(db: Db, lifetime: Duration) -> Self {
        Self { db, passwords: Passwords::default(), attempts: Attempts::default(), lifetime }
    }

    /// Logs somebody in. The token is for the cookie.
    pub async fn log_in(
        &self,
        by: LogIn<'_>,
        now: Timestamp,
    ) -> Result<(Session, String), LoginError> {
        self.attempts.count(by.name, by.ip, now).map_err(LoginError::TooMany)?;
        let (user, hash) = self.verify(by.name, by.password).await?.ok_or(LoginError::Wrong)?;
        let token = session::begin(&self.db, &user, hash, self.lifetime, now).await?;
        let token = token.ok_or(LoginError::Wrong)?;
        self.attempts.forgive(by.name, by.ip);
        self.note(&user, by.ip, now).await?;
        let expires_at = now.plus(self.lifetime);
        Ok((Session { user: user.id, name: user.name, role: user.role, expires_at }, token))
    }

    /// The user with this name and password, and the hash that was compared.
    async fn verify(
        &self,
        name: &str,
        password: &str,
    ) -> Result<Option<(User, String)>, LoginError> {
        let secret: Option<Secret> = self
            .db
            .query("SELECT id, password_hash FROM user WHERE name = $1 AND disabled_at IS NULL")
            .bind(name.to_owned())
            .optional()
            .await?;
        let hash = secret.as_ref().map(|secret| secret.password_hash.clone());
        let right = self.passwords.verify(password, hash).await?;
        let Some(secret) = secret.filter(|_| right) else { return Ok(None) };
        let row: Row = self
            .db
            .query("SELECT id, name, role, created_at, disabled_at FROM user WHERE id = $1")
            .bind(secret.id)
            .one()
            .await?;
        Ok(Some((row.into(), secret.password_hash)))
    }

    async fn note(&self, user: &User, ip: Option<IpAddr>, now: Timestamp) -> db::Result<()> {
        let from = ip.map(|ip| format!("from {ip}")).unwrap_or_default();
        let act =
            Act { actor: &user.name, action: "user.log_in", target: &user.name, detail: &from };
        let mut tx = self.db.begin().await?;
        audit::record(&mut tx, act, now).await?;
        tx.commit().await
    }
}
