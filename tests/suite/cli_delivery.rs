//! `postrider delivery`.

use std::io::{BufRead as _, BufReader, Write as _};

use postrider::{
    db::state::{CopyState, EventKind, IssueState},
    event::{self, Event},
    id::{IssueId, SubscriberId},
    timestamp::Timestamp,
};

use crate::installation::{Installation, eventually, settled};

const ISSUE: IssueId = IssueId(1);

/// An issue that was sent to three readers: accepted, rejected, uncertain.
async fn sent() -> Installation {
    let house = Installation::new();
    let import = ["subscriber", "import", "-", "--consent-source", "form"];
    let file = "address\nada@gmail.com\nbob@example.com\ncarol@example.org\n";
    house.run_with_input(&import, file.as_bytes()).ok();
    let context = house.context().await;
    let mut tx = context.db.begin().await.unwrap();
    tx.query(
        "INSERT INTO issue (uid, newsletter_id, number, subject, state, model, source, \
         created_at, finished_at) VALUES ('u', 1, 437, 'SRE Digest #437', $1, '', '', 0, 0)",
    )
    .bind(IssueState::Sent)
    .execute()
    .await
    .unwrap();
    let copies = [
        ("ada@gmail.com", CopyState::Accepted),
        ("bob@example.com", CopyState::Rejected),
        ("carol@example.org", CopyState::Uncertain),
    ];
    for (address, state) in copies {
        tx.query(
            "INSERT INTO delivery (issue_id, subscriber_id, state, stage, provider, attempt) \
             SELECT 1, id, $2, 0, provider, 1 FROM subscriber WHERE address = $1",
        )
        .bind(address)
        .bind(state)
        .execute()
        .await
        .unwrap();
    }
    let mut events = Vec::new();
    for (address, kind, provider) in [
        ("ada@gmail.com", EventKind::Accepted, 1),
        ("bob@example.com", EventKind::Rejected, 0),
        ("carol@example.org", EventKind::Uncertain, 0),
    ] {
        let id = "SELECT id FROM subscriber WHERE address = $1";
        let subscriber: SubscriberId = tx.query(id).bind(address).scalar().await.unwrap();
        let mut event = Event::new(kind, Timestamp::now()).about(Some(ISSUE), Some(subscriber));
        event.provider = Some(provider);
        event.relay = Some("main".into());
        event.attempt = Some(1);
        event.duration_us = Some(12_300);
        (event.phase, event.code, event.text) = match kind {
            EventKind::Accepted => (None, Some(250), Some("queued as 1".into())),
            EventKind::Rejected => (Some("rcpt_to".into()), Some(550), Some("no such user".into())),
            _ => (Some("dot".into()), None, Some("the server closed the connection".into())),
        };
        if kind == EventKind::Rejected {
            event.class = Some("recipient.permanent".into());
            event.enhanced = Some("5.1.1".into());
        }
        events.push(event);
    }
    event::record(&mut tx, &events).await.unwrap();
    tx.commit().await.unwrap();
    context.db.close().await;
    house
}

#[tokio::test]
async fn the_log_is_printed_in_columns_and_as_json_lines() {
    let house = sent().await;
    let log = house.run(&["delivery", "log"]).ok();
    insta::assert_snapshot!(settled(&house, &log), @"
    TIME  accepted        sre#437     ada@gmail.com                   google      main        250  12.3 ms  queued as 1
    TIME  rejected        sre#437     bob@example.com                 other       main        rcpt_to 550 5.1.1  [recipient.permanent]  12.3 ms  no such user
    TIME  uncertain       sre#437     carol@example.org               other       main        dot  12.3 ms  the server closed the connection
    ");
    let lines = house.run(&["delivery", "log", "--json"]).ok();
    let lines: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 3);
    assert_eq!(lines[0]["provider"], "google");
    assert_eq!(lines[1]["enhanced"], "5.1.1");
    assert_eq!(lines[1]["issue"], 437);
    let everything = house.run(&["delivery", "log", "--all", "--json"]).ok();
    assert_eq!(everything.lines().count(), 3);
}

#[tokio::test]
async fn every_filter_narrows_the_log() {
    let house = sent().await;
    let log = |filter: &[&str]| {
        let lines = house.run(["delivery", "log", "--json"].iter().chain(filter)).ok();
        let address = |line: &str| {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            line["address"].as_str().unwrap().split('@').next().unwrap().to_owned()
        };
        lines.lines().map(address).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(log(&["--issue", "437"]), "ada bob carol");
    assert_eq!(log(&["--subscriber", "BOB@example.com"]), "bob");
    assert_eq!(log(&["--provider", "google"]), "ada");
    assert_eq!(log(&["--provider", "other"]), "bob carol");
    assert_eq!(log(&["--outcome", "uncertain"]), "carol");
    assert_eq!(log(&["--class", "recipient"]), "bob");
    assert_eq!(log(&["--since", "1h"]), "ada bob carol");
    assert_eq!(log(&["--until", "1h"]), "");
    assert_eq!(log(&["--since", "2999-01-01"]), "");
    assert_eq!(log(&["--limit", "2"]), "bob carol");
    for (filter, code, expected) in [
        (["--issue", "1"], 1, "there is no issue 1"),
        (["--subscriber", "nobody@example.com"], 1, "there is no subscriber"),
        (["--outcome", "lost"], 2, "one of claimed, handed_off, accepted"),
        (["--since", "yesterday"], 2, "how long ago, like 90m or 2d"),
        (["--limit", "1000000"], 2, "100000"),
    ] {
        let error = house.run(["delivery", "log"].iter().chain(&filter)).fails(code);
        assert!(error.contains(expected), "{error}");
    }
    let nothing = house.run(&["delivery", "log", "--until", "1h"]);
    assert_eq!((nothing.stdout.as_str(), nothing.code), ("", 0));
}

#[tokio::test]
async fn following_shows_what_happens_and_ends_with_its_reader() {
    let house = sent().await;
    let mut following =
        house.start(&["delivery", "log", "--follow", "--limit", "1", "--outcome", "uncertain"]);
    let mut lines = BufReader::new(following.0.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("carol@example.org"));
    let context = house.context().await;
    let happen = async |kind: EventKind| {
        let event = Event::new(kind, Timestamp::now()).about(Some(ISSUE), Some(SubscriberId(1)));
        let mut tx = context.db.begin().await.unwrap();
        event::record(&mut tx, &[event]).await.unwrap();
        tx.commit().await.unwrap();
    };
    happen(EventKind::Accepted).await;
    happen(EventKind::Uncertain).await;
    let line = lines.next().unwrap().unwrap();
    assert!(line.contains("uncertain") && line.contains('@'), "{line}");
    // `… | head`: the reader is gone, and that is no failure.
    drop(lines);
    happen(EventKind::Uncertain).await;
    let status = eventually("the end of following", || following.0.try_wait().unwrap());
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn uncertain_copies_are_listed_and_settled_by_people_only() {
    let house = sent().await;
    let listed = house.run(&["delivery", "uncertain", "--issue", "437"]);
    let copies = house.run(&["delivery", "uncertain", "--issue", "437", "--json"]).json();
    let id = copies[0]["message_id"].as_str().unwrap();
    insta::assert_snapshot!(settled(&house, &listed.stdout.replace(id, "ID@localhost")), @r"
    address            provider  relay  since                    Message-ID                         what happened
    carol@example.org  other     main   TIME  ID@localhost  the server closed the connection
    ");
    insta::assert_snapshot!(listed.stderr, @"
    look for the Message-IDs in the relay's log, then settle each with `postrider delivery resolve`; for a Postfix relay --postfix-log does both
    ");
    let resolve = |more: &[&str]| {
        let args = ["delivery", "resolve", "--issue", "437", "--reason", "relay log"];
        house.run(args.iter().chain(more))
    };
    let error = resolve(&["--as", "accepted"]).fails(2);
    assert!(error.contains("--subscriber <ADDRESS>|--all"), "{error}");
    let error = resolve(&["--as", "accepted", "--subscriber", "ada@gmail.com"]).fails(3);
    assert!(error.contains("to ada@gmail.com is not uncertain"), "{error}");
    let error = resolve(&["--as", "resend", "--all"]).fails(3);
    insta::assert_snapshot!(error, @"
    error: Send 1 copy again? Whoever got it after all gets it twice. Nobody is here to answer; say --yes to go on
    ");
    let again = resolve(&["--as", "resend", "--all", "--yes"]);
    insta::assert_snapshot!(again.stderr, @"
    1 copy of issue 437: will be sent again
    ");

    let context = house.context().await;
    let states: Vec<(i64, i64)> = context
        .db
        .query("SELECT state, due_at IS NOT NULL FROM delivery ORDER BY subscriber_id")
        .all()
        .await
        .unwrap();
    assert_eq!(states.iter().filter(|copy| **copy == (0, 1)).count(), 1, "{states:?}");
    let issue: IssueState = context.db.query("SELECT state FROM issue").scalar().await.unwrap();
    assert_eq!(issue, IssueState::Sending);
    assert_eq!(house.run(&["delivery", "uncertain", "--issue", "437"]).ok(), "");
    let log = house.run(&["delivery", "log", "--outcome", "resolved"]).ok();
    assert!(log.contains("to be sent again: relay log"), "{log}");
    insta::assert_snapshot!(resolve(&["--as", "accepted", "--all"]).stderr, @"
    0 copies of issue 437: settled as accepted
    ");

    // Nothing of a cancelled issue is sent again.
    for sql in ["UPDATE delivery SET state = 5 WHERE state = 0", "UPDATE issue SET state = $1"] {
        let query = context.db.write(sql);
        let query = if sql.contains("$1") { query.bind(IssueState::Cancelled) } else { query };
        query.execute().await.unwrap();
    }
    let error = resolve(&["--as", "resend", "--all", "--yes"]).fails(3);
    assert!(error.contains("is cancelled: nothing of it is sent any more"), "{error}");
    let waiting: i64 =
        context.db.query("SELECT COUNT(*) FROM delivery WHERE state = 0").scalar().await.unwrap();
    assert_eq!(waiting, 0);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

#[tokio::test]
async fn the_log_of_a_relay_settles_what_it_knows_about() {
    let house = sent().await;
    let listed = house.run(&["delivery", "uncertain", "--issue", "437", "--json"]).json();
    let id = listed[0]["message_id"].as_str().unwrap();
    let log = format!(
        "Nov 22 17:00:01 relay postfix/smtpd[7]: connect from unknown[127.0.0.1]\n\
         Nov 22 17:00:01 relay postfix/cleanup[8]: 4AB12C: message-id=<{id}>\n\
         Nov 22 17:00:01 relay postfix/qmgr[9]: 4AB12C: from=<b@b.example>, size=9, nrcpt=1 (queue active)\n\
         Nov 22 17:00:02 relay postfix/smtp[9]: 4AB12C: to=<carol@example.org>, relay=mx[192.0.2.1]:25, \
         dsn=5.1.1, status=bounced (host mx said: 550 5.1.1 no such user)\n"
    );
    std::fs::write(house.path("mail.log"), &log).unwrap();
    let resolve = ["delivery", "resolve", "--issue", "437", "--postfix-log", "mail.log"];
    let dry = house.run(resolve.iter().chain(&["--dry-run", "--json"])).json();
    assert_eq!(dry[0]["becomes"], "rejected", "{dry}");
    assert_eq!(
        (&dry[0]["evidence"]["fate"], &dry[0]["evidence"]["line"]),
        (&"bounced".into(), &4.into())
    );
    let still = house.run(&["delivery", "uncertain", "--issue", "437", "--json"]).json();
    assert_eq!(still.as_array().unwrap().len(), 1, "a dry run changes nothing");

    // A log that stops after the Message-ID proves nothing.
    let begun: String = log.lines().take(2).map(|line| format!("{line}\n")).collect();
    std::fs::write(house.path("begun.log"), begun).unwrap();
    let begun = ["delivery", "resolve", "--issue", "437", "--postfix-log", "begun.log"];
    let said = house.run(&begun).ok_stderr();
    assert!(said.contains("0 settled, 1 still uncertain"), "{said}");

    // Rotated and compressed it says the same, in two members too; half of such a file is none.
    let half = log.len() / 2;
    let packed = [gzip(&log.as_bytes()[..half]), gzip(&log.as_bytes()[half..])].concat();
    std::fs::write(house.path("mail.log.2.gz"), &packed).unwrap();
    std::fs::write(house.path("half.gz"), &packed[..packed.len() - 12]).unwrap();
    std::fs::write(house.path("mail.log.3.xz"), b"\xfd7zXZ\0\0\x04").unwrap();
    let from = |file| {
        ["delivery", "resolve", "--issue", "437", "--dry-run", "--json", "--postfix-log", file]
    };
    assert_eq!(house.run(&from("mail.log.2.gz")).json(), dry);
    let error = house.run(&from("half.gz")).fails(1);
    assert!(error.contains("cannot read the log half.gz"), "{error}");
    let error = house.run(&from("mail.log.3.xz")).fails(1);
    assert!(error.contains("xzcat FILE |"), "{error}");

    let said = house.run(&resolve).ok_stderr();
    assert!(said.contains("1 settled, 0 still uncertain"), "{said}");
    let line = house.run(&["delivery", "log", "--outcome", "resolved", "--json"]).ok();
    let line: serde_json::Value = serde_json::from_str(line.trim_end()).unwrap();
    let text = line["text"].as_str().unwrap();
    assert!(text.starts_with("rejected: the relay's log, line 4: 4AB12C: to=<carol"), "{text}");
    house.run(&["delivery", "resolve", "--issue", "437", "--all"]).fails(2);
    house
        .run(&[
            "delivery",
            "resolve",
            "--issue",
            "437",
            "--all",
            "--as",
            "accepted",
            "--dry-run",
            "--reason",
            "x",
        ])
        .fails(2);
}
