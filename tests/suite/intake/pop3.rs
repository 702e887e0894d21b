//! A mailbox at Dovecot, over POP3.

use std::{fs, process::Command};

use super::{
    FULL, GONE, Sent,
    dovecot::{Dovecot, PASSWORD, USER},
    holds, letter, mails,
    proxy::{Plan, Proxy},
};
use crate::harness::{Daemon, until};

fn block(port: u16, more: &str) -> String {
    let password = PASSWORD.replace('"', "\\\"");
    format!(
        "[[bounces.mailbox]]\nname = \"returns\"\nkind = \"pop3\"\nhost = \"localhost\"\n\
         port = {port}\nusername = \"{USER}\"\npassword = \"{password}\"\npoll = \"100ms\"\n{more}\n"
    )
}

#[tokio::test]
async fn only_what_was_handled_is_deleted() {
    let Some(dovecot) = Dovecot::start().await else { return };
    let ca = format!("ca_file = \"{}\"\n", dovecot.ca_file().display());
    let mut sent = Sent::to(4, "", &block(dovecot.pop3, &format!("{ca}tls = \"starttls\""))).await;
    dovecot.deliver(&letter());
    dovecot.deliver(&sent.report(0, GONE));
    dovecot.deliver(&sent.report(1, FULL));
    sent.suppresses(0).await;
    holds(&dovecot.mailbox(), 1).await;
    // What is too large is read by its start, and stays: there is nowhere else for it to go.
    dovecot.deliver(&(sent.report(2, GONE) + &format!("{}\r\n", "x".repeat(76)).repeat(80_000)));
    sent.suppresses(2).await;
    until("it is left", async || {
        let left =
            sent.metric("postrider_mailbox_mails_total{mailbox=\"returns\",result=\"left\"}");
        (left.await == Some(2.0)).then_some(())
    })
    .await;
    assert_eq!(mails(&dovecot.mailbox()), 2);
    sent.terminate();

    let file = sent.scene.house.path("config.toml");
    let config = fs::read_to_string(&file).unwrap();
    let port = |port: u16| format!("port = {port}\n");
    let implicit = config
        .replace(&port(dovecot.pop3), &port(dovecot.pop3s))
        .replace("tls = \"starttls\"", "tls = \"implicit\"");
    fs::write(&file, &implicit).unwrap();
    dovecot.deliver(&sent.report(3, GONE));
    let by_hand = sent.run(&["bounce", "fetch"]);
    let counts = ["fetched", "handled", "left"].map(|name| by_hand[0][name].as_u64());
    assert_eq!(counts, [Some(1), Some(1), Some(0)], "{by_hand}");
    assert_eq!(sent.received("pop3 returns", "nothing").await, 1, "the letter was looked at once");
    let checked = sent.run(&["bounce", "fetch", "--check"]);
    assert_eq!(checked[0]["mails"], 2, "{checked}");

    let password = PASSWORD.replace('"', "\\\"");
    fs::write(&file, implicit.replace(&password, "another")).unwrap();
    let refused = sent.scene.house.run(&["bounce", "fetch"]).fails(3);
    assert!(refused.contains("the login was refused"), "{refused}");
    // The rest is deleted when it is said so.
    let poll = "poll = \"100ms\"\n";
    let others = format!("{poll}others = \"delete\"\n");
    fs::write(&file, implicit.replace(poll, &others)).unwrap();
    let again = sent.run(&["bounce", "fetch", "--again"]);
    assert_eq!(again[0]["aside"], 1, "{again}");
    assert_eq!(mails(&dovecot.mailbox()), 1, "what cannot be read is never deleted");
}

#[tokio::test]
async fn a_session_that_breaks_before_its_end_loses_nothing_and_repeats_nothing() {
    let Some(mut dovecot) = Dovecot::start().await else { return };
    let proxy = Proxy::before(dovecot.pop3, "RETR 4").await;
    let mut sent = Sent::to(8, "", &block(proxy.port, "tls = \"none\"")).await;
    proxy.plan(Plan::CutAfter(300));
    dovecot.stop();
    (0..6).for_each(|number| dovecot.deliver(&sent.report(number, FULL)));
    dovecot.run().await;
    holds(&dovecot.mailbox(), 0).await;
    assert!(proxy.is_done());
    assert!(sent.daemon().log().contains("the connection was lost"), "{}", sent.daemon().log());
    assert_eq!(sent.received("pop3 returns", "counted").await, 6);
    assert_eq!(sent.received("pop3 returns", "repeated").await, 0);
    // A daemon that dies in a session has deleted nothing; the next one counts nothing twice.
    sent.terminate();
    let deadly = Proxy::before(dovecot.pop3, "DELE").await;
    let file = sent.scene.house.path("config.toml");
    let config = fs::read_to_string(&file).unwrap();
    let port = |port: u16| format!("port = {port}\n");
    fs::write(&file, config.replace(&port(proxy.port), &port(deadly.port))).unwrap();
    let mut daemon = Daemon::spawn(&sent.scene).await;
    let id = daemon.id().to_string();
    deadly.plan(Plan::InPlace(Box::new(move || {
        assert!(Command::new("kill").args(["-9", &id]).status().unwrap().success());
    })));
    dovecot.deliver(&sent.report(6, FULL));
    until("the daemon is killed", async || deadly.is_done().then_some(())).await;
    daemon.kill();
    assert_eq!(mails(&dovecot.mailbox()), 1);
    let daemon = Daemon::spawn(&sent.scene).await;
    holds(&dovecot.mailbox(), 0).await;
    assert_eq!(sent.received("pop3 returns", "counted").await, 7);
    assert_eq!(sent.received("pop3 returns", "repeated").await, 1);
    daemon.terminate();
}
