//! Logins that last: a random token in a cookie, its hash in the database.

use std::time::Duration;

use serde::Serialize;

use super::{Role, User, UserId};
use crate::{
    db::{self, Db, record::record},
    timestamp::Timestamp,
    token::hash_token,
};

/// Octets of a session's token: 256 bits, which nobody guesses.
const TOKEN_OCTETS: usize = 32;
/// How many logins one user can have at once; the oldest end first.
const SESSIONS_MAX: i64 = 20;

/// Who is logged in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Session {
    /// The user's row.
    pub user: UserId,
    /// The user's name.
    pub name: String,
    /// What the user may do.
    pub role: Role,
    /// When the login ends by itself.
    pub expires_at: Timestamp,
}

record! {
    struct Row {
        user_id: i64,
        name: String,
        role: String,
        expires_at: Timestamp,
    }
}

/// Begins a login for `user`; the token is for the cookie and is kept nowhere. It begins only if the
/// password is still the one that was checked: a change in between ended all logins for good.
pub(super) async fn begin(
    db: &Db,
    user: &User,
    password_hash: String,
    lifetime: Duration,
    now: Timestamp,
) -> db::Result<Option<String>> {
    let token = data_encoding::HEXLOWER.encode(&rand::random::<[u8; TOKEN_OCTETS]>());
    let mut tx = db.begin().await?;
    tx.query("DELETE FROM web_session WHERE expires_at <= $1").bind(now).execute().await?;
    tx.query(
        "DELETE FROM web_session WHERE token_hash IN (SELECT token_hash FROM web_session \
         WHERE user_id = $1 ORDER BY created_at DESC LIMIT -1 OFFSET $2)",
    )
    .bind(user.id.0)
    .bind(SESSIONS_MAX - 1)
    .execute()
    .await?;
    let begun = tx
        .query(
            "INSERT INTO web_session (token_hash, user_id, created_at, expires_at) \
             SELECT $1, id, $3, $4 FROM user \
             WHERE id = $2 AND disabled_at IS NULL AND password_hash = $5",
        )
        .bind(hash_token(&token).to_vec())
        .bind(user.id.0)
        .bind(now)
        .bind(now.plus(lifetime))
        .bind(password_hash)
        .execute()
        .await?;
    tx.commit().await?;
    Ok((begun == 1).then_some(token))
}

/// The login with this token, unless it ended.
pub async fn find(db: &Db, token: &str, now: Timestamp) -> db::Result<Option<Session>> {
    let row: Option<Row> = db
        .query(
            "SELECT s.user_id, u.name, u.role, s.expires_at FROM web_session s \
             JOIN user u ON u.id = s.user_id \
             WHERE s.token_hash = $1 AND s.expires_at > $2 AND u.disabled_at IS NULL",
        )
        .bind(hash_token(token).to_vec())
        .bind(now)
        .optional()
        .await?;
    Ok(row.map(|row| Session {
        user: UserId(row.user_id),
        name: row.name,
        role: Role::by_name(&row.role).unwrap_or(Role::Viewer),
        expires_at: row.expires_at,
    }))
}

/// Ends the login with this token.
pub async fn end(db: &Db, token: &str) -> db::Result<()> {
    db.write("DELETE FROM web_session WHERE token_hash = $1")
        .bind(hash_token(token).to_vec())
        .execute()
        .await?;
    Ok(())
}
