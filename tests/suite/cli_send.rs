//! `postrider issue` from a send to its end: test, send, schedule, undo, pause, resume, cancel,
//! status, report.

use std::{collections::BTreeMap, fs};

use postrider::{
    sink::{Sink, SinkConfig, mailbox::Filter},
    timestamp::Timestamp,
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{
    cli_issue::{issue, with_issue},
    installation::{Installation, settled},
};

/// An installation with a relay of its own, a seed list of one and `readers` readers, of whom one
/// has a dead mailbox.
async fn with_readers(readers: usize, more: &str) -> (Installation, Sink) {
    let config =
        SinkConfig { smtp: "127.0.0.1:0".parse().unwrap(), http: None, ..SinkConfig::default() };
    let sink = Sink::start(config, CancellationToken::new()).await.unwrap();
    let relay = format!(
        "[[relay]]\nname = \"main\"\nhost = \"127.0.0.1\"\nport = {}\ntls = \"none\"\n{more}",
        sink.smtp_addr.port()
    );
    let house = Installation::with_config(&format!("{relay}\n[sending]\nsoak = \"0s\"\n"));
    let list: String = (1..readers).map(|n| format!("reader{n}@gmail.com\n")).collect();
    let file = format!("address\n{list}reject-550@example.org\n");
    let import = ["subscriber", "import", "-", "--consent-source", "form"];
    house.run_with_input(&import, file.as_bytes()).ok();
    house.run(&["newsletter", "set", "sre", "--seed", "ada@example.com"]).ok();
    fs::write(house.path("437.md"), issue(437)).unwrap();
    (house, sink)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issue_goes_out_once_seed_list_first() {
    let (house, sink) = with_readers(120, "").await;
    let _daemon = house.start(&["serve"]);
    let send = ["issue", "send", "437.md", "--undo-window", "0s", "--yes", "--json"];
    let first = house.run(&send);
    assert!(first.stderr.contains("issue 437 is on its way"), "{}", first.stderr);
    assert_eq!(first.json()["started"], true);
    let again = house.run(&send);
    assert!(again.stderr.contains("nothing was started"), "{}", again.stderr);
    assert_eq!(again.json()["started"], false);

    let followed = house.run(&["issue", "status", "437", "--follow"]).ok();
    assert!(followed.trim_end().ends_with("sent: 120 accepted + 1 rejected"), "{followed}");
    assert_eq!(sink.stats().accepted, 120);
    let all = Filter { limit: Some(1000), ..Filter::default() };
    let oldest = sink.mailbox().find(&all).into_iter().min_by_key(|mail| mail.id);
    let oldest = oldest.unwrap();
    assert_eq!(oldest.rcpt_to, ["ada@example.com"], "the seed list is first");
    assert_eq!(oldest.subject, "SRE Digest #437");

    let status = house.run(&["issue", "status", "--json"]).json();
    assert_eq!(status["state"], "sent");
    assert_eq!(status["equation"]["accepted"], 120);
    assert_eq!(status["holds"], true);
    for figure in ["queue_wait", "smtp", "end_to_end"] {
        assert_eq!(status["pace"][figure]["sample"], 121, "{figure}: {}", status["pace"]);
    }
    every_try_tells_its_steps(&house);
    let status = house.run(&["issue", "status"]).ok();
    let copies = status.lines().find(|line| line.starts_with("copies:")).unwrap();
    assert_eq!(copies, "copies:      120 accepted + 1 rejected = 121 in the audience");

    insta::assert_snapshot!(house.run(&["issue", "report"]).ok(), @"
    issue 437: SRE Digest #437
    state:  sent
    copies: 120 accepted + 1 rejected = 121

    copies  outcome   class              for example
         1  rejected  unknown.permanent  rcpt_to: 550 5.0.0 The recipient's name asks for this

    Who did not get it
    reject-550@example.org               other       rejected      rcpt_to: 550 5.0.0 The recipient's name asks for this
    ");
    let report = house.run(&["issue", "report", "437", "--json"]).json();
    assert_eq!(report["missed"].as_array().unwrap().len(), 1);
    assert_eq!(report["missed"][0]["address"], "reject-550@example.org");
    let listed = house.run(&["issue", "list"]).ok();
    insta::assert_snapshot!(settled(&house, &listed), @"
    number  state  first copy               finished                 subject
       437  sent   TIME  TIME  SRE Digest #437
    ");
}

/// Due, claimed, handed off, done: in this order, for every copy, whichever way the log is asked.
fn every_try_tells_its_steps(house: &Installation) {
    let lines = |more: &[&str]| -> Vec<Value> {
        let args = ["delivery", "log", "--issue", "437", "--all", "--json"];
        let log = house.run(args.iter().chain(more)).ok();
        log.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let time = |line: &Value, field: &str| -> Option<Timestamp> {
        line[field].as_str().map(|at| at.parse().unwrap())
    };
    let outcomes = lines(&[]).into_iter().filter(|line| !line["attempt"].is_null());
    let mut times = BTreeMap::new();
    for line in outcomes {
        let order = ["due_at", "claimed_at", "handed_off_at", "at"].map(|field| time(&line, field));
        assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{line}");
        times.insert(line["subscriber_id"].as_i64(), order);
    }
    assert_eq!(times.len(), 121);
    for (kind, place) in [("claimed", 1), ("handed_off", 2)] {
        let told = lines(&["--outcome", kind]);
        assert_eq!(told.len(), 121, "{kind}");
        for line in told {
            assert_eq!(line["kind"], kind);
            let known = times[&line["subscriber_id"].as_i64()][place];
            assert_eq!(time(&line, "at"), known, "{line}");
        }
    }
    let of_one = lines(&["--subscriber", "ada@example.com", "--steps"]);
    let kinds: Vec<_> = of_one.iter().map(|line| line["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["claimed", "handed_off", "accepted"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_copy_is_marked_and_in_no_ledger() {
    let (house, sink) = with_readers(2, "").await;
    let ran = house.run(&["issue", "test", "437.md", "--to", "me@example.com", "--name", "Ada"]);
    assert!(ran.ok().starts_with("me@example.com: accepted: 250 "));
    let mail = sink.mailbox().find(&Filter::default()).pop().unwrap();
    assert_eq!(mail.subject, "[Test] SRE Digest #437");
    assert!(mail.content().text.unwrap().contains("Hi Ada"));
    let more = ["issue", "test", "437.md", "--to", "me@example.com", "--to", "you@example.com"];
    house.run(&more).ok();
    let ids: std::collections::HashSet<_> = sink
        .mailbox()
        .find(&Filter::default())
        .iter()
        .map(|mail| mail.message_id.clone())
        .collect();
    assert!(ids.len() == 3, "tests have Message-IDs of their own: {ids:?}");
    assert_eq!(house.run(&["issue", "list", "--json"]).json(), serde_json::json!([]));
    let refused = house.run(&["issue", "test", "437.md", "--to", "reject-550@example.org"]);
    assert!(refused.stdout.contains("refused at rcpt_to: 550"), "{}", refused.stdout);
    insta::assert_snapshot!(refused.fails(1), @"error: 1 of 1 tests were not accepted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_send_can_be_undone_paused_resumed_and_cancelled() {
    let (house, sink) = with_readers(40, "per_second = 4.0\nburst = 1\n").await;
    let course = |verb: &str| house.run(&["issue", verb, "437", "--reason", "a check"]);
    let asked = house.run(&["issue", "send", "437.md", "--yes"]);
    assert!(asked.stderr.contains("`postrider issue undo 437` takes it back"), "{}", asked.stderr);
    assert!(asked.stderr.contains("no daemon is running"), "{}", asked.stderr);
    insta::assert_snapshot!(course("pause").fails(3), @"error: issue 437 is scheduled: only a send under way can be paused");
    insta::assert_snapshot!(course("undo").stderr, @"issue 437 is a draft again; nothing was sent");
    let log = house.run(&["delivery", "log", "--outcome", "undone"]).ok();
    assert!(log.contains("undone"), "{log}");

    let _daemon = house.start(&["serve"]);
    house.run(&["issue", "send", "437.md", "--undo-window", "0s", "--yes"]).ok();
    crate::installation::eventually("the first copies", || {
        (sink.stats().accepted > 2).then_some(())
    });
    course("pause").ok();
    let status = house.run(&["issue", "status", "--json"]).json();
    assert_eq!(status["state"], "paused");
    course("resume").ok();
    insta::assert_snapshot!(house.run(&["issue", "cancel", "437"]).fails(3), @"error: Give up all copies of issue 437 that have not left? Nobody is here to answer; say --yes to go on");
    house.run(&["issue", "cancel", "437", "--yes"]).ok();
    house.run(&["issue", "status", "437", "--follow"]).ok();
    let status = house.run(&["issue", "status", "--json"]).json();
    // The dead mailbox may have been tried before the cancel.
    let figure = |word: &str| status["equation"][word].as_i64().unwrap();
    let ended = figure("accepted") + figure("rejected") + figure("cancelled");
    assert_eq!(ended, 41, "{status:#}");
    assert_eq!(sink.stats().accepted as i64, figure("accepted"));
    insta::assert_snapshot!(house.run(&["issue", "send", "437.md", "--yes"]).fails(3), @"error: issue 437 was cancelled, and nothing was started; to send it after all give it another number");
    insta::assert_snapshot!(house.run(&["issue", "pause", "438"]).fails(1), @"error: there is no issue 438; `postrider issue list` shows those there are");
}

#[test]
fn a_send_is_refused_for_a_reason() {
    let house = with_issue();
    let send = |args: &[&str]| house.run(["issue", "send"].iter().chain(args));
    insta::assert_snapshot!(last_line(&send(&["437.md", "--yes"]).fails(3)), @"error: SRE Digest has no reader who could get this issue yet");
    house.run(&["newsletter", "set", "sre", "--seed", "ada@example.com"]).ok();
    insta::assert_snapshot!(last_line(&send(&["437.md"]).fails(3)), @"error: Send it to 1 recipient? Nobody is here to answer; say --yes to go on");

    fs::write(house.path("warn.md"), issue(437).replace("https:", "http:")).unwrap();
    insta::assert_snapshot!(last_line(&send(&["warn.md", "--yes"]).fails(3)), @"error: the issue has warnings; nothing was sent. Put them right, or let them through with --allow link-http");
    insta::assert_snapshot!(first_line(&send(&["warn.md", "--allow", "link-htpt"]).fails(2)), @"error: invalid value 'link-htpt' for '--allow <CODE>': no warning has this code; did you mean `link-http`?");
    fs::write(house.path("bad.md"), issue(437).replace("one link", "TODO")).unwrap();
    insta::assert_snapshot!(last_line(&send(&["bad.md", "--allow-warnings"]).fails(3)), @"error: the issue has errors; nothing was sent. Put them right and run this again");

    send(&["warn.md", "--yes", "--allow", "link-http"]).ok();
    insta::assert_snapshot!(last_line(&send(&["437.md", "--yes"]).fails(3)), @"error: issue 437 is scheduled already, and the file says something else than it did then. Nothing was started; `postrider issue undo 437` takes it back; then send it again");
}

#[test]
fn a_time_of_day_is_one_moment_to_come() {
    let house = with_issue();
    house.run(&["newsletter", "set", "sre", "--seed", "ada@example.com"]).ok();
    let schedule = |at: &str| {
        let args = ["issue", "schedule", "437.md", "--yes", "--zone", "Europe/Vienna", "--at", at];
        house.run(&args)
    };
    insta::assert_snapshot!(schedule("2031-03-30 02:30").fails(1), @"error: 2031-03-30T02:30:00 does not exist in Europe/Vienna: clocks are put forward over it (from +01 to +02); choose another time");
    let past = schedule("2024-08-12 09:00").fails(3);
    assert!(past.starts_with("error: 2024-08-12 07:00:00 UTC is past; it is "), "{past}");
    // It is dated tomorrow and leaves in years: a warning, as readers would see an old date.
    let asked = schedule("2031-08-12 09:00").fails(3);
    assert!(asked.contains("date-past"), "{asked}");
    let text = issue(437);
    let date = text.lines().find(|line| line.starts_with("date: ")).unwrap();
    fs::write(house.path("437.md"), text.replace(date, "date: 2031-08-12")).unwrap();
    let asked = schedule("2031-08-12 09:00");
    assert!(asked.stderr.contains("leaves at 2031-08-12 07:00:00 UTC"), "{}", asked.stderr);
    asked.ok();
    let listed = house.run(&["issue", "list", "--json"]).json();
    assert_eq!(listed[0]["state"], "scheduled");
    assert_eq!(listed[0]["sends_at"], "2031-08-12T07:00:00.000000Z");
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

fn last_line(text: &str) -> &str {
    text.trim_end().lines().last().unwrap_or_default()
}
