//! Posts the delivery log's events to webhooks of others: in batches, in the order of the log, at least
//! once each, signed in the way of Standard Webhooks 1.0.0 (<https://www.standardwebhooks.com>).
//!
//! Owns the table `webhook`: how far each has come. It only reads the log, by ranges of ids and at a
//! bounded pace, so a webhook that is slow or away holds up nothing but itself; the log keeps every
//! event, so one that comes back after a week gets that week. What a batch consists of is written down
//! before it is posted: after a crash the same batch goes again, with the same `webhook-id`.

mod batch;
mod post;
mod sign;
mod state;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::{batch::Batch, post::Poster, state::Cursor};
pub use self::{
    sign::Signer,
    state::{HookState, begin_anew, list, newest_event},
};
use crate::{
    config::EventHook,
    db::{self, Db},
    provider::Providers,
    telemetry::HookSeries,
    timestamp::Timestamp,
};

/// How soon it is looked for new events after there were none.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The least time from one batch to the next: some thousand events a second, and a few small writes.
const PACE: Duration = Duration::from_millis(250);
/// Waits between tries: the first, the longest, and the one while a webhook counts as failing.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_mins(5);
const RETRY_FAILING: Duration = Duration::from_mins(15);
/// The longest wait that a webhook can ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);
/// How soon the database is asked again after it failed.
const DATABASE_AGAIN: Duration = Duration::from_secs(5);

/// What all webhooks work with.
#[derive(Clone)]
pub struct Parts {
    /// Where the log is.
    pub db: Db,
    /// Names for providers.
    pub providers: Arc<Providers>,
}

/// One webhook, ready to post.
pub struct Hook {
    settings: Arc<EventHook>,
    parts: Parts,
    signer: Signer,
    poster: Poster,
    series: HookSeries,
}

/// How the tries of a batch went so far.
#[derive(Debug, Default)]
struct Trouble {
    since: Option<Timestamp>,
    tries: u32,
    /// Whether it was said that this goes on for too long.
    told: bool,
}

impl Hook {
    /// Prepares a webhook; `series` counts what it does. The error is a sentence.
    pub async fn new(
        settings: &EventHook,
        parts: &Parts,
        series: HookSeries,
    ) -> Result<Self, String> {
        let signer = Signer::new(&settings.secret.reveal()?)?;
        let poster = Poster::new(settings).await?;
        Ok(Self {
            settings: Arc::new(settings.clone()),
            parts: parts.clone(),
            signer,
            poster,
            series,
        })
    }

    /// Posts until `stop`. A request under way is broken off and made again at the next start.
    pub async fn run(self, stop: CancellationToken) {
        let posting = async {
            loop {
                if let Err(problem) = self.post_on().await {
                    error!(
                        webhook = %self.settings.name,
                        error = %problem,
                        "a webhook's events cannot be read, or its cursor not written"
                    );
                }
                sleep(DATABASE_AGAIN).await;
            }
        };
        let _ = stop.run_until_cancelled(posting).await;
    }

    /// Posts batch after batch; ends only when the database fails.
    async fn post_on(&self) -> db::Result<()> {
        let Parts { db, providers } = &self.parts;
        let hook = &self.settings;
        let mut cursor = Cursor::load(db, &hook.name).await?;
        loop {
            let begun = Instant::now();
            let batch = Batch::read(db, providers, hook, cursor.sent_to, cursor.batch_to).await?;
            self.series.waiting.set(batch.newest - cursor.sent_to);
            if batch.events == 0 {
                // Nothing of it is wanted; that it was passed over need not be remembered.
                cursor.sent_to = batch.up_to.max(cursor.sent_to);
                cursor.batch_to = None;
                if !batch.more {
                    sleep(LOOK_EVERY).await;
                }
                continue;
            }
            cursor.promise(db, batch.up_to).await?;
            self.deliver(db, &mut cursor, &batch).await?;
            self.series.waiting.set(batch.newest - cursor.sent_to);
            sleep_until(begun + PACE).await;
        }
    }

    /// Posts a batch, again and again until it was taken.
    async fn deliver(&self, db: &Db, cursor: &mut Cursor, batch: &Batch) -> db::Result<()> {
        let mut trouble = Trouble { since: cursor.failing_since, ..Trouble::default() };
        let id = cursor.message_id(batch.up_to);
        loop {
            // The moment of the try: a receiver turns away what is too old.
            let now = Timestamp::now();
            let head = self.signer.head(&id, now, &batch.body);
            let refused = match self.poster.post(head, batch.body.clone()).await {
                Ok(()) => {
                    self.series.delivered.inc();
                    self.series.events.inc_by(batch.events);
                    self.series.up.set(1);
                    if trouble.told {
                        info!(webhook = %self.settings.name, "a webhook takes events again");
                    }
                    return cursor.delivered(db, batch, Timestamp::now()).await;
                }
                Err(refused) => refused,
            };
            self.series.failed.inc();
            self.series.up.set(0);
            cursor.failed(db, &refused.what, now).await?;
            let pause = trouble.next(now, self.settings.failing_after, refused.retry_after);
            self.say(&trouble, &refused.what, pause);
            sleep(pause).await;
        }
    }

    fn say(&self, trouble: &Trouble, what: &str, pause: Duration) {
        let (webhook, pause_s) = (self.settings.name.as_str(), pause.as_secs());
        if trouble.told {
            error!(webhook, error = what, pause_s, "a webhook is failing; its events wait for it");
        } else {
            warn!(webhook, error = what, pause_s, "a webhook did not take events; they go again");
        }
    }
}

impl Trouble {
    /// Notes a failed try; how long to wait before the next one.
    fn next(&mut self, now: Timestamp, bound: Duration, asked: Option<Duration>) -> Duration {
        let since = *self.since.get_or_insert(now);
        self.told = now.since(since) >= bound;
        let doubled = RETRY_FIRST.saturating_mul(1 << self.tries.min(16)).min(RETRY_MAX);
        self.tries += 1;
        let wait = if self.told { RETRY_FAILING } else { doubled };
        let wait = wait.mul_f64(rand::random_range(0.8..=1.2));
        wait.max(asked.unwrap_or_default().min(RETRY_AFTER_MAX))
    }
}
