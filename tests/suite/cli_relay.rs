//! `postrider relay`.

use postrider::sink::{Sink, SinkConfig};
use tokio::net::TcpSocket;
use tokio_util::sync::CancellationToken;

use crate::installation::{Installation, eventually};

async fn sink() -> Sink {
    let config =
        SinkConfig { smtp: "127.0.0.1:0".parse().unwrap(), http: None, ..SinkConfig::default() };
    Sink::start(config, CancellationToken::new()).await.unwrap()
}

/// A relay that works, and one where nothing listens and nobody else can.
async fn two_relays() -> (Installation, Sink, TcpSocket) {
    let sink = sink().await;
    let held = TcpSocket::new_v4().unwrap();
    held.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let nobody = held.local_addr().unwrap().port();
    let relay = |name: &str, port: u16| {
        format!(
            "[[relay]]\nname = \"{name}\"\nhost = \"127.0.0.1\"\nport = {port}\ntls = \"none\"\n"
        )
    };
    let config = relay("main", sink.smtp_addr.port()) + &relay("spare", nobody);
    (Installation::with_config(&config), sink, held)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_connects_and_sends_nothing() {
    let (house, sink, _held) = two_relays().await;
    let checked = house.run(&["relay", "check", "main", "--json"]).json();
    assert_eq!(checked[0]["good"], true);
    assert_eq!(checked[0]["encrypted"], false);
    let offers = checked[0]["offers"].as_array().unwrap();
    assert!(offers.contains(&"PIPELINING".into()), "{offers:?}");
    assert!(house.run(&["relay", "check", "main"]).ok().contains("PIPELINING"));

    let both = house.run(&["relay", "check"]);
    assert!(both.stdout.contains("good") && both.stdout.contains("FAILED"), "{}", both.stdout);
    let error = both.fails(3);
    assert!(error.contains("spare: connect: the connection broke"), "{error}");
    assert!(error.ends_with("error: 1 of 2 relays cannot be used\n"), "{error}");
    let error = house.run(&["relay", "check", "mian"]).fails(1);
    assert!(error.contains("no relay `mian` in the configuration; those are: main, spare"));
    assert_eq!(sink.stats().accepted, 0, "a check must not send mail");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspension_reaches_the_running_daemon() {
    let (house, _sink, _held) = two_relays().await;
    let listed = house.run(&["relay", "list"]);
    assert!(listed.stdout.contains("not known"), "{}", listed.stdout);
    assert!(listed.stderr.contains("no daemon runs"), "{}", listed.stderr);

    let _daemon = house.start(&["serve"]);
    let state = |name: &str| {
        let list = house.run(&["relay", "list", "--json"]).json();
        let relay = list.as_array().unwrap().iter().find(|relay| relay["name"] == name).cloned();
        relay.unwrap()["state"].clone()
    };
    eventually("the daemon's state", || (!state("main").is_null()).then_some(()));
    assert_eq!(state("main")["suspended"], false);
    house.run(&["relay", "suspend", "main", "--reason", "migration"]).ok();
    eventually("the suspension", || (state("main")["suspended"] == true).then_some(()));
    let again = house.run(&["relay", "suspend", "main", "--reason", "again"]);
    assert!(again.stderr.contains("was suspended before"), "{}", again.stderr);
    let list = house.run(&["relay", "list"]).ok();
    assert!(list.contains("suspended by cli:ada since") && list.contains("migration"), "{list}");

    let last = house.run(&["relay", "suspend", "spare", "--reason", "too"]);
    assert!(last.stderr.contains("no relay is left"), "{}", last.stderr);
    house.run(&["relay", "resume", "main"]).ok();
    eventually("the end of it", || (state("main")["suspended"] == false).then_some(()));
    let again = house.run(&["relay", "resume", "main"]);
    assert!(again.stderr.contains("was not suspended"), "{}", again.stderr);
    let error = house.run(&["relay", "suspend", "mian", "--reason", "?"]).fails(1);
    assert!(error.contains("those are: main, spare"), "{error}");
}
