//! Everything that people can do to a send, fired at random while it runs at full speed.

use std::{collections::BTreeMap, time::Duration};

use postrider::{
    address::Address,
    audit::Act,
    cli::Context,
    db::state::{CopyState, IssueState},
    delivery::control::{self, ControlError, Move},
    id::{NewsletterId, SubscriberId},
    subscriber::{
        self, EraseError, Origin, Scope, Via,
        suppression::{self, Reason},
    },
    timestamp::Timestamp,
    token::ReaderToken,
};
use rand::{RngExt as _, rngs::StdRng};

use crate::{
    checker::{Kills, check},
    harness::{Daemon, ISSUE, NO_GATES, QUICK, Scene, Sink, seeded, until},
};

const READERS: usize = 20_000;
/// How many sends, unless the environment asks for more.
const RUNS: usize = 2;
const NEWSLETTER: NewsletterId = NewsletterId(1);

/// One act on a reader or on the send, drawn at random.
async fn act(context: &Context, random: &mut StdRng) -> &'static str {
    let (db, now) = (&context.db, Timestamp::now());
    let subscriber = SubscriberId(random.random_range(1..=READERS as i64));
    let what = Act { actor: "ada", action: "test", target: "a reader", detail: "a race" };
    match random.random_range(0..12) {
        0..4 => {
            let token = ReaderToken { newsletter: NEWSLETTER, subscriber, issue: None };
            let (how, origin) = ((Via::OneClick, None), Origin::default());
            subscriber::unsubscribe(db, token, Scope::Newsletter, how, &origin, now).await.unwrap();
            "left"
        }
        4..6 => {
            let reader = subscriber::get(db, subscriber).await.unwrap();
            if let Some(address) = reader.and_then(|reader| reader.address) {
                let address = Address::parse(&address).unwrap();
                let (keys, reason) = (&context.keyring, Reason::Manual);
                suppression::suppress(db, keys, &address, reason, what, now).await.unwrap();
            }
            "suppressed"
        }
        6..8 => {
            match subscriber::erase(db, &context.keyring, subscriber, what, now).await {
                Ok(()) | Err(EraseError::Unknown) => {}
                Err(error) => panic!("{error}"),
            }
            "erased"
        }
        8..10 => {
            move_address(context, subscriber, random.random()).await;
            "moved"
        }
        10 => {
            let until = now.plus(Duration::from_hours(24));
            subscriber::pause(db, NEWSLETTER, subscriber, until).await.unwrap();
            "paused by the reader"
        }
        _ => {
            change_course(context, Move::Pause).await;
            tokio::time::sleep(Duration::from_millis(random.random_range(0..80))).await;
            change_course(context, Move::Resume).await;
            "paused and resumed"
        }
    }
}

/// Gives a reader another address, at another provider.
async fn move_address(context: &Context, subscriber: SubscriberId, number: u64) {
    let domain = ["gmail.com", "outlook.com", "example.net"][(number % 3) as usize];
    let address = Address::parse(&format!("moved{number}@{domain}")).unwrap();
    context
        .db
        .write(
            "UPDATE subscriber SET address = $2, address_hash = $3, provider = $4 \
             WHERE id = $1 AND address IS NOT NULL",
        )
        .bind(subscriber)
        .bind(address.as_str().to_owned())
        .bind(context.keyring.address_hash(&address).to_vec())
        .bind(context.providers.of_address(address.as_str()).0)
        .execute()
        .await
        .unwrap();
}

async fn change_course(context: &Context, to: Move) {
    let edition = control::find(&context.db, NEWSLETTER, ISSUE).await.unwrap().unwrap();
    match control::change_course(&context.db, &edition, to, "ada", "a race", Timestamp::now()).await
    {
        // It may be over meanwhile.
        Ok(_) | Err(ControlError::WrongState { .. }) => {}
        Err(error) => panic!("{error}"),
    }
}

async fn state(context: &Context) -> IssueState {
    control::find(&context.db, NEWSLETTER, ISSUE).await.unwrap().unwrap().state
}

/// Signs with RSA, for which messages are made before their turn.
fn rsa() -> String {
    format!(
        "[[dkim]]\ndomain = \"example.com\"\nselector = \"rsa\"\nkey_file = '{}'\n",
        concat!(env!("CARGO_MANIFEST_DIR"), "/tests/keys/rsa2048-pkcs8.pem")
    )
}

/// One send; returns what was done, and what became of the copies.
async fn one_send(random: &mut StdRng, cancelled: bool, signed: bool) {
    let sink = Sink::spawn().await;
    let signing = if signed { rsa() } else { String::new() };
    let scene = Scene::new(&[&sink], &format!("{QUICK}{NO_GATES}{signing}")).await;
    scene.import(READERS);
    let context = scene.context().await;
    let daemon = Daemon::spawn(&scene).await;
    scene.send().ok();
    // Whoever leaves before the audience is written down is not in it.
    sink.accepts(1).await;
    let mut acts: BTreeMap<&str, usize> = BTreeMap::new();
    let give_up_at = random.random_range(READERS / 4..READERS * 3 / 4);
    // However long it takes: as long as copies come, it goes on.
    let mut come = 0;
    while !until("the send goes on", async || {
        *acts.entry(act(&context, random).await).or_default() += 1;
        if acts.values().sum::<usize>().is_multiple_of(200) {
            // The file is edited and sent again: what is on its way stays as it is.
            let refused = scene.send_edited().fails(3).to_lowercase();
            assert!(refused.contains("nothing was started"), "{refused}");
            *acts.entry("edited and sent again").or_default() += 1;
        }
        if cancelled && sink.accepted() > give_up_at {
            change_course(&context, Move::Cancel).await;
        }
        let over = matches!(state(&context).await, IssueState::Sent | IssueState::Cancelled);
        let more = sink.accepted() > come + READERS / 100;
        (over || more).then_some(over)
    })
    .await
    {
        come = sink.accepted();
    }
    let end = state(&context).await;
    scene.reaches(end).await;
    daemon.terminate();
    let outcome = check(&scene, &[&sink], READERS, Kills::default()).await;
    for mail in sink.mails().iter().take(20) {
        let mail = std::fs::read(mail).unwrap();
        assert_eq!(mail.starts_with(b"DKIM-Signature:"), signed);
    }
    println!("{acts:?}; {end}; {outcome:?}");
    assert!(outcome.count(CopyState::Skipped) > 0, "nobody left before their copy: {outcome:?}");
    assert_eq!(outcome.count(CopyState::Cancelled) > 0, cancelled, "{outcome:?}");
    context.db.close().await;
}

#[tokio::test]
async fn whatever_people_do_in_the_middle_of_a_send_nobody_is_wronged() {
    let asked = std::env::var("POSTRIDER_TEST_RACES").ok().and_then(|text| text.parse().ok());
    let runs: usize = asked.unwrap_or(RUNS);
    let mut random = seeded();
    for run in 0..runs {
        one_send(&mut random, run % 3 == 1, run % 2 == 0).await;
    }
}
