//! A server over real sockets that follows the protocol, but for the faults it was told, and keeps
//! a journal of what it was sent and what it took.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::super::*;

/// A step of the protocol at which a server answers. Messages are counted from one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum At {
    Greeting,
    Ehlo,
    Auth,
    Rset,
    Mail(u32),
    Rcpt(u32),
    Data(u32),
    /// After the first bytes of a body, before its end.
    Body(u32),
    Dot(u32),
    Quit,
}

/// What it does there instead of answering as it should.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    /// Answers so, and goes on as the first code says.
    Say(Vec<u8>),
    /// Answers so and closes.
    SayAndClose(Vec<u8>),
    /// Answers so and resets the connection.
    SayAndReset(Vec<u8>),
    /// As it should, and closes.
    AnswerAndClose,
    /// Not at all, until the client gives up.
    Silence,
    /// As it should, and then reads nothing more until the client is gone.
    StopReading,
    /// This, byte by byte, for as long as the client listens.
    Trickle(Vec<u8>),
    /// As it should, with this behind it in the same write.
    Extra(Vec<u8>),
}

/// How a server behaves.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) extensions: Vec<&'static str>,
    pub(super) faults: Vec<(At, Fault)>,
    /// Whether DATA is answered with 354 even when no recipient was taken.
    pub(super) eager_354: bool,
    /// Whether a recipient is taken even when its sender was refused.
    pub(super) careless_rcpt: bool,
    /// The answers to AUTH and what follows it, in order.
    pub(super) auth: Vec<&'static str>,
}

impl Plan {
    pub(super) fn pipelining() -> Self {
        Self { extensions: vec!["PIPELINING"], ..Self::plain() }
    }

    pub(super) fn plain() -> Self {
        Self {
            extensions: vec![],
            faults: vec![],
            eager_354: false,
            careless_rcpt: false,
            auth: vec![],
        }
    }

    pub(super) fn fault(mut self, at: At, fault: Fault) -> Self {
        self.faults.push((at, fault));
        self
    }
}

/// What a server saw.
#[derive(Debug, Default, Clone)]
pub(super) struct Journal {
    /// Commands, without line ends.
    pub(super) commands: Vec<String>,
    /// Messages it took responsibility for: recipient and content.
    pub(super) taken: Vec<(String, Vec<u8>)>,
    /// Bodies that came to their terminator, whatever was answered.
    pub(super) ended: u32,
}

/// A running server for one connection.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    journal: Arc<Mutex<Journal>>,
    task: JoinHandle<()>,
}

impl Server {
    pub(super) async fn start(plan: Plan) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let journal = Arc::new(Mutex::new(Journal::default()));
        let theirs = journal.clone();
        let task = tokio::spawn(async move {
            let (tcp, _) = listener.accept().await.unwrap();
            tcp.set_nodelay(true).unwrap();
            let mut talk = Talk::new(tcp, plan, theirs);
            // The client may leave whenever it likes.
            if let Ok(Close::Reset) = talk.serve().await {
                talk.peer.get_ref().set_zero_linger().unwrap();
            }
        });
        Self { address, journal, task }
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint::new("127.0.0.1", self.address.port(), "client.example")
    }

    pub(super) async fn session(&self) -> Session {
        Session::connect(&self.endpoint()).await.unwrap()
    }

    /// Waits for the connection to end.
    pub(super) async fn journal(self) -> Journal {
        self.task.await.unwrap();
        self.journal.lock().unwrap().clone()
    }
}

/// How a server ends a connection.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Close {
    Fin,
    Reset,
}

/// One conversation, over any stream.
pub(super) struct Talk<S> {
    pub(super) peer: BufReader<S>,
    plan: Plan,
    journal: Arc<Mutex<Journal>>,
    message: u32,
    sender_taken: bool,
    recipient: Option<String>,
}

/// `Err` of this ends the conversation.
type Turn<T> = Result<T, Result<Close, io::Error>>;

fn gone(error: io::Error) -> Result<Close, io::Error> {
    Err(error)
}

impl<S: AsyncRead + AsyncWrite + Unpin> Talk<S> {
    pub(super) fn new(peer: S, plan: Plan, journal: Arc<Mutex<Journal>>) -> Self {
        let peer = BufReader::new(peer);
        Self { peer, plan, journal, message: 0, sender_taken: false, recipient: None }
    }

    pub(super) async fn serve(&mut self) -> io::Result<Close> {
        match self.converse(true).await {
            Ok(()) => Ok(Close::Fin),
            Err(end) => end,
        }
    }

    /// The conversation after a TLS handshake: without a greeting if the client started it.
    pub(super) async fn serve_after_starttls(&mut self) -> io::Result<Close> {
        match self.converse(false).await {
            Ok(()) => Ok(Close::Fin),
            Err(end) => end,
        }
    }

    async fn converse(&mut self, greet: bool) -> Turn<()> {
        if greet {
            self.answer(At::Greeting, "220 server.example ESMTP").await?;
        }
        loop {
            let line = self.line().await?;
            self.journal.lock().unwrap().commands.push(line.clone());
            let verb = line.split([' ', ':']).next().unwrap_or_default().to_ascii_uppercase();
            match verb.as_str() {
                "EHLO" => {
                    let mut reply = String::from("250-server.example greets you");
                    for extension in &self.plan.extensions {
                        reply.push_str("\r\n250-");
                        reply.push_str(extension);
                    }
                    reply.push_str("\r\n250 HELP");
                    self.answer(At::Ehlo, &reply).await?;
                }
                "HELO" => self.say(b"250 server.example\r\n").await?,
                "AUTH" => self.authenticate().await?,
                "RSET" => {
                    self.recipient = None;
                    self.answer(At::Rset, "250 2.0.0 cleared").await?;
                }
                "MAIL" => {
                    self.message += 1;
                    self.recipient = None;
                    let at = At::Mail(self.message);
                    self.sender_taken = self.answer(at, "250 2.1.0 sender ok").await?;
                }
                "RCPT" if !self.sender_taken && !self.plan.careless_rcpt => {
                    self.answer(At::Rcpt(self.message), "503 5.5.1 no sender").await?;
                }
                "RCPT" => {
                    let taken = self.answer(At::Rcpt(self.message), "250 2.1.5 rcpt ok").await?;
                    self.recipient = taken.then_some(line);
                }
                "DATA" if self.recipient.is_none() && !self.plan.eager_354 => {
                    self.answer(At::Data(self.message), "554 5.5.1 no valid recipients").await?;
                }
                "DATA" => {
                    if self.answer(At::Data(self.message), "354 go ahead").await? {
                        self.take_body().await?;
                    }
                }
                "QUIT" => {
                    self.answer(At::Quit, "221 2.0.0 bye").await?;
                    return Ok(());
                }
                _ => self.say(b"500 5.5.2 what?\r\n").await?,
            }
        }
    }

    async fn authenticate(&mut self) -> Turn<()> {
        for reply in std::mem::take(&mut self.plan.auth) {
            if !self.answer(At::Auth, reply).await? || !reply.starts_with("334") {
                return Ok(());
            }
            let line = self.line().await?;
            self.journal.lock().unwrap().commands.push(line);
        }
        Ok(())
    }

    async fn take_body(&mut self) -> Turn<()> {
        let mut body = Vec::new();
        let wants = self.fault(At::Body(self.message)).is_some();
        loop {
            let start = body.len();
            if self.peer.read_until(b'\n', &mut body).await.map_err(gone)? == 0 {
                return Err(Ok(Close::Fin));
            }
            if &body[start..] == b".\r\n" {
                body.truncate(start);
                break;
            }
            if wants {
                self.answer(At::Body(self.message), "").await?;
            }
        }
        self.journal.lock().unwrap().ended += 1;
        let recipient = self.recipient.take();
        let verdict = if recipient.is_some() { "250 2.0.0 queued" } else { "554 5.5.1 nobody" };
        // What is answered decides; a server that takes the message and fails to say so took it.
        let at = At::Dot(self.message);
        let takes = match self.fault(at) {
            Some(Fault::Say(reply) | Fault::SayAndClose(reply) | Fault::SayAndReset(reply)) => {
                reply.is_empty() || reply.starts_with(b"2")
            }
            _ => true,
        };
        if let Some(recipient) = recipient.filter(|_| takes) {
            self.journal.lock().unwrap().taken.push((recipient, body));
        }
        self.answer(at, verdict).await?;
        Ok(())
    }

    fn fault(&self, at: At) -> Option<Fault> {
        self.plan.faults.iter().find(|(where_, _)| *where_ == at).map(|(_, fault)| fault.clone())
    }

    /// Answers as planned. True if what was said is a yes.
    async fn answer(&mut self, at: At, usual: &str) -> Turn<bool> {
        let yes = |reply: &[u8]| matches!(reply.first(), Some(b'2' | b'3'));
        let usual = if usual.is_empty() { vec![] } else { format!("{usual}\r\n").into_bytes() };
        match self.fault(at) {
            None => {
                self.say(&usual).await?;
                Ok(yes(&usual))
            }
            Some(Fault::Say(reply)) => {
                self.say(&reply).await?;
                // 2yz for DATA is followed by commands, not by a body.
                Ok(yes(&reply) && !(matches!(at, At::Data(_)) && reply.starts_with(b"2")))
            }
            Some(Fault::SayAndClose(reply)) => {
                self.say(&reply).await?;
                Err(Ok(Close::Fin))
            }
            Some(Fault::SayAndReset(reply)) => {
                self.say(&reply).await?;
                Err(Ok(Close::Reset))
            }
            Some(Fault::AnswerAndClose) => {
                self.say(&usual).await?;
                Err(Ok(Close::Fin))
            }
            Some(Fault::Silence) => {
                self.until_the_client_leaves().await?;
                Err(Ok(Close::Fin))
            }
            Some(Fault::StopReading) => {
                self.say(&usual).await?;
                std::future::pending().await
            }
            Some(Fault::Trickle(reply)) => {
                for byte in reply.into_iter().chain(std::iter::repeat(b'x')) {
                    self.say(&[byte]).await?;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(Ok(Close::Fin))
            }
            Some(Fault::Extra(extra)) => {
                self.say(&[usual.clone(), extra].concat()).await?;
                Ok(yes(&usual))
            }
        }
    }

    async fn say(&mut self, bytes: &[u8]) -> Turn<()> {
        self.peer.write_all(bytes).await.map_err(gone)?;
        self.peer.flush().await.map_err(gone)
    }

    async fn line(&mut self) -> Turn<String> {
        let mut line = Vec::new();
        self.peer.read_until(b'\n', &mut line).await.map_err(gone)?;
        match line.strip_suffix(b"\r\n") {
            Some(line) => Ok(String::from_utf8_lossy(line).into_owned()),
            None => Err(Ok(Close::Fin)),
        }
    }

    async fn until_the_client_leaves(&mut self) -> Turn<()> {
        let mut sink = [0; 4096];
        while self.peer.read(&mut sink).await.map_err(gone)? > 0 {}
        Ok(())
    }
}

/// Runs a transaction and says how many terminators may have left, by what `mark` was told.
pub(super) async fn send(
    session: &mut Session,
    message: &Outgoing<'_>,
    next: Option<&Envelope>,
) -> (Transaction, u32) {
    let mut calls = 0;
    let transaction = session
        .transact(message, next, |dot| {
            match dot {
                Dot::MayLeave => calls += 1,
                Dot::IsHere => calls -= 1,
            }
            Ok(())
        })
        .await;
    (transaction, calls)
}

/// The envelope of test message `number`.
pub(super) fn envelope(number: u32) -> Envelope {
    Envelope::new(format!("b+{number}@bounce.example"), format!("reader{number}@example.net"))
}

pub(super) const BODY: &[u8] = b"Subject: hello\r\n\r\nA line.\r\n..A dotted line.\r\n";

/// TCP for tests that drive the server by hand.
pub(super) async fn pair() -> (TcpStream, TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (TcpStream::connect(address).await.unwrap(), listener, address)
}
