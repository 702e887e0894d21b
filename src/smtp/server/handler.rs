//! What a server asks of the program around it: a [`Handler`] that decides, and the values that go
//! back and forth.

use std::{
    future::{Future, ready},
    io,
    net::SocketAddr,
};

use super::{Credentials, Hello, Interrupt, MailParameters, Recipient, Reply, Response};

/// What a handler learns of a connection when it opens.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Counts from 1 in each server.
    pub number: u64,
    /// The client.
    pub peer: SocketAddr,
}

/// A transaction: who sends what to whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Envelope {
    /// The reverse path; empty for the null sender of bounces.
    pub from: String,
    /// What `MAIL` said beside it.
    pub parameters: MailParameters,
    /// The recipients accepted so far.
    pub recipients: Vec<Recipient>,
}

/// A stage of the dialogue at which the usual course can be changed.
#[derive(Debug, Clone, Copy)]
pub enum Stage<'a> {
    /// The connection is open and nothing was said; refusing greets with the refusal and closes.
    Connect,
    /// The greeting is due.
    Greeting,
    /// `EHLO`, `HELO` or `LHLO`.
    Hello {
        /// Which it was.
        verb: Hello,
        /// Who the client says it is.
        name: &'a str,
    },
    /// `STARTTLS`, where offered.
    StartTls,
    /// `MAIL`, acceptable as to its form; the envelope has no recipients yet.
    Mail(&'a Envelope),
    /// `DATA` with at least one recipient.
    Data(&'a Envelope),
    /// `RSET`.
    Rset,
    /// `NOOP`.
    Noop,
    /// `QUIT`.
    Quit,
}

/// How much of a message's data is handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Everything, dot-stuffing removed.
    Message,
    /// The first so many bytes as they came, terminator and dot-stuffing included.
    Head(usize),
    /// Nothing; the size is counted.
    Nothing,
}

/// How a handler wants a message taken in.
#[derive(Debug, Clone)]
pub struct Intake {
    /// How much of it is kept.
    pub keep: Keep,
    /// What happens in the middle of it, in rehearsals.
    pub interrupt: Option<Interrupt>,
}

/// A message whose data has come to its end.
#[derive(Debug)]
pub struct Message {
    /// Its envelope.
    pub envelope: Envelope,
    /// Its bytes, as far as [`Keep`] asked for them.
    pub bytes: Vec<u8>,
    /// Its size in bytes on the wire without the terminator.
    pub size: u64,
}

/// How a transaction ended whose message a handler was not asked about.
#[derive(Debug)]
pub enum Unfinished<'a> {
    /// The connection ended in the data.
    Aborted {
        /// How much had come.
        received: u64,
    },
    /// The server refused the message itself: too big, no room, bare newlines.
    Refused {
        /// Its size.
        size: u64,
        /// With what.
        reply: &'a Reply,
    },
}

/// How a session ended.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// `QUIT`.
    #[error("the client quit")]
    Quit,
    /// The client closed the connection.
    #[error("the client closed the connection")]
    Closed,
    /// The client was refused at the door.
    #[error("the connection was refused")]
    Refused,
    /// The client was too slow, in a command or in all.
    #[error("the client was too slow")]
    TimedOut,
    /// The client broke a bound of [`Limits`](super::Limits).
    #[error("the client exceeded a limit")]
    LimitExceeded,
    /// The server is shutting down.
    #[error("the server is shutting down")]
    ShuttingDown,
    /// The handler had the connection closed or reset.
    #[error("the handler ended the session")]
    Ended,
    /// The connection or its TLS failed.
    #[error("the connection failed: {0}")]
    Io(#[source] io::Error),
}

/// Decides what a server accepts. One handler serves all sessions; what a session needs to remember
/// is its [`Handler::Session`].
pub trait Handler: Send + Sync + 'static {
    /// A session's memory; dropped when the connection is gone, however that came about.
    type Session: Send + 'static;

    /// A connection was accepted.
    fn open(&self, connection: &Connection) -> Self::Session;

    /// A stage has come that usually succeeds.
    fn at(
        &self,
        session: &mut Self::Session,
        stage: Stage<'_>,
    ) -> impl Future<Output = Response> + Send {
        let _ = (session, stage);
        ready(Response::Proceed)
    }

    /// A client logs in. Refused unless a handler says otherwise.
    fn authenticate(
        &self,
        session: &mut Self::Session,
        credentials: &Credentials,
    ) -> impl Future<Output = Response> + Send {
        let _ = (session, credentials);
        ready(Response::Reply(Reply::new(535, "5.7.8", "Authentication credentials invalid")))
    }

    /// A client names a recipient.
    fn rcpt(
        &self,
        session: &mut Self::Session,
        envelope: &Envelope,
        recipient: &Recipient,
    ) -> impl Future<Output = Response> + Send;

    /// A message's data is about to come.
    fn intake(&self, session: &mut Self::Session, envelope: &Envelope) -> Intake {
        let _ = (session, envelope);
        Intake { keep: Keep::Message, interrupt: None }
    }

    /// A message has come. The reply leaves after this returns; [`Response::Each`] has one for every
    /// recipient.
    fn message(
        &self,
        session: &mut Self::Session,
        message: Message,
    ) -> impl Future<Output = Response> + Send;

    /// A message will not come, or was refused by the server.
    fn unfinished(
        &self,
        session: &mut Self::Session,
        envelope: &Envelope,
        unfinished: &Unfinished<'_>,
    ) {
        let _ = (session, envelope, unfinished);
    }

    /// A message was answered and nothing more has come yet.
    fn idle(&self, session: &mut Self::Session) -> Option<Interrupt> {
        let _ = session;
        None
    }

    /// A session is over.
    fn close(&self, session: &mut Self::Session, end: &End) {
        let _ = (session, end);
    }
}
