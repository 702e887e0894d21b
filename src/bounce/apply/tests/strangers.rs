//! Mails that prove nothing: whatever they say, no reader is touched.

use super::*;
use crate::bounce::report;
use crate::id::NewsletterId;

/// What must not have changed.
async fn untouched(house: &House, what: &str) {
    for (sql, expected) in [
        ("SELECT COUNT(*) FROM suppression", 0),
        ("SELECT COUNT(*) FROM soft_bounce", 0),
        ("SELECT COUNT(*) FROM held_suppression", 0),
        ("SELECT COUNT(*) FROM event", 0),
        ("SELECT COUNT(*) FROM subscription WHERE state <> 1", 0),
        ("SELECT COUNT(*) FROM delivery WHERE state <> 5", 0),
    ] {
        assert_eq!(house.count(sql).await, expected, "{what}: {sql}");
    }
}

#[tokio::test]
async fn forged_tokens_and_mails_without_any_change_nothing() {
    let house = House::new().await;
    let (issue, ada) = (house.issue(1).await, house.reader("ada@example.net").await);
    let copy = house.copy(issue, ada, CopyState::Uncertain).await;
    let other_ring = Keyring::ephemeral(house.now);
    let genuine = house.verp(copy);
    let token = DeliveryToken(copy).seal(&house.keyring);
    let bounce = |token: &str| TokenMailbox::Bounce.address(token, "bounce.localhost").to_string();
    let unsubscribe =
        |token: &str| TokenMailbox::Unsubscribe.address(token, "bounce.localhost").to_string();
    let swapped = |at: usize| {
        let mut forged = token.clone().into_bytes();
        forged[at] = if forged[at] == b'a' { b'b' } else { b'a' };
        bounce(&String::from_utf8(forged).unwrap())
    };
    let nobody = CopyId::Issue { issue: IssueId(99), subscriber: SubscriberId(99) };
    let elsewhere = ReaderToken { newsletter: NewsletterId(1), subscriber: ada, issue: None };
    let mut addresses = vec![
        ("none", String::new()),
        ("plain", "bounces@bounce.localhost".to_owned()),
        ("another ring", bounce(&DeliveryToken(copy).seal(&other_ring))),
        ("another purpose", bounce(&elsewhere.seal(&house.keyring, Purpose::Unsubscribe))),
        ("preferences", unsubscribe(&elsewhere.seal(&house.keyring, Purpose::Preferences))),
        ("bounce token to leave", unsubscribe(&token)),
        ("cut", genuine.replace(&token, &token[..token.len() - 4])),
        ("longer", genuine.replace(&token, &format!("{token}aaaaaaaa"))),
        ("unknown copy", house.verp(nobody)),
        ("unknown mail", house.verp(CopyId::Service(ServiceMailId(7)))),
        ("not base32", "b+0000000000000000000000000000@bounce.localhost".to_owned()),
    ];
    addresses.extend((0..token.len()).map(|at| ("altered", swapped(at))));
    let forged_id = format!("<{}>", message_id(&other_ring, copy, "example.com"));
    for (what, to) in &addresses {
        for report in [
            dsn("ada@example.net", "failed", DEAD),
            dsn("ada@example.net", "delivered", "250 2.1.5 OK"),
            dsn_with("ada@example.net", "failed", DEAD, &format!("Message-ID: {forged_id}\r\n")),
            arf("To: ada@example.net\r\n"),
            "Subject: unsubscribe\r\nAuto-Submitted: auto-generated\r\n\r\n".to_owned(),
        ] {
            let applied = house.bring(&report, to).await;
            assert_eq!(applied.attribution, Attribution::None, "{what} {to}");
            assert!(
                matches!(applied.outcome, Outcome::Unattributed | Outcome::Nothing),
                "{what}: {:?}",
                applied.outcome
            );
        }
        untouched(&house, what).await;
    }
    // The same mail with the genuine token does something: the table above can fail.
    let applied = house.bring(dsn("ada@example.net", "failed", DEAD), &genuine).await;
    assert_eq!(applied.outcome, Outcome::Suppressed);
}

#[tokio::test]
async fn a_return_path_ends_sixty_days_after_its_key_was_replaced() {
    let mut house = House::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys");
    house.keyring = Keyring::load_or_create(&path, house.now).unwrap();
    let (issue, ada) = (house.issue(1).await, house.reader("ada@example.net").await);
    let copy = house.copy(issue, ada, CopyState::Accepted).await;
    let old = house.verp(copy);
    house.keyring = Keyring::rotate(&path, house.now).unwrap();
    house.pass_days(61);
    let applied = house.bring(dsn("ada@example.net", "failed", DEAD), &old).await;
    assert_eq!(applied.outcome, Outcome::Unattributed);
    house.now = house.now.minus(Duration::from_hours(48));
    let applied = house.bring(dsn("ada@example.net", "failed", DEAD), &old).await;
    assert_eq!(applied.outcome, Outcome::Suppressed);
}

#[tokio::test]
async fn whoever_was_erased_is_not_stored_again() {
    let house = House::new().await;
    let (issue, ada) = (house.issue(1).await, house.reader("ada@example.net").await);
    let copy = house.copy(issue, ada, CopyState::Accepted).await;
    let act =
        crate::audit::Act { actor: "test", action: "erase", target: "ada", detail: "asked for" };
    crate::subscriber::erase(&house.db, &house.keyring, ada, act, house.now).await.unwrap();
    let applied = house.bring(dsn("ada@example.net", "failed", DEAD), &house.verp(copy)).await;
    assert_eq!(applied.outcome, Outcome::Unattributed);
    let sql = "SELECT COUNT(*) FROM inbound_mail WHERE length(raw) = 0";
    assert_eq!(house.count(sql).await, 1);
    assert_eq!(house.count("SELECT COUNT(*) FROM event WHERE kind = 8").await, 0);
    assert_eq!(house.count("SELECT COUNT(*) FROM suppression").await, 1, "the erasure's own");
}

#[tokio::test]
async fn answers_of_people_and_programs_to_a_genuine_address_do_nothing() {
    let house = House::new().await;
    let (issue, ada) = (house.issue(1).await, house.reader("ada@example.net").await);
    let copy = house.copy(issue, ada, CopyState::Uncertain).await;
    for mail in [
        "From: ada@example.net\r\nSubject: Re: Issue\r\n\r\nThank you!\r\n",
        "Subject: Out of office\r\nAuto-Submitted: auto-replied\r\n\r\nBack in May.\r\n",
        "Subject: Please confirm your message\r\n\r\nClick here.\r\n",
        "",
        "\0\u{1}\r\r\n\n",
    ] {
        assert_eq!(house.bring(mail, &house.verp(copy)).await.outcome, Outcome::Nothing, "{mail}");
    }
    untouched(&house, "answers").await;
}

#[tokio::test]
async fn garbage_of_every_size_is_kept_in_part_and_does_nothing() {
    use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
    let house = House::new().await;
    let (issue, ada) = (house.issue(1).await, house.reader("ada@example.net").await);
    let copy = house.copy(issue, ada, CopyState::Uncertain).await;
    let report = dsn("ada@example.net", "failed", DEAD).into_bytes();
    let mut random = SmallRng::seed_from_u64(super::seed());
    for round in 0..60 {
        let size = if round == 0 { report::SIZE_MAX } else { random.random_range(0..20_000) };
        let mut raw: Vec<u8> = (0..size).map(|_| random.random()).collect();
        // Half of them are reports with holes.
        if round % 2 == 1 {
            raw.clone_from(&report);
            for _ in 0..random.random_range(1..200) {
                let at = random.random_range(0..raw.len());
                raw[at] = random.random();
            }
        }
        house.bring(&raw, "abuse@bounce.localhost").await;
    }
    untouched(&house, "garbage").await;
    let largest = house.count("SELECT MAX(length(raw)) FROM inbound_mail").await;
    assert_eq!(largest, 16 * 1024);
    // With a genuine token nothing breaks either; how much of the report is left decides.
    for _ in 0..30 {
        let raw: Vec<u8> = (0..2_000).map(|_| random.random()).collect();
        house.bring(&raw, &house.verp(copy)).await;
    }
    assert_eq!(house.count("SELECT COUNT(*) FROM suppression").await, 0);
    let too_large = ReturnedMail {
        raw: vec![b'x'; report::SIZE_MAX + 1].into(),
        mail_from: String::new(),
        rcpt_to: house.verp(copy),
        source: Source::Pipe,
    };
    let applied =
        returned_mail(&house.db, &house.keyring, &house.rules, too_large, house.now).await;
    assert!(matches!(applied, Err(ApplyError::Unreadable(_))), "{applied:?}");
}

#[tokio::test]
async fn a_reader_cannot_fill_the_disk_with_mails_to_their_own_address() {
    let house = House::new().await;
    let (issue, ada) = (house.issue(1).await, house.reader("ada@example.net").await);
    let copy = house.copy(issue, ada, CopyState::Accepted).await;
    let raw = vec![b'x'; 100_000];
    for _ in 0..130 {
        house.bring(&raw, &house.verp(copy)).await;
    }
    let kept = house.count("SELECT SUM(length(raw)) FROM inbound_mail").await;
    assert_eq!(kept, 20 * 100_000 + 80 * 16 * 1024);
}

/// Real bounces and complaints about other senders' mail, sent to every kind of address.
#[tokio::test]
async fn other_peoples_returned_mail_suppresses_nobody() {
    let Some((root, rows)) = crate::bounce::corpus::corpus() else { return };
    let house = House::new().await;
    let (issue, ada) = (house.issue(1).await, house.reader("ada@example.net").await);
    house.copy(issue, ada, CopyState::Uncertain).await;
    let mut failed = 0;
    for row in rows.iter().filter(|row| row["variant_of"].is_null()) {
        let raw = std::fs::read(root.join(row["file"].as_str().unwrap())).unwrap();
        let applied = house.bring(raw, "bounces@bounce.localhost").await;
        failed += usize::from(applied.outcome == Outcome::Unattributed);
    }
    assert!(failed > 200, "the corpus holds hundreds of bounces; {failed} were seen");
    untouched(&house, "corpus").await;
}
