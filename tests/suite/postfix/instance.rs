//! A Postfix of our own: its configuration, queue, passwords and mailboxes are in a temporary
//! folder, it listens on loopback, and nothing in `/etc/postfix` is looked at or changed.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;

use crate::harness::{free_port, skipped, until};

/// Who may log in.
pub(super) const USER: &str = "postrider";
/// With which password.
pub(super) const PASSWORD: &str = "the right password";
/// The realm of that name.
const REALM: &str = "relay.example";
/// Folders of the queue that hold mail which is not dealt with.
const WAITING: [&str; 5] = ["maildrop", "incoming", "active", "deferred", "hold"];

/// A running Postfix; stopped when dropped.
pub(super) struct Postfix {
    folder: TempDir,
    /// Where it takes mail, by the name `localhost`.
    pub(super) port: u16,
    /// Where it delivers mail to `bounce.example`.
    pub(super) bounces: u16,
}

impl Postfix {
    /// Starts one with a mailbox for each of `users` at `inbox.example`, or says why it cannot be
    /// had here.
    pub(super) fn start(users: &[&str]) -> Option<Self> {
        Self::returning_by("smtp", users)
    }

    /// The same; reports leave it by this transport.
    pub(super) fn returning_by(transport: &str, users: &[&str]) -> Option<Self> {
        if let Some(why) = missing() {
            skipped(&format!("no private Postfix: {why}"));
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let postfix = Self { folder, port: free_port(), bounces: free_port() };
        postfix.lay_out(transport, users);
        postfix.certify();
        postfix.set_password(PASSWORD);
        let started = postfix.control("start");
        let log = postfix.log();
        assert!(started.status.success(), "{}{log}", String::from_utf8_lossy(&started.stderr));
        Some(postfix)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The root certificate that vouches for it.
    pub(super) fn ca_file(&self) -> PathBuf {
        self.path("ca.pem")
    }

    fn lay_out(&self, transport: &str, users: &[&str]) {
        // Its programs run as other users and have to get at their folders below.
        run(Command::new("chmod").arg("711").arg(self.folder.path()));
        for folder in ["etc/sasl", "queue", "data", "mail"] {
            fs::create_dir_all(self.path(folder)).unwrap();
        }
        run(Command::new("chown").arg("postfix").arg(self.path("data")));
        let number = |kind| run(Command::new("id").args([kind, "nobody"]));
        let (uid, gid) = (number("-u"), number("-g"));
        run(Command::new("chown").arg(format!("{uid}:{gid}")).arg(self.path("mail")));
        let folder = self.folder.path().to_str().unwrap();
        let fill = |text: &str| {
            text.replace("@FOLDER@", folder)
                .replace("@PORT@", &self.port.to_string())
                .replace("@BOUNCES@", &self.bounces.to_string())
                .replace("@TRANSPORT@", transport)
                .replace("@UID@", &uid)
                .replace("@GID@", &gid)
        };
        let write = |name: &str, text: &str| fs::write(self.path(name), text).unwrap();
        write("etc/main.cf", &fill(include_str!("main.cf")));
        write("etc/master.cf", &fill(include_str!("master.cf")));
        let mailboxes = users.iter().map(|user| format!("{user}@inbox.example {user}/\n"));
        write("etc/mailboxes", &mailboxes.collect::<String>());
        let sasl = "pwcheck_method: auxprop\nauxprop_plugin: sasldb\nmech_list: PLAIN LOGIN\n";
        write("etc/sasl/smtpd.conf", &format!("{sasl}sasldb_path: {folder}/etc/sasldb2\n"));
    }

    fn certify(&self) {
        let mut certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        certificate.distinguished_name.push(DnType::CommonName, "localhost");
        let (root, issuer) = authority("Root of this relay");
        let key = KeyPair::generate().unwrap();
        let certificate = certificate.signed_by(&key, &issuer).unwrap();
        fs::write(self.ca_file(), root).unwrap();
        fs::write(self.path("relay.pem"), certificate.pem()).unwrap();
        fs::write(self.path("relay.key"), key.serialize_pem()).unwrap();
    }

    /// Sets the password of [`USER`], at once.
    pub(super) fn set_password(&self, password: &str) {
        let passwords = self.path("etc/sasldb2");
        let mut command = Command::new("saslpasswd2");
        command.args(["-p", "-c", "-u", REALM, "-f"]).arg(&passwords).arg(USER);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "saslpasswd2");
        run(Command::new("chown").arg("root:postfix").arg(&passwords));
        run(Command::new("chmod").arg("640").arg(&passwords));
    }

    fn control(&self, verb: &str) -> std::process::Output {
        // A daemon keeps what it inherits: a pipe would never come to its end.
        let said = self.path("said");
        let output = fs::File::create(&said).unwrap();
        let mut command = Command::new("postfix");
        command.arg("-c").arg(self.path("etc")).arg(verb).env_remove("MAIL_CONFIG");
        let errors = output.try_clone().unwrap();
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let status = command.status().unwrap();
        let stderr = fs::read(said).unwrap();
        std::process::Output { status, stdout: Vec::new(), stderr }
    }

    /// What it logged so far.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Waits until so many log lines have all of `words`: a program of its own writes them, in its time.
    pub(super) async fn logs(&self, words: &[&str], count: usize) {
        until(&format!("{count} lines with {words:?}"), async || {
            (self.logged(words) >= count).then_some(())
        })
        .await;
        assert_eq!(self.logged(words), count, "{words:?}: {}", self.log());
    }

    /// How many log lines have all of `words`.
    pub(super) fn logged(&self, words: &[&str]) -> usize {
        self.log().lines().filter(|line| words.iter().all(|word| line.contains(word))).count()
    }

    /// The messages in the mailbox of `user`.
    pub(super) fn mailbox(&self, user: &str) -> Vec<Vec<u8>> {
        files(&self.path("mail").join(user).join("new"))
            .into_iter()
            .map(|file| fs::read(file).unwrap())
            .collect()
    }

    /// How many messages are in all mailboxes, also ones that nobody ought to have.
    pub(super) fn delivered(&self) -> usize {
        let mailboxes = self.path("mail");
        files(&mailboxes).iter().map(|mailbox| files(&mailbox.join("new")).len()).sum()
    }

    /// Whether all mail it took was delivered or returned.
    pub(super) fn is_done(&self) -> bool {
        WAITING.iter().all(|folder| is_empty(&self.path("queue").join(folder)))
    }
}

impl Drop for Postfix {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            eprintln!("Postfix's log ends so, backwards:\n{}", tail.join("\n"));
        }
        self.control("stop");
    }
}

/// A root certificate as PEM, and what issues in its name.
pub(crate) fn authority(name: &str) -> (String, Issuer<'static, KeyPair>) {
    let mut root = CertificateParams::new(vec![]).unwrap();
    root.distinguished_name.push(DnType::CommonName, name);
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().unwrap();
    let certificate = root.self_signed(&key).unwrap();
    (certificate.pem(), Issuer::new(root, key))
}

/// Why no Postfix can be started here, if so.
fn missing() -> Option<String> {
    let is_root = run(Command::new("id").arg("-u")) == "0";
    if !is_root {
        return Some(
            "its programs change users, which only root may; run the tests as root".into(),
        );
    }
    let absent = ["postfix", "saslpasswd2"]
        .into_iter()
        .find(|program| Command::new(program).arg("--").stderr(Stdio::null()).output().is_err())?;
    let advice = format!("{absent} is not installed; tests/run installs it");
    assert!(std::env::var_os("CI").is_none(), "{advice}");
    Some(advice)
}

/// Runs a command that must work; returns its one line of output.
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// What is in a folder, if it is there.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    // Files that go while the folder is read are no files any more.
    entries.flatten().map(|entry| entry.path()).collect()
}

/// Whether there is no file in a folder or the folders below it.
fn is_empty(folder: &Path) -> bool {
    files(folder).iter().all(|path| path.is_dir() && is_empty(path))
}
