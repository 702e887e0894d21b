//! One session: the states of the dialogue, from the greeting to the end. Bytes are [`Wire`]'s,
//! meaning is `command`'s, decisions are the handler's.

use std::{sync::Arc, time::Duration};

use tokio::{net::TcpStream, time::Instant};

use super::{
    Auth, Connection, End, Envelope, Handler, Hello, Interrupt, InterruptAfter, Misbehaviour,
    Protocol, Recipient, Reply, Response, Shared, Stage, Then, Tls, auth,
    command::{self, Command, MailParameters},
    data::DataScanner,
    stream::Stream,
    wire::{Filled, Line, Wire},
};

mod login;
mod message;

/// Replies are gathered up to this size, however many commands a client sends at once.
const OUTPUT_BYTES_MAX: usize = 16 * 1024;
const SHUTTING_DOWN: Reply = Reply::new(421, "4.3.2", "Shutting down, try again later");
const TOO_SLOW: Reply = Reply::new(421, "4.4.2", "Too slow, closing the connection");
const TOO_MUCH: Reply = Reply::new(421, "4.7.0", "Too many commands or errors");
const OUT_OF_ORDER: Reply = Reply::new(503, "5.5.1", "Not now: commands are out of order");
const MAIL_OK: Reply = Reply::new(250, "2.1.0", "Sender ok");
const RCPT_OK: Reply = Reply::new(250, "2.1.5", "Recipient ok");
const FORGOTTEN: Reply = Reply::new(451, "4.3.0", "Not done, try again later");
const OK: Reply = Reply::new(250, "2.0.0", "Ok");

/// Serves one connection to its end.
pub(super) async fn run<H: Handler>(shared: &Shared<H>, tcp: TcpStream, connection: Connection) {
    let state = shared.handler.open(&connection);
    let limits = &shared.config.limits;
    let wire = Wire::new(
        Stream::Plain(tcp),
        limits.read_buffer_bytes.max(limits.line_bytes + 2),
        limits.write_timeout,
        shared.config.reply_latency,
        shared.shutdown.clone(),
    );
    let mut session = Session {
        shared,
        wire,
        state,
        scanner: DataScanner::new(),
        ends_at: Instant::now() + limits.session_timeout,
        hello: None,
        logged_in: false,
        envelope: None,
        idle: None,
        commands: 0,
        errors: 0,
        reset: false,
    };
    let end = match session.serve().await {
        Ok(never) => match never {},
        Err(end) => end,
    };
    tracing::debug!(connection = connection.number, %end, "an SMTP session ended");
    session.finish(end).await;
}

/// What a function that only ends with the session returns.
enum Never {}

struct Session<'s, H: Handler> {
    shared: &'s Shared<H>,
    wire: Wire,
    state: H::Session,
    scanner: DataScanner,
    ends_at: Instant,
    hello: Option<Hello>,
    logged_in: bool,
    envelope: Option<Envelope>,
    /// What the handler wants to happen if the client stays silent now.
    idle: Option<Interrupt>,
    commands: u64,
    errors: u32,
    reset: bool,
}

impl<H: Handler> Session<'_, H> {
    async fn serve(&mut self) -> Result<Never, End> {
        self.greet().await?;
        loop {
            let line = self.read_line().await?;
            self.commands += 1;
            if self.commands > self.shared.config.limits.commands {
                return self.hang_up(&TOO_MUCH, End::LimitExceeded);
            }
            self.idle = None;
            let text = std::mem::take(&mut self.wire.line);
            let command = match line {
                Line::Complete => command::parse(&text),
                Line::BareLf => Err(Reply::new(500, "5.5.2", "Lines end with CR LF")),
                Line::TooLong => Err(Reply::new(500, "5.5.6", "Line too long")),
            };
            match command {
                Ok(command) => self.obey(command).await?,
                Err(reply) => self.refuse(&reply)?,
            }
            self.wire.line = text;
        }
    }

    async fn greet(&mut self) -> Result<(), End> {
        if let Tls::Implicit(config) = &self.shared.config.tls {
            let within = self.shared.config.limits.command_timeout;
            self.wire.start_tls(Arc::clone(config), within).await?;
        }
        let handler = Arc::clone(&self.shared.handler);
        let connect = handler.at(&mut self.state, Stage::Connect).await;
        if !matches!(connect, Response::Proceed) {
            let success = self.answer(connect, &[]).await?;
            if !success {
                return Err(End::Refused);
            }
        }
        let protocol = match self.shared.config.protocol {
            Protocol::Smtp => "ESMTP",
            Protocol::Lmtp => "LMTP",
        };
        let greeting = Reply::plain(220, "")
            .with_text(format!("{} {protocol} ready", self.shared.config.hostname));
        let response = handler.at(&mut self.state, Stage::Greeting).await;
        if self.answer(response, &[greeting]).await? { Ok(()) } else { Err(End::Refused) }
    }

    /// Waits for a line, with everything answered so far sent first.
    async fn read_line(&mut self) -> Result<Line, End> {
        let limits = &self.shared.config.limits;
        let mut until = None;
        loop {
            let line = self.wire.next_line(limits.line_bytes);
            if line.is_none() || self.wire.output.len() > OUTPUT_BYTES_MAX {
                self.wire.flush().await?;
            }
            if let Some(line) = line {
                return Ok(line);
            }
            let until = *until.get_or_insert_with(|| Instant::now() + limits.command_timeout);
            let interrupt = match &self.idle {
                Some(Interrupt { after: InterruptAfter::Idle(after), misbehaviour }) => {
                    Some((Instant::now() + *after, Arc::clone(misbehaviour)))
                }
                _ => None,
            };
            let wake = interrupt.as_ref().map_or(until, |(at, _)| until.min(*at)).min(self.ends_at);
            match (self.wire.fill(wake, true).await?, interrupt) {
                (Filled::More, _) => {}
                (Filled::ShuttingDown, _) => {
                    return self.hang_up(&SHUTTING_DOWN, End::ShuttingDown);
                }
                (Filled::TimedOut, Some((at, misbehaviour))) if wake == at => {
                    self.idle = None;
                    self.misbehave(&misbehaviour, &[]).await?;
                }
                (Filled::TimedOut, _) => return self.hang_up(&TOO_SLOW, End::TimedOut),
            }
        }
    }

    async fn obey(&mut self, command: Command<'_>) -> Result<(), End> {
        match command {
            Command::Hello { verb, name } => self.hello(verb, name).await,
            Command::Mail { from, parameters } => self.mail(from, parameters).await,
            Command::Rcpt(recipient) => self.rcpt(recipient).await,
            Command::Data => self.data().await,
            Command::Rset => {
                let response = self.at(Stage::Rset).await;
                if self.answer(response, &[OK]).await? {
                    self.envelope = None;
                }
                Ok(())
            }
            Command::Noop => {
                let response = self.at(Stage::Noop).await;
                self.answer(response, &[OK]).await.map(drop)
            }
            Command::Quit => {
                let response = self.at(Stage::Quit).await;
                let bye = Reply::new(221, "2.0.0", "Bye");
                if self.answer(response, &[bye]).await? { Err(End::Quit) } else { Ok(()) }
            }
            Command::StartTls => self.start_tls().await,
            Command::Auth { mechanism, initial } => self.auth(&mechanism, initial).await,
            Command::Vrfy => {
                self.say(&Reply::new(252, "2.5.0", "Send some mail and see"));
                Ok(())
            }
            Command::Help => {
                self.say(&Reply::new(214, "2.0.0", "RFC 5321 has it all"));
                Ok(())
            }
        }
    }

    async fn hello(&mut self, verb: Hello, name: &str) -> Result<(), End> {
        let lmtp = self.shared.config.protocol == Protocol::Lmtp;
        if lmtp != (verb == Hello::Lhlo) {
            let text = if lmtp { "This is LMTP: say LHLO" } else { "This is SMTP: say EHLO" };
            return self.refuse(&Reply::new(500, "5.5.1", text));
        }
        let config = &self.shared.config;
        let mut text = config.hostname.clone();
        if verb != Hello::Helo {
            text.push_str("\nPIPELINING\n8BITMIME\nSMTPUTF8\nDSN\nENHANCEDSTATUSCODES\nSIZE ");
            text.push_str(&config.limits.message_bytes.to_string());
            if matches!(config.tls, Tls::StartTls(_)) && !self.wire.is_tls() {
                text.push_str("\nSTARTTLS");
            }
            if self.offers_auth() {
                text.push_str("\nAUTH PLAIN LOGIN XOAUTH2");
            }
        }
        let response = self.at(Stage::Hello { verb, name }).await;
        if self.answer(response, &[Reply::plain(250, "").with_text(text)]).await? {
            self.hello = Some(verb);
            self.envelope = None;
        }
        Ok(())
    }

    async fn mail(&mut self, from: &str, parameters: MailParameters) -> Result<(), End> {
        let config = &self.shared.config;
        if self.hello.is_none() || self.envelope.is_some() {
            return self.refuse(&OUT_OF_ORDER);
        }
        if matches!(config.auth, Auth::Required | Auth::RequiredInTheClear) && !self.logged_in {
            return self.refuse(&Reply::new(530, "5.7.0", "Authentication required"));
        }
        if parameters.size.is_some_and(|size| size > config.limits.message_bytes) {
            return self.refuse(&message::TOO_BIG);
        }
        let envelope = Envelope { from: from.to_owned(), parameters, recipients: Vec::new() };
        let response = self.at(Stage::Mail(&envelope)).await;
        if self.answer(response, &[MAIL_OK]).await? {
            self.envelope = Some(envelope);
        }
        Ok(())
    }

    async fn rcpt(&mut self, recipient: Recipient) -> Result<(), End> {
        let Some(mut envelope) = self.envelope.take() else {
            return self.refuse(&OUT_OF_ORDER);
        };
        let result = if envelope.recipients.len() >= self.shared.config.limits.recipients {
            self.refuse(&Reply::new(452, "4.5.3", "Too many recipients")).map(|()| false)
        } else {
            let handler = Arc::clone(&self.shared.handler);
            let response = handler.rcpt(&mut self.state, &envelope, &recipient).await;
            self.answer(response, &[RCPT_OK]).await
        };
        if matches!(result, Ok(true)) {
            envelope.recipients.push(recipient);
        }
        self.envelope = Some(envelope);
        result.map(drop)
    }

    async fn at(&mut self, stage: Stage<'_>) -> Response {
        self.shared.handler.at(&mut self.state, stage).await
    }

    /// Queues a reply that is no refusal.
    fn say(&mut self, reply: &Reply) {
        reply.write_to(&mut self.wire.output);
    }

    /// Queues a refusal and counts it.
    fn refuse(&mut self, reply: &Reply) -> Result<(), End> {
        self.say(reply);
        self.errors += 1;
        if self.errors > self.shared.config.limits.errors {
            return self.hang_up(&TOO_MUCH, End::LimitExceeded);
        }
        Ok(())
    }

    /// Queues the last words; the end itself is up to the caller's caller.
    fn hang_up<T>(&mut self, reply: &Reply, end: End) -> Result<T, End> {
        self.say(reply);
        Err(end)
    }

    /// Answers as the handler said; `usual` is what success is answered with. Returns whether the
    /// stage took effect.
    async fn answer(&mut self, response: Response, usual: &[Reply]) -> Result<bool, End> {
        match response {
            Response::Proceed => {
                for reply in usual {
                    self.say(reply);
                }
                Ok(usual.iter().all(Reply::is_positive))
            }
            Response::Reply(reply) if reply.is_positive() => {
                for _ in usual {
                    self.say(&reply);
                }
                Ok(true)
            }
            Response::Reply(reply) => {
                (1..usual.len()).for_each(|_| self.say(&reply));
                self.refuse(&reply)?;
                Ok(false)
            }
            Response::Each(replies) => Ok(self.answer_each(&replies, usual.len())),
            Response::Misbehave(misbehaviour) => self.misbehave(&misbehaviour, usual).await,
        }
    }

    /// Answers for every recipient of a message, in `places` replies: one for all over SMTP, one for
    /// each over LMTP. A refusal is none of the client's errors.
    fn answer_each(&mut self, replies: &[Reply], places: usize) -> bool {
        let refusal = replies.iter().find(|reply| !reply.is_positive());
        if places == 1 && replies.len() != 1 {
            self.say(refusal.or(replies.first()).unwrap_or(&OK));
        } else {
            // A recipient that the handler forgot is told to come again.
            (0..places).for_each(|place| self.say(replies.get(place).unwrap_or(&FORGOTTEN)));
        }
        refusal.is_none()
    }

    async fn misbehave(&mut self, how: &Misbehaviour, usual: &[Reply]) -> Result<bool, End> {
        if !how.delay.is_zero() {
            self.wire.flush_all().await?;
            self.pause(how.delay).await?;
        }
        let mut bytes = Vec::new();
        for reply in usual {
            reply.write_to(&mut bytes);
        }
        let mut bytes = how.reply_bytes(&bytes);
        bytes.extend_from_slice(&how.extra);
        match how.trickle {
            None => self.wire.output.extend_from_slice(&bytes),
            Some(every) => {
                for byte in bytes {
                    self.wire.flush_all().await?;
                    self.pause(every).await?;
                    self.wire.output.push(byte);
                }
            }
        }
        match how.then {
            Then::GoOn => Ok(how.success()),
            Then::Close => Err(End::Ended),
            Then::Reset => {
                self.wire.flush_all().await?;
                self.reset = true;
                Err(End::Ended)
            }
            Then::Stall => {
                self.wire.flush_all().await?;
                match self.wire.pause(self.ends_at).await? {
                    Filled::ShuttingDown => Err(End::ShuttingDown),
                    _ => Err(End::TimedOut),
                }
            }
        }
    }

    async fn pause(&mut self, duration: Duration) -> Result<(), End> {
        let until = Instant::now() + duration;
        match self.wire.pause(until.min(self.ends_at)).await? {
            Filled::ShuttingDown => Err(End::ShuttingDown),
            _ if until > self.ends_at => Err(End::TimedOut),
            _ => Ok(()),
        }
    }

    async fn finish(mut self, end: End) {
        self.shared.handler.close(&mut self.state, &end);
        match end {
            _ if self.reset => self.wire.reset(),
            End::Closed | End::Io(_) => {}
            _ => self.wire.close().await,
        }
    }
}
