//! What an envelope becomes on the wire, and what is refused before anything is written.

use proptest::prelude::*;

use super::super::envelope::Commands;
use super::super::*;
use super::server::*;

fn render(envelope: &Envelope, server: &Capabilities) -> Result<String, Unsendable> {
    let mut commands = Commands::default();
    envelope.render(server, Some(1000), &mut commands)?;
    let parts = [commands.mail(), commands.rcpt(), commands.data()].concat();
    assert_eq!(parts, commands.all());
    Ok(String::from_utf8(parts).unwrap())
}

#[test]
fn uses_what_the_server_offers_and_nothing_else() {
    let everything = Capabilities {
        smtputf8: true,
        dsn: true,
        size: true,
        size_max: Some(10_000),
        ..Capabilities::default()
    };
    let report = ReportRequest {
        envid: "433.17+a=b".to_owned(),
        original_recipient: "ada+news@example.net".to_owned(),
    };
    let envelope = Envelope {
        report: Some(report),
        size: Some(1000),
        ..Envelope::new("b+x@bounce.example", "ada@example.net")
    };
    assert_eq!(
        render(&envelope, &everything).unwrap(),
        "MAIL FROM:<b+x@bounce.example> SIZE=1000 RET=HDRS ENVID=433.17+2Ba+3Db\r\n\
         RCPT TO:<ada@example.net> NOTIFY=FAILURE ORCPT=rfc822;ada+2Bnews@example.net\r\n\
         DATA\r\n"
    );
    assert_eq!(
        render(&envelope, &Capabilities::default()).unwrap(),
        "MAIL FROM:<b+x@bounce.example>\r\nRCPT TO:<ada@example.net>\r\nDATA\r\n"
    );
    assert_eq!(
        render(&Envelope::new("", "\"a b>\"@example.net"), &everything).unwrap(),
        "MAIL FROM:<>\r\nRCPT TO:<\"a b>\"@example.net>\r\nDATA\r\n"
    );
    let utf8 = Envelope::new("b@bounce.example", "käthe@example.net");
    assert_eq!(
        render(&utf8, &everything).unwrap(),
        "MAIL FROM:<b@bounce.example> SMTPUTF8\r\nRCPT TO:<käthe@example.net>\r\nDATA\r\n"
    );
    assert_eq!(render(&utf8, &Capabilities::default()), Err(Unsendable::NeedsSmtpUtf8));
    let limited = Capabilities { size_max: Some(999), ..Capabilities::default() };
    assert_eq!(
        render(&Envelope::new("", "a@b"), &limited),
        Err(Unsendable::TooBig { size: 1000, limit: 999 })
    );
}

#[test]
fn refuses_what_would_be_more_than_an_address() {
    let long = "a".repeat(600);
    let paths = [
        "a@b\r\nRCPT TO:<c@d",
        "a@b\n",
        "a\0@b",
        "a@b> SIZE=1",
        "a@b SMTPUTF8",
        "<a@b>",
        "\"a\" b\"@c",
        "\"open@b",
        "\"a\\\"> X@b",
        "a@b\u{85}",
        &long,
    ];
    let server = Capabilities { smtputf8: true, dsn: true, ..Capabilities::default() };
    for path in paths {
        for envelope in [Envelope::new(path, "a@b"), Envelope::new("a@b", path)] {
            let rendered = render(&envelope, &server);
            assert!(matches!(rendered, Err(Unsendable::Address { .. })), "{path:?}: {rendered:?}");
        }
    }
    assert!(render(&Envelope::new("a@b", ""), &server).is_err());
    for (envid, original) in
        [("", "a@b"), ("x\r\n", "a@b"), ("x", ""), ("x", "ä@b"), (&long, "a@b")]
    {
        let report =
            ReportRequest { envid: envid.to_owned(), original_recipient: original.to_owned() };
        let envelope = Envelope { report: Some(report), ..Envelope::new("a@b", "c@d") };
        assert!(render(&envelope, &server).is_err(), "{envid:?} {original:?}");
    }
}

#[tokio::test]
async fn what_cannot_be_sent_writes_nothing_and_leaves_the_session_usable() {
    let extensions = vec!["PIPELINING", "SIZE 100"];
    let server = Server::start(Plan { extensions, ..Plan::plain() }).await;
    let mut session = server.session().await;
    let large = b"x\r\n".repeat(100);
    let cases = [
        (Envelope::new("a@b\r\nDATA", "c@d"), BODY),
        (Envelope::new("a@b", "c@d\0"), BODY),
        (Envelope::new("a@b", "ç@d"), BODY),
        (Envelope::new("a@b", "c@d"), &large),
        (Envelope::new("a@b", "c@d"), b"no line end"),
        (Envelope::new("a@b", "c@d"), b""),
    ];
    for (envelope, body) in &cases {
        let (transaction, calls) =
            send(&mut session, &Outgoing { envelope, body: &[body] }, None).await;
        let verdict = &transaction.verdict;
        assert!(matches!(verdict, Verdict::NotSent(_)), "{verdict}");
        assert_eq!((transaction.session, calls), (SessionState::Usable, 0), "{verdict}");
    }
    session.quit().await;
    assert_eq!(server.journal().await.commands, ["EHLO client.example", "QUIT"]);
}

#[tokio::test]
async fn a_next_that_cannot_be_sent_is_not_opened() {
    let server = Server::start(Plan::pipelining()).await;
    let mut session = server.session().await;
    let (this, next) = (envelope(1), Envelope::new("a@b", "ç@d"));
    let message = Outgoing { envelope: &this, body: &[BODY] };
    let (transaction, _) = send(&mut session, &message, Some(&next)).await;
    assert!(matches!(transaction.verdict, Verdict::Accepted(_)));
    assert!(!transaction.next_opened && !session.holds_envelope());
    let (transaction, _) =
        send(&mut session, &Outgoing { envelope: &next, body: &[BODY] }, None).await;
    assert!(matches!(transaction.verdict, Verdict::NotSent(Unsendable::NeedsSmtpUtf8)));
    session.quit().await;
    assert_eq!(server.journal().await.taken.len(), 1);
}

proptest! {
    /// Whatever stands in an address, what is rendered is exactly three lines, each one command.
    #[test]
    fn an_envelope_is_three_commands_or_none(
        from in "\\PC{0,40}|[a-z\"\\\\<> \r\n\0@.]{0,20}",
        to in "\\PC{0,40}|[a-z\"\\\\<> \r\n\0@.]{0,20}",
        envid in "[ -~]{1,30}",
    ) {
        let server = Capabilities { smtputf8: true, dsn: true, ..Capabilities::default() };
        let report = ReportRequest { envid, original_recipient: "a@b".to_owned() };
        let envelope = Envelope { report: Some(report), ..Envelope::new(from, to) };
        if let Ok(text) = render(&envelope, &server) {
            prop_assert_eq!(text.matches('\n').count(), 3);
            prop_assert_eq!(text.matches("\r\n").count(), 3);
            prop_assert!(!text.contains('\0'));
            prop_assert!(text.starts_with("MAIL FROM:<"));
            prop_assert!(text.ends_with("DATA\r\n"));
        }
    }
}
