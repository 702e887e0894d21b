//! Returned mails of our own making, one for each form that some mail server is known to write, in
//! `tests/mails`; what is to be read in each stands in `expected.tsv` beside them.

use std::{fmt::Write as _, fs, path::PathBuf};

use super::{
    explain::{Explanation, explain},
    report,
};
use crate::provider::Providers;

fn read(raw: &[u8]) -> Explanation {
    explain(&report::read(raw, None).unwrap(), Providers::embedded())
}

/// Every mail with its line of the table.
fn mails() -> impl Iterator<Item = (String, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/mails");
    let table = fs::read_to_string(folder.join("expected.tsv")).unwrap();
    let lines: Vec<_> = table.lines().filter(|l| !l.starts_with('#')).map(str::to_owned).collect();
    lines.into_iter().map(move |line| {
        let name = line.split('\t').next().unwrap();
        let raw = fs::read(folder.join(format!("{name}.eml"))).unwrap();
        (line, raw)
    })
}

fn found(name: &str, read: &Explanation) -> String {
    let recipients = match read.recipients.join(",") {
        none if none.is_empty() => "-".to_owned(),
        some => some,
    };
    let hard = if read.hard { "hard" } else { "soft" };
    [name, read.kind, &recipients, read.fault, hard].join("\t")
}

#[test]
fn every_form_is_read_as_expected_with_any_line_end() {
    let mut wrong = String::new();
    for (line, raw) in mails() {
        let name = line.split('\t').next().unwrap();
        let with_lf = read(&raw);
        let said = found(name, &with_lf);
        if said != line {
            writeln!(wrong, "expected {line}\n     got {said}\n         {with_lf:?}").unwrap();
        }
        for line_end in [&b"\r\n"[..], b"\r"] {
            let raw = raw.split(|byte| *byte == b'\n').collect::<Vec<_>>().join(line_end);
            assert_eq!(read(&raw), with_lf, "{name}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// What is cut off anywhere may say less, but never more: no new death, and no bounce of what
/// was none.
#[test]
fn a_mail_that_is_cut_off_says_nothing_new() {
    for (line, raw) in mails() {
        let whole = read(&raw);
        for cut in (0..raw.len()).step_by(61) {
            let part = read(&raw[..cut]);
            let failure = |kind| matches!(kind, "bounce" | "delayed");
            assert!(!part.hard || whole.kind == "bounce", "{line} at {cut}: {part:?}");
            assert!(
                !failure(part.kind) || failure(whole.kind) || whole.kind == "delivered",
                "{line} at {cut}"
            );
        }
    }
}
