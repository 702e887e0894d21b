//! The reader and the classifier against real returned mail. The corpus lies beside the project
//! and is not part of it; without it these tests say so loudly and pass.

use std::{collections::HashSet, fmt::Write as _, fs, path::PathBuf};

use proptest::prelude::*;
use serde_json::Value;

use super::{
    classify::Classification,
    report::{self, Action, Kind, Report},
};
use crate::provider::Providers;

pub(super) fn corpus() -> Option<(PathBuf, Vec<Value>)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/corpora/bounces");
    let Ok(manifest) = fs::read_to_string(root.join("manifest.jsonl")) else {
        eprintln!("SKIPPED: no corpus at ../shared/corpora/bounces; nothing was measured");
        return None;
    };
    let rows = manifest.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    Some((root, rows))
}

fn classes(report: &Report) -> Vec<Classification> {
    let provider = |address: &str| Providers::embedded().of_address(address);
    report
        .recipients
        .iter()
        .filter(|r| r.action != Some(Action::Delivered))
        .map(|r| r.classify(provider(&r.address)))
        .collect()
}

/// The corpus has no word for some kinds.
fn kind_label(kind: Kind) -> &'static str {
    match kind {
        Kind::Failed => "bounce",
        Kind::Delayed => "delayed",
        Kind::Delivered => "delivered",
        Kind::Complaint | Kind::AuthFailure | Kind::Unsubscribe => "complaint",
        Kind::AutoReply => "autoreply",
        Kind::Challenge => "challenge",
        Kind::NotAReport => "other",
    }
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
    fn compare(&mut self, row: &Value, report: &Report, hard: bool) -> Vec<String> {
        let mut miss = Vec::new();
        let kind = kind_label(report.kind);
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
            miss.extend(self.compare_names(row, report));
            miss.extend(self.compare_status(row, report));
        } else {
            self.taken_for_bounces += usize::from(bounce);
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

    fn compare_names(&mut self, row: &Value, report: &Report) -> Option<String> {
        let wanted = expected(row);
        if wanted.is_empty() {
            return None;
        }
        self.named += 1;
        let got = addresses(report);
        let all = wanted.iter().all(|w| !w.is_disjoint(&got));
        if all && got.iter().all(|g| wanted.iter().any(|w| w.contains(g))) {
            self.named_right += 1;
            return None;
        }
        Some(format!("named {got:?}"))
    }

    fn compare_status(&mut self, row: &Value, report: &Report) -> Option<String> {
        let status = row["status"].as_str()?;
        self.statuses += 1;
        let first = report.recipients.first().and_then(|r| r.status);
        let first = first.map(|code| code.to_string()).unwrap_or_default();
        if first == status {
            self.statuses_right += 1;
            return None;
        }
        Some(format!("status {first}"))
    }
}

fn addresses(report: &Report) -> HashSet<String> {
    report.recipients.iter().map(|r| r.address.to_lowercase()).collect()
}

/// Set `POSTRIDER_CORPUS_REPORT` to a folder to get predictions for the corpus's own scorer, and
/// the misses with what was read.
#[test]
fn real_returned_mail_is_read_as_labelled() {
    let Some((root, rows)) = corpus() else { return };
    let mut score = Score::default();
    let (mut log, mut predictions) = (String::new(), String::new());
    for row in &rows {
        let id = &row["id"];
        let raw = fs::read(root.join(row["file"].as_str().unwrap())).unwrap();
        let report = report::read(&raw, None).unwrap();
        let classes = classes(&report);
        // One label stands for the whole mail: the first recipient's.
        let dead = classes.first().is_some_and(Classification::is_hard);
        let hard = report.kind == Kind::Failed && dead;
        let miss = score.compare(row, &report, hard);
        if !miss.is_empty() {
            let class = classes.first().map(|c| (c.rule, c.fault, c.permanence, c.grounds));
            let said =
                report.recipients.first().map(|r| (r.code, r.status, r.phase, &r.diagnostic));
            let label = (&row["kind"], &row["reason"], &row["status"]);
            writeln!(log, "{id}: {miss:?} label {label:?} {class:?} {said:?}").unwrap();
        }
        let prediction = serde_json::json!({
            "id": id,
            "kind": kind_label(report.kind),
            "recipients": addresses(&report),
            "hard": hard,
            "fault": classes.first().map(|c| c.fault),
            "rule": classes.first().map(|c| c.rule),
            "said": report.recipients.first().map(|r| &r.diagnostic),
            "crash": false,
        });
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
    assert!(score.bounces_seen >= 385, "bounces overlooked:\n{log}");
    assert!(score.kinds_right >= 445, "kinds mistaken:\n{log}");
    assert!(score.named_right >= 383, "recipients mistaken:\n{log}");
    assert!(score.statuses_right >= 277, "status codes mistaken:\n{log}");
    assert!(score.hard_seen >= 113, "dead addresses overlooked:\n{log}");
}

#[test]
fn ordinary_mail_is_no_report() {
    let Some((root, _)) = corpus() else { return };
    let mut seen = 0;
    for entry in fs::read_dir(root.join("ordinary")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let kind = report::read(&fs::read(&path).unwrap(), None).unwrap().kind;
            assert!(
                !matches!(kind, Kind::Failed | Kind::Delayed | Kind::Complaint),
                "{path:?}: {kind:?}"
            );
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
        classes(&report);
    }
}
