//! A Dovecot of our own with one mailbox: its configuration, passwords and mails are in a temporary
//! folder, it listens on loopback, and nothing in `/etc/dovecot` is looked at or changed.

use std::{
    fs,
    net::TcpStream,
    os::unix::fs::{PermissionsExt as _, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use rcgen::{CertificateParams, DnType, KeyPair};
use tempfile::TempDir;

use crate::{
    harness::{free_port, quick_folder, until},
    postfix::instance::authority,
};

/// Whose mailbox it is.
pub(super) const USER: &str = "returns";
/// With which password.
pub(super) const PASSWORD: &str = "the \"right\" password";
/// Who owns the mails: nobody.
const OWNER: u32 = 65_534;

static MAILS: AtomicU32 = AtomicU32::new(0);

/// A running Dovecot; stopped when dropped.
pub(super) struct Dovecot {
    folder: TempDir,
    child: Option<Child>,
    pub(super) imap: u16,
    pub(super) imaps: u16,
    pub(super) pop3: u16,
    pub(super) pop3s: u16,
}

impl Dovecot {
    /// Starts one, or says why it cannot be had here.
    pub(super) async fn start() -> Option<Self> {
        Self::with("").await
    }

    /// The same, with more in its configuration for IMAP.
    pub(super) async fn with(more: &str) -> Option<Self> {
        if let Some(why) = missing() {
            crate::harness::skipped(&format!("no private Dovecot: {why}"));
            return None;
        }
        let [imap, imaps, pop3, pop3s] = [(); 4].map(|()| free_port());
        let mut dovecot = Self { folder: quick_folder(), child: None, imap, imaps, pop3, pop3s };
        dovecot.lay_out(more);
        dovecot.run().await;
        Some(dovecot)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The root certificate that vouches for it, under the name `localhost`.
    pub(super) fn ca_file(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// The mailbox, as a maildir.
    pub(super) fn mailbox(&self) -> PathBuf {
        self.path("mail")
    }

    /// A folder of the mailbox.
    pub(super) fn folder(&self, name: &str) -> PathBuf {
        self.mailbox().join(format!(".{name}"))
    }

    fn lay_out(&self, more: &str) {
        // Its programs run as other users and have to get at their folders below.
        let open = fs::Permissions::from_mode(0o711);
        fs::set_permissions(self.folder.path(), open).unwrap();
        for folder in ["home", "mail", "mail/new", "mail/cur", "mail/tmp"] {
            fs::create_dir_all(self.path(folder)).unwrap();
            chown(self.path(folder), Some(OWNER), Some(OWNER)).unwrap();
        }
        let mut certificate = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        certificate.distinguished_name.push(DnType::CommonName, "localhost");
        let (root, issuer) = authority("Root of this server");
        let key = KeyPair::generate().unwrap();
        let certificate = certificate.signed_by(&key, &issuer).unwrap();
        let write = |name: &str, text: &str| fs::write(self.path(name), text).unwrap();
        write("ca.pem", &root);
        write("server.pem", &certificate.pem());
        write("server.key", &key.serialize_pem());
        write("users", &format!("{USER}:{PASSWORD}\n"));
        fs::set_permissions(self.path("users"), fs::Permissions::from_mode(0o644)).unwrap();
        let text = include_str!("dovecot.conf")
            .replace("@FOLDER@", self.folder.path().to_str().unwrap())
            .replace("@IMAP@", &self.imap.to_string())
            .replace("@IMAPS@", &self.imaps.to_string())
            .replace("@POP3@", &self.pop3.to_string())
            .replace("@POP3S@", &self.pop3s.to_string())
            .replace("@MORE@", more);
        write("dovecot.conf", &text);
    }

    /// Starts it, again after [`Dovecot::stop`].
    pub(super) async fn run(&mut self) {
        let said = fs::File::create(self.path("said")).unwrap();
        let mut command = Command::new("dovecot");
        command.arg("-F").arg("-c").arg(self.path("dovecot.conf"));
        let errors = said.try_clone().unwrap();
        command.stdin(Stdio::null()).stdout(said).stderr(errors);
        self.child = Some(command.spawn().unwrap());
        let port = self.imap;
        until("Dovecot listens", async || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            let said = || fs::read_to_string(self.path("said")).unwrap() + &self.log();
            assert!(ended.is_none(), "{}", said());
            TcpStream::connect(("127.0.0.1", port)).ok().map(drop)
        })
        .await;
    }

    /// Stops it, and every session with it.
    pub(super) fn stop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        let _ = Command::new("kill").arg(child.id().to_string()).status();
        let _ = child.wait();
    }

    /// What it logged so far.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Puts a mail into the mailbox.
    pub(super) fn deliver(&self, mail: &str) {
        deliver(&self.mailbox(), mail);
    }
}

/// Puts a mail into a maildir as a mail server does.
pub(super) fn deliver(maildir: &Path, mail: &str) {
    let number = MAILS.fetch_add(1, Ordering::Relaxed);
    let name = format!("{:010}.P{}.localhost", 1_700_000_000 + number, std::process::id());
    let file = maildir.join("tmp").join(&name);
    fs::write(&file, mail).unwrap();
    // Where that is not possible, it is not necessary either.
    let _ = chown(&file, Some(OWNER), Some(OWNER));
    fs::rename(file, maildir.join("new").join(name)).unwrap();
}

impl Drop for Dovecot {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            eprintln!("Dovecot's log ends so, backwards:\n{}", tail.join("\n"));
        }
        self.stop();
    }
}

/// Why no Dovecot can be started here, if so.
fn missing() -> Option<String> {
    let id = Command::new("id").arg("-u").output().unwrap().stdout;
    if id != b"0\n" {
        return Some("its programs change users, which only root may".to_owned());
    }
    let installed =
        ["imap", "pop3"].iter().all(|program| Path::new("/usr/lib/dovecot").join(program).exists());
    if installed {
        return None;
    }
    let advice = "dovecot-imapd or dovecot-pop3d is not installed; tests/run installs them";
    assert!(std::env::var_os("CI").is_none(), "{advice}");
    Some(advice.to_owned())
}
