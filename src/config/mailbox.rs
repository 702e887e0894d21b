//! Mailboxes that returned mail is fetched from. What only makes sense for one kind is refused for
//! the others.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Secret, value::duration};

/// How a mailbox is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MailboxKind {
    /// IMAP (RFC 3501, 9051).
    Imap,
    /// POP3 (RFC 1939).
    Pop3,
    /// A folder of files on this machine.
    Maildir,
}

impl MailboxKind {
    /// Its name in the configuration, in lists and in the table of mails that came in.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Imap => "imap",
            Self::Pop3 => "pop3",
            Self::Maildir => "maildir",
        }
    }
}

/// How the connection to a mailbox is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MailboxTls {
    /// TLS from the first byte (RFC 8314).
    Implicit,
    /// STARTTLS or STLS, required (RFC 2595).
    Starttls,
    /// Not at all.
    None,
}

/// How to log in at a mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MailboxAuth {
    /// With a password.
    Password,
    /// With a bearer token (XOAUTH2).
    Xoauth2,
}

/// What becomes of a mail that was handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HandledMail {
    /// It is moved to a folder.
    Move,
    /// It is deleted.
    Delete,
}

/// What becomes of a mail that has nothing of ours in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OtherMail {
    /// It stays where it is, unread, and is not looked at again.
    Leave,
    /// It is moved aside.
    Move,
    /// It is deleted.
    Delete,
}

/// A mailbox that returned mail is fetched from.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BounceMailbox {
    /// What operators call it.
    pub name: String,
    /// How it is read.
    pub kind: MailboxKind,
    /// The server's host name or address; empty for a maildir.
    #[serde(default)]
    pub host: String,
    /// Its port; 0 stands for the usual one until the file is read.
    #[serde(default)]
    pub port: u16,
    /// How the connection is protected.
    #[serde(default = "implicit")]
    pub tls: MailboxTls,
    /// Whether mail and password may travel in the clear to another machine.
    #[serde(default)]
    pub allow_clear_text: bool,
    /// A PEM file of certificates to trust besides the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// How to log in.
    #[serde(default = "password")]
    pub auth: MailboxAuth,
    /// The login name; empty for a maildir.
    #[serde(default)]
    pub username: String,
    /// The password: text, `{ env = "NAME" }` or `{ file = "PATH" }`.
    #[serde(default)]
    pub password: Option<Secret>,
    /// A command that prints the password or bearer token, as its words.
    #[serde(default)]
    pub token_command: Option<Vec<String>>,
    /// How long what it printed is used before it is run again.
    #[serde(default = "fifty_minutes", with = "duration")]
    pub token_lifetime: Duration,
    /// The folders to look into. Kind `imap`.
    #[serde(default = "inbox")]
    pub folders: Vec<String>,
    /// The maildir: the folder with `new` and `cur` in it.
    #[serde(default)]
    pub path: PathBuf,
    /// What becomes of a mail that was handled.
    #[serde(default = "moved")]
    pub handled: HandledMail,
    /// The folder for those.
    #[serde(default = "handled_folder")]
    pub handled_folder: String,
    /// What becomes of a mail that has nothing of ours in it.
    #[serde(default = "left")]
    pub others: OtherMail,
    /// The folder for those, and for mails that cannot be read.
    #[serde(default = "aside_folder")]
    pub aside_folder: String,
    /// Whether the server may say when mail comes (RFC 2177), where it can. Kind `imap`.
    #[serde(default = "yes")]
    pub idle: bool,
    /// How often to look.
    #[serde(default = "a_minute", with = "duration")]
    pub poll: Duration,
}

/// Keys that say nothing to a mailbox without a server.
const SERVER_ONLY: [&str; 10] = [
    "host",
    "port",
    "tls",
    "allow_clear_text",
    "ca_file",
    "auth",
    "username",
    "password",
    "token_command",
    "token_lifetime",
];
/// Keys that say nothing to a mailbox without folders on a server.
const IMAP_ONLY: [&str; 2] = ["folders", "idle"];
/// Keys that say nothing to a mailbox without any folders.
const WITH_FOLDERS: [&str; 2] = ["handled_folder", "aside_folder"];

impl BounceMailbox {
    /// Fills in the defaults of its kind, and refuses what it cannot have; `given` are the keys that
    /// the file sets. The error names a key and a problem.
    pub(super) fn settle(&mut self, given: &toml::Table) -> Result<(), (&'static str, String)> {
        let (name, kind) = (&self.name, self.kind.as_str());
        let absent = |key: &str| !given.contains_key(key);
        let foreign: &[&[&'static str]] = match self.kind {
            MailboxKind::Imap => &[&["path"]],
            MailboxKind::Pop3 => &[&["path"], &IMAP_ONLY, &WITH_FOLDERS],
            MailboxKind::Maildir => &[&SERVER_ONLY, &IMAP_ONLY],
        };
        if let Some(key) = foreign.iter().flat_map(|keys| *keys).find(|key| !absent(key)) {
            return Err((
                key,
                format!("mailbox `{name}`: one of kind \"{kind}\" has no such thing"),
            ));
        }
        let needed: &[&'static str] = match self.kind {
            MailboxKind::Maildir => &["path"],
            MailboxKind::Imap | MailboxKind::Pop3 => &["host", "username"],
        };
        if let Some(key) = needed.iter().find(|key| absent(key)) {
            return Err(("name", format!("mailbox `{name}` needs `{key}`")));
        }
        if self.kind == MailboxKind::Pop3 {
            if absent("handled") {
                self.handled = HandledMail::Delete;
            }
            for (key, moves) in [
                ("handled", self.handled == HandledMail::Move),
                ("others", self.others == OtherMail::Move),
            ] {
                if moves {
                    let problem =
                        format!("mailbox `{name}`: POP3 knows no folders to move mail to");
                    return Err((key, problem));
                }
            }
        }
        if self.port == 0 {
            self.port = match (self.kind, self.tls) {
                (MailboxKind::Imap, MailboxTls::Implicit) => 993,
                (MailboxKind::Imap, _) => 143,
                (_, MailboxTls::Implicit) => 995,
                (..) => 110,
            };
        }
        Ok(())
    }

    /// Checks what is said about the login and the folders; the error names a key and a problem.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let name = &self.name;
        if self.poll.is_zero() {
            return Err(("poll", format!("mailbox `{name}` cannot be looked into all the time")));
        }
        let folders = [&self.handled_folder, &self.aside_folder];
        if folders.iter().any(|folder| !is_folder_name(folder)) {
            let problem = format!("mailbox `{name}`: a folder's name has 1 to 100 characters");
            return Err(("handled_folder", problem));
        }
        if self.kind == MailboxKind::Maildir {
            let inside = |folder: &String| !folder.contains('/') && !folder.starts_with('.');
            if !folders.into_iter().all(inside) {
                let problem =
                    format!("mailbox `{name}`: a maildir's folders lie in it, side by side");
                return Err(("handled_folder", problem));
            }
            return Ok(());
        }
        if self.folders.is_empty() || !self.folders.iter().all(|folder| is_folder_name(folder)) {
            return Err(("folders", format!("mailbox `{name}` needs at least one folder")));
        }
        if folders.iter().any(|folder| self.folders.contains(folder)) {
            let problem = format!("mailbox `{name}`: mail is not moved to where it is looked for");
            return Err(("folders", problem));
        }
        self.check_login()
    }

    fn check_login(&self) -> Result<(), (&'static str, String)> {
        let name = &self.name;
        match (&self.password, &self.token_command) {
            (Some(_), Some(_)) => {
                let problem = format!("mailbox `{name}` has both a password and a token_command");
                return Err(("token_command", problem));
            }
            (None, None) => {
                let problem = format!("mailbox `{name}` needs a password or a token_command");
                return Err(("username", problem));
            }
            (None, Some(command)) if command.is_empty() => {
                let problem = format!("mailbox `{name}`: a command has at least one word");
                return Err(("token_command", problem));
            }
            _ => {}
        }
        let local = super::load::is_loopback(&self.host);
        if self.tls == MailboxTls::None && !local && !self.allow_clear_text {
            let problem = format!(
                "mailbox `{name}` would get mail and password in the clear; use implicit or \
                 starttls, or say allow_clear_text = true"
            );
            return Err(("tls", problem));
        }
        let named = |problem| ("password", format!("mailbox `{name}`: {problem}"));
        self.password.as_ref().map_or(Ok(()), |secret| secret.reveal().map(drop).map_err(named))
    }

    /// Where it is, for lists.
    pub fn address(&self) -> String {
        match self.kind {
            MailboxKind::Maildir => self.path.display().to_string(),
            MailboxKind::Imap | MailboxKind::Pop3 => format!("{}:{}", self.host, self.port),
        }
    }
}

fn is_folder_name(name: &str) -> bool {
    (1..=100).contains(&name.chars().count()) && !name.chars().any(char::is_control)
}

fn implicit() -> MailboxTls {
    MailboxTls::Implicit
}
fn password() -> MailboxAuth {
    MailboxAuth::Password
}
fn fifty_minutes() -> Duration {
    Duration::from_mins(50)
}
fn inbox() -> Vec<String> {
    vec!["INBOX".to_owned()]
}
fn moved() -> HandledMail {
    HandledMail::Move
}
fn handled_folder() -> String {
    "postrider-handled".to_owned()
}
fn left() -> OtherMail {
    OtherMail::Leave
}
fn aside_folder() -> String {
    "postrider-aside".to_owned()
}
fn yes() -> bool {
    true
}
fn a_minute() -> Duration {
    Duration::from_mins(1)
}
