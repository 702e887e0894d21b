//! The audit log: who did what, to what, and why. Owns the table `audit`; rows are only added.

use crate::{
    db::{self, Tx},
    timestamp::Timestamp,
};

/// One act of an operator or editor.
#[derive(Debug, Clone, Copy)]
pub struct Act<'a> {
    /// Who: a user's name, or `cli:` and the system's user name.
    pub actor: &'a str,
    /// What was done, as a verb: `issue.pause`.
    pub action: &'a str,
    /// What it was done to.
    pub target: &'a str,
    /// Why, or with what values.
    pub detail: &'a str,
}

/// Writes `act` as part of `tx`, so that it stands if and only if the act does.
pub async fn record(tx: &mut Tx, act: Act<'_>, now: Timestamp) -> db::Result<()> {
    tx.query("INSERT INTO audit (at, actor, action, target, detail) VALUES ($1, $2, $3, $4, $5)")
        .bind(now)
        .bind(act.actor.to_owned())
        .bind(act.action.to_owned())
        .bind(act.target.to_owned())
        .bind(act.detail.to_owned())
        .execute()
        .await?;
    Ok(())
}
