//! A session with an IMAP server (RFC 3501), from the greeting to LOGOUT: the few commands that
//! fetching needs, one at a time. Extensions are used where they are offered: MOVE (RFC 6851),
//! UIDPLUS (RFC 4315), IDLE (RFC 2177). Ours rather than a crate's because what a server sends is
//! bounded here: lines, literals and lists are never longer than we said.

use std::collections::BTreeSet;

use data_encoding::BASE64;
use tokio::time::Instant;

use super::response::{self, Response, folder, quoted, set};
use crate::{
    bounce::intake::mailbox::{MailboxError, login::Secret, wire::Wire},
    config::{BounceMailbox, MailboxAuth, MailboxTls},
    smtp::tls::TlsClient,
};

/// Octets of a response that are no literal.
const TEXT_MAX: usize = 256 * 1024;
/// Literals in one response; a mail is one.
const LITERALS_MAX: usize = 16;
/// Octets of a literal that is no mail.
const LITERAL_MAX: usize = 8 * 1024;

/// A mail in the selected folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Listed {
    pub(super) uid: u32,
    pub(super) size: u64,
}

/// A folder, open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Selected {
    /// UIDs count only as long as this stays the same (RFC 3501, section 2.3.1.1).
    pub(super) uid_validity: u32,
    /// How many mails are in it.
    pub(super) exists: u32,
}

/// What the server says next.
pub(super) enum Said {
    /// Something about the mailbox.
    Untagged(Response),
    /// It wants more of the command.
    GoOn,
    /// The command was carried out.
    Done,
    /// It was not; the server's words.
    Refused(String),
}

/// A session after its login.
pub(super) struct Session {
    wire: Wire,
    commands: u32,
    offers: BTreeSet<String>,
    /// Whether the server spoke of new mail since the last list.
    news: bool,
}

type Step<T> = Result<T, MailboxError>;

impl Session {
    /// Connects and logs in.
    pub(super) async fn open(
        settings: &BounceMailbox,
        tls: Option<&TlsClient>,
        secret: &Secret,
    ) -> Step<Self> {
        let at_once = tls.filter(|_| settings.tls == MailboxTls::Implicit);
        let wire = Wire::connect(&settings.host, settings.port, at_once).await?;
        let mut session = Self { wire, commands: 0, offers: BTreeSet::new(), news: false };
        let greeting = session.response(LITERAL_MAX).await?;
        let known = match greeting.words(b"OK").is_some() {
            true => false,
            false if greeting.words(b"PREAUTH").is_some() => true,
            false => {
                let said = String::from_utf8_lossy(&greeting.text).into_owned();
                return Err(MailboxError::refused("the greeting", said));
            }
        };
        session.learn().await?;
        if let Some(client) = tls.filter(|_| settings.tls == MailboxTls::Starttls) {
            if known || !session.offers("STARTTLS") {
                return Err(MailboxError::Protocol("it offers no STARTTLS"));
            }
            session.run("STARTTLS", "STARTTLS").await?;
            session.wire = session.wire.encrypt(client).await?;
            // What was offered in clear text counts for nothing (RFC 2595, section 3.1).
            session.learn().await?;
        }
        if !known {
            session.log_in(settings, secret).await?;
            session.learn().await?;
        }
        Ok(session)
    }

    /// Whether the server can do this.
    pub(super) fn offers(&self, what: &str) -> bool {
        self.offers.contains(what)
    }

    async fn learn(&mut self) -> Step<()> {
        let mut offers = BTreeSet::new();
        self.start("CAPABILITY").await?;
        loop {
            match self.next(LITERAL_MAX).await? {
                Said::Untagged(response) => {
                    let words = response.words(b"CAPABILITY").into_iter().flatten();
                    offers.extend(
                        words.map(|word| String::from_utf8_lossy(word).to_ascii_uppercase()),
                    );
                }
                Said::Refused(said) => return Err(MailboxError::refused("CAPABILITY", said)),
                Said::GoOn => return Err(OUT_OF_TURN),
                Said::Done => break,
            }
        }
        self.offers = offers;
        Ok(())
    }

    /// The secret is only ever in the buffer that is written.
    async fn log_in(&mut self, settings: &BounceMailbox, secret: &Secret) -> Step<()> {
        let (user, secret) = (&settings.username, secret.as_str());
        let (mechanism, answer) = match settings.auth {
            MailboxAuth::Xoauth2 => {
                ("XOAUTH2", format!("user={user}\x01auth=Bearer {secret}\x01\x01"))
            }
            MailboxAuth::Password => ("PLAIN", format!("\0{user}\0{secret}")),
        };
        if self.offers(&format!("AUTH={mechanism}")) {
            self.start(&format!("AUTHENTICATE {mechanism}")).await?;
            let mut answer = Some(BASE64.encode(answer.as_bytes()));
            loop {
                match self.next(LITERAL_MAX).await? {
                    Said::GoOn => {
                        // A second challenge carries XOAUTH2's error; an empty answer ends it.
                        let line = answer.take().unwrap_or_default() + "\r\n";
                        self.wire.write(line.as_bytes()).await?;
                    }
                    Said::Untagged(_) => {}
                    Said::Done => return Ok(()),
                    Said::Refused(said) => return Err(login_refused(said)),
                }
            }
        }
        if mechanism != "PLAIN" || self.offers("LOGINDISABLED") {
            return Err(MailboxError::Protocol("it offers no login that we could use"));
        }
        let (Some(user), Some(secret)) = (quoted(user), quoted(secret)) else {
            return Err(MailboxError::Protocol("it takes names and passwords in ASCII only"));
        };
        match self.ask(&format!("LOGIN {user} {secret}"), |_| {}).await? {
            Ok(()) => Ok(()),
            Err(said) => Err(login_refused(said)),
        }
    }

    /// Opens a folder for reading and moving.
    pub(super) async fn select(&mut self, name: &str) -> Step<Selected> {
        let (mut validity, mut exists) = (None, 0);
        let command = format!("SELECT {}", folder(name));
        let answer = self.ask(&command, |response| {
            validity = response.code_number("UIDVALIDITY").or(validity);
            exists = response.numbered(b"EXISTS").unwrap_or(exists);
        });
        let answer = answer.await?;
        // What is there is no news, but looked at next.
        self.news = false;
        answer.map_err(|said| MailboxError::refused("SELECT", format!("{name}: {said}")))?;
        let uid_validity =
            validity.ok_or(MailboxError::Protocol("its UIDs are not for keeping (RFC 3501)"))?;
        Ok(Selected { uid_validity, exists })
    }

    /// The first `max` mails above `uid`, in their order, without those that are deleted.
    pub(super) async fn list_above(&mut self, uid: u32, max: usize) -> Step<Vec<Listed>> {
        self.news = false;
        let mut listed = BTreeSet::new();
        let from = uid.saturating_add(1);
        let command = format!("UID FETCH {from}:* (UID FLAGS RFC822.SIZE)");
        let answer = self.ask(&command, |response| {
            let Some(found) = response.fetched() else { return };
            // `*` is the last mail there is, which may lie below (RFC 3501, section 6.4.8).
            let Some(uid) = found.uid.filter(|uid| *uid >= from && !found.deleted) else { return };
            let Some(size) = found.size else { return };
            listed.insert(Listed { uid, size });
            if listed.len() > max {
                listed.pop_last();
            }
        });
        answer.await?.map_err(|said| MailboxError::refused("UID FETCH", said))?;
        // What came while we asked may be in the list already; then the next one says so.
        Ok(listed.into_iter().collect())
    }

    /// Asks for mails, of each the first `head` octets only if that is given. They come with
    /// [`Session::next`].
    pub(super) async fn start_fetch(&mut self, uids: &[u32], head: Option<usize>) -> Step<()> {
        let part = head.map(|octets| format!("<0.{octets}>")).unwrap_or_default();
        self.start(&format!("UID FETCH {} (UID BODY.PEEK[]{part})", set(uids))).await
    }

    /// Moves mails to another folder, which is made if it is not there.
    pub(super) async fn move_to(&mut self, uids: &[u32], name: &str) -> Step<()> {
        let verb = if self.offers("MOVE") { "MOVE" } else { "COPY" };
        let command = format!("UID {verb} {} {}", set(uids), folder(name));
        if self.ask(&command, |_| {}).await?.is_err() {
            // The usual reason is that the folder is missing, which not every server says.
            let made = self.ask(&format!("CREATE {}", folder(name)), |_| {}).await?;
            let again = self.ask(&command, |_| {}).await?;
            again.map_err(|said| {
                let made = made.err().map(|said| format!("; it cannot be made: {said}"));
                let made = made.unwrap_or_default();
                MailboxError::refused("UID MOVE", format!("to {name}: {said}{made}"))
            })?;
        }
        if verb == "COPY" { self.delete(uids).await } else { Ok(()) }
    }

    /// Deletes mails, and no others that somebody else marked as deleted.
    pub(super) async fn delete(&mut self, uids: &[u32]) -> Step<()> {
        let set = set(uids);
        self.run(&format!("UID STORE {set} +FLAGS.SILENT (\\Deleted)"), "UID STORE").await?;
        if self.offers("UIDPLUS") {
            return self.run(&format!("UID EXPUNGE {set}"), "UID EXPUNGE").await;
        }
        let mut marked: Vec<u32> = Vec::new();
        let answer = self.ask("UID SEARCH DELETED", |response| {
            let numbers = response.words(b"SEARCH").into_iter().flatten();
            marked.extend(numbers.filter_map(|word| u32::try_from(response::number(word)?).ok()));
        });
        answer.await?.map_err(|said| MailboxError::refused("UID SEARCH", said))?;
        if marked.iter().all(|uid| uids.contains(uid)) {
            self.run("EXPUNGE", "EXPUNGE").await?;
        }
        Ok(())
    }

    /// Waits until the server speaks of new mail, or until then. Whatever it says, it is looked at.
    pub(super) async fn idle(&mut self, until: Instant) -> Step<()> {
        if self.news {
            return Ok(());
        }
        self.start("IDLE").await?;
        loop {
            match self.next(LITERAL_MAX).await? {
                Said::GoOn => break,
                Said::Untagged(_) => {}
                Said::Done => return Err(OUT_OF_TURN),
                Said::Refused(said) => return Err(MailboxError::refused("IDLE", said)),
            }
        }
        while !self.news && self.wire.has_news(until).await? {
            if !matches!(self.next(LITERAL_MAX).await?, Said::Untagged(_)) {
                return Err(OUT_OF_TURN);
            }
        }
        self.wire.write(b"DONE\r\n").await?;
        loop {
            match self.next(LITERAL_MAX).await? {
                Said::Untagged(_) => {}
                Said::Done => return Ok(()),
                Said::GoOn => return Err(OUT_OF_TURN),
                Said::Refused(said) => return Err(MailboxError::refused("IDLE", said)),
            }
        }
    }

    /// Says goodbye. What goes wrong then matters to nobody.
    pub(super) async fn close(mut self) {
        let _ = self.run("LOGOUT", "LOGOUT").await;
    }

    async fn run(&mut self, command: &str, name: &'static str) -> Step<()> {
        let answer = self.ask(command, |_| {}).await?;
        answer.map_err(|said| MailboxError::refused(name, said))
    }

    /// A command and its end; `hear` gets what the server says in between.
    async fn ask(
        &mut self,
        command: &str,
        mut hear: impl FnMut(Response),
    ) -> Step<Result<(), String>> {
        self.start(command).await?;
        loop {
            match self.next(LITERAL_MAX).await? {
                Said::Untagged(response) => hear(response),
                Said::GoOn => return Err(OUT_OF_TURN),
                Said::Done => return Ok(Ok(())),
                Said::Refused(said) => return Ok(Err(said)),
            }
        }
    }

    async fn start(&mut self, command: &str) -> Step<()> {
        self.commands = self.commands.wrapping_add(1);
        self.wire.write(format!("P{} {command}\r\n", self.commands).as_bytes()).await
    }

    /// What the server says next; a literal above `literal_max` octets is passed over.
    pub(super) async fn next(&mut self, literal_max: usize) -> Step<Said> {
        let response = self.response(literal_max).await?;
        self.news |= response.numbered(b"EXISTS").is_some();
        if response.untagged().is_some() {
            return Ok(Said::Untagged(response));
        }
        if response.text.starts_with(b"+") {
            return Ok(Said::GoOn);
        }
        let text = String::from_utf8_lossy(&response.text);
        let mut words = text.splitn(3, ' ');
        if words.next() != Some(format!("P{}", self.commands).as_str()) {
            return Err(OUT_OF_TURN);
        }
        let status = words.next().unwrap_or_default();
        let said = words.next().unwrap_or_default();
        match status {
            status if status.eq_ignore_ascii_case("OK") => Ok(Said::Done),
            status if status.eq_ignore_ascii_case("NO") || status.eq_ignore_ascii_case("BAD") => {
                Ok(Said::Refused(said.to_owned()))
            }
            _ => Err(OUT_OF_TURN),
        }
    }

    async fn response(&mut self, literal_max: usize) -> Step<Response> {
        let mut response = Response::default();
        loop {
            let line = self.wire.line().await?;
            let announced = response::announced(&line);
            let text = match announced {
                Some(_) => &line[..line.iter().rposition(|byte| *byte == b'{').unwrap_or(0)],
                None => &line,
            };
            response.text.extend_from_slice(text);
            if response.text.len() > TEXT_MAX || response.literals.len() > LITERALS_MAX {
                return Err(MailboxError::Protocol("a response has no end"));
            }
            let Some(count) = announced else { return Ok(response) };
            let literal = self.wire.counted(count, literal_max).await?;
            response.text.extend_from_slice(format!("{{{}}}", response.literals.len()).as_bytes());
            response.literals.push(literal);
        }
    }
}

const OUT_OF_TURN: MailboxError = MailboxError::Protocol("it answers what was not asked");

/// Whether it is the login that is wrong, or only the moment (RFC 5530, section 3).
fn login_refused(said: String) -> MailboxError {
    let upper = said.to_ascii_uppercase();
    let for_now = ["[UNAVAILABLE]", "[INUSE]", "[LIMIT]", "[SERVERBUG]"];
    if for_now.iter().any(|code| upper.contains(code)) {
        MailboxError::refused("the login", said)
    } else {
        MailboxError::Login(super::super::cut(&said))
    }
}
