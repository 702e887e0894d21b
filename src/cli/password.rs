//! Where a new password comes from: a file, a person at a terminal, or nowhere, and then it is made
//! up and shown once. Never from the command line, which every user of the machine can read.

use std::{io::IsTerminal as _, path::Path};

use anyhow::Context as _;
use console::Term;

use super::output::{self, say};
use crate::token::random_token;

/// Characters of a password that is made up: 100 random bits.
const MADE_UP_CHARS: usize = 20;

/// A new password.
pub(super) struct NewPassword {
    /// The password.
    pub(super) text: String,
    made_up: bool,
}

impl NewPassword {
    /// The password in the first line of `file`; without one, what the person at the terminal types;
    /// else one that is made up.
    pub(super) async fn ask(file: Option<&Path>, whose: &str) -> anyhow::Result<Self> {
        if let Some(file) = file {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("the password file {} cannot be read", file.display()))?;
            let text = text.lines().next().unwrap_or_default().to_owned();
            anyhow::ensure!(!text.is_empty(), "the first line of {} is empty", file.display());
            return Ok(Self { text, made_up: false });
        }
        if std::io::stdin().is_terminal() && std::io::stderr().is_terminal() {
            let whose = whose.to_owned();
            let typed = tokio::task::spawn_blocking(move || type_twice(&whose)).await??;
            if !typed.is_empty() {
                return Ok(Self { text: typed, made_up: false });
            }
        }
        let mut text = random_token();
        text.truncate(MADE_UP_CHARS);
        Ok(Self { text, made_up: true })
    }

    /// Shows a password that was made up, once it is in force.
    pub(super) fn show(&self, whose: &str) -> std::io::Result<()> {
        if !self.made_up {
            return Ok(());
        }
        say(format!("the password of `{whose}`, shown this once:"));
        output::line(&self.text)
    }
}

/// Asks until the same password was typed twice; an empty one means none.
fn type_twice(whose: &str) -> anyhow::Result<String> {
    let terminal = Term::stderr();
    loop {
        terminal.write_str(&format!("Password for `{whose}` (empty: one is made up): "))?;
        let first = terminal.read_secure_line()?;
        if first.is_empty() {
            return Ok(first);
        }
        terminal.write_str("Once more: ")?;
        if terminal.read_secure_line()? == first {
            return Ok(first);
        }
        say("they differ");
    }
}
