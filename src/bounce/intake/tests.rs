//! The doors from outside: a socket and a pipe.

use std::sync::Arc;

use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use super::{pipe, smtp};
use crate::{
    bounce::{
        apply::{
            Outcome,
            tests::{House, dsn},
        },
        report::SIZE_MAX,
    },
    config::Config,
    db::state::CopyState,
    id::{CopyId, IssueId, SubscriberId},
    smtp::server::{Protocol, dialogue::Dialogue},
};

const DEAD: &str = "550 5.1.1 <ada@example.net> User unknown";

/// A listener before a house with one reader, Ada.
struct Door {
    house: House,
    issue: IssueId,
    ada: SubscriberId,
    copy: CopyId,
    address: std::net::SocketAddr,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

/// Mails that a client may bring at once: more than any test but one does.
const PER_MINUTE: u32 = 300;

impl Door {
    async fn open() -> Self {
        Self::speaking(Protocol::Smtp).await
    }

    async fn speaking(protocol: Protocol) -> Self {
        let house = House::new().await;
        let (issue, ada) = (house.issue(1).await, house.reader("ada@example.net").await);
        let copy = house.copy(issue, ada, CopyState::Accepted).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let keyring = Arc::new(house.keyring.clone());
        let mut config = Config::default();
        config.bounces.mails_per_minute_and_client = PER_MINUTE;
        let server = smtp::server(house.db.clone(), keyring, &config, protocol, stop.clone());
        let serving = tokio::spawn(server.serve(listener));
        Self { house, issue, ada, copy, address, stop, serving }
    }

    async fn close(self) {
        self.stop.cancel();
        self.serving.await.unwrap();
    }

    async fn suppressions(&self) -> i64 {
        self.house.count("SELECT COUNT(*) FROM suppression").await
    }
}

#[tokio::test]
async fn a_report_from_the_null_sender_is_taken_and_applied() {
    let door = Door::open().await;
    let mut client = Dialogue::greeted(door.address).await;
    client.ask("MAIL FROM:<>\r\n", 250).await;
    client.ask(format!("RCPT TO:<{}>\r\n", door.house.verp(door.copy)), 250).await;
    client.ask("DATA\r\n", 354).await;
    client.say(dsn("ada@example.net", "failed", DEAD)).await;
    client.ask(".\r\n", 250).await;
    assert_eq!(door.suppressions().await, 1);
    let source = "SELECT COUNT(*) FROM inbound_mail WHERE source = 'smtp 127.0.0.1'";
    assert_eq!(door.house.count(source).await, 1);
    // Nothing is ever sent because of a report.
    assert_eq!(door.house.count("SELECT COUNT(*) FROM service_mail").await, 0);
    door.close().await;
}

#[tokio::test]
async fn only_our_own_mailboxes_are_there() {
    let door = Door::open().await;
    let genuine = door.house.verp(door.copy);
    let (local, _) = genuine.split_once('@').unwrap();
    let altered = genuine.replacen(&local[3..4], if &local[3..4] == "b" { "c" } else { "b" }, 1);
    let mut client = Dialogue::greeted(door.address).await;
    client.ask("MAIL FROM:<ada@example.net>\r\n", 250).await;
    for (recipient, code) in [
        (genuine.clone(), 250),
        (genuine.to_uppercase(), 250),
        (door.house.mailto(door.ada, Some(door.issue)), 250),
        ("postmaster".to_owned(), 250),
        ("Abuse@Bounce.Localhost".to_owned(), 250),
        (altered, 550),
        (format!("{local}@example.org"), 550),
        ("ada@bounce.localhost".to_owned(), 550),
        ("b+@bounce.localhost".to_owned(), 550),
        ("ada@example.net".to_owned(), 550),
    ] {
        client.ask(format!("RCPT TO:<{recipient}>\r\n"), code).await;
    }
    door.close().await;
}

#[tokio::test]
async fn strangers_mail_to_plain_mailboxes_is_bounded() {
    let door = Door::open().await;
    let mut client = Dialogue::greeted(door.address).await;
    for _ in 0..200 {
        client.ask("RSET\r\n", 250).await;
        client.ask("MAIL FROM:<>\r\n", 250).await;
        client.ask("RCPT TO:<postmaster@bounce.localhost>\r\n", 250).await;
    }
    client.ask("RSET\r\n", 250).await;
    client.ask("MAIL FROM:<>\r\n", 250).await;
    client.ask("RCPT TO:<postmaster@bounce.localhost>\r\n", 450).await;
    client.ask(format!("RCPT TO:<{}>\r\n", door.house.verp(door.copy)), 250).await;
    door.close().await;
}

#[tokio::test]
async fn five_megabytes_are_taken_and_no_more() {
    let door = Door::open().await;
    let to = door.house.verp(door.copy);
    let mut client = Dialogue::greeted(door.address).await;
    client.ask(format!("MAIL FROM:<> SIZE={}\r\n", SIZE_MAX + 1), 552).await;
    let line = [b"x".repeat(998), b"\r\n".to_vec()].concat();
    for (lines, code) in [(SIZE_MAX / 1000, 250), (SIZE_MAX / 1000 + 10, 552)] {
        client.ask("MAIL FROM:<>\r\n", 250).await;
        client.ask(format!("RCPT TO:<{to}>\r\n"), 250).await;
        client.ask("DATA\r\n", 354).await;
        client.say(line.repeat(lines)).await;
        client.ask(".\r\n", code).await;
    }
    assert_eq!(door.house.count("SELECT COUNT(*) FROM inbound_mail").await, 1);
    door.close().await;
}

#[tokio::test]
async fn a_report_that_cannot_be_stored_is_put_off() {
    let door = Door::open().await;
    let mut client = Dialogue::greeted(door.address).await;
    client.ask("MAIL FROM:<>\r\n", 250).await;
    client.ask(format!("RCPT TO:<{}>\r\n", door.house.verp(door.copy)), 250).await;
    client.ask("DATA\r\n", 354).await;
    door.house.db.write("DROP TABLE inbound_mail").execute().await.unwrap();
    client.say(dsn("ada@example.net", "failed", DEAD)).await;
    client.ask(".\r\n", 451).await;
    // All or nothing: what would have been kept as evidence is not there, so nothing was done.
    assert_eq!(door.suppressions().await, 0);
    assert_eq!(door.house.count("SELECT COUNT(*) FROM event").await, 0);
    door.house.db.close().await;
    client.ask("MAIL FROM:<>\r\n", 250).await;
    client.ask(format!("RCPT TO:<{}>\r\n", door.house.verp(door.copy)), 250).await;
    client.ask("DATA\r\n", 354).await;
    client.ask("late\r\n.\r\n", 451).await;
    door.close().await;
}

#[tokio::test]
async fn over_lmtp_every_recipient_has_its_own_reply() {
    let door = Door::speaking(Protocol::Lmtp).await;
    let house = &door.house;
    let grace = house.reader("grace@example.net").await;
    let copy = house.copy(door.issue, grace, CopyState::Accepted).await;
    let mut client = Dialogue::connect(door.address).await;
    client.expect(220).await;
    client.ask("EHLO client.example\r\n", 500).await;
    client.ask("LHLO client.example\r\n", 250).await;
    client.ask("MAIL FROM:<>\r\n", 250).await;
    client.ask(format!("RCPT TO:<{}>\r\n", house.verp(door.copy)), 250).await;
    client.ask("RCPT TO:<ada@example.net>\r\n", 550).await;
    client.ask("RCPT TO:<ada@bounce.localhost>\r\n", 550).await;
    client.ask(format!("RCPT TO:<{}>\r\n", house.verp(copy)), 250).await;
    client.ask("DATA\r\n", 354).await;
    client.say(dsn("ada@example.net", "failed", DEAD)).await;
    client.ask(".\r\n", 250).await;
    client.expect(250).await;
    assert_eq!(door.suppressions().await, 2);
    let source = "SELECT COUNT(*) FROM inbound_mail WHERE source = 'lmtp 127.0.0.1'";
    assert_eq!(house.count(source).await, 2);

    // The database takes the report on one of two.
    let refuse = format!(
        "CREATE TRIGGER refuse BEFORE INSERT ON inbound_mail WHEN NEW.rcpt_to = '{}' \
         BEGIN SELECT RAISE(ABORT, 'no'); END",
        house.verp(copy)
    );
    house.db.write(Box::leak(refuse.into_boxed_str())).execute().await.unwrap();
    client.ask("MAIL FROM:<>\r\n", 250).await;
    client.ask(format!("RCPT TO:<{}>\r\n", house.verp(copy)), 250).await;
    client.ask(format!("RCPT TO:<{}>\r\n", house.verp(door.copy)), 250).await;
    client.ask("DATA\r\n", 354).await;
    client.say(dsn("ada@example.net", "failed", DEAD)).await;
    client.ask(".\r\n", 451).await;
    client.expect(250).await;
    client.ask("QUIT\r\n", 221).await;
    door.close().await;
}

#[tokio::test]
async fn a_client_brings_so_many_mails_a_minute() {
    let door = Door::open().await;
    let mut client = Dialogue::greeted(door.address).await;
    for _ in 0..PER_MINUTE {
        client.ask("MAIL FROM:<>\r\n", 250).await;
        client.ask("RSET\r\n", 250).await;
    }
    // Some more may fit in the time that those took; they are not as slow as the allowance grows.
    let mut refused = false;
    for _ in 0..10 * PER_MINUTE {
        client.say("MAIL FROM:<>\r\n").await;
        refused = client.hear().await.starts_with("450 4.7.1");
        if refused {
            break;
        }
        client.ask("RSET\r\n", 250).await;
    }
    assert!(refused);
    door.close().await;
}

#[tokio::test]
async fn one_message_comes_through_the_pipe() {
    let door = Door::open().await;
    let house = &door.house;
    let to = house.verp(door.copy);
    let report = dsn("ada@example.net", "failed", DEAD);
    for (what, raw, recipient) in [
        ("option", report.clone(), Some(to.as_str())),
        ("field", format!("Return-Path: <>\r\nDelivered-To: {to}\r\n{report}"), None),
        ("folded", format!("X-Original-To:\r\n <{to}>\r\n{report}"), None),
        ("catch-all", format!("Delivered-To: all@x.example\r\nTo: <{to}>\r\n{report}"), None),
        ("mbox line", format!("From MAILER-DAEMON Mon\nDelivered-To: {to}\n{report}"), None),
    ] {
        let applied =
            pipe::ingest(&house.db, &house.keyring, &house.rules, raw.as_bytes(), recipient).await;
        let applied = applied.unwrap();
        assert_eq!(applied.subscriber, Some(door.ada), "{what}");
        let first = what == "option";
        let expected = if first { Outcome::Suppressed } else { Outcome::Repeated };
        assert_eq!(applied.outcome, expected, "{what}");
    }
    let large = vec![b'x'; SIZE_MAX + 1];
    for (raw, code) in [(&b""[..], 65), (&large, 65)] {
        let failed = pipe::ingest(&house.db, &house.keyring, &house.rules, raw, None).await;
        assert_eq!(failed.unwrap_err().exit_code(), code);
    }
    house.db.close().await;
    let failed =
        pipe::ingest(&house.db, &house.keyring, &house.rules, report.as_bytes(), None).await;
    assert_eq!(failed.unwrap_err().exit_code(), 75);
    door.close().await;
}

#[tokio::test]
async fn an_mbox_file_is_taken_in_message_by_message() {
    let door = Door::open().await;
    let house = &door.house;
    let grace = house.reader("grace@example.net").await;
    let copy = house.copy(door.issue, grace, CopyState::Accepted).await;
    let lf = |text: String| text.replace("\r\n", "\n");
    let report = |copy, typed| {
        lf(format!("Delivered-To: {}\n{}", house.verp(copy), dsn(typed, "failed", DEAD)))
    };
    let line = "From MAILER-DAEMON Mon Jan  1 00:00:00 2024\n";
    let mbox = format!(
        "{line}{}\n{line}Subject: big\n\n{}\n\n{line}Subject: hello\n\n>From here\nFrom there\n\n\
         {line}{}",
        report(door.copy, "ada@example.net"),
        "x".repeat(SIZE_MAX),
        report(copy, "grace@example.net"),
    );
    let run = || pipe::ingest_mbox(&house.db, &house.keyring, &house.rules, mbox.as_bytes(), None);
    let done = run().await.unwrap();
    assert_eq!((done.messages, done.too_large), (4, 1));
    assert_eq!(done.outcomes.get("suppressed"), Some(&2));
    assert_eq!(door.suppressions().await, 2);
    let kept = "SELECT COUNT(*) FROM inbound_mail WHERE instr(raw, 'From here') > 0 \
                AND instr(raw, '>From here') = 0 AND instr(raw, 'From there') > 0";
    assert_eq!(house.count(kept).await, 1);
    // Reading the file again changes nothing.
    let again = run().await.unwrap();
    assert_eq!(again.outcomes.get("repeated"), Some(&2));
    assert_eq!(again.outcomes.get("suppressed"), None);

    let one = pipe::ingest_mbox(&house.db, &house.keyring, &house.rules, &b"To: x\n\n"[..], None);
    assert!(matches!(one.await, Err(pipe::IngestError::NotMbox)));
    door.close().await;
}
