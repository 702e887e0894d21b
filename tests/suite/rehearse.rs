//! `postrider rehearse`: what a send would do, without a trace in the real data.

use std::fs;

use serde_json::Value;

use crate::{
    harness::{Scene, Sink, address},
    installation::Ran,
};

const LIMITED: &str = "[limits]\nper_second = 2.0\n[sending]\nsoak = \"1m\"\n";

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
    assert!((6.0..40.0).contains(&minutes), "{minutes}");
    let peak = report["peak_per_minute"].as_i64().unwrap();
    assert!((40..=140).contains(&peak), "two a second: {peak}");
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
async fn a_rehearsal_says_which_gate_would_halt() {
    let relay = Sink::spawn().await;
    let scene = Scene::new(&[&relay], "[sending]\nsoak = \"1m\"\n").await;
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
