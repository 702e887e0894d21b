//! Caps against list bombing: how many sign-ups may come from one network, for one domain and in
//! all, and how many confirmation mails may go to one address. Counted per day (UTC) in
//! `signup_count`, so that a restart forgives nothing.

use std::{fmt::Write as _, net::IpAddr};

use crate::{
    address::Address,
    config::Signup,
    db::{self, Db, Tx},
    id::NewsletterId,
    timestamp::Timestamp,
};

/// Which cap a sign-up ran into. None of them says anything about the address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Too many came from this IPv4 address or IPv6 /64 network today.
    Network,
    /// Too many were for addresses at this domain today.
    Domain,
    /// Too many came in all today.
    Total,
}

const MICROSECONDS_PER_DAY: i64 = 86_400_000_000;

/// The day that `now` is in, counted from the Unix epoch, in UTC.
pub(super) fn day_of(now: Timestamp) -> i64 {
    now.microseconds().div_euclid(MICROSECONDS_PER_DAY)
}

/// What is counted for one sign-up, and how far each may go: narrowest first, so that one network
/// cannot use up what is there for everybody.
pub(super) fn scopes(
    rules: &Signup,
    ip: Option<IpAddr>,
    domain: Option<&str>,
) -> Vec<(Limit, String, u32)> {
    let mut scopes = Vec::with_capacity(3);
    if let Some(ip) = ip {
        scopes.push((Limit::Network, network_of(ip), rules.per_network));
    }
    if let Some(domain) = domain {
        scopes.push((Limit::Domain, format!("domain:{domain}"), rules.per_domain));
    }
    scopes.push((Limit::Total, "total".to_owned(), rules.total));
    scopes
}

/// IPv4 addresses singly, IPv6 by the /64 that one subscriber line has to itself.
fn network_of(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(ip) => format!("network:{ip}"),
        IpAddr::V6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            format!("network:{a:x}:{b:x}:{c:x}:{d:x}::/64")
        }
    }
}

/// The cap that is used up already, found without writing: a flood that has hit it costs no disk.
pub(super) async fn used_up(
    db: &Db,
    scopes: &[(Limit, String, u32)],
    now: Timestamp,
) -> db::Result<Option<Limit>> {
    for (limit, scope, max) in scopes {
        let count: Option<i64> = db
            .query("SELECT count FROM signup_count WHERE scope = $1 AND day = $2")
            .bind(scope.clone())
            .bind(day_of(now))
            .optional_scalar()
            .await?;
        if count.unwrap_or(0) >= i64::from(*max) {
            return Ok(Some(*limit));
        }
    }
    Ok(None)
}

/// Counts a sign-up in each scope; the cap it runs into, if any. Wider scopes than that one do not
/// count it.
pub(super) async fn admit(
    tx: &mut Tx,
    scopes: &[(Limit, String, u32)],
    now: Timestamp,
) -> db::Result<Option<Limit>> {
    for (limit, scope, max) in scopes {
        if count(tx, scope.clone(), now).await? > i64::from(*max) {
            return Ok(Some(*limit));
        }
    }
    Ok(None)
}

/// The counters of mails to one address: for one newsletter, and in all. They hold the keyed hash,
/// not the address.
fn mail_scopes(newsletter: NewsletterId, address_hash: &[u8]) -> [String; 2] {
    let mut hash = String::with_capacity(address_hash.len() * 2);
    for octet in address_hash {
        let _ = write!(hash, "{octet:02x}");
    }
    [format!("mail:{newsletter}:{hash}"), format!("mail:{hash}")]
}

/// Whether one more mail may go to an address today; if so, it is counted.
pub(super) async fn admit_mail(
    tx: &mut Tx,
    rules: &Signup,
    newsletter: NewsletterId,
    address_hash: &[u8],
    now: Timestamp,
) -> db::Result<bool> {
    let [here, everywhere] = mail_scopes(newsletter, address_hash);
    let used = |scope: &String| (scope.clone(), day_of(now));
    for (scope, max) in
        [(&here, rules.per_address_and_newsletter), (&everywhere, rules.per_address)]
    {
        let (scope, day) = used(scope);
        let count: Option<i64> = tx
            .query("SELECT count FROM signup_count WHERE scope = $1 AND day = $2")
            .bind(scope)
            .bind(day)
            .optional_scalar()
            .await?;
        if count.unwrap_or(0) >= i64::from(max) {
            return Ok(false);
        }
    }
    count(tx, here, now).await?;
    count(tx, everywhere, now).await?;
    Ok(true)
}

/// Forgets the mails to an address for one newsletter: its owner has answered one, so they were
/// wanted. The cap over all newsletters stays.
pub(super) async fn forgive(
    tx: &mut Tx,
    newsletter: NewsletterId,
    address_hash: &[u8],
    now: Timestamp,
) -> db::Result<()> {
    let [here, _] = mail_scopes(newsletter, address_hash);
    tx.query("DELETE FROM signup_count WHERE scope = $1 AND day = $2")
        .bind(here)
        .bind(day_of(now))
        .execute()
        .await?;
    Ok(())
}

/// Deletes the counters of past days.
pub(super) async fn forget_past_days(tx: &mut Tx, now: Timestamp) -> db::Result<u64> {
    tx.query("DELETE FROM signup_count WHERE day < $1").bind(day_of(now)).execute().await
}

async fn count(tx: &mut Tx, scope: String, now: Timestamp) -> db::Result<i64> {
    tx.query(
        "INSERT INTO signup_count (scope, day, count) VALUES ($1, $2, 1) \
         ON CONFLICT (scope, day) DO UPDATE SET count = count + 1 RETURNING count",
    )
    .bind(scope)
    .bind(day_of(now))
    .scalar()
    .await
}

/// The domain whose sign-ups are counted: none for the providers that everybody uses.
pub(super) fn counted_domain(
    providers: &crate::provider::Providers,
    address: &Address,
) -> Option<String> {
    let other = providers.of_domain(address.domain()) == crate::provider::ProviderId::OTHER;
    other.then(|| address.domain().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_what_one_line_has() {
        for (ip, network) in [
            ("192.0.2.7", "network:192.0.2.7"),
            ("::ffff:192.0.2.7", "network:192.0.2.7"),
            ("2001:db8:1:2:3::4", "network:2001:db8:1:2::/64"),
            ("2001:db8:1:2:ffff:ffff:ffff:ffff", "network:2001:db8:1:2::/64"),
        ] {
            assert_eq!(network_of(ip.parse().unwrap()), network);
        }
    }
}
