//! `postrider bounce explain`: how mails are read, and which field, words or rule decided. Works on
//! files alone; where an installation's keys are at hand, it also says whose copy a mail is about.

use std::{
    io::{self, BufWriter, Read as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::Serialize;

use crate::{
    bounce::{
        apply,
        explain::{ExplainedRecipient, Explanation, explain},
        intake::pipe::noted_recipient,
        report::{self, SIZE_MAX},
    },
    cli::{
        context::{load_config, tables},
        output::{self, Format, clean},
    },
    provider::Providers,
    timestamp::Timestamp,
    token::Keyring,
};

/// What `bounce explain` takes.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ExplainArgs {
    /// Files with one mail each, folders of such files, or `-` for standard input
    #[arg(required = true, value_name = "FILE|FOLDER")]
    paths: Vec<PathBuf>,
    /// The address the mails came to [default: what a mail server noted in each]
    #[arg(long, value_name = "ADDRESS")]
    recipient: Option<String>,
    #[command(flatten)]
    format: Format,
}

/// One line of the output.
#[derive(Serialize)]
struct Line<'a> {
    file: &'a str,
    #[serde(flatten)]
    explanation: Explanation,
}

/// Everything that helps reading; nothing of it has to be there.
struct Reader<'a> {
    recipient: Option<&'a str>,
    providers: Providers,
    keyring: Option<Keyring>,
    now: Timestamp,
}

/// Runs the command.
pub(super) fn run(config: Option<&Path>, args: &ExplainArgs) -> anyhow::Result<()> {
    let config = load_config(config)?;
    let reader = Reader {
        recipient: args.recipient.as_deref(),
        providers: tables(&config)?,
        keyring: Keyring::load(&config.key_file()).ok(),
        now: Timestamp::now(),
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let mut unread = 0;
    for path in &args.paths {
        for file in files(path)? {
            match reader.read(&file) {
                Ok(explanation) => print(&mut out, &file, explanation, args.format)?,
                Err(error) => {
                    output::say(format!("{}: {error:#}", clean(&file.display().to_string())));
                    unread += 1;
                }
            }
        }
    }
    out.flush()?;
    anyhow::ensure!(unread == 0, "{} could not be read", output::counted(unread, "file"));
    Ok(())
}

/// The file itself, or every file below the folder, in the order of their names.
fn files(path: &Path) -> anyhow::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let (mut found, mut folders) = (Vec::new(), vec![path.to_owned()]);
    while let Some(folder) = folders.pop() {
        let entries = folder.read_dir();
        for entry in entries.with_context(|| format!("{} cannot be read", folder.display()))? {
            let entry = entry?;
            // A link to a folder is not followed: it could lead back.
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() || entry.path().is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found)
}

impl Reader<'_> {
    fn read(&self, file: &Path) -> anyhow::Result<Explanation> {
        let mut raw = Vec::new();
        // One octet more than is read, so that what is too large is seen to be.
        let most = SIZE_MAX as u64 + 1;
        if file == Path::new("-") {
            io::stdin().lock().take(most).read_to_end(&mut raw)?;
        } else {
            std::fs::File::open(file)?.take(most).read_to_end(&mut raw)?;
        }
        let noted = || noted_recipient(&raw, self.keyring.as_ref()?);
        let recipient = self.recipient.map(str::to_owned).or_else(noted);
        let report = report::read(&raw, recipient.as_deref())?;
        let mut explanation = explain(&report, &self.providers);
        let keyring = self.keyring.as_ref();
        explanation.delivery = keyring.and_then(|keys| apply::named_by(keys, &report, self.now));
        Ok(explanation)
    }
}

fn print(
    out: &mut impl io::Write,
    file: &Path,
    explanation: Explanation,
    format: Format,
) -> io::Result<()> {
    let file = file.display().to_string();
    if format.json {
        serde_json::to_writer(&mut *out, &Line { file: &file, explanation })?;
        return out.write_all(b"\n");
    }
    writeln!(out, "{}", clean(&file))?;
    for line in in_words(&explanation) {
        writeln!(out, "  {}", clean(&line))?;
    }
    Ok(())
}

/// The explanation for people, a line a fact.
pub(super) fn in_words(explanation: &Explanation) -> Vec<String> {
    let basis = explanation.decided_by.split("; rule ").next().unwrap_or_default();
    let mut lines = vec![format!("kind:      {}, by {basis}", explanation.kind)];
    for (name, value) in [
        ("token:    ", &explanation.delivery),
        ("server:   ", &explanation.reporting_mta),
        ("returned: ", &explanation.message_id),
    ] {
        lines.extend(value.as_ref().map(|value| format!("{name} {value}")));
    }
    for recipient in &explanation.each {
        lines.extend(recipient_in_words(recipient));
    }
    lines
}

fn recipient_in_words(recipient: &ExplainedRecipient) -> Vec<String> {
    let asked = recipient.original.as_ref().map(|o| format!(" (asked for {o})"));
    let mut lines = vec![format!("recipient: {}{}", recipient.address, asked.unwrap_or_default())];
    let codes = [
        recipient.code.map(|code| code.to_string()),
        recipient.status.map(|status| status.to_string()),
        recipient.phase.as_ref().map(|phase| format!("at {phase}")),
    ];
    let codes: Vec<_> = codes.into_iter().flatten().collect();
    if !codes.is_empty() {
        lines.push(format!("  codes:   {}", codes.join(" ")));
    }
    if !recipient.said.is_empty() {
        lines.push(format!("  said:    {}", recipient.said));
    }
    if let Some(class) = &recipient.class {
        let json = serde_json::to_value(class).unwrap_or_default();
        let word = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
        lines.push(format!(
            "  class:   {}.{}, {}, by rule {} ({})",
            word("fault"),
            word("permanence"),
            word("reason"),
            word("rule"),
            word("grounds"),
        ));
    }
    if recipient.hard {
        lines.push("  address: dead".to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIL: &str = "Return-Path: <>\nFrom: MAILER-DAEMON@mx.example.org\nSubject: failure notice\n\n\
        Sorry, this could not be delivered.\n\n<ada@example.org>:\n550 5.1.1 no such user\n";

    #[test]
    fn a_folder_is_read_in_order_and_explained_in_words() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        for name in ["b.eml", "a/z.eml"] {
            std::fs::write(folder.path().join(name), MAIL).unwrap();
        }
        let found = files(folder.path()).unwrap();
        assert!(found[0].ends_with("a/z.eml") && found[1].ends_with("b.eml"), "{found:?}");
        let reader = Reader {
            recipient: None,
            providers: Providers::embedded().clone(),
            keyring: None,
            now: Timestamp::now(),
        };
        insta::assert_snapshot!(in_words(&reader.read(&found[1]).unwrap()).join("\n"), @r"
        kind:      bounce, by subject `failure notice`
        recipient: ada@example.org
          codes:   550 5.1.1
          said:    <ada@example.org>: 550 5.1.1 no such user
          class:   recipient.permanent, no-such-user, by rule no-such-user (stated)
          address: dead
        ");
    }

    #[test]
    fn what_is_too_large_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("large.eml");
        std::fs::write(&file, vec![b'x'; SIZE_MAX + 2]).unwrap();
        let reader = Reader {
            recipient: None,
            providers: Providers::embedded().clone(),
            keyring: None,
            now: Timestamp::now(),
        };
        assert!(reader.read(&file).unwrap_err().to_string().contains("no more than"));
    }
}
