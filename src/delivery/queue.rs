//! The ledger's statements: claim, hand off, settle, release. Every statement that moves a copy from
//! one state to another is in this room and names the claim under which it acts, so that a stale
//! claim changes no row.
//!
//! Nothing here decides anything: `ledger` groups the calls into transactions, `policy` chooses the
//! next state, `recovery` mends what a crash left.

pub mod service;

use std::collections::{BTreeMap, HashMap};

use crate::{
    bounce::{apply, classify::Classification},
    db::{self, Db, Tx, record::record, state::CopyState},
    event::{self, Event},
    id::{CopyId, IssueId, NewsletterId, NodeId, SubscriberId},
    timestamp::Timestamp,
};

/// A copy held under a claim; nothing was sent yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// Which copy.
    pub copy: CopyId,
    /// The claim that holds it.
    pub claim: i64,
    /// The provider of its address.
    pub provider: i64,
    /// Its stage; 0 for service mail.
    pub stage: i64,
    /// How often it was tried before.
    pub attempts: i64,
}

/// Where first tries are looked for: one lane per provider with a limit of its own, one for all the
/// others, so that a slow provider's copies do not fill the window of everybody's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Lane {
    /// One provider.
    Provider(i64),
    /// All providers but these, as a JSON array.
    AllBut(String),
}

/// A copy that may be sent now: the mark is durable, the address is the one of that moment.
#[derive(Debug, Clone)]
pub struct Handed {
    /// The copy and its claim.
    pub claimed: Claimed,
    /// Where it goes.
    pub address: String,
    /// The reader's name.
    pub name: Option<String>,
    /// The reader's attributes, a JSON object.
    pub attributes: Option<String>,
}

/// Why a copy was not handed off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Withheld {
    /// Its issue is not sending, its stage is not released, or the lease ran out: it waits.
    Waits,
    /// Its reader must not or cannot get it; the text says why.
    Skipped(String),
    /// The claim no longer holds it: somebody else decides.
    Stale,
}

/// What becomes of a copy that was handed off.
#[derive(Debug, Clone)]
pub struct Settlement {
    /// Which copy.
    pub copy: CopyId,
    /// The claim under which it was handed off.
    pub claim: i64,
    /// Its next state: final, or waiting for another try.
    pub state: CopyState,
    /// How often it was tried by now.
    pub attempts: i64,
    /// When a waiting copy is due.
    pub due_at: Option<Timestamp>,
    /// Why, for states other than accepted.
    pub reason: Option<String>,
    /// The line for the delivery log; none for a copy that never reached the wire.
    pub event: Option<Event>,
    /// Whose fault a refusal is: the recipient's own suppresses the address with the outcome.
    pub class: Option<Classification>,
    /// Its stage, for the tallies.
    pub stage: i64,
    /// The provider of its address.
    pub provider: i64,
}

/// `[1,2,3]`, for `json_each`.
pub(crate) fn json_array(ids: impl IntoIterator<Item = i64>) -> String {
    use std::fmt::Write as _;
    let mut json = String::from("[");
    for id in ids {
        let comma = if json.len() > 1 { "," } else { "" };
        let _ = write!(json, "{comma}{id}");
    }
    json.push(']');
    json
}

/// Opens a claim for `node`.
pub async fn open_claim(tx: &mut Tx, node: NodeId) -> db::Result<i64> {
    tx.query("INSERT INTO claim (node_id) VALUES ($1) RETURNING id").bind(node).scalar().await
}

macro_rules! claim_first {
    ($lane:literal) => {
        concat!(
            "UPDATE delivery SET state = 1, claim_id = $1 \
             WHERE issue_id = $2 AND state = 0 AND subscriber_id IN ( \
             SELECT subscriber_id FROM delivery WHERE issue_id = $2 AND subscriber_id > $3 \
             AND state = 0 AND due_at IS NULL AND stage <= $4 AND ",
            $lane,
            " ORDER BY subscriber_id LIMIT $6) \
             RETURNING subscriber_id, provider, stage, attempt"
        )
    };
}

pub(super) const CLAIM_PROVIDER: &str = claim_first!("provider = $5");
pub(super) const CLAIM_OTHERS: &str =
    claim_first!("provider NOT IN (SELECT value FROM json_each($5))");
pub(super) const CLAIM_DUE: &str = "UPDATE delivery SET state = 1, claim_id = $1 \
     WHERE issue_id = $2 AND state = 0 AND subscriber_id IN ( \
     SELECT subscriber_id FROM delivery INDEXED BY delivery_due \
     WHERE issue_id = $2 AND state = 0 AND due_at <= $3 AND stage <= $4 \
     ORDER BY due_at LIMIT $5) \
     RETURNING subscriber_id, provider, stage, attempt";

/// Claims up to `limit` first tries of `issue` in `lane` behind the reader `after`, in the order of
/// readers' ids, stages up to `stage`.
pub async fn claim_first_tries(
    tx: &mut Tx,
    claim: i64,
    issue: IssueId,
    lane: &Lane,
    after: SubscriberId,
    stage: i64,
    limit: u32,
) -> db::Result<Vec<Claimed>> {
    let query = match lane {
        Lane::Provider(provider) => {
            prepare(tx, CLAIM_PROVIDER, claim, issue, after, stage).bind(*provider)
        }
        Lane::AllBut(json) => {
            prepare(tx, CLAIM_OTHERS, claim, issue, after, stage).bind(json.clone())
        }
    };
    let rows = query.bind(i64::from(limit)).all::<(i64, i64, i64, i64)>().await?;
    Ok(claimed(rows, claim, issue))
}

fn prepare<'t>(
    tx: &'t mut Tx,
    sql: &'static str,
    claim: i64,
    issue: IssueId,
    after: SubscriberId,
    stage: i64,
) -> db::Query<'t> {
    tx.query(sql).bind(claim).bind(issue).bind(after).bind(stage)
}

/// Claims up to `limit` copies of `issue` whose next try is due.
pub async fn claim_due(
    tx: &mut Tx,
    claim: i64,
    issue: IssueId,
    now: Timestamp,
    stage: i64,
    limit: u32,
) -> db::Result<Vec<Claimed>> {
    let query = tx.query(CLAIM_DUE).bind(claim).bind(issue).bind(now).bind(stage);
    let rows = query.bind(i64::from(limit)).all::<(i64, i64, i64, i64)>().await?;
    Ok(claimed(rows, claim, issue))
}

/// Rows as values, in the order of readers' ids (`RETURNING` promises none).
fn claimed(rows: Vec<(i64, i64, i64, i64)>, claim: i64, issue: IssueId) -> Vec<Claimed> {
    let mut claimed: Vec<_> = rows
        .into_iter()
        .map(|(subscriber, provider, stage, attempts)| {
            let copy = CopyId::Issue { issue, subscriber: SubscriberId(subscriber) };
            Claimed { copy, claim, provider, stage, attempts }
        })
        .collect();
    claimed.sort_unstable_by_key(|claimed| claimed.copy);
    claimed
}

/// The handoff gate: the one statement after which a copy may be sent. It holds only for copies
/// whose claim is ours and whose lease has not run out, whose issue is sending, whose stage is
/// released, and whose reader is subscribed, not paused, not suppressed and still at the provider
/// the limits were asked about. When it cannot be committed, nothing is sent.
pub(super) const HAND_OFF: &str = "UPDATE delivery SET state = 2 \
     WHERE issue_id = $1 AND subscriber_id IN (SELECT value FROM json_each($2)) \
     AND state = 1 AND claim_id = $3 \
     AND EXISTS (SELECT 1 FROM claim c JOIN node n ON n.id = c.node_id \
       WHERE c.id = $3 AND n.id = $4 AND n.lease_until > $5) \
     AND EXISTS (SELECT 1 FROM issue i JOIN subscription s ON s.newsletter_id = i.newsletter_id \
       JOIN subscriber p ON p.id = s.subscriber_id \
       WHERE i.id = $1 AND i.state = 2 AND delivery.stage <= i.stage \
       AND s.subscriber_id = delivery.subscriber_id AND s.state = 1 \
       AND (s.paused_until IS NULL OR s.paused_until <= $5) \
       AND p.address IS NOT NULL AND p.provider = delivery.provider \
       AND NOT EXISTS (SELECT 1 FROM suppression x WHERE x.address_hash = p.address_hash)) \
     RETURNING subscriber_id";

pub(super) const READERS: &str = "SELECT id, address, name, attributes FROM subscriber \
     WHERE id IN (SELECT value FROM json_each($1))";

/// Hands off `copies`, which are of `issue` and held by `claim`.
///
/// The address is read in the same transaction, so it is the reader's address at the handoff.
pub async fn hand_off(
    tx: &mut Tx,
    node: NodeId,
    issue: IssueId,
    claim: i64,
    copies: Vec<Claimed>,
    now: Timestamp,
) -> db::Result<(Vec<Handed>, Vec<(Claimed, Withheld)>)> {
    let ids = json_array(copies.iter().filter_map(|copy| subscriber_of(copy.copy)));
    let marked: Vec<(i64,)> =
        tx.query(HAND_OFF).bind(issue).bind(ids).bind(claim).bind(node).bind(now).all().await?;
    let ids = json_array(marked.iter().map(|(id,)| *id));
    let readers: Vec<(i64, String, Option<String>, Option<String>)> =
        tx.query(READERS).bind(ids).all().await?;
    let mut readers: HashMap<i64, _> = readers
        .into_iter()
        .map(|(id, address, name, attributes)| (id, (address, name, attributes)))
        .collect();
    let (mut handed, mut rest) = (Vec::with_capacity(marked.len()), Vec::new());
    for claimed in copies {
        match subscriber_of(claimed.copy).and_then(|id| readers.remove(&id)) {
            Some((address, name, attributes)) => {
                handed.push(Handed { claimed, address, name, attributes });
            }
            None => rest.push(claimed),
        }
    }
    let withheld = withhold(tx, issue, claim, rest, now).await?;
    Ok((handed, withheld))
}

fn subscriber_of(copy: CopyId) -> Option<i64> {
    match copy {
        CopyId::Issue { subscriber, .. } => Some(subscriber.0),
        CopyId::Service(_) => None,
    }
}

record! {
    /// Why the gate did not let one copy through.
    struct Obstacle {
        subscriber_id: i64,
        sending: i64,
        subscribed: Option<i64>,
        paused: Option<i64>,
        erased: Option<i64>,
        provider: Option<i64>,
        suppressed: Option<String>,
    }
}

pub(super) const OBSTACLES: &str = "SELECT d.subscriber_id, \
     i.state = 2 AND d.stage <= i.stage AS sending, s.state = 1 AS subscribed, \
     s.paused_until > $4 AS paused, p.address IS NULL AS erased, p.provider, \
     x.reason AS suppressed \
     FROM delivery d JOIN issue i ON i.id = d.issue_id \
     LEFT JOIN subscription s \
       ON s.newsletter_id = i.newsletter_id AND s.subscriber_id = d.subscriber_id \
     LEFT JOIN subscriber p ON p.id = d.subscriber_id \
     LEFT JOIN suppression x ON x.address_hash = p.address_hash \
     WHERE d.issue_id = $1 AND d.subscriber_id IN (SELECT value FROM json_each($2)) \
     AND d.state = 1 AND d.claim_id = $3";

/// Finds out why the gate held `copies` back, and writes it down.
async fn withhold(
    tx: &mut Tx,
    issue: IssueId,
    claim: i64,
    copies: Vec<Claimed>,
    now: Timestamp,
) -> db::Result<Vec<(Claimed, Withheld)>> {
    if copies.is_empty() {
        return Ok(Vec::new());
    }
    let ids = json_array(copies.iter().filter_map(|copy| subscriber_of(copy.copy)));
    let obstacles: Vec<Obstacle> =
        tx.query(OBSTACLES).bind(issue).bind(ids).bind(claim).bind(now).all().await?;
    let obstacles: HashMap<i64, Obstacle> =
        obstacles.into_iter().map(|obstacle| (obstacle.subscriber_id, obstacle)).collect();
    let mut withheld = Vec::with_capacity(copies.len());
    for copy in copies {
        let obstacle = subscriber_of(copy.copy).and_then(|id| obstacles.get(&id));
        let why = match obstacle {
            None => Withheld::Stale,
            Some(obstacle) => why(obstacle),
        };
        match (&why, obstacle) {
            (Withheld::Skipped(reason), _) => skip(tx, &copy, reason, now).await?,
            (Withheld::Waits, Some(obstacle)) => {
                requeue(tx, &copy, obstacle.provider.unwrap_or(copy.provider), now).await?;
            }
            _ => {}
        }
        withheld.push((copy, why));
    }
    Ok(withheld)
}

fn why(obstacle: &Obstacle) -> Withheld {
    if obstacle.sending == 0 {
        return Withheld::Waits;
    }
    if obstacle.erased != Some(0) {
        return Withheld::Skipped("erased".to_owned());
    }
    if obstacle.subscribed != Some(1) {
        return Withheld::Skipped("unsubscribed".to_owned());
    }
    if let Some(reason) = &obstacle.suppressed {
        return Withheld::Skipped(format!("suppressed: {reason}"));
    }
    if obstacle.paused == Some(1) {
        return Withheld::Skipped("paused by the reader".to_owned());
    }
    Withheld::Waits
}

async fn skip(tx: &mut Tx, copy: &Claimed, reason: &str, now: Timestamp) -> db::Result<()> {
    let CopyId::Issue { issue, subscriber } = copy.copy else { return Ok(()) };
    tx.query(
        "UPDATE delivery SET state = 6, reason = $4 \
         WHERE issue_id = $1 AND subscriber_id = $2 AND claim_id = $3 AND state = 1",
    )
    .bind(issue)
    .bind(subscriber)
    .bind(copy.claim)
    .bind(reason.to_owned())
    .execute()
    .await?;
    let mut event = Event::new(db::state::EventKind::Skipped, now)
        .about(Some(issue), Some(subscriber))
        .because(reason);
    event.provider = Some(copy.provider);
    event::record(tx, &[event]).await
}

async fn requeue(tx: &mut Tx, copy: &Claimed, provider: i64, now: Timestamp) -> db::Result<()> {
    let CopyId::Issue { issue, subscriber } = copy.copy else { return Ok(()) };
    tx.query(
        "UPDATE delivery SET state = 0, due_at = $4, provider = $5 \
         WHERE issue_id = $1 AND subscriber_id = $2 AND claim_id = $3 AND state = 1",
    )
    .bind(issue)
    .bind(subscriber)
    .bind(copy.claim)
    .bind(now)
    .bind(provider)
    .execute()
    .await?;
    Ok(())
}

pub(super) const ACCEPT: &str = "UPDATE delivery SET state = 3, attempt = attempt + 1, \
     due_at = NULL, reason = NULL \
     WHERE issue_id = $1 AND subscriber_id IN (SELECT value FROM json_each($2)) \
     AND claim_id = $3 AND state = 2";
const SETTLE: &str = "UPDATE delivery SET state = $4, attempt = $5, due_at = $6, reason = $7 \
     WHERE issue_id = $1 AND subscriber_id = $2 AND claim_id = $3 AND state = 2";

/// Writes what became of copies that were handed off, with their lines for the log. Returns how
/// many rows changed: fewer than settlements when another node has taken copies over meanwhile.
///
/// A refusal does to its reader what follows from it (`bounce::apply`) in the same transaction;
/// accepted copies cost nothing there.
pub async fn settle(
    tx: &mut Tx,
    settlements: &[Settlement],
    brake_percent: f64,
    now: Timestamp,
) -> db::Result<u64> {
    let mut accepted: BTreeMap<(IssueId, i64), Vec<i64>> = BTreeMap::new();
    let mut refused = Vec::new();
    let mut changed = 0;
    for settlement in settlements {
        let changed_before = changed;
        match settlement.copy {
            CopyId::Issue { issue, subscriber } if settlement.state == CopyState::Accepted => {
                accepted.entry((issue, settlement.claim)).or_default().push(subscriber.0);
            }
            CopyId::Issue { issue, subscriber } => {
                changed += tx
                    .query(SETTLE)
                    .bind(issue)
                    .bind(subscriber)
                    .bind(settlement.claim)
                    .bind(settlement.state)
                    .bind(settlement.attempts)
                    .bind(settlement.due_at)
                    .bind(settlement.reason.clone())
                    .execute()
                    .await?;
            }
            CopyId::Service(id) => changed += service::settle(tx, id, settlement).await?,
        }
        if settlement.class.is_some() && changed > changed_before {
            refused.push(settlement);
        }
    }
    for ((issue, claim), subscribers) in accepted {
        let ids = json_array(subscribers);
        changed += tx.query(ACCEPT).bind(issue).bind(ids).bind(claim).execute().await?;
    }
    let events = settlements.iter().filter_map(|settlement| settlement.event.as_ref());
    event::record(tx, events).await?;
    for settlement in refused {
        apply::own_refusal(tx, settlement, brake_percent, now).await?;
    }
    Ok(changed)
}

/// Settles an uncertain copy by what a report says; false when it is not uncertain.
pub async fn settle_uncertain(
    tx: &mut Tx,
    copy: CopyId,
    state: CopyState,
    reason: Option<&str>,
) -> db::Result<bool> {
    let reason = reason.map(str::to_owned);
    let query = match copy {
        CopyId::Issue { issue, subscriber } => tx
            .query(
                "UPDATE delivery SET state = $1, reason = $2 \
                 WHERE issue_id = $3 AND subscriber_id = $4 AND state = 5",
            )
            .bind(state)
            .bind(reason)
            .bind(issue)
            .bind(subscriber),
        CopyId::Service(id) => tx
            .query("UPDATE service_mail SET state = $1, reason = $2 WHERE id = $3 AND state = 5")
            .bind(state)
            .bind(reason)
            .bind(id),
    };
    Ok(query.execute().await? > 0)
}

/// Gives claimed copies back that will not be handed off now, to be claimed again at once.
pub async fn release(tx: &mut Tx, copies: &[Claimed], now: Timestamp) -> db::Result<()> {
    let mut groups: BTreeMap<(IssueId, i64), Vec<i64>> = BTreeMap::new();
    for copy in copies {
        match copy.copy {
            CopyId::Issue { issue, subscriber } => {
                groups.entry((issue, copy.claim)).or_default().push(subscriber.0);
            }
            CopyId::Service(id) => service::release(tx, id, copy.claim).await?,
        }
    }
    for ((issue, claim), subscribers) in groups {
        tx.query(
            "UPDATE delivery SET state = 0, due_at = $4 \
             WHERE issue_id = $1 AND subscriber_id IN (SELECT value FROM json_each($2)) \
             AND claim_id = $3 AND state = 1",
        )
        .bind(issue)
        .bind(json_array(subscribers))
        .bind(claim)
        .bind(now)
        .execute()
        .await?;
    }
    Ok(())
}

record! {
    /// How many copies of an issue are in one state, by stage and provider.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Count {
        /// The stage.
        pub stage: i64,
        /// The provider.
        pub provider: i64,
        /// The state.
        pub state: CopyState,
        /// Whether these copies wait for another try.
        pub deferred: i64,
        /// How many there are.
        pub copies: i64,
    }
}

/// Counts an issue's copies: the left-hand side of the audience equation.
pub async fn count(db: &Db, issue: IssueId) -> db::Result<Vec<Count>> {
    db.query(
        "SELECT stage, provider, state, state = 0 AND attempt > 0 AS deferred, COUNT(*) AS copies \
         FROM delivery WHERE issue_id = $1 GROUP BY stage, provider, state, deferred",
    )
    .bind(issue)
    .all()
    .await
}

/// When the next put-off copy of an issue is due, up to `stage`.
pub async fn next_due(db: &Db, issue: IssueId, stage: i64) -> db::Result<Option<Timestamp>> {
    db.query(
        "SELECT MIN(due_at) FROM delivery INDEXED BY delivery_due \
         WHERE issue_id = $1 AND state = 0 AND due_at IS NOT NULL AND stage <= $2",
    )
    .bind(issue)
    .bind(stage)
    .scalar()
    .await
}

/// Gives every waiting copy of `issue` that ran out of time its final state; returns how many.
pub async fn expire(tx: &mut Tx, issue: IssueId) -> db::Result<u64> {
    tx.query(
        "UPDATE delivery SET state = 7, reason = 'not accepted within the time to live' \
         WHERE issue_id = $1 AND state = 0",
    )
    .bind(issue)
    .execute()
    .await
}

/// Gives every copy of a cancelled issue that was not handed off its final state; returns how many.
pub async fn cancel(tx: &mut Tx, issue: IssueId) -> db::Result<u64> {
    tx.query("UPDATE delivery SET state = 8 WHERE issue_id = $1 AND state IN (0, 1)")
        .bind(issue)
        .execute()
        .await
}

/// The newsletter an issue belongs to.
pub async fn newsletter_of(db: &Db, issue: IssueId) -> db::Result<Option<NewsletterId>> {
    db.query("SELECT newsletter_id FROM issue WHERE id = $1").bind(issue).optional_scalar().await
}
