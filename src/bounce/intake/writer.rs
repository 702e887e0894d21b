//! The one writer of what the listeners take in. Reports come in waves, over many connections, and a
//! commit for each would hold up both the relays that bring them and the ledger, which writes to the
//! same database: those that arrive together are committed together, and each is answered when the
//! commit is durable.
//!
//! A group that fails is rolled back and done again mail by mail, so that one bad mail is nobody
//! else's.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::{
    bounce::apply::{Applied, ApplyError, ReadMail, ReturnedMail},
    config,
    db::{self, Db},
    timestamp::Timestamp,
    token::Keyring,
};

/// How many mails may wait. Every connection waits for its own mail, so there are never more than
/// connections.
const WAITING_MAX: usize = 64;
/// How many mails one transaction takes: the ledger waits for it.
const GROUP_MAX: usize = 64;

/// A mail to be written, and who waits for it.
struct Job {
    mail: ReadMail,
    reply: oneshot::Sender<Result<Applied, ApplyError>>,
}

/// A way to the writer. It stops when the last way to it is gone.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    keyring: Arc<Keyring>,
    jobs: mpsc::Sender<Job>,
}

impl Writer {
    /// Starts a writer on the current runtime.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub(super) fn start(db: Db, keyring: Arc<Keyring>, rules: config::Bounces) -> Self {
        let (jobs, inbox) = mpsc::channel(WAITING_MAX);
        tokio::spawn(write(db, rules, inbox));
        Self { keyring, jobs }
    }

    /// Reads a mail and does what follows from it; returns when that is durable. If the caller does
    /// not wait for it, the mail may have been taken in nevertheless, and counts once when it comes
    /// again.
    pub(super) async fn take(&self, mail: ReturnedMail) -> Result<Applied, ApplyError> {
        let mail = ReadMail::read(&self.keyring, mail, Timestamp::now()).await?;
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job { mail, reply }).await.map_err(|_| ApplyError::Broken)?;
        answer.await.map_err(|_| ApplyError::Broken)?
    }
}

async fn write(db: Db, rules: config::Bounces, mut inbox: mpsc::Receiver<Job>) {
    let mut jobs = Vec::with_capacity(GROUP_MAX);
    while inbox.recv_many(&mut jobs, GROUP_MAX).await > 0 {
        // Who gave up waiting brings the mail again.
        jobs.retain(|job| !job.reply.is_closed());
        match apply_all(&db, &rules, &jobs).await {
            Ok(applied) => {
                for (job, applied) in jobs.drain(..).zip(applied) {
                    answer(job, Ok(applied));
                }
            }
            Err(_) => {
                for job in jobs.drain(..).filter(|job| !job.reply.is_closed()) {
                    let alone = apply_all(&db, &rules, std::slice::from_ref(&job)).await;
                    let alone = alone.map(|mut applied| applied.pop());
                    answer(
                        job,
                        alone.map_err(Into::into).and_then(|one| one.ok_or(ApplyError::Broken)),
                    );
                }
            }
        }
    }
}

/// Applies these mails in one transaction.
async fn apply_all(db: &Db, rules: &config::Bounces, jobs: &[Job]) -> db::Result<Vec<Applied>> {
    let mut tx = db.begin().await?;
    let mut applied = Vec::with_capacity(jobs.len());
    for job in jobs {
        applied.push(job.mail.apply(&mut tx, rules).await?);
    }
    tx.commit().await?;
    Ok(applied)
}

fn answer(job: Job, applied: Result<Applied, ApplyError>) {
    if let Ok(applied) = &applied {
        applied.tell();
    }
    // Whoever hung up hears nothing; the mail is taken in.
    let _ = job.reply.send(applied);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounce::apply::{Source, tests::House};

    #[tokio::test]
    async fn a_mail_that_cannot_be_stored_takes_none_of_its_group_along() {
        let house = House::new().await;
        let poison = "CREATE TRIGGER poison BEFORE INSERT ON inbound_mail \
             WHEN NEW.rcpt_to LIKE 'bad%' BEGIN SELECT RAISE(ABORT, 'no room'); END";
        house.db.write(poison).execute().await.unwrap();
        let (jobs, inbox) = mpsc::channel(WAITING_MAX);
        let mut answers = Vec::new();
        for n in 0..20 {
            let bad = n % 5 == 0;
            let mail = ReturnedMail {
                raw: Arc::from(&b"Subject: hello\r\n\r\nhello\r\n"[..]),
                mail_from: String::new(),
                rcpt_to: format!("{}{n}@bounce.example", if bad { "bad" } else { "good" }),
                source: Source::Pipe,
            };
            let mail = ReadMail::read(&house.keyring, mail, Timestamp::now()).await.unwrap();
            let (reply, answer) = oneshot::channel();
            jobs.send(Job { mail, reply }).await.unwrap();
            answers.push((bad, answer));
        }
        // All are there before it begins, and so make one group.
        drop(jobs);
        write(house.db.clone(), house.rules.clone(), inbox).await;
        for (bad, answer) in answers {
            assert_eq!(answer.await.unwrap().is_err(), bad);
        }
        let kept = "SELECT COUNT(*) FROM inbound_mail WHERE rcpt_to LIKE 'good%'";
        let kept: i64 = house.db.query(kept).scalar().await.unwrap();
        assert_eq!(kept, 16);
    }
}
