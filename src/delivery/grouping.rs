//! Grouping by MX: whose mail servers a domain has that the provider table does not know. It is looked
//! up before an issue's copies are queued, aside, in bounded time, and remembered; then the domain's
//! readers count with that provider, for limits, breakers, stages and gates alike. Off unless the
//! configuration asks for it: it is a question to DNS for every domain.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::stream::{self, StreamExt as _};
use tokio::sync::Notify;
use tracing::{error, info};

use super::queue::json_array;
use crate::{
    db::{self, Db},
    dns::{MailHosts, Resolver},
    id::{IssueId, NewsletterId},
    provider::{ProviderId, Providers},
    timestamp::Timestamp,
};

/// How long a send waits for it at most. Who was not found by then is nobody's, as before.
const WITHIN: Duration = Duration::from_mins(1);
/// How many domains are asked about at once.
const AT_ONCE: usize = 32;
/// How many domains are asked about for one issue; the others have their turn with the next.
const DOMAINS_MAX: usize = 50_000;
/// How long an answer is remembered, and for how long that there is nothing.
const KNOWN: Duration = Duration::from_hours(7 * 24);
const KNOWN_MISSING: Duration = Duration::from_hours(24);
/// How many readers are looked at in one statement.
const CHUNK: i64 = 10_000;

/// What groups the readers of issues before they are queued.
#[derive(Debug)]
pub struct Grouping {
    db: Db,
    resolver: Resolver,
    providers: Arc<Providers>,
    /// Rung when an issue need not wait any more.
    bell: Arc<Notify>,
    /// Which issues it was done for, and for which it is being done.
    issues: Mutex<HashMap<IssueId, bool>>,
}

impl Grouping {
    /// A grouping that has not looked at anybody yet.
    pub fn new(db: Db, resolver: Resolver, providers: Arc<Providers>, bell: Arc<Notify>) -> Self {
        Self { db, resolver, providers, bell, issues: Mutex::default() }
    }

    /// Whether an issue's readers are grouped, or as good as that; begins it, aside, when nobody has.
    pub fn is_done(self: &Arc<Self>, issue: IssueId, newsletter: NewsletterId) -> bool {
        let mut issues = self.issues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(done) = issues.get(&issue) {
            return *done;
        }
        issues.insert(issue, false);
        let this = Arc::clone(self);
        tokio::spawn(async move {
            match this.group(newsletter, Timestamp::now()).await {
                Ok(moved) => info!(issue = %issue, moved, "readers were grouped by MX"),
                Err(error) => error!(%error, "readers could not be grouped by MX"),
            }
            let mut issues = this.issues.lock().unwrap_or_else(PoisonError::into_inner);
            issues.insert(issue, true);
            drop(issues);
            this.bell.notify_one();
        });
        false
    }

    /// Groups the readers of a newsletter; returns how many have another provider now.
    pub async fn group(&self, newsletter: NewsletterId, now: Timestamp) -> db::Result<u64> {
        let mut known = self.known(now).await?;
        let unknown = self.unknown(newsletter, &known).await?;
        // Cut short, it uses what it learned so far with the next issue: answers are kept at once.
        let mut answers =
            stream::iter(unknown).map(|domain| self.ask(domain)).buffer_unordered(AT_ONCE);
        let end = tokio::time::Instant::now() + WITHIN;
        while let Ok(Some((domain, answer))) = tokio::time::timeout_at(end, answers.next()).await {
            let Some((provider, holds)) = answer else { continue };
            self.remember(&domain, provider, now.plus(holds)).await?;
            known.insert(domain, provider);
        }
        drop(answers);
        self.regroup(newsletter, &known).await
    }

    async fn known(&self, now: Timestamp) -> db::Result<HashMap<String, i64>> {
        self.db
            .write("DELETE FROM domain_provider WHERE expires_at <= $1")
            .bind(now)
            .execute()
            .await?;
        let rows: Vec<(String, i64)> =
            self.db.query("SELECT domain, provider FROM domain_provider").all().await?;
        Ok(rows.into_iter().collect())
    }

    /// Domains of readers that neither the table nor DNS has been asked about.
    async fn unknown(
        &self,
        newsletter: NewsletterId,
        known: &HashMap<String, i64>,
    ) -> db::Result<Vec<String>> {
        let mut unknown: HashSet<String> = HashSet::new();
        let mut after = 0;
        loop {
            let readers = self.readers(newsletter, after).await?;
            let Some((last, ..)) = readers.last() else { break };
            after = *last;
            for (_, address, _) in &readers {
                let Some(domain) = self.free_domain(address) else { continue };
                if unknown.len() < DOMAINS_MAX && !known.contains_key(domain) {
                    unknown.insert(domain.to_owned());
                }
            }
        }
        Ok(unknown.into_iter().collect())
    }

    /// A chunk of a newsletter's readers: id, address, provider.
    async fn readers(
        &self,
        newsletter: NewsletterId,
        after: i64,
    ) -> db::Result<Vec<(i64, String, i64)>> {
        self.db
            .query(
                "SELECT p.id, p.address, p.provider FROM subscription s \
                 JOIN subscriber p ON p.id = s.subscriber_id \
                 WHERE s.newsletter_id = $1 AND s.state = 1 AND s.subscriber_id > $2 \
                 AND p.address IS NOT NULL ORDER BY s.subscriber_id LIMIT $3",
            )
            .bind(newsletter)
            .bind(after)
            .bind(CHUNK)
            .all()
            .await
    }

    /// The domain of an address, if the provider table does not have it.
    fn free_domain<'a>(&self, address: &'a str) -> Option<&'a str> {
        let (_, domain) = address.rsplit_once('@')?;
        (self.providers.of_domain(domain) == ProviderId::OTHER).then_some(domain)
    }

    /// Whose mail servers a domain has, and how long that holds; nothing when nobody knows now.
    async fn ask(&self, domain: String) -> (String, Option<(i64, Duration)>) {
        let answer = match self.resolver.mail_hosts(&domain).await {
            Ok(found) => {
                let first = match &found.records {
                    MailHosts::Explicit(hosts) => hosts.first(),
                    MailHosts::Implicit(_) | MailHosts::None => None,
                };
                let provider =
                    first.map_or(ProviderId::OTHER, |host| self.providers.of_mx(&host.host));
                Some((provider.0, KNOWN))
            }
            Err(error) if error.is_negative() => Some((ProviderId::OTHER.0, KNOWN_MISSING)),
            Err(_) => None,
        };
        (domain, answer)
    }

    async fn remember(&self, domain: &str, provider: i64, until: Timestamp) -> db::Result<()> {
        self.db
            .write(
                "INSERT INTO domain_provider (domain, provider, expires_at) VALUES ($1, $2, $3) \
                 ON CONFLICT (domain) DO UPDATE SET \
                 provider = excluded.provider, expires_at = excluded.expires_at",
            )
            .bind(domain.to_owned())
            .bind(provider)
            .bind(until)
            .execute()
            .await?;
        Ok(())
    }

    /// Gives readers the providers of their domains.
    async fn regroup(
        &self,
        newsletter: NewsletterId,
        known: &HashMap<String, i64>,
    ) -> db::Result<u64> {
        let (mut after, mut moved) = (0, 0);
        loop {
            let readers = self.readers(newsletter, after).await?;
            let Some((last, ..)) = readers.last() else { break };
            after = *last;
            let mut moves: BTreeMap<(i64, i64), Vec<i64>> = BTreeMap::new();
            for (id, address, from) in &readers {
                let to = self.free_domain(address).and_then(|domain| known.get(domain));
                if let Some(to) = to.filter(|to| *to != from) {
                    moves.entry((*from, *to)).or_default().push(*id);
                }
            }
            for ((from, to), ids) in moves {
                moved += self
                    .db
                    .write(
                        "UPDATE subscriber SET provider = $2 \
                         WHERE id IN (SELECT value FROM json_each($1)) AND provider = $3",
                    )
                    .bind(json_array(ids))
                    .bind(to)
                    .bind(from)
                    .execute()
                    .await?;
            }
        }
        Ok(moved)
    }
}
