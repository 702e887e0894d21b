//! From the connection to a session that can carry mail: greeting, EHLO and login, and each fault.

use std::time::Duration;

use super::super::*;
use super::UNBEARABLE;
use super::server::*;
use crate::stillness::undisturbed;

fn login(mechanism: Option<Mechanism>) -> Credentials {
    let (username, secret) = ("ada".to_owned(), "s3cret".to_owned());
    Credentials { username, secret, mechanism }
}

/// Whether an error is the one expected.
type Expected = fn(&SessionErrorKind) -> bool;

/// A login: what the server offers, what we ask for, what it answers line by line, what is expected.
type Login<E> = (&'static str, Option<Mechanism>, &'static [&'static str], E);

/// Opens a session and says goodbye; what the server offered, and what it saw.
async fn connect(
    plan: Plan,
    change: impl FnOnce(&mut Endpoint),
) -> (Result<Capabilities, SessionError>, Journal) {
    let server = Server::start(plan).await;
    let mut endpoint = server.endpoint();
    change(&mut endpoint);
    let opened = match Session::connect(&endpoint).await {
        Ok(session) => {
            let offered = session.capabilities().clone();
            session.quit().await;
            Ok(offered)
        }
        Err(error) => Err(error),
    };
    (opened, server.journal().await)
}

#[tokio::test]
async fn reads_what_the_server_offers() {
    let extensions = vec![
        "PIPELINING",
        "size 10240000",
        "Starttls",
        "AUTH LOGIN PLAIN CRAM-MD5",
        "AUTH=LOGIN PLAIN",
        "8BITMIME",
        "SMTPUTF8",
        "DSN",
        "ENHANCEDSTATUSCODES",
        "X-UNKNOWN thing",
        "",
    ];
    let (session, _) = connect(Plan { extensions, ..Plan::plain() }, |_| {}).await;
    let expected = Capabilities {
        server_name: "server.example".to_owned(),
        pipelining: true,
        starttls: true,
        smtputf8: true,
        eight_bit_mime: true,
        dsn: true,
        enhanced_status_codes: true,
        size: true,
        size_max: Some(10_240_000),
        mechanisms: vec![Mechanism::Login, Mechanism::Plain],
    };
    assert_eq!(session.unwrap(), expected);
    let extensions = vec!["SIZE 0"];
    let (session, _) = connect(Plan { extensions, ..Plan::plain() }, |_| {}).await;
    let session = session.unwrap();
    assert_eq!((session.size, session.size_max), (true, None));
}

#[tokio::test]
async fn every_fault_of_greeting_and_ehlo() {
    for (at, phase) in [(At::Greeting, Phase::Greeting), (At::Ehlo, Phase::Ehlo)] {
        let refusals: [&[u8]; 4] =
            [b"421 4.3.2 busy\r\n", b"450 later\r\n", b"421-a\r\n421 b\r\n", b"451 x\n"];
        for reply in refusals {
            for fault in [Fault::Say(reply.to_vec()), Fault::SayAndClose(reply.to_vec())] {
                let (session, _) = connect(Plan::plain().fault(at, fault), |_| {}).await;
                let error = session.unwrap_err();
                assert_eq!(error.phase, phase, "{error}");
                assert!(matches!(error.kind, SessionErrorKind::Refused(_)), "{error}");
            }
        }
        let broken: [Fault; 9] = [
            Fault::SayAndClose(vec![]),
            Fault::SayAndReset(vec![]),
            Fault::SayAndClose(b"22".to_vec()),
            Fault::Say(b"220 x\0\r\n".to_vec()),
            Fault::Say(b"SSH-2.0-OpenSSH\r\n".to_vec()),
            Fault::Say(b"220-x\r\n".repeat(1000)),
            Fault::Say(vec![b'2'; 1 << 20]),
            Fault::Say(b"354 go\r\n".to_vec()),
            Fault::Say(b"220-x\r\n554 x\r\n".to_vec()),
        ];
        for fault in broken {
            let (session, _) = connect(Plan::plain().fault(at, fault.clone()), |_| {}).await;
            let error = session.unwrap_err();
            assert_eq!(error.phase, phase, "{error} {fault:?}");
            assert!(matches!(error.kind, SessionErrorKind::Wire(_)), "{error}");
        }
        for fault in [Fault::Silence, Fault::Trickle(b"220 x".to_vec())] {
            undisturbed(UNBEARABLE, || async {
                let plan = Plan::plain().fault(at, fault.clone());
                let short = |e: &mut Endpoint| e.deadlines.greeting = Duration::from_millis(100);
                let error = connect(plan, short).await.0.unwrap_err();
                assert_eq!(error.phase, phase, "{error}");
                let kind = &error.kind;
                assert!(matches!(kind, SessionErrorKind::Wire(WireError::Deadline(_))), "{error}");
            })
            .await;
        }
    }
}

#[tokio::test]
async fn a_server_without_ehlo_gets_helo_unless_something_needs_an_extension() {
    let plan = || Plan::plain().fault(At::Ehlo, Fault::Say(b"500 what?\r\n".to_vec()));
    let (session, journal) = connect(plan(), |_| {}).await;
    assert_eq!(session.unwrap().server_name, "server.example");
    assert_eq!(journal.commands, ["EHLO client.example", "HELO client.example", "QUIT"]);
    let (session, journal) = connect(plan(), |endpoint| {
        endpoint.credentials = Some(login(None));
        endpoint.allow_clear_text_auth = true;
    })
    .await;
    assert!(matches!(session.unwrap_err().kind, SessionErrorKind::Refused(_)));
    assert_eq!(journal.commands, ["EHLO client.example"]);
}

#[tokio::test]
async fn nobody_listening_is_a_failure_to_connect() {
    let (_tcp, listener, address) = pair().await;
    drop(listener);
    let error =
        Session::connect(&Endpoint::new("127.0.0.1", address.port(), "x")).await.unwrap_err();
    assert_eq!(error.phase, Phase::Connect);
    assert!(matches!(error.kind, SessionErrorKind::Wire(WireError::Io(_))), "{error}");
    let error = Session::connect(&Endpoint::new("a host.invalid", 25, "x")).await.unwrap_err();
    assert_eq!(error.phase, Phase::Connect);
}

#[tokio::test]
async fn a_name_that_would_be_two_commands_is_not_said() {
    for name in ["", "a\r\nMAIL FROM:<x@y>", "a b", "ä"] {
        let (session, journal) =
            connect(Plan::plain(), |e| name.clone_into(&mut e.helo_name)).await;
        assert!(matches!(session.unwrap_err().kind, SessionErrorKind::Settings(_)), "{name:?}");
        assert!(journal.commands.is_empty());
    }
}

#[tokio::test]
async fn logs_in_the_way_the_server_wants() {
    const PLAIN: &str = "AUTH PLAIN AGFkYQBzM2NyZXQ=";
    let cases: [Login<&[&str]>; 6] = [
        ("AUTH PLAIN LOGIN", None, &["235 2.7.0 welcome"], &[PLAIN]),
        ("AUTH LOGIN PLAIN", None, &["235 2.7.0 welcome"], &[PLAIN]),
        (
            "AUTH LOGIN",
            None,
            &["334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6", "235 ok"],
            &["AUTH LOGIN", "YWRh", "czNjcmV0"],
        ),
        (
            "AUTH PLAIN LOGIN",
            Some(Mechanism::Login),
            &["334 ", "334", "235 ok"],
            &["AUTH LOGIN", "YWRh", "czNjcmV0"],
        ),
        ("AUTH PLAIN", Some(Mechanism::Plain), &["250 odd but yes"], &[PLAIN]),
        (
            "AUTH XOAUTH2",
            Some(Mechanism::XOAuth2),
            &["235 ok"],
            &["AUTH XOAUTH2 dXNlcj1hZGEBYXV0aD1CZWFyZXIgczNjcmV0AQE="],
        ),
    ];
    for (offer, mechanism, replies, commands) in cases {
        let plan = Plan { extensions: vec![offer], auth: replies.to_vec(), ..Plan::plain() };
        let (session, journal) = connect(plan, |endpoint| {
            endpoint.credentials = Some(login(mechanism));
            endpoint.allow_clear_text_auth = true;
        })
        .await;
        session.unwrap();
        assert_eq!(journal.commands[1..=commands.len()], *commands, "{offer}");
    }
}

#[tokio::test]
async fn a_login_that_fails_says_how() {
    let cases: [Login<Expected>; 8] = [
        (
            "AUTH PLAIN",
            None,
            &["535 5.7.8 no"],
            |k| matches!(k, SessionErrorKind::Refused(r) if r.code == 535),
        ),
        (
            "AUTH PLAIN",
            None,
            &["454 4.7.0 later"],
            |k| matches!(k, SessionErrorKind::Refused(r) if r.code == 454),
        ),
        ("AUTH LOGIN", None, &["334 x", "334 y", "535 no"], |k| {
            matches!(k, SessionErrorKind::Refused(_))
        }),
        ("AUTH LOGIN", None, &["334 x", "334 y", "334 z"], |k| {
            matches!(k, SessionErrorKind::Wire(WireError::OutOfTurn(_)))
        }),
        ("AUTH PLAIN", None, &["354 go"], |k| {
            matches!(k, SessionErrorKind::Wire(WireError::OutOfTurn(_)))
        }),
        ("AUTH CRAM-MD5", None, &[], |k| matches!(k, SessionErrorKind::MechanismMissing)),
        ("AUTH LOGIN", Some(Mechanism::Plain), &[], |k| {
            matches!(k, SessionErrorKind::MechanismMissing)
        }),
        (
            "AUTH XOAUTH2",
            Some(Mechanism::XOAuth2),
            &["334 eyJzdGF0dXMiOiI0MDEifQ==", "535 5.7.8 expired"],
            |k| matches!(k, SessionErrorKind::Refused(r) if r.code == 535),
        ),
    ];
    for (offer, mechanism, replies, expected) in cases {
        let plan = Plan { extensions: vec![offer], auth: replies.to_vec(), ..Plan::plain() };
        let (session, journal) = connect(plan, |endpoint| {
            endpoint.credentials = Some(login(mechanism));
            endpoint.allow_clear_text_auth = true;
        })
        .await;
        let error = session.unwrap_err();
        assert_eq!(error.phase, Phase::Auth, "{offer}");
        assert!(expected(&error.kind), "{offer}: {error}");
        assert!(!format!("{error} {error:?}").contains("s3cret"));
        assert!(!journal.commands.iter().any(|command| command.starts_with("MAIL")));
    }
}

#[tokio::test]
async fn a_login_does_not_cross_the_network_in_clear_text() {
    let plan = Plan { extensions: vec!["AUTH PLAIN LOGIN"], ..Plan::plain() };
    let (session, journal) =
        connect(plan, |endpoint| endpoint.credentials = Some(login(None))).await;
    assert!(matches!(session.unwrap_err().kind, SessionErrorKind::ClearTextLogin));
    assert_eq!(journal.commands, ["EHLO client.example"]);
    assert!(!format!("{:?}", login(None)).contains("s3cret"), "secrets show in no debug output");
}
