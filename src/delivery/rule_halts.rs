//! Halts that reply rules ask for: counts such replies for each issue, until the conductor, which
//! alone changes an issue's course, takes notice.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::clock::Tempo;
use crate::{id::IssueId, timestamp::Timestamp};

/// How many counts are kept: a few rules for a few issues.
const COUNTS_MAX: usize = 256;

/// The counts.
#[derive(Debug)]
pub struct RuleHalts {
    counts: Mutex<Vec<Count>>,
    /// How the rules' times run.
    tempo: Tempo,
}

/// Replies of one rule to one issue's copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// The issue.
    pub issue: IssueId,
    /// The rule.
    pub rule: &'static str,
    /// How many there were.
    pub hits: u32,
    /// How many halt.
    pub threshold: u32,
    /// The provider of the last one.
    pub provider: i64,
    /// What was said last.
    pub reply: String,
    since: Timestamp,
}

impl RuleHalts {
    /// No count yet.
    pub fn new(tempo: Tempo) -> Self {
        Self { counts: Mutex::default(), tempo }
    }

    /// Counts a reply; `threshold` of them `within` a time halt.
    pub fn note(
        &self,
        (issue, provider): (IssueId, i64),
        rule: &'static str,
        (threshold, within): (u32, Duration),
        reply: &str,
        now: Timestamp,
    ) {
        let now = self.tempo.at(now);
        let mut counts = self.lock();
        let stale = |count: &Count| count.since > now || now.since(count.since) > within;
        counts.retain(|count| count.rule != rule || count.hits >= count.threshold || !stale(count));
        let same = |count: &&mut Count| count.issue == issue && count.rule == rule;
        if let Some(count) = counts.iter_mut().find(same) {
            count.hits += 1;
            count.provider = provider;
            reply.clone_into(&mut count.reply);
        } else if counts.len() < COUNTS_MAX {
            let (reply, since) = (reply.to_owned(), now);
            counts.push(Count { issue, rule, hits: 1, threshold, provider, reply, since });
        }
    }

    /// The count that halts `issue`, if one does. All its counts begin anew.
    pub fn take(&self, issue: IssueId) -> Option<Count> {
        let mut counts = self.lock();
        let halts = |count: &Count| count.issue == issue && count.hits >= count.threshold;
        let found = counts.iter().position(halts)?;
        let found = counts.swap_remove(found);
        counts.retain(|count| count.issue != issue);
        Some(found)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Count>> {
        // Each change leaves the counts whole.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_mins(1);

    #[test]
    fn a_rule_halts_the_issue_it_was_said_to_at_its_threshold_within_its_time() {
        let at = |seconds| Timestamp::from_microseconds(0).plus(Duration::from_secs(seconds));
        let halts = RuleHalts::new(Tempo::REAL);
        let (one, other) = (IssueId(1), IssueId(2));
        let say =
            |issue, seconds| halts.note((issue, 7), "blocked", (2, MINUTE), "550 no", at(seconds));
        say(one, 0);
        say(other, 10);
        assert_eq!(halts.take(one), None);
        say(one, 61);
        assert_eq!(halts.take(one), None, "the first was too long ago");
        say(one, 62);
        let count = halts.take(one).unwrap();
        assert_eq!((count.hits, count.provider, count.reply.as_str()), (2, 7, "550 no"));
        assert_eq!(halts.take(one), None, "after a resume it begins anew");
        say(other, 63);
        assert!(halts.take(other).is_some());
    }
}
