//! Behaviour of the room over a real SQLite file.

mod import;
mod leaving;
mod sign_up;
mod statements;
mod time;

use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::{
    audit::Act,
    config,
    db::{OpenOptions, state::CopyState},
    newsletter::{self, NewNewsletter},
    provider::Providers,
    token::ReaderToken,
};

/// A database with one newsletter, a key ring and a clock that is moved by hand.
pub(crate) struct House {
    pub(crate) db: Db,
    pub(crate) keyring: Keyring,
    pub(crate) rules: config::Signup,
    pub(crate) newsletter: NewsletterId,
    pub(crate) now: Timestamp,
    _folder: TempDir,
}

record! {
    /// A queued mail, as the delivery engine sees it.
    #[derive(Debug)]
    pub(crate) struct Queued {
        pub(crate) kind: String,
        pub(crate) parameters: String,
        pub(crate) state: CopyState,
    }
}

pub(crate) fn address(text: &str) -> Address {
    Address::parse(text).unwrap()
}

pub(crate) fn act(action: &'static str) -> Act<'static> {
    Act { actor: "test", action, target: "target", detail: "because" }
}

impl House {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(&OpenOptions::new(folder.path().join("test.db"))).await.unwrap();
        let now = "2026-03-02T10:00:00Z".parse().unwrap();
        let mut house = Self {
            db,
            keyring: Keyring::ephemeral(now),
            rules: config::Signup::default(),
            newsletter: NewsletterId(0),
            now,
            _folder: folder,
        };
        house.newsletter = house.newsletter("sre").await;
        house
    }

    pub(crate) async fn newsletter(&self, slug: &str) -> NewsletterId {
        let new = NewNewsletter {
            slug: slug.to_owned(),
            name: format!("The {slug} letter"),
            description: String::new(),
            from_address: address("editor@example.com"),
        };
        newsletter::create(&self.db, &new, self.now).await.unwrap().id
    }

    pub(crate) fn pass(&mut self, time: Duration) {
        self.now = self.now.plus(time);
    }

    pub(crate) async fn sign_up(&self, typed: &str) -> SignUpOutcome {
        self.sign_up_from(typed, None).await.unwrap()
    }

    pub(crate) async fn sign_up_from(
        &self,
        typed: &str,
        ip: Option<&str>,
    ) -> Result<SignUpOutcome, SignUpError> {
        let request =
            SignUp { newsletter: self.newsletter, address: address(typed), origin: origin(ip) };
        let providers = Providers::embedded();
        sign_up(&self.db, &self.keyring, providers, &self.rules, &request, self.now).await
    }

    /// All mails that were queued, oldest first.
    pub(crate) async fn mails(&self) -> Vec<Queued> {
        let sql = "SELECT kind, parameters, state FROM service_mail ORDER BY id";
        self.db.query(sql).all().await.unwrap()
    }

    /// The kinds of the mails that wait.
    pub(crate) async fn waiting(&self) -> Vec<String> {
        let mails = self.mails().await.into_iter();
        mails.filter(|m| m.state == CopyState::Waiting).map(|m| m.kind).collect()
    }

    /// The link in the newest mail that carries one.
    pub(crate) async fn link(&self) -> String {
        let mails = self.mails().await;
        let id = mails.iter().rev().find_map(|mail| {
            let parameters: serde_json::Value = serde_json::from_str(&mail.parameters).unwrap();
            parameters["confirmation"].as_i64()
        });
        let (_, token) = mailed_link(&self.db, &self.keyring, id.unwrap()).await.unwrap().unwrap();
        token
    }

    pub(crate) async fn confirm(&self, token: &str) -> ConfirmOutcome {
        let by = (token, &origin(Some("2001:db8::7")));
        confirm(&self.db, &self.keyring, "example.com", by, self.now).await.unwrap()
    }

    /// Signs up and confirms.
    pub(crate) async fn subscribe(&self, typed: &str) -> SubscriberId {
        assert_eq!(self.sign_up(typed).await, SignUpOutcome::ConfirmationQueued);
        let link = self.link().await;
        assert!(matches!(self.confirm(&link).await, ConfirmOutcome::Confirmed(_)));
        self.subscriber(typed).await
    }

    pub(crate) async fn subscriber(&self, typed: &str) -> SubscriberId {
        find(&self.db, &self.keyring, &address(typed)).await.unwrap().unwrap().id
    }

    pub(crate) async fn state(&self, typed: &str) -> Option<SubscriptionState> {
        let found = find(&self.db, &self.keyring, &address(typed)).await.unwrap()?;
        let all = subscriptions(&self.db, found.id).await.unwrap();
        all.into_iter().find(|s| s.newsletter_id == self.newsletter).map(|s| s.state)
    }

    pub(crate) fn token(&self, subscriber: SubscriberId) -> ReaderToken {
        ReaderToken { newsletter: self.newsletter, subscriber, issue: None }
    }

    pub(crate) async fn leave(&self, subscriber: SubscriberId, scope: Scope) -> Left {
        let how = (Via::Page, None);
        unsubscribe(&self.db, self.token(subscriber), scope, how, &origin(None), self.now)
            .await
            .unwrap()
    }

    pub(crate) async fn suppress(&self, typed: &str, reason: suppression::Reason) -> bool {
        let act = act("subscriber.suppress");
        suppression::suppress(&self.db, &self.keyring, &address(typed), reason, act, self.now)
            .await
            .unwrap()
    }

    pub(crate) async fn suppressed(&self, typed: &str) -> Option<String> {
        let found = suppression::find(&self.db, &self.keyring, &address(typed)).await.unwrap();
        found.map(|row| row.reason)
    }

    /// How many rows `table`'s count says.
    pub(crate) async fn count(&self, sql: &'static str) -> i64 {
        self.db.query(sql).scalar().await.unwrap()
    }
}

pub(crate) fn origin(ip: Option<&str>) -> Origin {
    let ip = ip.map(|text| text.parse().unwrap());
    Origin::new(ip, Some("Browser/1.0\r\nX: y"), Some("form 1: Send me the newsletter".into()))
}
