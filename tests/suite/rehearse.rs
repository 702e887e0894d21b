//! `postrider rehearse`: what a send would do, without a trace in the real data.

use std::fs;

use postrider::timestamp::Timestamp;
use serde_json::Value;

use crate::{
    harness::{Scene, Sink, address},
    installation::Ran,
};

const LIMITED: &str = "[limits]\nper_second = 2.0\n[sending]\nsoak = \"1m\"\n";

const DAY_MINUTES: i64 = 24 * 60;

fn rehearse(scene: &Scene, more: &[&str]) -> Ran {
    let text = "---\nnumber: 1\ndate: 2026-03-06\npreheader: What we read.\n---\n\nHello {{address}}.\n\n\
                ## [An outage](https://example.org/outage)\n\nShort.\n\n— Maren Holt — Example Rail\n";
    fs::write(scene.house.path("issue.md"), text).unwrap();
    let how = ["rehearse", "issue.md", "--against", "sink"];
    scene.house.run(how.iter().chain(more))
}

fn sum(report: &Value, of: &str) -> i64 {
    let minutes = report["minutes"].as_array().unwrap();
    minutes.iter().map(|minute| minute[of].as_i64().unwrap()).sum()
}

/// Everything that is stored, but for what a look at it changes.
fn data(scene: &Scene) -> Vec<String> {
    let dump = |args: &[&str]| scene.house.run(args).ok();
    vec![
        dump(&["issue", "list", "--json"]),
        dump(&["delivery", "log", "--all", "--json"]),
        dump(&["subscriber", "list", "--json"]),
    ]
}

#[tokio::test]
async fn a_rehearsal_tells_minute_by_minute_and_leaves_nothing_behind() {
    const READERS: usize = 400;
    // The real relay: it must not hear of this.
    let relay = Sink::spawn().await;
    let scene = Scene::new(&[&relay], LIMITED).await;
    scene.import(READERS);
    let faults = "[[rule]]\nstage = \"rcpt\"\nrecipient = \"*@yahoo.com\"\ntimes = 1\n\
                  reply = \"451 4.7.1 try again later\"\n\
                  [[rule]]\nstage = \"rcpt\"\nrecipient = \"reader00001@*\"\n\
                  reply = \"550 5.1.1 no such mailbox\"\n";
    fs::write(scene.house.path("faults.toml"), faults).unwrap();
    let before = data(&scene);
    let began = std::time::Instant::now();
    let report = rehearse(&scene, &["--faults", "faults.toml", "--json"]).json();
    println!("took {:?}; {report:#}", began.elapsed());
    assert_eq!((&report["audience"], &report["state"]), (&READERS.into(), &"sent".into()));
    assert_eq!(sum(&report, "accepted"), READERS as i64 - 1);
    assert_eq!((sum(&report, "rejected"), sum(&report, "deferred")), (1, READERS as i64 / 4));
    // 500 attempts at two a second, and three soaks of a minute: more than four minutes, and yahoo's
    // second tries follow at least four later.
    let minutes = report["ends_after_s"].as_f64().unwrap() / 60.0;
    let machine = report["machine_bound_s"].as_f64().unwrap() / 60.0;
    assert!((6.0..40.0 + machine).contains(&minutes), "{minutes}, {machine} of them the machine's");
    let peak = report["peak_per_minute"].as_i64().unwrap();
    // In real time it would be two a minute, without a limit all of them; this machine may hold it up.
    assert!((10..=160).contains(&peak), "two a second: {peak}");
    assert!(report["minutes"][0]["notes"][0].as_str().unwrap().contains("stage released"));
    assert_eq!(report["halts"].as_array().unwrap().len(), 0);

    assert_eq!(relay.accepted(), 0, "the real relay heard of it");
    assert_eq!(data(&scene), before, "the real data changed");
    let left = fs::read_dir(scene.house.path("postrider-data")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    let of_rehearsal = |name: &&std::ffi::OsString| name.to_string_lossy().contains("rehearsal");
    assert_eq!(left.iter().find(of_rehearsal), None);
}

#[tokio::test]
async fn a_rehearsals_time_holds_for_newsletter_rates_rules_and_breakers() {
    let relay = Sink::spawn().await;
    let all = "[sending]\nsoak = \"0s\"\nstages_percent = []\n";
    let scene = Scene::new(&[&relay], all).await;
    let rules = "[[rule]]\nname = \"asleep\"\nfault = \"rate\"\nreason = \"too-fast\"\n\
        any = [\"the provider sleeps\"]\nexample = [{ text = \"the provider sleeps\" }]\n\
        action = { do = \"open\", threshold = 1, within = \"1h\", for = \"20m\" }\n";
    fs::write(scene.house.path("rules.toml"), rules).unwrap();
    let config = scene.house.path("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("rules_file = \"rules.toml\"\n{text}")).unwrap();
    let rows: String = (1..240).map(|number| format!("reader{number}@example.org\n")).collect();
    scene.import_rows(&format!("address\nreader0@yahoo.com\n{rows}"));
    scene.house.run(&["newsletter", "set", "sre", "per_second", "1"]).ok();
    let faults = "[[rule]]\nstage = \"rcpt\"\nrecipient = \"*@yahoo.com\"\ntimes = 1\n\
                  reply = \"450 4.7.9 The provider sleeps\"\n";
    fs::write(scene.house.path("faults.toml"), faults).unwrap();
    let report = rehearse(&scene, &["--faults", "faults.toml", "--json"]).json();
    assert_eq!((&report["state"], sum(&report, "accepted")), (&"sent".into(), 240), "{report:#}");
    let peak = report["peak_per_minute"].as_i64().unwrap();
    assert!((10..=90).contains(&peak), "one a second: {peak}");
    // The second try comes after five minutes, and waits for the breaker.
    let minutes = report["ends_after_s"].as_f64().unwrap() / 60.0;
    // A minute is a second of this machine's, which may have other things to do.
    assert!((20.0..60.0).contains(&minutes), "{minutes}: {report:#}");
}

#[tokio::test]
async fn a_rehearsal_goes_through_the_days_of_a_warm_up() {
    let relay = Sink::spawn().await;
    // Days are those of UTC, and an hour is a second of this machine's: the first copies go half a day
    // before the midnight that all others wait for, or longer.
    let to_midnight = DAY_MINUTES - Timestamp::now().microseconds() / 60_000_000 % DAY_MINUTES;
    let days = if to_midnight > DAY_MINUTES / 2 { 1 } else { 2 };
    let midnight = to_midnight + (days - 1) * DAY_MINUTES;
    let ramp = format!(
        "[sending]\nsoak = \"0s\"\nstages_percent = []\n[[limits.warm_up]]\nrelay = \"main\"\n\
         provider = \"google\"\ncopies_per_day = [{}1000]\n",
        "10, ".repeat(days as usize)
    );
    let scene = Scene::new(&[&relay], &ramp).await;
    let rows: String = (0..40).map(|number| format!("reader{number}@gmail.com\n")).collect();
    scene.import_rows(&format!("address\n{rows}"));
    let report = rehearse(&scene, &["--speed", "3600", "--until", "120h", "--json"]).json();
    assert_eq!((&report["state"], sum(&report, "accepted")), (&"sent".into(), 40), "{report:#}");
    let minutes = report["minutes"].as_array().unwrap().iter();
    let went = minutes
        .map(|minute| (minute["minute"].as_i64().unwrap(), minute["accepted"].as_i64().unwrap()));
    let went: Vec<(i64, i64)> = went.filter(|(_, accepted)| *accepted > 0).collect();
    // The send may begin hours after the engine did, and the first copies may take hours: six for each.
    // Of two days the first may be over before its ten went.
    let before = went.iter().filter(|(minute, _)| *minute < midnight - DAY_MINUTES / 4);
    let before: i64 = before.map(|(_, accepted)| accepted).sum();
    assert!((10..=10 * days).contains(&before), "{before} on {days} days of ten: {went:?}");
    let last = went.last().unwrap().0;
    assert!(last < midnight + DAY_MINUTES, "the day after has room for all: {went:?}");
}

#[tokio::test]
async fn a_rehearsal_says_which_gate_would_halt() {
    let relay = Sink::spawn().await;
    // By the number of refusals, which are all google's; by their share it may be those of all.
    let gates = "[sending]\nsoak = \"1m\"\n[gates]\npolicy_percent = 100.0\n";
    let scene = Scene::new(&[&relay], gates).await;
    let rows: String = (0..300).map(|number| address(number) + "\n").collect();
    scene.import_rows(&format!("address\n{rows}"));
    let faults = "[[rule]]\nstage = \"dot\"\nrecipient = \"*@gmail.com\"\n\
                  reply = \"550 5.7.1 our system has detected unsolicited mail\"\n";
    fs::write(scene.house.path("faults.toml"), faults).unwrap();
    let blocked = ["--faults", "main=faults.toml"];
    let report = rehearse(&scene, &[&blocked[..], &["--json"]].concat()).json();
    assert_eq!(report["state"], "halted", "{report:#}");
    let halt = &report["halts"][0];
    assert_eq!((&halt["gate"], &halt["provider"]), (&"policy".into(), &"google".into()), "{halt}");
    assert!(report["unfinished"].as_i64().unwrap() > 0);
    let text = rehearse(&scene, &blocked).ok();
    assert!(text.contains("a gate would halt it in minute"), "{text}");
    assert!(text.contains("550 5.7.1 our system has detected"), "{text}");
    let all = rehearse(&scene, &[&blocked[..], &["--resume-halts", "--json"]].concat()).json();
    assert_eq!(all["state"], "sent", "{all:#}");
    assert_eq!(sum(&all, "accepted"), 225);
    rehearse(&scene, &["--faults", "spare=faults.toml"]).fails(1);
    assert_eq!(relay.accepted(), 0);
}

#[tokio::test]
async fn a_rehearsal_of_what_is_scheduled_shows_one_relay_dead_and_the_other_taking_over() {
    let (main, spare) = (Sink::spawn().await, Sink::spawn().await);
    let scene = Scene::new(&[&main, &spare], "[sending]\nsoak = \"1m\"\n").await;
    scene.import(100);
    scene.send().ok();
    let dead =
        "[[rule]]\nstage = \"connect\"\nreply = \"421 4.3.2 going down\"\nthen = \"close\"\n";
    fs::write(scene.house.path("dead.toml"), dead).unwrap();
    let how = ["rehearse", "1", "--faults", "main=dead.toml", "--json"];
    let report = scene.house.run(&how).json();
    assert_eq!((&report["state"], sum(&report, "accepted")), (&"sent".into(), 100), "{report:#}");
    assert_eq!(scene.status()["state"], "scheduled", "the real one waits for its daemon");
    assert_eq!((main.accepted(), spare.accepted()), (0, 0), "real relays heard of it");
    scene.house.run(&["rehearse", "7"]).fails(1);
}
