//! Users and logins against a real database.

use std::time::{Duration, Instant};

use super::*;
use crate::db::OpenOptions;

const START: Timestamp = Timestamp::from_microseconds(1_700_000_000_000_000);
const PASSWORD: &str = "correct horse battery";

struct House {
    db: Db,
    passwords: Passwords,
    logins: Logins,
    _folder: tempfile::TempDir,
}

impl House {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(&OpenOptions::new(folder.path().join("test.db"))).await.unwrap();
        let passwords = Passwords::default();
        create(&db, &passwords, "ada", PASSWORD, Role::Operator, "test", START).await.unwrap();
        let logins = Logins::new(db.clone(), Duration::from_hours(12));
        Self { db, passwords, logins, _folder: folder }
    }

    async fn log_in(&self, name: &str, password: &str) -> Result<(Session, String), LoginError> {
        let ip = Some("192.0.2.1".parse().unwrap());
        self.logins.log_in(LogIn { name, password, ip }, START).await
    }

    async fn who(&self, token: &str, now: Timestamp) -> Option<String> {
        find_session(&self.db, token, now).await.unwrap().map(|session| session.name)
    }
}

#[tokio::test]
async fn a_login_lasts_until_its_time_is_over_or_its_user_leaves() {
    let house = House::new().await;
    let (session, token) = house.log_in("ada", PASSWORD).await.unwrap();
    assert_eq!((session.name.as_str(), session.role), ("ada", Role::Operator));
    let late = START.plus(Duration::from_hours(12));
    assert_eq!(house.who(&token, late.minus(Duration::from_secs(1))).await.as_deref(), Some("ada"));
    assert_eq!(house.who(&token, late).await, None);
    assert_eq!(house.who("another", START).await, None);
    end(&house.db, &token).await.unwrap();
    assert_eq!(house.who(&token, START).await, None);
}

#[tokio::test]
async fn another_password_ends_every_login_and_the_old_one_is_void() {
    let house = House::new().await;
    let (_, first) = house.log_in("ada", PASSWORD).await.unwrap();
    let (_, second) = house.log_in("ada", PASSWORD).await.unwrap();
    let new = "a wholly other password";
    set_password(&house.db, &house.passwords, "ada", new, "test", START).await.unwrap();
    assert_eq!(house.who(&first, START).await, None);
    assert_eq!(house.who(&second, START).await, None);
    assert!(matches!(house.log_in("ada", PASSWORD).await, Err(LoginError::Wrong)));
    assert!(house.log_in("ada", new).await.is_ok());
}

#[tokio::test]
async fn a_disabled_user_is_out_at_once_and_stays_out() {
    let house = House::new().await;
    let (_, token) = house.log_in("ada", PASSWORD).await.unwrap();
    assert!(any(&house.db).await.unwrap());
    disable(&house.db, "ada", "test", START).await.unwrap();
    assert_eq!(house.who(&token, START).await, None);
    assert!(matches!(house.log_in("ada", PASSWORD).await, Err(LoginError::Wrong)));
    assert!(list(&house.db).await.unwrap()[0].disabled_at.is_some());
    assert!(!any(&house.db).await.unwrap());
    let unknown = disable(&house.db, "nobody", "test", START).await;
    assert!(matches!(unknown, Err(AccountError::Unknown(_))));
}

#[tokio::test]
async fn names_are_used_once_and_passwords_have_a_length() {
    let house = House::new().await;
    for (name, password, expected) in [
        ("ada", PASSWORD, "there is already a user `ada`"),
        ("", PASSWORD, "cannot be a user's name"),
        ("a b", PASSWORD, "cannot be a user's name"),
        ("bob", "short", "too short"),
        ("bob", &"long".repeat(300), "too long"),
        ("bob", "aaaaaaaaaaaaaaaa", "too easy"),
        ("bob-the-builder", "Bob-The-Builder", "too easy"),
    ] {
        let role = Role::Editor;
        let made = create(&house.db, &house.passwords, name, password, role, "test", START).await;
        let error = made.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn guessing_is_stopped_and_the_right_password_does_not_help_then() {
    let house = House::new().await;
    for _ in 0..5 {
        assert!(matches!(house.log_in("ada", "wrong").await, Err(LoginError::Wrong)));
    }
    let error = house.log_in("ada", PASSWORD).await.unwrap_err();
    assert_eq!(error.to_string(), "too many tries; wait 15 minutes");
}

#[tokio::test]
async fn unknown_names_take_as_long_as_wrong_passwords() {
    let house = House::new().await;
    let hash: String = house.db.query("SELECT password_hash FROM user").scalar().await.unwrap();
    let mut times = [Duration::MAX; 2];
    let mut alike = false;
    // The least of some tells the work from the machine's mood: other work can only make one dearer,
    // and what does no work at all is never as dear as what does.
    for round in 1..=100 {
        for (time, hash) in times.iter_mut().zip([Some(hash.clone()), None]) {
            let started = Instant::now();
            assert!(!house.passwords.verify("wrong", hash).await.unwrap());
            *time = (*time).min(started.elapsed());
        }
        alike = times[0] < times[1] * 2 && times[1] < times[0] * 2;
        if alike && round >= 5 {
            break;
        }
    }
    assert!(alike, "{times:?}");
}

#[tokio::test]
async fn acts_are_in_the_audit_log_and_secrets_are_nowhere() {
    let house = House::new().await;
    let (_, token) = house.log_in("ada", PASSWORD).await.unwrap();
    disable(&house.db, "ada", "test", START).await.unwrap();
    let acts: Vec<(String,)> =
        house.db.query("SELECT action FROM audit ORDER BY id").all().await.unwrap();
    let acts: Vec<&str> = acts.iter().map(|(act,)| act.as_str()).collect();
    assert_eq!(acts, ["user.add", "user.log_in", "user.disable"]);
    let hash: String = house.db.query("SELECT password_hash FROM user").scalar().await.unwrap();
    assert!(hash.starts_with("$argon2id$") && !hash.contains(PASSWORD));
    let kept: i64 = house
        .db
        .query("SELECT COUNT(*) FROM web_session WHERE token_hash = CAST($1 AS BLOB)")
        .bind(token)
        .scalar()
        .await
        .unwrap();
    assert_eq!(kept, 0);
}

#[tokio::test]
async fn one_user_has_a_bounded_number_of_logins() {
    let house = House::new().await;
    let (_, first) = house.log_in("ada", PASSWORD).await.unwrap();
    for n in 0..20 {
        let at = START.plus(Duration::from_secs(n + 1));
        let by = LogIn { name: "ada", password: PASSWORD, ip: None };
        house.logins.log_in(by, at).await.unwrap();
    }
    assert_eq!(house.who(&first, START).await, None);
    let kept: i64 = house.db.query("SELECT COUNT(*) FROM web_session").scalar().await.unwrap();
    assert_eq!(kept, 20);
}

#[test]
fn roles_have_an_order_and_words() {
    assert!(Role::ALL.is_sorted());
    for role in Role::ALL {
        assert_eq!(Role::by_name(role.as_str()), Some(*role));
    }
    assert_eq!(Role::by_name("root"), None);
}
