//! A server in memory: it answers the moment it is written to, knows exactly which bytes it got, and
//! breaks the connection where it is told to.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A pipelining server in memory. It answers the moment it is written to, and breaks after a given
/// number of bytes taken or replies' bytes given.
pub(super) struct Automaton {
    /// Everything it took.
    pub(super) received: Vec<u8>,
    /// How far `received` is understood.
    pub(super) read: usize,
    pub(super) in_body: bool,
    pub(super) replies: VecDeque<u8>,
    /// Messages whose terminator arrived in full.
    pub(super) taken: u32,
    /// How many bytes it takes before the connection breaks.
    pub(super) takes: usize,
    /// How many bytes of replies arrive before the connection breaks.
    pub(super) gives: usize,
    /// How many bytes it takes at once, so that writes are split.
    pub(super) at_once: usize,
    /// What it says unasked, once it took so many bytes.
    pub(super) interjects: Option<(usize, &'static [u8])>,
    /// What it says instead of its next replies, one a command, starting with the greeting.
    pub(super) script: VecDeque<Vec<u8>>,
    pub(super) greeted: bool,
    pub(super) seen: Arc<Mutex<Seen>>,
}

impl Default for Automaton {
    /// A server that follows the protocol over a connection that holds.
    fn default() -> Self {
        Self {
            received: Vec::new(),
            read: 0,
            in_body: false,
            replies: VecDeque::new(),
            taken: 0,
            takes: usize::MAX,
            gives: usize::MAX,
            at_once: usize::MAX,
            interjects: None,
            script: VecDeque::new(),
            greeted: false,
            seen: Arc::default(),
        }
    }
}

/// What the test may look at afterwards.
#[derive(Debug, Default, Clone)]
pub(super) struct Seen {
    /// Everything it was sent.
    pub(super) received: Vec<u8>,
    /// How many bodies came to their terminator.
    pub(super) taken: u32,
}

impl Automaton {
    /// One that follows a script, and then the protocol.
    pub(super) fn saying(script: VecDeque<Vec<u8>>) -> Self {
        let mut automaton = Self::default();
        automaton.script = script;
        automaton
    }

    /// What it saw; complete when the client has dropped the connection.
    pub(super) fn seen(&self) -> Arc<Mutex<Seen>> {
        Arc::clone(&self.seen)
    }

    /// Says what the script says, or what it should.
    fn say(&mut self, usual: &[u8]) {
        match self.script.pop_front() {
            Some(reply) => self.replies.extend(reply),
            None => self.replies.extend(usual),
        }
    }

    fn answer(&mut self) {
        loop {
            let unread = &self.received[self.read..];
            let Some(end) = unread.iter().position(|&byte| byte == b'\n') else { break };
            let line = &unread[..=end];
            let reply: &[u8] = match (self.in_body, line) {
                (true, b".\r\n") => {
                    self.in_body = false;
                    self.taken += 1;
                    b"250 2.0.0 queued\r\n"
                }
                (true, _) => b"",
                (false, b"DATA\r\n") => {
                    self.in_body = true;
                    b"354 go\r\n"
                }
                (false, line) if line.starts_with(b"EHLO") => b"250-here\r\n250 PIPELINING\r\n",
                (false, _) => b"250 2.1.0 ok\r\n",
            };
            self.read += line.len();
            if !reply.is_empty() {
                self.say(reply);
            }
        }
    }

    fn broken(&self) -> bool {
        self.received.len() >= self.takes
    }
}

impl Drop for Automaton {
    fn drop(&mut self) {
        let seen = Seen { received: std::mem::take(&mut self.received), taken: self.taken };
        *self.seen.lock().unwrap() = seen;
    }
}

impl AsyncRead for Automaton {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.greeted, true) {
            self.say(b"220 here\r\n");
        }
        let count = self.replies.len().min(buf.remaining()).min(self.gives);
        if count > 0 {
            let bytes: Vec<u8> = self.replies.drain(..count).collect();
            buf.put_slice(&bytes);
            self.gives -= count;
            Poll::Ready(Ok(()))
        } else if self.gives == 0 || self.broken() {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        } else {
            Poll::Pending
        }
    }
}

impl AsyncWrite for Automaton {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.broken() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
        let count = bytes.len().min(self.takes - self.received.len()).min(self.at_once);
        self.received.extend_from_slice(&bytes[..count]);
        self.answer();
        let taken = self.received.len();
        if let Some((_, reply)) = self.interjects.take_if(|(after, _)| taken >= *after) {
            self.replies.extend(reply);
        }
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
