//! Where one issue stands: what operators look at while it is being sent, and afterwards.

mod course;

use std::collections::BTreeMap;

use serde::Serialize;

use self::course::Course;
use super::{Equation, Pace, ReplyGroup, Scope, newsletter_of, pace, replies};
use crate::{
    config::Config,
    db::{self, Db, record::record, state::IssueState},
    delivery::{
        control::Edition,
        dispatch::NOTHING,
        gates::{Finding, Gate},
        queue, restored, status as engine,
        tally::Tally,
    },
    id::{IssueId, SubscriberId},
    provider::{ProviderId, Providers},
    timestamp::Timestamp,
};

/// How many uncertain copies are listed.
const UNCERTAIN_MAX: i64 = 50;

/// Where one issue stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IssueStatus {
    /// The newsletter's slug.
    pub newsletter: String,
    /// The newsletter's name.
    pub newsletter_name: String,
    /// The issue's number.
    pub number: i64,
    /// Its subject.
    pub subject: String,
    /// How far it has come.
    pub state: IssueState,
    /// When its first copy may leave.
    pub sends_at: Option<Timestamp>,
    /// When its send began.
    pub started_at: Option<Timestamp>,
    /// When nothing remained.
    pub finished_at: Option<Timestamp>,
    /// When its copies are given up.
    pub expires_at: Option<Timestamp>,
    /// How many copies there are: what the equation has to come to.
    pub audience: i64,
    /// How many copies are in each state.
    pub equation: Equation,
    /// Whether the equation holds: every copy is in exactly one state.
    pub holds: bool,
    /// The same by provider, largest first.
    pub providers: Vec<ProviderStatus>,
    /// The same by stage.
    pub stages: Vec<StageStatus>,
    /// How fast it goes.
    pub pace: Pace,
    /// What limits the rate now, in words.
    pub limited_by: String,
    /// When it is likely to be done.
    pub eta: Option<Timestamp>,
    /// What happens next, in words.
    pub next: String,
    /// Who asked for it and who approved.
    pub approval: Approval,
    /// Why it is halted.
    pub halt: Option<HaltStatus>,
    /// What gates warned of.
    pub warnings: Vec<HaltStatus>,
    /// The commonest replies to copies that were not taken.
    pub replies: Vec<ReplyGroup>,
    /// Copies whose fate is not known, for an operator to settle; the first 50.
    pub uncertain: Vec<Uncertain>,
}

/// One provider's part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProviderStatus {
    /// Its name in the provider table.
    pub provider: String,
    /// Its name for people.
    pub title: String,
    /// The stage it stays at while the others have gone on.
    pub stays_at: Option<i64>,
    /// Its copies.
    pub equation: Equation,
}

/// One stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StageStatus {
    /// Its number; 0 is the seed list.
    pub number: i64,
    /// What it is called.
    pub name: String,
    /// How many copies it has.
    pub size: i64,
    /// Whether its copies may go.
    pub released: bool,
    /// Its copies.
    pub equation: Equation,
}

/// Who is behind a send.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Approval {
    /// Who asked for it.
    pub asked_by: Option<String>,
    /// Who approved of it.
    pub approved_by: Option<String>,
    /// Whether it waits for an approval.
    pub waits: bool,
}

/// Why an issue is halted, or what gates warned of.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HaltStatus {
    /// The gate.
    pub gate: Gate,
    /// What the gate watches, in words.
    pub what: &'static str,
    /// The provider whose copies tripped it; none when the issue as a whole did.
    pub provider: Option<String>,
    /// The stage it happened in.
    pub stage: i64,
    /// How many copies spoke against going on.
    pub hits: i64,
    /// Out of how many decided ones.
    pub sample: i64,
    /// The hits in percent of the sample.
    pub percent: f64,
    /// The limit: percent, or a number of hits.
    pub limit: f64,
    /// The commonest replies.
    pub replies: Vec<String>,
    /// What a person said, or what figures cannot say.
    pub said: Option<String>,
}

record! {
    /// A copy whose fate is not known.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize)]
    pub struct Uncertain {
        /// The reader.
        pub subscriber_id: SubscriberId,
        /// The reader's address; none after an erasure.
        pub address: Option<String>,
        /// When it became so.
        pub at: Timestamp,
        /// The relay it was tried at.
        pub relay: Option<String>,
        /// What is known.
        pub text: Option<String>,
    }
}

record! {
    struct StageRow {
        stage: i64,
        name: String,
        size: i64,
    }
}

pub(super) const UNCERTAIN: &str = "SELECT e.subscriber_id, s.address, e.at, e.relay, e.text \
     FROM event e INDEXED BY event_by_issue \
     CROSS JOIN delivery d ON d.issue_id = e.issue_id AND d.subscriber_id = e.subscriber_id \
     LEFT JOIN subscriber s ON s.id = e.subscriber_id \
     WHERE e.issue_id = $1 AND e.kind = 5 AND e.kind <> 2 AND d.state = 5 \
     ORDER BY e.id LIMIT $2";
pub(super) const HELD: &str = "SELECT provider, stage FROM held_provider WHERE issue_id = $1";
pub(super) const LAST_DUE: &str = "SELECT MAX(due_at) FROM delivery INDEXED BY delivery_due \
     WHERE issue_id = $1 AND state = 0 AND due_at IS NOT NULL";

/// Where `edition` stands at `scope.now`.
pub async fn issue_status(
    db: &Db,
    edition: &Edition,
    scope: &Scope<'_>,
) -> db::Result<IssueStatus> {
    let newsletter = newsletter_of(db, edition).await?;
    let tally = match &scope.tally {
        Some(tally) => tally.clone(),
        None => Tally::from_counts(&queue::count(db, edition.id).await?),
    };
    let stages: Vec<StageRow> = db
        .query("SELECT stage, name, size FROM issue_stage WHERE issue_id = $1 ORDER BY stage")
        .bind(edition.id)
        .all()
        .await?;
    let audience = stages.iter().map(|stage| stage.size).sum();
    let held: Vec<(i64, i64)> = db.query(HELD).bind(edition.id).all().await?;
    let held = held.into_iter().collect();
    let released = Released { stage: edition.stage, held };
    let (stages, providers) = by_stage_and_provider(&tally, &stages, &released, scope.providers);
    let mut equation = Equation::default();
    for stage in &stages {
        equation += stage.equation;
    }
    let pace = pace::pace(db, edition, scope.now).await?;
    let last_due: Option<Timestamp> = db.query(LAST_DUE).bind(edition.id).scalar().await?;
    let stands = matches!(edition.state, IssueState::Paused | IssueState::Halted);
    let held = if stands { restored::why_held(db, edition.id).await? } else { None };
    let course = Course {
        held,
        edition,
        stages: &stages,
        providers: &providers,
        equation,
        last_due,
        config: scope.config,
    };
    let halt: Option<Finding> =
        edition.halt.as_deref().and_then(|json| serde_json::from_str(json).ok());
    let warnings: Vec<Finding> = serde_json::from_str(&edition.warnings).unwrap_or_default();
    let approval = Approval {
        asked_by: edition.asked_by.clone(),
        approved_by: edition.approved_by.clone(),
        waits: waits_for_approval(edition, scope.config),
    };
    Ok(IssueStatus {
        newsletter: newsletter.slug,
        newsletter_name: newsletter.name,
        number: edition.number,
        subject: edition.subject.clone(),
        state: edition.state,
        sends_at: edition.sends_at,
        started_at: edition.started_at,
        finished_at: edition.finished_at,
        expires_at: edition.expires_at,
        audience,
        equation,
        holds: equation.total() == audience,
        limited_by: limited_by(db, edition).await?,
        eta: course.eta(&pace, scope.now),
        next: course.next(),
        approval,
        halt: halt.map(|halt| HaltStatus::new(halt, scope.providers)),
        warnings: warnings
            .into_iter()
            .map(|warning| HaltStatus::new(warning, scope.providers))
            .collect(),
        replies: replies::commonest(db, edition.id).await?,
        uncertain: uncertain(db, edition.id).await?,
        providers,
        stages,
        pace,
    })
}

/// What is released to whom.
struct Released {
    stage: i64,
    /// Providers that stay behind, with their stages.
    held: BTreeMap<i64, i64>,
}

impl Released {
    fn holds(&self, stage: i64, provider: i64) -> bool {
        stage <= self.held.get(&provider).copied().unwrap_or(self.stage)
    }
}

fn by_stage_and_provider(
    tally: &Tally,
    rows: &[StageRow],
    to_whom: &Released,
    table: &Providers,
) -> (Vec<StageStatus>, Vec<ProviderStatus>) {
    let mut providers: BTreeMap<i64, Equation> = BTreeMap::new();
    let mut stages = Vec::with_capacity(rows.len());
    for row in rows {
        let released = row.stage <= to_whom.stage;
        let mut equation = Equation::default();
        for (provider, cell) in tally.providers_of_stage(row.stage) {
            let part = Equation::of(&cell, to_whom.holds(row.stage, provider));
            *providers.entry(provider).or_default() += part;
            equation += part;
        }
        let (number, name, size) = (row.stage, row.name.clone(), row.size);
        stages.push(StageStatus { number, name, size, released, equation });
    }
    let mut providers: Vec<_> = providers
        .into_iter()
        .map(|(id, equation)| {
            let entry = table.get(ProviderId(id));
            ProviderStatus {
                provider: entry.map_or("other", |entry| &entry.name).to_owned(),
                title: entry.map_or("Other", |entry| &entry.title).to_owned(),
                stays_at: to_whom.held.get(&id).copied(),
                equation,
            }
        })
        .collect();
    providers.sort_by_key(|provider| std::cmp::Reverse(provider.equation.total()));
    (stages, providers)
}

fn waits_for_approval(edition: &Edition, config: &Config) -> bool {
    config.sending.approval
        && edition.state == IssueState::Scheduled
        && edition.approved_by.is_none()
}

impl HaltStatus {
    fn new(halt: Finding, providers: &Providers) -> Self {
        let provider = halt.provider.map(|id| providers.name(ProviderId(id)).to_owned());
        Self {
            gate: halt.gate,
            what: halt.gate.describe(),
            provider,
            stage: halt.stage,
            hits: halt.hits,
            sample: halt.sample,
            percent: if halt.sample > 0 {
                100.0 * halt.hits as f64 / halt.sample as f64
            } else {
                0.0
            },
            limit: halt.limit,
            replies: halt.replies,
            said: halt.said,
        }
    }
}

/// How an issue went, in words: `480 accepted, 3 uncertain`.
pub fn outcome(equation: &Equation) -> String {
    let words: Vec<String> = equation
        .entries()
        .iter()
        .filter(|(word, copies)| *copies > 0 || *word == "accepted")
        .map(|(word, copies)| format!("{copies} {word}"))
        .collect();
    words.join(", ")
}

async fn limited_by(db: &Db, edition: &Edition) -> db::Result<String> {
    if edition.state != IssueState::Sending {
        return Ok(format!("nothing is being sent: the issue is {}", edition.state));
    }
    let Some(state) = engine::read(db).await? else {
        return Ok("no daemon runs; start one with `postrider serve`".to_owned());
    };
    if let Some(words) = state.shedding {
        return Ok(words);
    }
    let own = state.issues.into_iter().find(|limit| limit.issue == edition.id);
    // Without copies in memory, the issue has nothing that could go now.
    Ok(own.map_or_else(|| NOTHING.to_owned(), |own| own.limited_by))
}

async fn uncertain(db: &Db, issue: IssueId) -> db::Result<Vec<Uncertain>> {
    let mut copies: Vec<Uncertain> =
        db.query(UNCERTAIN).bind(issue).bind(UNCERTAIN_MAX).all().await?;
    // A copy that was sent again and became uncertain again is one copy.
    copies.reverse();
    let mut seen = std::collections::HashSet::new();
    copies.retain(|copy| seen.insert(copy.subscriber_id));
    copies.reverse();
    Ok(copies)
}
