//! The server from outside, over sockets.

mod limits;

use std::{net::SocketAddr, sync::Mutex};

use tokio::task::JoinHandle;
use tokio_rustls::rustls;

use super::{dialogue::Dialogue, *};

/// Takes mail for `example.org` and remembers it.
#[derive(Default)]
struct Recorder {
    messages: Mutex<Vec<(Envelope, Vec<u8>, u64)>>,
    unfinished: Mutex<Vec<String>>,
    ends: Mutex<Vec<String>>,
    keep: Option<Keep>,
}

impl Handler for Recorder {
    type Session = ();

    fn open(&self, _: &Connection) {}

    async fn authenticate(&self, (): &mut (), credentials: &Credentials) -> Response {
        if (credentials.user.as_str(), credentials.secret.as_str()) == ("ada", "s3cret") {
            return Response::Proceed;
        }
        Reply::new(535, "5.7.8", "No").into()
    }

    async fn rcpt(&self, (): &mut (), _: &Envelope, recipient: &Recipient) -> Response {
        if recipient.address.ends_with("@example.org") {
            return Response::Proceed;
        }
        Reply::new(550, "5.7.1", "Not here").into()
    }

    fn intake(&self, (): &mut (), _: &Envelope) -> Intake {
        Intake { keep: self.keep.unwrap_or(Keep::Message), interrupt: None }
    }

    async fn message(&self, (): &mut (), message: Message) -> Response {
        let Message { envelope, bytes, size } = message;
        self.messages.lock().unwrap().push((envelope, bytes, size));
        Response::Proceed
    }

    fn unfinished(&self, (): &mut (), _: &Envelope, unfinished: &Unfinished<'_>) {
        self.unfinished.lock().unwrap().push(format!("{unfinished:?}"));
    }

    fn close(&self, (): &mut (), end: &End) {
        self.ends.lock().unwrap().push(end.to_string());
    }
}

struct Running {
    addr: SocketAddr,
    handler: Arc<Recorder>,
    shared: Arc<Shared<Recorder>>,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

async fn start(config: ServerConfig) -> Running {
    start_with(config, Recorder::default()).await
}

async fn start_with(config: ServerConfig, handler: Recorder) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (handler, shutdown) = (Arc::new(handler), CancellationToken::new());
    let server = Server::new(config, Arc::clone(&handler), shutdown.clone());
    let shared = Arc::clone(&server.shared);
    Running { addr, handler, shared, shutdown, task: tokio::spawn(server.serve(listener)) }
}

fn limited(change: impl FnOnce(&mut Limits)) -> ServerConfig {
    let mut config = ServerConfig::default();
    change(&mut config.limits);
    config
}

fn certificate() -> (Arc<rustls::ServerConfig>, tokio_rustls::TlsConnector) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = made.signing_key.serialize_der().try_into().unwrap();
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), Arc::new(client).into())
}

#[tokio::test]
async fn a_message_arrives_with_its_envelope_and_unstuffed() {
    let server = start(ServerConfig::default()).await;
    let mut client = Dialogue::connect(server.addr).await;
    client.expect(220).await;
    let extensions = client.ask("EHLO client.example\r\n", 250).await;
    for extension in
        ["PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES", "SIZE 5000000"]
    {
        assert!(extensions.contains(extension), "{extension}");
    }
    assert!(!extensions.contains("STARTTLS") && !extensions.contains("AUTH"));
    client.ask("MAIL FROM:<> RET=HDRS ENVID=x1 SIZE=100\r\n", 250).await;
    client.ask("RCPT TO:<a@example.org> NOTIFY=FAILURE\r\n", 250).await;
    client.ask("RCPT TO:<b@elsewhere.example>\r\n", 550).await;
    client.ask("DATA\r\n", 354).await;
    client.ask("Subject: x\r\n\r\n..dot\r\n...\r\n.\r\n", 250).await;
    client.ask("QUIT\r\n", 221).await;
    assert!(client.hear_out().await.is_empty());
    let messages = server.handler.messages.lock().unwrap();
    let (envelope, bytes, size) = &messages[0];
    assert_eq!(envelope.from, "");
    assert_eq!(envelope.parameters.ret, Some(Ret::Headers));
    assert_eq!(envelope.parameters.envid.as_deref(), Some("x1"));
    assert_eq!(envelope.recipients.len(), 1);
    assert!(envelope.recipients[0].notify.unwrap().failure);
    assert_eq!(bytes, b"Subject: x\r\n\r\n.dot\r\n..\r\n");
    assert_eq!(*size, bytes.len() as u64 + 2);
}

#[tokio::test]
async fn pipelined_messages_are_taken_in_one_go() {
    let server = start(ServerConfig::default()).await;
    let mut client = Dialogue::greeted(server.addr).await;
    let one = "MAIL FROM:<s@example.org>\r\nRCPT TO:<a@example.org>\r\nDATA\r\n";
    // Data before its 354 is a client's risk, not the server's: everything fits one segment here.
    client.say(format!("{one}first\r\n.\r\n{one}second\r\n.\r\nQUIT\r\n")).await;
    for code in [250, 250, 354, 250, 250, 250, 354, 250, 221] {
        client.expect(code).await;
    }
    let messages = server.handler.messages.lock().unwrap();
    let bodies: Vec<_> = messages.iter().map(|(_, bytes, _)| bytes.as_slice()).collect();
    assert_eq!(bodies, [b"first\r\n".as_slice(), b"second\r\n"]);
}

#[tokio::test]
async fn commands_out_of_order_are_refused() {
    let server = start(limited(|limits| limits.errors = 100)).await;
    let mut client = Dialogue::connect(server.addr).await;
    client.expect(220).await;
    client.ask("MAIL FROM:<a@example.org>\r\n", 503).await;
    client.ask("LHLO x\r\n", 500).await;
    client.ask("HELO x\r\n", 250).await;
    client.ask("RCPT TO:<a@example.org>\r\n", 503).await;
    client.ask("DATA\r\n", 503).await;
    client.ask("MAIL FROM:<a@example.org>\r\n", 250).await;
    client.ask("MAIL FROM:<a@example.org>\r\n", 503).await;
    client.ask("DATA\r\n", 554).await;
    client.ask("RCPT TO:<a@example.org>\r\n", 250).await;
    client.ask("RSET\r\n", 250).await;
    client.ask("RCPT TO:<a@example.org>\r\n", 503).await;
    client.ask("STARTTLS\r\n", 502).await;
    client.ask("AUTH PLAIN AGEAYg==\r\n", 502).await;
    client.ask("VRFY a\r\n", 252).await;
    client.ask("NOOP\n", 500).await;
    client.ask("NOOP\r\n", 250).await;
}

#[tokio::test]
async fn look_alike_terminators_split_no_message() {
    for bare_newlines in [BareNewlines::Refuse, BareNewlines::Keep] {
        let server = start(ServerConfig { bare_newlines, ..ServerConfig::default() }).await;
        for look_alike in ["\n.\n", "\r\n.\n", "\n.\r\n", "\r.\r", "\r\n.\r", "\r\n\0.\r\n"] {
            let mut client = Dialogue::greeted(server.addr).await;
            let hidden =
                "MAIL FROM:<evil@example.org>\r\nRCPT TO:<a@example.org>\r\nDATA\r\nevil\r\n";
            let reply = client.send("a@example.org", format!("x{look_alike}{hidden}")).await;
            let bare = !look_alike.contains('\0') && bare_newlines == BareNewlines::Refuse;
            assert_eq!(reply.starts_with("554 5.6.0"), bare, "{look_alike:?} {reply}");
            client.ask("QUIT\r\n", 221).await;
        }
        let taken = server.handler.messages.lock().unwrap().len();
        assert_eq!(taken, if bare_newlines == BareNewlines::Refuse { 1 } else { 6 });
    }
}

#[tokio::test]
async fn starttls_takes_no_command_from_the_clear() {
    let (server_tls, connector) = certificate();
    let config = ServerConfig {
        tls: Tls::StartTls(server_tls),
        auth: Auth::Required,
        ..ServerConfig::default()
    };
    let server = start(config).await;
    let mut injected = Dialogue::greeted(server.addr).await;
    injected.ask("STARTTLS\r\nRSET\r\n", 554).await;
    assert!(injected.hear_out().await.is_empty());

    let mut clear = Dialogue::connect(server.addr).await;
    clear.expect(220).await;
    let extensions = clear.ask("EHLO x\r\n", 250).await;
    assert!(extensions.contains("STARTTLS") && !extensions.contains("AUTH"));
    clear.ask("AUTH PLAIN AGFkYQBzM2NyZXQ=\r\n", 502).await;
    clear.ask("STARTTLS\r\n", 220).await;
    let stream = connector.connect("localhost".try_into().unwrap(), clear.stream).await.unwrap();
    let mut client = Dialogue::over(stream);
    client.ask("MAIL FROM:<a@example.org>\r\n", 503).await;
    let extensions = client.ask("EHLO x\r\n", 250).await;
    assert!(!extensions.contains("STARTTLS") && extensions.contains("AUTH PLAIN LOGIN"));
    client.ask("MAIL FROM:<a@example.org>\r\n", 530).await;
    client.ask("AUTH PLAIN AGFkYQB3cm9uZw==\r\n", 535).await;
    client.ask("AUTH LOGIN\r\n", 334).await;
    client.ask("YWRh\r\n", 334).await;
    client.ask("czNjcmV0\r\n", 235).await;
    let reply = client.send("a@example.org", "x\r\n".repeat(20_000)).await;
    assert!(reply.starts_with("250"), "{reply}");
    assert_eq!(server.handler.messages.lock().unwrap()[0].1.len(), 60_000);
}

#[tokio::test]
async fn implicit_tls_is_spoken_from_the_first_byte() {
    let (server_tls, connector) = certificate();
    let config = ServerConfig { tls: Tls::Implicit(server_tls), ..ServerConfig::default() };
    let server = start(config).await;
    let tcp = TcpStream::connect(server.addr).await.unwrap();
    let stream = connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
    let mut client = Dialogue::over(stream);
    client.expect(220).await;
    client.ask("EHLO x\r\n", 250).await;
    let reply = client.send("a@example.org", "x\r\n").await;
    assert!(reply.starts_with("250"), "{reply}");
}

#[tokio::test]
async fn lmtp_answers_once_per_recipient() {
    let config = ServerConfig { protocol: Protocol::Lmtp, ..ServerConfig::default() };
    let server = start(config).await;
    let mut client = Dialogue::connect(server.addr).await;
    client.expect(220).await;
    client.ask("EHLO x\r\n", 500).await;
    client.ask("LHLO x\r\n", 250).await;
    client.ask("MAIL FROM:<a@example.org>\r\n", 250).await;
    client.ask("RCPT TO:<a@example.org>\r\n", 250).await;
    client.ask("RCPT TO:<b@example.org>\r\n", 250).await;
    client.ask("DATA\r\n", 354).await;
    client.ask("x\r\n.\r\n", 250).await;
    client.expect(250).await;
    client.ask("QUIT\r\n", 221).await;
}

#[tokio::test]
async fn a_handler_may_keep_the_head_or_nothing() {
    for (keep, kept) in [(Keep::Nothing, 0), (Keep::Head(10), 10)] {
        let handler = Recorder { keep: Some(keep), ..Recorder::default() };
        let server = start_with(ServerConfig::default(), handler).await;
        let mut client = Dialogue::greeted(server.addr).await;
        let body = "0123456789\r\n".repeat(10_000);
        assert!(client.send("a@example.org", &body).await.starts_with("250"));
        let messages = server.handler.messages.lock().unwrap();
        assert_eq!((messages[0].1.len(), messages[0].2), (kept, body.len() as u64));
    }
}

#[tokio::test]
async fn shutdown_lets_a_message_under_way_finish() {
    let server = start(ServerConfig::default()).await;
    let mut idle = Dialogue::greeted(server.addr).await;
    let mut busy = Dialogue::greeted(server.addr).await;
    busy.ask("MAIL FROM:<a@example.org>\r\n", 250).await;
    busy.ask("RCPT TO:<a@example.org>\r\n", 250).await;
    busy.ask("DATA\r\n", 354).await;
    server.shutdown.cancel();
    idle.expect(421).await;
    assert!(!server.task.is_finished());
    busy.ask("x\r\n.\r\n", 250).await;
    busy.expect(421).await;
    assert!(busy.hear_out().await.is_empty());
    drop((idle, busy));
    server.task.await.unwrap();
    assert_eq!(server.handler.messages.lock().unwrap().len(), 1);
}
