//! Providers that stay behind the others ([`front`]): who they are, whether their silence is because of
//! our mail, and how they come after.

use std::collections::BTreeSet;

use super::{Conductor, InMotion, Memory};
use crate::{
    db::{self, Db, Tx, state::EventKind},
    delivery::{
        front,
        gates::{Finding, Gate},
        shedding::Level,
        tally::Tally,
    },
    event::{self, Event},
    id::IssueId,
    provider::ProviderId,
    timestamp::Timestamp,
};

/// Put-off copies whose providers said that it is because of our mail.
const PUT_OFF: &str = "SELECT COUNT(DISTINCT d.subscriber_id) \
     FROM event e INDEXED BY event_by_issue \
     CROSS JOIN delivery d ON d.issue_id = e.issue_id AND d.subscriber_id = e.subscriber_id \
     WHERE e.issue_id = $1 AND e.kind = 3 AND e.kind <> 2 AND d.state IN (0, 1, 2) \
     AND d.stage = $2 AND d.provider = $3 AND (e.class LIKE 'reputation%' \
       OR e.class LIKE 'policy%' OR e.class LIKE 'content%' OR e.class LIKE 'authentication%')";

/// What a provider said most often when it put copies off.
const PUT_OFF_REPLIES: &str = "SELECT coalesce(code || ' ', '') || substr(coalesce(text, ''), 1, 200) AS reply, \
     COUNT(*) AS times FROM event INDEXED BY event_by_issue \
     WHERE issue_id = $1 AND kind = 3 AND kind <> 2 AND provider = $2 \
     GROUP BY reply ORDER BY times DESC LIMIT 3";

impl Conductor {
    /// Who stays behind when the next stage is released; none while the last one is not decided.
    pub(super) fn behind(
        &self,
        issue: &InMotion,
        memory: &mut Memory,
        tally: &Tally,
    ) -> Option<Vec<i64>> {
        let mut cells = tally.providers_of_stage(issue.stage);
        let held = issue.held_providers();
        cells.retain(|provider, _| !held.contains_key(provider));
        // Once every copy was tried it stays so, also while one is tried again.
        let put_off = cells.iter().filter(|(_, cell)| front::is_put_off(cell));
        let put_off: BTreeSet<i64> = put_off.map(|(provider, _)| *provider).collect();
        if memory.put_off.0 != issue.stage {
            memory.put_off = (issue.stage, BTreeSet::new());
        }
        memory.put_off.1.extend(put_off);
        let put_off = &memory.put_off.1;
        front::behind(&cells, |id| put_off.contains(&id) || self.dispatch.is_held_up(id))
    }

    /// Halts a send of which a provider that would stay behind puts copies off for what they are: that
    /// is no trouble of the provider's, and the others may come to think the same.
    pub(super) async fn halt_if_blamed(
        &self,
        issue: &InMotion,
        behind: &[i64],
        tally: &Tally,
        now: Timestamp,
    ) -> db::Result<bool> {
        let known: Vec<Finding> = serde_json::from_str(&issue.acknowledged).unwrap_or_default();
        for provider in behind {
            let query = self.db.query(PUT_OFF).bind(issue.id).bind(issue.stage);
            let hits: i64 = query.bind(*provider).scalar().await?;
            let limit = f64::from(self.config.gates.policy_hits);
            let said = "they were put off, not refused for good".to_owned();
            let finding = Finding {
                gate: Gate::Policy,
                provider: Some(*provider),
                stage: issue.stage,
                hits,
                sample: tally.cell(issue.stage, *provider).total(),
                limit,
                replies: Vec::new(),
                said: Some(said),
            };
            if hits as f64 >= limit && !finding.is_known(&known) {
                let replies = put_off_replies(&self.db, issue.id, *provider).await?;
                self.halt(issue, Finding { replies, ..finding }, now).await?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Releases the next stage to providers that stayed behind and have decided the one they are at;
    /// whether that halted the send.
    pub(super) async fn catch_up(
        &self,
        issue: &InMotion,
        memory: &mut Memory,
        tally: &Tally,
        now: Timestamp,
    ) -> db::Result<bool> {
        for (provider, stage) in issue.held_providers() {
            let cell = tally.cell(stage, provider);
            if !front::is_decided(&cell) {
                memory.soaking.remove(&Some(provider));
                continue;
            }
            if self.shedding.level() >= Level::Stages
                || !self.has_soaked(memory, Some(provider), stage, &cell)
            {
                continue;
            }
            let tally = self.audit(issue, None).await?;
            if self.judge(issue, memory, &tally, true, now).await? {
                return Ok(true);
            }
            self.release_provider(issue.id, provider, stage, now).await?;
        }
        Ok(false)
    }

    async fn release_provider(
        &self,
        issue: IssueId,
        provider: i64,
        stage: i64,
        now: Timestamp,
    ) -> db::Result<()> {
        let mut tx = self.db.begin().await?;
        let changed = tx
            .query(
                "UPDATE held_provider SET stage = $3 + 1, since = $4 \
                 WHERE issue_id = $1 AND provider = $2 AND stage = $3 \
                 AND EXISTS (SELECT 1 FROM issue WHERE id = $1 AND state = 2)",
            )
            .bind(issue)
            .bind(provider)
            .bind(stage)
            .bind(now)
            .execute()
            .await?;
        if changed == 1 {
            tx.query(
                "DELETE FROM held_provider WHERE issue_id = $1 AND provider = $2 \
                 AND stage >= (SELECT stage FROM issue WHERE id = $1)",
            )
            .bind(issue)
            .bind(provider)
            .execute()
            .await?;
            let name = self.providers.name(ProviderId(provider));
            let text = format!("stage {} to {name}, which had stayed behind", stage + 1);
            event::record(&mut tx, &[released(issue, provider, text, now)]).await?;
        }
        tx.commit().await
    }

    /// Lets a provider stay at the stage that the others leave.
    pub(super) async fn hold_provider(
        &self,
        tx: &mut Tx,
        issue: &InMotion,
        provider: i64,
        now: Timestamp,
    ) -> db::Result<Event> {
        tx.query(
            "INSERT INTO held_provider (issue_id, provider, stage, since) VALUES ($1, $2, $3, $4) \
             ON CONFLICT DO NOTHING",
        )
        .bind(issue.id)
        .bind(provider)
        .bind(issue.stage)
        .bind(now)
        .execute()
        .await?;
        let name = self.providers.name(ProviderId(provider));
        let stage = issue.stage;
        let text = format!("{name} stays behind at stage {stage}, which is not decided there");
        Ok(released(issue.id, provider, text, now))
    }
}

fn released(issue: IssueId, provider: i64, text: String, now: Timestamp) -> Event {
    let mut event =
        Event::new(EventKind::StageReleased, now).about(Some(issue), None).because(text);
    event.provider = Some(provider);
    event
}

async fn put_off_replies(db: &Db, issue: IssueId, provider: i64) -> db::Result<Vec<String>> {
    let query = db.query(PUT_OFF_REPLIES).bind(issue).bind(provider);
    let rows: Vec<(String, i64)> = query.all().await?;
    Ok(rows.into_iter().map(|(reply, times)| format!("{reply} ({times} times)")).collect())
}
