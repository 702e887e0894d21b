//! Behaviour over a real SQLite file: who is suppressed, who is not, and what the log says.

mod brake;
mod forgeries;
mod own;
mod provider;
mod replay;
mod reports;
mod soft;
mod statements;
mod strangers;

use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::{
    address::Address,
    bounce::policy::Attribution,
    config,
    db::{
        Db, OpenOptions,
        record::record,
        state::{CopyState, EventKind},
    },
    delivery::{policy::classify_reply, queue::Settlement},
    event::Event,
    id::{CopyId, IssueId, NewsletterId, ServiceMailId, SubscriberId},
    newsletter::{self, NewNewsletter},
    provider::{ProviderId, Providers},
    service_mail::{self, NewServiceMail},
    smtp::{client::Phase, message::message_id, reply::Reply, verp::TokenMailbox},
    timestamp::Timestamp,
    token::{DeliveryToken, Keyring, Purpose, ReaderToken},
};

/// The seed of a test that draws lots: printed, and taken from the environment to repeat a run.
fn seed() -> u64 {
    let given = std::env::var("POSTRIDER_TEST_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    println!("POSTRIDER_TEST_SEED={seed}");
    seed
}

/// A database with a newsletter, a key ring and a clock that is moved by hand.
pub(in crate::bounce) struct House {
    pub(in crate::bounce) db: Db,
    pub(in crate::bounce) keyring: Keyring,
    pub(in crate::bounce) rules: config::Bounces,
    newsletter: NewsletterId,
    now: Timestamp,
    _folder: TempDir,
}

record! {
    /// What the log says of a reader.
    #[derive(Debug)]
    struct Line {
        kind: EventKind,
        issue_id: Option<IssueId>,
        service_id: Option<ServiceMailId>,
        code: Option<i64>,
        enhanced: Option<String>,
        text: Option<String>,
        class: Option<String>,
        rule: Option<String>,
    }
}

impl House {
    pub(in crate::bounce) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(&OpenOptions::new(folder.path().join("test.db"))).await.unwrap();
        let now = Timestamp::now();
        let new = NewNewsletter {
            slug: "sre".to_owned(),
            name: "The letter".to_owned(),
            description: String::new(),
            from_address: Address::parse("editor@example.com").unwrap(),
        };
        let newsletter = newsletter::create(&db, &new, now).await.unwrap().id;
        let keyring = Keyring::ephemeral(now);
        let rules = config::Bounces::default();
        Self { db, keyring, rules, newsletter, now, _folder: folder }
    }

    fn pass_days(&mut self, days: u64) {
        self.now = self.now.plus(Duration::from_hours(24 * days));
    }

    /// An issue that is being sent now.
    pub(in crate::bounce) async fn issue(&self, number: i64) -> IssueId {
        self.db
            .write(
                "INSERT INTO issue (uid, newsletter_id, number, subject, state, model, source, \
                 created_at, started_at) VALUES ($1, $2, $3, 'Issue', 2, '{}', '', $4, $4) \
                 RETURNING id",
            )
            .bind(format!("issue-{number}"))
            .bind(self.newsletter)
            .bind(number)
            .bind(self.now)
            .scalar()
            .await
            .unwrap()
    }

    pub(in crate::bounce) async fn reader(&self, typed: &str) -> SubscriberId {
        let address = Address::parse(typed).unwrap();
        let id: SubscriberId = self
            .db
            .write(
                "INSERT INTO subscriber (address, address_hash, provider, created_at) \
                 VALUES ($1, $2, $3, $4) RETURNING id",
            )
            .bind(typed.to_owned())
            .bind(self.keyring.address_hash(&address).to_vec())
            .bind(Providers::embedded().of_address(typed).0)
            .bind(self.now)
            .scalar()
            .await
            .unwrap();
        self.db
            .write(
                "INSERT INTO subscription (newsletter_id, subscriber_id, state, created_at) \
                 VALUES ($1, $2, 1, $3)",
            )
            .bind(self.newsletter)
            .bind(id)
            .bind(self.now)
            .execute()
            .await
            .unwrap();
        id
    }

    /// The copy of `issue` to `reader`, in `state` under claim 1.
    pub(in crate::bounce) async fn copy(
        &self,
        issue: IssueId,
        reader: SubscriberId,
        state: CopyState,
    ) -> CopyId {
        self.db
            .write(
                "INSERT INTO delivery (issue_id, subscriber_id, state, stage, provider, claim_id) \
                 SELECT $1, id, $3, 0, provider, 1 FROM subscriber WHERE id = $2",
            )
            .bind(issue)
            .bind(reader)
            .bind(state)
            .execute()
            .await
            .unwrap();
        CopyId::Issue { issue, subscriber: reader }
    }

    async fn state(&self, copy: CopyId) -> CopyState {
        match copy {
            CopyId::Issue { issue, subscriber } => self
                .db
                .query("SELECT state FROM delivery WHERE issue_id = $1 AND subscriber_id = $2")
                .bind(issue)
                .bind(subscriber),
            CopyId::Service(id) => {
                self.db.query("SELECT state FROM service_mail WHERE id = $1").bind(id)
            }
        }
        .scalar()
        .await
        .unwrap()
    }

    /// A confirmation mail to `typed`, whose subscriber is `reader`.
    async fn confirmation(&self, reader: SubscriberId, typed: &str) -> CopyId {
        let mut tx = self.db.begin().await.unwrap();
        let mail = NewServiceMail {
            kind: service_mail::Kind::Confirmation,
            newsletter: Some(self.newsletter),
            subscriber: Some(reader),
            address: Address::parse(typed).unwrap(),
            provider: ProviderId::OTHER,
            parameters: serde_json::json!({}),
            expires_at: self.now.plus(Duration::from_hours(1)),
        };
        let id = service_mail::queue(&mut tx, mail, self.now).await.unwrap();
        tx.commit().await.unwrap();
        CopyId::Service(id)
    }

    /// The return path of `copy`.
    pub(in crate::bounce) fn verp(&self, copy: CopyId) -> String {
        let token = DeliveryToken(copy).seal(&self.keyring);
        TokenMailbox::Bounce.address(&token, "bounce.localhost").to_string()
    }

    /// The unsubscribe mailbox of a reader.
    pub(in crate::bounce) fn mailto(
        &self,
        subscriber: SubscriberId,
        issue: Option<IssueId>,
    ) -> String {
        let token = ReaderToken { newsletter: self.newsletter, subscriber, issue }
            .seal(&self.keyring, Purpose::Unsubscribe);
        TokenMailbox::Unsubscribe.address(&token, "bounce.localhost").to_string()
    }

    fn message_id(&self, copy: CopyId) -> String {
        message_id(&self.keyring, copy, "example.com")
    }

    /// Brings a mail in as the listener would.
    async fn bring(&self, raw: impl AsRef<[u8]>, rcpt_to: &str) -> Applied {
        let mail = ReturnedMail {
            raw: raw.as_ref().into(),
            mail_from: String::new(),
            rcpt_to: rcpt_to.to_owned(),
            source: Source::Pipe,
        };
        returned_mail(&self.db, &self.keyring, &self.rules, mail, self.now).await.unwrap()
    }

    async fn suppressed(&self, typed: &str) -> Option<String> {
        let address = Address::parse(typed).unwrap();
        let found = crate::subscriber::suppression::find(&self.db, &self.keyring, &address);
        found.await.unwrap().map(|row| row.reason)
    }

    pub(in crate::bounce) async fn count(&self, sql: &'static str) -> i64 {
        self.db.query(sql).scalar().await.unwrap()
    }

    async fn log(&self, reader: SubscriberId) -> Vec<Line> {
        self.db
            .query(
                "SELECT kind, issue_id, service_id, code, enhanced, text, class, rule FROM event \
                 WHERE subscriber_id = $1 ORDER BY id",
            )
            .bind(reader)
            .all()
            .await
            .unwrap()
    }

    /// Settles a handed-off copy as the ledger's writer would after `reply` at `phase`.
    async fn refuse(&self, copy: CopyId, phase: Phase, code: u16, text: &str) {
        let mut tx = self.db.begin().await.unwrap();
        let settlements = [self.refusal(copy, phase, code, text)];
        let percent = self.rules.brake_percent;
        let changed = crate::delivery::queue::settle(&mut tx, &settlements, percent, self.now);
        assert_eq!(changed.await.unwrap(), 1);
        tx.commit().await.unwrap();
    }

    fn refusal(&self, copy: CopyId, phase: Phase, code: u16, text: &str) -> Settlement {
        let reply = Reply::new(code, text);
        let provider = ProviderId::OTHER;
        let mut event = Event::new(EventKind::Rejected, self.now).because(text);
        match copy {
            CopyId::Issue { issue, subscriber } => {
                event = event.about(Some(issue), Some(subscriber));
            }
            CopyId::Service(id) => event.service_id = Some(id),
        }
        Settlement {
            copy,
            claim: 1,
            state: CopyState::Rejected,
            attempts: 1,
            due_at: None,
            decided_at: self.now,
            reason: Some(format!("{phase}: {reply}")),
            event: Some(event),
            class: Some(classify_reply(phase, &reply, provider)),
            first_due_at: None,
            timings: crate::smtp::client::Timings::default(),
            stage: 0,
            provider: provider.0,
        }
    }
}

/// A delivery status notification on `address`.
pub(in crate::bounce) fn dsn(address: &str, action: &str, diagnostic: &str) -> String {
    dsn_with(address, action, diagnostic, "Subject: Issue\r\n")
}

/// The same with these fields of the returned mail.
fn dsn_with(address: &str, action: &str, diagnostic: &str, returned: &str) -> String {
    let status = diagnostic.split(' ').nth(1).unwrap();
    format!(
        "From: MAILER-DAEMON@mx.example.net\r\nSubject: Undelivered Mail Returned to Sender\r\n\
         Auto-Submitted: auto-replied\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=delivery-status; boundary=\"=-B\"\r\n\r\n\
         --=-B\r\nContent-Type: text/plain\r\n\r\nThis is the mail system at mx.example.net.\r\n\r\n\
         --=-B\r\nContent-Type: message/delivery-status\r\n\r\n\
         Reporting-MTA: dns; mx.example.net\r\n\r\nFinal-Recipient: rfc822; {address}\r\n\
         Action: {action}\r\nStatus: {status}\r\nDiagnostic-Code: smtp; {diagnostic}\r\n\r\n\
         --=-B\r\nContent-Type: text/rfc822-headers\r\n\r\n\
         From: Editor <editor@example.com>\r\nTo: {address}\r\n{returned}\r\n--=-B--\r\n"
    )
}

/// A complaint (RFC 5965) on a mail with these fields.
fn arf(returned: &str) -> String {
    format!(
        "From: feedback@provider.example\r\nSubject: complaint\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/report; report-type=feedback-report; boundary=\"=-B\"\r\n\r\n\
         --=-B\r\nContent-Type: text/plain\r\n\r\nThis is an abuse report.\r\n\r\n\
         --=-B\r\nContent-Type: message/feedback-report\r\n\r\n\
         Feedback-Type: abuse\r\nUser-Agent: Loop/1.0\r\nVersion: 1\r\n\r\n\
         --=-B\r\nContent-Type: message/rfc822\r\n\r\n\
         From: Editor <editor@example.com>\r\nSubject: Issue\r\n{returned}\r\nHello.\r\n--=-B--\r\n"
    )
}

const DEAD: &str = "550 5.1.1 <reader> User unknown in virtual mailbox table";
const FULL: &str = "552 5.2.2 Mailbox is full";
