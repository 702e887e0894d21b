//! The connection under IMAP and POP3: TCP, TLS, lines and counted octets, each within bounds of
//! size and time. It knows no command.

use std::time::Duration;

use tokio::{
    io::{
        AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
        BufReader,
    },
    net::TcpStream,
    time::{Instant, timeout_at},
};
use tokio_rustls::TlsConnector;

use super::MailboxError;
use crate::smtp::{
    server::data::{DataScanner, unstuff},
    tls::TlsClient,
};

/// How long the server may be silent, or take a command.
pub(super) const STEP: Duration = Duration::from_mins(1);
/// How long one counted run of octets may take, a mail of 5 MB at most.
const COUNTED: Duration = Duration::from_mins(5);
/// The longest answer that is read at all.
const ANSWER_MAX: usize = 100 * 1024 * 1024;
/// The longest line that is taken. Lines of messages are longer than those of commands.
const LINE_MAX: usize = 64 * 1024;

trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for S {}

/// A connection.
pub(super) struct Wire {
    stream: BufReader<Box<dyn Stream>>,
}

impl Wire {
    /// Connects, with TLS from the first byte if `tls` is given.
    pub(super) async fn connect(
        host: &str,
        port: u16,
        tls: Option<&TlsClient>,
    ) -> Result<Self, MailboxError> {
        let until = Instant::now() + STEP;
        let tcp = timeout_at(until, TcpStream::connect((host, port))).await;
        let tcp = tcp.map_err(|_| MailboxError::TooSlow)?.map_err(MailboxError::Connect)?;
        let _ = tcp.set_nodelay(true);
        Self::over(Box::new(tcp), tls).await
    }

    async fn over(stream: Box<dyn Stream>, tls: Option<&TlsClient>) -> Result<Self, MailboxError> {
        let Some(client) = tls else { return Ok(Self { stream: BufReader::new(stream) }) };
        let connector = TlsConnector::from(client.config.clone());
        let shaking = connector.connect(client.name.clone(), stream);
        let encrypted = timeout_at(Instant::now() + STEP, shaking).await;
        let encrypted = encrypted.map_err(|_| MailboxError::TooSlow)?.map_err(MailboxError::Tls)?;
        Ok(Self { stream: BufReader::new(Box::new(encrypted)) })
    }

    /// The same connection inside TLS. Whatever was said in clear text after the server agreed was
    /// put there by somebody else.
    pub(super) async fn encrypt(self, client: &TlsClient) -> Result<Self, MailboxError> {
        if !self.stream.buffer().is_empty() {
            return Err(MailboxError::Protocol("it went on in clear text after STARTTLS"));
        }
        Self::over(self.stream.into_inner(), Some(client)).await
    }

    /// Sends `bytes`.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), MailboxError> {
        let stream = self.stream.get_mut();
        let writing = async {
            stream.write_all(bytes).await?;
            stream.flush().await
        };
        timeout_at(Instant::now() + STEP, writing)
            .await
            .map_err(|_| MailboxError::TooSlow)?
            .map_err(MailboxError::Lost)
    }

    /// The next line, without its end.
    pub(super) async fn line(&mut self) -> Result<Vec<u8>, MailboxError> {
        let until = Instant::now() + STEP;
        let mut line = Vec::new();
        let mut bounded = (&mut self.stream).take(LINE_MAX as u64 + 1);
        timeout_at(until, bounded.read_until(b'\n', &mut line))
            .await
            .map_err(|_| MailboxError::TooSlow)?
            .map_err(MailboxError::Lost)?;
        if line.pop() != Some(b'\n') {
            let long = line.len() >= LINE_MAX;
            return Err(if long { MailboxError::Protocol("a line has no end") } else { gone() });
        }
        line.pop_if(|byte| *byte == b'\r');
        Ok(line)
    }

    /// Waits for anything to come; false when nothing does until then.
    pub(super) async fn has_news(&mut self, until: Instant) -> Result<bool, MailboxError> {
        match timeout_at(until, self.stream.fill_buf()).await {
            Err(_) => Ok(false),
            Ok(Ok([])) => Err(gone()),
            Ok(Ok(_)) => Ok(true),
            Ok(Err(error)) => Err(MailboxError::Lost(error)),
        }
    }

    /// A multi-line answer of POP3 up to its dot (RFC 1939, section 3), which is not part of it; none
    /// when it has more than `max` octets, which are read and forgotten up to [`ANSWER_MAX`].
    pub(super) async fn until_dot(&mut self, max: usize) -> Result<Option<Vec<u8>>, MailboxError> {
        let until = Instant::now() + COUNTED;
        let (mut scanner, mut read, mut bytes) = (DataScanner::new(), 0, Vec::new());
        loop {
            let chunk = timeout_at(until, self.stream.fill_buf()).await;
            let chunk = chunk.map_err(|_| MailboxError::TooSlow)?.map_err(MailboxError::Lost)?;
            if chunk.is_empty() {
                return Err(gone());
            }
            let scanned = scanner.scan(chunk);
            read += scanned.taken;
            if read <= max {
                bytes.extend_from_slice(&chunk[..scanned.taken]);
            } else {
                bytes = Vec::new();
            }
            self.stream.consume(scanned.taken);
            if scanned.complete {
                unstuff(&mut bytes);
                return Ok((read <= max).then_some(bytes));
            }
            if read > ANSWER_MAX {
                return Err(MailboxError::Protocol("an answer has no end"));
            }
        }
    }

    /// The next `count` octets; none when they are more than `max`, which are read and forgotten.
    pub(super) async fn counted(
        &mut self,
        count: u64,
        max: usize,
    ) -> Result<Option<Vec<u8>>, MailboxError> {
        let until = Instant::now() + COUNTED;
        let mut counted = (&mut self.stream).take(count);
        let read = if count <= max as u64 {
            let mut bytes = Vec::with_capacity(count as usize);
            let reading = counted.read_to_end(&mut bytes);
            timeout_at(until, reading)
                .await
                .map(|read| read.map(|_| (bytes.len() as u64, Some(bytes))))
        } else {
            let mut nowhere = tokio::io::sink();
            let reading = tokio::io::copy(&mut counted, &mut nowhere);
            timeout_at(until, reading).await.map(|read| read.map(|read| (read, None)))
        };
        let (read, bytes) = read.map_err(|_| MailboxError::TooSlow)?.map_err(MailboxError::Lost)?;
        if read == count { Ok(bytes) } else { Err(gone()) }
    }
}

/// The server hung up.
fn gone() -> MailboxError {
    MailboxError::Lost(std::io::ErrorKind::UnexpectedEof.into())
}
