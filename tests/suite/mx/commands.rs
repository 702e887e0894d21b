//! The command line where mail goes to the readers' domains directly.

use std::fs;

use super::{SHORT, domains_at, impatient, scene, set, sink_at};
use crate::{dns_server::DnsServer, harness::free_port};

/// A file of an issue.
pub(super) const ISSUE: &str = "---\nnumber: 1\ndate: 2026-03-06\npreheader: What we read this week.\n---\n\n\
     Hello {{name|reader}}, this is a test.\n\n\
     ## [A failover that nobody noticed](https://example.org/failover)\n\n\
     The replica took over, and a line in a log was all that told.\n\n\
     — Maren Holt — Example Rail\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_check_and_the_doctor_ask_dns_and_send_nothing() {
    let (dns, port) = (DnsServer::start(), free_port());
    let sink = sink_at("127.0.0.61", port, "").await;
    // It asks about this one.
    let options = format!("{SHORT}[mail]\nbounce_domain = \"news.example\"\n");
    let scene = impatient(&dns, port, &options).await;
    let checked = scene.house.run(&["relay", "check", "--json"]).json();
    assert_eq!(checked[0]["good"], true, "{checked}");
    assert_eq!(checked[0]["address"], "the readers' domains (MX)", "{checked}");
    assert_eq!(checked[0]["offers"], serde_json::json!(["DNS answers"]), "{checked}");
    assert!(dns.asked().iter().all(|(name, _)| name == "news.example"), "{:?}", dns.asked());
    assert!(!dns.asked().is_empty());
    let found = scene.house.run(&["doctor", "--json"]).stdout;
    let found: serde_json::Value = serde_json::from_str(&found).unwrap();
    let of_relays = |found: &serde_json::Value| {
        let all = found.as_array().unwrap().iter().filter(|one| one["about"] == "relays");
        all.map(|one| (one["level"].to_string(), one["what"].to_string())).collect::<Vec<_>>()
    };
    let relays = of_relays(&found);
    assert_eq!(relays.len(), 1, "{relays:?}");
    assert!(relays[0].0 == "\"ok\"" && relays[0].1.contains("DNS answers"), "{relays:?}");

    dns.mute(true);
    let failed = scene.house.run(&["relay", "check"]);
    assert!(failed.stdout.contains("FAILED"), "{}", failed.stdout);
    let error = failed.fails(3);
    assert!(error.contains("direct: no answer about news.example"), "{error}");
    let found = scene.house.run(&["doctor", "--json"]);
    let relays = of_relays(&serde_json::from_str(&found.stdout).unwrap());
    assert!(relays[0].0 == "\"error\"" && relays[0].1.contains("no answer"), "{relays:?}");
    assert_eq!(sink.journal().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_copy_goes_to_the_servers_of_its_domain() {
    let (dns, port) = (DnsServer::start(), free_port());
    dns.at("one.test", "127.0.0.62").at("two.test", "127.0.0.63");
    dns.mx("one.example", &[(10, "one.test")]).mx("two.example", &[(10, "two.test")]);
    dns.mx("null.example", &[(0, ".")]);
    let one = sink_at("127.0.0.62", port, "").await;
    let two = sink_at("127.0.0.63", port, "").await;
    let scene = scene(&dns, port, "", SHORT).await;
    fs::write(scene.house.path("issue.md"), ISSUE).unwrap();
    let test = |to: &[&str]| {
        let to = to.iter().flat_map(|to| ["--to", *to]);
        let all: Vec<&str> = ["issue", "test", "issue.md"].into_iter().chain(to).collect();
        scene.house.run(&all)
    };
    let said = test(&["me@one.example", "me@two.example", "you@one.example"]).ok();
    assert_eq!(said.matches(": accepted: 250 ").count(), 3, "{said}");
    assert_eq!(domains_at(&one), set(&["one.example"]));
    assert_eq!(domains_at(&two), set(&["two.example"]));
    assert_eq!((one.accepted(), two.accepted()), (2, 1));
    let refused = test(&["me@null.example"]);
    let error = refused.fails(1);
    assert!(error.contains("null MX"), "{error}");
    assert!(error.contains("direct"), "{error}");
}
