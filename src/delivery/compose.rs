//! From a handed-off copy to a message: which template, which reader's values, which signature.
//!
//! Issues are compiled once and kept while they are being sent; a copy costs a merge. Service mail
//! is rendered for each reader, when it is due.

mod reader;
mod service;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use self::reader::{Nobody, ReaderValues};
use super::{
    content::{self, Content, ContentError},
    queue::{Handed, service::ServiceMail},
};
use crate::{
    address::Address,
    db::{Db, record::record},
    id::{CopyId, IssueId, NewsletterId, ServiceMailId, SubscriberId},
    issue::{
        brand::Brand,
        render::{RenderError, Renderer},
    },
    link::Links,
    newsletter::Newsletter,
    smtp::{
        client::{Envelope, ReportRequest},
        dkim::{self, DkimError, Signer},
        message::{
            ComposeError, ComposedMessage, CopyFields, ListUnsubscribe, Mailbox, MessageTemplate,
            message_id,
        },
        verp::TokenMailbox,
    },
    telemetry::{Step, Watch, Work},
    timestamp::Timestamp,
    token::{DeliveryToken, Keyring, Purpose, ReaderToken},
};

/// How many compiled issues are kept: more are not sent at once.
const ISSUES_MAX: usize = 8;

/// Makes messages of copies.
pub struct Composer {
    db: Db,
    keyring: Arc<Keyring>,
    links: Links,
    renderer: Arc<Renderer>,
    /// By signing domain.
    signers: HashMap<String, Vec<Signer>>,
    signs_slowly: bool,
    bounce_domain: String,
    message_id_domain: String,
    request_reports: bool,
    work: Work,
    /// The `Date` of this second, which thousands of copies share.
    date: Mutex<(i64, Arc<str>)>,
    issues: Mutex<HashMap<IssueId, Arc<Compiled>>>,
    mails: Mutex<HashMap<ServiceMailId, ServiceMail>>,
    /// When copies are given up, of every issue that was sent since the start.
    expiries: Mutex<HashMap<IssueId, Timestamp>>,
}

/// What a composer is made from.
pub struct Ingredients {
    /// Where issues' contents are.
    pub db: Db,
    /// Keys behind links, return paths and Message-IDs.
    pub keyring: Arc<Keyring>,
    /// Where the pages are.
    pub links: Links,
    /// For service mail.
    pub renderer: Arc<Renderer>,
    /// Signing keys.
    pub signers: Vec<Signer>,
    /// What mail says about where it comes from.
    pub mail: crate::config::Mail,
    /// Told what merging and signing take.
    pub work: Work,
}

/// An issue ready for its copies.
#[derive(Debug)]
pub struct Compiled {
    template: MessageTemplate,
    newsletter: NewsletterId,
    issue: IssueId,
    issue_url: String,
    from_domain: String,
}

impl Compiled {
    /// Encodes what the copies of `issue` have in common. An issue that is not stored yet can be
    /// compiled too: to look at every copy before a send, or to mail one as a test.
    pub fn new(
        content: &Content,
        newsletter: NewsletterId,
        issue: IssueId,
    ) -> Result<Self, ContentError> {
        Ok(Self {
            template: content.compile()?,
            newsletter,
            issue,
            from_domain: content::parse(&content.from_address)?.domain().to_owned(),
            issue_url: content.issue_url.clone(),
        })
    }
}

/// What one copy is made from.
#[derive(Debug, Clone)]
pub enum Prepared {
    /// A copy of an issue.
    Issue(Arc<Compiled>),
    /// A service mail.
    Service(Arc<MessageTemplate>, String),
}

/// Why a copy cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The rows it is made from cannot be read.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// Something it is made from is gone.
    #[error("{0}")]
    Missing(&'static str),
    /// The stored content is not what it should be.
    #[error("the stored content of the issue cannot be read: {0}")]
    Stored(#[from] serde_json::Error),
    /// The content cannot be made a message.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The mail cannot be rendered.
    #[error(transparent)]
    Render(#[from] RenderError),
    /// The reader lacks a value, or a value cannot stand where it should.
    #[error(transparent)]
    Compose(#[from] ComposeError),
    /// The message cannot be signed.
    #[error("the message cannot be signed: {0}")]
    Sign(#[from] DkimError),
}

record! {
    struct Stored {
        newsletter_id: NewsletterId,
        content: String,
    }
}

impl Composer {
    /// A composer that has compiled nothing yet.
    pub fn new(ingredients: Ingredients) -> Self {
        let Ingredients { db, keyring, links, renderer, signers, mail, work } = ingredients;
        let signs_slowly = signers.iter().any(|signer| signer.algorithm().starts_with("rsa"));
        let mut by_domain: HashMap<String, Vec<Signer>> = HashMap::new();
        for signer in signers {
            by_domain.entry(signer.domain().to_owned()).or_default().push(signer);
        }
        Self {
            db,
            keyring,
            links,
            renderer,
            signers: by_domain,
            signs_slowly,
            bounce_domain: mail.bounce_domain,
            message_id_domain: mail.message_id_domain,
            request_reports: mail.request_reports,
            work,
            date: Mutex::new((i64::MIN, Arc::from(""))),
            issues: Mutex::default(),
            mails: Mutex::default(),
            expiries: Mutex::default(),
        }
    }

    /// Whether making a copy takes so long that it should not happen on an I/O thread.
    pub fn signs_slowly(&self) -> bool {
        self.signs_slowly
    }

    /// Keeps what claimed service mails are about until they are sent.
    pub fn remember(&self, mails: Vec<ServiceMail>) {
        let mut kept = self.mails.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(mails.into_iter().map(|mail| (mail.id, mail)));
    }

    /// Forgets a service mail that is about to be settled; a claim brings it again.
    pub fn forget(&self, mail: ServiceMailId) {
        self.mails.lock().unwrap_or_else(PoisonError::into_inner).remove(&mail);
    }

    /// Notes until when the copies of an issue are tried: an operator can give a copy more time.
    pub fn set_expiry(&self, issue: IssueId, at: Timestamp) {
        self.expiries.lock().unwrap_or_else(PoisonError::into_inner).insert(issue, at);
    }

    /// When a copy is given up; the end of all time where that is not known.
    pub fn expires_at(&self, copy: CopyId) -> Timestamp {
        let end = match copy {
            CopyId::Issue { issue, .. } => {
                self.expiries.lock().unwrap_or_else(PoisonError::into_inner).get(&issue).copied()
            }
            CopyId::Service(id) => {
                let mails = self.mails.lock().unwrap_or_else(PoisonError::into_inner);
                mails.get(&id).map(|mail| mail.expires_at)
            }
        };
        end.unwrap_or(Timestamp::from_microseconds(i64::MAX))
    }

    /// Gets ready what `handed` is made from.
    pub async fn prepare(&self, handed: &Handed) -> Result<Prepared, CopyError> {
        match handed.claimed.copy {
            CopyId::Issue { issue, .. } => {
                if let Some(compiled) = self.kept(issue) {
                    return Ok(Prepared::Issue(compiled));
                }
                let compiled = Arc::new(self.compile(issue).await?);
                let mut issues = self.issues.lock().unwrap_or_else(PoisonError::into_inner);
                if issues.len() >= ISSUES_MAX {
                    issues.clear();
                }
                issues.insert(issue, Arc::clone(&compiled));
                Ok(Prepared::Issue(compiled))
            }
            CopyId::Service(id) => {
                let mail = {
                    let mails = self.mails.lock().unwrap_or_else(PoisonError::into_inner);
                    mails.get(&id).cloned()
                };
                let mail = mail.ok_or(CopyError::Missing("the mail's parameters are gone"))?;
                let (template, from_domain) = self.render(&mail).await?;
                Ok(Prepared::Service(Arc::new(template), from_domain))
            }
        }
    }

    /// `now` as a `Date` field has it.
    fn date(&self, now: Timestamp) -> Arc<str> {
        let second = now.seconds();
        let mut date = self.date.lock().unwrap_or_else(PoisonError::into_inner);
        if date.0 != second {
            *date = (second, Arc::from(now.to_rfc5322()));
        }
        Arc::clone(&date.1)
    }

    fn kept(&self, issue: IssueId) -> Option<Arc<Compiled>> {
        self.issues.lock().unwrap_or_else(PoisonError::into_inner).get(&issue).cloned()
    }

    async fn compile(&self, issue: IssueId) -> Result<Compiled, CopyError> {
        let stored: Option<Stored> = self
            .db
            .query(
                "SELECT i.newsletter_id, c.content FROM issue i \
                 JOIN issue_content c ON c.issue_id = i.id WHERE i.id = $1",
            )
            .bind(issue)
            .optional()
            .await?;
        let stored = stored.ok_or(CopyError::Missing("the issue's content is gone"))?;
        let content: Content = serde_json::from_str(&stored.content)?;
        Ok(Compiled::new(&content, stored.newsletter_id, issue)?)
    }

    /// The envelope of a copy: always the same for the same copy.
    pub fn envelope(&self, handed: &Handed) -> Envelope {
        let token = DeliveryToken(handed.claimed.copy).seal(&self.keyring);
        let mail_from = TokenMailbox::Bounce.address(&token, &self.bounce_domain).into_text();
        let mut envelope = Envelope::new(mail_from, handed.address.clone());
        if self.request_reports && handed.address.is_ascii() {
            envelope.report =
                Some(ReportRequest { envid: token, original_recipient: handed.address.clone() });
        }
        envelope
    }

    /// The Message-ID of a copy, without angle brackets: always the same for the same copy.
    pub fn message_id(&self, copy: CopyId) -> String {
        message_id(&self.keyring, copy, &self.message_id_domain)
    }

    /// Makes the signed message of a copy in `out`.
    pub fn compose(
        &self,
        handed: &Handed,
        prepared: &Prepared,
        out: &mut ComposedMessage,
    ) -> Result<(), CopyError> {
        let mut watch = self.work.watch();
        let now = Timestamp::now();
        let to = content::parse(&handed.address)?;
        let message_id = self.message_id(handed.claimed.copy);
        let date = self.date(now);
        let from_domain = match prepared {
            Prepared::Issue(compiled) => {
                self.compose_issue(handed, compiled, (&to, &message_id, &date), &mut watch, out)?;
                &compiled.from_domain
            }
            Prepared::Service(template, from_domain) => {
                let copy = CopyFields {
                    reader: &Nobody,
                    to: Mailbox { name: None, address: &to },
                    message_id: &message_id,
                    date: &date,
                    unsubscribe: None,
                };
                template.compose(&copy, out)?;
                from_domain
            }
        };
        watch.lap_detail(Step::Encode, Step::Merge);
        if let Some(signers) = self.signers.get(from_domain) {
            dkim::sign(signers, out, now)?;
            watch.lap(Step::Sign);
        }
        Ok(())
    }

    fn compose_issue(
        &self,
        handed: &Handed,
        compiled: &Compiled,
        (to, message_id, date): (&Address, &str, &str),
        watch: &mut Watch<'_>,
        out: &mut ComposedMessage,
    ) -> Result<(), CopyError> {
        let CopyId::Issue { subscriber, .. } = handed.claimed.copy else {
            return Err(CopyError::Missing("a service mail is no copy of an issue"));
        };
        let reader = self.reader_values(handed, compiled, subscriber);
        let copy = CopyFields {
            reader: &reader,
            to: Mailbox { name: reader.name, address: to },
            message_id,
            date,
            unsubscribe: Some(ListUnsubscribe {
                https: &reader.unsubscribe_url,
                mailto: &reader.unsubscribe_mailto,
            }),
        };
        watch.detail(Step::Merge);
        Ok(compiled.template.compose(&copy, out)?)
    }

    fn reader_values<'a>(
        &self,
        handed: &'a Handed,
        compiled: &'a Compiled,
        subscriber: SubscriberId,
    ) -> ReaderValues<'a> {
        let token = ReaderToken {
            newsletter: compiled.newsletter,
            subscriber,
            issue: Some(compiled.issue),
        };
        let unsubscribe = token.seal(&self.keyring, Purpose::Unsubscribe);
        let mailbox = TokenMailbox::Unsubscribe.address(&unsubscribe, &self.bounce_domain);
        let preferences = token.seal(&self.keyring, Purpose::Preferences);
        ReaderValues {
            address: &handed.address,
            name: handed.name.as_deref(),
            attributes: handed
                .attributes
                .as_deref()
                .and_then(|json| serde_json::from_str(json).ok()),
            unsubscribe_url: self.links.unsubscribe(&unsubscribe),
            unsubscribe_mailto: ["mailto:", &mailbox.into_text()].concat(),
            preferences_url: self.links.preferences(&preferences),
            issue_url: &compiled.issue_url,
        }
    }
}

/// What a newsletter puts around everything that is rendered in its name.
pub fn brand_of(newsletter: &Newsletter, links: &Links) -> Brand {
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    Brand {
        description: some(&newsletter.description),
        language: newsletter.language.clone(),
        postal_address: some(&newsletter.postal_address),
        accent: newsletter.accent_color.clone(),
        sender_name: newsletter.from_name.clone(),
        subject_pattern: newsletter.subject_pattern.clone(),
        ..Brand::new(newsletter.name.clone(), links.newsletter(&newsletter.slug))
    }
}
