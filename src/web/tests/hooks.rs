//! Webhooks over a real socket: what providers and strangers post, and what they are told.

use std::sync::atomic::{AtomicUsize, Ordering};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::{
    bounce::intake::webhook::{
        Provider, SIZE_MAX,
        tests::{Said, Sender, Sent, payload},
    },
    id::{CopyId, IssueId, SubscriberId},
    smtp::message::message_id,
};

/// A listener with a webhook of each provider, and the providers.
struct Hooks {
    app: App,
    senders: Vec<Sender>,
}

impl Hooks {
    async fn spawn() -> Self {
        Self::spawn_with(|_| {}).await
    }

    async fn spawn_with(change: impl FnOnce(&mut Config)) -> Self {
        let senders: Vec<_> = Provider::ALL.into_iter().map(Sender::new).collect();
        let webhook = senders.iter().map(Sender::config).collect();
        let change = |config: &mut Config| {
            config.bounces.webhook = webhook;
            change(config);
        };
        Self { app: spawn_with(change, Limits::default()).await, senders }
    }

    fn sender(&self, provider: Provider) -> &Sender {
        self.senders.iter().find(|sender| sender.provider == provider).unwrap()
    }

    /// An active reader with a copy of an issue; their Message-ID.
    async fn reader(&self, typed: &str) -> (SubscriberId, String) {
        let id = self.app.house.subscribe(typed).await;
        let db = &self.app.house.db;
        db.write(
            "INSERT INTO issue (id, uid, newsletter_id, number, subject, state, model, source, \
             created_at, started_at) VALUES (1, 'x', $1, 1, 'Issue', 2, '{}', '', 0, 0) \
             ON CONFLICT DO NOTHING",
        )
        .bind(self.app.house.newsletter)
        .execute()
        .await
        .unwrap();
        db.write(
            "INSERT INTO delivery (issue_id, subscriber_id, state, stage, provider, claim_id) \
             VALUES (1, $1, 3, 0, 1, 1)",
        )
        .bind(id)
        .execute()
        .await
        .unwrap();
        let copy = CopyId::Issue { issue: IssueId(1), subscriber: id };
        (id, message_id(&self.app.house.keyring, copy, "example.com"))
    }

    async fn post(&self, name: &str, sent: &Sent) -> (u16, Value) {
        let query = sent.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
        let request = self.app.client.post(self.app.url(&format!("/hooks/{name}{query}")));
        let answer = request.headers(sent.headers.clone()).body(sent.body.clone());
        let answer = answer.send().await.unwrap();
        let status = answer.status().as_u16();
        let kind = answer.headers()["content-type"].to_str().unwrap().to_owned();
        assert_eq!(kind.contains("problem"), status >= 400, "{status} {kind}");
        assert!(answer.headers().get("set-cookie").is_none());
        (status, serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap())
    }

    async fn suppressions(&self) -> i64 {
        self.app.house.count("SELECT COUNT(*) FROM suppression").await
    }

    fn public_url(&self) -> String {
        self.app.url("/")
    }
}

/// All but Amazon, whose certificate has to be fetched, and the one that names no copy.
fn plain() -> impl Iterator<Item = Provider> {
    let apart = [Provider::AmazonSes, Provider::Mailersend];
    Provider::ALL.into_iter().filter(move |provider| !apart.contains(provider))
}

#[tokio::test]
async fn what_a_provider_posts_is_done_once() {
    let hooks = Hooks::spawn().await;
    let mut seen = 0;
    for provider in plain() {
        let typed = format!("ada@{provider}.example");
        let (_, id) = hooks.reader(&typed).await;
        let now = hooks.app.house.now;
        let said = Said::new("bounced", &typed, now).of(&id);
        let sender = hooks.sender(provider);
        let mut sent = sender.sign(payload(provider, &said), now, &hooks.public_url());
        // There is no session, and so no form to protect.
        sent.headers.insert("origin", "https://elsewhere.example".parse().unwrap());
        sent.headers.insert("sec-fetch-site", "cross-site".parse().unwrap());
        let (status, answer) = hooks.post(provider.as_str(), &sent).await;
        assert_eq!(status, 200, "{provider}: {answer}");
        assert_eq!(answer, json!({ "events": 1, "outcomes": { "suppressed": 1 } }), "{provider}");
        seen += 1;
        assert_eq!(hooks.suppressions().await, seen, "{provider}");
        // A provider that did not see the answer sends it again, and is to be content.
        let (status, answer) = hooks.post(provider.as_str(), &sent).await;
        assert_eq!((status, &answer["outcomes"]["repeated"]), (200, &json!(1)), "{provider}");
    }
}

#[tokio::test]
async fn strangers_are_told_no_and_change_nothing() {
    let hooks = Hooks::spawn().await;
    let (_, id) = hooks.reader("ada@example.net").await;
    let now = hooks.app.house.now;
    let said = Said::new("bounced", "ada@example.net", now).of(&id);
    for provider in plain() {
        let url = hooks.public_url();
        let forged = Sender::impostor(provider).sign(payload(provider, &said), now, &url);
        let mut with_cookie = forged.clone();
        with_cookie.headers.insert("cookie", "postrider=token-of-admin".parse().unwrap());
        with_cookie.headers.insert("accept", "text/html".parse().unwrap());
        let bare = Sent { body: payload(provider, &said), ..Sent::default() };
        for sent in [forged, with_cookie, bare] {
            let (status, answer) = hooks.post(provider.as_str(), &sent).await;
            let unreadable = status == 400 && answer["code"] == "bad-request";
            let refused = status == 401 && answer["code"] == "not-authentic";
            assert!(refused || unreadable, "{provider}: {status} {answer}");
        }
    }
    for body in ["", "{", "null", "\0", "a=b"] {
        for provider in Provider::ALL {
            let sent = Sent { body: body.as_bytes().to_vec(), ..Sent::default() };
            let (status, answer) = hooks.post(provider.as_str(), &sent).await;
            assert!(matches!(status, 400 | 401), "{provider} {body:?}: {status} {answer}");
        }
    }
    assert_eq!(hooks.post("unknown", &Sent::default()).await.0, 404);
    assert_eq!(hooks.suppressions().await, 0);
    assert_eq!(hooks.app.house.count("SELECT COUNT(*) FROM inbound_mail").await, 0);
}

#[tokio::test]
async fn a_webhook_takes_posts_and_says_to_others_that_it_is_there() {
    let hooks = Hooks::spawn().await;
    for (method, name, expected) in [
        (Method::GET, "mandrill", 200),
        (Method::HEAD, "mandrill", 200),
        (Method::GET, "unknown", 404),
        (Method::PUT, "mandrill", 405),
        (Method::DELETE, "mandrill", 405),
    ] {
        let url = hooks.app.url(&format!("/hooks/{name}"));
        let answer = hooks.app.client.request(method.clone(), url).send().await.unwrap();
        assert_eq!(answer.status(), expected, "{method} {name}");
    }
    // A newsletter of that name would stand in the way.
    let new = crate::newsletter::NewNewsletter {
        slug: "hooks".to_owned(),
        name: "Hooks".to_owned(),
        description: String::new(),
        from_address: crate::address::Address::parse("e@example.com").unwrap(),
    };
    let house = &hooks.app.house;
    let refused = crate::newsletter::create(&house.db, &new, house.now).await;
    assert!(refused.unwrap_err().to_string().contains("providers post there"));
}

#[tokio::test]
async fn an_origin_that_shows_the_secret_may_post_cloud_events() {
    let hooks = Hooks::spawn().await;
    let now = hooks.app.house.now;
    let ask = async |provider: Provider, sender: &Sender, origin: Option<&str>| {
        let sent = sender.sign(Vec::new(), now, &hooks.public_url());
        let query = sent.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
        let url = hooks.app.url(&format!("/hooks/{provider}{query}"));
        let mut request = hooks.app.client.request(Method::OPTIONS, url).headers(sent.headers);
        if let Some(origin) = origin {
            request = request.header("webhook-request-origin", origin);
        }
        let answer = request.send().await.unwrap();
        let allowed = answer.headers().get("webhook-allowed-origin").cloned();
        (answer.status().as_u16(), allowed)
    };
    let azure = hooks.sender(Provider::Azure);
    let name = "eventgrid.azure.net";
    let origin = Some(name);
    let (status, allowed) = ask(Provider::Azure, azure, origin).await;
    assert_eq!((status, allowed.unwrap()), (200, name.parse().unwrap()));
    assert_eq!(ask(Provider::Azure, azure, None).await, (400, None));
    let stranger = Sender::impostor(Provider::Azure);
    assert_eq!(ask(Provider::Azure, &stranger, origin).await, (401, None));
    // Who signs bodies has nothing to show here.
    let generic = hooks.sender(Provider::Generic);
    assert_eq!(ask(Provider::Generic, generic, origin).await, (401, None));
}

#[tokio::test]
async fn five_megabytes_are_read_and_no_more_and_other_pages_take_what_they_took() {
    let hooks = Hooks::spawn().await;
    let now = hooks.app.house.now;
    let sender = hooks.sender(Provider::Generic);
    let large = |size: usize| {
        let padding = "x".repeat(size - 40);
        sender.sign(format!("{{\"events\":[],\"x\":\"{padding}\"}}").into_bytes(), now, "")
    };
    let (status, answer) = hooks.post("generic", &large(4_000_000)).await;
    assert_eq!((status, answer), (200, json!({ "events": 0, "outcomes": {} })));
    let (status, answer) = hooks.post("generic", &large(SIZE_MAX + 100)).await;
    assert_eq!((status, &answer["code"]), (413, &json!("too-large")));
    let elsewhere = hooks.app.post("/sre/subscribe").body("x".repeat(100_000)).send().await;
    assert!(elsewhere.is_err() || elsewhere.unwrap().status() == 413);
}

#[tokio::test]
async fn when_the_database_fails_the_provider_is_asked_to_come_again() {
    let hooks = Hooks::spawn().await;
    let (_, id) = hooks.reader("ada@example.net").await;
    let now = hooks.app.house.now;
    let said = Said::new("bounced", "ada@example.net", now).of(&id);
    let sender = hooks.sender(Provider::Resend);
    let sent = sender.sign(payload(Provider::Resend, &said), now, "");
    let db = &hooks.app.house.db;
    db.write("ALTER TABLE inbound_mail RENAME TO aside").execute().await.unwrap();
    let (status, answer) = hooks.post("resend", &sent).await;
    assert_eq!((status, &answer["code"]), (503, &json!("not-ready")));
    assert_eq!(hooks.suppressions().await, 0);
    db.write("ALTER TABLE aside RENAME TO inbound_mail").execute().await.unwrap();
    // What was not taken counts when it comes again.
    let (status, answer) = hooks.post("resend", &sent).await;
    assert_eq!((status, &answer["outcomes"]["suppressed"]), (200, &json!(1)));
}

/// A server in Amazon's place: the certificate, and an address that confirms.
async fn amazon(pem: &'static str) -> (SocketAddr, Arc<[AtomicUsize; 2]>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
    let counts = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = vec![0; 8_192];
            let mut read = 0;
            while !head[..read].ends_with(b"\r\n\r\n") {
                read += stream.read(&mut head[read..]).await.unwrap();
            }
            let head = String::from_utf8_lossy(&head[..read]).into_owned();
            assert!(head.contains("sns.eu-west-1.amazonaws.com"), "{head}");
            let confirms = head.starts_with("GET /?Action=Go ");
            counts[usize::from(confirms)].fetch_add(1, Ordering::Relaxed);
            let body = if confirms { "<ok/>" } else { pem };
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (address, asked)
}

#[tokio::test]
async fn amazons_certificate_is_fetched_once_and_a_subscription_confirmed() {
    let pem = Sender::new(Provider::AmazonSes).pem();
    let (address, asked) = amazon(pem).await;
    let hooks = Hooks::spawn_with(|config| {
        for hook in &mut config.bounces.webhook {
            hook.rehearsal_origin = Some(format!("http://{address}/").parse().unwrap());
        }
    })
    .await;
    let (_, id) = hooks.reader("ada@example.net").await;
    let now = hooks.app.house.now;
    let sender = hooks.sender(Provider::AmazonSes);
    let body = |envelope: Value| Sent { body: envelope.to_string().into(), ..Sent::default() };
    // Another topic is refused before anything is fetched.
    let mut other = sender.envelope("SubscriptionConfirmation", "m", now);
    other["TopicArn"] = "arn:aws:sns:eu-west-1:6:other".into();
    assert_eq!(hooks.post("amazon-ses", &body(other)).await.0, 401);
    assert_eq!(asked[0].load(Ordering::Relaxed), 0);
    let confirmation = body(sender.envelope("SubscriptionConfirmation", "m", now));
    let (status, answer) = hooks.post("amazon-ses", &confirmation).await;
    assert_eq!((status, answer), (200, json!({ "confirmed": true })));
    assert_eq!(asked[1].load(Ordering::Relaxed), 1);
    let said = Said::new("complained", "ada@example.net", now).of(&id);
    let (status, answer) = hooks.post("amazon-ses", &sender.send(&said, now)).await;
    assert_eq!((status, &answer["outcomes"]["suppressed"]), (200, &json!(1)), "{answer}");
    let forged = Sender::impostor(Provider::AmazonSes).send(&said, now);
    assert_eq!(hooks.post("amazon-ses", &forged).await.0, 401);
    assert_eq!(asked[0].load(Ordering::Relaxed), 1, "the certificate is remembered");
}

#[tokio::test]
async fn without_amazons_certificate_the_provider_is_asked_to_come_again() {
    let hooks = Hooks::spawn_with(|config| {
        for hook in &mut config.bounces.webhook {
            // Nobody listens there.
            hook.rehearsal_origin = Some("http://127.0.0.1:9/".parse().unwrap());
        }
    })
    .await;
    let now = hooks.app.house.now;
    let said = Said::new("complained", "ada@example.net", now);
    let sent = hooks.sender(Provider::AmazonSes).send(&said, now);
    assert_eq!(hooks.post("amazon-ses", &sent).await.0, 503);
}
