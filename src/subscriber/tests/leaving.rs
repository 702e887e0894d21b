use super::*;
use crate::{
    db::state::EventKind,
    id::IssueId,
    subscriber::suppression::{self, Reason},
};

record! {
    struct Logged {
        kind: EventKind,
        issue_id: Option<IssueId>,
        text: Option<String>,
    }
}

#[tokio::test]
async fn leaving_works_any_number_of_times_and_is_logged_once() {
    let house = House::new().await;
    let id = house.subscribe("ada@example.com").await;
    let token = ReaderToken { issue: Some(IssueId(7)), ..house.token(id) };
    for round in 0..3 {
        let how = (Via::OneClick, Some(" too\r\nmuch mail "));
        let left =
            unsubscribe(&house.db, token, Scope::Newsletter, how, &origin(None), house.now).await;
        assert_eq!(left.unwrap().newsletters.len(), usize::from(round == 0));
    }
    assert_eq!(house.state("ada@example.com").await, Some(SubscriptionState::Unsubscribed));
    let sql = "SELECT kind, issue_id, text FROM event WHERE kind = 10";
    let log: Vec<Logged> = house.db.query(sql).all().await.unwrap();
    assert_eq!(log.len(), 1);
    assert_eq!(log[0].kind, EventKind::Unsubscribed);
    assert_eq!((log[0].issue_id, log[0].text.as_deref()), (Some(IssueId(7)), Some("toomuch mail")));
    // Nothing is written to somebody who left; the welcome that still waited is taken back.
    assert_eq!(house.waiting().await, [""; 0]);
}

#[tokio::test]
async fn a_reader_can_leave_one_newsletter_or_all() {
    let mut house = House::new().await;
    let first = house.newsletter;
    let id = house.subscribe("ada@example.com").await;
    house.newsletter = house.newsletter("second").await;
    house.subscribe("ada@example.com").await;
    house.newsletter = house.newsletter("third").await;
    house.sign_up("ada@example.com").await;
    let pending = house.link().await;

    house.newsletter = first;
    assert_eq!(house.leave(id, Scope::Newsletter).await.newsletters, [first]);
    assert_eq!(house.leave(id, Scope::Everything).await.newsletters.len(), 2);
    // The link that was under way brings nobody back.
    assert!(matches!(house.confirm(&pending).await, ConfirmOutcome::Used(_)));
    let states = subscriptions(&house.db, id).await.unwrap();
    assert!(states.iter().all(|s| s.state == SubscriptionState::Unsubscribed));
    assert_eq!(house.leave(SubscriberId(999), Scope::Everything).await, Left::default());
}

#[tokio::test]
async fn a_pause_is_for_active_subscriptions() {
    let house = House::new().await;
    let id = house.subscribe("ada@example.com").await;
    let until = house.now.plus(Duration::from_hours(24 * 30));
    assert!(pause(&house.db, house.newsletter, id, until).await.unwrap());
    assert_eq!(subscriptions(&house.db, id).await.unwrap()[0].paused_until, Some(until));
    assert!(resume(&house.db, house.newsletter, id).await.unwrap());
    assert_eq!(subscriptions(&house.db, id).await.unwrap()[0].paused_until, None);
    house.leave(id, Scope::Newsletter).await;
    assert!(!pause(&house.db, house.newsletter, id, until).await.unwrap());
}

#[tokio::test]
async fn a_stronger_reason_replaces_a_weaker_one_only() {
    let house = House::new().await;
    for (reason, changes, stands) in [
        (Reason::Bounce, true, "bounce"),
        (Reason::Erased, false, "bounce"),
        (Reason::Complaint, true, "complaint"),
        (Reason::Bounce, false, "complaint"),
        (Reason::Manual, false, "complaint"),
    ] {
        assert_eq!(house.suppress("ada@example.com", reason).await, changes, "{reason}");
        assert_eq!(house.suppressed("ada@example.com").await.as_deref(), Some(stands));
    }
    let all = suppression::list(&house.db, None, house.now.plus(Duration::from_secs(1)), 10);
    assert_eq!(all.await.unwrap().len(), 1);
    let act = act("subscriber.unsuppress");
    let ada = address("ada@example.com");
    let lifted = suppression::unsuppress(&house.db, &house.keyring, &ada, act, house.now);
    assert_eq!(lifted.await.unwrap(), Some(Reason::Complaint));
    assert_eq!(house.suppressed("ada@example.com").await, None);
    assert_eq!(house.count("SELECT count(*) FROM audit").await, 3);
}

#[tokio::test]
async fn erasure_leaves_a_hash_and_nothing_personal() {
    let house = House::new().await;
    let id = house.subscribe("ada@example.com").await;
    set_name(&house.db, id, "Ada").await.unwrap();
    let mut bounced = crate::event::Event::new(EventKind::Bounced, house.now);
    bounced = bounced.about(None, Some(id)).because("<ada@example.com>: mailbox full");
    let mut tx = house.db.begin().await.unwrap();
    crate::event::record(&mut tx, &[bounced]).await.unwrap();
    tx.commit().await.unwrap();
    let data = own_data(&house.db, id).await.unwrap().unwrap();
    let json = serde_json::to_string(&data).unwrap();
    assert!(json.contains("ada@example.com") && json.contains("mailbox full"), "{json}");

    assert!(
        request_data_link(&house.db, &house.keyring, house.token(id), house.now).await.unwrap()
    );
    let again = request_data_link(&house.db, &house.keyring, house.token(id), house.now).await;
    assert!(!again.unwrap(), "a second link at once");
    let link = house.link().await;
    // A link for one purpose opens nothing else.
    assert_eq!(house.confirm(&link).await, ConfirmOutcome::Unknown);
    let day_later = house.now.plus(Duration::from_hours(24));
    assert_eq!(data_link(&house.db, &link, day_later).await.unwrap(), None);
    assert!(erase_by_link(&house.db, &house.keyring, &link, house.now).await.unwrap());
    assert!(!erase_by_link(&house.db, &house.keyring, &link, house.now).await.unwrap());

    // Not in any text of the database; the log of changes is folded in before looking.
    for table in every_row(&house.db).await {
        assert!(!table.contains("ada@example.com"), "{table}");
        assert!(!table.contains("2001:db8::7"), "{table}");
    }
    assert_eq!(house.suppressed("ada@example.com").await.as_deref(), Some("erased"));
    assert!(find(&house.db, &house.keyring, &address("ada@example.com")).await.unwrap().is_none());
    // Links in old mails still work, and reach nobody else.
    assert_eq!(house.leave(id, Scope::Newsletter).await, Left::default());
    // Who was erased may come back by themselves, as somebody new.
    let mut house = house;
    house.pass(Duration::from_hours(25));
    assert_ne!(house.subscribe("ada@example.com").await, id);
    assert_eq!(house.suppressed("ada@example.com").await, None);
}

record! {
    struct Texts {
        texts: String,
    }
}

/// Every row of every table that holds anything about people, as text.
async fn every_row(db: &Db) -> Vec<String> {
    let mut rows = Vec::new();
    for sql in [
        "SELECT json_array(address, name, attributes) AS texts FROM subscriber",
        "SELECT json_array(ip, user_agent, form, source, message_id) AS texts FROM consent",
        "SELECT json_array(address, reason, detail) AS texts FROM suppression",
        "SELECT json_array(address, parameters, reason) AS texts FROM service_mail",
        "SELECT json_array(text) AS texts FROM event",
        "SELECT json_array(actor, target, detail) AS texts FROM audit",
        "SELECT json_array(scope) AS texts FROM signup_count",
    ] {
        let found: Vec<Texts> = db.query(sql).all().await.unwrap();
        rows.extend(found.into_iter().map(|row| row.texts));
    }
    rows
}

#[tokio::test]
async fn a_csv_export_holds_everybody_and_no_formula() {
    let house = House::new().await;
    let ada = house.subscribe("ada@example.com").await;
    set_name(&house.db, ada, "=HYPERLINK(\"x\"), \"Ada\"").await.unwrap();
    house.suppress("ada@example.com", Reason::Bounce).await;
    house.sign_up("bob@example.com").await;
    let mut out = Vec::new();
    assert_eq!(export_csv(&house.db, house.newsletter, &mut out).await.unwrap(), 2);
    let text = String::from_utf8(out).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[0].starts_with("address,name,state,"));
    assert!(
        lines[1].starts_with("ada@example.com,\"'=HYPERLINK(\"\"x\"\"), \"\"Ada\"\"\",active,")
    );
    assert!(lines[1].ends_with(",bounce"), "{}", lines[1]);
    assert!(lines[2].starts_with("bob@example.com,,pending,"));
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let house = House::new().await;
    for typed in ["a@gmail.com", "b@example.com", "c@example.com"] {
        house.subscribe(typed).await;
    }
    house.sign_up("d@example.com").await;
    house.suppress("b@example.com", Reason::Manual).await;
    let addresses = async |filter: Filter, after, limit| {
        let rows = list(&house.db, house.newsletter, &filter, after, limit).await.unwrap();
        rows.into_iter().map(|row| row.address.unwrap()).collect::<Vec<_>>()
    };
    let all = Filter::default();
    let first = SubscriberId(0);
    let page = addresses(all.clone(), first, 3).await;
    assert_eq!(page, ["a@gmail.com", "b@example.com", "c@example.com"]);
    let last = house.subscriber("c@example.com").await;
    assert_eq!(addresses(all.clone(), last, 3).await, ["d@example.com"]);
    let pending = Filter { state: Some(SubscriptionState::Pending), ..all.clone() };
    assert_eq!(addresses(pending, first, 9).await, ["d@example.com"]);
    let google = Filter { provider: Some(1), ..all.clone() };
    assert_eq!(addresses(google, first, 9).await, ["a@gmail.com"]);
    let suppressed = Filter { suppressed: Some(true), ..all.clone() };
    assert_eq!(addresses(suppressed, first, 9).await, ["b@example.com"]);
    let contains = Filter { address_contains: Some("c@ex".into()), ..all };
    assert_eq!(addresses(contains, first, 9).await, ["c@example.com"]);
    let counts = state_counts(&house.db, house.newsletter).await.unwrap();
    assert_eq!(counts, [(SubscriptionState::Pending, 1), (SubscriptionState::Active, 3)]);
}
