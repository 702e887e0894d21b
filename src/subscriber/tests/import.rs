use proptest::prelude::*;

use super::*;
use crate::subscriber::{
    import::{Import, ImportError, Report, import},
    suppression::Reason,
};

fn what(house: &House) -> Import {
    Import {
        newsletter: house.newsletter,
        file: "list.csv".into(),
        consent_source: "form on the old site, 2019-2025".into(),
        actor: "test".into(),
        dry_run: false,
        delimiter: b',',
        attributes: vec!["city".into()],
    }
}

async fn run(house: &House, what: &Import, file: &str) -> Result<(Report, String), ImportError> {
    let mut refusals = Vec::new();
    let file = std::io::Cursor::new(file.as_bytes().to_vec());
    let means = (&house.keyring, Providers::embedded());
    let report = import(&house.db, means, what, file, &mut refusals, |_| {}, house.now).await?;
    Ok((report, String::from_utf8(refusals).unwrap()))
}

#[tokio::test]
async fn rows_become_active_subscriptions_with_their_evidence() {
    let house = House::new().await;
    let file = "\u{feff}Name,E-Mail,confirmed_at,city,zip\r\n\
                \"Lovelace, Ada\",Ada@Example.com,2021-02-03T04:05:06Z,London,1\r\n\
                '=x,bob@gmail.com,,,\r\n";
    let (report, refusals) = run(&house, &what(&house), file).await.unwrap();
    assert_eq!((report.rows, report.added), (2, 2));
    assert_eq!(report.ignored_columns, ["zip"]);
    assert_eq!(refusals, "line,reason,address\n");
    let ada = find(&house.db, &house.keyring, &address("ada@example.com")).await.unwrap().unwrap();
    assert_eq!(ada.address.as_deref(), Some("Ada@example.com"));
    assert_eq!(ada.name.as_deref(), Some("Lovelace, Ada"));
    assert_eq!(ada.attributes.as_deref(), Some("{\"city\":\"London\"}"));
    let subscription = &subscriptions(&house.db, ada.id).await.unwrap()[0];
    assert_eq!(subscription.state, SubscriptionState::Active);
    assert_eq!(subscription.confirmed_at, Some("2021-02-03T04:05:06Z".parse().unwrap()));
    let evidence = consent::of(&house.db, ada.id).await.unwrap();
    assert_eq!(evidence[0].source.as_deref(), Some("form on the old site, 2019-2025"));
    let bob = find(&house.db, &house.keyring, &address("bob@gmail.com")).await.unwrap().unwrap();
    assert_eq!((bob.name.as_deref(), bob.provider), (Some("=x"), 1));
    // A sign-up after an import takes the next row.
    house.sign_up("carol@example.com").await;
    assert_eq!(house.subscriber("carol@example.com").await, SubscriberId(3));
}

#[tokio::test]
async fn nobody_is_brought_back_by_an_import() {
    let mut house = House::new().await;
    let left = house.subscribe("left@example.com").await;
    house.leave(left, Scope::Newsletter).await;
    house.sign_up("expired@example.com").await;
    house.pass(Duration::from_hours(8 * 24));
    expire_pending(&house.db, &house.rules, house.now).await.unwrap();
    house.sign_up("pending@example.com").await;
    house.subscribe("active@example.com").await;
    for &reason in Reason::ALL {
        house.suppress(&format!("x-{reason}@example.com"), reason).await;
    }
    let erased = house.subscribe("gone@example.com").await;
    erase(&house.db, &house.keyring, erased, act("subscriber.erase"), house.now).await.unwrap();
    let elsewhere = house.newsletter;
    house.newsletter = house.newsletter("other").await;
    house.subscribe("known@example.com").await;
    house.newsletter = elsewhere;

    let file = "email\nLEFT@example.com\nexpired@example.com\npending@example.com\n\
                active@example.com\nx-bounce@example.com\nx-complaint@example.com\n\
                x-manual@example.com\nx-imported@example.com\nx-not_me@example.com\n\
                x-erased@example.com\ngone@example.com\npostmaster@example.com\nnobody\n\
                a\0b@example.com\nnew@example.com\nNew@example.com\nknown@example.com\n";
    let mut dry = what(&house);
    dry.dry_run = true;
    let before = house.count("SELECT count(*) FROM subscriber").await;
    let (foreseen, _) = run(&house, &dry, file).await.unwrap();
    assert_eq!(house.count("SELECT count(*) FROM subscriber").await, before);
    assert_eq!(house.count("SELECT count(*) FROM import").await, 0);

    let (report, refusals) = run(&house, &what(&house), file).await.unwrap();
    assert_eq!(report, foreseen);
    assert_eq!((report.rows, report.added), (17, 2));
    let expected = [
        "2,unsubscribed,LEFT@example.com",
        "3,expired,expired@example.com",
        "4,pending,pending@example.com",
        "5,already_subscribed,active@example.com",
        "6,suppressed_bounce,x-bounce@example.com",
        "7,suppressed_complaint,x-complaint@example.com",
        "8,suppressed_manual,x-manual@example.com",
        "9,suppressed_imported,x-imported@example.com",
        "10,suppressed_not_me,x-not_me@example.com",
        "11,suppressed_erased,x-erased@example.com",
        "12,suppressed_erased,gone@example.com",
        "13,role_account,postmaster@example.com",
        "14,address,nobody",
        "15,address,a\0b@example.com",
        "17,repeated,New@example.com",
    ];
    assert_eq!(refusals.lines().skip(1).collect::<Vec<_>>(), expected);
    for (typed, state) in [
        ("left@example.com", SubscriptionState::Unsubscribed),
        ("expired@example.com", SubscriptionState::Expired),
        ("pending@example.com", SubscriptionState::Pending),
        ("new@example.com", SubscriptionState::Active),
        ("known@example.com", SubscriptionState::Active),
    ] {
        assert_eq!(house.state(typed).await, Some(state), "{typed}");
    }
    // The same file again adds nobody.
    assert_eq!(run(&house, &what(&house), file).await.unwrap().0.added, 0);
}

#[tokio::test]
async fn what_cannot_be_an_import_is_refused_with_the_reason() {
    let house = House::new().await;
    let mut silent = what(&house);
    silent.consent_source = " ".into();
    let error = run(&house, &silent, "email\na@example.com\n").await.unwrap_err();
    assert!(matches!(error, ImportError::NoConsentSource));
    let error = run(&house, &what(&house), "name,city\nAda,London\n").await.unwrap_err();
    assert!(error.to_string().contains("it has: name, city"), "{error}");
    // A quote that is never closed does not fill the memory.
    let open = format!("email\na@example.com\n\"{}", "x@example.com\n".repeat(200_000));
    let error = run(&house, &what(&house), &open).await.unwrap_err();
    assert!(matches!(error, ImportError::RowTooLong { line: 3 }), "{error}");
    let (report, refusals) = run(
        &house,
        &what(&house),
        "email,confirmed_at\nb@example.com,2999-01-01\nc@example.com,soon\n",
    )
    .await
    .unwrap();
    assert_eq!(report.added, 0);
    assert_eq!(refusals.lines().filter(|line| line.contains("confirmed_at")).count(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn whatever_a_file_holds_every_row_is_accounted_for(
        octets in prop::collection::vec(
            prop_oneof![
                Just(b"a@example.com".to_vec()), Just(b"b@example.com".to_vec()),
                Just(b"\n".to_vec()), Just(b",".to_vec()), Just(b"\"".to_vec()),
                prop::collection::vec(any::<u8>(), 0..8),
            ],
            0..60,
        )
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let house = House::new().await;
            let mut file = b"email,name\n".to_vec();
            file.extend(octets.concat());
            let mut refusals = Vec::new();
            let means = (&house.keyring, Providers::embedded());
            let file = std::io::Cursor::new(file);
            let report =
                import(&house.db, means, &what(&house), file, &mut refusals, |_| {}, house.now)
                    .await
                    .unwrap();
            let refused: u64 = report.refused.values().sum();
            assert_eq!(report.rows, report.added + refused);
            assert_eq!(house.count("SELECT count(*) FROM subscription").await as u64, report.added);
        });
    }
}

/// A file of so many rows that is made as it is read.
struct Endless {
    rows: u64,
    next: u64,
    rest: Vec<u8>,
}

impl std::io::Read for Endless {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        use std::io::Write as _;
        while self.rest.len() < out.len() && self.next < self.rows {
            let n = self.next.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let domain = ["gmail.com", "example.com", "yahoo.com", "web.de"][(n >> 62) as usize];
            writeln!(self.rest, "reader.{n:x}@{domain},Reader {n:x}")?;
            self.next += 1;
        }
        let count = out.len().min(self.rest.len());
        out[..count].copy_from_slice(&self.rest[..count]);
        self.rest.drain(..count);
        Ok(count)
    }
}

/// `cargo test --release -- --ignored --nocapture a_million_rows`
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes a minute; meant for a release build"]
async fn a_million_rows_come_in_at_25_000_a_second_in_flat_memory() {
    const ROWS: u64 = 1_000_000;
    let house = House::new().await;
    let file = Endless { rows: ROWS, next: 0, rest: b"email,name\n".to_vec() };
    let means = (&house.keyring, Providers::embedded());
    let started = std::time::Instant::now();
    let mut memory_at_tenth = 0;
    let mut slowest = Duration::ZERO;
    let mut last = started;
    let progress = |report: &Report| {
        slowest = slowest.max(last.elapsed());
        last = std::time::Instant::now();
        if report.rows <= ROWS / 10 {
            memory_at_tenth = peak_memory_kb();
        }
    };
    let mut refusals = Vec::new();
    let what = what(&house);
    let report =
        import(&house.db, means, &what, file, &mut refusals, progress, house.now).await.unwrap();
    let rate = ROWS as f64 / started.elapsed().as_secs_f64();
    let memory = peak_memory_kb();
    println!("{rate:.0} rows/s, {memory_at_tenth} KB after a tenth, {memory} KB after all, ");
    println!("slowest batch {slowest:?}");
    assert_eq!(report.added, ROWS);
    assert!(memory < memory_at_tenth + 32 * 1024, "memory grows with the file");
    assert!(rate > 25_000.0, "{rate:.0} rows/s");
}

/// The most memory this process ever had, in KB; 0 where the system does not say.
fn peak_memory_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}
