//! LMTP from a raw socket; from Postfix in `postfix.rs`.

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use super::{FULL, GONE, Sent};
use crate::harness::{address, free_port};

struct Client(BufReader<TcpStream>);

impl Client {
    async fn say(&mut self, text: &[u8]) {
        self.0.get_mut().write_all(text).await.unwrap();
    }

    /// The last line of the next reply.
    async fn hear(&mut self) -> String {
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).await.unwrap();
            if line.as_bytes().get(3) != Some(&b'-') {
                return line;
            }
        }
    }

    async fn ask(&mut self, command: &str, reply: &str) {
        self.say(format!("{command}\r\n").as_bytes()).await;
        let heard = self.hear().await;
        assert!(heard.starts_with(reply), "{command}: {heard}");
    }
}

#[tokio::test]
async fn lmtp_takes_our_mail_only_and_answers_for_every_recipient() {
    let port = free_port();
    let mut sent = Sent::to(3, &format!("lmtp_listen = \"127.0.0.1:{port}\"\n"), "").await;
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut client = Client(BufReader::new(stream));
    assert!(client.hear().await.starts_with("220 "));
    client.ask("EHLO mx.example.net", "500 5.5.1").await;
    client.ask("LHLO mx.example.net", "250 ").await;
    client.ask("MAIL FROM:<>", "250 ").await;
    for stranger in [address(0), "postmaster@example.org".into(), "b+abc@bounce.localhost".into()] {
        client.ask(&format!("RCPT TO:<{stranger}>"), "550 ").await;
    }
    client.ask("DATA", "554 ").await;
    client.ask(&format!("RCPT TO:<{}>", sent.path(0)), "250 ").await;
    client.ask(&format!("RCPT TO:<{}>", sent.path(1)), "250 ").await;
    client.ask("DATA", "354 ").await;
    let report = sent.report(0, GONE);
    client.say(report.as_bytes()).await;
    client.ask(".", "250 ").await;
    assert!(client.hear().await.starts_with("250 "));

    // One that is too large is refused for each of them.
    client.ask("MAIL FROM:<>", "250 ").await;
    client.ask(&format!("RCPT TO:<{}>", sent.path(1)), "250 ").await;
    client.ask(&format!("RCPT TO:<{}>", sent.path(2)), "250 ").await;
    client.ask("DATA", "354 ").await;
    let line = [b"x".repeat(998), b"\r\n".to_vec()].concat();
    client.say(&line.repeat(5_400)).await;
    client.ask(".", "552 5.3.4").await;
    assert!(client.hear().await.starts_with("552 5.3.4"));
    client.ask("MAIL FROM:<>", "250 ").await;
    client.ask(&format!("RCPT TO:<{}>", sent.path(2)), "250 ").await;
    client.ask("DATA", "354 ").await;
    client.say(sent.report(2, FULL).as_bytes()).await;
    client.ask(".", "250 ").await;
    client.ask("QUIT", "221 ").await;

    // The token wins over the address that a report names.
    assert!(sent.is_suppressed(0) && sent.is_suppressed(1) && !sent.is_suppressed(2));
    assert_eq!(sent.received("lmtp 127.0.0.1", "suppressed").await, 2);
    assert_eq!(sent.received("lmtp 127.0.0.1", "counted").await, 1);
    sent.terminate();
}
