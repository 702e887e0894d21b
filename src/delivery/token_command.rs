//! Bearer tokens for XOAUTH2 from a command of the operator's: run when a token is needed, kept until
//! the relay refuses it or its lifetime is over. A token is in memory only, never in a log.

use std::{process::Stdio, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Command,
    sync::Mutex,
    time::Instant,
};

/// How long the command may run.
const DEADLINE: Duration = Duration::from_secs(30);
/// The longest output that is taken: tokens of some kilobytes exist.
const OUTPUT_MAX: usize = 16 * 1024;
/// How much of what the command complains about is shown.
const COMPLAINT_MAX: usize = 200;

/// Why there is no token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The command cannot be started.
    #[error("the token command `{command}` cannot be run: {why}")]
    NotRun {
        /// Its first word.
        command: String,
        /// What the system said.
        why: String,
    },
    /// It failed.
    #[error("the token command `{command}` failed ({status}){complaint}")]
    Failed {
        /// Its first word.
        command: String,
        /// How it ended.
        status: String,
        /// The first line of its standard error, behind a colon.
        complaint: String,
    },
    /// It ran for too long.
    #[error("the token command `{command}` was not done within {} s", DEADLINE.as_secs())]
    TooSlow {
        /// Its first word.
        command: String,
    },
    /// What it printed is no token.
    #[error("the token command `{command}` must print a token on its first line: {why}")]
    NoToken {
        /// Its first word.
        command: String,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// A command that prints a token, and the last one that it printed.
pub struct TokenCommand {
    command: Vec<String>,
    lifetime: Duration,
    kept: Mutex<Option<(String, Instant)>>,
}

impl std::fmt::Debug for TokenCommand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenCommand").field("command", &self.name()).finish_non_exhaustive()
    }
}

/// A token, and whether it was made just now.
pub struct Token {
    /// The token itself.
    pub secret: String,
    /// Whether the command was run for it.
    pub is_new: bool,
}

impl TokenCommand {
    /// A command as its words; a token is good for `lifetime`.
    pub fn new(command: Vec<String>, lifetime: Duration) -> Self {
        Self { command, lifetime, kept: Mutex::new(None) }
    }

    /// A token to log in with. Connections that need one together wait for one run of the command.
    pub async fn token(&self) -> Result<Token, TokenError> {
        let mut kept = self.kept.lock().await;
        if let Some((secret, since)) = &*kept
            && since.elapsed() < self.lifetime
        {
            return Ok(Token { secret: secret.clone(), is_new: false });
        }
        let secret = self.run().await?;
        *kept = Some((secret.clone(), Instant::now()));
        Ok(Token { secret, is_new: true })
    }

    /// The relay refused this token: the next one is made anew.
    pub async fn refused(&self, secret: &str) {
        let mut kept = self.kept.lock().await;
        kept.take_if(|(known, _)| known == secret);
    }

    fn name(&self) -> String {
        self.command.first().cloned().unwrap_or_default()
    }

    async fn run(&self) -> Result<String, TokenError> {
        let running = tokio::time::timeout(DEADLINE, self.output());
        running.await.unwrap_or_else(|_| Err(TokenError::TooSlow { command: self.name() }))
    }

    async fn output(&self) -> Result<String, TokenError> {
        let not_run =
            |why: std::io::Error| TokenError::NotRun { command: self.name(), why: why.to_string() };
        let mut child = Command::new(self.name())
            .args(self.command.get(1..).unwrap_or_default())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(not_run)?;
        let (said, complained) = (child.stdout.take(), child.stderr.take());
        let (said, complained) = tokio::join!(read(said), read(complained));
        let status = child.wait().await.map_err(not_run)?;
        if !status.success() {
            let line: String = first_line(&complained).chars().take(COMPLAINT_MAX).collect();
            let complaint = if line.is_empty() { line } else { format!(": {line}") };
            let (command, status) = (self.name(), status.to_string());
            return Err(TokenError::Failed { command, status, complaint });
        }
        let token = first_line(&said);
        let no_token = |why| Err(TokenError::NoToken { command: self.name(), why });
        if said.len() > OUTPUT_MAX {
            return no_token("it printed more than 16 KiB");
        }
        if token.is_empty() {
            return no_token("it printed nothing");
        }
        // A bearer token is of these (RFC 6750, section 2.1).
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return no_token("there are spaces or characters beyond ASCII in it");
        }
        Ok(token.to_owned())
    }
}

/// Reads to the end, keeping a little more than may be used; the rest is read and forgotten, so that
/// the command does not wait for us.
async fn read(from: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut from) = from else { return String::new() };
    let mut kept = Vec::new();
    // What cannot be read is not there.
    let _ = (&mut from).take(OUTPUT_MAX as u64 + 1).read_to_end(&mut kept).await;
    let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    String::from_utf8_lossy(&kept).into_owned()
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, lifetime: Duration) -> TokenCommand {
        TokenCommand::new(vec!["sh".into(), "-c".into(), script.into()], lifetime)
    }

    async fn error(script: &str) -> String {
        let failed = shell(script, Duration::MAX).token().await;
        failed.err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[tokio::test]
    async fn a_token_is_kept_until_it_is_refused_or_too_old() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("runs");
        let script = format!("echo run >> {0}; wc -l < {0} | tr -d ' '", file.display());
        let tokens = shell(&script, Duration::from_hours(1));
        assert_eq!(tokens.token().await.unwrap().secret, "1");
        let again = tokens.token().await.unwrap();
        assert_eq!((again.secret.as_str(), again.is_new), ("1", false));
        tokens.refused("another").await;
        assert_eq!(tokens.token().await.unwrap().secret, "1");
        tokens.refused("1").await;
        let (one, other) = tokio::join!(tokens.token(), tokens.token());
        assert_eq!([one.unwrap().secret, other.unwrap().secret], ["2", "2"], "one run for both");

        let short = shell(&script, Duration::ZERO);
        assert_eq!(short.token().await.unwrap().secret, "3");
        assert_eq!(short.token().await.unwrap().secret, "4");
    }

    #[tokio::test]
    async fn a_command_that_does_not_do_is_named_with_its_own_words() {
        let error_of = async |script| error(script).await;
        let failed = error_of("echo no network >&2; exit 3").await;
        assert_eq!(failed, "the token command `sh` failed (exit status: 3): no network");
        assert!(error_of("true").await.ends_with("it printed nothing"));
        assert!(error_of("echo 'two words'").await.contains("spaces"));
        assert!(error_of("yes token | head -c 100000").await.contains("16 KiB"));
        let missing = TokenCommand::new(vec!["/no/such/command".into()], Duration::MAX);
        let error = missing.token().await.err().unwrap().to_string();
        assert!(error.starts_with("the token command `/no/such/command` cannot be run"), "{error}");
    }
}
