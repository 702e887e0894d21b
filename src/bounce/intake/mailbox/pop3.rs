//! A mailbox on a POP3 server (RFC 1939, STLS of RFC 2595): every look is a session of its own, as
//! the server deletes at its end only. A mail is deleted once it was applied; what is left in place is
//! remembered by its unique id (UIDL). A session that breaks deletes nothing: what it had applied is
//! deleted by the next one without being fetched again, or after a crash applied again, which counts
//! nothing twice.

use std::collections::{HashMap, HashSet};

use data_encoding::BASE64;
use tracing::warn;

use super::{
    Desk, HEAD, Look, MailboxError, Place, Verdict, cut,
    login::{Login, Secret},
    memory,
    wire::Wire,
};
use crate::{
    bounce::report::SIZE_MAX,
    config::{BounceMailbox, MailboxAuth, MailboxTls},
    smtp::tls::TlsClient,
    timestamp::Timestamp,
};

/// Mails that one session deals with: what a broken one repeats.
const SESSION_MAX: usize = 200;
/// Mails of a list that are looked at: about 100 octets each.
const LISTED_MAX: usize = 20_000;
/// Octets of a list: number and unique id (up to 70 characters) of more mails than that.
const LIST_OCTETS_MAX: usize = 16 * 1024 * 1024;
/// Lines of a mail's body that are fetched where the mail is too large.
const TOP_LINES: u32 = 2_000;

type Step<T> = Result<T, MailboxError>;

/// An account on a POP3 server.
pub(super) struct Pop3 {
    login: Login,
    /// What was applied in a session that did not come to its end.
    applied: HashMap<String, Verdict>,
}

impl Pop3 {
    pub(super) fn new(login: Login) -> Self {
        Self { login, applied: HashMap::new() }
    }

    pub(super) fn login(&self) -> &Login {
        &self.login
    }

    async fn open(&self) -> Step<Session> {
        let secret = self.login.secret().await?;
        let opened = Session::open(&self.login.settings, self.login.tls.as_ref(), &secret).await;
        self.login.tell(&opened, &secret).await;
        opened
    }

    /// Connects, logs in, and counts the mails.
    pub(super) async fn check(&mut self) -> Step<u64> {
        let mut session = self.open().await?;
        let mails = session.ids().await?.len();
        session.ask("QUIT", "QUIT").await?;
        Ok(mails as u64)
    }

    /// Looks at what is new.
    pub(super) async fn look(&mut self, desk: &Desk, look: &mut Look) -> Step<()> {
        let mailbox = desk.settings.name.as_str();
        let left = memory::left(&desk.db, mailbox).await?;
        let mut session = self.open().await?;
        let mut ids = session.ids().await?;
        if ids.len() > LISTED_MAX {
            warn!(mailbox, mails = ids.len(), "more mails lie in it than are looked at together");
            ids.truncate(LISTED_MAX);
        } else {
            let there: HashSet<&str> = ids.iter().map(|(_, id)| id.as_str()).collect();
            memory::forget_gone(&desk.db, mailbox, &left, &there).await?;
            self.applied.retain(|id, _| there.contains(id.as_str()));
        }
        let sizes = session.sizes().await?;
        let mut settled = Vec::new();
        for (number, id) in ids.iter().filter(|(_, id)| !left.contains(id)) {
            if settled.len() == SESSION_MAX {
                look.more = true;
                break;
            }
            let verdict = match self.applied.get(id) {
                Some(verdict) => *verdict,
                None => {
                    let size = sizes.get(number).copied().unwrap_or(0);
                    let Some(verdict) = session.take(*number, size, desk, look).await? else {
                        look.vanished += 1;
                        continue;
                    };
                    self.applied.insert(id.clone(), verdict);
                    verdict
                }
            };
            match desk.place(verdict) {
                Place::Here => memory::leave(&desk.db, mailbox, id, Timestamp::now()).await?,
                _ => session.ask(&format!("DELE {number}"), "DELE").await?,
            }
            settled.push((id, verdict));
        }
        // Only now are they deleted (RFC 1939, section 6).
        session.ask("QUIT", "QUIT").await?;
        for (id, verdict) in settled {
            self.applied.remove(id);
            desk.settled(verdict, look);
        }
        Ok(())
    }
}

/// A session after its login.
struct Session {
    wire: Wire,
}

impl Session {
    async fn open(
        settings: &BounceMailbox,
        tls: Option<&TlsClient>,
        secret: &Secret,
    ) -> Step<Self> {
        let at_once = tls.filter(|_| settings.tls == MailboxTls::Implicit);
        let wire = Wire::connect(&settings.host, settings.port, at_once).await?;
        let mut session = Self { wire };
        session.answer().await?.map_err(|said| MailboxError::refused("the greeting", said))?;
        if let Some(client) = tls.filter(|_| settings.tls == MailboxTls::Starttls) {
            session.ask("STLS", "STLS").await?;
            session.wire = session.wire.encrypt(client).await?;
        }
        session.log_in(settings, secret).await?;
        Ok(session)
    }

    /// The secret is only ever in the buffer that is written.
    async fn log_in(&mut self, settings: &BounceMailbox, secret: &Secret) -> Step<()> {
        let (user, secret) = (&settings.username, secret.as_str());
        if [user, secret].iter().any(|text| text.chars().any(char::is_control)) {
            let why = "a name or password with control characters cannot be sent";
            return Err(MailboxError::Settings(why.to_owned()));
        }
        let answer = match settings.auth {
            MailboxAuth::Xoauth2 => {
                let token = format!("user={user}\x01auth=Bearer {secret}\x01\x01");
                // The answer would be too long for the command's own line (RFC 5034, section 4).
                self.say("AUTH XOAUTH2").await?;
                let mut line = self.wire.line().await?;
                // A second challenge carries the error, which an empty answer ends.
                for answer in [BASE64.encode(token.as_bytes()), String::new()] {
                    if line.starts_with(b"+") && !line.starts_with(b"+OK") {
                        self.say(&answer).await?;
                        line = self.wire.line().await?;
                    }
                }
                outcome(&line)?
            }
            MailboxAuth::Password => {
                self.say(&format!("USER {user}")).await?;
                match self.answer().await? {
                    Ok(()) => {
                        self.say(&format!("PASS {secret}")).await?;
                        self.answer().await?
                    }
                    refused => refused,
                }
            }
        };
        answer.map_err(|said| {
            let upper = said.to_ascii_uppercase();
            // RFC 2449, section 8.1, and RFC 3206: the mailbox is in use, or the server in trouble.
            let for_now = ["[IN-USE]", "[LOGIN-DELAY]", "[SYS/TEMP]"];
            if for_now.iter().any(|code| upper.contains(code)) {
                MailboxError::refused("the login", said)
            } else {
                MailboxError::Login(cut(&said))
            }
        })
    }

    /// Number and unique id of every mail.
    async fn ids(&mut self) -> Step<Vec<(u32, String)>> {
        let lines = self.list("UIDL", "UIDL").await?;
        Ok(lines
            .lines()
            .filter_map(|line| {
                let (number, id) = line.split_once(' ')?;
                Some((number.parse().ok()?, id.trim().to_owned()))
            })
            .collect())
    }

    /// The size of every mail.
    async fn sizes(&mut self) -> Step<HashMap<u32, u64>> {
        let lines = self.list("LIST", "LIST").await?;
        let pair = |line: &str| {
            let (number, size) = line.split_once(' ')?;
            Some((number.parse().ok()?, size.split(' ').next()?.trim().parse().ok()?))
        };
        Ok(lines.lines().filter_map(pair).collect())
    }

    async fn list(&mut self, command: &str, name: &'static str) -> Step<String> {
        self.ask(command, name).await?;
        let list = self.wire.until_dot(LIST_OCTETS_MAX).await?;
        let list = list.ok_or(MailboxError::Protocol("there are too many mails to be listed"))?;
        Ok(String::from_utf8_lossy(&list).into_owned())
    }

    /// Fetches a mail and applies it; none when it is gone.
    async fn take(
        &mut self,
        number: u32,
        size: u64,
        desk: &Desk,
        look: &mut Look,
    ) -> Step<Option<Verdict>> {
        let whole = size <= SIZE_MAX as u64;
        self.say(&if whole {
            format!("RETR {number}")
        } else {
            format!("TOP {number} {TOP_LINES}")
        })
        .await?;
        if self.answer().await?.is_err() {
            return Ok(None);
        }
        // Line ends may count differently in LIST.
        let max = if whole { SIZE_MAX } else { HEAD * 4 };
        Ok(Some(match self.wire.until_dot(max).await? {
            Some(mut raw) => {
                if !whole {
                    raw.truncate(HEAD);
                }
                desk.take(raw, whole, look).await?
            }
            None => Verdict::Unreadable,
        }))
    }

    async fn ask(&mut self, command: &str, name: &'static str) -> Step<()> {
        self.say(command).await?;
        self.answer().await?.map_err(|said| MailboxError::refused(name, said))
    }

    async fn say(&mut self, command: &str) -> Step<()> {
        self.wire.write(format!("{command}\r\n").as_bytes()).await
    }

    async fn answer(&mut self) -> Step<Result<(), String>> {
        outcome(&self.wire.line().await?)
    }
}

/// `+OK`, or `-ERR` with the server's words.
fn outcome(line: &[u8]) -> Step<Result<(), String>> {
    match line {
        [b'+', b'O', b'K', ..] => Ok(Ok(())),
        [b'-', b'E', b'R', b'R', said @ ..] => {
            Ok(Err(String::from_utf8_lossy(said).trim().to_owned()))
        }
        _ => Err(MailboxError::Protocol("it answers neither +OK nor -ERR")),
    }
}
