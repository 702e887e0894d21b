//! The daemon with a real relay: Postfix takes the issue over STARTTLS and a login, delivers it to
//! maildirs, and returns what it cannot deliver. It is a Postfix of the test's own, see `instance`.

pub(crate) mod instance;
mod reader;

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use postrider::{db::state::IssueState, smtp::dkim::Signer};
use serde_json::Value;

use crate::{
    harness::{Daemon, ISSUE, QUICK, Scene, free_port, until},
    installation::{Installation, Ran},
};
use instance::{PASSWORD, Postfix, USER};

/// Who has a mailbox.
const READERS: [&str; 20] = [
    "ada", "bela", "carl", "dora", "emil", "finn", "gina", "hans", "ines", "jana", "kurt", "lena",
    "mara", "nils", "olga", "paul", "rosa", "sven", "tina", "uwe",
];
/// Who has none any more.
const GONE: &str = "gone@inbox.example";
const SIGNING: [(&str, &str); 2] = [
    ("rsa", include_str!("../keys/rsa2048-pkcs8.pem")),
    ("ed", include_str!("../keys/ed25519-pkcs8.pem")),
];

fn address(user: &str) -> String {
    format!("{user}@inbox.example")
}

/// Names as people have them, so that fields and bodies need every encoding.
fn name(user: &str) -> String {
    format!("{user} Müller-Łukasz, \"{user}\" 🦀")
}

/// An installation whose relay is `postfix`, with everybody of `READERS` and one who is gone.
fn scene(postfix: &Postfix, password: &str, ca_file: &Path) -> Scene {
    let house = Installation::empty();
    let port = free_port();
    let mut config = format!(
        "public_url = \"http://127.0.0.1:{port}/\"\n\
         [public]\nlisten = \"127.0.0.1:{port}\"\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n\
         [bounces]\nlisten = \"127.0.0.1:{}\"\n\
         [mail]\nbounce_domain = \"bounce.example\"\nmessage_id_domain = \"example.com\"\n\
         {QUICK}[[relay]]\nname = \"postfix\"\nhost = \"localhost\"\nport = {}\n\
         tls = \"starttls\"\nca_file = \"{}\"\n\
         username = \"{USER}\"\npassword = {{ file = \"password\" }}\nconnections = 4\n",
        postfix.bounces,
        postfix.port,
        ca_file.display(),
    );
    fs::write(house.path("password"), format!("{password}\n")).unwrap();
    for (selector, pem) in SIGNING {
        fs::write(house.path(&format!("{selector}.pem")), pem).unwrap();
        let _ = write!(
            config,
            "[[dkim]]\ndomain = \"example.com\"\nselector = \"{selector}\"\n\
             key_file = \"{selector}.pem\"\n"
        );
    }
    fs::write(house.path("config.toml"), config).unwrap();
    house.newsletter("sre");
    let scene = Scene { house, port, connections: 4 };
    let mut people = csv_line("address", "name") + &csv_line(GONE, "Nobody");
    for user in READERS {
        people += &csv_line(&address(user), &name(user));
    }
    scene.import_rows(&people);
    scene
}

fn csv_line(address: &str, name: &str) -> String {
    format!("{address},\"{}\"\n", name.replace('"', "\"\""))
}

/// Sends the sample issue, under the number that scenes look at.
fn send_sample(scene: &Scene) -> Ran {
    let sample = postrider::issue::SAMPLE;
    let text = sample.replacen("\nnumber: 12\n", &format!("\nnumber: {ISSUE}\n"), 1);
    assert_ne!(text, sample, "the sample issue has another number now");
    fs::write(scene.house.path("sample.md"), text).unwrap();
    let how = ["--yes", "--allow-warnings", "--undo-window", "0s", "--json"];
    scene.house.run(["issue", "send", "sample.md"].iter().chain(&how))
}

fn person(scene: &Scene, address: &str) -> Value {
    scene.house.run(&["subscriber", "show", address, "--json"]).json()
}

/// Waits until all mail is where it ends, and says what everybody has.
async fn everybody_has_one_copy(postfix: &Postfix) -> Vec<Vec<u8>> {
    until("Postfix is done with the issue", async || {
        (postfix.delivered() >= READERS.len() && postfix.is_done()).then_some(())
    })
    .await;
    let copy = |user: &&str| {
        let mut mails = postfix.mailbox(user);
        assert_eq!(mails.len(), 1, "copies for {user}");
        mails.remove(0)
    };
    let copies = READERS.iter().map(copy).collect();
    assert_eq!(postfix.delivered(), READERS.len());
    assert_eq!(postfix.logged(&["nothing leaves this machine"]), 0);
    copies
}

#[tokio::test]
async fn an_issue_through_postfix_arrives_once_signed_and_what_returns_counts() {
    let Some(postfix) = Postfix::start(&READERS) else { return };
    let scene = scene(&postfix, PASSWORD, &postfix.ca_file());
    let daemon = Daemon::spawn(&scene).await;
    let checked = scene.house.run(&["relay", "check", "--json"]).json();
    assert_eq!(
        (&checked[0]["encrypted"], &checked[0]["logged_in"], &checked[0]["server_name"]),
        (&true.into(), &true.into(), &"relay.example".into()),
        "{checked}"
    );

    send_sample(&scene).ok();
    scene.reaches(IssueState::Sent).await;
    let copies = everybody_has_one_copy(&postfix).await;

    // Every one of them came encrypted and after a login, and says so.
    let logins = ["client=unknown[127.0.0.1]", "sasl_method=", &format!("sasl_username={USER}")];
    postfix.logs(&logins, READERS.len() + 1).await;
    assert!(postfix.logged(&["TLS connection established from", "TLSv1.3"]) > 0);
    for copy in &copies {
        let text = String::from_utf8_lossy(copy);
        assert!(text.contains("by relay.example (Postfix) with ESMTPSA id"), "{text}");
    }
    if let Some(seen) = reader::read(&copies, &records()) {
        READERS.iter().zip(&seen).for_each(|(user, seen)| is_their_copy(user, seen));
        let mut senders: Vec<&str> = seen.iter().map(|seen| seen.header("Return-Path")).collect();
        senders.sort_unstable();
        senders.dedup();
        assert_eq!(senders.len(), READERS.len(), "an envelope sender of its own for each copy");
        leaving_works(&scene, &seen[3]).await;
    }
    the_one_who_is_gone_is_not_mailed_again(&scene, &postfix).await;
    daemon.terminate();
    its_log_settles_copies(&scene, &postfix).await;
}

fn records() -> BTreeMap<String, String> {
    let record =
        |(selector, pem)| Signer::from_pem("example.com", selector, pem).unwrap().dns_record();
    SIGNING.into_iter().map(record).map(|record| (record.name, record.value)).collect()
}

fn is_their_copy(user: &str, seen: &reader::Seen) {
    assert_eq!(seen.error, None, "{user}");
    assert_eq!(seen.dkim, [true, true], "{user}");
    assert_eq!(seen.to, (name(user), address(user)));
    assert_eq!(seen.header("Delivered-To"), address(user));
    assert!(seen.header("Message-ID").ends_with("@example.com>"), "{user}");
    let sender = seen.header("Return-Path");
    assert!(sender.starts_with("<b+") && sender.ends_with("@bounce.example>"), "{sender}");
    assert_eq!(seen.header("List-Unsubscribe-Post"), "List-Unsubscribe=One-Click");
    assert_eq!(seen.types, ["text/plain", "text/html"]);
    assert!(seen.bodies[0].contains(&format!("Hi {}", name(user))), "{}", seen.bodies[0]);
}

/// RFC 8058, section 3.1: the address in the field is posted to, with that one pair.
async fn leaving_works(scene: &Scene, seen: &reader::Seen) {
    let field = seen.header("List-Unsubscribe");
    let url = field.split(['<', '>']).find(|part| part.starts_with("http")).unwrap();
    let state = || person(scene, &seen.to.1)["subscriptions"][0]["state"].clone();
    assert_eq!(state(), "active");
    let body = [("List-Unsubscribe", "One-Click")];
    let answer = reqwest::Client::new().post(url).form(&body).send().await.unwrap();
    assert_eq!(answer.status(), 200, "{url}");
    assert_eq!(state(), "unsubscribed");
}

/// Had nobody seen a reply, the log of this Postfix would still tell every copy's fate.
async fn its_log_settles_copies(scene: &Scene, postfix: &Postfix) {
    let context = scene.context().await;
    let forget = "UPDATE delivery SET state = 5 WHERE state = 3";
    let forgotten = context.db.write(forget).execute().await.unwrap();
    assert_eq!(forgotten as usize, READERS.len() + 1);
    context.db.close().await;
    postfix.logs(&["@inbox.example>", "status=sent"], READERS.len()).await;
    postfix.logs(&["@inbox.example>", "status=bounced"], 1).await;
    fs::write(scene.house.path("mail.log"), postfix.log()).unwrap();
    let issue = ISSUE.to_string();
    let resolve = ["delivery", "resolve", "--issue", &issue, "--postfix-log", "mail.log", "--json"];
    let settled = scene.house.run(&resolve).json();
    let settled = settled.as_array().unwrap();
    assert_eq!(settled.len(), READERS.len() + 1);
    for copy in settled {
        let gone = copy["address"] == GONE;
        let expected = if gone { ("bounced", "rejected") } else { ("sent", "accepted") };
        let found = (&copy["evidence"]["fate"], &copy["becomes"]);
        assert_eq!(found, (&expected.0.into(), &expected.1.into()), "{copy}");
    }
    let left = scene.house.run(&["delivery", "uncertain", "--issue", &issue, "--json"]).json();
    assert_eq!(left.as_array().unwrap().len(), 0);
}

/// Postfix took the copy and returned it; the report led to its reader, and to nobody else.
async fn the_one_who_is_gone_is_not_mailed_again(scene: &Scene, postfix: &Postfix) {
    until("the report is applied", async || {
        (!person(scene, GONE)["suppression"].is_null()).then_some(())
    })
    .await;
    let gone = person(scene, GONE);
    assert_eq!(gone["suppression"]["reason"], "bounce", "{gone}");
    assert!(gone["suppression"]["detail"].as_str().unwrap().contains("unknown user"), "{gone}");
    postfix.logs(&["sender non-delivery notification"], 1).await;
    postfix.logs(&["to=<b+", "@bounce.example>", "status=sent"], 1).await;
    for user in READERS {
        let person = person(scene, &address(user));
        assert!(person["suppression"].is_null(), "{person}");
    }
    let status = scene.status();
    assert_eq!(status["audience"], READERS.len() + 1, "{status}");
    assert_eq!(status["equation"]["accepted"], READERS.len() + 1, "{status}");
    assert_eq!(status["holds"], true, "{status}");
    let bounced = scene.house.run(&["delivery", "log", "--outcome", "bounced", "--json"]).ok();
    let line: Value = serde_json::from_str(bounced.trim_end()).unwrap();
    assert_eq!((&line["address"], &line["issue"]), (&GONE.into(), &ISSUE.into()), "{line}");
    assert_eq!(line["enhanced"], "5.1.1", "{line}");
}

#[tokio::test]
async fn reports_come_back_over_lmtp() {
    let Some(postfix) = Postfix::returning_by("lmtp", &READERS) else { return };
    let scene = scene(&postfix, PASSWORD, &postfix.ca_file());
    let config = fs::read_to_string(scene.house.path("config.toml")).unwrap();
    let listen = format!("listen = \"127.0.0.1:{}\"", postfix.bounces);
    let lmtp = config.replace(&listen, &format!("listen = \"127.0.0.1:0\"\nlmtp_{listen}"));
    assert_ne!(lmtp, config);
    fs::write(scene.house.path("config.toml"), lmtp).unwrap();
    let daemon = Daemon::spawn(&scene).await;
    send_sample(&scene).ok();
    scene.reaches(IssueState::Sent).await;
    everybody_has_one_copy(&postfix).await;
    the_one_who_is_gone_is_not_mailed_again(&scene, &postfix).await;
    postfix.logs(&["postfix/lmtp", "status=sent"], 1).await;
    let source = scene.house.run(&["bounce", "list", "--json"]).json();
    assert_eq!(source[0]["source"], "lmtp 127.0.0.1", "{source}");
    daemon.terminate();
}

#[tokio::test]
async fn a_refused_login_halts_and_the_send_goes_on_once_it_works() {
    let Some(postfix) = Postfix::start(&READERS) else { return };
    let scene = scene(&postfix, "another password", &postfix.ca_file());
    let daemon = Daemon::spawn(&scene).await;
    send_sample(&scene).ok();
    scene.reaches(IssueState::Halted).await;
    let refused = || postfix.logged(&["SASL", "authentication failed", "sasl_username="]);
    let first = until("the refusal is logged", async || Some(refused()).filter(|n| *n > 0)).await;
    is_halted_by_the_login(&scene);

    // A person who lets it go on too early learns that from the relay, not from our memory.
    let go_on = || scene.issue("resume", &["--yes", "--reason", "the password is set"]);
    go_on();
    scene.reaches(IssueState::Halted).await;
    until("the login is tried again", async || (refused() > first).then_some(())).await;
    is_halted_by_the_login(&scene);
    assert_eq!(postfix.logged(&["sasl_method="]), 0, "{}", postfix.log());

    // No restart: the relay has the password now.
    postfix.set_password("another password");
    go_on();
    scene.reaches(IssueState::Sent).await;
    everybody_has_one_copy(&postfix).await;
    assert!(!daemon.log().contains("another password"), "{}", daemon.log());
    daemon.terminate();
}

fn is_halted_by_the_login(scene: &Scene) {
    let status = scene.status();
    assert_eq!(status["halt"]["gate"], "relay_login", "{status}");
    let reply = status["halt"]["replies"][0].as_str().unwrap();
    assert!(reply.contains("535"), "{reply}");
    nothing_left(&status);
}

/// Every copy of the audience is still to be sent.
fn nothing_left(status: &Value) {
    assert_eq!(status["audience"], READERS.len() + 1, "{status}");
    assert_eq!(status["holds"], true, "{status}");
    let copies = &status["equation"];
    let number = |state: &str| copies[state].as_u64().unwrap();
    for state in ["accepted", "rejected", "uncertain", "skipped", "expired", "cancelled"] {
        assert_eq!(number(state), 0, "{state}: {copies}");
    }
}

#[tokio::test]
async fn a_relay_that_nobody_vouches_for_gets_no_mail_and_no_password() {
    let Some(postfix) = Postfix::start(&READERS) else { return };
    let other_ca = postfix.ca_file().with_file_name("other.pem");
    fs::write(&other_ca, instance::authority("Another root").0).unwrap();
    let scene = scene(&postfix, PASSWORD, &other_ca);
    let daemon = Daemon::spawn(&scene).await;
    send_sample(&scene).ok();
    // The rests between its tries grow: a few of them show that it neither gives in nor gives up.
    let refusals = || {
        let log = daemon.log();
        let told = log.lines().filter(|line| line.contains("a relay cannot be used"));
        told.map(str::to_owned).collect::<Vec<_>>()
    };
    let told = until("three tries", async || Some(refusals()).filter(|told| told.len() >= 3)).await;
    for line in told {
        let clear = line.contains("relay=postfix") && line.contains("certificate");
        assert!(clear && line.contains("UnknownIssuer"), "{line}");
    }
    let error = scene.house.run(&["relay", "check"]).fails(3);
    assert!(error.contains("certificate") && error.contains("UnknownIssuer"), "{error}");
    for word in ["sasl_method=", "sasl_username=", "client="] {
        assert_eq!(postfix.logged(&[word]), 0, "{}", postfix.log());
    }
    let status = scene.status();
    assert_eq!(status["state"], "sending", "{status}");
    nothing_left(&status);
    daemon.terminate();

    fs::copy(postfix.ca_file(), &other_ca).unwrap();
    let daemon = Daemon::spawn(&scene).await;
    scene.reaches(IssueState::Sent).await;
    everybody_has_one_copy(&postfix).await;
    daemon.terminate();
}
