//! What real mail servers write when they give up: Exim, OpenSMTPD, Sendmail and `DragonFly`'s agent each
//! get our copies, hand them to a sink that refuses by the reader's name, and return them; every report
//! must lead to its copy and be read for what it says. `returns/mta.sh` runs them.

use std::{
    ffi::OsStr,
    fmt::Write as _,
    fs,
    io::Write as _,
    path::Path,
    process::{Child, Command, Stdio},
};

use postrider::{
    bounce::{classify::Reason, explain::explain, report},
    db::state::IssueState,
    provider::Providers,
};
use tempfile::TempDir;

use crate::{
    covered,
    harness::{Daemon, NO_GATES, QUICK, Scene, Sink, free_port, skipped, until},
    installation::Installation,
};

/// What the servers behind the relay say, by the reader's name.
const REFUSALS: [(&str, &str, &str); 5] = [
    ("gone", "rcpt", "550 5.1.1 <gone@dest.example>: Recipient address rejected: User unknown"),
    ("full", "rcpt", "552 5.2.2 The mailbox is full"),
    ("big", "dot", "552 5.3.4 Message size exceeds fixed limit"),
    ("adv", "dot", "554 5.7.1 The content was taken for spam"),
    ("late", "rcpt", "450 4.2.1 Not now"),
];

/// How each of them is to be read, and what is to follow: reader, fault, hard, effect.
const READ: [(&str, &str, bool, &str); 4] = [
    ("adv", "message", false, "message_refused"),
    ("big", "message", false, "message_refused"),
    ("full", "mailbox", false, "counted"),
    ("gone", "recipient", true, "suppressed"),
];

/// A copy that was given up because it was too old.
const LATE: (&str, &str, bool, &str) = ("late", "transient", false, "counted");

/// A server; it stops when it is dropped.
struct Server {
    folder: TempDir,
    child: Child,
}

impl Server {
    /// Starts one that takes mail on the first port, hands reports to the last and all else to the
    /// one between; says why where it cannot be had.
    fn start(name: &str, folder: TempDir, ports: [u16; 3]) -> Option<Self> {
        let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-tools");
        let (programs, program) = match name {
            "exim" => (tools.join("mta"), "usr/sbin/exim4"),
            "opensmtpd" => (tools.join("mta"), "usr/sbin/smtpd"),
            "sendmail" => (tools.join("returns"), "usr/libexec/sendmail/sendmail"),
            _ => (tools.join("returns"), "usr/sbin/dma"),
        };
        let program = programs.join(program);
        let covered = Command::new("unshare").args(["-m", "true"]).stderr(Stdio::null()).status();
        let why = if !program.exists() {
            format!("{} is not there; tests/run unpacks it", program.display())
        } else if !covered.is_ok_and(|status| status.success()) {
            "only root may make mount namespaces".to_owned()
        } else {
            return Some(Self::run(name, &programs, folder, ports));
        };
        skipped(&format!("no reports of {name}: {why}"));
        None
    }

    fn run(name: &str, programs: &Path, folder: TempDir, ports: [u16; 3]) -> Self {
        let ports = ports.map(|port| port.to_string());
        let own = [name.as_ref(), programs.as_os_str(), folder.path().as_os_str()];
        let arguments = own.into_iter().chain(ports.iter().map(OsStr::new));
        let (child, said) = covered::run(&[], "returns/mta.sh", arguments, folder.path());
        let server = Self { folder, child };
        assert_eq!(said, "started", "{}", server.logs());
        server
    }

    /// Lets it be days later, where the server waits for so long.
    fn later(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"later\n").unwrap();
    }

    fn logs(&self) -> String {
        let log = |name| fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        ["script.log", "log"].map(log).concat()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// A sink that refuses by the reader's name.
async fn refusing_sink(port: u16) -> Sink {
    let mut faults = String::new();
    for (reader, stage, reply) in REFUSALS {
        let _ = write!(
            faults,
            "[[rule]]\nstage = \"{stage}\"\nrecipient = \"{reader}@*\"\nreply = \"{reply}\"\n"
        );
    }
    Sink::at(([127, 0, 0, 1], port).into(), &faults, &[]).await
}

/// An installation whose relay and whose listener for reports are at these ports, with its readers.
fn scene(relay: u16, bounces: u16, readers: &[&str]) -> Scene {
    let house = Installation::empty();
    let port = free_port();
    let config = format!(
        "public_url = \"http://127.0.0.1:{port}/\"\n\
         [public]\nlisten = \"127.0.0.1:{port}\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [bounces]\nlisten = \"127.0.0.1:{bounces}\"\n\
         [mail]\nbounce_domain = \"bounce.example\"\nmessage_id_domain = \"example.com\"\n\
         {QUICK}stages_percent = []\n{NO_GATES}\
         [[relay]]\nname = \"main\"\nhost = \"127.0.0.1\"\nport = {relay}\ntls = \"none\"\n\
         connections = 2\n"
    );
    fs::write(house.path("config.toml"), config).unwrap();
    house.newsletter("sre");
    let scene = Scene { house, port, connections: 2 };
    let rows: String = readers.iter().map(|name| format!("{name}@dest.example,{name}\n")).collect();
    scene.import_rows(&format!("address,name\n{rows}"));
    scene
}

/// What came back about whom: reader, fault, hard, effect.
type Returned = (String, &'static str, bool, String);

/// Every report that led to a copy, by its reader, as it is read.
async fn returned(scene: &Scene) -> Vec<Returned> {
    let context = scene.context().await;
    let rows: Vec<(String, String, String, Vec<u8>)> = context
        .db
        .query(
            "SELECT p.address, m.effect, m.rcpt_to, m.raw FROM inbound_mail m \
             JOIN subscriber p ON p.id = m.subscriber_id ORDER BY p.address",
        )
        .all()
        .await
        .unwrap();
    context.db.close().await;
    let read = |(address, effect, recipient, raw): (String, String, String, Vec<u8>)| {
        let report = report::read(&raw, Some(&recipient)).unwrap();
        let explained = explain(&report, Providers::embedded());
        // OpenSMTPD calls even that delayed which it will not try again.
        let end = explained.kind == "delayed" && explained.reason == Some(Reason::Expired);
        assert!(end || explained.kind == "bounce", "{}", String::from_utf8_lossy(&raw));
        assert_eq!(explained.recipients, [address.as_str()]);
        let reader = address.split('@').next().unwrap().to_owned();
        (reader, explained.fault, explained.hard, effect)
    };
    rows.into_iter().map(read).collect()
}

/// Sends an issue through the server to all whom it returns copies of and to one whom it does not.
async fn holds(name: &str, more: &[(&'static str, &'static str, bool, &'static str)]) {
    let folder = tempfile::tempdir().unwrap();
    let ports = [free_port(), free_port(), free_port()];
    let sink = refusing_sink(ports[1]).await;
    let Some(mut server) = Server::start(name, folder, ports) else { return };
    let mut expected: Vec<_> = READ.iter().chain(more).copied().collect();
    expected.sort_unstable();
    let readers: Vec<&str> = expected.iter().map(|(reader, ..)| *reader).chain(["fine"]).collect();
    let scene = scene(ports[0], ports[2], &readers);
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    scene.reaches(IssueState::Sent).await;
    server.later();
    sink.accepts(1).await;
    let found = until("every copy is returned", async || {
        Some(returned(&scene).await).filter(|found| found.len() >= expected.len())
    })
    .await;
    daemon.terminate();
    is_as_expected(&found, &expected, &server.logs());
}

fn is_as_expected(found: &[Returned], expected: &[(&str, &str, bool, &str)], logs: &str) {
    let found: Vec<_> = found
        .iter()
        .map(|(reader, fault, hard, effect)| (reader.as_str(), *fault, *hard, effect.as_str()))
        .collect();
    assert_eq!(found, expected, "{logs}");
}

#[tokio::test]
async fn what_exim_returns_is_read() {
    // What it finds out by itself it says in words, without a code.
    let more = [
        LATE,
        ("own-full", "mailbox", false, "counted"),
        ("own-gone", "mailbox", false, "counted"),
    ];
    holds("exim", &more).await;
}

#[tokio::test]
async fn what_opensmtpd_returns_is_read() {
    holds("opensmtpd", &[LATE]).await;
}

#[tokio::test]
async fn what_sendmail_returns_is_read() {
    holds("sendmail", &[LATE]).await;
}

fn text(file: &Path) -> String {
    fs::read_to_string(file).unwrap()
}

/// It has no listener: it is a program that takes one mail, and sends its report where it sends
/// everything.
#[tokio::test]
async fn what_dragonflys_agent_returns_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let [relay, out, bounces] = [free_port(), free_port(), free_port()];
    let first = Sink::at(([127, 0, 0, 1], relay).into(), "", &[]).await;
    let second = refusing_sink(out).await;
    let mut expected = [&READ[..], &[LATE]].concat();
    expected.sort_unstable();
    let readers: Vec<&str> = expected.iter().map(|(reader, ..)| *reader).collect();
    let scene = scene(relay, bounces, &readers);
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    scene.reaches(IssueState::Sent).await;
    let letters = folder.path().join("letters");
    fs::create_dir(&letters).unwrap();
    let copies: Vec<String> = first.mails().iter().map(|file| text(file)).collect();
    for copy in first.journal() {
        let id = copy.message_id.unwrap();
        let letter = copies.iter().find(|letter| letter.contains(&id)).unwrap();
        let name = format!("{},{}", copy.mail_from, copy.rcpt_to[0]);
        fs::write(letters.join(name), letter).unwrap();
    }
    let Some(server) = Server::start("dma", folder, [relay, out, bounces]) else { return };
    second.accepts(expected.len()).await;
    let reports: Vec<String> = second.mails().iter().map(|file| text(file)).collect();
    for copy in first.journal() {
        let to = format!("To: {}", copy.mail_from);
        let report = reports.iter().find(|report| report.contains(&to)).unwrap();
        let ingest = ["bounce", "ingest", "--recipient", &copy.mail_from];
        scene.house.run_with_input(&ingest, report.as_bytes()).ok();
    }
    let found = returned(&scene).await;
    daemon.terminate();
    is_as_expected(&found, &expected, &server.logs());
}
