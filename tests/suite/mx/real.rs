//! Real mail servers as destinations: Postfix, OpenSMTPD and Exim, each with its own address in a network
//! namespace, on port 25. Their own files are in folders that cover the machine's (`real_mtas.sh`).

use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use postrider::db::state::{CopyState, EventKind, IssueState};
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use super::{SHORT, fates, of, scene, told};
use crate::{
    covered,
    dns_server::DnsServer,
    harness::{Daemon, NO_GATES, QUICK, until},
};

const HELO: &str = "news.sender.example";
/// The daemon's end of the cable, the address it is told to send from, and the servers' ends.
const HOST: [&str; 3] = ["10.231.7.1/24", "10.231.7.9/24", "fd42:7:7::1/64"];
const SOURCE: &str = "10.231.7.9";
const POSTFIX: [&str; 2] = ["10.231.7.2", "fd42:7:7::2"];
const OPENSMTPD: &str = "10.231.7.3";
const EXIM: &str = "10.231.7.4";
const PEOPLE: [&str; 5] = ["ada", "bela", "carl", "dora", "emil"];

/// The servers; they stop, and the namespace goes, when it is dropped.
struct Servers {
    folder: TempDir,
    namespace: String,
    child: Option<Child>,
}

impl Servers {
    fn start() -> Option<Self> {
        let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/test-tools/mta");
        if let Some(why) = missing(&programs) {
            crate::harness::skipped(&format!("no real mail servers: {why}"));
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::from_pem(include_str!("../../keys/rsa2048-pkcs8.pem")).unwrap();
        let certificate = CertificateParams::new(vec!["mx.test".to_owned()]).unwrap();
        let certificate = certificate.self_signed(&key).unwrap();
        fs::write(folder.path().join("mx.pem"), certificate.pem()).unwrap();
        fs::write(folder.path().join("mx.key"), key.serialize_pem()).unwrap();
        run(Command::new("chmod").arg("600").arg(folder.path().join("mx.key"))).unwrap();
        let namespace = format!("postrider-{}", std::process::id());
        let mut servers = Self { folder, namespace, child: None };
        if let Err(why) = servers.lay_cable() {
            crate::harness::skipped(&format!("no network namespace here: {why}"));
            return None;
        }
        let inside = ["ip", "netns", "exec", &servers.namespace];
        let own = [programs.as_os_str(), servers.folder.path().as_os_str()];
        let addresses = [POSTFIX[0], POSTFIX[1], OPENSMTPD, EXIM].map(OsStr::new);
        let arguments = own.into_iter().chain(addresses);
        let (child, said) =
            covered::run(&inside, "mx/real_mtas.sh", arguments, servers.folder.path());
        servers.child = Some(child);
        assert_eq!(said, "started", "{}", servers.logs());
        Some(servers)
    }

    /// A namespace with one end of a cable, and the other end here.
    fn lay_cable(&self) -> Result<(), String> {
        let name = self.namespace.as_str();
        let (ours, theirs) = ("postrider0", "postrider1");
        let ip = |args: &[&str]| run(Command::new("ip").args(args));
        let inside =
            |args: &[&str]| run(Command::new("ip").args(["netns", "exec", name, "ip"]).args(args));
        ip(&["netns", "add", name])?;
        ip(&["link", "add", ours, "type", "veth", "peer", "name", theirs])?;
        ip(&["link", "set", theirs, "netns", name])?;
        for address in HOST {
            // Otherwise the kernel would first ask around whether somebody has the IPv6 one.
            let nodad = address.contains(':').then_some("nodad");
            let words = ["addr", "add", address, "dev", ours];
            ip(&words.into_iter().chain(nodad).collect::<Vec<_>>())?;
        }
        ip(&["link", "set", ours, "up"])?;
        inside(&["link", "set", "lo", "up"])?;
        for address in [POSTFIX[0], OPENSMTPD, EXIM] {
            inside(&["addr", "add", &format!("{address}/24"), "dev", theirs])?;
        }
        let six = format!("{}/64", POSTFIX[1]);
        inside(&["addr", "add", &six, "dev", theirs, "nodad"])?;
        inside(&["link", "set", theirs, "up"])
    }

    fn logs(&self) -> String {
        let log = |name: &str| {
            let text = fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
            format!("{name}:\n{text}\n")
        };
        ["script.log", "postfix.log", "opensmtpd.log", "exim.log"].map(log).concat()
    }

    /// The mails that a server delivered to somebody.
    fn mailbox(&self, server: &str, user: &str) -> Vec<String> {
        let new = self.folder.path().join("kept").join(server).join(user).join("new");
        let files = fs::read_dir(new).into_iter().flatten().flatten();
        files.map(|file| fs::read_to_string(file.path()).unwrap()).collect()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        if let Some(mut child) = self.child.take() {
            drop(child.stdin.take());
            let _ = child.wait();
        }
        // The cable goes with the namespace.
        let _ = run(Command::new("ip").args(["netns", "del", &self.namespace]));
        let _ = run(Command::new("ip").args(["link", "del", "postrider0"]));
    }
}

/// Why there are no servers here, if so.
fn missing(programs: &Path) -> Option<String> {
    let absent: Vec<PathBuf> = ["smtpd", "exim4"]
        .map(|program| programs.join("usr/sbin").join(program))
        .into_iter()
        .filter(|program| !program.exists())
        .collect();
    if let Some(absent) = absent.first() {
        return Some(format!("{} is not there; tests/run unpacks it", absent.display()));
    }
    let postfix = Command::new("postfix").arg("--").stderr(Stdio::null()).output();
    if postfix.is_err() {
        return Some("postfix is not installed; tests/run installs it".to_owned());
    }
    let id = Command::new("id").arg("-u").output().unwrap().stdout;
    (id != b"0\n").then(|| "only root may make network namespaces".to_owned())
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| error.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    output.status.success().then_some(()).ok_or_else(|| format!("{command:?}: {said}"))
}

#[tokio::test]
async fn three_real_mail_servers_take_an_issue_and_see_who_brings_it() {
    let Some(servers) = Servers::start() else { return };
    let dns = DnsServer::start();
    dns.at("mx.postfix.example", POSTFIX[0]).at("mx6.postfix.example", POSTFIX[1]);
    dns.at("mx.opensmtpd.example", OPENSMTPD).at("mx.exim.example", EXIM);
    let domains = ["postfix.example", "six.example", "opensmtpd.example", "exim.example"];
    dns.mx("postfix.example", &[(10, "mx.postfix.example")]);
    dns.mx("six.example", &[(10, "mx6.postfix.example")]);
    dns.mx("opensmtpd.example", &[(10, "mx.opensmtpd.example")]);
    dns.mx("exim.example", &[(10, "mx.exim.example")]);
    let keys = format!("source_ipv4 = \"{SOURCE}\"\nhelo_name = \"{HELO}\"\nmta_sts = false\n");
    let options = format!("{QUICK}stages_percent = []\n{NO_GATES}{SHORT}");
    let scene = scene(&dns, 25, &keys, &options).await;
    let mut rows = String::from("address,name\n");
    for domain in domains {
        for user in PEOPLE.into_iter().chain(["gone"]) {
            rows.extend([user, "@", domain, ",", user, "\n"]);
        }
    }
    scene.import_rows(&rows);
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    scene.reaches(IssueState::Sent).await;
    daemon.terminate();

    for fate in fates(&scene).await {
        assert_eq!(fate.attempts, 1, "{fate:?}");
    }
    let (postfix, opensmtpd, exim) = ("postfix", "opensmtpd", "exim");
    // One mailbox serves both domains at Postfix.
    for (server, domain, copies) in
        [(postfix, "postfix.example", 2), (opensmtpd, domains[2], 1), (exim, domains[3], 1)]
    {
        for user in PEOPLE {
            let mails = until("a copy is in its mailbox", async || {
                Some(servers.mailbox(server, user)).filter(|mails| mails.len() >= copies)
            })
            .await;
            assert_eq!(mails.len(), copies, "{user} at {server}");
            for mail in &mails {
                assert!(mail.contains(HELO), "{mail}");
                assert!(mail.contains(SOURCE) || mail.contains("IPv6:fd42:7:7::1"), "{mail}");
            }
        }
        let received = servers.mailbox(server, "ada").concat();
        // This OpenSMTPD cannot keep up the encryption that it offers; then clear text is no worse.
        assert!(
            server == opensmtpd || received.to_lowercase().contains("with esmtps"),
            "{received}"
        );
        let fates = fates(&scene).await;
        let count = |state| of(&fates, domain).iter().filter(|fate| fate.state == state).count();
        assert_eq!(count(CopyState::Accepted), PEOPLE.len(), "{domain}");
        assert_eq!(count(CopyState::Rejected), 1, "{domain}");
        let lines = told(&scene, EventKind::Rejected, domain).await;
        assert_eq!((lines.len(), lines[0][3].as_str()), (1, "rcpt_to"), "{lines:?}");
    }
    let refused = told(&scene, EventKind::Rejected, "exim.example").await;
    assert_eq!(refused[0][1], "recipient.permanent", "{refused:?}");
}
