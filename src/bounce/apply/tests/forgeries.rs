//! A thousand reports that somebody made up, with the best material that strangers can have: tokens
//! under keys of their own, tokens cut and spliced, genuine ones where they prove nothing, genuine
//! ones of other readers, genuine ones whose time is over. Nobody is suppressed, counted or unsubscribed
//! by any of them.

use data_encoding::BASE32_NOPAD;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};

use super::*;
use crate::bounce::intake::webhook::{
    Opened, Provider, Refusal,
    tests::{Said, Sender},
};

const FORGERIES: usize = 1_000;

/// What a stranger has to work with.
struct Stranger {
    house: House,
    /// The keys after a rotation, 61 days ago; before it were those of the old mail.
    retired: Vec<String>,
    readers: Vec<(SubscriberId, String)>,
    copies: Vec<CopyId>,
    /// A key ring of the stranger's own.
    own: Keyring,
    random: StdRng,
}

impl Stranger {
    async fn new() -> Self {
        let mut house = House::new().await;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        house.keyring = Keyring::load_or_create(&path, house.now).unwrap();
        let issue = house.issue(1).await;
        let (mut readers, mut copies) = (Vec::new(), Vec::new());
        for number in 0..20 {
            let typed = format!("reader{number}@example.net");
            let reader = house.reader(&typed).await;
            copies.push(house.copy(issue, reader, CopyState::Uncertain).await);
            readers.push((reader, typed));
        }
        let retired = copies.iter().map(|copy| house.verp(*copy)).collect();
        house.keyring = Keyring::rotate(&path, house.now).unwrap();
        house.pass_days(61);
        let own = Keyring::ephemeral(house.now);
        Self { house, retired, readers, copies, own, random: StdRng::seed_from_u64(super::seed()) }
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from.choose(&mut self.random).unwrap().clone()
    }

    fn genuine(&mut self) -> String {
        let copy = self.pick(&self.copies.clone());
        DeliveryToken(copy).seal(&self.house.keyring)
    }

    /// A token that is none of ours, or is for another purpose, in the place of a return path's.
    fn forged_token(&mut self) -> String {
        let copy = self.pick(&self.copies.clone());
        let genuine = self.genuine();
        match self.random.random_range(0..7) {
            0 => DeliveryToken(copy).seal(&self.own),
            // One octet otherwise.
            1 => {
                let mut octets = BASE32_NOPAD.decode(genuine.to_uppercase().as_bytes()).unwrap();
                let at = self.random.random_range(0..octets.len());
                octets[at] ^= 1 << self.random.random_range(0..8);
                BASE32_NOPAD.encode(&octets).to_lowercase()
            }
            // One reader's name with another's signature.
            2 => {
                let decode =
                    |token: &str| BASE32_NOPAD.decode(token.to_uppercase().as_bytes()).unwrap();
                let (first, last) = (&self.copies[0], &self.copies[19]);
                let own = decode(&DeliveryToken(*first).seal(&self.house.keyring));
                let other = decode(&DeliveryToken(*last).seal(&self.house.keyring));
                let mac = 10;
                let spliced = [&other[..other.len() - mac], &own[own.len() - mac..]].concat();
                BASE32_NOPAD.encode(&spliced).to_lowercase()
            }
            3 => genuine[..genuine.len() - self.random.random_range(1..8)].to_owned(),
            4 => format!("{genuine}aaaaaaaa"),
            5 => DeliveryToken(copy).seal_message_id(&self.house.keyring),
            _ => {
                let CopyId::Issue { issue, subscriber } = copy else { unreachable!() };
                let newsletter = self.house.newsletter;
                let token = ReaderToken { newsletter, subscriber, issue: Some(issue) };
                let purposes = [Purpose::Unsubscribe, Purpose::Preferences, Purpose::MyData];
                let purpose = self.pick(&purposes);
                token.seal(&self.house.keyring, purpose)
            }
        }
    }

    /// Where the forgery goes.
    fn recipient(&mut self) -> String {
        let bounce = |token: &str| TokenMailbox::Bounce.address(token, "b.localhost").to_string();
        match self.random.random_range(0..6) {
            0 | 1 => bounce(&self.forged_token()),
            2 => self.pick(&self.retired.clone()),
            3 => {
                // A return path is no wish to leave.
                let token = self.genuine();
                TokenMailbox::Unsubscribe.address(&token, "b.localhost").to_string()
            }
            4 => "abuse@b.localhost".to_owned(),
            _ => String::new(),
        }
    }

    /// Fields of the returned mail: forged where they count, genuine where they do not.
    fn returned(&mut self) -> String {
        let (forged, genuine) = (self.forged_token(), self.genuine());
        let copy = self.pick(&self.copies.clone());
        let id = self.house.message_id(copy);
        let foreign = message_id(&self.own, copy, "example.com");
        let retired = self.pick(&self.retired.clone());
        match self.random.random_range(0..10) {
            0 => format!("Message-ID: <{foreign}>\r\n"),
            1 => format!("Message-ID: <{genuine}@example.com>\r\n"),
            2 => format!("References: <{id}>\r\nIn-Reply-To: <{id}>\r\n"),
            3 => format!("Return-Path: <b+{forged}@b.localhost>\r\n"),
            4 => format!("Return-Path: <{retired}>\r\n"),
            5 => format!("List-Unsubscribe: <mailto:u+{genuine}@b.localhost>\r\n"),
            6 => format!("X-Postrider: b+{genuine}@b.localhost\r\nSubject: b+{genuine}@b\r\n"),
            7 => format!("X-Message-ID: <{id}>\r\nComments: Message-ID: <{id}>\r\n"),
            8 => format!("List-Help: <mailto:u+{genuine}@b.localhost>\r\nTo: b+{genuine}@b\r\n"),
            _ => String::new(),
        }
    }

    /// The forgery itself, about somebody who reads.
    fn mail(&mut self) -> String {
        let (_, victim) = self.pick(&self.readers.clone());
        let returned = self.returned();
        let genuine = self.genuine();
        let copy = self.pick(&self.copies.clone());
        let id = self.house.message_id(copy);
        let bounce = format!("b+{genuine}@b.localhost");
        match self.random.random_range(0..9) {
            0 | 1 => dsn_with(&victim, "failed", DEAD, &returned),
            2 => dsn_with(&victim, "delivered", "250 2.0.0 taken", &returned),
            3 => arf(&format!("To: {victim}\r\n{returned}")),
            // In the subject, the sender, the words.
            4 => dsn(&victim, "failed", &format!("550 5.1.1 {bounce} <{id}> unknown"))
                .replace("Undelivered Mail", &format!("{bounce} <{id}>")),
            5 => format!(
                "Return-Path: <>\r\nFrom: MAILER-DAEMON@mx.example.net\r\n\
                 Subject: failure notice {bounce}\r\n\r\nHi. This is the qmail-send program at \
                 mx.example.net.\r\n\r\n<{victim}>:\r\n550 5.1.1 no such user {bounce}\r\n\r\n\
                 Message-ID: <{id}>\r\n"
            ),
            6 => format!(
                "From: {bounce}\r\nReply-To: {bounce}\r\nTo: {bounce}\r\nSubject: unsubscribe\r\n\
                 References: <{id}>\r\n\r\nPlease unsubscribe {victim}, {bounce}.\r\n"
            ),
            // Amazon's words in a mail that anyone can write.
            7 => format!(
                "From: no-reply@sns.amazonaws.com\r\nSubject: AWS Notification Message\r\n\r\n\
                 {{\"notificationType\":\"Complaint\",\"complaint\":{{\"complainedRecipients\":\
                 [{{\"emailAddress\":\"{victim}\"}}]}},\"mail\":{{\"source\":\"b+{}@b.localhost\",\
                 \"messageId\":\"{id}\"}}}}\r\n",
                self.forged_token()
            ),
            _ => arf(&returned).replace("Hello.", &format!("{bounce} <{id}>")),
        }
    }
}

/// What must not have changed.
async fn untouched(house: &House, what: &str) {
    for sql in [
        "SELECT COUNT(*) FROM suppression",
        "SELECT COUNT(*) FROM soft_bounce",
        "SELECT COUNT(*) FROM held_suppression",
        "SELECT COUNT(*) FROM event",
        "SELECT COUNT(*) FROM subscription WHERE state <> 1",
        "SELECT COUNT(*) FROM delivery WHERE state <> 5",
    ] {
        assert_eq!(house.count(sql).await, 0, "{what}: {sql}");
    }
}

#[tokio::test]
async fn a_thousand_forged_mails_touch_nobody() {
    let mut stranger = Stranger::new().await;
    for number in 0..FORGERIES {
        let (raw, to) = (stranger.mail(), stranger.recipient());
        let applied = stranger.house.bring(&raw, &to).await;
        let nothing = matches!(applied.outcome, Outcome::Unattributed | Outcome::Nothing);
        assert!(nothing, "{number}: {:?} to {to}\n{raw}", applied.outcome);
        assert_eq!(applied.subscriber, None, "{number} to {to}\n{raw}");
    }
    untouched(&stranger.house, "forgeries").await;
    // The same material in its place does all of it: the above can fail.
    let copy = stranger.copies[0];
    let genuine = stranger.house.verp(copy);
    let report = dsn("reader0@example.net", "failed", DEAD);
    assert_eq!(stranger.house.bring(&report, &genuine).await.outcome, Outcome::Suppressed);
    let id = format!("Message-ID: <{}>\r\n", stranger.house.message_id(stranger.copies[1]));
    assert_eq!(stranger.house.bring(arf(&id), "").await.outcome, Outcome::Suppressed);
}

/// Whoever reads has a genuine token of their own, and harms nobody else with it.
#[tokio::test]
async fn a_readers_own_token_silences_nobody_else() {
    let mut stranger = Stranger::new().await;
    let (eve, own) = (stranger.readers[0].1.clone(), stranger.copies[0]);
    for round in 0..60 {
        let victim = stranger.readers[1 + round % 19].1.clone();
        let raw = match round % 3 {
            0 => dsn(&victim, "failed", DEAD),
            1 => arf(&format!("To: {victim}\r\n")),
            _ => stranger.mail(),
        };
        let to = stranger.house.verp(own);
        stranger.house.bring(&raw, &to).await;
    }
    let others = "SELECT COUNT(*) FROM suppression x JOIN subscriber s \
                  ON s.address_hash = x.address_hash WHERE s.address <> 'reader0@example.net'";
    assert_eq!(stranger.house.count(others).await, 0);
    assert!(stranger.house.suppressed(&eve).await.is_some());
}

#[tokio::test]
async fn a_thousand_forged_posts_touch_nobody() {
    let mut stranger = Stranger::new().await;
    let now = stranger.house.now;
    let senders: Vec<_> = Provider::ALL.into_iter().map(Sender::new).collect();
    let impostors: Vec<_> = Provider::ALL.into_iter().map(Sender::impostor).collect();
    for number in 0..FORGERIES {
        let which = number % senders.len();
        let (hook, certificate) = (senders[which].hook(), senders[which].certificate());
        let (_, victim) = stranger.pick(&stranger.readers.clone());
        let copy = stranger.pick(&stranger.copies.clone());
        let id = stranger.house.message_id(copy);
        let said = Said::new("bounced", &victim, now).of(&id);
        let mut sent = impostors[which].send(&said, now);
        match stranger.random.random_range(0..4) {
            // The header of one genuine request before the body of another.
            0 if !sent.headers.is_empty() => {
                let provider = senders[which].provider;
                let shows = ["azure", "brevo", "mailjet", "postmark", "sparkpost"];
                if !shows.contains(&provider.as_str()) {
                    let other = Said::new("delivered", "eve@example.net", now);
                    if crate::bounce::intake::webhook::tests::tells(provider, "delivered") {
                        sent.headers = senders[which].send(&other, now).headers;
                    }
                }
            }
            1 => sent.headers.clear(),
            2 => sent.query = Some(format!("secret={id}&secret=")),
            _ => {}
        }
        let opened = sent.open(&hook, certificate.as_ref(), now);
        let refused = matches!(opened, Err(Refusal::NotAuthentic(_) | Refusal::Unreadable(_)));
        assert!(refused, "{number}: {:?} {opened:?}", hook.provider);
    }
    // Genuine posts of a provider, about tokens that are none: nothing either, as no relay is named.
    for number in 0..200 {
        let which = number % senders.len();
        let provider = senders[which].provider;
        let (_, victim) = stranger.pick(&stranger.readers.clone());
        let forged = format!("{}@example.com", stranger.forged_token());
        let forged = match provider {
            // The token of a Message-ID is right in its place.
            _ if crate::smtp::message::copy_of_message_id(
                &stranger.house.keyring,
                &forged,
                now,
            )
            .is_ok() =>
            {
                continue;
            }
            _ => forged,
        };
        let said = Said::new("bounced", &victim, now).of(&forged);
        let sent = senders[which].send(&said, now);
        let certificate = senders[which].certificate();
        let opened = sent.open(&senders[which].hook(), certificate.as_ref(), now).unwrap();
        let Opened::Events(events) = opened else { panic!("{opened:?}") };
        let post = Post { hook: "hook", provider, relay: None };
        let (db, keyring) = (&stranger.house.db, &stranger.house.keyring);
        let rules = &stranger.house.rules;
        let done = provider_events(db, keyring, rules, post, &events, now).await.unwrap();
        // Chance may write the same post twice, which is known again and is nobody's either.
        let harmless = done.get("unattributed").or(done.get("repeated"));
        assert_eq!(harmless, Some(&1), "{provider} {forged}: {done:?}");
    }
    untouched(&stranger.house, "posts").await;
}
