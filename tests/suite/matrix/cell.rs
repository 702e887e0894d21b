//! One cell: an engine, a sink, three copies.

use std::{fmt::Write as _, fs, path::Path, sync::Arc, time::Duration};

use postrider::{
    address::Address,
    cli::Context,
    db::state::{CopyState, EventKind, IssueState},
    delivery::{
        content::Content,
        control::{self, Draft, Edition, Move},
        engine::{Engine, Parts},
    },
    id::NewsletterId,
    merge::{Escape, Field, MergeText, Segment},
    newsletter::{self, NewNewsletter},
    sink::{
        Sink, SinkConfig,
        faults::profile::{FaultStage, Profile, Rule},
    },
    smtp::{
        client::Phase,
        server::{Auth, Tls},
    },
    subscriber::import::{self, Import},
    timestamp::Timestamp,
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{
    fault::{Expect, Fate, Offer, Script},
    for_loopback,
    tls::Front,
    told::{Told, first_rest, told},
};
use crate::{
    authority::Authority,
    harness::{quick_folder as folder, until},
};

/// How copies follow each other on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Without PIPELINING: command, reply, command, reply.
    Stepwise,
    /// MAIL, RCPT and DATA in one write.
    Grouped,
    /// And in the same write as the body and the dot before.
    Across,
}

impl Mode {
    pub(super) const ALL: [Self; 3] = [Self::Stepwise, Self::Grouped, Self::Across];
}

/// The readers.
const READERS: usize = 3;

/// A folder with an audience and an issue that is to be sent, to be copied.
pub(super) struct Template {
    folder: TempDir,
    pub(super) authority: Authority,
}

impl Template {
    pub(super) async fn new() -> Self {
        let folder = folder();
        fs::write(folder.path().join("config.toml"), "").unwrap();
        let context = Context::open(Some(&folder.path().join("config.toml"))).await.unwrap();
        let now = Timestamp::now();
        let new = NewNewsletter {
            slug: "sre".into(),
            name: "SRE Digest".into(),
            description: "What the matrix sends".into(),
            from_address: Address::parse("editor@example.com").unwrap(),
        };
        let newsletter = newsletter::create(&context.db, &new, now).await.unwrap();
        let mut list = String::from("address,name\n");
        for number in 0..READERS {
            let _ = writeln!(list, "{},Reader {number}", address(number));
        }
        let what = Import {
            newsletter: newsletter.id,
            file: "list.csv".into(),
            consent_source: "made up".into(),
            actor: "test".into(),
            dry_run: false,
            delimiter: b',',
            attributes: Vec::new(),
        };
        let keys = (&*context.keyring, &*context.providers);
        let rows = list.into_bytes();
        import::import(
            &context.db,
            keys,
            &what,
            std::io::Cursor::new(rows),
            &mut tokio::io::sink(),
            |_| {},
            now,
        )
        .await
        .unwrap();
        let slot = Segment::Slot { field: Field::Address, escape: Escape::Text, fallback: None };
        let words = Segment::Literal("A line that fills a message up. ".repeat(200));
        let body = || MergeText { segments: vec![slot.clone(), words.clone()] };
        let subject = "An issue of the matrix".to_owned();
        let links = context.links();
        let content = Content::new(&newsletter, 1, subject, body(), body(), &links);
        let (model, source) = ("{}".to_owned(), String::new());
        let draft = Draft { newsletter: newsletter.id, number: 1, model, source, content };
        control::schedule(&context.db, &draft, now, "test", now).await.unwrap();
        context.db.close().await;
        Self { folder, authority: for_loopback() }
    }

    /// A copy of it, with more in its configuration.
    async fn open(&self, config: &str) -> (TempDir, Context) {
        let copy = folder();
        copy_files(self.folder.path(), copy.path());
        fs::write(copy.path().join("config.toml"), config).unwrap();
        let context = Context::open(Some(&copy.path().join("config.toml"))).await.unwrap();
        (copy, context)
    }
}

fn copy_files(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            fs::create_dir(&target).unwrap();
            copy_files(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn address(number: usize) -> String {
    format!("reader{number}@example.org")
}

/// A cell of the matrix.
pub(super) struct Cell {
    name: String,
    mode: Mode,
    script: Script,
}

impl Cell {
    pub(super) fn new(name: String, mode: Mode, script: Script) -> Self {
        Self { name, mode, script }
    }

    /// Sends, waits until all is decided, and compares.
    pub(super) async fn run(&self, template: &Template) {
        let stop = CancellationToken::new();
        let records = folder();
        let path = records.path().join("journal");
        let sink = self.sink(template, &path, stop.clone()).await;
        let front = Front::before(sink.smtp_addr, self.script.in_front).await;
        let (_folder, context) =
            template.open(&self.config(front.address.port(), &template.authority.root)).await;
        let engine = start(&context).await;
        let edition =
            || async { control::find(&context.db, NewsletterId(1), 1).await.unwrap().unwrap() };
        let mut halted = false;
        until(&format!("{}: all is decided", self.name), async || {
            engine.ring();
            let edition: Edition = edition().await;
            if edition.state == IssueState::Halted {
                halted = true;
                let now = Timestamp::now();
                control::change_course(&context.db, &edition, Move::Resume, "ada", "seen", now)
                    .await
                    .unwrap();
            }
            (edition.state == IssueState::Sent).then_some(())
        })
        .await;
        let failure = engine.relays()[0].health.last_failure();
        let failure = failure.map(|failure| failure.what);
        let peak = sink.stats().connections_peak;
        engine.drain().await;
        stop.cancel();
        let told = told(&context, &path).await;
        let rest = first_rest(&context).await;
        context.db.close().await;
        let all = format!("{}: {told:?} {failure:?} {rest:?}", self.name);
        assert!(peak <= 2, "I5: {peak} connections at once (one may still be ending); {all}");
        assert_eq!(halted, self.script.expect == Expect::LoginRefused, "{all}");
        self.check_relay(failure.as_deref(), rest, &all);
        self.check(&told, &all);
    }

    async fn sink(&self, template: &Template, journal: &Path, stop: CancellationToken) -> Sink {
        let mut rules = self.script.rules.clone();
        if self.mode == Mode::Stepwise {
            // Last: the first rule that matches strikes.
            let tls = if self.script.offer == Offer::StartTls { "250-STARTTLS\\r\\n" } else { "" };
            let auth = if self.script.offer == Offer::Login { "250-AUTH PLAIN\\r\\n" } else { "" };
            let raw = Some(format!("250-sink\\r\\n{tls}{auth}250 8BITMIME\\r\\n"));
            rules.push(Rule { raw, ..Rule::at(FaultStage::Hello) });
        }
        let config = SinkConfig {
            http: None,
            journal: Some(journal.to_owned()),
            faults: Profile { seed: 0, rules },
            magic: false,
            tls: match self.script.offer {
                Offer::StartTls => Tls::StartTls(Arc::clone(&template.authority.config)),
                Offer::Implicit => Tls::Implicit(Arc::clone(&template.authority.config)),
                _ => Tls::Off,
            },
            auth: match self.script.offer {
                Offer::Login => Auth::RequiredInTheClear,
                _ => Auth::Off,
            },
            ..SinkConfig::default()
        };
        Sink::start(config, stop).await.unwrap()
    }

    fn config(&self, port: u16, root: &Path) -> String {
        let Script { offer, short, messages, .. } = &self.script;
        let deadline = short.map(|(key, time)| format!("{key} = \"{time}\"")).unwrap_or_default();
        // One at a time, with a pause between: nothing follows a body in the same write, and a
        // server has time to speak between messages.
        let alone = self.mode == Mode::Grouped || self.name.starts_with("Idle");
        let limit = if alone { "[limits]\nper_second = 10.0\nburst = 1\n" } else { "" };
        let tls = match offer {
            Offer::StartTls => format!("tls = \"starttls\"\nca_file = \"{}\"", root.display()),
            Offer::Implicit => format!("tls = \"implicit\"\nca_file = \"{}\"", root.display()),
            Offer::Plain => "tls = \"none\"".to_owned(),
            Offer::Login => "tls = \"none\"\nusername = \"ada\"\npassword = \"secret\"".to_owned(),
        };
        format!(
            "[sending]\nundo_window = \"0s\"\nsoak = \"0s\"\nretry_delays = [\"50ms\"]\n\
             [gates]\nuncertain_percent = 100.0\npolicy_hits = 1000\n\
             [smtp]\n{deadline}\n{limit}\
             [[relay]]\nname = \"sink\"\nhost = \"127.0.0.1\"\nport = {port}\n{tls}\n\
             connections = 1\nmessages_per_connection = {messages}\n"
        )
    }

    /// Only what keeps a session from coming about is held against the relay.
    fn check_relay(&self, failure: Option<&str>, rest: Option<Duration>, all: &str) {
        match self.script.expect {
            Expect::NoSession(phase) => {
                let (what, rest) = (failure.expect(all), rest.expect(all));
                // A reset can be seen before the connection counts as made.
                let early = phase == Phase::Greeting && what.starts_with("connect: ");
                let right = what.starts_with(&format!("{phase}: ")) || early;
                assert!(right, "{what}, not {phase}: {all}");
                assert!(rest >= Duration::from_millis(900), "it rests for {rest:?}: {all}");
            }
            Expect::LoginRefused => {
                assert!(failure.expect(all).starts_with("auth"), "{all}");
            }
            _ => assert!(failure.is_none(), "held against the relay: {all}"),
        }
    }

    fn check(&self, told: &[Told], all: &str) {
        for copy in told {
            // I1 and I3, whatever the fault.
            assert!(copy.accepted <= 1, "I1: {all}");
            if copy.state == CopyState::Accepted {
                assert_eq!(copy.accepted, 1, "I3: {all}");
            }
            let decided = matches!(copy.state, CopyState::Accepted | CopyState::Uncertain);
            assert!(copy.accepted == 0 || decided, "I3: {all}");
            // I8: a line for every try.
            assert_eq!(copy.events.len() as i64, copy.attempts, "I8: {all}");
        }
        let Script { expect, fate, hit, .. } = self.script;
        // Replies that are out of step may cost a neighbour a try, and so does a refusal before RSET.
        let neighbours_try_again = expect == Expect::OutOfStep
            || fate == Fate::Any
            || hit == 2
            || (expect == Expect::Accepted && fate == Fate::Closed);
        for (number, copy) in told.iter().enumerate().filter(|(number, _)| *number != hit) {
            // Nobody else's fate is blurred.
            let most = if neighbours_try_again { 2 } else { 1 };
            let fine = copy.state == CopyState::Accepted && copy.attempts <= most;
            assert!(fine, "a fault at one copy changed the fate of {number}: {all}");
        }
        self.check_hit(&told[hit], all);
        // The copy that was hit may have gone again later: its neighbours tell.
        let (first, last) = (told[0].connection, told[2].connection);
        match fate {
            Fate::Kept => assert_eq!(first, last, "the connection was not kept: {all}"),
            Fate::Closed => assert_ne!(first, last, "the connection was used again: {all}"),
            Fate::Any => {}
        }
    }

    fn check_hit(&self, hit: &Told, all: &str) {
        let ends = |state, attempts: i64| {
            assert_eq!((hit.state, hit.attempts), (state, attempts), "{all}");
        };
        let first = || hit.events.first().expect(all);
        let line = |kind, phase: Phase, code: Option<u16>| {
            let first = first();
            let found = (first.kind, first.phase.as_deref(), first.code);
            assert_eq!(found, (kind, Some(phase.as_str()), code.map(i64::from)), "{all}");
            // Whose fault it is, is asked of a server's words, and of nothing else.
            assert_eq!(first.class.is_some(), code.is_some(), "{all}");
        };
        match self.script.expect {
            Expect::Accepted | Expect::Untried | Expect::NoSession(_) | Expect::LoginRefused => {
                ends(CopyState::Accepted, 1);
            }
            Expect::Deferred(phase, code) => {
                ends(CopyState::Accepted, 2);
                line(EventKind::Deferred, phase, Some(code));
            }
            Expect::Lost(phase) => {
                ends(CopyState::Accepted, 2);
                line(EventKind::Deferred, phase, None);
            }
            Expect::Rejected(phase, code) => {
                ends(CopyState::Rejected, 1);
                line(EventKind::Rejected, phase, Some(code));
            }
            Expect::Uncertain => {
                ends(CopyState::Uncertain, 1);
                line(EventKind::Uncertain, Phase::Dot, None);
            }
            Expect::OutOfStep => {
                assert!(matches!(hit.attempts, 1 | 2), "{all}");
                for event in hit.events.iter().filter(|event| event.kind != EventKind::Accepted) {
                    let known = matches!(event.kind, EventKind::Deferred | EventKind::Uncertain);
                    assert!(known, "{all}");
                }
                let state = match hit.events.last().expect(all).kind {
                    EventKind::Accepted => CopyState::Accepted,
                    EventKind::Uncertain => CopyState::Uncertain,
                    kind => panic!("it ends with {kind:?}: {all}"),
                };
                assert_eq!(hit.state, state, "{all}");
            }
            Expect::LostInTheBody(code) => {
                let kind = first().kind;
                let refused = first().code.is_some();
                let known = match kind {
                    EventKind::Uncertain => !refused,
                    EventKind::Deferred => first().code.is_none_or(|c| c < 500),
                    EventKind::Rejected => code == Some(550) && refused,
                    _ => false,
                };
                assert!(known, "{all}");
                if refused {
                    assert_eq!(first().code, code.map(i64::from), "{all}");
                }
                // What was put off goes out at the next try: the server misbehaves once.
                match kind {
                    EventKind::Uncertain => ends(CopyState::Uncertain, 1),
                    EventKind::Rejected => ends(CopyState::Rejected, 1),
                    _ => ends(CopyState::Accepted, 2),
                }
            }
        }
    }
}

/// Certificates that do not fit: of a sink with `served` and a relay that trusts `trusted`, over
/// STARTTLS or from the first byte. Nothing may leave, and no copy may lose a try.
pub(super) async fn lets_nothing_out(
    name: &str,
    template: &Template,
    served: &Authority,
    trusted: &Path,
    offer: Offer,
) {
    let stop = CancellationToken::new();
    let tls = match offer {
        Offer::Implicit => Tls::Implicit(Arc::clone(&served.config)),
        _ => Tls::StartTls(Arc::clone(&served.config)),
    };
    let config = SinkConfig { http: None, tls, auth: Auth::Offered, ..SinkConfig::default() };
    let sink = Sink::start(config, stop.clone()).await.unwrap();
    let mode = if offer == Offer::Implicit { "implicit" } else { "starttls" };
    let config = format!(
        "[sending]\nundo_window = \"0s\"\nsoak = \"0s\"\n[[relay]]\nname = \"sink\"\n\
         host = \"127.0.0.1\"\nport = {}\ntls = \"{mode}\"\nca_file = \"{}\"\n\
         username = \"ada\"\npassword = \"secret\"\nconnections = 1\n",
        sink.smtp_addr.port(),
        trusted.display()
    );
    let (_folder, context) = template.open(&config).await;
    let engine = start(&context).await;
    let failure = until(&format!("{name}: the relay is refused"), async || {
        engine.ring();
        engine.relays()[0].health.last_failure()
    })
    .await;
    assert!(failure.what.starts_with("tls: "), "{name}: {}", failure.what);
    engine.drain().await;
    let stats = sink.stats();
    stop.cancel();
    assert_eq!(stats.transactions, 0, "{name}");
    let tried: i64 = context
        .db
        .query("SELECT COUNT(*) FROM delivery WHERE state <> 0 OR attempt <> 0")
        .scalar()
        .await
        .unwrap();
    assert_eq!(tried, 0, "{name}: copies were tried");
    context.db.close().await;
}

async fn start(context: &Context) -> Engine {
    Engine::start(Parts {
        db: context.db.clone(),
        config: Arc::clone(&context.config),
        keyring: Arc::clone(&context.keyring),
        renderer: Arc::new(context.renderer().unwrap()),
        providers: Arc::clone(&context.providers),
        speed: 1,
    })
    .await
    .unwrap()
}
