//! The sink from outside.

mod misbehaviour;

use crate::smtp::server::{Then, dialogue::Dialogue};

use super::{
    faults::{
        FaultStage,
        profile::{Rule, RuleShape},
    },
    journal::{Phase, Verdict},
    *,
};

const MAIL: &str =
    "From: SRE <sre@example.org>\r\nSubject: Hello\r\nMessage-ID: <1@example.org>\r\n\r\nHi\r\n";
const PATIENCE: Duration = Duration::from_mins(2);

async fn start(config: SinkConfig) -> Sink {
    Sink::start(config, CancellationToken::new()).await.unwrap()
}

#[tokio::test]
async fn mail_lands_in_the_mailbox() {
    let sink = start(SinkConfig::default()).await;
    let mut client = Dialogue::greeted(sink.smtp_addr).await;
    assert!(client.send("ada@example.org", MAIL).await.starts_with("250"));
    // The message is there before its reply is.
    let message = sink.mailbox().get(1).unwrap();
    assert_eq!(message.subject, "Hello");
    assert_eq!(message.from, "SRE <sre@example.org>");
    assert_eq!(message.rcpt_to, ["ada@example.org"]);
    assert_eq!(message.raw, MAIL.as_bytes());
    let stats = sink.stats();
    assert_eq!((stats.accepted, stats.recipients, stats.held), (1, 1, 1));
}

#[tokio::test]
async fn the_journal_has_the_line_before_the_reply() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let sink = start(SinkConfig { journal: Some(path.clone()), ..SinkConfig::default() }).await;
    let mut client = Dialogue::greeted(sink.smtp_addr).await;
    for count in 1..=20 {
        client.send("ada@example.org", MAIL).await;
        assert_eq!(journal::read(&path).unwrap().len(), count);
    }
    let record = &journal::read(&path).unwrap()[0];
    assert_eq!((record.verdict, record.phase), (Verdict::Accepted, Phase::Dot));
    assert_eq!(record.message_id.as_deref(), Some("1@example.org"));
    assert_eq!(record.mail_from, "b+1@bounce.example");
    assert_eq!(record.rcpt_to, ["ada@example.org"]);
    assert_eq!(record.sha256.as_ref().unwrap().len(), 64);
    // What is broken off is on record too.
    client.ask("MAIL FROM:<b@bounce.example>\r\n", 250).await;
    client.ask("RCPT TO:<ada@example.org>\r\n", 250).await;
    client.ask("DATA\r\n", 354).await;
    client.say(MAIL).await;
    drop(client);
    sink.wait_for(PATIENCE, |stats| stats.broken == 1).await.unwrap();
    let last = journal::read(&path).unwrap().pop().unwrap();
    assert_eq!((last.verdict, last.phase, last.reply_sent), (Verdict::Aborted, Phase::Body, false));
}

#[tokio::test]
async fn without_a_journal_nothing_is_accepted() {
    // Every write to it fails with "no space left".
    let full = PathBuf::from("/dev/full");
    if !full.exists() {
        crate::skip::skipped("this system has no /dev/full");
        return;
    }
    let sink = start(SinkConfig { journal: Some(full), ..SinkConfig::default() }).await;
    let mut client = Dialogue::greeted(sink.smtp_addr).await;
    assert!(client.send("ada@example.org", MAIL).await.starts_with("452"));
    assert!(sink.mailbox().is_empty());
}

#[tokio::test]
async fn discarding_counts_and_keeps_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let config = SinkConfig { discard: true, journal: Some(path.clone()), ..SinkConfig::default() };
    let sink = start(config).await;
    let mut client = Dialogue::greeted(sink.smtp_addr).await;
    client.send("ada@example.org", MAIL).await;
    let stats = sink.stats();
    assert_eq!((stats.accepted, stats.held), (1, 0));
    assert_eq!(stats.accepted_bytes, MAIL.len() as u64);
    let record = &journal::read(&path).unwrap()[0];
    assert_eq!(record.message_id.as_deref(), Some("1@example.org"));
    assert_eq!(record.sha256, None);
}

async fn get(sink: &Sink, path: &str) -> reqwest::Response {
    reqwest::get(format!("http://{}{path}", sink.http_addr.unwrap())).await.unwrap()
}

#[tokio::test]
async fn the_api_lists_and_shows_messages() {
    let sink = start(SinkConfig::default()).await;
    let mut client = Dialogue::greeted(sink.smtp_addr).await;
    client.send("ada@example.org", MAIL).await;
    let confirm = "Subject: Confirm\r\n\r\nhttps://example.org/confirm?t=1\r\n";
    client.send("bob@example.org", confirm).await;
    let list: serde_json::Value =
        get(&sink, "/api/messages?to=bob&limit=5").await.json().await.unwrap();
    assert_eq!(list["messages"].as_array().unwrap().len(), 1);
    assert_eq!(list["messages"][0]["subject"], "Confirm");
    let detail: serde_json::Value = get(&sink, "/api/messages/2").await.json().await.unwrap();
    assert_eq!(detail["links"][0], "https://example.org/confirm?t=1");
    assert_eq!(detail["rcpt_to"][0], "bob@example.org");
    assert_eq!(get(&sink, "/api/messages/2/raw").await.text().await.unwrap(), confirm);
    assert_eq!(get(&sink, "/api/messages/9").await.status(), 404);
    let stats: SinkStats = get(&sink, "/api/stats").await.json().await.unwrap();
    assert_eq!(stats, sink.stats());
    let url = format!("http://{}/api/messages", sink.http_addr.unwrap());
    reqwest::Client::new().delete(url).send().await.unwrap();
    assert!(sink.mailbox().is_empty());
}

#[tokio::test]
async fn the_inbox_shows_html_in_a_sandbox() {
    let sink = start(SinkConfig::default()).await;
    let mut client = Dialogue::greeted(sink.smtp_addr).await;
    let mail =
        "Subject: <b>x</b>\r\nContent-Type: text/html\r\n\r\n<p>Hi<script>alert(1)</script>\r\n";
    client.send("ada@example.org", mail).await;
    let page = get(&sink, "/").await;
    assert!(
        page.headers()["content-security-policy"].to_str().unwrap().contains("default-src 'none'")
    );
    assert!(page.text().await.unwrap().contains("&lt;b&gt;x&lt;/b&gt;"));
    let page = get(&sink, "/messages/1").await.text().await.unwrap();
    assert!(page.contains("<iframe") && page.contains("sandbox=\"allow-popups"));
    assert!(!page.contains("<script"));
    let html = get(&sink, "/messages/1/html").await;
    let policy = html.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.contains("sandbox") && !policy.contains("allow-scripts"), "{policy}");
    assert!(policy.contains("default-src 'none'"));
}

#[tokio::test]
async fn other_sites_cannot_reach_the_inbox() {
    let sink = start(SinkConfig::default()).await;
    let client = reqwest::Client::new();
    let url = format!("http://{}/api/messages", sink.http_addr.unwrap());
    let rebound = client.get(&url).header("host", "evil.example").send().await.unwrap();
    assert_eq!(rebound.status(), 421);
    let clear = format!("http://{}/clear", sink.http_addr.unwrap());
    let forged = client.post(&clear).header("sec-fetch-site", "cross-site").send().await.unwrap();
    assert_eq!(forged.status(), 403);
}

#[tokio::test]
async fn a_taken_address_is_named() {
    let first = start(SinkConfig::default()).await;
    let config = SinkConfig { smtp: first.smtp_addr, ..SinkConfig::default() };
    let error = Sink::start(config, CancellationToken::new()).await.unwrap_err().to_string();
    assert!(error.contains(&first.smtp_addr.to_string()), "{error}");
}

#[tokio::test]
async fn shutdown_ends_it() {
    let shutdown = CancellationToken::new();
    let sink = Sink::start(SinkConfig::default(), shutdown.clone()).await.unwrap();
    let mut client = Dialogue::greeted(sink.smtp_addr).await;
    shutdown.cancel();
    client.expect(421).await;
    drop(client);
    sink.stopped().await;
}

#[tokio::test]
async fn faults_can_be_set_while_it_runs() {
    let sink = start(SinkConfig::default()).await;
    let mut client = Dialogue::greeted(sink.smtp_addr).await;
    assert!(client.send("ada@example.org", MAIL).await.starts_with("250"));
    let rule = Rule { reply: Some("451 4.3.0 later".into()), ..Rule::at(FaultStage::Dot) };
    sink.set_faults(&Profile { rules: vec![rule], ..Profile::default() }).unwrap();
    assert_eq!(client.send("ada@example.org", MAIL).await, "451 4.3.0 later\r\n");
    assert_eq!(sink.stats().deferred, 1);
    sink.set_faults(&Profile::default()).unwrap();
    assert!(client.send("ada@example.org", MAIL).await.starts_with("250"));
}

#[tokio::test]
async fn magic_names_work() {
    let sink = start(SinkConfig::default()).await;
    let mut client = Dialogue::greeted(sink.smtp_addr).await;
    client.ask("MAIL FROM:<b@bounce.example>\r\n", 250).await;
    client.ask("RCPT TO:<reject-550-5.1.1@example.org>\r\n", 550).await;
    client.ask("RCPT TO:<defer-2x@example.org>\r\n", 451).await;
    client.ask("RCPT TO:<defer-2x@example.org>\r\n", 451).await;
    client.ask("RCPT TO:<defer-2x@example.org>\r\n", 250).await;
    client.ask("RSET\r\n", 250).await;
    assert!(client.send("dot-554@example.org", MAIL).await.starts_with("554 5.0.0"));
    assert_eq!(client.send("lost@example.org", MAIL).await, "");
    assert_eq!(sink.stats().accepted, 1);
    let mut client = Dialogue::greeted(sink.smtp_addr).await;
    assert_eq!(client.send("drop@example.org", MAIL).await, "");
    assert_eq!((sink.stats().accepted, sink.stats().broken), (1, 1));
}

#[tokio::test]
async fn bounces_and_complaints_come_back() {
    // A second sink takes them in.
    let intake = start(SinkConfig::default()).await;
    let config = SinkConfig { returns_to: Some(intake.smtp_addr), ..SinkConfig::default() };
    let sink = start(config).await;
    let mut client = Dialogue::greeted(sink.smtp_addr).await;
    assert!(client.send("bounce-5.2.2@example.org", MAIL).await.starts_with("250"));
    assert!(client.send("complain@example.org", MAIL).await.starts_with("250"));
    intake.wait_for(PATIENCE, |stats| stats.accepted == 2).await.unwrap();
    let bounce = intake.mailbox().get(1).unwrap();
    assert_eq!((bounce.mail_from.as_str(), bounce.rcpt_to[0].as_str()), ("", "b+1@bounce.example"));
    let text = String::from_utf8(bounce.raw.clone()).unwrap();
    assert!(text.contains("report-type=delivery-status") && text.contains("Status: 5.2.2"));
    assert!(text.contains("Message-ID: <1@example.org>"));
    let complaint = intake.mailbox().get(2).unwrap();
    assert!(String::from_utf8(complaint.raw.clone()).unwrap().contains("Feedback-Type: abuse"));
    sink.wait_for(PATIENCE, |stats| stats.returned == 2).await.unwrap();
}

/// What a client hears when `rule` strikes at the dot, up to the end of the connection or of the
/// reply to a `NOOP` that follows.
#[tokio::test]
async fn a_dialogue_in_single_bytes_is_the_same_dialogue() {
    let sink = start(SinkConfig::default()).await;
    let mut client = Dialogue::connect(sink.smtp_addr).await;
    client.expect(220).await;
    let one = "MAIL FROM:<>\r\nRCPT TO:<ada@example.org>\r\nDATA\r\n..a\r\n\r\n.\n.\r\n.\r\n";
    for byte in format!("EHLO x\r\n{one}{one}QUIT\r\n").bytes() {
        client.say([byte]).await;
    }
    for code in [250, 250, 250, 354, 250, 250, 250, 354, 250, 221] {
        client.expect(code).await;
    }
    for id in [1, 2] {
        assert_eq!(sink.mailbox().get(id).unwrap().raw, b".a\r\n\r\n\n.\r\n");
    }
}

#[tokio::test]
async fn postfixs_load_generator_gets_every_message_in() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    let config = SinkConfig { journal: Some(path.clone()), ..SinkConfig::default() };
    let sink = start(config).await;
    let status = tokio::process::Command::new("smtp-source")
        .env("PATH", "/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")
        .args(["-d", "-s", "8", "-l", "5000", "-m", "500", "-f", "a@example.org"])
        .args(["-t", "b@example.org", &sink.smtp_addr.to_string()])
        .status()
        .await;
    let Ok(status) = status else {
        crate::skip::skipped("smtp-source is not installed");
        return;
    };
    assert!(status.success());
    let stats = sink.stats();
    assert_eq!((stats.accepted, stats.broken, stats.connections_peak), (500, 0, 8));
    let records = journal::read(&path).unwrap();
    assert_eq!(records.len(), 500);
    let ids: std::collections::HashSet<_> =
        records.iter().map(|record| &record.message_id).collect();
    assert_eq!(ids.len(), 500);
    assert!(records.iter().all(|record| record.verdict == Verdict::Accepted));
}

#[tokio::test]
async fn the_unsubscribe_button_posts_to_its_sender_only() {
    // A second sink stands in for the sender: its emptying is a POST that leaves a trace.
    let sender = start(SinkConfig::default()).await;
    let mut client = Dialogue::greeted(sender.smtp_addr).await;
    client.send("ada@example.org", MAIL).await;
    let base = format!("http://{}/", sender.http_addr.unwrap());
    let one_click_base = Some(base.parse().unwrap());
    let sink = start(SinkConfig { one_click_base, ..SinkConfig::default() }).await;
    let mut client = Dialogue::greeted(sink.smtp_addr).await;
    let fields = "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n";
    let own = format!("List-Unsubscribe: <{base}clear>\r\n{fields}{MAIL}");
    client.send("ada@example.org", own).await;
    client
        .send(
            "ada@example.org",
            format!("List-Unsubscribe: <http://127.0.0.1:9/>\r\n{fields}{MAIL}"),
        )
        .await;
    assert!(
        !get(&sink, "/messages/2").await.text().await.unwrap().contains("Unsubscribe</button>")
    );
    assert!(get(&sink, "/messages/1").await.text().await.unwrap().contains("Unsubscribe</button>"));
    let press = |id: u64| {
        let url = format!("http://{}/messages/{id}/leave", sink.http_addr.unwrap());
        async { reqwest::Client::new().post(url).send().await.unwrap() }
    };
    assert_eq!(press(2).await.status(), 404);
    let page = press(1).await.text().await.unwrap();
    assert!(page.contains("the sender answered 303"), "{page}");
    assert!(sender.mailbox().is_empty());
}
