//! Events that providers posted, after their proof.

use std::collections::BTreeMap;

use super::*;
use crate::bounce::intake::webhook::{
    HookEvent, Opened, Provider,
    tests::{Said, Sender, tells},
};

impl House {
    /// Takes events as the webhook of `provider` would, for copies of `relay`.
    async fn post(
        &self,
        provider: Provider,
        relay: Option<&str>,
        events: &[HookEvent],
    ) -> BTreeMap<&'static str, u64> {
        let post = Post { hook: provider.as_str(), provider, relay };
        let (db, keyring) = (&self.db, &self.keyring);
        provider_events(db, keyring, &self.rules, post, events, self.now).await.unwrap()
    }

    /// What `provider` says, as read from its own payload.
    fn events(&self, provider: Provider, said: &Said) -> Vec<HookEvent> {
        let sender = Sender::new(provider);
        let sent = sender.send(said, self.now);
        let opened = sender.hook().open(&sent.request(), sender.certificate().as_ref(), self.now);
        let Ok(Opened::Events(events)) = opened else { panic!("{provider}: {opened:?}") };
        events
    }

    /// Writes down that `relay` took the copy.
    async fn taken(&self, copy: CopyId, relay: &str) {
        let CopyId::Issue { issue, subscriber } = copy else { unreachable!() };
        let mut event = Event::new(EventKind::Accepted, self.now);
        event = event.about(Some(issue), Some(subscriber));
        event.relay = Some(relay.to_owned());
        let mut tx = self.db.begin().await.unwrap();
        crate::event::record(&mut tx, &[event]).await.unwrap();
        tx.commit().await.unwrap();
    }
}

fn one(outcome: Outcome) -> BTreeMap<&'static str, u64> {
    BTreeMap::from([(outcome.as_str(), 1)])
}

#[tokio::test]
async fn every_providers_bounce_suppresses_once_and_is_kept_as_evidence() {
    let house = House::new().await;
    let issue = house.issue(1).await;
    for provider in Provider::ALL {
        let typed = format!("ada@{provider}.example");
        let ada = house.reader(&typed).await;
        let copy = house.copy(issue, ada, CopyState::Accepted).await;
        house.taken(copy, "main").await;
        // The copy of one who forwards: what we sent says whose it was.
        let named = if provider == Provider::Mailersend { &typed } else { "else@example.net" };
        let said = Said::new("bounced", named, house.now).of(&house.message_id(copy));
        let events = house.events(provider, &said);
        let relay = Some("main");
        assert_eq!(
            house.post(provider, relay, &events).await,
            one(Outcome::Suppressed),
            "{provider}"
        );
        assert_eq!(house.suppressed(&typed).await.as_deref(), Some("bounce"), "{provider}");
        let log = house.log(ada).await;
        let [_, bounced, suppressed] = &log[..] else { panic!("{provider}: {log:?}") };
        assert_eq!((bounced.kind, bounced.issue_id), (EventKind::Bounced, Some(issue)));
        assert_eq!(bounced.class.as_deref(), Some("recipient.permanent"), "{provider}");
        assert_eq!(suppressed.kind, EventKind::Suppressed);
        // The same again, and the same told anew.
        assert_eq!(
            house.post(provider, relay, &events).await,
            one(Outcome::Repeated),
            "{provider}"
        );
        let anew = Said { id: "another".to_owned(), ..said };
        let anew = house.events(provider, &anew);
        assert_eq!(house.post(provider, relay, &anew).await, one(Outcome::Repeated), "{provider}");
        assert_eq!(house.log(ada).await.len(), 3, "{provider}");
        let received = list(&house.db, "failed", "suppressed", 1).await.unwrap();
        assert_eq!(received[0].source, format!("webhook {provider} {provider}"));
        assert_eq!(provider_of(&received[0].source), Some(provider));
        assert_eq!(received[0].subscriber_id, Some(ada));
        let (_, raw) = show(&house.db, received[0].id).await.unwrap().unwrap();
        let again = crate::bounce::intake::webhook::read(provider, &raw).unwrap();
        assert_eq!(again[0].recipient, events[0].recipient, "{provider}");
    }
}

#[tokio::test]
async fn complaints_leavings_delays_and_arrivals_do_as_mails_do() {
    for (what, outcome) in [
        ("complained", Outcome::Suppressed),
        ("unsubscribed", Outcome::Unsubscribed),
        ("deferred", Outcome::Delayed),
        ("delivered", Outcome::Arrived),
    ] {
        let house = House::new().await;
        let issue = house.issue(1).await;
        for provider in Provider::ALL.into_iter().filter(|one| tells(*one, what)) {
            let typed = format!("ada@{provider}.example");
            let ada = house.reader(&typed).await;
            let copy = house.copy(issue, ada, CopyState::Uncertain).await;
            house.taken(copy, "main").await;
            let mut said = Said::new(what, &typed, house.now).of(&house.message_id(copy));
            said.reply = "451 4.7.1 greylisted".to_owned();
            let events = house.events(provider, &said);
            let done = house.post(provider, Some("main"), &events).await;
            assert_eq!(done, one(outcome), "{provider} {what}");
            let reason = house.suppressed(&typed).await;
            let expected = (what == "complained").then_some("complaint");
            assert_eq!(reason.as_deref(), expected, "{provider} {what}");
            let state = house.state(copy).await;
            let arrived = matches!(what, "delivered" | "complained");
            assert_eq!(state == CopyState::Accepted, arrived, "{provider} {what}: {state}");
        }
    }
}

#[tokio::test]
async fn an_address_alone_names_the_last_copy_of_the_hooks_own_relay() {
    let mut house = House::new().await;
    let (issue, ada) = (house.issue(1).await, house.reader("Ada@example.net").await);
    let copy = house.copy(issue, ada, CopyState::Accepted).await;
    house.taken(copy, "main").await;
    let provider = Provider::Mailtrap;
    let tell =
        |house: &House, to: &str| house.events(provider, &Said::new("bounced", to, house.now));
    let nobody = one(Outcome::Unattributed);
    for (relay, to) in [
        (None, "ada@example.net"),
        (Some("spare"), "ada@example.net"),
        (Some("main"), "grace@example.net"),
        (Some("main"), "nonsense"),
    ] {
        let events = tell(&house, to);
        assert_eq!(house.post(provider, relay, &events).await, nobody, "{relay:?} {to}");
    }
    // An event from before the copy was taken, whoever kept it so long.
    let early = Said::new("bounced", "ada@example.net", house.now.minus(Duration::from_hours(2)));
    let early = house.events(provider, &early);
    assert_eq!(house.post(provider, Some("main"), &early).await, nobody);
    // One that comes long after it.
    house.pass_days(8);
    let late = tell(&house, "ada@example.net");
    assert_eq!(house.post(provider, Some("main"), &late).await, nobody);
    assert_eq!(house.count("SELECT COUNT(*) FROM suppression").await, 0);
    // A token goes before the address, and one that is not ours is as none.
    house.now = house.now.minus(Duration::from_hours(7 * 24));
    let foreign = Keyring::ephemeral(house.now);
    let forged = Said::new("bounced", "ada@example.net", house.now).of(&message_id(
        &foreign,
        copy,
        "example.com",
    ));
    let forged = house.events(provider, &forged);
    assert_eq!(house.post(provider, None, &forged).await, nobody);
    let events = tell(&house, "ADA@EXAMPLE.net");
    assert_eq!(house.post(provider, Some("main"), &events).await, one(Outcome::Suppressed));
    assert_eq!(house.log(ada).await[1].issue_id, Some(issue));
}

#[tokio::test]
async fn events_of_long_ago_and_numbers_that_were_used_do_nothing() {
    let mut house = House::new().await;
    let issue = house.issue(1).await;
    let (ada, grace) = (house.reader("ada@a.example").await, house.reader("grace@b.example").await);
    let copies = [
        house.copy(issue, ada, CopyState::Accepted).await,
        house.copy(issue, grace, CopyState::Accepted).await,
    ];
    let ids = copies.map(|copy| house.message_id(copy));
    let month = house.now.minus(Duration::from_hours(30 * 24));
    for provider in [Provider::Mailtrap, Provider::Postal, Provider::Mandrill] {
        let events =
            house.events(provider, &Said::new("bounced", "ada@a.example", month).of(&ids[0]));
        assert_eq!(house.post(provider, None, &events).await, one(Outcome::Nothing), "{provider}");
    }
    // Mailgun signs a number and not what comes with it: whoever overheard one event, however
    // harmless, could put another in its place.
    let opened = serde_json::json!({ "event-data": { "event": "opened" },
        "signature": { "token": "t1" } });
    let opened =
        crate::bounce::intake::webhook::read(Provider::Mailgun, opened.to_string().as_bytes());
    assert_eq!(house.post(Provider::Mailgun, None, &opened.unwrap()).await, one(Outcome::Nothing));
    let mut events = house
        .events(Provider::Mailgun, &Said::new("bounced", "grace@b.example", house.now).of(&ids[1]));
    events[0].id = Some("t1".to_owned());
    assert_eq!(house.post(Provider::Mailgun, None, &events).await, one(Outcome::Repeated));
    assert_eq!(house.count("SELECT COUNT(*) FROM suppression").await, 0);
    // What is remembered is forgotten after a month.
    assert_eq!(house.count("SELECT COUNT(*) FROM seen_event").await, 1);
    house.pass_days(31);
    forget_old(&house.db, house.now).await.unwrap();
    assert_eq!(house.count("SELECT COUNT(*) FROM seen_event").await, 0);
}

#[tokio::test]
async fn copies_that_arrived_leave_no_evidence_and_a_large_batch_is_taken_whole() {
    let house = House::new().await;
    let issue = house.issue(1).await;
    let mut events = Vec::new();
    for number in 0..250 {
        let typed = format!("reader{number}@example.net");
        let reader = house.reader(&typed).await;
        let copy = house.copy(issue, reader, CopyState::Accepted).await;
        let what = if number % 50 == 0 { "complained" } else { "delivered" };
        let said = Said::new(what, &typed, house.now).of(&house.message_id(copy));
        events.extend(house.events(Provider::Sendgrid, &said));
    }
    let done = house.post(Provider::Sendgrid, None, &events).await;
    assert_eq!(done, BTreeMap::from([("nothing", 245), ("suppressed", 5)]));
    assert_eq!(house.count("SELECT COUNT(*) FROM inbound_mail").await, 5);
}

#[tokio::test]
async fn nothing_is_kept_of_whoever_was_erased() {
    let house = House::new().await;
    let (issue, ada) = (house.issue(1).await, house.reader("ada@example.net").await);
    let copy = house.copy(issue, ada, CopyState::Accepted).await;
    let act =
        crate::audit::Act { actor: "test", action: "erase", target: "ada", detail: "asked for" };
    crate::subscriber::erase(&house.db, &house.keyring, ada, act, house.now).await.unwrap();
    let said = Said::new("bounced", "ada@example.net", house.now).of(&house.message_id(copy));
    let events = house.events(Provider::Postal, &said);
    assert_eq!(house.post(Provider::Postal, None, &events).await, one(Outcome::Unattributed));
    let kept = "SELECT COUNT(*) FROM inbound_mail WHERE length(raw) > 0";
    assert_eq!(house.count(kept).await, 0);
}
