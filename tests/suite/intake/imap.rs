//! A mailbox at Dovecot, over IMAP.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    path::Path,
    time::Instant,
};

use serde_json::Value;

use super::{
    FULL, GONE, Sent,
    dovecot::{Dovecot, PASSWORD, USER},
    holds, letter, mails, names,
    proxy::{Plan, Proxy},
};
use crate::harness::until;

/// A block for the mailbox, with more in it.
fn block(host: &str, port: u16, tls: &str, more: &str) -> String {
    let password = PASSWORD.replace('"', "\\\"");
    format!(
        "[[bounces.mailbox]]\nname = \"returns\"\nkind = \"imap\"\nhost = \"{host}\"\n\
         port = {port}\ntls = \"{tls}\"\nusername = \"{USER}\"\n\
         {more}\n"
    ) + &if more.contains("password") {
        String::new()
    } else {
        format!("password = \"{password}\"\n")
    }
}

/// In the clear, on this machine.
fn plain(port: u16, more: &str) -> String {
    block("127.0.0.1", port, "none", more)
}

fn encrypted(port: u16, tls: &str, ca: &Path, more: &str) -> String {
    block("localhost", port, tls, &format!("ca_file = \"{}\"\n{more}", ca.display()))
}

#[tokio::test]
async fn a_report_is_handled_as_it_comes_and_other_mail_is_left_alone() {
    let Some(dovecot) = Dovecot::start().await else { return };
    dovecot.deliver(&letter());
    // With an hour between looks only IDLE can tell.
    let config = encrypted(dovecot.imaps, "implicit", &dovecot.ca_file(), "poll = \"1h\"");
    let mut sent = Sent::to(4, "", &config).await;
    let handled = dovecot.folder("postrider-handled");
    until("the letter is left", async || {
        let left =
            sent.metric("postrider_mailbox_mails_total{mailbox=\"returns\",result=\"left\"}");
        (left.await == Some(1.0)).then_some(())
    })
    .await;
    for (number, words) in [(0, GONE), (1, FULL)] {
        dovecot.deliver(&sent.report(number, words));
        holds(&handled, number + 1).await;
    }
    assert!(sent.is_suppressed(0) && !sent.is_suppressed(1));
    // What is too large is read by its start, and put aside.
    dovecot.deliver(&(sent.report(2, GONE) + &"x".repeat(76).repeat(80_000)));
    holds(&dovecot.folder("postrider-aside"), 1).await;
    assert!(sent.is_suppressed(2));
    // The same report again counts nothing again.
    dovecot.deliver(&sent.report(1, FULL));
    holds(&handled, 3).await;
    assert_eq!(sent.received("imap returns", "counted").await, 1);
    assert_eq!(sent.received("imap returns", "repeated").await, 1);
    // A mail is in its new folder a moment before it is out of the old one.
    holds(&dovecot.mailbox(), 1).await;

    let [letter] = <[String; 1]>::try_from(names(&dovecot.mailbox())).unwrap();
    let flags = letter.split(":2,").nth(1).unwrap_or_default();
    assert!(!flags.contains('S'), "{letter} was marked as read");
    assert_eq!(sent.received("imap returns", "nothing").await, 1, "it was looked at once");
    let shown = sent.run(&["bounce", "list", "--kind", "not_a_report"]);
    assert_eq!((&shown[0]["octets"], &shown[0]["mail_from"]), (&0.into(), &"".into()), "{shown}");
    assert_eq!(sent.metric("postrider_mailbox_up{").await, Some(1.0));
    assert!(sent.metric("postrider_mailbox_last_success_timestamp_seconds{").await > Some(1.7e9));

    let checked = sent.run(&["bounce", "fetch", "--check"]);
    assert_eq!((&checked[0]["mails"], &checked[0]["problem"]), (&1.into(), &Value::Null));
    let doctor = sent.scene.house.run(&["doctor"]);
    assert!(doctor.stdout.contains("returns at localhost"), "{}", doctor.stdout);
    assert!(doctor.stdout.contains("can be read: 1 mail"), "{}", doctor.stdout);
    sent.terminate();
    // Without a daemon it is done by hand.
    dovecot.deliver(&sent.report(3, GONE));
    let by_hand = sent.run(&["bounce", "fetch", "returns"]);
    assert_eq!(
        (&by_hand[0]["fetched"], &by_hand[0]["handled"]),
        (&1.into(), &1.into()),
        "{by_hand}"
    );
    assert!(sent.is_suppressed(3));
    assert!(!sent.scene.house.run(&["bounce", "fetch", "other"]).fails(1).is_empty());
}

#[tokio::test]
async fn a_server_without_extensions_and_a_mailbox_of_our_own() {
    let Some(dovecot) = Dovecot::with("imap_capability = IMAP4rev1").await else { return };
    let more =
        "others = \"move\"\nhandled = \"delete\"\npoll = \"100ms\"\naside_folder = \"Übriges\"";
    let config = encrypted(dovecot.imap, "starttls", &dovecot.ca_file(), more);
    let mut sent = Sent::to(2, "", &config).await;
    dovecot.deliver(&letter());
    dovecot.deliver(&sent.report(0, GONE));
    dovecot.deliver(&sent.report(1, FULL));
    holds(&dovecot.folder("&ANw-briges"), 1).await;
    sent.suppresses(0).await;
    holds(&dovecot.mailbox(), 0).await;
    assert!(!dovecot.folder("postrider-handled").exists());
    sent.terminate();

    // Encryption that is asked for is never skipped, and not everybody's certificate will do.
    let file = sent.scene.house.path("config.toml");
    let config = fs::read_to_string(&file).unwrap();
    let ca = format!("ca_file = \"{}\"", dovecot.ca_file().display());
    fs::write(&file, config.replace(&ca, "")).unwrap();
    let refused = sent.scene.house.run(&["bounce", "fetch", "--check"]).fails(3);
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    assert!(!dovecot.log().contains("password"), "{}", dovecot.log());
}

#[tokio::test]
async fn a_wrong_password_is_told_once_and_a_right_one_is_taken_at_once() {
    let Some(dovecot) = Dovecot::start().await else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    fs::write(&file, "not the right one\n").unwrap();
    let password = format!("password = {{ file = \"{}\" }}\npoll = \"100ms\"", file.display());
    let config = plain(dovecot.imap, &password);
    let mut sent = Sent::with(2, "", &config, crate::harness::Daemon::expect_errors).await;
    dovecot.deliver(&sent.report(0, GONE));
    let failures = "postrider_mailbox_failures_total{mailbox=\"returns\"}";
    until("the failure is counted", async || sent.metric(failures).await.filter(|n| *n > 0.0))
        .await;
    let doctor = sent.scene.house.run(&["doctor"]);
    assert!(doctor.stdout.contains("the login was refused"), "{}", doctor.stdout);
    sent.scene.house.run(&["bounce", "fetch"]).fails(3);
    let told = || {
        let log = sent.daemon().log();
        log.lines().filter(|line| line.contains("the login was refused")).count()
    };
    assert_eq!((told(), sent.metric("postrider_mailbox_up{").await), (1, Some(0.0)));
    assert!(!sent.is_suppressed(0));

    // In one step: half a password is another wrong one.
    let right = folder.path().join("right");
    fs::write(&right, PASSWORD).unwrap();
    fs::rename(&right, &file).unwrap();
    sent.suppresses(0).await;
    assert_eq!((told(), sent.metric(failures).await), (1, Some(1.0)), "it did not ask in between");
    assert_eq!(sent.metric("postrider_mailbox_up{").await, Some(1.0));
    let log = sent.daemon().log();
    assert!(!log.contains(PASSWORD) && !log.contains("not the right one"), "{log}");
    sent.terminate();
}

#[tokio::test]
async fn connections_that_break_and_mails_that_vanish_lose_nothing() {
    let Some(mut dovecot) = Dovecot::start().await else { return };
    let proxy = Proxy::before(dovecot.imap, "BODY.PEEK").await;
    let mut sent = Sent::to(24, "", &plain(proxy.port, "poll = \"200ms\"")).await;
    let handled = dovecot.folder("postrider-handled");
    // In the middle of one of several mails.
    proxy.plan(Plan::CutAfter(2_500));
    sent.daemon.as_mut().unwrap().signal("STOP");
    (0..8).for_each(|number| dovecot.deliver(&sent.report(number, FULL)));
    sent.daemon.as_mut().unwrap().signal("CONT");
    holds(&handled, 8).await;
    assert!(proxy.is_done() && proxy.connections() > 1);
    assert!(sent.daemon().log().contains("the connection was lost"), "{}", sent.daemon().log());
    // Whole mails that had come before the cut were not fetched again.
    assert_eq!(sent.received("imap returns", "counted").await, 8);
    assert_eq!(sent.received("imap returns", "repeated").await, 0);

    // Somebody else deletes some between the list and the fetch.
    let port = dovecot.imap;
    proxy.plan(Plan::Before(Box::new(move || delete_the_first(port))));
    sent.daemon.as_mut().unwrap().signal("STOP");
    (8..14).for_each(|number| dovecot.deliver(&sent.report(number, FULL)));
    sent.daemon.as_mut().unwrap().signal("CONT");
    until("somebody deleted mails", async || proxy.is_done().then_some(())).await;
    holds(&dovecot.mailbox(), 0).await;
    assert!(mails(&handled) < 14, "nothing vanished");

    // The server goes and comes back.
    dovecot.stop();
    let lost = sent.daemon().log().matches("cannot be looked into now").count();
    until("the daemon sees it", async || {
        (sent.daemon().log().matches("cannot be looked into now").count() > lost).then_some(())
    })
    .await;
    (14..20).for_each(|number| dovecot.deliver(&sent.report(number, FULL)));
    dovecot.run().await;
    holds(&dovecot.mailbox(), 0).await;
    assert_eq!(sent.metric("postrider_mailbox_up{").await, Some(1.0));
    assert_eq!(sent.received("imap returns", "counted").await, 8 + 5 + 6);

    // A crash between applying and moving: what is applied is applied again, and counts once.
    proxy.plan(Plan::Pass);
    let again = mails(&handled);
    for name in names(&handled).into_iter().take(5) {
        let from = handled.join("cur").join(&name);
        let from = if from.exists() { from } else { handled.join("new").join(&name) };
        fs::rename(from, dovecot.mailbox().join("new").join(name.split(':').next().unwrap()))
            .unwrap();
    }
    holds(&handled, again).await;
    assert_eq!(sent.received("imap returns", "repeated").await, 5);
    sent.terminate();
}

/// Does what another client of the same person does.
fn delete_the_first(port: u16) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
    let password = PASSWORD.replace('"', "\\\"");
    let commands = [
        format!("LOGIN {USER} \"{password}\""),
        "SELECT INBOX".to_owned(),
        "STORE 1 +FLAGS (\\Deleted)".to_owned(),
        "EXPUNGE".to_owned(),
        "LOGOUT".to_owned(),
    ];
    for command in commands {
        stream.write_all(format!("x {command}\r\n").as_bytes()).unwrap();
        let answer = lines.find(|line| line.starts_with("x ")).unwrap();
        assert!(answer.starts_with("x OK"), "{command}: {answer}");
    }
}

#[tokio::test]
async fn five_thousand_mails_are_fetched_in_bounded_memory() {
    const MAILS: usize = 5_000;
    let Some(dovecot) = Dovecot::start().await else { return };
    let mut sent = Sent::to(50, "", "").await;
    sent.terminate();
    // Reports bring back what was sent: 20 KB each, 100 MB in all.
    let filler = "Every line of the issue came back with it, as some servers do.\r\n".repeat(300);
    for number in 0..MAILS {
        let mail = match number % 5 {
            0 => letter() + &filler,
            _ => sent.report(number % 50, FULL) + &filler,
        };
        dovecot.deliver(&mail);
    }
    let file = sent.scene.house.path("config.toml");
    let config = fs::read_to_string(&file).unwrap();
    fs::write(&file, config + &plain(dovecot.imap, "poll = \"100ms\"")).unwrap();
    let started = Instant::now();
    let mut daemon = crate::harness::Daemon::spawn(&sent.scene).await;
    let handled = dovecot.folder("postrider-handled");
    for part in 1..=10 {
        let count = MAILS / 5 * 4 / 10 * part;
        until(&format!("{count} are handled"), async || (mails(&handled) >= count).then_some(()))
            .await;
    }
    holds(&dovecot.mailbox(), MAILS / 5).await;
    let took = started.elapsed();
    println!("{MAILS} mails in {took:?}");
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.id())).unwrap();
    let high = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let kilobytes: u64 = high.split_whitespace().nth(1).unwrap().parse().unwrap();
    println!("{high}");
    assert!(kilobytes < 200 * 1024, "{high}");
    // Readers 0, 5, 10 … had letters in place of reports.
    assert_eq!(sent.received("imap returns", "counted").await, 40);
    daemon.terminate();
}
