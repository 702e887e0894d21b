//! `postrider bounce explain`: how mails are read, and which field, words or rule decided. Works on
//! files alone; where an installation's keys are at hand, it also says whose copy a mail is about. What
//! a provider posted, saved as a file, is explained event by event.

use std::{
    io::{self, BufWriter, Read as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde::Serialize;

use crate::{
    bounce::{
        apply,
        explain::{ExplainedRecipient, Explanation, explain, explain_event},
        intake::{
            pipe::noted_recipient,
            webhook::{self, Provider, is_json},
        },
        report::{self, Report, SIZE_MAX},
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
    /// Files with one mail or one provider's request each, folders of such files, or `-` for
    /// standard input
    #[arg(required = true, value_name = "FILE|FOLDER")]
    paths: Vec<PathBuf>,
    /// The address the mails came to [default: what a mail server noted in each]
    #[arg(long, value_name = "ADDRESS")]
    recipient: Option<String>,
    /// The files are what this provider posted, such as sendgrid [default: told by their shape, where
    /// they are JSON]
    #[arg(long, value_name = "NAME", value_parser = provider)]
    provider: Option<Provider>,
    #[command(flatten)]
    format: Format,
}

fn provider(name: &str) -> Result<Provider, String> {
    let names = || Provider::ALL.map(Provider::as_str).join(", ");
    Provider::by_name(name).ok_or_else(|| format!("it is none of {}", names()))
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
    sender: Option<Provider>,
    providers: Providers,
    keyring: Option<Keyring>,
    now: Timestamp,
}

/// Runs the command.
pub(super) fn run(config: Option<&Path>, args: &ExplainArgs) -> anyhow::Result<()> {
    let config = load_config(config)?;
    let reader = Reader {
        recipient: args.recipient.as_deref(),
        sender: args.provider,
        providers: tables(&config)?,
        keyring: Keyring::load(&config.key_file()).ok(),
        now: Timestamp::now(),
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let mut unread = 0;
    for path in &args.paths {
        for file in files(path)? {
            match reader.read(&file) {
                Ok(explanations) => {
                    for explanation in explanations {
                        print(&mut out, &file, explanation, args.format)?;
                    }
                }
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
    /// One explanation of a mail, one of each event of a payload.
    fn read(&self, file: &Path) -> anyhow::Result<Vec<Explanation>> {
        let mut raw = Vec::new();
        // One octet more than is read, so that what is too large is seen to be.
        let most = SIZE_MAX as u64 + 1;
        if file == Path::new("-") {
            io::stdin().lock().take(most).read_to_end(&mut raw)?;
        } else {
            std::fs::File::open(file)?.take(most).read_to_end(&mut raw)?;
        }
        if self.sender.is_some() || is_json(&raw) {
            return self.events(&raw);
        }
        let noted = || noted_recipient(&raw, self.keyring.as_ref()?);
        let recipient = self.recipient.map(str::to_owned).or_else(noted);
        let report = report::read(&raw, recipient.as_deref())?;
        Ok(vec![self.attributed(explain(&report, &self.providers), &report)])
    }

    fn events(&self, payload: &[u8]) -> anyhow::Result<Vec<Explanation>> {
        let sender = self.sender.or_else(|| Provider::by_shape(payload)).context(
            "it is JSON, but of no provider that is known by it; say whose it is with --provider",
        )?;
        let explained = |event| {
            let explanation = explain_event(sender, event, &self.providers);
            self.attributed(explanation, &event.report())
        };
        let events = webhook::read(sender, payload)?;
        anyhow::ensure!(!events.is_empty(), "no event of {sender} is in it");
        Ok(events.iter().map(explained).collect())
    }

    /// Adds whose copy it is about.
    fn attributed(&self, mut explanation: Explanation, report: &Report) -> Explanation {
        let keyring = self.keyring.as_ref();
        explanation.delivery = keyring.and_then(|keys| apply::named_by(keys, report, self.now));
        explanation
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

    fn reader() -> Reader<'static> {
        Reader {
            recipient: None,
            sender: None,
            providers: Providers::embedded().clone(),
            keyring: None,
            now: Timestamp::now(),
        }
    }

    #[test]
    fn a_folder_is_read_in_order_and_explained_in_words() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("a")).unwrap();
        for name in ["b.eml", "a/z.eml"] {
            std::fs::write(folder.path().join(name), MAIL).unwrap();
        }
        let found = files(folder.path()).unwrap();
        assert!(found[0].ends_with("a/z.eml") && found[1].ends_with("b.eml"), "{found:?}");
        let reader = reader();
        insta::assert_snapshot!(in_words(&reader.read(&found[1]).unwrap()[0]).join("\n"), @r"
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
        let reader = reader();
        assert!(reader.read(&file).unwrap_err().to_string().contains("no more than"));
    }

    #[test]
    fn what_a_provider_posted_is_explained_event_by_event() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("posted.json");
        let posted = r#"[
            {"event": "bounce", "email": "ada@example.org", "sg_event_id": "1", "status": "5.1.1",
             "reason": "550 5.1.1 no such user", "bounce_classification": "Invalid Address"},
            {"event": "open", "email": "bob@example.org", "sg_event_id": "2"}]"#;
        std::fs::write(&file, posted).unwrap();
        let told = reader().read(&file).unwrap();
        insta::assert_snapshot!(told.iter().flat_map(in_words).collect::<Vec<_>>().join("\n"), @r"
        kind:      bounce, by event `bounced` of sendgrid
        recipient: ada@example.org
          codes:   550 5.1.1
          said:    550 5.1.1 no such user
          class:   recipient.permanent, no-such-user, by rule no-such-user (stated)
          address: dead
        kind:      other, by event `opened` of sendgrid
        recipient: bob@example.org
        ");
        // Another provider's words are not in it.
        let reader = Reader { sender: Some(Provider::Brevo), ..reader() };
        assert!(reader.read(&file).unwrap().iter().all(|told| !told.hard));
    }

    #[test]
    fn json_of_nobody_in_particular_needs_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("posted.json");
        std::fs::write(&file, r#"{"type": "email.bounced", "data": {"to": "ada@example.org"}}"#)
            .unwrap();
        assert!(reader().read(&file).unwrap_err().to_string().contains("--provider"));
        let named = Reader { sender: Some(Provider::Resend), ..reader() };
        assert_eq!(named.read(&file).unwrap()[0].kind, "bounce");
        assert!(provider("resent").unwrap_err().contains("resend"));
    }
}
