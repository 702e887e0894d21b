//! Bytes in and out of one connection: one input buffer that lines and data are read from without
//! copying, replies gathered into one write, a deadline on every wait. It knows nothing of SMTP but
//! what a line is.

use std::{collections::VecDeque, future::poll_fn, io, pin::Pin, task::Poll, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf},
    time::{Instant, Sleep, sleep_until, timeout, timeout_at},
};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{End, stream::Stream};

/// Reply batches that may be on their (artificially long) way at once.
const DELAYED_BATCHES_MAX: usize = 256;
/// How long a closing server listens on so that its last words are not lost in a reset.
const LINGER: Duration = Duration::from_secs(1);

/// How a wait for input ended, when it was not for the worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filled {
    /// There is more input.
    More,
    /// Nothing came in time.
    TimedOut,
    /// The server is shutting down.
    ShuttingDown,
}

/// A line, or what is wrong with it. The text stays in [`Wire::line`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    Complete,
    BareLf,
    TooLong,
}

pub(super) struct Wire {
    stream: Option<Stream>,
    input: Box<[u8]>,
    start: usize,
    end: usize,
    /// Replies not yet written.
    pub(super) output: Vec<u8>,
    /// The last line read, without its line end.
    pub(super) line: Vec<u8>,
    too_long: bool,
    timer: Pin<Box<Sleep>>,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
    write_timeout: Duration,
    latency: Duration,
    delayed: VecDeque<(Instant, Vec<u8>)>,
}

impl Wire {
    pub(super) fn new(
        stream: Stream,
        buffer_bytes: usize,
        write_timeout: Duration,
        latency: Duration,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            stream: Some(stream),
            input: vec![0; buffer_bytes].into_boxed_slice(),
            start: 0,
            end: 0,
            output: Vec::with_capacity(512),
            line: Vec::with_capacity(128),
            too_long: false,
            timer: Box::pin(sleep_until(Instant::now() + write_timeout)),
            shutdown: Box::pin(shutdown.cancelled_owned()),
            write_timeout,
            latency,
            delayed: VecDeque::new(),
        }
    }

    /// Input that has come and was not consumed.
    pub(super) fn available(&self) -> &[u8] {
        &self.input[self.start..self.end]
    }

    /// Marks the first `count` available bytes as read.
    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
        debug_assert!(self.start <= self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    pub(super) fn is_tls(&self) -> bool {
        self.stream.as_ref().is_some_and(Stream::is_tls)
    }

    /// Takes the next line out of the input, if a whole one is there. A line may have `limit`
    /// bytes; of a longer one nothing is kept.
    pub(super) fn next_line(&mut self, limit: usize) -> Option<Line> {
        let available = &self.input[self.start..self.end];
        let Some(at) = memchr::memchr(b'\n', available) else {
            if available.len() > limit {
                self.too_long = true;
                self.consume(self.end - self.start);
            }
            return None;
        };
        let line = &available[..at];
        let (text, ending) = match line.strip_suffix(b"\r") {
            Some(text) => (text, Line::Complete),
            None => (line, Line::BareLf),
        };
        let too_long = std::mem::take(&mut self.too_long) || text.len() > limit;
        self.line.clear();
        if !too_long {
            self.line.extend_from_slice(text);
        }
        self.consume(at + 1);
        Some(if too_long { Line::TooLong } else { ending })
    }

    /// Waits for more input until `until`. There must be room for it.
    pub(super) async fn fill(
        &mut self,
        until: Instant,
        heed_shutdown: bool,
    ) -> Result<Filled, End> {
        if self.end == self.input.len() {
            self.input.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        while let Some((due, _)) = self.delayed.front() {
            let due = *due;
            match timeout_at(due.min(until), self.read(until, heed_shutdown)).await {
                Ok(filled) => return filled,
                Err(_) if due > until => return Ok(Filled::TimedOut),
                Err(_) => self.write_delayed().await?,
            }
        }
        self.read(until, heed_shutdown).await
    }

    async fn read(&mut self, until: Instant, heed_shutdown: bool) -> Result<Filled, End> {
        let Self { stream, input, end, timer, shutdown, .. } = self;
        let stream = stream.as_mut().ok_or(End::Closed)?;
        if timer.deadline() > until {
            timer.as_mut().reset(until);
        }
        poll_fn(|cx| {
            let mut buf = ReadBuf::new(&mut input[*end..]);
            if let Poll::Ready(read) = Pin::new(&mut *stream).poll_read(cx, &mut buf) {
                return Poll::Ready(match read {
                    Ok(()) if buf.filled().is_empty() => Err(End::Closed),
                    Ok(()) => {
                        *end += buf.filled().len();
                        Ok(Filled::More)
                    }
                    Err(error) => Err(End::Io(error)),
                });
            }
            if heed_shutdown && shutdown.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ok(Filled::ShuttingDown));
            }
            // The timer is moved only when it fires, as most waits end long before.
            while timer.as_mut().poll(cx).is_ready() {
                if Instant::now() >= until {
                    return Poll::Ready(Ok(Filled::TimedOut));
                }
                timer.as_mut().reset(until);
            }
            Poll::Pending
        })
        .await
    }

    /// Sends the replies gathered so far in one write, or puts them on their delayed way.
    pub(super) async fn flush(&mut self) -> Result<(), End> {
        if self.output.is_empty() {
            return Ok(());
        }
        if self.latency.is_zero() {
            let result = write(&mut self.stream, &self.output, self.write_timeout).await;
            self.output.clear();
            return result;
        }
        if self.delayed.len() >= DELAYED_BATCHES_MAX {
            self.write_delayed().await?;
        }
        let batch = std::mem::take(&mut self.output);
        self.delayed.push_back((Instant::now() + self.latency, batch));
        Ok(())
    }

    /// Sends everything, waiting as long as delayed batches need.
    pub(super) async fn flush_all(&mut self) -> Result<(), End> {
        self.flush().await?;
        while !self.delayed.is_empty() {
            self.write_delayed().await?;
        }
        Ok(())
    }

    async fn write_delayed(&mut self) -> Result<(), End> {
        if let Some((due, batch)) = self.delayed.pop_front() {
            sleep_until(due).await;
            write(&mut self.stream, &batch, self.write_timeout).await?;
        }
        Ok(())
    }

    /// Lets time pass without answering, taking in what the client sends as far as there is room.
    /// Ends early when the client leaves.
    pub(super) async fn pause(&mut self, until: Instant) -> Result<Filled, End> {
        while self.end - self.start < self.input.len() {
            let filled = self.fill(until, true).await?;
            if filled != Filled::More {
                return Ok(filled);
            }
        }
        let shutdown = self.shutdown.as_mut();
        Ok(match timeout_at(until, shutdown).await {
            Ok(()) => Filled::ShuttingDown,
            Err(_) => Filled::TimedOut,
        })
    }

    /// Replaces the stream by TLS over it. The input must be empty.
    pub(super) async fn start_tls(
        &mut self,
        config: std::sync::Arc<tokio_rustls::rustls::ServerConfig>,
        within: Duration,
    ) -> Result<(), End> {
        let stream = self.stream.take().ok_or(End::Closed)?;
        let stream = timeout(within, stream.into_tls(config)).await;
        self.stream = Some(stream.map_err(|_| End::TimedOut)?.map_err(End::Io)?);
        Ok(())
    }

    /// Sends what is left and closes the connection with FIN; a failure to do so is none any more.
    pub(super) async fn close(mut self) {
        let _ = self.flush_all().await;
        let Some(mut stream) = self.stream.take() else { return };
        // Unread input would turn the close into a reset, and that can overtake the last reply.
        let _ = timeout(LINGER, async {
            stream.shutdown().await?;
            while stream.read(&mut self.input).await? > 0 {}
            io::Result::Ok(())
        })
        .await;
    }

    /// Tears the connection down with RST.
    pub(super) fn reset(self) {
        if let Some(stream) = &self.stream {
            let _ = stream.reset_on_drop();
        }
    }
}

async fn write(stream: &mut Option<Stream>, bytes: &[u8], within: Duration) -> Result<(), End> {
    let stream = stream.as_mut().ok_or(End::Closed)?;
    let written = timeout(within, async {
        stream.write_all(bytes).await?;
        stream.flush().await
    });
    written.await.map_err(|_| End::TimedOut)?.map_err(End::Io)
}
