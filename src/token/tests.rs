//! Tokens: what they say comes back, and nothing else does.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use proptest::prelude::*;

use super::*;
use crate::id::{CopyId, IssueId, NewsletterId, ServiceMailId, SubscriberId};

const ALL: [Purpose; 9] = [
    Purpose::Bounce,
    Purpose::MessageId,
    Purpose::Unsubscribe,
    Purpose::Preferences,
    Purpose::MyData,
    Purpose::Confirm,
    Purpose::NotMe,
    Purpose::FormTime,
    Purpose::AddressHash,
];

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

const ONE: &str = "key 1 2024-01-01T00:00:00Z \
    000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const TWO: &str = "key 2 2024-06-01T00:00:00Z \
    202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f";

fn ring(keys: &[&str]) -> Keyring {
    Keyring::from_text(&format!("postrider-keyring 1\n{}\n", keys.join("\n"))).unwrap()
}

fn copy(issue: i64, subscriber: i64) -> CopyId {
    CopyId::Issue { issue: IssueId(issue), subscriber: SubscriberId(subscriber) }
}

fn any_copy() -> impl Strategy<Value = CopyId> {
    prop_oneof![
        (any::<i64>(), any::<i64>()).prop_map(|(i, s)| copy(i, s)),
        any::<i64>().prop_map(|id| CopyId::Service(ServiceMailId(id))),
    ]
}

#[test]
fn formats_do_not_change() {
    // Mails that were sent years ago carry these.
    let ring = ring(&[ONE]);
    let now = at("2024-02-01T00:00:00Z");
    let reader = ReaderToken {
        newsletter: NewsletterId(1),
        subscriber: SubscriberId(48_211),
        issue: Some(IssueId(437)),
    };
    let ada = Address::parse("Ada@example.com").unwrap();
    let tokens = [
        DeliveryToken(copy(437, 48_211)).seal(&ring),
        DeliveryToken(CopyId::Service(ServiceMailId(9))).seal(&ring),
        DeliveryToken(copy(437, 48_211)).seal_message_id(&ring),
        reader.seal(&ring, Purpose::Unsubscribe),
        reader.seal(&ring, Purpose::Preferences),
        FormTime(now).seal(&ring),
        ring.derive(Purpose::Confirm, b"nonce"),
        data_encoding::HEXLOWER.encode(&ring.address_hash(&ada)),
        data_encoding::HEXLOWER.encode(&hash_token("token")),
    ];
    insta::assert_snapshot!(tokens.join("\n"), @"
    aealka6t7abmt2to3nymnneergea
    aeaqtfztkpynr26aej2hg
    aealka6t7abl7lef3xdxnw5itl2a
    aea5h6acwubzs6424y74hxw34s5a
    aea5h6acwubzcz4plqvt4cxrlhpq
    aeaamecgvu24aagtofi4gzmkoldp6fi
    3lx2mvkrir3aor4466yrzytsdnk242gs
    f374736ff0bcd31e521312a1a8e66ebb
    3c469e9d6c5875d37a43f353d4f88e61fcf812c66eee3457465a40b0da4153e0
    ");
}

#[test]
fn a_return_path_of_a_large_list_stays_short() {
    let token = DeliveryToken(copy(100_000, 2_000_000_000)).seal(&ring(&[ONE]));
    assert!(token.len() <= 34, "{}", token.len());
}

#[test]
fn purposes_are_not_interchangeable() {
    let ring = ring(&[ONE]);
    let now = at("2024-02-01T00:00:00Z");
    for made_for in ALL {
        let token = ring.seal(made_for, b"payload");
        for opened_for in ALL {
            let opened = ring.open(opened_for, &token, now);
            if made_for == opened_for {
                assert_eq!(&*opened.unwrap(), b"payload");
            } else {
                assert_eq!(opened.unwrap_err(), TokenError::Forged);
            }
        }
    }
}

#[test]
fn old_keys_open_return_paths_for_sixty_days_and_links_for_ever() {
    let token = DeliveryToken(copy(1, 2));
    let reader =
        ReaderToken { newsletter: NewsletterId(1), subscriber: SubscriberId(2), issue: None };
    let old = ring(&[ONE]);
    let (path, message_id) = (token.seal(&old), token.seal_message_id(&old));
    let link = reader.seal(&old, Purpose::Unsubscribe);
    let new = ring(&[ONE, TWO]);
    let (day_60, day_61) = (at("2024-07-31T00:00:00Z"), at("2024-08-01T00:00:00Z"));
    assert_eq!(DeliveryToken::open(&new, &path, day_60), Ok(token));
    assert_eq!(DeliveryToken::open(&new, &path, day_61), Err(TokenError::KeyExpired));
    assert_eq!(DeliveryToken::open_message_id(&new, &message_id, day_61), Ok(token));
    let years_later = at("2044-08-01T00:00:00Z");
    assert_eq!(ReaderToken::open(&new, Purpose::Unsubscribe, &link, years_later), Ok(reader));
    assert_eq!(token.seal_message_id(&new), message_id, "the same in every attempt");
    assert_ne!(token.seal(&new), path, "the new key signs");
    assert_eq!(DeliveryToken::open(&old, &token.seal(&new), day_60), Err(TokenError::UnknownKey));
}

#[test]
fn what_must_stay_stays_when_the_key_changes() {
    let (old, new) = (ring(&[ONE]), ring(&[ONE, TWO]));
    let ada = Address::parse("Ada@example.com").unwrap();
    let spelt_differently = Address::parse("ada@EXAMPLE.com").unwrap();
    assert_eq!(old.address_hash(&ada), new.address_hash(&spelt_differently));
    let token = old.derive(Purpose::Confirm, b"row 7");
    let hash = hash_token(&token);
    assert_eq!(new.derive_again(Purpose::Confirm, b"row 7", &hash), Some(token));
    assert_eq!(new.derive_again(Purpose::Confirm, b"row 8", &hash), None);
    assert_eq!(new.derive_again(Purpose::NotMe, b"row 7", &hash), None);
}

#[test]
fn random_tokens_are_long_and_differ() {
    let (one, two) = (random_token(), random_token());
    assert_eq!(one.len(), 32);
    assert_ne!(one, two);
    assert_eq!(hash_token(&one), hash_token(&one.to_ascii_uppercase()));
}

#[test]
fn the_file_is_made_once_and_for_the_owner_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keyring");
    let now = at("2024-02-01T00:00:00Z");
    let made = Keyring::load_or_create(&path, now).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let token = made.seal(Purpose::Bounce, b"x");
    let read = Keyring::load_or_create(&path, now).unwrap();
    assert_eq!(&*read.open(Purpose::Bounce, &token, now).unwrap(), b"x");

    let rotated = Keyring::rotate(&path, now).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(&*rotated.open(Purpose::Bounce, &token, now).unwrap(), b"x");
    let newer = rotated.seal(Purpose::Bounce, b"x");
    assert_ne!(newer, token);
    let read = Keyring::load(&path).unwrap();
    assert_eq!(&*read.open(Purpose::Bounce, &newer, now).unwrap(), b"x");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
}

#[test]
fn processes_that_start_at_once_use_one_ring() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keyring");
    let now = at("2024-02-01T00:00:00Z");
    let rings: Vec<_> = std::thread::scope(|scope| {
        let start = || scope.spawn(|| Keyring::load_or_create(&path, now).unwrap());
        let threads: Vec<_> = (0..8).map(|_| start()).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let tokens: Vec<_> = rings.iter().map(|ring| ring.seal(Purpose::Bounce, b"x")).collect();
    assert!(tokens.iter().all(|token| *token == tokens[0]));
}

#[test]
fn a_ring_that_cannot_be_used_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keyring");
    let refusal = |text: &str, mode: u32| {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = Keyring::load_or_create(&path, Timestamp::default()).unwrap_err();
        error.to_string().replace(folder.path().to_str().unwrap(), "")
    };
    let ring = |lines: &str| format!("postrider-keyring 1\n{lines}\n");
    let secret_twice = format!("{ONE}\n{ONE}");
    let refusals = [
        refusal(&ring(ONE), 0o644),
        refusal("something else", 0o600),
        refusal(&ring("# nothing"), 0o600),
        refusal(&ring("key 0 2024-01-01T00:00:00Z 00"), 0o600),
        refusal(&ring("key 1 yesterday 00"), 0o600),
        refusal(&ring("key 1 2024-01-01T00:00:00Z 00"), 0o600),
        refusal(&ring(&format!("{ONE} 00")), 0o600),
        refusal(&ring(&secret_twice), 0o600),
        refusal(&ring("clé"), 0o600),
    ];
    insta::assert_snapshot!(refusals.join("\n"), @"
    key ring /keyring: its mode 0644 lets others use it; run: chmod 600 /keyring
    key ring /keyring: it does not begin with “postrider-keyring 1”; is this another file, or from a newer version?
    key ring /keyring: it holds no key; restore it from a backup, or remove it to start a new one
    key ring /keyring: line 2: the id must be a number from 1 to 255
    key ring /keyring: line 2: the date of creation must look like 2024-08-11T09:05:07Z
    key ring /keyring: line 2: the secret must be 64 digits of lower-case hexadecimal
    key ring /keyring: line 2: something follows the secret
    key ring /keyring: line 3: another key has this id already
    key ring /keyring: line 2: expected “key ID CREATED SECRET”
    ");
    assert!(refusals.iter().all(|text| !text.contains("0001020304")), "no secret is shown");
    let link = folder.path().join("link");
    std::os::unix::fs::symlink("nowhere", &link).unwrap();
    assert!(Keyring::load_or_create(&link, Timestamp::default()).is_err(), "and does not hang");
    let nowhere = Path::new("/nonexistent-folder/keyring");
    let error = Keyring::load_or_create(nowhere, Timestamp::default()).unwrap_err().to_string();
    assert!(error.contains("/nonexistent-folder/keyring: cannot be made"), "{error}");
}

#[test]
fn debugging_shows_no_secret() {
    assert_eq!(format!("{:?}", ring(&[ONE])), "{1: 2024-01-01T00:00:00.000000Z}");
}

proptest! {
    #[test]
    fn copies_round_trip_in_any_case(copy in any_copy()) {
        let ring = ring(&[ONE]);
        let token = DeliveryToken(copy).seal(&ring);
        let now = Timestamp::default();
        prop_assert_eq!(DeliveryToken::open(&ring, &token, now), Ok(DeliveryToken(copy)));
        let shouted = token.to_ascii_uppercase();
        prop_assert_eq!(DeliveryToken::open(&ring, &shouted, now), Ok(DeliveryToken(copy)));
        prop_assert!(token.bytes().all(|b| b.is_ascii_lowercase() || (b'2'..=b'7').contains(&b)));
    }

    #[test]
    fn readers_round_trip(
        newsletter in any::<i64>(), subscriber in any::<i64>(), issue in any::<Option<i64>>()
    ) {
        let ring = ring(&[ONE, TWO]);
        let reader = ReaderToken {
            newsletter: NewsletterId(newsletter),
            subscriber: SubscriberId(subscriber),
            issue: issue.map(IssueId),
        };
        let token = reader.seal(&ring, Purpose::Preferences);
        let opened = ReaderToken::open(&ring, Purpose::Preferences, &token, Timestamp::default());
        prop_assert_eq!(opened, Ok(reader));
    }

    #[test]
    fn one_changed_character_is_refused(copy in any_copy(), at in any::<usize>(), to in 0..32_usize) {
        let ring = ring(&[ONE]);
        let token = DeliveryToken(copy).seal(&ring);
        let mut altered = token.clone().into_bytes();
        let at = at % altered.len();
        altered[at] = b"abcdefghijklmnopqrstuvwxyz234567"[to];
        let altered = String::from_utf8(altered).unwrap();
        prop_assume!(altered != token);
        prop_assert!(DeliveryToken::open(&ring, &altered, Timestamp::default()).is_err());
    }

    #[test]
    fn whatever_is_presented_is_refused_without_a_panic(token in any::<String>(),
        letters in "[a-z2-7]{0,140}")
    {
        let ring = ring(&[ONE]);
        prop_assert!(ring.open(Purpose::Bounce, &token, Timestamp::default()).is_err());
        prop_assert!(ring.open(Purpose::Bounce, &letters, Timestamp::default()).is_err());
    }
}
