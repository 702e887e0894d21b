//! The listeners that take returned mail in: SMTP, to which the bounce domain's MX leads, and LMTP
//! (RFC 2033) for a mail server beside us. Both take mail for our own signed mailboxes, and for the
//! few that every domain must have; anything else is refused before its data, so that no stranger's
//! mail is stored and nobody gets mail back. Over LMTP every recipient has its own reply, so that a
//! mail which failed for one comes again for that one only.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use crate::{
    bounce::{
        apply::{ApplyError, ReturnedMail, Source, is_genuine},
        report::SIZE_MAX,
    },
    config::Config,
    db::Db,
    smtp::{
        server::{
            BareNewlines, Connection, Envelope, Handler, Limits, Message, Protocol, Recipient,
            Reply, Response, Server, ServerConfig, Stage, network,
        },
        verp,
    },
    timestamp::Timestamp,
    token::Keyring,
};

use super::{allowance::Allowance, writer::Writer};

/// Mailboxes without a token: what RFC 2142 asks of a domain, and where a plain bounce goes.
const PLAIN: [&str; 4] = ["postmaster", "abuse", "bounce", "bounces"];
/// Mails to those in an hour; anyone can write there, and every mail is kept for a month.
const PLAIN_PER_HOUR: u32 = 200;
/// How long the database may take with one mail.
const PATIENCE: Duration = Duration::from_mins(1);

const UNKNOWN: Reply = Reply::new(550, "5.1.1", "No such mailbox");
const ELSEWHERE: Reply = Reply::new(550, "5.7.1", "This server takes mail for its own domain only");
const TAKEN: Reply = Reply::new(250, "2.0.0", "Ok");
const TOO_FAST: Reply = Reply::new(450, "4.7.1", "Too much mail from you, try again later");
const ENOUGH: Reply = Reply::new(450, "4.2.1", "Too much mail for this mailbox, try again later");
const TOO_LARGE: Reply = Reply::new(552, "5.3.4", "Message too big");
const LATER: Reply = Reply::new(451, "4.3.0", "The message could not be stored, try again later");

/// The server for `config.bounces` that speaks `protocol`, to be given a listener.
///
/// # Panics
/// Outside of a runtime, on which what it takes in is written.
pub fn server(
    db: Db,
    keyring: Arc<Keyring>,
    config: &Config,
    protocol: Protocol,
    shutdown: CancellationToken,
) -> Server<BounceDomain> {
    let settings = ServerConfig {
        hostname: config.mail.helo_name.clone(),
        protocol,
        limits: Limits {
            message_bytes: SIZE_MAX as u64,
            recipients: 10,
            connections: config.bounces.connections,
            connections_per_peer: config.bounces.connections_per_client,
            ..Limits::default()
        },
        // Reports of old servers are worth having, whatever their line ends.
        bare_newlines: BareNewlines::Keep,
        ..ServerConfig::default()
    };
    let handler = BounceDomain {
        writer: Writer::start(db, Arc::clone(&keyring), config.bounces.clone()),
        keyring,
        domain: config.mail.bounce_domain.clone(),
        protocol,
        allowance: Mutex::new(Allowance::new(config.bounces.mails_per_minute_and_client)),
        plain: Mutex::new((Instant::now(), 0)),
    };
    Server::new(settings, Arc::new(handler), shutdown)
}

/// The mailboxes of the bounce domain.
#[derive(Debug)]
pub struct BounceDomain {
    writer: Writer,
    keyring: Arc<Keyring>,
    domain: String,
    protocol: Protocol,
    allowance: Mutex<Allowance>,
    /// When the hour began, and the mails to plain mailboxes since.
    plain: Mutex<(Instant, u32)>,
}

impl BounceDomain {
    fn accept(&self, recipient: &str) -> Result<(), Reply> {
        let (local, domain) = recipient.rsplit_once('@').unwrap_or((recipient, &self.domain));
        if !domain.eq_ignore_ascii_case(&self.domain) {
            return Err(ELSEWHERE);
        }
        if PLAIN.iter().any(|name| local.eq_ignore_ascii_case(name)) {
            return if self.plain_mail_is_due() { Ok(()) } else { Err(ENOUGH) };
        }
        let genuine = verp::find(recipient).is_some_and(|(mailbox, token)| {
            is_genuine(&self.keyring, mailbox, token, Timestamp::now())
        });
        if genuine { Ok(()) } else { Err(UNKNOWN) }
    }

    fn plain_mail_is_due(&self) -> bool {
        let mut plain = self.plain.lock().unwrap_or_else(PoisonError::into_inner);
        if plain.0.elapsed() >= Duration::from_hours(1) {
            *plain = (Instant::now(), 0);
        }
        plain.1 += 1;
        plain.1 <= PLAIN_PER_HOUR
    }

    async fn take(&self, mail: ReturnedMail) -> Result<(), Reply> {
        match timeout(PATIENCE, self.writer.take(mail)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(ApplyError::Unreadable(_))) => Err(TOO_LARGE),
            Ok(Err(problem)) => {
                error!(error = %problem, "returned mail was put off; its sender tries again");
                Err(LATER)
            }
            Err(_) => {
                warn!(
                    patience_ms = PATIENCE.as_millis() as u64,
                    "the database is too slow for returned mail, which was put off"
                );
                Err(LATER)
            }
        }
    }
}

impl Handler for BounceDomain {
    /// The client's address.
    type Session = IpAddr;

    fn open(&self, connection: &Connection) -> IpAddr {
        connection.peer.ip()
    }

    async fn at(&self, peer: &mut IpAddr, stage: Stage<'_>) -> Response {
        let Stage::Mail(_) = stage else { return Response::Proceed };
        let mut allowance = self.allowance.lock().unwrap_or_else(PoisonError::into_inner);
        if allowance.take(network(*peer), Instant::now()) {
            Response::Proceed
        } else {
            TOO_FAST.into()
        }
    }

    async fn rcpt(&self, _: &mut IpAddr, _: &Envelope, recipient: &Recipient) -> Response {
        match self.accept(&recipient.address) {
            Ok(()) => Response::Proceed,
            Err(reply) => reply.into(),
        }
    }

    async fn message(&self, peer: &mut IpAddr, message: Message) -> Response {
        let raw = Arc::from(message.bytes);
        // Every recipient is a reader of its own. What was applied before a failure counts once
        // when the mail comes again.
        let mut replies = Vec::with_capacity(message.envelope.recipients.len());
        for recipient in message.envelope.recipients {
            let mail = ReturnedMail {
                raw: Arc::clone(&raw),
                mail_from: message.envelope.from.clone(),
                rcpt_to: recipient.address,
                source: match self.protocol {
                    Protocol::Smtp => Source::Smtp(*peer),
                    Protocol::Lmtp => Source::Lmtp(*peer),
                },
            };
            replies.push(self.take(mail).await.err().unwrap_or(TAKEN));
        }
        Response::Each(replies)
    }
}
