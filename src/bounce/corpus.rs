//! The reader and the classifier against real returned mail. The corpus lies beside the project
//! and is not part of it; without it these tests say so loudly and pass.

use std::{collections::HashSet, fmt::Write as _, fs, path::PathBuf};

use proptest::prelude::*;
use serde_json::Value;

use super::{
    explain::{Explanation, explain},
    report,
};
use crate::provider::Providers;

pub(super) fn corpus() -> Option<(PathBuf, Vec<Value>)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/corpora/bounces");
    let Ok(manifest) = fs::read_to_string(root.join("manifest.jsonl")) else {
        crate::skip::skipped("no corpus at ../shared/corpora/bounces; nothing was measured");
        return None;
    };
    let rows = manifest.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    Some((root, rows))
}

fn explained(raw: &[u8]) -> Explanation {
    explain(&report::read(raw, None).unwrap(), Providers::embedded())
}

#[derive(Default, Debug)]
struct Score {
    bounces: usize,
    bounces_seen: usize,
    taken_for_bounces: usize,
    kinds: usize,
    kinds_right: usize,
    named: usize,
    named_right: usize,
    statuses: usize,
    statuses_right: usize,
    hard: usize,
    hard_seen: usize,
    false_hard: usize,
    faults: usize,
    faults_right: usize,
}

/// The addresses that are right for a row: each expected one with its aliases.
fn expected(row: &Value) -> Vec<HashSet<String>> {
    let lower = |v: &Value| v.as_str().unwrap_or_default().to_lowercase();
    let details = row["details"].as_array().cloned().unwrap_or_default();
    row["expected_recipients"]
        .as_array()
        .into_iter()
        .flatten()
        .map(lower)
        .map(|wanted| {
            let same = details.iter().filter(|d| lower(&d["recipient"]) == wanted);
            let aliases = same.flat_map(|d| d["aliases"].as_array().cloned().unwrap_or_default());
            aliases.map(|a| lower(&a)).chain([wanted.clone()]).collect()
        })
        .collect()
}

impl Score {
    /// Compares one mail with its labels; says what was wrong.
    fn compare(&mut self, row: &Value, read: &Explanation) -> Vec<String> {
        let mut miss = Vec::new();
        let (kind, hard) = (read.kind, read.hard);
        let bounce = matches!(kind, "bounce" | "delayed");
        self.kinds += 1;
        if row["kind"] == kind {
            self.kinds_right += 1;
        } else {
            miss.push(format!("kind {kind}"));
        }
        if row["is_bounce"] == true {
            self.bounces += 1;
            self.bounces_seen += usize::from(bounce);
            miss.extend(self.compare_names(row, read));
            miss.extend(self.compare_status(row, read));
        } else {
            self.taken_for_bounces += usize::from(bounce);
        }
        if let Some(fault) = row["fault"].as_str().filter(|f| !matches!(*f, "none" | "unknown")) {
            self.faults += 1;
            self.faults_right += usize::from(fault == read.fault);
            if fault != read.fault {
                miss.push(format!("fault {} for {fault}", read.fault));
            }
        }
        if let (Some("bounce"), Some(label)) = (row["kind"].as_str(), row["hard"].as_bool()) {
            self.hard += usize::from(label);
            self.hard_seen += usize::from(hard && label);
            self.false_hard += usize::from(hard && !label);
            if hard != label {
                miss.push(if label { "hard missed" } else { "FALSE HARD" }.into());
            }
        }
        miss
    }

    fn compare_names(&mut self, row: &Value, read: &Explanation) -> Option<String> {
        let wanted = expected(row);
        if wanted.is_empty() {
            return None;
        }
        self.named += 1;
        let got: HashSet<_> = read.recipients.iter().map(|r| r.to_lowercase()).collect();
        let all = wanted.iter().all(|w| !w.is_disjoint(&got));
        if all && got.iter().all(|g| wanted.iter().any(|w| w.contains(g))) {
            self.named_right += 1;
            return None;
        }
        Some(format!("named {got:?}"))
    }

    fn compare_status(&mut self, row: &Value, read: &Explanation) -> Option<String> {
        let status = row["status"].as_str()?;
        self.statuses += 1;
        let first = read.status.clone().unwrap_or_default();
        if first == status {
            self.statuses_right += 1;
            return None;
        }
        Some(format!("status {first}"))
    }
}

/// Set `POSTRIDER_CORPUS_REPORT` to a folder to get predictions for the corpus's own scorer, and
/// the misses with what was read.
#[test]
fn real_returned_mail_is_read_as_labelled() {
    let Some((root, rows)) = corpus() else { return };
    let mut score = Score::default();
    let (mut log, mut predictions) = (String::new(), String::new());
    for row in &rows {
        let raw = fs::read(root.join(row["file"].as_str().unwrap())).unwrap();
        let read = explained(&raw);
        let miss = score.compare(row, &read);
        if !miss.is_empty() {
            let label = (&row["kind"], &row["reason"], &row["status"]);
            writeln!(log, "{}: {miss:?} label {label:?} {read:?}", row["id"]).unwrap();
        }
        let mut prediction = serde_json::to_value(&read).unwrap();
        prediction["id"] = row["id"].clone();
        writeln!(predictions, "{prediction}").unwrap();
    }
    if let Ok(folder) = std::env::var("POSTRIDER_CORPUS_REPORT") {
        fs::write(format!("{folder}/predictions.jsonl"), predictions).unwrap();
        fs::write(format!("{folder}/misses.txt"), &log).unwrap();
    }
    eprintln!("{score:#?}");
    assert_eq!(score.false_hard, 0, "a living reader would be suppressed:\n{log}");
    assert_eq!(score.taken_for_bounces, 0, "ordinary mail was taken for a bounce:\n{log}");
    // Floors: what was reached once is not given up unnoticed.
    assert!(score.bounces_seen >= 388, "bounces overlooked:\n{log}");
    assert!(score.kinds_right >= 449, "kinds mistaken:\n{log}");
    assert!(score.named_right >= 388, "recipients mistaken:\n{log}");
    assert!(score.statuses_right >= 279, "status codes mistaken:\n{log}");
    assert!(score.hard_seen >= 120, "dead addresses overlooked:\n{log}");
    assert!(score.faults_right >= 383, "faults mistaken:\n{log}");
}

/// The corpus holds some mails a second time with other line ends.
#[test]
fn line_ends_change_nothing_in_real_mail() {
    let Some((root, rows)) = corpus() else { return };
    let read =
        |row: &Value| explained(&fs::read(root.join(row["file"].as_str().unwrap())).unwrap());
    let mut seen = 0;
    for row in rows.iter().filter(|row| row["variant_of"].is_string()) {
        let with_lf = rows.iter().find(|other| other["id"] == row["variant_of"]);
        assert_eq!(read(row), read(with_lf.unwrap()), "{}", row["id"]);
        seen += 1;
    }
    assert!(seen > 50, "the variants are missing");
}

#[test]
fn ordinary_mail_is_no_report() {
    let Some((root, _)) = corpus() else { return };
    let mut seen = 0;
    for entry in fs::read_dir(root.join("ordinary")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let kind = explained(&fs::read(&path).unwrap()).kind;
            assert!(!matches!(kind, "bounce" | "delayed" | "complaint"), "{path:?}: {kind}");
            seen += 1;
        }
    }
    assert!(seen > 20, "the ordinary mails are missing");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn mutated_reports_never_panic(
        pick in any::<prop::sample::Index>(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0usize..40), 0..40),
        cut in any::<prop::sample::Index>(),
    ) {
        let Some((root, rows)) = corpus() else { return Ok(()) };
        let row = pick.get(&rows);
        let mut raw = fs::read(root.join(row["file"].as_str().unwrap())).unwrap();
        for (at, byte, drop) in edits {
            if raw.is_empty() { break }
            let at = at.index(raw.len());
            raw[at] = byte;
            raw.drain(at..(at + drop).min(raw.len()));
        }
        raw.truncate(cut.index(raw.len() + 1).max(raw.len() / 2));
        let report = report::read(&raw, Some("b+token@bounce.example")).unwrap();
        explain(&report, Providers::embedded());
    }
}
