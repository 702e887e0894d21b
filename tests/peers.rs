//! What other people's software makes of our messages: Python's `email` in its strict policy reads
//! them without a defect and finds exactly what was written; dkimpy verifies both signatures.
//!
//! Needs Python with dkimpy and pynacl in the virtual environment `target/test-tools/venv`
//! (`POSTRIDER_TEST_VENV` names another). Without it the test says so and passes, but not where `CI`
//! is set.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    env,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use data_encoding::BASE64;
use postrider::{
    address::Address,
    merge::{Escape, Field, MergeText, Reader, Segment},
    smtp::{
        dkim::{self, Signer},
        message::{
            ComposedMessage, CopyFields, FeedbackId, ListFields, ListUnsubscribe, Mailbox,
            MessageKind, MessageParts, MessageTemplate,
        },
    },
    timestamp::Timestamp,
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};
use serde::Deserialize;

/// A Python that answers one line for each line.
struct Peer {
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Answer {
    error: Option<String>,
    headers: Vec<(String, String)>,
    from: (String, String),
    to: (String, String),
    types: Vec<String>,
    charsets: Vec<String>,
    bodies: Vec<String>,
    preamble: Option<String>,
    epilogue: Option<String>,
    dkim: Vec<bool>,
}

impl Peer {
    /// Starts the script, or says loudly why it cannot be run here.
    fn start() -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let venv = env::var_os("POSTRIDER_TEST_VENV")
            .map_or_else(|| root.join("target/test-tools/venv"), PathBuf::from);
        let python = venv.join("bin/python3");
        let has_modules = Command::new(&python)
            .args(["-c", "import dkim, nacl.signing"])
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !has_modules {
            let advice = format!(
                "SKIPPED: {} has no dkimpy; run: python3 -m venv {venv} && {venv}/bin/pip install \
                 dkimpy pynacl",
                python.display(),
                venv = venv.display()
            );
            assert!(env::var_os("CI").is_none(), "{advice}");
            // Past the capture of the test harness: a skip that nobody sees looks like a pass.
            let _ = writeln!(std::io::stderr(), "{advice}");
            return None;
        }
        let mut child = Command::new(&python)
            .arg(root.join("tests/peers/verify_message.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let requests = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().unwrap());
        Some(Self { child, requests, answers })
    }

    fn ask(&mut self, message: &[u8], records: &BTreeMap<String, String>) -> Answer {
        let request = serde_json::json!({ "message": BASE64.encode(message), "records": records });
        writeln!(self.requests.as_mut().unwrap(), "{request}").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.requests.take()); // the script ends with its input
        let _ = self.child.wait();
    }
}

#[derive(Debug, Clone)]
struct Row(Vec<(Field, String)>);

impl Reader for Row {
    fn value(&self, field: &Field) -> Option<Cow<'_, str>> {
        let (_, value) = self.0.iter().find(|(known, _)| known == field)?;
        Some(Cow::Borrowed(value))
    }
}

/// All that can vary in a copy.
#[derive(Debug, Clone)]
struct Case {
    subject: String,
    from_name: String,
    to_name: String,
    text: MergeText,
    html: MergeText,
    row: Row,
}

fn signers() -> Vec<Signer> {
    let signer = |selector, pem| Signer::from_pem("example.com", selector, pem).unwrap();
    vec![
        signer("rsa1", include_str!("keys/rsa2048-pkcs8.pem")),
        signer("ed1", include_str!("keys/ed25519-pkcs8.pem")),
    ]
}

fn records(signers: &[Signer]) -> BTreeMap<String, String> {
    let records = signers.iter().map(Signer::dns_record);
    records.map(|record| (record.name, record.value)).collect()
}

const UNSUBSCRIBE: &str = "https://example.com/u/aealka6t7abmt2to3nymnneergea";
const MAILTO: &str = "mailto:u+aealka6t7abmt2to3nymnneergea@example.com?subject=unsubscribe";

fn compose(case: &Case, signers: &[Signer]) -> Vec<u8> {
    let editor = Address::parse("editor@example.com").unwrap();
    let ada = Address::parse("Ada.Lovelace+sre@reader.example").unwrap();
    let parts = MessageParts {
        from: Mailbox { name: Some(&case.from_name), address: &editor },
        reply_to: Some(Mailbox { name: Some(&case.from_name), address: &editor }),
        subject: &case.subject,
        text: &case.text,
        html: &case.html,
        kind: MessageKind::Issue {
            list: ListFields {
                name: &case.from_name,
                id: "weekly.example.com",
                help: "https://example.com/help",
                archive: "https://example.com/archive",
                owner: "mailto:editor@example.com",
            },
            feedback_id: FeedbackId {
                campaign: "issue-437",
                newsletter: "weekly",
                kind: "issue",
                sender: "example",
            },
        },
    };
    let copy = CopyFields {
        reader: &case.row,
        to: Mailbox { name: Some(&case.to_name), address: &ada },
        message_id: "aealka6t7abl7lef3xdxnw5itl2a@example.com",
        date: "Sun, 11 Aug 2024 09:05:07 +0000",
        unsubscribe: Some(ListUnsubscribe { https: UNSUBSCRIBE, mailto: MAILTO }),
    };
    let mut message = ComposedMessage::default();
    MessageTemplate::compile(&parts).unwrap().compose(&copy, &mut message).unwrap();
    dkim::sign(signers, &mut message, Timestamp::now()).unwrap();
    message.to_vec()
}

fn merged(text: &MergeText, row: &Row) -> String {
    let mut out = String::new();
    text.write(row, &mut out).unwrap();
    out.replace("\r\n", "\n").replace('\n', "\r\n")
}

fn check(peer: &mut Peer, case: &Case, signers: &[Signer]) -> Result<(), TestCaseError> {
    let message = compose(case, signers);
    let answer = peer.ask(&message, &records(signers));
    prop_assert_eq!(answer.error, None, "{}", String::from_utf8_lossy(&message));
    prop_assert_eq!(answer.dkim, [true, true]);
    prop_assert_eq!(answer.types, ["text/plain", "text/html"]);
    prop_assert_eq!(answer.charsets, ["utf-8", "utf-8"]);
    prop_assert_eq!(answer.bodies, [merged(&case.text, &case.row), merged(&case.html, &case.row)]);
    prop_assert_eq!((answer.preamble, answer.epilogue.unwrap_or_default()), (None, String::new()));
    let ada = "Ada.Lovelace+sre@reader.example".to_owned();
    prop_assert_eq!(answer.to, (case.to_name.clone(), ada));
    prop_assert_eq!(answer.from, (case.from_name.clone(), "editor@example.com".to_owned()));
    for (name, expected) in [
        ("Subject", case.subject.as_str()),
        ("Message-ID", "<aealka6t7abl7lef3xdxnw5itl2a@example.com>"),
        ("Date", "Sun, 11 Aug 2024 09:05:07 +0000"),
        ("MIME-Version", "1.0"),
        ("List-Unsubscribe", &format!("<{UNSUBSCRIBE}>, <{MAILTO}>")),
        ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"),
        ("Feedback-ID", "issue-437:weekly:issue:example"),
    ] {
        let values: Vec<_> =
            answer.headers.iter().filter(|(known, _)| known == name).map(|(_, v)| v).collect();
        prop_assert_eq!(values, [expected], "{}", name);
    }
    Ok(())
}

fn slot(field: Field, escape: Escape) -> Segment {
    Segment::Slot { field, escape, fallback: None }
}

/// Text in the scripts and shapes that break encoders.
fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-z .F=\n\t\u{e9}\u{1f980}<&-]{0,160}",
        2 => "\\PC{0,120}",
        2 => "(From |\\.\n|--|=_| \n|[a-z]{60,80}|\r\n){0,8}",
        1 => Just("\u{1f980}".repeat(2_500)),
    ]
}

fn any_segments() -> impl Strategy<Value = MergeText> {
    let escape = prop_oneof![Just(Escape::Html), Just(Escape::UrlComponent), Just(Escape::Text)];
    let field = prop_oneof![Just(Field::Name), Just(Field::Address)];
    let segment = prop_oneof![
        any_text().prop_map(Segment::Literal),
        (field, escape).prop_map(|(field, escape)| slot(field, escape)),
    ];
    proptest::collection::vec(segment, 0..8).prop_map(|segments| MergeText { segments })
}

/// Words as people write them in subjects and names.
fn any_line() -> impl Strategy<Value = String> {
    let word = "([a-zA-Z]{1,12}|[#0-9,.:;'!\"()\\\\-]{1,6}|[\u{e0}-\u{ff}\u{4e00}-\u{4e80}]{1,30}|\u{1f980})";
    proptest::collection::vec(word, 1..12).prop_map(|words| words.join(" "))
}

fn any_case() -> impl Strategy<Value = Case> {
    let lines = (any_line(), any_line(), any_line());
    (lines, any_segments(), any_segments(), any_text(), any_text()).prop_map(
        |((subject, from_name, to_name), text, html, name, address)| {
            let row = Row(vec![(Field::Name, name), (Field::Address, address)]);
            Case { subject, from_name, to_name, text, html, row }
        },
    )
}

#[test]
fn strict_readers_and_verifiers_accept_every_copy() {
    let Some(mut peer) = Peer::start() else { return };
    let signers = signers();
    let peer = std::cell::RefCell::new(&mut peer);
    let config = Config { cases: 150, failure_persistence: None, ..Config::default() };
    TestRunner::new(config)
        .run(&any_case(), |case| check(&mut peer.borrow_mut(), &case, &signers))
        .unwrap();
}

#[test]
fn the_verifier_would_notice_a_change() {
    let Some(mut peer) = Peer::start() else { return };
    let signers = signers();
    let case = Case {
        subject: "Issue #437".into(),
        from_name: "Example Weekly".into(),
        to_name: "Ada".into(),
        text: MergeText::literal("Text\n"),
        html: MergeText::literal("<p>Text</p>\n"),
        row: Row(Vec::new()),
    };
    let message = String::from_utf8(compose(&case, &signers)).unwrap();
    for (from, to) in [
        ("Subject: Issue #437", "Subject: Issue #438"),
        ("List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n", ""),
        ("https://example.com/u/", "https://eve.example/u/"),
        ("<p>Text</p>", "<p>text</p>"),
        ("MIME-Version: 1.0\r\n", "MIME-Version: 1.0\r\nReply-To: eve@example.com\r\n"),
    ] {
        assert!(message.contains(from), "{from}");
        let answer = peer.ask(message.replacen(from, to, 1).as_bytes(), &records(&signers));
        assert!(!answer.dkim.contains(&true), "{from} → {to}: {answer:?}");
    }
}
