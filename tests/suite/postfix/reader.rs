//! Delivered mail, read by software that is not ours: dkimpy and Python's strict parser.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use data_encoding::BASE64;
use serde::Deserialize;

/// What they saw in one message.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Seen {
    pub(super) error: Option<String>,
    pub(super) headers: Vec<(String, String)>,
    pub(super) to: (String, String),
    pub(super) types: Vec<String>,
    pub(super) bodies: Vec<String>,
    pub(super) dkim: Vec<bool>,
}

impl Seen {
    /// The only field called `name`.
    #[track_caller]
    pub(super) fn header(&self, name: &str) -> &str {
        let fields: Vec<_> =
            self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name)).collect();
        assert_eq!(fields.len(), 1, "{name}: {fields:?}");
        &fields[0].1
    }
}

/// Reads `messages` with the DNS `records` that verifiers need; says loudly when that cannot be done.
pub(super) fn read(messages: &[Vec<u8>], records: &BTreeMap<String, String>) -> Option<Vec<Seen>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let venv = env::var_os("POSTRIDER_TEST_VENV")
        .map_or_else(|| root.join("target/test-tools/venv"), PathBuf::from);
    let python = venv.join("bin/python3");
    let modules = Command::new(&python).args(["-c", "import dkim, nacl.signing"]).output();
    if !modules.is_ok_and(|output| output.status.success()) {
        let advice = format!("{} has no dkimpy; tests/run installs it", python.display());
        assert!(env::var_os("CI").is_none(), "{advice}");
        crate::harness::skipped(&format!("delivered mail is not verified: {advice}"));
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let requests: String = messages
        .iter()
        .map(|message| serde_json::json!({ "message": BASE64.encode(message), "records": records }))
        .map(|request| format!("{request}\n"))
        .collect();
    let file = folder.path().join("requests");
    fs::write(&file, requests).unwrap();
    let output = Command::new(&python)
        .arg(root.join("tests/peers/verify_message.py"))
        .stdin(fs::File::open(&file).unwrap())
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let answers = String::from_utf8(output.stdout).unwrap();
    let seen: Vec<Seen> = answers.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(seen.len(), messages.len(), "an answer for each message");
    Some(seen)
}
