//! A provider's webhook and the listener for returned mail, before a running daemon: what is genuine
//! suppresses and stands on the reader's timeline, what is forged does nothing.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
};

use aws_lc_rs::hmac;
use data_encoding::HEXLOWER;
use postrider::{
    db::state::IssueState,
    id::{CopyId, IssueId, SubscriberId},
    smtp::{message::message_id, verp::TokenMailbox},
    timestamp::Timestamp,
    token::{DeliveryToken, Keyring},
};
use serde_json::{Value, json};

use crate::harness::{Daemon, QUICK, Scene, Sink, address, free_port};

const SECRET: &str = "a secret of the test and of nobody else";
const READERS: usize = 12;

/// The time and the signature for a body, as the README says.
fn signed(secret: &str, body: &str, at: Timestamp) -> (String, String) {
    let seconds = (at.microseconds() / 1_000_000).to_string();
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, format!("{seconds}.{body}").as_bytes());
    (seconds, format!("v1={}", HEXLOWER.encode(tag.as_ref())))
}

async fn post(daemon: &Daemon, body: &str, (seconds, signature): (String, String)) -> (u16, Value) {
    let request = reqwest::Client::new()
        .post(daemon.url("/hooks/own"))
        .header("x-postrider-timestamp", seconds)
        .header("x-postrider-signature", signature)
        .body(body.to_owned());
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// Hands a mail to the listener; the reply to its recipient, or to its end.
fn deliver(port: u16, to: &str, mail: &str) -> u16 {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut replies = BufReader::new(stream.try_clone().unwrap());
    let mut reply = || loop {
        let mut line = String::new();
        replies.read_line(&mut line).unwrap();
        if line.as_bytes()[3] == b' ' {
            return line[..3].parse::<u16>().unwrap();
        }
    };
    let mut code = reply();
    for (line, expected) in [
        ("EHLO stranger.example".to_owned(), 220),
        ("MAIL FROM:<>".to_owned(), 250),
        (format!("RCPT TO:<{to}>"), 250),
        ("DATA".to_owned(), 250),
        (format!("{mail}\r\n."), 354),
    ] {
        if code != expected {
            return code;
        }
        stream.write_all(format!("{line}\r\n").as_bytes()).unwrap();
        code = reply();
    }
    code
}

fn report(address: &str, returned: &str) -> String {
    format!(
        "From: MAILER-DAEMON@mx.example.net\r\nSubject: Undelivered Mail\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=\"B\"\r\n\r\n\
         --B\r\nContent-Type: message/delivery-status\r\n\r\nReporting-MTA: dns; mx.example.net\r\n\
         \r\nFinal-Recipient: rfc822; {address}\r\nAction: failed\r\nStatus: 5.1.1\r\n\
         Diagnostic-Code: smtp; 550 5.1.1 no such user\r\n\r\n--B\r\n\
         Content-Type: text/rfc822-headers\r\n\r\nTo: {address}\r\n{returned}\r\n--B--\r\n"
    )
}

#[tokio::test]
async fn a_post_suppresses_its_reader_and_forgeries_suppress_nobody() {
    let sink = Sink::spawn().await;
    let listener = free_port();
    let scene = Scene::new(&[&sink], QUICK).await;
    let config = scene.house.path("config.toml");
    let text = fs::read_to_string(&config).unwrap().replace(
        "[bounces]\nlisten = \"127.0.0.1:0\"\n",
        &format!(
            "[bounces]\nlisten = \"127.0.0.1:{listener}\"\n[[bounces.webhook]]\nname = \"own\"\n\
             provider = \"generic\"\nsecrets = [\"{SECRET}\"]\n"
        ),
    );
    fs::write(&config, text).unwrap();
    scene.import(READERS);
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    scene.reaches(IssueState::Sent).await;
    let context = scene.context().await;
    let keyring = context.keyring.clone();
    let own = Keyring::ephemeral(Timestamp::now());
    let rows: Vec<(SubscriberId, String)> = context
        .db
        .query("SELECT id, address FROM subscriber WHERE address IS NOT NULL ORDER BY id")
        .all()
        .await
        .unwrap();
    assert_eq!(rows.len(), READERS);
    let copy = |subscriber| CopyId::Issue { issue: IssueId(1), subscriber };
    let event = |to: &str, id: &str| {
        let number = format!("event-{}", rand::random::<u64>());
        json!({ "events": [{ "event": "bounced", "recipient": to, "id": number,
            "at": Timestamp::now(), "reply": "550 5.1.1 no such user", "message_id": id }] })
        .to_string()
    };
    let now = Timestamp::now();
    for round in 0..40 {
        let (reader, to) = &rows[round % READERS];
        let genuine = message_id(&keyring, copy(*reader), "example.com");
        let forged = message_id(&own, copy(*reader), "example.com");
        let token = DeliveryToken(copy(*reader)).seal(&keyring);
        let foreign = DeliveryToken(copy(*reader)).seal(&own);
        let at = |token: &str| TokenMailbox::Bounce.address(token, "bounce.localhost").to_string();
        match round % 4 {
            // A body that nobody signed, or for another.
            0 => {
                let body = event(to, &genuine);
                for proof in [
                    signed("another secret altogether", &body, now),
                    signed(SECRET, "{\"events\":[]}", now),
                    signed(SECRET, &body, now.minus(std::time::Duration::from_mins(6))),
                    (String::new(), String::new()),
                ] {
                    assert_eq!(post(&daemon, &body, proof).await.0, 401);
                }
            }
            // Signed, about a copy that is none of ours, or about an address alone.
            1 => {
                for id in [forged, token, String::new()] {
                    let body = event(to, &id);
                    let (status, answer) = post(&daemon, &body, signed(SECRET, &body, now)).await;
                    assert_eq!((status, &answer["outcomes"]["unattributed"]), (200, &json!(1)));
                }
            }
            // Under a key of their own.
            2 => {
                assert_eq!(deliver(listener, &at(&foreign), &report(to, "")), 550);
                let returned = format!("Message-ID: <{forged}>\r\nX-Token: b+{token}@b\r\n");
                assert_eq!(
                    deliver(listener, "abuse@bounce.localhost", &report(to, &returned)),
                    250
                );
            }
            // The genuine token where it proves nothing.
            _ => {
                let mail = report(to, &format!("References: <{genuine}>\r\n"))
                    .replace("Undelivered Mail", &format!("{} <{genuine}>", at(&token)));
                assert_eq!(deliver(listener, "postmaster@bounce.localhost", &mail), 250);
            }
        }
    }
    let suppressed = "SELECT COUNT(*) FROM suppression";
    assert_eq!(context.db.query(suppressed).scalar::<i64>().await.unwrap(), 0);
    // And the genuine ones, one each way.
    let body = event("else@example.net", &message_id(&keyring, copy(rows[0].0), "example.com"));
    let (status, answer) = post(&daemon, &body, signed(SECRET, &body, Timestamp::now())).await;
    assert_eq!((status, &answer["outcomes"]["suppressed"]), (200, &json!(1)), "{answer}");
    let token = DeliveryToken(copy(rows[1].0)).seal(&keyring);
    let to = TokenMailbox::Bounce.address(&token, "bounce.localhost").to_string();
    assert_eq!(deliver(listener, &to, &report(&address(1), "")), 250);
    assert_eq!(context.db.query(suppressed).scalar::<i64>().await.unwrap(), 2);
    for (_, to) in &rows[..2] {
        let shown = scene.house.run(&["subscriber", "show", to, "--json"]).json();
        assert_eq!(shown["suppression"]["reason"], "bounce", "{shown}");
        let timeline = scene.house.run(&["subscriber", "show", to]).ok();
        assert!(timeline.contains("bounced") && timeline.contains("suppressed"), "{timeline}");
    }
    // What came is kept, is shown, and reads as it did.
    let kept = scene.house.run(&["bounce", "list", "--effect", "suppressed", "--json"]).json();
    let kept = kept.as_array().unwrap();
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert_eq!(kept[1]["source"], "webhook generic own");
    let number = kept[1]["id"].to_string();
    let shown = scene.house.run(&["bounce", "show", &number]).ok();
    assert!(shown.contains("webhook generic own") && shown.contains("550 5.1.1"), "{shown}");
    let replayed = scene.house.run(&["bounce", "replay", "--since", "1d", "--apply", "--json"]);
    assert_eq!(replayed.json(), json!([]));
    context.db.close().await;
}

/// A service that replaces our Message-ID hands back what a field of its own gave it.
#[tokio::test]
async fn an_event_finds_its_copy_by_the_field_that_the_service_keeps() {
    let sink = Sink::spawn().await;
    let scene = Scene::new(&[&sink], QUICK).await;
    let config = scene.house.path("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    let field = "X-Mailgun-Variables: {\"postrider\": \"{message_id}\"}";
    let text = text.replacen(
        "tls = \"none\"\n",
        &format!("tls = \"none\"\nevent_field = '{field}'\n"),
        1,
    ) + &format!(
        "[[bounces.webhook]]\nname = \"own\"\nprovider = \"mailgun\"\nsecrets = [\"{SECRET}\"]\n"
    );
    fs::write(&config, text).unwrap();
    scene.import(3);
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    scene.reaches(IssueState::Sent).await;
    let mails = sink.mails();
    assert_eq!(mails.len(), 3);
    let mail = fs::read_to_string(&mails[1]).unwrap();
    let header = &mail[..mail.find("\r\n\r\n").unwrap()];
    let value = |name: &str| {
        let mut lines = header.lines();
        lines.find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned()
    };
    let variables: Value = serde_json::from_str(&value("X-Mailgun-Variables:")).unwrap();
    assert_eq!(variables["postrider"], value("Message-ID:").trim_matches(['<', '>']));
    let to = value("To:");
    let to = to.rsplit_once('<').map_or(to.as_str(), |(_, to)| to.trim_end_matches('>'));
    let seconds = (Timestamp::now().microseconds() / 1_000_000).to_string();
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let tag = hmac::sign(&key, format!("{seconds}once").as_bytes());
    let body = json!({
        "signature": { "timestamp": seconds, "token": "once",
            "signature": HEXLOWER.encode(tag.as_ref()) },
        "event-data": { "event": "failed", "severity": "permanent", "recipient": to,
            "timestamp": seconds.parse::<f64>().unwrap(), "user-variables": variables,
            "message": { "headers": { "message-id": "20261122.1@mg.example.com" } },
            "delivery-status": { "code": 550, "enhanced-code": "5.1.1", "message": "no such user" } },
    });
    let request = reqwest::Client::new().post(daemon.url("/hooks/own")).json(&body);
    let answer: Value = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(answer["outcomes"]["suppressed"], 1, "{answer}");
    let shown = scene.house.run(&["subscriber", "show", to, "--json"]).json();
    assert_eq!(shown["suppression"]["reason"], "bounce", "{shown}");
}
