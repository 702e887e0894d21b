use super::*;
use crate::subscriber::suppression::Reason;

#[tokio::test]
async fn a_reader_signs_up_and_confirms_and_the_evidence_is_kept() {
    let house = House::new().await;
    let outcome = house.sign_up_from("Ada@Example.com", Some("192.0.2.9")).await.unwrap();
    assert_eq!(outcome, SignUpOutcome::ConfirmationQueued);
    assert_eq!(house.state("ada@example.com").await, Some(SubscriptionState::Pending));
    let link = house.link().await;
    let before = find_confirmation(&house.db, &link, house.now).await.unwrap().unwrap();
    assert_eq!(before.state, LinkState::Open);
    assert!(matches!(house.confirm(&link).await, ConfirmOutcome::Confirmed(_)));
    assert_eq!(house.state("ADA@example.com").await, Some(SubscriptionState::Active));
    assert_eq!(house.waiting().await, ["welcome"]);

    let id = house.subscriber("ada@example.com").await;
    let evidence = consent::of(&house.db, id).await.unwrap();
    let kinds: Vec<_> = evidence.iter().map(|c| c.kind.as_str()).collect();
    assert_eq!(kinds, ["signed_up", "confirmed"]);
    assert_eq!(evidence[0].ip.as_deref(), Some("192.0.2.9"));
    assert_eq!(evidence[0].user_agent.as_deref(), Some("Browser/1.0X: y"));
    assert_eq!(evidence[0].form.as_deref(), Some("form 1: Send me the newsletter"));
    assert_eq!(evidence[1].ip.as_deref(), Some("2001:db8::7"));
    let message_id = evidence[1].message_id.as_deref().unwrap();
    assert!(message_id.ends_with("@example.com"), "{message_id}");
}

#[tokio::test]
async fn a_secret_link_is_in_no_table() {
    let house = House::new().await;
    house.sign_up("ada@example.com").await;
    let link = house.link().await;
    for sql in [
        "SELECT count(*) FROM service_mail WHERE instr(parameters, $1) > 0",
        "SELECT count(*) FROM confirmation WHERE instr(hex(token_hash), upper($1)) > 0 \
         OR instr(hex(nonce), upper($1)) > 0",
    ] {
        let found: i64 = house.db.query(sql).bind(link.clone()).scalar().await.unwrap();
        assert_eq!(found, 0);
    }
}

#[tokio::test]
async fn a_link_works_once_and_for_seven_days() {
    let mut house = House::new().await;
    house.sign_up("ada@example.com").await;
    let link = house.link().await;
    assert_eq!(house.confirm("forged").await, ConfirmOutcome::Unknown);
    assert_eq!(house.confirm(&"x".repeat(10_000)).await, ConfirmOutcome::Unknown);
    house.pass(Duration::from_hours(7 * 24));
    assert!(matches!(house.confirm(&link).await, ConfirmOutcome::Expired(_)));
    assert_eq!(house.state("ada@example.com").await, Some(SubscriptionState::Pending));

    // Who still has the old link can have a new one sent, to the same mailbox.
    let providers = Providers::embedded();
    let by = (link.as_str(), origin(None));
    let renewed = renew(&house.db, &house.keyring, providers, &house.rules, by, house.now).await;
    assert_eq!(renewed.unwrap(), Some(SignUpOutcome::ConfirmationQueued));
    let fresh = house.link().await;
    assert_ne!(fresh, link);
    assert!(matches!(house.confirm(&fresh).await, ConfirmOutcome::Confirmed(_)));
    assert!(matches!(house.confirm(&fresh).await, ConfirmOutcome::AlreadyActive(_)));
    let id = house.subscriber("ada@example.com").await;
    house.leave(id, Scope::Newsletter).await;
    assert!(matches!(house.confirm(&fresh).await, ConfirmOutcome::Used(_)));
    assert_eq!(house.state("ada@example.com").await, Some(SubscriptionState::Unsubscribed));
}

#[tokio::test]
async fn a_repeated_sign_up_sends_the_same_link_after_a_pause() {
    let mut house = House::new().await;
    house.sign_up("ada@example.com").await;
    let first = house.link().await;
    for _ in 0..3 {
        let again = house.sign_up("ADA@example.com").await;
        assert_eq!(again, SignUpOutcome::Nothing(Silence::Pause));
    }
    // The next day by the calendar is not a day later.
    house.pass(Duration::from_hours(15));
    let outcome = house.sign_up("ada@example.com").await;
    assert_eq!(outcome, SignUpOutcome::Nothing(Silence::Pause));
    house.pass(Duration::from_hours(9));
    assert_eq!(house.sign_up("ada@example.com").await, SignUpOutcome::ConfirmationQueued);
    assert_eq!(house.link().await, first);
    assert_eq!(house.mails().await.len(), 2);
}

#[tokio::test]
async fn who_has_it_already_is_told_so_once_a_day() {
    let mut house = House::new().await;
    house.subscribe("ada@example.com").await;
    assert_eq!(house.sign_up("ada@example.com").await, SignUpOutcome::AlreadySubscribedQueued);
    let again = house.sign_up("ada@example.com").await;
    assert_eq!(again, SignUpOutcome::Nothing(Silence::AddressCap));
    house.pass(Duration::from_hours(24));
    assert_eq!(house.sign_up("ada@example.com").await, SignUpOutcome::AlreadySubscribedQueued);
    assert_eq!(house.state("ada@example.com").await, Some(SubscriptionState::Active));
}

#[tokio::test]
async fn nothing_is_sent_to_the_suppressed_but_a_bounce_can_be_lifted_by_its_owner() {
    for &reason in Reason::ALL {
        let house = House::new().await;
        let id = house.subscribe("ada@example.com").await;
        house.leave(id, Scope::Newsletter).await;
        house.suppress("ada@example.com", reason).await;
        let mails = house.mails().await.len();
        let outcome = house.sign_up("ada@example.com").await;
        if reason.is_lifted_by_confirmation() {
            assert_eq!(outcome, SignUpOutcome::ConfirmationQueued, "{reason}");
            // Until the owner answers, everything stays as it was.
            assert_eq!(house.suppressed("ada@example.com").await.as_deref(), Some(reason.as_str()));
            let left = Some(SubscriptionState::Unsubscribed);
            assert_eq!(house.state("ada@example.com").await, left, "{reason}");
            let link = house.link().await;
            assert!(matches!(house.confirm(&link).await, ConfirmOutcome::Confirmed(_)));
            assert_eq!(house.suppressed("ada@example.com").await, None);
        } else {
            assert_eq!(outcome, SignUpOutcome::Nothing(Silence::Suppressed(reason)));
            assert_eq!(house.mails().await.len(), mails, "{reason}");
        }
    }
}

#[tokio::test]
async fn a_complaint_between_mail_and_answer_blocks_the_answer() {
    let house = House::new().await;
    house.sign_up("ada@example.com").await;
    let link = house.link().await;
    house.suppress("ada@example.com", Reason::Complaint).await;
    assert!(matches!(house.confirm(&link).await, ConfirmOutcome::Blocked(_)));
    assert_eq!(house.state("ada@example.com").await, Some(SubscriptionState::Pending));
}

#[tokio::test]
async fn a_stranger_cannot_undo_that_a_reader_left() {
    let house = House::new().await;
    let id = house.subscribe("ada@example.com").await;
    house.leave(id, Scope::Newsletter).await;
    assert_eq!(house.sign_up("ada@example.com").await, SignUpOutcome::ConfirmationQueued);
    assert_eq!(house.state("ada@example.com").await, Some(SubscriptionState::Unsubscribed));
    let link = house.link().await;
    house.confirm(&link).await;
    assert_eq!(house.state("ada@example.com").await, Some(SubscriptionState::Active));
}

#[tokio::test]
async fn list_bombing_runs_into_caps_that_a_restart_does_not_forget() {
    let mut house = House::new().await;
    house.rules.per_network = 3;
    house.rules.per_domain = 5;
    house.rules.total = 8;
    let limited = |result: Result<SignUpOutcome, SignUpError>| match result {
        Err(SignUpError::Limited(limit)) => Some(limit),
        Ok(_) => None,
        Err(error) => panic!("{error}"),
    };
    let network = ["2001:db8::1", "2001:db8::2", "2001:db8::ffff:1"];
    for (n, ip) in network.iter().enumerate() {
        let typed = format!("reader{n}@example.com");
        assert_eq!(limited(house.sign_up_from(&typed, Some(ip)).await), None);
    }
    let fourth = house.sign_up_from("d@example.org", Some("2001:db8::4")).await;
    assert_eq!(limited(fourth), Some(Limit::Network));
    for (typed, ip, expected) in [
        ("e@example.com", "2001:db8:1::4", None),
        ("f@example.com", "192.0.2.1", None),
        ("g@example.com", "192.0.2.2", Some(Limit::Domain)),
        // The known providers are everybody's domain.
        ("h@gmail.com", "192.0.2.3", None),
        ("i@gmail.com", "192.0.2.4", None),
        ("j@gmail.com", "192.0.2.5", None),
        ("k@gmail.com", "192.0.2.6", Some(Limit::Total)),
    ] {
        let result = house.sign_up_from(typed, Some(ip)).await;
        assert_eq!(limited(result), expected, "{typed}");
    }
    assert_eq!(house.mails().await.len(), 8);
    house.pass(Duration::from_hours(24));
    let next_day = house.sign_up_from("k@gmail.com", Some("192.0.2.6")).await;
    assert_eq!(limited(next_day), None);
}

#[tokio::test]
async fn one_address_gets_three_mails_a_day_over_all_newsletters() {
    let mut house = House::new().await;
    let mut outcomes = Vec::new();
    for slug in ["a", "b", "c", "d"] {
        house.newsletter = house.newsletter(slug).await;
        outcomes.push(house.sign_up("victim@example.com").await);
    }
    assert_eq!(outcomes[..3], [SignUpOutcome::ConfirmationQueued; 3]);
    assert_eq!(outcomes[3], SignUpOutcome::Nothing(Silence::AddressCap));
    assert_eq!(house.mails().await.len(), 3);
}

#[tokio::test]
async fn this_was_not_me_blocks_the_address() {
    let house = House::new().await;
    house.sign_up("victim@example.com").await;
    let link = house.link().await;
    let id = house.subscriber("victim@example.com").await;
    for _ in 0..2 {
        assert!(not_me(&house.db, house.token(id), &origin(None), house.now).await.unwrap());
    }
    assert_eq!(house.suppressed("victim@example.com").await.as_deref(), Some("not_me"));
    assert_eq!(house.waiting().await, [""; 0]);
    assert!(matches!(house.confirm(&link).await, ConfirmOutcome::Used(_)));
    let outcome = house.sign_up("victim@example.com").await;
    assert_eq!(outcome, SignUpOutcome::Nothing(Silence::Suppressed(Reason::NotMe)));
    let nobody = house.token(SubscriberId(99));
    assert!(!not_me(&house.db, nobody, &origin(None), house.now).await.unwrap());
}
