//! How direct delivery behaves towards destinations: how fast, which host after which, and after a
//! death in the middle of a call.

use std::time::Instant;

use postrider::{
    db::state::{CopyState, EventKind, IssueState},
    fail_point,
};

use super::{SHORT, domains_at, fates, import, of, scene, set, sink_at, told};
use crate::{
    checker::{Kills, check},
    dns_server::DnsServer,
    harness::{Daemon, NO_GATES, QUICK, STANDSTILL, Sink, free_port, until},
    stillness::Watch,
};

const SECOND_US: i64 = 1_000_000;

/// When messages came, in ascending order.
fn arrivals(sink: &Sink) -> Vec<i64> {
    let mut times: Vec<i64> = sink.journal().iter().map(|record| record.wall_us).collect();
    times.sort_unstable();
    times
}

#[tokio::test]
async fn each_destination_has_a_rate_of_its_own() {
    const EACH: usize = 20;
    const RATE: usize = 4;
    let (dns, port) = (DnsServer::start(), free_port());
    dns.at("one.test", "127.0.0.51").at("two.test", "127.0.0.52");
    // Two domains with one operator share what it takes; the third has its own.
    dns.mx("a.example", &[(10, "one.test")]).mx("b.example", &[(10, "one.test")]);
    dns.mx("c.example", &[(10, "two.test")]);
    let one = sink_at("127.0.0.51", port, "").await;
    let two = sink_at("127.0.0.52", port, "").await;
    let options = format!("{QUICK}stages_percent = []\n{NO_GATES}{SHORT}");
    let keys = format!("per_second_and_destination = {RATE}.0\n");
    let scene = scene(&dns, port, &keys, &options).await;
    let audience = import(&scene, &["a.example", "b.example", "c.example"], EACH);
    let daemon = Daemon::spawn(&scene).await;
    let (watch, began) = (Watch::start(), Instant::now());
    scene.send().ok();
    scene.reaches(IssueState::Sent).await;
    let held_up = watch.held_up(began, STANDSTILL).await;
    drop(daemon);
    let outcome = check(&scene, &[&one, &two], audience, Kills::default()).await;
    assert_eq!(outcome.count(CopyState::Accepted), audience, "{outcome:?}");
    for (sink, copies) in [(&one, 2 * EACH), (&two, EACH)] {
        let times = arrivals(sink);
        assert_eq!(times.len(), copies);
        let span_us = times.last().unwrap() - times[0];
        println!("{copies} copies in {span_us} us at {RATE} a second, held up for {held_up:?}");
        // One second's worth goes at once. What the machine holds up comes later, never earlier, but
        // the first may be held up more than the last.
        let least_us = (copies - RATE - 1) as i64 * SECOND_US / RATE as i64;
        let least_us = least_us * 8 / 10 - held_up.as_micros() as i64;
        assert!(span_us >= least_us, "{copies} copies in {span_us} us, held up for {held_up:?}");
    }
    // The slower one kept nobody else: two of them would take more than twice as long one by one.
    let ends = [arrivals(&one), arrivals(&two)].map(|times| *times.last().unwrap());
    assert!(ends[1] < ends[0], "the destination with half the readers was done last");
    for fate in fates(&scene).await {
        assert_eq!(fate.attempts, 1, "a rate costs no try: {fate:?}");
    }
}

/// RFC 5321, section 5.1, asks for the next host when one cannot be reached. Whoever greets and knows
/// us has the word for its domain: what it puts off is not tried at its neighbour's.
#[tokio::test]
async fn who_turns_us_away_at_the_door_has_a_neighbour_and_who_puts_a_reader_off_has_none() {
    const EACH: usize = 4;
    let (dns, port) = (DnsServer::start(), free_port());
    for (host, address) in [
        ("busy.test", "127.0.0.53"),
        ("shut.test", "127.0.0.54"),
        ("deaf.test", "127.0.0.55"),
        ("grey.test", "127.0.0.56"),
        ("next.test", "127.0.0.57"),
    ] {
        dns.at(host, address);
    }
    let hosts = ["busy", "shut", "deaf", "grey"];
    let domains = hosts.map(|host| format!("{host}.example"));
    for (host, domain) in hosts.iter().zip(&domains) {
        dns.mx(domain, &[(10, &format!("{host}.test")), (20, "next.test")]);
    }
    let rule =
        |stage: &str, reply: &str| format!("[[rule]]\nstage = '{stage}'\nreply = '{reply}'\n");
    let busy = sink_at("127.0.0.53", port, &rule("greeting", "421 4.3.2 Too busy")).await;
    let shut = sink_at("127.0.0.54", port, &rule("greeting", "554 5.3.2 No mail here")).await;
    let deaf = sink_at("127.0.0.55", port, &rule("hello", "451 4.3.0 Not now")).await;
    let grey = rule("rcpt", "450 4.2.0 Greylisted") + "times = 1\n";
    let grey = sink_at("127.0.0.56", port, &grey).await;
    let next = sink_at("127.0.0.57", port, "").await;
    let scene = scene(&dns, port, "", &format!("{QUICK}{NO_GATES}{SHORT}")).await;
    let domains = domains.each_ref().map(String::as_str);
    let audience = import(&scene, &domains, EACH);
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    scene.reaches(IssueState::Sent).await;
    drop(daemon);
    let sinks = [&busy, &shut, &deaf, &grey, &next];
    let outcome = check(&scene, &sinks, audience, Kills::default()).await;
    assert_eq!(outcome.count(CopyState::Accepted), audience, "{outcome:?}");
    let elsewhere = set(&["busy.example", "shut.example", "deaf.example"]);
    assert_eq!(domains_at(&next), elsewhere);
    assert_eq!(domains_at(&grey), set(&["grey.example"]));
    let fates = fates(&scene).await;
    for domain in &elsewhere {
        for fate in of(&fates, domain) {
            assert_eq!(fate.attempts, 1, "{fate:?}");
        }
    }
    for fate in of(&fates, "grey.example") {
        assert_eq!(fate.attempts, 2, "{fate:?}");
    }
    assert_eq!(told(&scene, EventKind::Deferred, "grey.example").await.len(), EACH);
    assert_eq!(told(&scene, EventKind::Deferred, "busy.example").await.len(), 0);
    // The log says where each copy went.
    let log = scene.house.run(&["delivery", "log", "--outcome", "accepted", "--json"]).ok();
    let mut lines = 0;
    for line in log.lines() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let at_grey = line["address"].as_str().unwrap().ends_with("@grey.example");
        let host = if at_grey { "grey.test [127.0.0.56]" } else { "next.test [127.0.0.57]" };
        assert_eq!((&line["host"], &line["relay"]), (&host.into(), &"direct".into()), "{line}");
        lines += 1;
    }
    assert_eq!(lines, audience);
}

/// The daemon dies while it calls mail servers, and with mail under way to them.
#[tokio::test]
async fn a_death_in_the_middle_of_a_call_loses_nobody_and_costs_no_try() {
    const EACH: usize = 15;
    let (dns, port) = (DnsServer::start(), free_port());
    let addresses = ["127.0.0.58", "127.0.0.59", "127.0.0.60"];
    let domains = ["one.example", "two.example", "three.example"];
    let mut sinks = Vec::new();
    for (address, domain) in addresses.iter().zip(domains) {
        let host = domain.replace("example", "test");
        dns.mx(domain, &[(10, &host)]).at(&host, address);
        sinks.push(sink_at(address, port, "").await);
    }
    let options = format!("{QUICK}stages_percent = []\n{NO_GATES}{SHORT}");
    let scene = scene(&dns, port, "per_second_and_destination = 10.0\n", &options).await;
    let audience = import(&scene, &domains, EACH);
    scene.send().ok();
    let places = ["mx.route:1", "mx.call:1", "mx.call:2", "mx.call:3", "mx.called:2"];
    for place in places {
        let mut daemon = Daemon::start_under(&scene, &[], &[(fail_point::VARIABLE, place)]);
        until(&format!("the daemon dies at {place}"), async || daemon.is_gone().then_some(()))
            .await;
        daemon.kill();
    }
    let daemon = Daemon::spawn(&scene).await;
    scene.reaches(IssueState::Sent).await;
    drop(daemon);
    let kills = Kills::of_daemon(places.len());
    let sinks: Vec<&Sink> = sinks.iter().collect();
    let outcome = check(&scene, &sinks, audience, kills).await;
    println!("{outcome:?}");
    let known = outcome.count(CopyState::Accepted) + outcome.count(CopyState::Uncertain);
    assert_eq!(known, audience, "{outcome:?}");
    for fate in fates(&scene).await {
        assert_eq!(fate.attempts, 1, "a call that came to nothing costs no try: {fate:?}");
    }
}
