//! Returned mail by the ways that need a program beside the daemon: LMTP from Postfix, mailboxes at
//! Dovecot over IMAP and POP3, and a maildir. Every test sends a real issue into a sink first, so that
//! the reports are about copies that went out, under the return paths that they went out with.

mod dovecot;
mod imap;
mod lmtp;
mod maildir;
mod pop3;
mod proxy;

use std::{collections::BTreeMap, path::Path};

use postrider::db::state::IssueState;
use serde_json::Value;

use crate::harness::{Daemon, NO_GATES, QUICK, Scene, Sink, address, until};

/// The reader is gone, and the reader's mailbox is full.
const GONE: &str = "550 5.1.1 User unknown";
const FULL: &str = "552 5.2.2 Mailbox is full";

/// A daemon whose issue is with its readers.
struct Sent {
    /// Ends before its folder goes.
    daemon: Option<Daemon>,
    scene: Scene,
    _sink: Sink,
    /// The return path of every reader's copy.
    paths: BTreeMap<String, String>,
}

impl Sent {
    /// An issue to so many readers, by a daemon with `more` in its configuration; `bounces` goes into
    /// the section of that name.
    async fn to(readers: usize, bounces: &str, more: &str) -> Self {
        Self::with(readers, bounces, more, |daemon| daemon).await
    }

    async fn with(
        readers: usize,
        bounces: &str,
        more: &str,
        prepare: impl FnOnce(Daemon) -> Daemon,
    ) -> Self {
        let sink = Sink::spawn().await;
        let options = format!("{QUICK}stages_percent = []\n{NO_GATES}{more}");
        let scene = Scene::new(&[&sink], &options).await;
        let config = scene.house.path("config.toml");
        let text = std::fs::read_to_string(&config).unwrap();
        let text = text.replacen("[bounces]\n", &format!("[bounces]\n{bounces}"), 1);
        std::fs::write(&config, text).unwrap();
        scene.import(readers);
        let daemon = prepare(Daemon::spawn(&scene).await);
        scene.send().ok();
        scene.reaches(IssueState::Sent).await;
        let journal = sink.journal();
        let path = |record: &postrider::sink::journal::Record| {
            (record.rcpt_to[0].clone(), record.mail_from.clone())
        };
        let paths: BTreeMap<_, _> = journal.iter().map(path).collect();
        assert_eq!(paths.len(), readers);
        Self { scene, daemon: Some(daemon), _sink: sink, paths }
    }

    /// The return path of reader `number`'s copy.
    fn path(&self, number: usize) -> &str {
        &self.paths[&address(number)]
    }

    /// A report on that copy.
    fn report(&self, number: usize, words: &str) -> String {
        let (to, reader) = (self.path(number), address(number));
        let status = words.split(' ').nth(1).unwrap();
        format!(
            "Return-Path: <>\r\nDelivered-To: {to}\r\nFrom: MAILER-DAEMON@mx.example.net\r\n\
             To: {to}\r\nSubject: Undelivered Mail Returned to Sender\r\nMIME-Version: 1.0\r\n\
             Content-Type: multipart/report; report-type=delivery-status; boundary=\"=-B\"\r\n\r\n\
             --=-B\r\nContent-Type: text/plain\r\n\r\nThis is the mail system at mx.example.net.\r\n\r\n\
             --=-B\r\nContent-Type: message/delivery-status\r\n\r\n\
             Reporting-MTA: dns; mx.example.net\r\n\r\nFinal-Recipient: rfc822; {reader}\r\n\
             Action: failed\r\nStatus: {status}\r\nDiagnostic-Code: smtp; {words}\r\n\r\n--=-B--\r\n"
        )
    }

    fn run(&self, words: &[&str]) -> Value {
        self.scene.house.run(words.iter().chain(&["--json"])).json()
    }

    fn reader(&self, number: usize) -> Value {
        self.run(&["subscriber", "show", &address(number)])
    }

    fn is_suppressed(&self, number: usize) -> bool {
        self.reader(number)["suppression"]["reason"] == "bounce"
    }

    async fn suppresses(&self, number: usize) {
        until("the reader is suppressed", async || self.is_suppressed(number).then_some(())).await;
    }

    /// How many mails came in with this effect, by this way.
    async fn received(&self, source: &str, effect: &str) -> i64 {
        let context = self.scene.context().await;
        let count = "SELECT COUNT(*) FROM inbound_mail WHERE source = $1 AND effect = $2";
        let query = context.db.query(count).bind(source.to_owned()).bind(effect.to_owned());
        let count = query.scalar().await.unwrap();
        context.db.close().await;
        count
    }

    /// A value of `/metrics`.
    async fn metric(&self, name: &str) -> Option<f64> {
        let url = format!("{}/metrics", self.daemon().admin());
        let text = reqwest::get(url).await.unwrap().text().await.unwrap();
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.rsplit(' ').next().unwrap().parse().ok()
    }

    fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().unwrap()
    }

    fn terminate(&mut self) {
        self.daemon.take().unwrap().terminate();
    }
}

/// A mail that has nothing to do with us.
fn letter() -> String {
    "Return-Path: <maren@example.org>\r\nFrom: Maren <maren@example.org>\r\n\
     To: returns@example.com\r\nSubject: Lunch\r\n\r\nAt noon, as always?\r\n"
        .to_owned()
}

/// How many files are in a maildir.
fn mails(maildir: &Path) -> usize {
    names(maildir).len()
}

/// Their names.
fn names(maildir: &Path) -> Vec<String> {
    let entries = |part| std::fs::read_dir(maildir.join(part)).into_iter().flatten().flatten();
    let name = |entry: std::fs::DirEntry| entry.file_name().into_string().unwrap();
    entries("new").chain(entries("cur")).map(name).collect()
}

/// Waits until there are so many.
async fn holds(maildir: &Path, count: usize) {
    let what = format!("{count} mails in {}", maildir.display());
    until(&what, async || (mails(maildir) == count).then_some(())).await;
}
