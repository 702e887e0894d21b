//! The sink's side of the SMTP dialogue: takes everything, unless a fault says otherwise, and
//! accounts for it before the reply leaves.

use std::path::Path;
use std::sync::{Arc, atomic::Ordering};

use crate::{
    smtp::server::{
        Connection, Credentials, Envelope, Handler, Intake, Interrupt, InterruptAfter, Keep,
        Message, Misbehaviour, Recipient, Reply, Response, Stage, Unfinished,
    },
    timestamp::Timestamp,
};

use super::{
    Shared, add, content,
    faults::{FaultStage, Situation, Strike},
    journal::{Phase, Record, Verdict},
    mailbox::Received,
    returns::Original,
};

/// How much of a message is kept to find its `Message-ID`, when nothing else is wanted of it.
const HEAD_BYTES: usize = 8 * 1024;
const NO_JOURNAL: Reply = Reply::new(452, "4.3.1", "The journal cannot be written");

pub(super) struct SinkHandler {
    shared: Arc<Shared>,
}

impl SinkHandler {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

/// One connection.
pub(super) struct SinkSession {
    shared: Arc<Shared>,
    connection: u64,
    /// The number of the transaction begun last.
    message: u64,
}

impl Drop for SinkSession {
    fn drop(&mut self) {
        self.shared.counters.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl SinkSession {
    /// What strikes at this stage of this transaction.
    fn strike(
        &self,
        stage: FaultStage,
        envelope: Option<&Envelope>,
        recipient: Option<&Recipient>,
    ) -> Option<Strike> {
        let faults = self.shared.faults()?;
        let recipients: Vec<&str> = match (recipient, envelope) {
            (Some(recipient), _) => vec![recipient.address.as_str()],
            (None, Some(envelope)) => {
                envelope.recipients.iter().map(|recipient| recipient.address.as_str()).collect()
            }
            (None, None) => Vec::new(),
        };
        faults.strike(&Situation {
            stage,
            connection: self.connection,
            message: if envelope.is_some() { self.message } else { 0 },
            sender: envelope.map(|envelope| envelope.from.as_str()),
            recipients: &recipients,
        })
    }

    fn response(
        &self,
        stage: FaultStage,
        envelope: Option<&Envelope>,
        recipient: Option<&Recipient>,
    ) -> Response {
        self.strike(stage, envelope, recipient)
            .map_or(Response::Proceed, |strike| Response::Misbehave(strike.misbehaviour))
    }

    /// Counts and journals a transaction's fate; false when the journal cannot be written.
    fn account(&self, fate: Fate<'_>) -> bool {
        let counters = &self.shared.counters;
        match (fate.verdict, fate.code) {
            (Verdict::Accepted, _) => {
                add(&counters.accepted, 1);
                add(&counters.recipients, fate.recipients.len() as u64);
                add(&counters.accepted_bytes, fate.size);
            }
            (Verdict::Refused, Some(400..500)) => drop(add(&counters.deferred, 1)),
            (Verdict::Refused, _) => drop(add(&counters.rejected, 1)),
            (Verdict::Dropped | Verdict::Aborted, _) => drop(add(&counters.broken, 1)),
        }
        let Some(journal) = &self.shared.journal else { return true };
        let addresses = fate.recipients.iter().map(|recipient| recipient.address.clone());
        let appended = journal.append(Record {
            sequence: 0,
            wall_us: 0,
            monotonic_us: 0,
            connection: self.connection,
            verdict: fate.verdict,
            phase: fate.phase,
            code: fate.code,
            reply_sent: fate.reply_sent,
            mail_from: fate.from.to_owned(),
            rcpt_to: addresses.collect(),
            message_id: content::message_id(fate.bytes),
            size: fate.size,
            sha256: fate.sha256,
        });
        if let Err(error) = &appended {
            tracing::error!(%error, "cannot write the sink's journal");
        }
        appended.is_ok()
    }

    /// Accounts for a refusal before the dot, which concerns `recipients`.
    fn refused(&self, response: &Response, phase: Phase, from: &str, recipients: &[Recipient]) {
        let Some((code, reply_sent)) = refusal(response) else { return };
        let verdict = if code.is_some() { Verdict::Refused } else { Verdict::Dropped };
        self.account(Fate {
            reply_sent,
            ..Fate { verdict, phase, code, ..Fate::of(from, recipients) }
        });
    }
}

/// What is put on record of a transaction.
struct Fate<'a> {
    verdict: Verdict,
    phase: Phase,
    code: Option<u16>,
    reply_sent: bool,
    from: &'a str,
    recipients: &'a [Recipient],
    bytes: &'a [u8],
    size: u64,
    sha256: Option<String>,
}

impl<'a> Fate<'a> {
    fn of(from: &'a str, recipients: &'a [Recipient]) -> Self {
        Self {
            verdict: Verdict::Accepted,
            phase: Phase::Dot,
            code: Some(250),
            reply_sent: true,
            from,
            recipients,
            bytes: &[],
            size: 0,
            sha256: None,
        }
    }
}

/// The code of a response that is no success, and whether it gets out whole; the code is none
/// where none is sent.
fn refusal(response: &Response) -> Option<(Option<u16>, bool)> {
    match response {
        Response::Proceed => None,
        Response::Reply(reply) => (!reply.is_positive()).then_some((Some(reply.code()), true)),
        Response::Each(replies) => {
            let refusal = replies.iter().find(|reply| !reply.is_positive())?;
            Some((Some(refusal.code()), true))
        }
        Response::Misbehave(how) if how.success() => None,
        Response::Misbehave(how) => Some((code(how), is_whole(how))),
    }
}

fn code(how: &Misbehaviour) -> Option<u16> {
    let bytes = how.reply_bytes(b"250 2.0.0 Ok\r\n");
    std::str::from_utf8(bytes.get(..3)?).ok()?.parse().ok()
}

fn is_whole(how: &Misbehaviour) -> bool {
    how.reply_bytes(b"250 2.0.0 Ok\r\n").ends_with(b"\n")
}

impl Handler for SinkHandler {
    type Session = SinkSession;

    fn open(&self, connection: &Connection) -> SinkSession {
        let counters = &self.shared.counters;
        add(&counters.connections, 1);
        let open = add(&counters.open, 1);
        counters.peak.fetch_max(open, Ordering::Relaxed);
        SinkSession { shared: Arc::clone(&self.shared), connection: connection.number, message: 0 }
    }

    async fn at(&self, session: &mut SinkSession, stage: Stage<'_>) -> Response {
        let (fault_stage, envelope) = match stage {
            Stage::Connect => (FaultStage::Connect, None),
            Stage::Greeting => (FaultStage::Greeting, None),
            Stage::Hello { .. } => (FaultStage::Hello, None),
            Stage::StartTls => (FaultStage::Starttls, None),
            Stage::Mail(envelope) => (FaultStage::Mail, Some(envelope)),
            Stage::Data(envelope) => (FaultStage::Data, Some(envelope)),
            Stage::Rset => (FaultStage::Rset, None),
            Stage::Noop => (FaultStage::Noop, None),
            Stage::Quit => (FaultStage::Quit, None),
        };
        if fault_stage == FaultStage::Mail {
            session.message = add(&self.shared.counters.transactions, 1);
        }
        let response = session.response(fault_stage, envelope, None);
        match stage {
            Stage::Mail(envelope) => session.refused(&response, Phase::Mail, &envelope.from, &[]),
            Stage::Data(envelope) => {
                session.refused(&response, Phase::Data, &envelope.from, &envelope.recipients);
            }
            _ => {}
        }
        response
    }

    async fn authenticate(&self, session: &mut SinkSession, shown: &Credentials) -> Response {
        if let Some((user, secret)) = &self.shared.user
            && (*user != shown.user || *secret != shown.secret)
        {
            return Reply::new(535, "5.7.8", "Authentication credentials invalid").into();
        }
        session.response(FaultStage::Auth, None, None)
    }

    async fn rcpt(
        &self,
        session: &mut SinkSession,
        envelope: &Envelope,
        recipient: &Recipient,
    ) -> Response {
        let response = session.response(FaultStage::Rcpt, Some(envelope), Some(recipient));
        session.refused(&response, Phase::Rcpt, &envelope.from, std::slice::from_ref(recipient));
        response
    }

    fn intake(&self, session: &mut SinkSession, envelope: &Envelope) -> Intake {
        let strike = session.strike(FaultStage::Body, Some(envelope), None);
        let interrupt = strike.map(|strike| Interrupt {
            after: InterruptAfter::Bytes(strike.after_bytes),
            misbehaviour: strike.misbehaviour,
        });
        let keep = match (self.shared.discard, &self.shared.journal, &self.shared.returns) {
            (false, _, _) => Keep::Message,
            (true, None, None) => Keep::Nothing,
            (true, _, _) => Keep::Head(HEAD_BYTES),
        };
        Intake { keep, interrupt }
    }

    async fn message(&self, session: &mut SinkSession, message: Message) -> Response {
        let strike = session.strike(FaultStage::Dot, Some(&message.envelope), None);
        let how = strike.as_ref().map(|strike| Arc::clone(&strike.misbehaviour));
        let response = how.map_or(Response::Proceed, Response::Misbehave);
        let Message { envelope, bytes, size } = message;
        let mut fate = Fate {
            bytes: &bytes,
            size,
            sha256: (!self.shared.discard && self.shared.journal.is_some()).then(|| sha256(&bytes)),
            ..Fate::of(&envelope.from, &envelope.recipients)
        };
        if let Response::Misbehave(how) = &response {
            (fate.code, fate.reply_sent) = (code(how), is_whole(how));
            fate.verdict = match fate.code {
                _ if how.success() => Verdict::Accepted,
                Some(_) => Verdict::Refused,
                None => Verdict::Dropped,
            };
        }
        let accepted = fate.verdict == Verdict::Accepted;
        if !session.account(fate) {
            return NO_JOURNAL.into();
        }
        if accepted {
            let returned = strike.and_then(|strike| strike.returned);
            if let (Some(returned), Some(returns)) = (returned, &self.shared.returns) {
                returns.schedule(returned, Original::new(&envelope, &bytes));
            }
            if !self.shared.discard {
                self.keep(session.connection, envelope, bytes).await;
            }
        }
        response
    }

    fn unfinished(
        &self,
        session: &mut SinkSession,
        envelope: &Envelope,
        unfinished: &Unfinished<'_>,
    ) {
        let fate = Fate::of(&envelope.from, &envelope.recipients);
        session.account(match unfinished {
            Unfinished::Aborted { received } => Fate {
                verdict: Verdict::Aborted,
                phase: Phase::Body,
                code: None,
                reply_sent: false,
                size: *received,
                ..fate
            },
            Unfinished::Refused { size, reply } => {
                Fate { verdict: Verdict::Refused, code: Some(reply.code()), size: *size, ..fate }
            }
        });
    }

    fn idle(&self, session: &mut SinkSession) -> Option<Interrupt> {
        let strike = session.strike(FaultStage::Idle, None, None)?;
        let after = InterruptAfter::Idle(strike.after_idle);
        Some(Interrupt { after, misbehaviour: strike.misbehaviour })
    }
}

impl SinkHandler {
    /// Puts a message into the mailbox, and into a file where one is wanted.
    async fn keep(&self, connection: u64, envelope: Envelope, raw: Vec<u8>) {
        let received = received(connection, envelope, raw);
        let file = self.shared.mailbox_dir.as_ref().map(|dir| {
            let name = format!("{}-{}.eml", received.at.microseconds(), connection);
            (dir.join(name), received.raw.clone())
        });
        self.shared.mailbox.put(received);
        if let Some((path, bytes)) = file
            && let Err(error) = write_whole(&path, bytes).await
        {
            tracing::error!(%error, path = %path.display(), "cannot write a message to the mailbox folder");
        }
    }
}

/// Writes a file that is there with all its bytes, or not under its name.
async fn write_whole(path: &Path, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
    let part = path.with_extension("part");
    tokio::fs::write(&part, bytes).await?;
    tokio::fs::rename(&part, path).await
}

fn received(connection: u64, envelope: Envelope, raw: Vec<u8>) -> Received {
    let parsed = mail_parser::MessageParser::new().with_minimal_headers().parse_headers(&raw[..]);
    let subject = parsed.as_ref().and_then(mail_parser::Message::subject).unwrap_or_default();
    let from = parsed.as_ref().and_then(mail_parser::Message::from).and_then(|from| from.first());
    let from = from.map(|from| match (from.name(), from.address()) {
        (Some(name), Some(address)) => format!("{name} <{address}>"),
        (name, address) => name.or(address).unwrap_or_default().to_owned(),
    });
    Received {
        id: 0,
        at: Timestamp::now(),
        connection,
        mail_from: envelope.from,
        rcpt_to: envelope.recipients.into_iter().map(|recipient| recipient.address).collect(),
        from: from.unwrap_or_default(),
        subject: subject.to_owned(),
        message_id: content::message_id(&raw),
        raw,
    }
}

fn sha256(bytes: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    data_encoding::HEXLOWER.encode(digest.as_ref())
}
