//! `postrider backup` and `restore`.

use std::fs;

use postrider::sink::{Sink, SinkConfig};
use tokio_util::sync::CancellationToken;

use crate::installation::{Installation, eventually, is_private, settled};

fn add(house: &Installation, address: &str) {
    let source = ["--consent-source", "form"];
    house.run(["subscriber", "add", address, "--confirmed"].iter().chain(&source)).ok();
}

fn readers(house: &Installation) -> String {
    let list = house.run(&["subscriber", "list", "--json"]).json();
    let addresses = list.as_array().unwrap().iter().map(|one| one["address"].as_str().unwrap());
    addresses.collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn a_restored_database_sends_nothing_by_itself() {
    let house = Installation::new();
    add(&house, "ada@example.com");
    let context = house.context().await;
    for (number, state) in [(435, 6), (436, 2), (437, 1)] {
        context
            .db
            .write(
                "INSERT INTO issue (uid, newsletter_id, number, subject, state, model, source, \
                 created_at, sends_at) VALUES ($1, 1, $2, '', $3, '', '', 0, 0)",
            )
            .bind(number.to_string())
            .bind(number)
            .bind(state)
            .execute()
            .await
            .unwrap();
    }
    context.db.close().await;
    let backup = house.run(&["backup", "backup.db"]).ok_stderr();
    insta::assert_snapshot!(backup.replacen(|c: char| c.is_ascii_digit(), "N", 9), @r"
    backup.db (NNN KB)
    postrider-data/postrider.key is not in it: keep a copy of that file too, in another place. Without it, the links in sent mail and the suppressions are void
    ");
    assert!(is_private(&house.path("backup.db")));
    let error = house.run(&["backup", "backup.db"]).fails(1);
    assert!(error.contains("backup.db is there already"), "{error}");

    add(&house, "late@example.com");
    let journal = house.path("postrider-data/postrider.journal");
    fs::write(&journal, "later handoffs").unwrap();
    let error = house.run(&["restore", "backup.db"]).fails(3);
    assert!(error.contains("say --yes to go on"), "{error}");
    assert_eq!(readers(&house), "ada@example.com late@example.com");

    let restored = house.run(&["restore", "backup.db", "--yes"]).ok_stderr();
    insta::assert_snapshot!(without_stamps(&restored), @r"
    postrider-data/postrider.db is restored
    what was there before is in postrider-data/postrider.db.before-TIME
    what was there before is in postrider-data/postrider.journal.before-TIME
    issue 436 of sre is paused
    issue 437 of sre is a draft again: it was asked for, and may have gone out since
    copies that left after the backup was made are not in it, and `issue resume` would send them again; look into the relay's log first, or give the rest up with `issue cancel`
    ");
    assert_eq!(readers(&house), "ada@example.com");
    assert!(!journal.exists(), "a journal of later handoffs would be believed");
    let context = house.context().await;
    let states: Vec<(i64, i64)> =
        context.db.query("SELECT number, state FROM issue ORDER BY number").all().await.unwrap();
    assert_eq!(states, [(435, 6), (436, 3), (437, 0)]);
    context.db.close().await;
    let log = house.run(&["delivery", "log", "--issue", "436"]).ok();
    assert!(log.contains("restored from a backup"), "{}", settled(&house, &log));
    let left: Vec<_> = fs::read_dir(house.path("postrider-data"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with('.'))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Names of what was set aside end in a time.
fn without_stamps(text: &str) -> String {
    let mut words = text.split(".before-");
    let mut out = words.next().unwrap_or_default().to_owned();
    for word in words {
        out.push_str(".before-TIME");
        out.push_str(&word["20240811T090507Z".len()..]);
    }
    out
}

#[test]
fn what_is_no_backup_of_this_installation_is_refused() {
    let house = Installation::new();
    add(&house, "ada@example.com");
    let restore = |file: &'static str| house.run(&["restore", file, "--yes"]);
    fs::write(house.path("text"), "not a database at all, but long enough").unwrap();
    assert!(restore("text").fails(1).contains("text is no SQLite database"));
    assert!(restore("missing").fails(1).contains("cannot read missing"));

    // A backup of another installation, whose readers nobody here would find.
    let other = Installation::new();
    add(&other, "bob@example.com");
    other.run(&["backup", "other.db"]).ok();
    fs::copy(other.path("other.db"), house.path("other.db")).unwrap();
    let error = restore("other.db").fails(3);
    assert!(error.contains("was made with another key file"), "{error}");

    house.run(&["backup", "good.db"]).ok();
    let mut octets = fs::read(house.path("good.db")).unwrap();
    let end = octets.len() - 4096 * 4;
    octets[4096..end].fill(0xff);
    fs::write(house.path("bad.db"), octets).unwrap();
    let bad = restore("bad.db");
    assert!(bad.code == 1 || bad.code == 3, "{bad:?}");
    fs::rename(house.path("postrider-data/postrider.key"), house.path("key")).unwrap();
    let error = restore("good.db").fails(1);
    assert!(error.contains("there is no key file"), "{error}");
    fs::rename(house.path("key"), house.path("postrider-data/postrider.key")).unwrap();
    assert_eq!(readers(&house), "ada@example.com");
}

#[test]
fn a_daemon_keeps_its_database_while_it_is_backed_up() {
    let house = Installation::new();
    add(&house, "ada@example.com");
    let _daemon = house.start(&["serve"]);
    eventually("the daemon", || {
        let list = house.run(&["relay", "list", "--json"]).json();
        (!list[0]["state"].is_null()).then_some(())
    });
    house.run(&["backup", "backup.db"]).ok();
    let error = house.run(&["restore", "backup.db", "--yes"]).fails(3);
    assert!(error.contains("a daemon runs on") && error.contains("stop it first"), "{error}");
    add(&house, "bob@example.com");
    assert_eq!(readers(&house), "ada@example.com bob@example.com");
}

/// Nobody says `restore`: an old data file is copied over the young one, with everything else as it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_data_file_that_is_put_back_by_hand_sends_nothing_by_itself() {
    let sink =
        SinkConfig { smtp: "127.0.0.1:0".parse().unwrap(), http: None, ..SinkConfig::default() };
    let sink = Sink::start(sink, CancellationToken::new()).await.unwrap();
    let house = Installation::with_config(&format!(
        "[sending]\nsoak = \"0s\"\n[[relay]]\nname = \"main\"\nhost = \"127.0.0.1\"\nport = {}\n\
         tls = \"none\"\nper_second = 12.0\nburst = 1\n",
        sink.smtp_addr.port()
    ));
    let list: String = (1..=100).map(|n| format!("reader{n}@example.org\n")).collect();
    let import = ["subscriber", "import", "-", "--consent-source", "form"];
    house.run_with_input(&import, format!("address\n{list}").as_bytes()).ok();
    fs::write(house.path("437.md"), crate::cli_issue::issue(437)).unwrap();
    let data = house.path("postrider-data/postrider.db");
    let young = house.path("young.db");
    let status = || house.run(&["issue", "status", "437", "--json"]).json();

    let daemon = house.start(&["serve"]);
    house.run(&["issue", "send", "437.md", "--undo-window", "0s", "--yes"]).ok();
    eventually("some copies", || (sink.stats().accepted >= 20).then_some(()));
    daemon.stop();
    assert!(sink.stats().accepted < 100, "the send was stopped on its way");
    fs::copy(&data, &young).unwrap();
    // The rest goes, and every copy is there once.
    let daemon = house.start(&["serve"]);
    eventually("the end of the send", || (status()["state"] == "sent").then_some(()));
    daemon.stop();
    assert_eq!(sink.stats().accepted, 100);

    fs::copy(&young, &data).unwrap();
    let found = house.run(&["doctor", "--offline"]);
    assert!(found.stdout.contains("older than what was sent from it"), "{}", found.stdout);
    let daemon = house.start(&["serve"]);
    eventually("the hold", || (status()["state"] == "paused").then_some(()));
    let next = status()["next"].as_str().unwrap().to_owned();
    assert!(next.contains("the data file was replaced by an older one"), "{next}");
    let found = house.run(&["doctor", "--offline"]);
    assert!(found.stdout.contains("issue 437 of sre is held"), "{}", found.stdout);
    // A restart changes nothing about that: it was found once, and stays held.
    daemon.stop();
    let _daemon = house.start(&["serve"]);
    eventually("the daemon", || {
        let list = house.run(&["relay", "list", "--json"]).json();
        (!list[0]["state"].is_null()).then_some(())
    });
    assert_eq!(status()["state"], "paused");
    assert_eq!(sink.stats().accepted, 100, "nothing left by itself");

    // An operator who says so lets them go, a second time or not.
    house.run(&["issue", "resume", "437", "--reason", "a rehearsal of the worst"]).ok();
    eventually("the end of the second send", || (status()["state"] == "sent").then_some(()));
    assert!(sink.stats().accepted > 100);
    let found = house.run(&["doctor", "--offline"]);
    assert!(!found.stdout.contains("is held"), "{}", found.stdout);
}
