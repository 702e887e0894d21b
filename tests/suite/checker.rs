//! The one checker: what sinks wrote down against what the database says, after quiescence. Every
//! test that disturbs a send ends here. The names of the invariants are those of the contract.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
};

use postrider::{
    cli::Context,
    db::state::{CopyState, EventKind, IssueState},
    id::{CopyId, IssueId, SubscriberId},
    sink::{
        content::Content,
        journal::{Phase, Record, Verdict},
    },
    smtp::{message::copy_of_message_id, verp},
    timestamp::Timestamp,
    token::{DeliveryToken, Purpose, ReaderToken},
};

use crate::harness::{ISSUE, Scene, Sink};

/// What was done to the programs, beside the faults of sinks.
#[derive(Default, Clone, Copy)]
pub(crate) struct Kills {
    /// How often the daemon died by SIGKILL.
    pub(crate) daemon: usize,
    /// How often a sink did.
    pub(crate) sink: usize,
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
    address: String,
    name: String,
    state: CopyState,
    attempts: i64,
    /// The log's outcomes: what, and of which attempt.
    outcomes: Vec<(EventKind, i64)>,
    handoffs: Vec<Handoff>,
    /// Every transaction at a sink that was decided.
    records: Vec<Record>,
}

/// What the database found wrong at the moment when a copy was handed off.
#[derive(Debug)]
struct Handoff {
    wrong: Vec<&'static str>,
}

impl Copy {
    fn accepted(&self) -> usize {
        self.records.iter().filter(|record| record.verdict == Verdict::Accepted).count()
    }

    /// Whether nobody knows any more whose it was.
    fn erased(&self) -> bool {
        self.address.is_empty()
    }

    /// Transactions that were surely attempts. An envelope may be opened ahead of its message, in
    /// one write with the message before it: when the server hangs up on it without a word, that
    /// took no attempt, like any end of a connection between two messages (RFC 5321, 4.5.3.2.7).
    fn on_the_wire(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(|record| {
            let before_data = matches!(record.phase, Phase::Mail | Phase::Rcpt | Phase::Data);
            !(record.verdict == Verdict::Dropped && before_data)
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
    let cancelled = state == IssueState::Cancelled as i64;
    for copy in copies.values() {
        once_and_true(copy);
        gate(copy);
        attempts(copy, kills);
        assert!(
            cancelled || copy.state != CopyState::Cancelled,
            "cancelled without a cancel: {copy:?}"
        );
    }
    uncertain(scene, &copies, kills);
    for sink in sinks {
        sink.is_well();
        own_data(&context, sink, issue, &copies);
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
    let rows: Vec<(i64, i64, i64, String, Option<String>)> = db
        .query(
            "SELECT d.subscriber_id, d.state, d.attempt, coalesce(p.address, ''), p.name \
             FROM delivery d \
             JOIN subscriber p ON p.id = d.subscriber_id WHERE d.issue_id = $1",
        )
        .bind(issue)
        .all()
        .await
        .unwrap();
    let copy = |(id, state, attempts, address, name): (i64, i64, i64, String, Option<String>)| {
        let copy = Copy {
            subscriber: SubscriberId(id),
            address,
            name: name.unwrap_or_default(),
            state: CopyState::try_from(state).unwrap(),
            attempts,
            outcomes: Vec::new(),
            handoffs: Vec::new(),
            records: Vec::new(),
        };
        (id, copy)
    };
    let mut copies: BTreeMap<i64, Copy> = rows.into_iter().map(copy).collect();
    let events: Vec<(i64, i64, i64)> = db
        .query(
            "SELECT subscriber_id, kind, attempt FROM event WHERE issue_id = $1 \
             AND subscriber_id IS NOT NULL AND attempt IS NOT NULL AND kind IN (2, 3, 4, 5, 7) \
             ORDER BY id",
        )
        .bind(issue)
        .all()
        .await
        .unwrap();
    for (subscriber, kind, attempt) in events {
        let copy = copies.get_mut(&subscriber).expect("events are about copies");
        copy.outcomes.push((EventKind::try_from(kind).unwrap(), attempt));
    }
    for (subscriber, handoff) in handoffs(context, issue).await {
        copies.get_mut(&subscriber).expect("handoffs are of copies").handoffs.push(handoff);
    }
    for record in sinks.iter().flat_map(|sink| sink.journal()) {
        let Some(copy) = copy_of(context, &record, issue) else { continue };
        let copy = copies.get_mut(&copy.0).expect("a sink saw a copy that is not in the ledger");
        let to = &record.rcpt_to;
        assert!(
            record.phase == Phase::Mail || copy.erased() || *to == [copy.address.clone()],
            "the envelope of {} went to {to:?}",
            copy.address
        );
        copy.records.push(record);
    }
    copies
}

async fn handoffs(context: &Context, issue: IssueId) -> Vec<(i64, Handoff)> {
    let rows: Vec<(i64, bool, bool, bool, bool, bool)> = context
        .db
        .query(
            "SELECT subscriber_id, issue_state <> 2, stage > issue_stage, \
             coalesce(subscribed, 0) = 0, suppressed, paused_until IS NOT NULL \
             FROM witness WHERE issue_id = $1 ORDER BY seq",
        )
        .bind(issue)
        .all()
        .await
        .unwrap();
    let handoff = |(id, stopped, early, left, suppressed, paused)| {
        let wrong = [
            (stopped, "I6: the issue was not sending"),
            (early, "its stage was not released"),
            (left, "I4: the reader was not subscribed"),
            (suppressed, "I4: the address was suppressed"),
            (paused, "I4: the reader had paused"),
        ];
        let wrong = wrong.into_iter().filter(|(wrong, _)| *wrong).map(|(_, what)| what).collect();
        (id, Handoff { wrong })
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

/// I1 and I3: nobody twice, and both sides agree.
fn once_and_true(copy: &Copy) {
    let accepted = copy.accepted();
    assert!(accepted <= 1, "I1: {accepted} copies: {copy:?}");
    if copy.state == CopyState::Accepted {
        assert_eq!(accepted, 1, "I3: accepted, and no sink has it: {copy:?}");
    }
    if accepted == 1 {
        let known = matches!(copy.state, CopyState::Accepted | CopyState::Uncertain);
        assert!(known, "I3: a sink has it, and the ledger does not know: {copy:?}");
    }
}

/// I4 and I6: what the handoff gate let through it might let through, and nothing went past it.
fn gate(copy: &Copy) {
    for handoff in &copy.handoffs {
        assert!(handoff.wrong.is_empty(), "handed off although {:?}: {copy:?}", handoff.wrong);
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
    let (least, most) = (copy.on_the_wire().count(), copy.records.len());
    if kills.daemon == 0 && kills.sink == 0 {
        let agree = (least..=most).contains(&numbers.len());
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
    let most = scene.connections * (kills.daemon + kills.sink);
    assert!(
        by_kill <= most,
        "I10: {by_kill} uncertain copies after {kills} kills",
        kills = kills.daemon + kills.sink
    );
    let issue = ISSUE.to_string();
    let listed = scene.house.run(&["delivery", "uncertain", "--issue", &issue, "--json"]).json();
    let listed = listed.as_array().unwrap().len();
    let counted = copies.values().filter(|copy| copy.state == CopyState::Uncertain).count();
    assert_eq!(listed, counted, "I10: uncertain copies that are listed");
}

/// How many messages of a sink are read.
const SAMPLE: usize = 400;

/// I9: every copy carries its own reader's data and nobody else's.
fn own_data(context: &Context, sink: &Sink, issue: IssueId, copies: &BTreeMap<i64, Copy>) {
    let mails = sink.mails();
    let by_number: HashMap<String, i64> = copies
        .values()
        .filter_map(|copy| Some((marker(&copy.address)?, copy.subscriber.0)))
        .collect();
    let mut read = 0;
    for path in mails.iter().step_by(mails.len().div_ceil(SAMPLE).max(1)) {
        let raw = fs::read(path).unwrap();
        let content = Content::parse(&raw);
        let id = content.header("Message-ID").unwrap();
        let CopyId::Issue { issue: of, subscriber } =
            copy_of_message_id(&context.keyring, id, Timestamp::now()).unwrap()
        else {
            continue;
        };
        if of != issue {
            continue;
        }
        let copy = &copies[&subscriber.0];
        if !copy.erased() {
            own_copy(context, &content, copy, issue, &by_number);
            read += 1;
        }
    }
    assert!(read > 0 || mails.is_empty(), "no copy was read");
}

fn own_copy(
    context: &Context,
    content: &Content,
    copy: &Copy,
    issue: IssueId,
    readers: &HashMap<String, i64>,
) {
    assert!(content.header("To").unwrap().contains(&copy.address), "I9: To of {copy:?}");
    let leave = content.header("List-Unsubscribe").unwrap();
    let token = leave.split("/-/unsubscribe/").nth(1).unwrap().split('>').next().unwrap();
    let reader =
        ReaderToken::open(&context.keyring, Purpose::Unsubscribe, token, Timestamp::now()).unwrap();
    assert_eq!((reader.subscriber, reader.issue), (copy.subscriber, Some(issue)), "I9: {copy:?}");
    let bodies = [content.text.as_deref().unwrap(), content.html.as_deref().unwrap()];
    for body in bodies {
        assert!(body.contains(&copy.name) && body.contains(&copy.address), "I9: {copy:?}");
    }
    let headers = content.headers.iter().map(|(_, value)| value.as_str());
    for text in headers.chain(bodies) {
        for other in text.match_indices("reader").chain(text.match_indices("Name")) {
            let Some(number) = digits(&text[other.0 + other.1.len()..]) else { continue };
            let whose = readers.get(number);
            assert_eq!(whose, Some(&copy.subscriber.0), "I9: data of {number} in {copy:?}");
        }
    }
}

/// The digits by which a reader's data can be told from others'.
fn marker(address: &str) -> Option<String> {
    digits(address.strip_prefix("reader")?).map(str::to_owned)
}

fn digits(text: &str) -> Option<&str> {
    text.get(..5).filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
}
