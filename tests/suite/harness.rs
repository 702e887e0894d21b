//! Scenes with several programs: a daemon, mail sinks with journals, and the data between them.
//! Everything is the built binary; what a test learns it learns from HTTP, SMTP, command lines,
//! files and the database.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io::Write as _,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use postrider::{cli::Context, db::state::IssueState, id::IssueId, sink::journal::Record};
use rand::{SeedableRng as _, rngs::StdRng};
use tempfile::TempDir;

use crate::installation::{Installation, Ran};

/// How long anything that has to happen may take: the machines that run tests can be very busy. For
/// those that are much busier the environment says how many minutes.
fn patience() -> Duration {
    let asked = std::env::var("POSTRIDER_TEST_PATIENCE").ok().and_then(|text| text.parse().ok());
    Duration::from_mins(asked.unwrap_or(4))
}
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Waits until `condition` gives something; fails the test when it does not in time. What counts are
/// looks: a machine that stands still loses one by it, and a busy one, where each takes longer, has as
/// many as any.
pub(crate) async fn until<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let mut waited = Duration::ZERO;
    loop {
        let since = Instant::now();
        if let Some(found) = condition().await {
            return found;
        }
        assert!(waited < patience(), "{what}: not within {:?}", patience());
        tokio::time::sleep(LOOK).await;
        waited += since.elapsed().min(LOOK_MAX);
    }
}

/// What holds a program up for longer than this is no matter of its own: any waits for less now and then.
pub(crate) const STANDSTILL: Duration = Duration::from_millis(40);

/// The longest that one look and the wait after it count for.
pub(crate) const LOOK_MAX: Duration = Duration::from_millis(250);

/// Says why a test was skipped, past the capture of the test harness: a skip that nobody sees looks
/// like a pass.
pub(crate) fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// A source of chance; its seed is printed, and taken from the environment to repeat a run.
pub(crate) fn seeded() -> StdRng {
    let given = std::env::var("POSTRIDER_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    println!("POSTRIDER_TEST_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

/// The ports that tests give out: outside the range the system gives to outgoing connections.
const PORTS: std::ops::Range<u32> = 18_000..32_000;

/// A port that nobody listens on, and that stays free while a program is down: no other test of this
/// process is given it again, and other processes begin elsewhere.
pub(crate) fn free_port() -> u16 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    let count = PORTS.end - PORTS.start;
    let begin = std::process::id().wrapping_mul(2_654_435_761) % count;
    loop {
        let given = GIVEN.fetch_add(1, Ordering::Relaxed);
        assert!(given < count, "all ports were given out");
        let port = PORTS.start + (begin + given) % count;
        let port = u16::try_from(port).expect("the range is one of ports");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// A folder in memory, where there is such a thing: for data whose durability is not the question.
pub(crate) fn quick_folder() -> TempDir {
    let memory = std::path::Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

/// Sends a signal by its name.
pub(crate) fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap();
    assert!(status.success(), "no signal could be sent");
}

/// Waits for the end of a program; kills it when there is none in time.
fn wait(child: &mut Child) -> Option<ExitStatus> {
    let mut waited = Duration::ZERO;
    while waited < patience() {
        let since = Instant::now();
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(LOOK);
        waited += since.elapsed().min(LOOK_MAX);
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

/// The number of the issue that scenes send, and how many connections go to each sink.
pub(crate) const ISSUE: i64 = 1;
pub(crate) const CONNECTIONS: usize = 8;

/// Sends without waiting: no undo window, no soak, quick retries.
pub(crate) const QUICK: &str = "[sending]\nundo_window = \"0s\"\nsoak = \"0s\"\n\
     retry_delays = [\"500ms\"]\n";
/// Gates that let everything pass, for sends that are disturbed on purpose.
pub(crate) const NO_GATES: &str = "[gates]\nrecipient_percent = 100.0\npolicy_percent = 100.0\n\
     policy_hits = 1000000\nuncertain_percent = 100.0\ncomplaint_percent = 100.0\n";

/// An installation whose copies go to sinks.
pub(crate) struct Scene {
    pub(crate) house: Installation,
    pub(crate) port: u16,
    pub(crate) connections: usize,
}

impl Scene {
    /// A newsletter without readers; the configuration gets `options` and one relay per sink.
    pub(crate) async fn new(sinks: &[&Sink], options: &str) -> Self {
        let house = Installation::empty();
        let port = free_port();
        let any = "\"127.0.0.1:0\"";
        let mut config = format!(
            "public_url = \"http://127.0.0.1:{port}/\"\n\
             [public]\nlisten = \"127.0.0.1:{port}\"\n[admin]\nlisten = {any}\n\
             [bounces]\nlisten = {any}\n[mailbox]\nsmtp_listen = {any}\nhttp_listen = {any}\n\
             {options}\n"
        );
        for (index, sink) in sinks.iter().enumerate() {
            let name = ["main", "spare"][index];
            let _ = write!(
                config,
                "[[relay]]\nname = \"{name}\"\nhost = \"127.0.0.1\"\nport = {}\ntls = \"none\"\n\
                 connections = {CONNECTIONS}\n",
                sink.listen.port()
            );
        }
        fs::write(house.path("config.toml"), config).unwrap();
        house.newsletter("sre");
        let scene = Self { house, port, connections: CONNECTIONS * sinks.len().max(1) };
        scene.watch_handoffs().await;
        scene
    }

    /// Lets the database itself write down what was true at the moment of every handoff.
    pub(crate) async fn watch_handoffs(&self) {
        let context = self.house.context().await;
        for statement in [
            "CREATE TABLE witness (seq INTEGER PRIMARY KEY, issue_id, subscriber_id, attempt, \
             stage, issue_state, issue_stage, subscribed, paused_until, suppressed, lease_until, \
             address, name, at_us)",
            "CREATE TRIGGER handoff_witness AFTER UPDATE OF state ON delivery \
             WHEN NEW.state = 2 AND OLD.state <> 2 BEGIN \
             INSERT INTO witness (issue_id, subscriber_id, attempt, stage, issue_state, \
               issue_stage, subscribed, paused_until, suppressed, lease_until, address, name, \
               at_us) \
             SELECT NEW.issue_id, NEW.subscriber_id, NEW.attempt, NEW.stage, i.state, i.stage, \
               (SELECT state = 1 FROM subscription \
                 WHERE newsletter_id = i.newsletter_id AND subscriber_id = NEW.subscriber_id), \
               (SELECT paused_until FROM subscription \
                 WHERE newsletter_id = i.newsletter_id AND subscriber_id = NEW.subscriber_id), \
               EXISTS (SELECT 1 FROM suppression x JOIN subscriber p \
                 ON p.address_hash = x.address_hash WHERE p.id = NEW.subscriber_id), \
               (SELECT n.lease_until FROM claim c JOIN node n ON n.id = c.node_id \
                 WHERE c.id = NEW.claim_id AND n.stopped_at IS NULL), \
               (SELECT address FROM subscriber WHERE id = NEW.subscriber_id), \
               (SELECT name FROM subscriber WHERE id = NEW.subscriber_id), \
               CAST(unixepoch('subsec') * 1000000 AS INTEGER) \
             FROM issue i WHERE i.id = NEW.issue_id; END",
            "CREATE TABLE wrong_move (subscriber_id, from_state, to_state, other_claim)",
            // From waiting: claimed, skipped, expired, cancelled. From claimed: handed off, waiting,
            // skipped, cancelled. From handed off: anything but cancelled or claimed. From uncertain:
            // what an operator or a report says. From everywhere else: nowhere.
            "CREATE TRIGGER move_witness AFTER UPDATE OF state ON delivery \
             WHEN NEW.state <> OLD.state AND ((OLD.state, NEW.state) NOT IN (VALUES \
               (0, 1), (0, 6), (0, 7), (0, 8), (1, 2), (1, 0), (1, 6), (1, 7), (1, 8), \
               (2, 0), (2, 3), (2, 4), (2, 5), (2, 6), (2, 7), (5, 0), (5, 3), (5, 4)) \
               OR (OLD.state IN (1, 2) AND NEW.claim_id IS NOT OLD.claim_id)) BEGIN \
             INSERT INTO wrong_move VALUES (NEW.subscriber_id, OLD.state, NEW.state, \
               NEW.claim_id IS NOT OLD.claim_id); END",
        ] {
            context.db.write(statement).execute().await.unwrap();
        }
        context.db.close().await;
    }

    /// Brings in `count` confirmed readers; reader `n` is [`address`]`(n)`, called [`name`]`(n)`.
    pub(crate) fn import(&self, count: usize) {
        let mut file = String::from("address,name\n");
        for number in 0..count {
            let _ = writeln!(file, "{},{}", address(number), name(number));
        }
        self.import_rows(&file);
    }

    /// Brings in readers from a CSV file.
    pub(crate) fn import_rows(&self, file: &str) {
        fs::write(self.house.path("readers.csv"), file).unwrap();
        self.house
            .run(&["subscriber", "import", "readers.csv", "--consent-source", "the old list"])
            .ok();
    }

    /// Asks for the send of the issue, with no time to undo it.
    pub(crate) fn send(&self) -> Ran {
        self.write_issue();
        self.send_file("issue.md")
    }

    /// Asks for it again, from a file that says something else.
    pub(crate) fn send_edited(&self) -> Ran {
        self.write_text("edited.md", "EDITED: it was the primary that took over again.");
        self.send_file("edited.md")
    }

    /// Writes the file of the issue.
    pub(crate) fn write_issue(&self) {
        self.write_text(
            "issue.md",
            "The replica took over, and a line in a log was all that told.",
        );
    }

    fn write_text(&self, file: &str, line: &str) {
        let text = format!(
            "---\nnumber: {ISSUE}\ndate: 2026-03-06\npreheader: What we read this week.\n---\n\n\
             Hello {{{{name|reader}}}}, this copy goes to {{{{address}}}} and to nobody else.\n\n\
             ## [A failover that nobody noticed](https://example.org/failover)\n\n\
             {line}\n\n\
             — Maren Holt — Example Rail\n"
        );
        fs::write(self.house.path(file), text).unwrap();
    }

    /// Asks for the send of what a file says, with no time to undo it.
    pub(crate) fn send_file(&self, file: &str) -> Ran {
        let how = ["--yes", "--allow-warnings", "--undo-window", "0s", "--json"];
        self.house.run(["issue", "send", file].iter().chain(&how))
    }

    /// Runs `issue VERB 1 …`, which must work.
    pub(crate) fn issue(&self, verb: &str, more: &[&str]) {
        let number = ISSUE.to_string();
        self.house.run(["issue", verb, &number].iter().chain(more)).ok();
    }

    /// `issue status 1 --json`.
    pub(crate) fn status(&self) -> serde_json::Value {
        self.house.run(&["issue", "status", &ISSUE.to_string(), "--json"]).json()
    }

    /// Waits until the issue is in `state`, and nothing of it can change by itself any more if that
    /// state is final.
    pub(crate) async fn reaches(&self, state: IssueState) -> IssueId {
        let context = self.house.context().await;
        let last_event = async || -> i64 {
            let sql = "SELECT coalesce(MAX(id), 0) FROM event";
            context.db.query(sql).scalar().await.unwrap()
        };
        // As long as something happens, it goes on, however long it takes.
        let mut seen = last_event().await;
        let look = async |seen: i64| {
            let row: Option<(i64, i64, Option<i64>)> = context
                .db
                .query("SELECT id, state, finished_at FROM issue WHERE number = $1")
                .bind(ISSUE)
                .optional()
                .await
                .unwrap();
            let (id, found, finished) = row?;
            let ends = matches!(state, IssueState::Sent | IssueState::Cancelled);
            let halted = ends && found == IssueState::Halted as i64;
            assert!(!halted, "halted: {}", self.status());
            let reached = found == state as i64 && (!ends || finished.is_some());
            let goes_on = last_event().await > seen + 100;
            (reached || goes_on).then_some((reached, IssueId(id)))
        };
        let what = format!("issue is {state}");
        let mut rounds = 0;
        let issue = loop {
            let (reached, issue) = until(&what, async || look(seen).await).await;
            if reached {
                break issue;
            }
            rounds += 1;
            assert!(rounds < 1000, "{what}: things happen and come to no end");
            seen = last_event().await;
        };
        context.db.close().await;
        issue
    }

    /// The data, for looking at.
    pub(crate) async fn context(&self) -> Context {
        self.house.context().await
    }
}

/// The address of reader `number`; readers are spread over providers.
pub(crate) fn address(number: usize) -> String {
    let domain = ["gmail.com", "outlook.com", "yahoo.com", "example.org"][number % 4];
    format!("reader{number:05}@{domain}")
}

/// The name of reader `number`.
pub(crate) fn name(number: usize) -> String {
    format!("Name{number:05} Example")
}

static PROGRAMS: AtomicU32 = AtomicU32::new(0);

/// `postrider serve`. When it is dropped it has to end cleanly, and its log has to be free of errors.
pub(crate) struct Daemon {
    child: Option<Child>,
    log: PathBuf,
    port: u16,
    errors_expected: bool,
}

impl Daemon {
    /// Starts the daemon of a scene and waits until it says where its pages are.
    pub(crate) async fn spawn(scene: &Scene) -> Self {
        let mut daemon = Self::start(scene);
        daemon.ready().await;
        daemon
    }

    /// Starts the daemon of a scene.
    pub(crate) fn start(scene: &Scene) -> Self {
        Self::start_under(scene, &[], &[])
    }

    /// Starts the daemon of a scene by another program (its arguments before the daemon's own
    /// command line; it must become the daemon), with more in its environment.
    pub(crate) fn start_under(
        scene: &Scene,
        program: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        let number = PROGRAMS.fetch_add(1, Ordering::Relaxed);
        let log = scene.house.path(&format!("daemon-{number}.log"));
        let config = scene.house.path("config.toml");
        let mut command = scene.house.command(&["serve", "--config", config.to_str().unwrap()]);
        if let Some((first, rest)) = program.split_first() {
            let daemon = command;
            command = Command::new(first);
            command.args(rest).arg(daemon.get_program()).args(daemon.get_args());
            command.current_dir(daemon.get_current_dir().unwrap()).stdin(Stdio::null());
        }
        command.envs(environment.iter().copied());
        command.stdout(Stdio::null()).stderr(File::create(&log).unwrap());
        let child = command.spawn().unwrap();
        Self { child: Some(child), log, port: scene.port, errors_expected: false }
    }

    /// From now on it may log errors: they are what the test is about.
    pub(crate) fn expect_errors(mut self) -> Self {
        self.errors_expected = true;
        self
    }

    /// Whether it ended.
    pub(crate) fn is_gone(&mut self) -> bool {
        self.child().try_wait().unwrap().is_some()
    }

    /// Sends it a signal by its name.
    pub(crate) fn signal(&mut self, name: &str) {
        signal(self.child(), name);
    }

    /// Whether it is stopped, as by SIGSTOP.
    pub(crate) fn is_stopped(&mut self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
        stat.rsplit(')').next().unwrap().trim_start().starts_with('T')
    }

    /// Waits until the daemon says where its pages are.
    pub(crate) async fn ready(&mut self) {
        until("the daemon is ready", async || {
            assert!(self.child().try_wait().unwrap().is_none(), "it ended:\n{}", self.log());
            self.log().contains("public pages").then_some(())
        })
        .await;
    }

    fn child(&mut self) -> &mut Child {
        self.child.as_mut().expect("a daemon is used after its end by nobody")
    }

    /// Its process id.
    pub(crate) fn id(&mut self) -> u32 {
        self.child().id()
    }

    /// Where its log is, also after its end.
    pub(crate) fn log_file(&self) -> PathBuf {
        self.log.clone()
    }

    /// What it logged so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    /// Where its operators' pages are.
    pub(crate) fn admin(&self) -> String {
        let log = self.log();
        let line = log.lines().find(|line| line.contains("operators' pages")).unwrap();
        let (_, listen) = line.split_once("listen=").unwrap();
        format!("http://{}", listen.split_whitespace().next().unwrap())
    }

    /// A page of it.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        let mut child = self.child.take().expect("a daemon is killed once");
        child.kill().unwrap();
        child.wait().unwrap();
        self.log_is_clean();
    }

    /// SIGTERM, and a clean end.
    pub(crate) fn terminate(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        if std::thread::panicking() {
            let _ = child.kill();
            let _ = child.wait();
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            eprintln!("the daemon's log ends so, backwards:\n{}", tail.join("\n"));
            return;
        }
        signal(&child, "TERM");
        let status = wait(&mut child);
        assert!(status.is_some_and(|s| s.success()), "ended with {status:?}:\n{}", self.log());
        self.log_is_clean();
    }

    fn log_is_clean(&self) {
        for line in self.log().lines() {
            let bad = line.contains(" ERROR ") || line.contains("panicked at");
            let bad = bad && !self.errors_expected;
            assert!(!bad, "the daemon logged: {line}");
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
    }
}

/// `postrider sink`, with a journal and every accepted message in a file.
pub(crate) struct Sink {
    folder: TempDir,
    child: Mutex<Option<Child>>,
    listen: SocketAddr,
    args: Vec<String>,
}

impl Sink {
    /// A sink that takes everything.
    pub(crate) async fn spawn() -> Self {
        Self::with("", &[]).await
    }

    /// A sink that misbehaves as the fault profile says, with more on its command line.
    pub(crate) async fn with(faults: &str, args: &[&str]) -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], free_port())), faults, args).await
    }

    /// The same, at this address.
    pub(crate) async fn at(listen: SocketAddr, faults: &str, args: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("faults.toml"), faults).unwrap();
        let args = args.iter().map(|arg| (*arg).to_owned()).collect();
        let mut sink = Self { folder, child: Mutex::default(), listen, args };
        sink.start().await;
        sink
    }

    /// Other faults, from its next start on.
    pub(crate) fn set_faults(&self, faults: &str) {
        fs::write(self.folder.path().join("faults.toml"), faults).unwrap();
    }

    /// SIGKILL, and a new start without any fault.
    pub(crate) async fn recover(&mut self) {
        self.kill();
        self.set_faults("");
        self.start().await;
    }

    /// Starts it, again after a kill: its journal goes on.
    pub(crate) async fn start(&mut self) {
        assert!(self.child().is_none(), "one sink at a time");
        let path = |name: &str| self.folder.path().join(name);
        let log = path("log");
        let mut child = Command::new(env!("CARGO_BIN_EXE_postrider"))
            .args(["sink", "--no-http", "--no-magic", "--hold", "1"])
            .arg("--listen")
            .arg(self.listen.to_string())
            .arg("--journal")
            .arg(path("journal"))
            .arg("--mailbox")
            .arg(path("mail"))
            .arg("--faults")
            .arg(path("faults.toml"))
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        until("the sink listens", async || {
            let said = fs::read_to_string(&log).unwrap();
            assert!(child.try_wait().unwrap().is_none(), "the sink ended: {said}");
            said.contains("Taking mail on").then_some(())
        })
        .await;
        *self.child() = Some(child);
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails the test if the sink ended and nobody in it made it end.
    pub(crate) fn is_well(&self) {
        let mut child = self.child();
        let ended = child.as_mut().and_then(|child| child.try_wait().unwrap());
        drop(child);
        let said = fs::read_to_string(self.folder.path().join("log")).unwrap();
        assert!(ended.is_none(), "the sink ended by itself, {ended:?}: {said}");
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        let mut child = self.child().take().expect("a sink that runs is killed");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// What it wrote down.
    pub(crate) fn journal(&self) -> Vec<Record> {
        let text = fs::read_to_string(self.folder.path().join("journal")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// How many messages it accepted so far.
    pub(crate) fn accepted(&self) -> usize {
        let text = fs::read_to_string(self.folder.path().join("journal")).unwrap_or_default();
        text.matches("\"verdict\":\"accepted\"").count()
    }

    /// Waits until it accepted so many messages.
    pub(crate) async fn accepts(&self, count: usize) {
        let what = format!("{count} messages in the sink");
        until(&what, async || {
            self.is_well();
            (self.accepted() >= count).then_some(())
        })
        .await;
    }

    /// The files of the messages it accepted, in the order of their coming.
    pub(crate) fn mails(&self) -> Vec<PathBuf> {
        let folder = fs::read_dir(self.folder.path().join("mail")).unwrap();
        let mut files: Vec<PathBuf> = folder.map(|file| file.unwrap().path()).collect();
        // A sink that is killed may leave part of a mail that it had not accepted.
        files.retain(|file| file.extension().is_some_and(|extension| extension == "eml"));
        files.sort();
        files
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Some(mut child) = self.child().take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
