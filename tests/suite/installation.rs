//! A folder with a configuration, in which the program is run.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use postrider::cli::Context;
use tempfile::TempDir;

use crate::harness::LOOK_MAX;

/// Every port is taken from the free ones, so that tests run beside each other.
const CONFIG: &str = "public_url = \"http://127.0.0.1:0/\"\n\
    [public]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
    [bounces]\nlisten = \"127.0.0.1:0\"\n\
    [mailbox]\nsmtp_listen = \"127.0.0.1:0\"\nhttp_listen = \"127.0.0.1:0\"\n";

/// One installation; gone when dropped.
pub(crate) struct Installation {
    folder: TempDir,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ran {
    /// Standard output of a command that must have worked.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self.stdout
    }

    /// Standard error of a command that must have ended with `code`.
    #[track_caller]
    pub(crate) fn fails(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        self.stderr
    }

    /// Standard error of a command that must have worked.
    #[track_caller]
    pub(crate) fn ok_stderr(self) -> String {
        assert_eq!(self.code, 0, "{}", self.stderr);
        self.stderr
    }

    /// The JSON document on standard output.
    #[track_caller]
    pub(crate) fn json(self) -> serde_json::Value {
        serde_json::from_str(&self.ok()).unwrap()
    }
}

impl Installation {
    /// An installation with the newsletter `sre`.
    pub(crate) fn new() -> Self {
        Self::with_config("")
    }

    /// The same, with more in its configuration.
    pub(crate) fn with_config(more: &str) -> Self {
        let empty = Self::empty();
        std::fs::write(empty.path("config.toml"), format!("{CONFIG}{more}")).unwrap();
        empty.newsletter("sre");
        empty
    }

    /// A folder with nothing in it.
    pub(crate) fn empty() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn newsletter(&self, slug: &str) {
        let from = ["--name", "SRE Digest", "--from", "editor@example.com"];
        self.run(["newsletter", "create", slug].iter().chain(&from)).ok();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn command<'a>(&self, args: impl IntoIterator<Item = &'a &'a str>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_postrider"));
        command.args(args).current_dir(self.folder.path());
        command.env_remove("POSTRIDER_CONFIG").env_remove("SUDO_USER");
        command.env("USER", "ada").env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run<'a>(&self, args: impl IntoIterator<Item = &'a &'a str>) -> Ran {
        ran(&self.command(args).output().unwrap())
    }

    /// Runs the program with `input` on standard input.
    pub(crate) fn run_with_input<'a>(
        &self,
        args: impl IntoIterator<Item = &'a &'a str>,
        input: &[u8],
    ) -> Ran {
        let file = self.path("input");
        std::fs::write(&file, input).unwrap();
        let input = std::fs::File::open(file).unwrap();
        ran(&self.command(args).stdin(input).output().unwrap())
    }

    /// Starts the program, to be killed when the test is over.
    pub(crate) fn start<'a>(&self, args: impl IntoIterator<Item = &'a &'a str>) -> Running {
        Running(self.command(args).stderr(Stdio::null()).spawn().unwrap())
    }

    /// The data, opened in the test's own process.
    pub(crate) async fn context(&self) -> Context {
        Context::open(Some(&self.path("config.toml"))).await.unwrap()
    }
}

fn ran(output: &Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout.clone()).unwrap(),
        stderr: String::from_utf8(output.stderr.clone()).unwrap(),
    }
}

/// A program that runs; killed when dropped.
pub(crate) struct Running(pub(crate) Child);

impl Running {
    /// SIGTERM, and a clean end.
    pub(crate) fn stop(mut self) {
        crate::harness::signal(&self.0, "TERM");
        let status = self.0.wait().unwrap();
        assert!(status.success(), "ended with {status:?}");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until `condition` gives something; fails the test when it does not within two minutes.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let mut waited = Duration::ZERO;
    loop {
        let since = Instant::now();
        if let Some(found) = condition() {
            return found;
        }
        assert!(waited < Duration::from_mins(2), "{what}: not within two minutes");
        std::thread::sleep(Duration::from_millis(20));
        waited += since.elapsed().min(LOOK_MAX);
    }
}

/// Replaces what differs from run to run in `text`: times and the folder.
pub(crate) fn settled(installation: &Installation, text: &str) -> String {
    let folder = installation.folder.path().display().to_string();
    let text = text.replace(&folder, "FOLDER");
    let mut out = String::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find("20") {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let len = time_len(from);
        if len == 0 {
            out.push_str(&from[..2]);
            rest = &from[2..];
        } else {
            out.push_str("TIME");
            rest = &from[len..];
        }
    }
    out + rest
}

/// How long the time at the start of `text` is, if there is one: `2024-08-11 09:05:07 UTC` or with
/// milliseconds.
fn time_len(text: &str) -> usize {
    let like = |pattern: &str| {
        text.len() >= pattern.len()
            && text.bytes().zip(pattern.bytes()).all(|(found, wanted)| match wanted {
                b'0' => found.is_ascii_digit(),
                _ => found == wanted,
            })
    };
    let patterns = ["0000-00-00 00:00:00 UTC", "0000-00-00 00:00:00.000"];
    patterns.into_iter().find(|pattern| like(pattern)).map_or(0, str::len)
}

/// Whether `path` can be used by its owner only.
pub(crate) fn is_private(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).unwrap().permissions().mode().trailing_zeros() >= 6
}
