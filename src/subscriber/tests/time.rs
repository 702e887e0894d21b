use super::*;

const DAY: Duration = Duration::from_hours(24);

async fn round(house: &House) -> Housekeeping {
    expire_pending(&house.db, &house.rules, house.now).await.unwrap()
}

#[tokio::test]
async fn who_does_not_confirm_is_reminded_once_then_expires_then_is_forgotten() {
    let mut house = House::new().await;
    house.sign_up("ada@example.com").await;
    let link = house.link().await;
    house.pass(Duration::from_secs(24 * 60 * 60 - 1));
    assert_eq!(round(&house).await, Housekeeping::default());
    house.pass(Duration::from_secs(1));
    assert_eq!(round(&house).await.reminded, 1);
    assert_eq!(house.link().await, link, "the reminder repeats the link");
    house.pass(DAY);
    assert_eq!(round(&house).await, Housekeeping::default());
    assert_eq!(house.waiting().await, ["confirmation", "reminder"]);

    house.pass(5 * DAY);
    assert_eq!(round(&house).await.expired, 1);
    assert_eq!(house.state("ada@example.com").await, Some(SubscriptionState::Expired));
    house.pass(22 * DAY);
    assert_eq!(round(&house).await.deleted, 0);
    // What has been sent or given up by then no longer names anybody.
    let done = "UPDATE service_mail SET state = 7";
    house.db.write(done).execute().await.unwrap();
    house.pass(DAY);
    assert_eq!(round(&house).await.deleted, 1);
    assert_eq!(house.state("ada@example.com").await, None);
    for sql in [
        "SELECT count(*) FROM subscriber",
        "SELECT count(*) FROM subscription",
        "SELECT count(*) FROM consent",
        "SELECT count(*) FROM confirmation",
        "SELECT count(*) FROM service_mail WHERE address <> ''",
        "SELECT count(*) FROM signup_count",
    ] {
        assert_eq!(house.count(sql).await, 0, "{sql}");
    }
    // A new subscriber is nobody that an old link could mean.
    house.sign_up("bob@example.com").await;
    assert_eq!(house.subscriber("bob@example.com").await, SubscriberId(2));
}

#[tokio::test]
async fn a_sign_up_after_expiry_starts_anew() {
    let mut house = House::new().await;
    house.sign_up("ada@example.com").await;
    house.pass(8 * DAY);
    round(&house).await;
    assert_eq!(house.state("ada@example.com").await, Some(SubscriptionState::Expired));
    house.subscribe("ada@example.com").await;
    house.pass(60 * DAY);
    assert_eq!(round(&house).await, Housekeeping::default());
    assert_eq!(house.state("ada@example.com").await, Some(SubscriptionState::Active));
}

#[tokio::test]
async fn nobody_is_reminded_who_confirmed_left_or_must_not_be_mailed() {
    let mut house = House::new().await;
    house.subscribe("confirmed@example.com").await;
    house.sign_up("left@example.com").await;
    let left = house.subscriber("left@example.com").await;
    house.leave(left, Scope::Newsletter).await;
    house.sign_up("suppressed@example.com").await;
    house.suppress("suppressed@example.com", suppression::Reason::Manual).await;
    // Who left and is signed up again, perhaps by a stranger, gets the one mail only.
    let again = house.subscribe("again@example.com").await;
    house.leave(again, Scope::Newsletter).await;
    house.sign_up("again@example.com").await;
    house.pass(2 * DAY);
    assert_eq!(round(&house).await.reminded, 0);

    house.rules.reminder_after = Duration::ZERO;
    house.sign_up("new@example.com").await;
    house.pass(2 * DAY);
    assert_eq!(round(&house).await.reminded, 0);
}

#[tokio::test]
async fn work_is_done_in_bounded_rounds() {
    let mut house = House::new().await;
    house.rules.total = 10_000;
    let mut tx = house.db.begin().await.unwrap();
    tx.query(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200) \
         INSERT INTO subscriber (id, address, address_hash, provider, created_at) \
         SELECT i, 'r' || i || '@example.com', randomblob(16), 0, $1 FROM n",
    )
    .bind(house.now)
    .execute()
    .await
    .unwrap();
    tx.query(
        "INSERT INTO subscription (newsletter_id, subscriber_id, state, created_at) \
         SELECT $1, id, 0, created_at FROM subscriber",
    )
    .bind(house.newsletter)
    .execute()
    .await
    .unwrap();
    tx.commit().await.unwrap();
    house.pass(31 * DAY);
    let mut deleted = 0;
    let mut rounds = 0;
    loop {
        let done = round(&house).await;
        deleted += done.deleted;
        rounds += 1;
        assert!(done.expired <= 500 && done.deleted <= 500);
        if !done.more {
            break;
        }
    }
    assert_eq!((deleted, house.count("SELECT count(*) FROM subscriber").await), (1200, 0));
    assert!(rounds >= 3);
}
