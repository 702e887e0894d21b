//! Reports with a genuine token.

use super::*;

#[tokio::test]
async fn a_dead_address_is_suppressed_by_its_report_and_the_ledger_keeps_its_word() {
    let house = House::new().await;
    let (issue, ada) = (house.issue(1).await, house.reader("Ada@example.net").await);
    let copy = house.copy(issue, ada, CopyState::Accepted).await;
    let applied = house.bring(dsn("ada@example.net", "failed", DEAD), &house.verp(copy)).await;
    assert_eq!(applied.outcome, Outcome::Suppressed);
    assert_eq!((applied.attribution, applied.issue), (Attribution::Verp, Some(issue)));
    assert_eq!(house.suppressed("ada@example.net").await.as_deref(), Some("bounce"));
    assert_eq!(house.state(copy).await, CopyState::Accepted);
    let log = house.log(ada).await;
    let [bounced, suppressed] = &log[..] else { panic!("{log:?}") };
    assert_eq!((bounced.kind, bounced.issue_id), (EventKind::Bounced, Some(issue)));
    assert_eq!((bounced.code, bounced.enhanced.as_deref()), (Some(550), Some("5.1.1")));
    assert_eq!(bounced.class.as_deref(), Some("recipient.permanent"));
    assert!(bounced.rule.is_some());
    let text = bounced.text.as_deref().unwrap();
    assert!(text.contains("User unknown") && !text.contains("reported for"), "{text}");
    assert_eq!(suppressed.kind, EventKind::Suppressed);
    assert!(suppressed.text.as_deref().unwrap().contains("User unknown"));
}

#[tokio::test]
async fn the_same_report_again_counts_once() {
    let house = House::new().await;
    let (issue, ada) = (house.issue(1).await, house.reader("ada@example.net").await);
    let copy = house.copy(issue, ada, CopyState::Accepted).await;
    for (report, first) in [
        (dsn("ada@example.net", "delayed", "452 4.2.2 Mailbox is full"), Outcome::Delayed),
        (dsn("ada@example.net", "failed", FULL), Outcome::Counted),
        (arf(&format!("Message-ID: <{}>\r\n", house.message_id(copy))), Outcome::Suppressed),
        ("Subject: leave\r\n\r\n".to_owned(), Outcome::Unsubscribed),
    ] {
        let unsubscribe = first == Outcome::Unsubscribed;
        let to = if unsubscribe { house.mailto(ada, Some(issue)) } else { house.verp(copy) };
        assert_eq!(house.bring(&report, &to).await.outcome, first);
        let events = house.log(ada).await.len();
        for _ in 0..3 {
            assert_eq!(house.bring(&report, &to).await.outcome, Outcome::Repeated);
        }
        assert_eq!(house.log(ada).await.len(), events, "{report}");
    }
    assert_eq!(house.count("SELECT COUNT(*) FROM soft_bounce").await, 1);
    assert_eq!(house.count("SELECT COUNT(*) FROM inbound_mail").await, 16);
    let repeated = list(&house.db, "", "repeated", 50).await.unwrap();
    assert_eq!(repeated.len(), 12);
    assert!(repeated.is_sorted_by(|a, b| a.id > b.id), "the latest first");
    let [counted] = &list(&house.db, "failed", "counted", 50).await.unwrap()[..] else { panic!() };
    let (shown, raw) = show(&house.db, counted.id).await.unwrap().unwrap();
    assert_eq!((&shown, raw.len() as i64), (counted, counted.octets));
    assert_eq!(show(&house.db, 999).await.unwrap(), None);
}

#[tokio::test]
async fn a_delay_that_is_the_end_counts_as_a_failure() {
    let house = House::new().await;
    let (issue, ada) = (house.issue(1).await, house.reader("ada@example.net").await);
    let copy = house.copy(issue, ada, CopyState::Accepted).await;
    for (said, outcome) in [
        ("450 4.2.1 Try again later", Outcome::Delayed),
        ("Envelope expired", Outcome::Counted),
        ("Envelope expired", Outcome::Repeated),
    ] {
        let report = dsn("ada@example.net", "delayed", said);
        assert_eq!(house.bring(report, &house.verp(copy)).await.outcome, outcome, "{said}");
    }
    assert_eq!(house.log(ada).await[1].class.as_deref(), Some("network.transient"));
}

#[tokio::test]
async fn the_token_wins_over_the_address_that_a_report_names() {
    let house = House::new().await;
    let (issue, ada) = (house.issue(1).await, house.reader("ada@example.net").await);
    house.reader("grace@example.org").await;
    let copy = house.copy(issue, ada, CopyState::Accepted).await;
    let applied = house.bring(dsn("grace@example.org", "failed", DEAD), &house.verp(copy)).await;
    assert_eq!(applied.subscriber, Some(ada));
    assert_eq!(house.suppressed("ada@example.net").await.as_deref(), Some("bounce"));
    assert_eq!(house.suppressed("grace@example.org").await, None);
    let log = house.log(ada).await;
    let text = log[0].text.as_deref().unwrap();
    assert!(text.ends_with("(reported for grace@example.org)"), "{text}");
}

#[tokio::test]
async fn what_came_back_names_the_copy_where_the_envelope_does_not() {
    let house = House::new().await;
    let issue = house.issue(1).await;
    let fields = ["Message-ID", "List-Unsubscribe", "Return-Path"];
    for (number, field) in fields.into_iter().enumerate() {
        let typed = format!("reader{number}@example.net");
        let reader = house.reader(&typed).await;
        let copy = house.copy(issue, reader, CopyState::Accepted).await;
        let mailto = house.mailto(reader, Some(issue));
        let value = match field {
            "Message-ID" => format!("<{}>", house.message_id(copy)),
            "Return-Path" => format!("<{}>", house.verp(copy)),
            _ => format!("<https://example.com/u/x>,\r\n <mailto:{mailto}>"),
        };
        let returned = format!("{field}: {value}\r\n");
        let report = dsn_with(&typed, "failed", DEAD, &returned);
        let applied = house.bring(report, "postmaster@bounce.localhost").await;
        assert_eq!(applied.attribution, Attribution::ReturnedHeaders, "{field}");
        assert_eq!(applied.issue, Some(issue), "{field}");
        assert_eq!(house.suppressed(&typed).await.as_deref(), Some("bounce"), "{field}");
    }
    // Our ENVID, when the server kept it.
    let reader = house.reader("envid@example.net").await;
    let copy = house.copy(issue, reader, CopyState::Accepted).await;
    let token = DeliveryToken(copy).seal(&house.keyring);
    let report = dsn("envid@example.net", "failed", DEAD)
        .replace("Reporting-MTA:", &format!("Original-Envelope-Id: {token}\r\nReporting-MTA:"));
    assert_eq!(house.bring(report, "").await.outcome, Outcome::Suppressed);
}

#[tokio::test]
async fn a_complaint_suppresses_at_once_and_nobody_writes_to_that_person() {
    let house = House::new().await;
    let (issue, ada) = (house.issue(1).await, house.reader("ada@example.net").await);
    let copy = house.copy(issue, ada, CopyState::Accepted).await;
    let waiting = house.confirmation(ada, "ada@example.net").await;
    let mails = house.count("SELECT COUNT(*) FROM service_mail").await;
    let report = arf(&format!("Message-ID: <{}>\r\n", house.message_id(copy)));
    let applied = house.bring(report, "abuse@bounce.localhost").await;
    assert_eq!(applied.outcome, Outcome::Suppressed);
    assert_eq!(house.suppressed("ada@example.net").await.as_deref(), Some("complaint"));
    assert_eq!(house.state(waiting).await, CopyState::Cancelled);
    assert_eq!(house.count("SELECT COUNT(*) FROM service_mail").await, mails);
    let log = house.log(ada).await;
    assert_eq!((log[0].kind, log[0].issue_id), (EventKind::Complained, Some(issue)));
}

#[tokio::test]
async fn a_redacted_complaint_is_known_by_the_envelope_of_the_mail_it_is_about() {
    let house = House::new().await;
    let (issue, ada) = (house.issue(1).await, house.reader("ada@example.net").await);
    let copy = house.copy(issue, ada, CopyState::Accepted).await;
    let from = format!("Original-Mail-From: <{}>\r\nVersion: 1", house.verp(copy));
    let report = arf("To: redacted@provider.example\r\n").replace("Version: 1", &from);
    let applied = house.bring(report, "abuse@bounce.localhost").await;
    assert_eq!((applied.outcome, applied.subscriber), (Outcome::Suppressed, Some(ada)));
}

#[tokio::test]
async fn a_complaint_outranks_a_bounce() {
    let house = House::new().await;
    let (issue, ada) = (house.issue(1).await, house.reader("ada@example.net").await);
    let copy = house.copy(issue, ada, CopyState::Accepted).await;
    house.bring(dsn("ada@example.net", "failed", DEAD), &house.verp(copy)).await;
    house.bring(arf("To: undisclosed\r\n"), &house.verp(copy)).await;
    assert_eq!(house.suppressed("ada@example.net").await.as_deref(), Some("complaint"));
}

#[tokio::test]
async fn a_mail_to_the_unsubscribe_address_ends_that_subscription() {
    let house = House::new().await;
    let (issue, ada) = (house.issue(1).await, house.reader("ada@example.net").await);
    house.copy(issue, ada, CopyState::Accepted).await;
    let to = house.mailto(ada, Some(issue));
    let applied = house.bring("From: ada@example.net\r\n\r\nplease\r\n", &to).await;
    assert_eq!(applied.outcome, Outcome::Unsubscribed);
    assert_eq!(house.suppressed("ada@example.net").await, None);
    assert_eq!(house.count("SELECT state FROM subscription").await, 2);
    let log = house.log(ada).await;
    assert_eq!((log[0].kind, log[0].issue_id), (EventKind::Unsubscribed, Some(issue)));
    assert_eq!(log[0].class.as_deref(), Some("mail"));
}

#[tokio::test]
async fn an_uncertain_copy_is_settled_by_evidence() {
    let house = House::new().await;
    let issue = house.issue(1).await;
    for (number, (report, state)) in [
        (dsn("x@example.net", "failed", FULL), CopyState::Rejected),
        (dsn("x@example.net", "delivered", "250 2.1.5 OK"), CopyState::Accepted),
        (arf(""), CopyState::Accepted),
    ]
    .into_iter()
    .enumerate()
    {
        let reader = house.reader(&format!("reader{number}@example.net")).await;
        let copy = house.copy(issue, reader, CopyState::Uncertain).await;
        house.bring(report, &house.verp(copy)).await;
        assert_eq!(house.state(copy).await, state);
        let log = house.log(reader).await;
        assert!(log.iter().any(|line| line.kind == EventKind::Resolved), "{log:?}");
    }
}

#[tokio::test]
async fn a_delayed_copy_is_only_logged() {
    let house = House::new().await;
    let (issue, ada) = (house.issue(1).await, house.reader("ada@example.net").await);
    let copy = house.copy(issue, ada, CopyState::Accepted).await;
    let report = dsn("ada@example.net", "delayed", "450 4.1.1 User unknown");
    assert_eq!(house.bring(report, &house.verp(copy)).await.outcome, Outcome::Delayed);
    assert_eq!(house.count("SELECT COUNT(*) FROM soft_bounce").await, 0);
    assert_eq!(house.suppressed("ada@example.net").await, None);
    assert_eq!(house.log(ada).await[0].kind, EventKind::Delayed);
}

#[tokio::test]
async fn a_confirmation_that_comes_back_suppresses_and_settles_likewise() {
    let house = House::new().await;
    let ada = house.reader("ada@example.net").await;
    let copy = house.confirmation(ada, "ada@example.net").await;
    house.db.write("UPDATE service_mail SET state = 5").execute().await.unwrap();
    let applied = house.bring(dsn("ada@example.net", "failed", DEAD), &house.verp(copy)).await;
    assert_eq!((applied.outcome, applied.issue), (Outcome::Suppressed, None));
    assert_eq!(house.suppressed("ada@example.net").await.as_deref(), Some("bounce"));
    assert_eq!(house.state(copy).await, CopyState::Rejected);
    assert!(house.log(ada).await.iter().all(|line| line.service_id.is_some()));
    // Soft evidence on a service mail counts towards nothing.
    let again = house.confirmation(ada, "ada@example.net").await;
    let applied = house.bring(dsn("ada@example.net", "failed", FULL), &house.verp(again)).await;
    assert_eq!(applied.outcome, Outcome::Nothing);
}

#[tokio::test]
async fn what_is_our_fault_never_touches_the_reader() {
    let house = House::new().await;
    for (number, (words, outcome)) in [
        ("550 5.7.1 Message rejected due to the sender's reputation", Outcome::SenderRefused),
        ("550 5.7.26 DMARC check failed", Outcome::SenderRefused),
        ("554 5.7.1 Blocked by the Spamhaus block list", Outcome::SenderRefused),
        ("552 5.3.4 Message size exceeds fixed limit", Outcome::MessageRefused),
    ]
    .into_iter()
    .enumerate()
    {
        let typed = format!("reader{number}@example.net");
        let issue = house.issue(number as i64).await;
        let copy = house.copy(issue, house.reader(&typed).await, CopyState::Accepted).await;
        let applied = house.bring(dsn(&typed, "failed", words), &house.verp(copy)).await;
        assert_eq!(applied.outcome, outcome, "{words}");
    }
    assert_eq!(house.count("SELECT COUNT(*) FROM suppression").await, 0);
    assert_eq!(house.count("SELECT COUNT(*) FROM soft_bounce").await, 0);
    assert_eq!(house.count("SELECT COUNT(*) FROM event WHERE kind = 8").await, 4);
}

#[tokio::test]
async fn mails_are_kept_for_thirty_days_and_deleted_in_batches() {
    let mut house = House::new().await;
    for _ in 0..250 {
        house.bring("Subject: hello\r\n\r\n", "postmaster@bounce.localhost").await;
    }
    house.pass_days(1);
    house.bring("Subject: later\r\n\r\n", "postmaster@bounce.localhost").await;
    let at = |days: u64| house.now.plus(Duration::from_hours(24 * days));
    let forgotten = forget_old(&house.db, at(29)).await.unwrap();
    assert_eq!(forgotten, Forgotten { mails: 0, more: false });
    let forgotten = forget_old(&house.db, at(29).plus(Duration::from_secs(1))).await.unwrap();
    assert_eq!(forgotten, Forgotten { mails: 200, more: true });
    let forgotten = forget_old(&house.db, at(29).plus(Duration::from_secs(1))).await.unwrap();
    assert_eq!(forgotten, Forgotten { mails: 50, more: false });
    assert_eq!(house.count("SELECT COUNT(*) FROM inbound_mail").await, 1);
}
