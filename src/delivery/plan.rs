//! Plans: who will get an issue, who will not and why, in which stage, and until when. Computing a
//! plan only reads; [`queue_copies`] writes the same answer into the ledger when the send starts.

mod deal;
mod forecast;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use self::deal::{PLACES, deal};
use crate::{
    config::{Config, Sending},
    db::{self, Db},
    delivery::{dispatch::Names, ledger, limits::LimitName, plan::forecast::Terms},
    fail_point,
    id::{IssueId, NewsletterId},
    provider::{ProviderId, Providers},
    timestamp::Timestamp,
};

/// How many stages there can be between the seed list and the rest.
pub const STAGES_MAX: usize = 6;
/// How many copies one transaction queues: long enough to be fast, short enough that a
/// confirmation mail need not wait for a whole audience.
const CHUNK: i64 = 100_000;
/// How many readers are counted at once.
const COUNT_CHUNK: i64 = 10_000;

/// Who gets an issue, who does not, and when.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Copies that will be made.
    pub recipients: i64,
    /// Active subscribers who will not get one.
    pub excluded: Excluded,
    /// Subscriptions that are not in the audience.
    pub not_subscribed: NotSubscribed,
    /// Recipients by provider, most first.
    pub providers: Vec<ProviderShare>,
    /// The stages, in order.
    pub stages: Vec<Stage>,
    /// Why there is one more stage than usual.
    #[serde(default)]
    pub imported: Option<Imported>,
    /// When the first copy leaves, if the send is asked for now.
    pub starts_at: Timestamp,
    /// When the last one leaves at today's limits; without limits, when the stages are through.
    pub ends_at: Timestamp,
    /// The limit that its copies wait for longest; none when only the stages' soaks take time.
    #[serde(default)]
    pub limited_by: Option<String>,
    /// Copies that today's limits do not let go within the time to live.
    #[serde(default)]
    pub unsent: i64,
}

/// Active subscribers who are left out, by reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Excluded {
    /// Their address bounced.
    pub bounced: i64,
    /// They complained.
    pub complained: i64,
    /// An operator, an import, or they themselves had the address blocked.
    pub suppressed: i64,
    /// They asked for a pause.
    pub paused: i64,
}

/// Subscriptions that are not active.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotSubscribed {
    /// Left.
    pub unsubscribed: i64,
    /// Not confirmed.
    pub pending: i64,
}

/// How many recipients are with one provider.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderShare {
    /// Its name in the provider table.
    pub provider: String,
    /// How many.
    pub recipients: i64,
}

/// A large import since the last issue: nobody knows yet how good those addresses are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Imported {
    /// How many of the readers were imported since the newsletter's last issue was sent.
    pub readers: i64,
    /// Their share of all readers, in percent.
    pub percent: f64,
    /// When that last issue began; none when there was none.
    pub since: Option<Timestamp>,
}

/// One stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Its number; 0 is the seed list.
    pub number: i64,
    /// What it is called.
    pub name: String,
    /// About how many readers it has.
    pub size: i64,
}

/// How many readers of one provider stand where.
#[derive(Debug, Clone, Copy, Default)]
struct Share {
    provider: i64,
    recipients: i64,
    seeds: i64,
    excluded: Excluded,
    not_subscribed: NotSubscribed,
    /// Of the active ones, those imported since the newsletter's last issue.
    imported: i64,
}

/// Groups a chunk of readers by one number that says provider, standing (as [`Share::add`] knows
/// them) and whether they were imported lately: SQLite sorts numbers in half the time that it takes
/// for rows.
const SHARES: &str = "SELECT (p.provider * 8 + CASE WHEN s.state = 2 THEN 6 WHEN s.state = 0 THEN 7 \
       WHEN x.reason = 'bounce' THEN 2 WHEN x.reason = 'complaint' THEN 3 \
       WHEN x.reason IS NOT NULL THEN 4 WHEN s.paused_until > $5 THEN 5 ELSE s.seed END) * 2 \
     + CASE WHEN s.import_id IS NOT NULL AND s.created_at > $4 THEN 1 ELSE 0 END AS kind, \
     COUNT(*) AS readers \
     FROM subscription s JOIN subscriber p ON p.id = s.subscriber_id \
     LEFT JOIN suppression x ON x.address_hash = p.address_hash \
     WHERE s.newsletter_id = $1 AND s.subscriber_id > $2 AND s.subscriber_id <= $3 \
     AND s.state < 3 GROUP BY kind";

impl Share {
    /// Adds what [`SHARES`] found of one kind.
    fn add(&mut self, standing: i64, is_imported: bool, readers: i64) {
        let Self { excluded, not_subscribed, .. } = self;
        let counter = match standing {
            0 | 1 => &mut self.recipients,
            2 => &mut excluded.bounced,
            3 => &mut excluded.complained,
            4 => &mut excluded.suppressed,
            5 => &mut excluded.paused,
            6 => &mut not_subscribed.unsubscribed,
            _ => &mut not_subscribed.pending,
        };
        *counter += readers;
        if standing == 1 {
            self.seeds += readers;
        }
        if is_imported && standing < 6 {
            self.imported += readers;
        }
    }
}

/// Computes the plan for an issue of `newsletter`, as if its send were asked for now.
pub async fn compute(
    db: &Db,
    newsletter: NewsletterId,
    config: &Config,
    providers: &Providers,
    now: Timestamp,
) -> db::Result<Plan> {
    let since: Option<Timestamp> = db
        .query("SELECT MAX(started_at) FROM issue WHERE newsletter_id = $1 AND state = 6")
        .bind(newsletter)
        .scalar()
        .await?;
    let shares = shares(db, newsletter, since.unwrap_or_default(), now).await?;
    let sum = |of: fn(&Share) -> i64| shares.iter().map(of).sum::<i64>();
    let recipients = sum(|share| share.recipients);
    let mut by_provider: Vec<_> = shares
        .iter()
        .filter(|share| share.recipients > 0)
        .map(|share| ProviderShare {
            provider: providers.name(ProviderId(share.provider)).to_owned(),
            recipients: share.recipients,
        })
        .collect();
    by_provider.sort_by_key(|share| std::cmp::Reverse(share.recipients));
    let imported = large_import(sum(|share| share.imported), recipients, since, &config.sending);
    let stages = stages(recipients, sum(|share| share.seeds), &config.sending, imported.is_some());
    let starts_at = now.plus(config.sending.undo_window);
    let per_second: Option<Option<f64>> = db
        .query("SELECT per_second FROM newsletter WHERE id = $1")
        .bind(newsletter)
        .optional_scalar()
        .await?;
    let terms = Terms {
        config,
        providers,
        newsletter: (newsletter, per_second.flatten()),
        stages: dealt(&shares, &stages),
        starts_at,
    };
    let forecast = terms.forecast(&ledger::kept_uses(db).await?.warm_ups);
    Ok(Plan {
        recipients,
        excluded: Excluded {
            bounced: sum(|share| share.excluded.bounced),
            complained: sum(|share| share.excluded.complained),
            suppressed: sum(|share| share.excluded.suppressed),
            paused: sum(|share| share.excluded.paused),
        },
        not_subscribed: NotSubscribed {
            unsubscribed: sum(|share| share.not_subscribed.unsubscribed),
            pending: sum(|share| share.not_subscribed.pending),
        },
        providers: by_provider,
        stages,
        imported,
        starts_at,
        ends_at: forecast.ends_at,
        limited_by: forecast.limited_by.map(|name| limit_in_words(name, config, providers)),
        unsent: forecast.unsent,
    })
}

/// Counts a newsletter's readers, a chunk at a time: sorting holds what it sorts in memory.
async fn shares(
    db: &Db,
    newsletter: NewsletterId,
    since: Timestamp,
    now: Timestamp,
) -> db::Result<Vec<Share>> {
    let mut shares: BTreeMap<i64, Share> = BTreeMap::new();
    let mut after = 0;
    while let Some(last) = last_of_chunk(db, newsletter, after, COUNT_CHUNK).await? {
        let kinds: Vec<(i64, i64)> = db
            .query(SHARES)
            .bind(newsletter)
            .bind(after)
            .bind(last)
            .bind(since)
            .bind(now)
            .all()
            .await?;
        for (kind, readers) in kinds {
            let (standing, is_imported) = (kind.div_euclid(2).rem_euclid(8), kind % 2 != 0);
            let provider = kind.div_euclid(16);
            let share = shares.entry(provider).or_insert(Share { provider, ..Share::default() });
            share.add(standing, is_imported, readers);
        }
        after = last;
    }
    Ok(shares.into_values().collect())
}

/// The last of the next `chunk` readers after one, whatever their state; none when there are no more.
async fn last_of_chunk(
    db: &Db,
    newsletter: NewsletterId,
    after: i64,
    chunk: i64,
) -> db::Result<Option<i64>> {
    db.query(
        "SELECT MAX(subscriber_id) FROM (SELECT subscriber_id FROM subscription \
         WHERE newsletter_id = $1 AND subscriber_id > $2 ORDER BY subscriber_id LIMIT $3)",
    )
    .bind(newsletter)
    .bind(after)
    .bind(chunk)
    .scalar()
    .await
}

fn limit_in_words(name: LimitName, config: &Config, providers: &Providers) -> String {
    let relays: Vec<String> = config.relay.iter().map(|relay| relay.name.clone()).collect();
    Names { relays: &relays, providers }.limit(name)
}

/// How many copies each stage has for each provider: seeds as they are, the others dealt evenly.
fn dealt(shares: &[Share], stages: &[Stage]) -> Vec<BTreeMap<i64, i64>> {
    let audience: i64 = stages.iter().skip(1).map(|stage| stage.size).sum();
    let mut reached = 0;
    let mut dealt = vec![shares.iter().map(|share| (share.provider, share.seeds)).collect()];
    for stage in stages.iter().skip(1) {
        let upto = |copies: i64, reached: i64| copies * reached / audience.max(1);
        let before = reached;
        reached += stage.size;
        let part = |share: &Share| {
            let copies = share.recipients - share.seeds;
            (share.provider, upto(copies, reached) - upto(copies, before))
        };
        dealt.push(shares.iter().map(part).collect());
    }
    dealt
}

/// The import since the newsletter's last issue, if it is large: at least the configured share of the
/// readers, and as many as the smallest stage has.
fn large_import(
    readers: i64,
    recipients: i64,
    since: Option<Timestamp>,
    sending: &Sending,
) -> Option<Imported> {
    let percent = (100.0 * readers as f64 / recipients.max(1) as f64).min(100.0);
    let large = percent >= sending.import_percent
        && sending.import_percent < 100.0
        && readers >= i64::from(sending.stage_size_min);
    large.then_some(Imported { readers, percent, since })
}

/// How much smaller the extra stage after a large import is than the first of the others.
const CAREFUL: u32 = 10;

/// The stages of an audience: the seed list, then the configured shares, then the rest. A stage
/// that would be most of what the next one is says nothing that the next would not: it is left out,
/// so small audiences have fewer. A `careful` send has one more in front, a tenth of the first.
pub fn stages(recipients: i64, seeds: i64, sending: &Sending, careful: bool) -> Vec<Stage> {
    let mut stages = vec![Stage { number: 0, name: "seed list".to_owned(), size: seeds }];
    let audience = recipients - seeds;
    let least = i64::from(sending.stage_size_min);
    let mut wanted: Vec<(f64, i64)> =
        sending.stages_percent.iter().map(|percent| (*percent, least)).collect();
    if careful
        && wanted.len() < STAGES_MAX
        && let Some((percent, least)) = wanted.first().copied()
    {
        let least = (least / i64::from(CAREFUL)).max(1);
        wanted.insert(0, (percent / f64::from(CAREFUL), least));
    }
    let mut reached = 0;
    for (percent, least) in wanted {
        let share = (audience as f64 * percent / 100.0).ceil() as i64;
        let upto = share.max(least);
        if upto < reached * 2 || upto * 2 > audience {
            continue;
        }
        let number = stages.len() as i64;
        stages.push(Stage { number, name: format!("{percent} %"), size: upto - reached });
        reached = upto;
    }
    let number = stages.len() as i64;
    stages.push(Stage { number, name: "rest".to_owned(), size: audience - reached });
    stages
}

/// Writes the audience of `issue` into the ledger, a chunk of readers a transaction. Begins where
/// an earlier call was interrupted.
///
/// Which stage a reader is in is decided by a place dealt to the reader's id by the issue's: evenly,
/// for every provider alike, and another one each time.
pub async fn queue_copies(
    db: &Db,
    issue: IssueId,
    newsletter: NewsletterId,
    plan: &Plan,
    now: Timestamp,
) -> db::Result<()> {
    let audience: i64 = plan.stages.iter().skip(1).map(|stage| stage.size).sum();
    let mut borders = Vec::new();
    let mut reached = 0;
    for stage in plan.stages.iter().skip(1).rev().skip(1).rev() {
        reached += stage.size;
        let place = reached as f64 / audience.max(1) as f64 * PLACES as f64;
        borders.push(place.ceil() as i64);
    }
    let rest = (borders.len() as i64 + 1, borders.last().copied().unwrap_or_default());
    borders.resize(STAGES_MAX - 1, PLACES);
    let (multiplier, offset) = deal(issue);
    let mut after: i64 = db
        .query("SELECT coalesce(MAX(subscriber_id), 0) FROM delivery WHERE issue_id = $1")
        .bind(issue)
        .scalar()
        .await?;
    while let Some(last) = last_of_chunk(db, newsletter, after, CHUNK).await? {
        let mut query = db
            .write(QUEUE)
            .bind(issue)
            .bind(newsletter)
            .bind(after)
            .bind(last)
            .bind(now)
            .bind(multiplier)
            .bind(offset)
            .bind(rest.0)
            .bind(rest.1);
        for border in &borders {
            query = query.bind(*border);
        }
        query.execute().await?;
        fail_point::reach("plan.chunk");
        after = last;
    }
    Ok(())
}

/// The last stage comes first: most readers are in it, and a place is worked out for each comparison.
const QUEUE: &str = "INSERT INTO delivery (issue_id, subscriber_id, state, stage, provider, reason) \
     SELECT $1, s.subscriber_id, \
     CASE WHEN x.reason IS NOT NULL OR s.paused_until > $5 THEN 6 ELSE 0 END, \
     CASE WHEN s.seed = 1 THEN 0 \
       WHEN (s.subscriber_id % 1000003 * $6 + $7) % 1000003 >= $9 THEN $8 \
       WHEN (s.subscriber_id % 1000003 * $6 + $7) % 1000003 < $10 THEN 1 \
       WHEN (s.subscriber_id % 1000003 * $6 + $7) % 1000003 < $11 THEN 2 \
       WHEN (s.subscriber_id % 1000003 * $6 + $7) % 1000003 < $12 THEN 3 \
       WHEN (s.subscriber_id % 1000003 * $6 + $7) % 1000003 < $13 THEN 4 \
       WHEN (s.subscriber_id % 1000003 * $6 + $7) % 1000003 < $14 THEN 5 ELSE 6 END, p.provider, \
     CASE WHEN x.reason IS NOT NULL THEN 'suppressed: ' || x.reason \
       WHEN s.paused_until > $5 THEN 'paused by the reader' END \
     FROM subscription s JOIN subscriber p ON p.id = s.subscriber_id \
     LEFT JOIN suppression x ON x.address_hash = p.address_hash \
     WHERE s.newsletter_id = $2 AND s.subscriber_id > $3 AND s.subscriber_id <= $4 \
     AND s.state = 1 ORDER BY s.subscriber_id";

#[cfg(test)]
mod tests;
