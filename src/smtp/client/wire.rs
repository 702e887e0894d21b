//! The connection itself: bytes out with an exact count of what may have left, replies in.
//!
//! Writing always listens as well, so a server that answers while we write blocks nobody, and an
//! error said in the middle of a body is heard. Whatever is counted as "handed" is an upper bound:
//! a byte that is not counted cannot have left this process.

use std::fmt;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::outcome::WireError;
use crate::smtp::reply::{Reply, ReplyBuffer};
use crate::smtp::tls::TlsClient;

/// What bytes travel over.
pub(super) enum Stream {
    /// TCP as it is.
    Plain(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
    /// A stream made by a test, which knows exactly what it took.
    #[cfg(test)]
    Scripted(Box<dyn ScriptedStream>),
}

/// What a test's stream must be.
#[cfg(test)]
pub(super) trait ScriptedStream: AsyncRead + AsyncWrite + Unpin + Send + Sync {}
#[cfg(test)]
impl<S: AsyncRead + AsyncWrite + Unpin + Send + Sync> ScriptedStream for S {}

impl Stream {
    fn poll_read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Self::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
            #[cfg(test)]
            Self::Scripted(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, parts),
            Self::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, parts),
            #[cfg(test)]
            Self::Scripted(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(())),
            Self::Tls(tls) => Pin::new(tls).poll_flush(cx),
            #[cfg(test)]
            Self::Scripted(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    /// Whether a write that failed may still have sent some of its bytes. The kernel says exactly
    /// what it took; TLS may have sent some records before the one that failed.
    fn failed_write_may_have_sent(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    async fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(tcp) => tcp.shutdown().await,
            Self::Tls(tls) => tls.shutdown().await,
            #[cfg(test)]
            Self::Scripted(stream) => stream.shutdown().await,
        }
    }
}

/// Whether the first byte of a message's terminator may be on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dot {
    /// The next write can carry it.
    MayLeave,
    /// The write ended before it: it has not left.
    IsHere,
}

/// Keeps a record of [`Dot`] for the writes of a message's end.
pub(super) struct Marked<M> {
    mark: M,
    may_leave: bool,
}

impl<M: FnMut(Dot) -> io::Result<()>> Marked<M> {
    pub(super) fn new(mark: M) -> Self {
        Self { mark, may_leave: false }
    }
}

/// What is told of the writes that may carry a terminator.
pub(super) trait Terminator {
    /// The next write may carry its first byte; none happens if that is refused.
    fn may_leave(&mut self) -> io::Result<()>;
    /// Its first byte has not left.
    fn is_here(&mut self);
}

/// What has no terminator.
impl Terminator for () {
    fn may_leave(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn is_here(&mut self) {}
}

impl<M: FnMut(Dot) -> io::Result<()>> Terminator for Marked<M> {
    fn may_leave(&mut self) -> io::Result<()> {
        if !self.may_leave {
            (self.mark)(Dot::MayLeave)?;
            self.may_leave = true;
        }
        Ok(())
    }

    fn is_here(&mut self) {
        if self.may_leave {
            // A record that cannot be made says more than is so, and that is safe.
            let _ = (self.mark)(Dot::IsHere);
            self.may_leave = false;
        }
    }
}

/// Why a write stopped.
#[derive(Debug)]
pub(super) enum WriteEnd {
    /// All of it is with the kernel.
    Done,
    /// The server said something before the guard was passed.
    Interrupted,
    /// It failed.
    Failed(WireError),
}

/// How far a write came.
#[derive(Debug)]
pub(super) struct Written {
    /// How many bytes may have left, at most.
    pub(super) handed: usize,
    /// Why it stopped.
    pub(super) end: WriteEnd,
}

/// How many slices one write hands over at most: a copy with thirty slots has twice as many pieces.
pub(super) const SLICES_MAX: usize = 128;

/// What is written as one: octets that lie in pieces, and more behind them.
#[derive(Debug, Clone)]
pub(super) struct Run<'a> {
    /// Where the octets lie.
    pub(super) pieces: &'a [&'a [u8]],
    /// Which of them are written, counted over all pieces.
    pub(super) range: Range<usize>,
    /// What follows them.
    pub(super) tail: &'a [u8],
}

impl<'a> Run<'a> {
    /// How many octets that are.
    pub(super) fn len(&self) -> usize {
        self.range.len() + self.tail.len()
    }

    /// The octets from `from` on, as far as `slices` has room.
    pub(super) fn slices_from<'b>(
        &self,
        from: usize,
        slices: &'b mut [IoSlice<'a>; SLICES_MAX],
    ) -> &'b [IoSlice<'a>] {
        let Range { start, end } = self.range;
        let (mut skip, mut left) = (start + from, (end - start).saturating_sub(from));
        let mut count = 0;
        for piece in self.pieces {
            if left == 0 || count == SLICES_MAX {
                break;
            }
            if skip >= piece.len() {
                skip -= piece.len();
                continue;
            }
            let piece = &piece[skip..];
            let piece = &piece[..piece.len().min(left)];
            (skip, left) = (0, left - piece.len());
            slices[count] = IoSlice::new(piece);
            count += 1;
        }
        if left == 0 && count < SLICES_MAX {
            let from = from.saturating_sub(end - start);
            slices[count] = IoSlice::new(&self.tail[from..]);
            count += 1;
        }
        &slices[..count]
    }
}

/// A connection with the replies that came over it.
pub(super) struct Wire {
    stream: Stream,
    inbox: ReplyBuffer,
    ended: bool,
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Wire {
    pub(super) fn new(stream: Stream) -> Self {
        Self { stream, inbox: ReplyBuffer::default(), ended: false }
    }

    pub(super) fn is_encrypted(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }

    /// Whether bytes have arrived that no reply has taken.
    pub(super) fn has_unread(&self) -> bool {
        self.inbox.has_unread()
    }

    /// Turns to TLS. The new wire starts with an empty inbox: nothing said in clear text survives.
    pub(super) async fn encrypt(self, client: &TlsClient) -> io::Result<Self> {
        let Stream::Plain(tcp) = self.stream else {
            return Err(io::Error::other("TLS can only be started on a TCP connection"));
        };
        let connector = TlsConnector::from(client.config.clone());
        let tls = connector.connect(client.name.clone(), tcp).await?;
        Ok(Self::new(Stream::Tls(Box::new(tls))))
    }

    /// Waits for the next complete reply until `within` after `since`.
    pub(super) async fn reply(
        &mut self,
        since: Instant,
        within: Duration,
    ) -> Result<Reply, WireError> {
        if let Some(reply) = self.inbox.next_reply()? {
            return Ok(reply);
        }
        let waiting = std::future::poll_fn(|cx| self.poll_reply(cx));
        timeout_at(since + within, waiting).await.unwrap_or(Err(WireError::Deadline(within)))
    }

    fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reply, WireError>> {
        loop {
            ready!(self.poll_fill(cx))?;
            if let Some(reply) = self.inbox.next_reply()? {
                return Poll::Ready(Ok(reply));
            }
        }
    }

    /// Reads once. The end of the stream is an error that repeats.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), WireError>> {
        if self.ended {
            return Poll::Ready(Err(WireError::Closed));
        }
        let mut buf = ReadBuf::new(self.inbox.space());
        ready!(self.stream.poll_read(cx, &mut buf)).map_err(|error| {
            self.ended = true;
            WireError::Io(error)
        })?;
        let count = buf.filled().len();
        self.inbox.filled(count);
        self.ended = count == 0;
        Poll::Ready(if self.ended { Err(WireError::Closed) } else { Ok(()) })
    }

    /// Looks, without waiting, whether the connection is still there and silent.
    pub(super) async fn glance(&mut self) -> Result<(), WireError> {
        std::future::poll_fn(|cx| {
            while !self.inbox.has_unread() {
                match self.poll_fill(cx) {
                    Poll::Pending => return Poll::Ready(Ok(())),
                    Poll::Ready(read) => read?,
                }
            }
            Poll::Ready(match self.inbox.next_reply() {
                Ok(Some(reply)) => Err(WireError::OutOfTurn(reply)),
                Ok(None) => Err(WireError::Unsolicited),
                Err(error) => Err(error.into()),
            })
        })
        .await
    }

    /// Writes `first` and `second` as one; see [`Self::write_run`].
    pub(super) async fn write(
        &mut self,
        first: &[u8],
        second: &[u8],
        guard: usize,
        within: Duration,
    ) -> Written {
        let run = Run { pieces: &[first], range: 0..first.len(), tail: second };
        self.write_run(run, guard, within, &mut ()).await
    }

    /// Writes `run`, listening all the while. Anything the server says while no more than `guard`
    /// bytes were handed over stops the write. The terminator, if there is one, begins there.
    pub(super) async fn write_run(
        &mut self,
        run: Run<'_>,
        guard: usize,
        within: Duration,
        terminator: &mut impl Terminator,
    ) -> Written {
        let mut handed = 0;
        let writing =
            std::future::poll_fn(|cx| self.poll_write(cx, &run, guard, &mut handed, terminator));
        let end = match timeout(within, writing).await {
            Ok(end) => end,
            Err(_) => WriteEnd::Failed(WireError::Deadline(within)),
        };
        Written { handed, end }
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        run: &Run<'_>,
        guard: usize,
        handed: &mut usize,
        terminator: &mut impl Terminator,
    ) -> Poll<WriteEnd> {
        let total = run.len();
        loop {
            // Once all is handed over, the write is done whatever came meanwhile: a server that
            // answers and hangs up at once has left its replies, and they are read first.
            if *handed == total
                && let Poll::Ready(flushed) = self.stream.poll_flush(cx)
            {
                return Poll::Ready(match flushed {
                    Ok(()) => WriteEnd::Done,
                    Err(error) => WriteEnd::Failed(WireError::Io(error)),
                });
            }
            // A full inbox is left to wait: its replies are taken when the write is done.
            while !self.inbox.space().is_empty() {
                match self.poll_fill(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(())) if *handed <= guard => {
                        return Poll::Ready(WriteEnd::Interrupted);
                    }
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) => return Poll::Ready(WriteEnd::Failed(error)),
                }
            }
            if *handed == total {
                return Poll::Pending;
            }
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let slices = run.slices_from(*handed, &mut slices);
            if *handed <= guard
                && let Err(error) = terminator.may_leave()
            {
                return Poll::Ready(WriteEnd::Failed(WireError::Withheld(error)));
            }
            let Poll::Ready(written) = self.stream.poll_write(cx, slices) else {
                if *handed <= guard {
                    terminator.is_here();
                }
                return Poll::Pending;
            };
            match written {
                Ok(0) => {
                    let error = io::Error::from(io::ErrorKind::WriteZero);
                    return Poll::Ready(WriteEnd::Failed(WireError::Io(error)));
                }
                Ok(count) => *handed += count,
                Err(error) => {
                    if self.stream.failed_write_may_have_sent() {
                        *handed = total;
                    }
                    return Poll::Ready(WriteEnd::Failed(WireError::Io(error)));
                }
            }
        }
    }

    /// Closes our side, in order.
    pub(super) async fn shutdown(&mut self, within: Duration) {
        // The peer may be gone already; there is nobody to tell.
        let _ = timeout(within, self.stream.shutdown()).await;
    }
}
