//! The one checker: what sinks wrote down against what the database says, after quiescence. Every
//! test that disturbs a send ends here. It holds a send to these invariants:
//!
//! * I1: nobody is accepted twice, unless an operator had a copy sent again.
//! * I2: the copies of an issue add up to its audience, and none is claimed or handed off any more.
//! * I3: what the ledger calls accepted a sink has; what a sink has is accepted or uncertain.
//! * I4: who had left, complained, or been suppressed or erased before the handoff gets nothing.
//! * I5: no window has more than its rate and burst, nor a relay more connections than it may
//!   (`rate.rs`, and the sinks' own limits).
//! * I6: nothing is handed off after a pause, a halt or a cancellation was committed.
//! * I7: whoever lost the lease changes no row.
//! * I8: every try that came to the wire has one event.
//! * I9: a copy has nothing of another reader in it.
//! * I10: no more copies are uncertain than were between dot and reply when something died, and all of
//!   them are listed.

mod own_data;

use std::collections::{BTreeMap, BTreeSet};

use postrider::{
    cli::Context,
    db::state::{CopyState, EventKind, IssueState},
    id::{CopyId, IssueId, SubscriberId},
    sink::journal::{Phase, Record, Verdict},
    smtp::verp,
    timestamp::Timestamp,
    token::DeliveryToken,
};

use crate::harness::{ISSUE, Scene, Sink};

/// What was done to the programs, beside the faults of sinks.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Kills {
    /// How often the daemon died by SIGKILL.
    pub(crate) daemon: usize,
    /// How often a sink did.
    pub(crate) sink: usize,
    /// How many tasks of the daemon died.
    pub(crate) tasks: usize,
    /// How often the wall clock was set. A transaction that was open then has two times in it, and
    /// its handoffs look late.
    pub(crate) clock: usize,
}

impl Kills {
    /// The daemon died so often.
    pub(crate) fn of_daemon(times: usize) -> Self {
        Self { daemon: times, ..Self::default() }
    }

    /// A sink died so often.
    pub(crate) fn of_sink(times: usize) -> Self {
        Self { sink: times, ..Self::default() }
    }

    fn none(self) -> bool {
        self.daemon == 0 && self.sink == 0 && self.tasks == 0
    }
}

/// How many copies ended in which state.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    states: BTreeMap<&'static str, usize>,
}

impl Outcome {
    /// How many copies are in `state`.
    pub(crate) fn count(&self, state: CopyState) -> usize {
        self.states.get(state.as_str()).copied().unwrap_or(0)
    }
}

/// Both sides' word on one copy.
#[derive(Debug)]
struct Copy {
    subscriber: SubscriberId,
    state: CopyState,
    attempts: i64,
    /// The log's outcomes: what, and of which attempt.
    outcomes: Vec<(EventKind, i64)>,
    /// How many of them are of attempts that ended before there was a session with a mail host.
    unreached: usize,
    handoffs: Vec<Handoff>,
    /// Every transaction at a sink that was decided.
    records: Vec<Record>,
    /// How often an operator asked for it to be sent again.
    resends: usize,
}

/// What the database found wrong at the moment when a copy was handed off.
#[derive(Debug)]
struct Handoff {
    wrong: Vec<&'static str>,
    /// The reader's address and name at that moment.
    address: String,
    name: String,
}

impl Copy {
    fn accepted(&self) -> usize {
        self.records.iter().filter(|record| record.verdict == Verdict::Accepted).count()
    }

    /// Whether it was ever handed off to this address.
    fn went_to(&self, address: &str) -> bool {
        self.handoffs.iter().any(|handoff| handoff.address == address)
    }

    /// Transactions that were surely attempts. An envelope may be opened ahead of its message, in
    /// one write with the message before it: when the server hangs up on it without a word, that
    /// took no attempt, like any end of a connection between two messages (RFC 5321, 4.5.3.2.7);
    /// nor did a 421 to MAIL, which ends a session rather than a copy's try.
    fn on_the_wire(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(|record| {
            let before_data = matches!(record.phase, Phase::Mail | Phase::Rcpt | Phase::Data);
            let goodbye = record.phase == Phase::Mail && record.code == Some(421);
            let mute = record.verdict == Verdict::Dropped && before_data;
            !(goodbye || mute)
        })
    }
}

/// Holds the sinks' journals against the database; panics at the first thing that is not as the
/// contract says.
pub(crate) async fn check(
    scene: &Scene,
    sinks: &[&Sink],
    audience: usize,
    kills: Kills,
) -> Outcome {
    let context = scene.context().await;
    let (issue, state): (i64, i64) = context
        .db
        .query("SELECT id, state FROM issue WHERE number = $1")
        .bind(ISSUE)
        .one()
        .await
        .unwrap();
    let issue = IssueId(issue);
    let copies = load(&context, issue, sinks).await;

    equation(&context, issue, &copies, audience).await;
    moves(&context).await;
    let cancelled = state == IssueState::Cancelled as i64;
    for copy in copies.values() {
        once_and_true(copy);
        gate(copy, kills);
        attempts(copy, kills);
        assert!(
            cancelled || copy.state != CopyState::Cancelled,
            "cancelled without a cancel: {copy:?}"
        );
    }
    uncertain(scene, &copies, kills);
    for sink in sinks {
        sink.is_well();
        own_data::check(&context, sink, issue, &copies);
    }
    let mut outcome = Outcome::default();
    for copy in copies.values() {
        *outcome.states.entry(copy.state.as_str()).or_default() += 1;
    }
    let counted: usize = outcome.states.values().sum();
    assert_eq!(counted, audience);
    context.db.close().await;
    outcome
}

async fn load(context: &Context, issue: IssueId, sinks: &[&Sink]) -> BTreeMap<i64, Copy> {
    let db = &context.db;
    let rows: Vec<(i64, i64, i64)> = db
        .query("SELECT subscriber_id, state, attempt FROM delivery WHERE issue_id = $1")
        .bind(issue)
        .all()
        .await
        .unwrap();
    let copy = |(id, state, attempts): (i64, i64, i64)| {
        let copy = Copy {
            subscriber: SubscriberId(id),
            state: CopyState::try_from(state).unwrap(),
            attempts,
            outcomes: Vec::new(),
            unreached: 0,
            handoffs: Vec::new(),
            records: Vec::new(),
            resends: 0,
        };
        (id, copy)
    };
    let mut copies: BTreeMap<i64, Copy> = rows.into_iter().map(copy).collect();
    let events: Vec<(i64, i64, i64, bool)> = db
        .query(
            "SELECT subscriber_id, kind, attempt, session IS NULL FROM event WHERE issue_id = $1 \
             AND subscriber_id IS NOT NULL AND attempt IS NOT NULL AND kind IN (2, 3, 4, 5, 7) \
             ORDER BY id",
        )
        .bind(issue)
        .all()
        .await
        .unwrap();
    for (subscriber, kind, attempt, unreached) in events {
        let copy = copies.get_mut(&subscriber).expect("events are about copies");
        let kind = EventKind::try_from(kind).unwrap();
        // What is uncertain may be anywhere, whoever says so.
        copy.unreached += usize::from(unreached && kind != EventKind::Uncertain);
        copy.outcomes.push((kind, attempt));
    }
    let resends: Vec<(i64,)> = db
        .query(
            "SELECT subscriber_id FROM event WHERE issue_id = $1 AND kind = 20 \
             AND text LIKE 'to be sent again%'",
        )
        .bind(issue)
        .all()
        .await
        .unwrap();
    for (subscriber,) in resends {
        copies.get_mut(&subscriber).expect("resends are of copies").resends += 1;
    }
    for (subscriber, handoff) in handoffs(context, issue).await {
        copies.get_mut(&subscriber).expect("handoffs are of copies").handoffs.push(handoff);
    }
    for record in sinks.iter().flat_map(|sink| sink.journal()) {
        let Some(copy) = copy_of(context, &record, issue) else { continue };
        let copy = copies.get_mut(&copy.0).expect("a sink saw a copy that is not in the ledger");
        let to = &record.rcpt_to;
        let own = to.len() == 1 && copy.went_to(&to[0]);
        assert!(own || record.phase == Phase::Mail, "I9: an envelope went to {to:?}: {copy:?}");
        copy.records.push(record);
    }
    copies
}

/// What the witness wrote down of one handoff: whose, six things that may be wrong, to whom.
type HandoffRow = (i64, bool, bool, bool, bool, bool, bool, Option<String>, Option<String>);

/// How long after its look at the clock a transaction may write its rows.
const TRANSACTION_US: i64 = 2_000_000;

async fn handoffs(context: &Context, issue: IssueId) -> Vec<(i64, Handoff)> {
    let rows: Vec<HandoffRow> = context
        .db
        .query(
            "SELECT subscriber_id, issue_state <> 2, stage > issue_stage, \
             coalesce(subscribed, 0) = 0, suppressed, paused_until IS NOT NULL, \
             coalesce(lease_until, 0) < at_us - $2, address, name \
             FROM witness WHERE issue_id = $1 ORDER BY seq",
        )
        .bind(issue)
        .bind(TRANSACTION_US)
        .all()
        .await
        .unwrap();
    let handoff = |row: HandoffRow| {
        let (id, stopped, early, left, suppressed, paused, stale, address, name) = row;
        let wrong = [
            (stopped, "I6: the issue was not sending"),
            (early, "its stage was not released"),
            (left, "I4: the reader was not subscribed"),
            (suppressed, "I4: the address was suppressed"),
            (paused, "I4: the reader had paused"),
            (stale, LATE),
        ];
        let wrong = wrong.into_iter().filter(|(wrong, _)| *wrong).map(|(_, what)| what).collect();
        let name = name.unwrap_or_default();
        (id, Handoff { wrong, address: address.unwrap_or_default(), name })
    };
    rows.into_iter().map(handoff).collect()
}

/// Which copy a transaction was for: the return path says so.
fn copy_of(context: &Context, record: &Record, issue: IssueId) -> Option<SubscriberId> {
    let (_, token) = verp::find(&record.mail_from)
        .unwrap_or_else(|| panic!("a return path without a token: {record:?}"));
    let token = DeliveryToken::open(&context.keyring, token, Timestamp::now()).unwrap();
    match token.0 {
        CopyId::Issue { issue: of, subscriber } if of == issue => Some(subscriber),
        _ => None,
    }
}

/// I2: every copy of the audience is there, and in one final state.
async fn equation(
    context: &Context,
    issue: IssueId,
    copies: &BTreeMap<i64, Copy>,
    audience: usize,
) {
    assert_eq!(copies.len(), audience, "copies in the ledger");
    let planned: i64 = context
        .db
        .query("SELECT SUM(size) FROM issue_stage WHERE issue_id = $1")
        .bind(issue)
        .scalar()
        .await
        .unwrap();
    assert_eq!(planned as usize, audience, "the sum of the stages");
    for copy in copies.values() {
        assert!(copy.state.is_final(), "not finished: {copy:?}");
    }
}

/// I2 and I7: no copy took a way that is on no map, out of a final state or under another claim.
async fn moves(context: &Context) {
    let wrong: Vec<(i64, i64, i64, bool)> = context
        .db
        .query("SELECT subscriber_id, from_state, to_state, other_claim FROM wrong_move")
        .all()
        .await
        .unwrap();
    let wrong: Vec<String> = wrong
        .into_iter()
        .map(|(subscriber, from, to, other_claim)| {
            let word = |state| CopyState::try_from(state).unwrap().as_str();
            let claim = if other_claim { ", under another claim" } else { "" };
            format!("{subscriber}: {} to {}{claim}", word(from), word(to))
        })
        .collect();
    assert!(wrong.is_empty(), "I7: moves that must not be: {wrong:?}");
}

/// I1 and I3: nobody twice but who was to get it again, and both sides agree.
fn once_and_true(copy: &Copy) {
    let accepted = copy.accepted();
    assert!(accepted <= 1 + copy.resends, "I1: {accepted} copies: {copy:?}");
    if copy.state == CopyState::Accepted && copy.resends == 0 {
        assert_eq!(accepted, 1, "I3: accepted, and no sink has it: {copy:?}");
    }
    if accepted > 0 {
        let known = matches!(copy.state, CopyState::Accepted | CopyState::Uncertain);
        assert!(known, "I3: a sink has it, and the ledger does not know: {copy:?}");
    }
}

/// What a handoff is witnessed with when its lease had run out.
const LATE: &str = "I7: the lease had run out";

/// I4 and I6: what the handoff gate let through it might let through, and nothing went past it.
fn gate(copy: &Copy, kills: Kills) {
    for handoff in &copy.handoffs {
        let excused = kills.clock > 0 && handoff.wrong.iter().all(|wrong| *wrong == LATE);
        assert!(
            handoff.wrong.is_empty() || excused,
            "handed off although {:?}: {copy:?}",
            handoff.wrong
        );
    }
    assert!(
        copy.on_the_wire().count() <= copy.handoffs.len(),
        "on the wire without a handoff: {copy:?}"
    );
}

/// I8: one event per attempt that reached the wire.
fn attempts(copy: &Copy, kills: Kills) {
    let numbers: Vec<i64> = copy.outcomes.iter().map(|(_, attempt)| *attempt).collect();
    let expected: Vec<i64> = (1..=copy.attempts).collect();
    assert_eq!(numbers, expected, "I8: the log's attempts against the ledger's: {copy:?}");
    let last = match copy.state {
        CopyState::Accepted => Some(EventKind::Accepted),
        CopyState::Rejected => Some(EventKind::Rejected),
        CopyState::Uncertain => Some(EventKind::Uncertain),
        _ => None,
    };
    if let Some(last) = last {
        let found = copy.outcomes.last().map(|(kind, _)| *kind);
        assert_eq!(found, Some(last), "I8: the last event is not the outcome: {copy:?}");
    }
    // What an operator had sent again may never have been on the wire of these sinks before.
    // An envelope that was opened ahead of its message is given up with its connection when the daemon
    // stops or loses its lease: the server waits for a body of which nothing comes. When the lease
    // ends because the clock was set, whatever the server says to it before nobody reads either.
    let followed = |record: &&Record| match record.phase {
        Phase::Body => record.verdict != Verdict::Aborted,
        Phase::Dot => true,
        _ => kills.clock == 0,
    };
    let least = copy.on_the_wire().filter(followed).count();
    let most = copy.records.len() + copy.resends;
    if kills.none() {
        let agree = (least..=most).contains(&(numbers.len() - copy.unreached));
        assert!(agree, "I8: {least} to {most} transactions against the events: {copy:?}");
    }
}

/// I10: exactly the copies whose reply nobody saw, within what a kill can cause, each listed.
fn uncertain(scene: &Scene, copies: &BTreeMap<i64, Copy>, kills: Kills) {
    let silent = |copy: &Copy, phase| {
        copy.records.iter().any(|record| record.phase == phase && !record.reply_sent)
    };
    let mut by_kill = 0;
    for copy in copies.values() {
        let is_uncertain = copy.state == CopyState::Uncertain;
        let lost = silent(copy, Phase::Dot);
        assert!(is_uncertain || !lost, "a lost reply, and the ledger is certain: {copy:?}");
        // A connection that ended in the data: the dot may have left by then, or not.
        by_kill += usize::from(is_uncertain && !lost && !silent(copy, Phase::Body));
    }
    let most = scene.connections * (kills.daemon + kills.sink) + kills.tasks;
    assert!(by_kill <= most, "I10: {by_kill} uncertain copies after {kills:?}");
    let issue = ISSUE.to_string();
    let listed = scene.house.run(&["delivery", "uncertain", "--issue", &issue, "--json"]).json();
    let listed: BTreeSet<i64> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|copy| copy["subscriber_id"].as_i64().unwrap())
        .collect();
    let uncertain = copies.values().filter(|copy| copy.state == CopyState::Uncertain);
    let uncertain: BTreeSet<i64> = uncertain.map(|copy| copy.subscriber.0).collect();
    assert_eq!(listed, uncertain, "I10: uncertain copies that are listed");
}
