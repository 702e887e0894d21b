//! Webhooks of others that the delivery log is posted to: in order, signed, and nothing lost when the
//! other side is down or the daemon dies.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
};

use aws_lc_rs::hmac;
use axum::{Router, body::Bytes, extract::State, http::HeaderMap, http::StatusCode, routing::post};
use data_encoding::BASE64;
use serde_json::Value;

use crate::{
    cli_issue::issue,
    installation::{Installation, eventually},
};

const SECRET: &str = "C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// A receiver of batches.
#[derive(Clone, Default)]
struct Receiver {
    taken: Arc<Mutex<Vec<(String, Value)>>>,
    /// What it answers.
    status: Arc<AtomicU16>,
    refused: Arc<AtomicU16>,
}

impl Receiver {
    /// Listens on a port of this machine.
    async fn start(&self) -> u16 {
        self.status.store(204, Ordering::Relaxed);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let app = Router::new().route("/in", post(take)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        port
    }

    /// The events of the batches that were taken, each batch once, in the order in which they came.
    fn events(&self) -> Vec<Value> {
        let taken = self.taken.lock().unwrap();
        let mut seen: BTreeMap<&str, &Value> = BTreeMap::new();
        let mut events = Vec::new();
        for (id, body) in taken.iter() {
            match seen.insert(id, body) {
                None => events.extend(body["events"].as_array().unwrap().iter().cloned()),
                Some(before) => assert_eq!(before, body, "one id, one body: {id}"),
            }
        }
        events
    }

    fn ids(&self) -> Vec<i64> {
        self.events().iter().map(|event| event["id"].as_i64().unwrap()).collect()
    }
}

/// Takes a batch, once its signature is verified.
async fn take(State(receiver): State<Receiver>, head: HeaderMap, body: Bytes) -> StatusCode {
    let field = |name: &str| head[name].to_str().unwrap().to_owned();
    let (id, at) = (field("webhook-id"), field("webhook-timestamp"));
    let key = hmac::Key::new(hmac::HMAC_SHA256, &BASE64.decode(SECRET.as_bytes()).unwrap());
    let signed = [id.as_bytes(), b".", at.as_bytes(), b".", &body].concat();
    let signature = field("webhook-signature");
    let tag = BASE64.decode(signature.strip_prefix("v1,").unwrap().as_bytes()).unwrap();
    hmac::verify(&key, &signed, &tag).expect("the signature is that of the body");
    let status = StatusCode::from_u16(receiver.status.load(Ordering::Relaxed)).unwrap();
    if status.is_success() {
        let body = serde_json::from_slice(&body).unwrap();
        receiver.taken.lock().unwrap().push((id, body));
    } else {
        receiver.refused.fetch_add(1, Ordering::Relaxed);
    }
    status
}

fn with_hook(port: u16, more: &str) -> Installation {
    let hook = format!(
        "[sending]\nsoak = \"0s\"\n[[webhooks]]\nname = \"crm\"\n\
         url = \"http://127.0.0.1:{port}/in\"\nsecret = \"whsec_{SECRET}\"\n{more}"
    );
    let house = Installation::with_config(&hook);
    let list: String = (1..=60).map(|n| format!("reader{n}@gmail.com\n")).collect();
    let import = ["subscriber", "import", "-", "--consent-source", "form"];
    house.run_with_input(&import, format!("address\n{list}").as_bytes()).ok();
    house
}

/// The numbers of the log's lines behind `after`.
fn logged(house: &Installation, after: i64) -> Vec<i64> {
    let log = house.run(&["delivery", "log", "--all", "--json"]).ok();
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.map(|line| line["id"].as_i64().unwrap()).filter(|id| *id > after).collect()
}

fn newest(house: &Installation) -> i64 {
    logged(house, 0).last().copied().unwrap_or(0)
}

fn send(house: &Installation, number: u32) {
    let file = format!("{number}.md");
    std::fs::write(house.path(&file), issue(number)).unwrap();
    let today_again = ["--allow", "audience-recent"];
    let send = ["issue", "send", &file, "--undo-window", "0s", "--yes"];
    house.run(send.iter().chain(&today_again)).ok();
    house.run(&["issue", "status", &number.to_string(), "--follow"]).ok();
}

fn doctor(house: &Installation) -> String {
    let found = house.run(&["doctor", "--offline", "--json"]);
    let found: Value = serde_json::from_str(&found.stdout).unwrap();
    let mut about =
        found.as_array().unwrap().iter().filter(|finding| finding["about"] == "webhooks");
    about.next().unwrap()["what"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_comes_in_order_whatever_happens_between() {
    let receiver = Receiver::default();
    let house = with_hook(receiver.start().await, "");
    assert_eq!(doctor(&house), "crm begins when the daemon starts");
    let before = newest(&house);
    let daemon = house.start(&["serve"]);
    eventually("the webhook's place in the log", || {
        doctor(&house).contains("none yet").then_some(())
    });
    send(&house, 437);
    let told = |what: &str| {
        // All of the log, in its order, and nothing else; it may still grow.
        eventually(what, || (receiver.ids() == logged(&house, before)).then_some(()));
    };
    told("the events of a send");
    let events = receiver.events();
    let accepted: Vec<&Value> = events.iter().filter(|event| event["kind"] == "accepted").collect();
    assert_eq!(accepted.len(), 60);
    assert!(accepted.iter().all(|event| event["handed_off_at"].is_string()));
    assert!(!events.iter().any(|event| event.to_string().contains("reader1")), "addresses are cut");

    // Down, and the daemon is killed meanwhile.
    receiver.status.store(503, Ordering::Relaxed);
    send(&house, 438);
    eventually("a refused batch", || (receiver.refused.load(Ordering::Relaxed) > 0).then_some(()));
    eventually("the doctor", || doctor(&house).contains("answered 503").then_some(()));
    drop(daemon);
    let refused = receiver.refused.load(Ordering::Relaxed);
    let daemon = house.start(&["serve"]);
    eventually("a try after the restart", || {
        (receiver.refused.load(Ordering::Relaxed) > refused).then_some(())
    });
    assert_ne!(receiver.ids(), logged(&house, before), "nothing was taken while it was down");
    receiver.status.store(200, Ordering::Relaxed);
    told("what had waited");
    eventually("a clean bill of health", || {
        doctor(&house).starts_with("crm took what was posted").then_some(())
    });
    // A kill at any moment costs nothing but a batch that comes again.
    drop(daemon);
    let _daemon = house.start(&["serve"]);
    send(&house, 439);
    told("the events after another kill");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wanted_is_posted_with_addresses_where_they_are_allowed() {
    let receiver = Receiver::default();
    let more = "events = [\"accepted\", \"sent\"]\naddresses = true\n";
    let house = with_hook(receiver.start().await, more);
    let _daemon = house.start(&["serve"]);
    eventually("the webhook's place in the log", || {
        doctor(&house).contains("none yet").then_some(())
    });
    send(&house, 437);
    eventually("the end of the send", || {
        receiver.events().iter().any(|event| event["kind"] == "sent").then_some(())
    });
    let events = receiver.events();
    assert_eq!(events.len(), 61);
    let mut addresses: Vec<_> =
        events.iter().filter_map(|event| event["address"].as_str()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    assert_eq!(addresses.len(), 60);
    assert!(addresses[0].ends_with("@gmail.com") && addresses[0].starts_with("reader"));
}
