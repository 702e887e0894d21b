//! The client's side of an SMTP dialogue by hand, for tests: says exactly the bytes it is told to
//! say and hears exactly what comes back.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// No reply takes longer in a test that goes well.
const PATIENCE: Duration = Duration::from_mins(2);

/// A dialogue over any stream.
pub(crate) struct Dialogue<S = TcpStream> {
    pub(crate) stream: S,
    heard: Vec<u8>,
}

impl Dialogue {
    /// Connects and says nothing.
    pub(crate) async fn connect(to: SocketAddr) -> Self {
        let stream = TcpStream::connect(to).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }

    /// Connects and exchanges greetings.
    pub(crate) async fn greeted(to: SocketAddr) -> Self {
        let mut dialogue = Self::connect(to).await;
        dialogue.expect(220).await;
        dialogue.ask("EHLO client.example\r\n", 250).await;
        dialogue
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Dialogue<S> {
    pub(crate) fn over(stream: S) -> Self {
        Self { stream, heard: Vec::new() }
    }

    pub(crate) async fn say(&mut self, text: impl AsRef<[u8]>) {
        self.stream.write_all(text.as_ref()).await.unwrap();
    }

    /// The next whole reply, its last line's CRLF included; what is left when the server closed.
    pub(crate) async fn hear(&mut self) -> String {
        let mut from = 0;
        loop {
            if let Some(at) = self.heard[from..].windows(2).position(|pair| pair == b"\r\n") {
                let line = &self.heard[from..from + at];
                from += at + 2;
                if line.get(3) != Some(&b'-') {
                    let reply = self.heard.drain(..from).collect();
                    return String::from_utf8(reply).unwrap();
                }
                continue;
            }
            if !self.listen().await {
                return String::from_utf8_lossy(&std::mem::take(&mut self.heard)).into_owned();
            }
        }
    }

    /// Everything until the server closes; panics when the connection is reset.
    pub(crate) async fn hear_out(&mut self) -> Vec<u8> {
        while self.listen().await {}
        std::mem::take(&mut self.heard)
    }

    /// Whether the connection ends in a reset rather than properly.
    pub(crate) async fn is_reset(&mut self) -> bool {
        let mut buffer = [0; 4096];
        loop {
            match timeout(PATIENCE, self.stream.read(&mut buffer)).await.unwrap() {
                Ok(0) => return false,
                Ok(_) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    }

    async fn listen(&mut self) -> bool {
        let read = timeout(PATIENCE, self.stream.read_buf(&mut self.heard)).await;
        read.expect("the server says something in time").unwrap() > 0
    }

    pub(crate) async fn expect(&mut self, code: u16) -> String {
        let reply = self.hear().await;
        assert!(reply.starts_with(&code.to_string()), "expected {code}, heard {reply:?}");
        reply
    }

    /// Says something and expects a reply with this code.
    pub(crate) async fn ask(&mut self, text: impl AsRef<[u8]>, code: u16) -> String {
        self.say(text).await;
        self.expect(code).await
    }

    /// A whole transaction up to the reply after the dot, which it returns.
    pub(crate) async fn send(&mut self, to: &str, data: impl AsRef<[u8]>) -> String {
        self.ask("MAIL FROM:<b+1@bounce.example>\r\n", 250).await;
        self.ask(format!("RCPT TO:<{to}>\r\n"), 250).await;
        self.ask("DATA\r\n", 354).await;
        self.say(data).await;
        self.say(".\r\n").await;
        self.hear().await
    }
}
