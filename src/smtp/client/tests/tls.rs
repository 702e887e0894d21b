//! STARTTLS and implicit TLS, against certificates made for the occasion and against tampering.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::super::*;
use super::UNBEARABLE;
use super::server::*;
use crate::{
    authority::Authority,
    smtp::tls::{Encryption, TlsError, TlsMode, TlsTrust},
    stillness::undisturbed,
};

fn trusting(authority: &Authority) -> TlsTrust {
    TlsTrust { extra_ca: Some(authority.root.clone()), ..TlsTrust::default() }
}

/// Whether an error is the one expected.
type Expected = fn(&SessionErrorKind) -> bool;

/// What a server does with STARTTLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Upgrade {
    Works,
    /// TLS from the first byte.
    Implicit,
    /// Says so in the same breath as more replies, in clear text.
    Injects,
    Refuses,
    /// Agrees, and then goes on in clear text.
    Pretends,
    /// Agrees, and then says nothing.
    Stalls,
}

/// Serves one connection: in clear text up to STARTTLS, then as planned inside TLS.
async fn start(
    authority: &Authority,
    upgrade: Upgrade,
    plan: Plan,
) -> (u16, Arc<Mutex<Journal>>, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let journal = Arc::new(Mutex::new(Journal::default()));
    let (theirs, acceptor) = (journal.clone(), TlsAcceptor::from(Arc::clone(&authority.config)));
    let task = tokio::spawn(async move {
        let (mut tcp, _) = listener.accept().await.unwrap();
        // Otherwise a reset takes replies with it that Nagle's algorithm still holds.
        tcp.set_nodelay(true).unwrap();
        if upgrade != Upgrade::Implicit && !agree(&mut tcp, upgrade, &theirs).await {
            return;
        }
        // A client that does not trust us leaves in the handshake.
        if let Ok(tls) = acceptor.accept(tcp).await {
            let mut talk = Talk::new(tls, plan, theirs);
            let end = match upgrade {
                Upgrade::Implicit => talk.serve().await,
                _ => talk.serve_after_starttls().await,
            };
            if let Ok(Close::Reset) = end {
                talk.peer.get_ref().get_ref().0.set_zero_linger().unwrap();
            }
        }
    });
    (port, journal, task)
}

/// The clear-text half. True if a handshake is to follow.
async fn agree(tcp: &mut TcpStream, upgrade: Upgrade, journal: &Mutex<Journal>) -> bool {
    let mut peer = BufReader::new(tcp);
    peer.write_all(b"220 server.example\r\n").await.unwrap();
    for reply in ["250-server.example\r\n250-STARTTLS\r\n250 AUTH PLAIN\r\n", "220 go ahead\r\n"] {
        let mut line = String::new();
        peer.read_line(&mut line).await.unwrap();
        journal.lock().unwrap().commands.push(line.trim_end().to_owned());
        let last = reply.starts_with("220");
        let reply = match upgrade {
            Upgrade::Injects if last => "220 go ahead\r\n250-evil.example\r\n250 AUTH PLAIN\r\n",
            Upgrade::Refuses if last => "454 4.7.0 no TLS today\r\n",
            Upgrade::Pretends if last => "220 go ahead\r\n",
            _ => reply,
        };
        peer.write_all(reply.as_bytes()).await.unwrap();
    }
    match upgrade {
        Upgrade::Works | Upgrade::Implicit => true,
        Upgrade::Pretends => {
            let mut hello = [0; 64];
            let _ = peer.read(&mut hello).await;
            let _ = peer.write_all(b"250 sure\r\n").await;
            false
        }
        Upgrade::Injects | Upgrade::Refuses | Upgrade::Stalls => {
            let mut rest = Vec::new();
            let _ = peer.read_to_end(&mut rest).await;
            let rest = String::from_utf8_lossy(&rest).into_owned();
            journal.lock().unwrap().commands.push(rest);
            false
        }
    }
}

fn endpoint(port: u16, mode: TlsMode, name: &str, trust: &TlsTrust) -> Endpoint {
    Endpoint {
        encryption: Encryption::new(mode, name, trust).unwrap(),
        ..Endpoint::new("127.0.0.1", port, "client.example")
    }
}

#[tokio::test]
async fn carries_messages_over_starttls_and_implicit_tls() {
    for (upgrade, mode) in
        [(Upgrade::Works, TlsMode::StartTls), (Upgrade::Implicit, TlsMode::Implicit)]
    {
        for across in [false, true] {
            let authority = Authority::issuing("mail.example", 2090);
            let plan = Plan {
                extensions: vec!["PIPELINING", "AUTH PLAIN"],
                auth: vec!["235 welcome"],
                ..Plan::plain()
            };
            let (port, journal, task) = start(&authority, upgrade, plan).await;
            let mut endpoint = endpoint(port, mode, "mail.example", &trusting(&authority));
            let (username, secret) = ("ada".to_owned(), "s3cret".to_owned());
            endpoint.credentials = Some(Credentials { username, secret, mechanism: None });
            let mut session = Session::connect(&endpoint).await.unwrap();
            assert!(session.is_encrypted() && session.capabilities().pipelining);
            // Larger than TLS's own buffers, so writes are taken in parts.
            let body = [BODY.to_vec(), b"A line of a large body.\r\n".repeat(20_000)].concat();
            for number in 1..=3 {
                let (this, next) = (envelope(number), envelope(number + 1));
                let next = (across && number < 3).then_some(&next);
                let message = Outgoing { envelope: &this, body: &[&body] };
                let (transaction, calls) = send(&mut session, &message, next).await;
                assert!(matches!(transaction.verdict, Verdict::Accepted(_)));
                assert_eq!(calls, 1);
            }
            session.quit().await;
            task.await.unwrap();
            let journal = journal.lock().unwrap().clone();
            assert_eq!(journal.taken.len(), 3);
            assert!(journal.taken.iter().all(|(_, taken)| *taken == body));
            let hellos = journal.commands.iter().filter(|c| c.starts_with("EHLO")).count();
            assert_eq!(hellos, if mode == TlsMode::StartTls { 2 } else { 1 });
        }
    }
}

#[tokio::test]
async fn inside_tls_too_nothing_is_called_failed_that_may_have_arrived() {
    let large = b"A line of a large body, which goes on and on for a while.\r\n".repeat(200_000);
    let authority = Authority::issuing("mail.example", 2090);
    for (at, body) in [(At::Dot(1), BODY), (At::Body(1), &large), (At::Data(1), BODY)] {
        for fault in [Fault::SayAndClose(vec![]), Fault::SayAndReset(vec![])] {
            let plan = Plan::pipelining().fault(at, fault);
            let (port, journal, task) = start(&authority, Upgrade::Implicit, plan).await;
            let endpoint = endpoint(port, TlsMode::Implicit, "mail.example", &trusting(&authority));
            let mut session = Session::connect(&endpoint).await.unwrap();
            let this = envelope(1);
            let message = Outgoing { envelope: &this, body: &[body] };
            let (transaction, calls) = send(&mut session, &message, None).await;
            let verdict = &transaction.verdict;
            let phase = verdict.phase().unwrap();
            let is_right = match at {
                At::Dot(_) => matches!(verdict, Verdict::Uncertain { .. }) && calls == 1,
                At::Body(_) => matches!(verdict, Verdict::Failed { .. }) && phase == Phase::Body,
                _ => matches!(verdict, Verdict::Failed { .. }) && phase == Phase::Data,
            };
            assert!(is_right, "{at:?}: {verdict}");
            assert!(matches!(transaction.session, SessionState::Closed(_)));
            drop(session);
            task.await.unwrap();
            let taken = journal.lock().unwrap().taken.len();
            assert_eq!(taken, usize::from(at == At::Dot(1)), "{at:?}");
        }
    }
}

#[tokio::test]
async fn a_certificate_that_does_not_fit_ends_it_before_any_command() {
    let good = Authority::issuing("mail.example", 2090);
    let expired = Authority::issuing("mail.example", 2021);
    let cases = [
        ("another name", &good, "other.example", trusting(&good)),
        ("an unknown authority", &good, "mail.example", TlsTrust { ..trusting(&expired) }),
        ("expired", &expired, "mail.example", trusting(&expired)),
        ("an address", &good, "127.0.0.1", trusting(&good)),
    ];
    for (case, authority, name, trust) in cases {
        for (upgrade, mode) in
            [(Upgrade::Works, TlsMode::StartTls), (Upgrade::Implicit, TlsMode::Implicit)]
        {
            let (port, journal, task) = start(authority, upgrade, Plan::plain()).await;
            let error = Session::connect(&endpoint(port, mode, name, &trust)).await.unwrap_err();
            assert_eq!(error.phase, Phase::Tls, "{case}: {error}");
            assert!(matches!(error.kind, SessionErrorKind::Tls(_)), "{case}: {error}");
            task.await.unwrap();
            let commands = journal.lock().unwrap().commands.clone();
            let clear: &[&str] =
                if mode == TlsMode::StartTls { &["EHLO client.example", "STARTTLS"] } else { &[] };
            assert_eq!(commands, clear, "{case}");
        }
    }
}

#[tokio::test]
async fn any_certificate_will_do_only_on_an_explicit_word() {
    let authority = Authority::issuing("other.example", 2021);
    let trust = TlsTrust { accept_invalid: true, ..TlsTrust::default() };
    let (port, _, _task) = start(&authority, Upgrade::Implicit, Plan::plain()).await;
    let endpoint = endpoint(port, TlsMode::Implicit, "mail.example", &trust);
    let session = Session::connect(&endpoint).await.unwrap();
    assert!(session.is_encrypted());
    session.quit().await;
}

#[tokio::test]
async fn a_stripped_starttls_is_never_a_reason_to_go_on_in_clear_text() {
    let authority = Authority::issuing("mail.example", 2090);
    let server = Server::start(Plan { extensions: vec!["AUTH PLAIN"], ..Plan::pipelining() }).await;
    let mut endpoint =
        endpoint(server.address.port(), TlsMode::StartTls, "mail.example", &trusting(&authority));
    endpoint.allow_clear_text_auth = true;
    let error = Session::connect(&endpoint).await.unwrap_err();
    assert_eq!(error.phase, Phase::StartTls);
    assert!(matches!(error.kind, SessionErrorKind::StartTlsMissing), "{error}");
    assert_eq!(server.journal().await.commands, ["EHLO client.example"]);
}

#[tokio::test]
async fn tampering_with_starttls_is_noticed() {
    undisturbed(UNBEARABLE, tampering).await;
}

async fn tampering() {
    let authority = Authority::issuing("mail.example", 2090);
    let cases: [(Upgrade, Phase, Expected); 4] = [
        (Upgrade::Injects, Phase::StartTls, |k| matches!(k, SessionErrorKind::Injection)),
        (Upgrade::Refuses, Phase::StartTls, |k| matches!(k, SessionErrorKind::Refused(_))),
        (Upgrade::Pretends, Phase::Tls, |k| matches!(k, SessionErrorKind::Tls(_))),
        (Upgrade::Stalls, Phase::Tls, |k| {
            matches!(k, SessionErrorKind::Wire(WireError::Deadline(_)))
        }),
    ];
    for (upgrade, phase, expected) in cases {
        let (port, journal, task) = start(&authority, upgrade, Plan::plain()).await;
        let mut endpoint = endpoint(port, TlsMode::StartTls, "mail.example", &trusting(&authority));
        if upgrade == Upgrade::Stalls {
            endpoint.deadlines.greeting = Duration::from_millis(150);
        }
        let error = Session::connect(&endpoint).await.unwrap_err();
        assert_eq!(error.phase, phase, "{upgrade:?}: {error}");
        assert!(expected(&error.kind), "{upgrade:?}: {error}");
        task.await.unwrap();
        let commands = journal.lock().unwrap().commands.clone();
        assert!(!commands.iter().any(|c| c.contains("MAIL") || c.contains("AUTH")), "{upgrade:?}");
    }
}

#[test]
fn settings_that_cannot_work_are_refused_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "no certificate here\n").unwrap();
    for path in [empty, folder.path().join("missing.pem")] {
        let trust = TlsTrust { extra_ca: Some(path), ..TlsTrust::default() };
        let error = Encryption::new(TlsMode::Implicit, "mail.example", &trust).unwrap_err();
        assert!(matches!(error, TlsError::ExtraCa { .. }), "{error}");
    }
    let trust = TlsTrust { accept_invalid: true, ..TlsTrust::default() };
    let error = Encryption::new(TlsMode::StartTls, "not a host", &trust).unwrap_err();
    assert!(matches!(error, TlsError::Name { .. }), "{error}");
    let none = Encryption::new(TlsMode::None, "not a host", &trust).unwrap();
    assert!(matches!(none, Encryption::None), "no name is needed without TLS");
}
