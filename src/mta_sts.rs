//! MTA-STS (RFC 8461): what a domain demands of those who bring it mail. It publishes a policy over
//! HTTPS, and its id in DNS; while a policy is in force that says `enforce`, mail goes only to hosts that
//! the policy names, encrypted, and with a good certificate.
//!
//! A policy is kept in the database for as long as it says. That is what it protects by: whoever can
//! forge DNS for an hour cannot make us forget it, and a restart does not either. Fetching takes
//! bounded time and memory, follows no redirect, and its failure never makes anything weaker than what
//! is kept.

mod fetch;
mod policy;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use tokio_rustls::rustls::ClientConfig;
use tracing::{info, warn};

pub use self::policy::{Mode, Policy, PolicyError};
use crate::{
    db::{self, Db, record::record},
    dns::Resolver,
    timestamp::Timestamp,
};

/// How soon a policy is asked for again that could not be had (RFC 8461, section 3.3, asks for some
/// such pause).
const FAILURE_PAUSE: Duration = Duration::from_mins(5);
/// How many such domains are remembered.
const FAILURES_MAX: usize = 10_000;

/// The policies of domains.
pub struct Policies {
    /// How policies' own servers prove themselves.
    tls: Arc<ClientConfig>,
    /// Whether servers of private networks are asked.
    private_addresses: bool,
    /// Where they are kept; without it nothing is remembered.
    db: OnceLock<Db>,
    failed: Mutex<HashMap<String, Instant>>,
}

record! {
    /// A policy as it is kept.
    struct Kept {
        policy_id: String,
        policy: String,
        fetched_at: Timestamp,
        expires_at: Timestamp,
    }
}

impl Policies {
    /// Policies whose servers are checked by `tls`.
    pub fn new(tls: Arc<ClientConfig>, private_addresses: bool) -> Self {
        Self { tls, private_addresses, db: OnceLock::new(), failed: Mutex::default() }
    }

    /// Keeps policies from now on.
    pub fn keep_in(&self, db: &Db) {
        let _ = self.db.set(db.clone());
    }

    /// The policy that is in force for mail to `domain` now, if it has one.
    pub async fn of(&self, domain: &str, resolver: &Resolver, now: Timestamp) -> Option<Policy> {
        // Without an answer what is kept counts (section 5.1).
        let texts = resolver.texts(&format!("_mta-sts.{domain}")).await.unwrap_or_default();
        let id = policy::id_of(&texts);
        let kept = match self.kept(domain, now).await {
            Ok(kept) => kept,
            Err(error) => {
                warn!(domain, %error, "the kept MTA-STS policies cannot be read");
                None
            }
        };
        let Some(id) = id else { return kept.and_then(|kept| Policy::parse(&kept.policy).ok()) };
        let is_current = kept.as_ref().is_some_and(|kept| {
            let half = kept.expires_at.since(kept.fetched_at) / 2;
            kept.policy_id == id && now < kept.fetched_at.plus(half)
        });
        if !is_current && let Some(fresh) = self.fetch(domain, &id, resolver, now).await {
            return Some(fresh);
        }
        kept.and_then(|kept| Policy::parse(&kept.policy).ok())
    }

    async fn fetch(
        &self,
        domain: &str,
        id: &str,
        resolver: &Resolver,
        now: Timestamp,
    ) -> Option<Policy> {
        if self.failed_lately(domain) {
            return None;
        }
        let fetched = fetch::policy(domain, resolver, &self.tls, self.private_addresses).await;
        let parsed = fetched.and_then(|text| {
            let policy = Policy::parse(&text).map_err(|error| error.to_string())?;
            Ok((policy, text))
        });
        match parsed {
            Ok((policy, text)) => {
                info!(domain, mode = policy.mode.as_str(), id, "an MTA-STS policy is in force");
                if let Err(error) = self.keep(domain, id, &text, &policy, now).await {
                    warn!(domain, %error, "an MTA-STS policy cannot be kept");
                }
                Some(policy)
            }
            Err(problem) => {
                warn!(domain, problem, "the MTA-STS policy of a domain cannot be had");
                self.note_failure(domain);
                None
            }
        }
    }

    async fn kept(&self, domain: &str, now: Timestamp) -> db::Result<Option<Kept>> {
        let Some(db) = self.db.get() else { return Ok(None) };
        db.query(
            "SELECT policy_id, policy, fetched_at, expires_at FROM mta_sts_policy \
             WHERE domain = $1 AND expires_at > $2",
        )
        .bind(domain.to_owned())
        .bind(now)
        .optional()
        .await
    }

    async fn keep(
        &self,
        domain: &str,
        id: &str,
        text: &str,
        policy: &Policy,
        now: Timestamp,
    ) -> db::Result<()> {
        let Some(db) = self.db.get() else { return Ok(()) };
        db.write(
            "INSERT INTO mta_sts_policy (domain, policy_id, policy, fetched_at, expires_at) \
             VALUES ($1, $2, $3, $4, $5) ON CONFLICT (domain) DO UPDATE SET \
             policy_id = excluded.policy_id, policy = excluded.policy, \
             fetched_at = excluded.fetched_at, expires_at = excluded.expires_at",
        )
        .bind(domain.to_owned())
        .bind(id.to_owned())
        .bind(text.to_owned())
        .bind(now)
        .bind(now.plus(policy.max_age))
        .execute()
        .await?;
        Ok(())
    }

    fn failed_lately(&self, domain: &str) -> bool {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        failed.get(domain).is_some_and(|at| at.elapsed() < FAILURE_PAUSE)
    }

    fn note_failure(&self, domain: &str) {
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.len() >= FAILURES_MAX {
            failed.clear();
        }
        failed.insert(domain.to_owned(), Instant::now());
    }
}
