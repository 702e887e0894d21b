//! What the copies of one issue are made from: rendered once when the send is asked for and kept
//! with the issue, so that a restart, an upgrade or an edited template in the middle of a send
//! changes nothing for the readers still to come.

use serde::{Deserialize, Serialize};

use crate::{
    address::{Address, AddressError},
    link::Links,
    merge::MergeText,
    newsletter::Newsletter,
    smtp::message::{
        FeedbackId, HeaderError, ListFields, Mailbox, MessageKind, MessageParts, MessageTemplate,
    },
};

/// An issue ready to be copied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Content {
    /// The subject.
    pub subject: String,
    /// The HTML part.
    pub html: MergeText,
    /// The plain-text part.
    pub text: MergeText,
    /// The newsletter's name.
    pub newsletter_name: String,
    /// The newsletter's slug.
    pub slug: String,
    /// The issue's number.
    pub number: i64,
    /// The From name.
    pub from_name: String,
    /// The From address.
    pub from_address: String,
    /// Where answers go.
    pub reply_to: String,
    /// The newsletter's page.
    pub newsletter_url: String,
    /// The issue's page.
    pub issue_url: String,
}

/// Why a message cannot be made from stored content.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// An address of the newsletter is not one.
    #[error("the newsletter's address `{address}` cannot be used: {source}")]
    Address {
        /// What was found.
        address: String,
        /// What is wrong with it.
        source: AddressError,
    },
    /// A value cannot stand in a header.
    #[error(transparent)]
    Header(#[from] HeaderError),
}

impl Content {
    /// What is sent of `newsletter`'s issue `number`.
    pub fn new(
        newsletter: &Newsletter,
        number: i64,
        subject: String,
        html: MergeText,
        text: MergeText,
        links: &Links,
    ) -> Self {
        Self {
            subject,
            html,
            text,
            newsletter_name: newsletter.name.clone(),
            slug: newsletter.slug.clone(),
            number,
            from_name: newsletter.from_name.clone(),
            from_address: newsletter.from_address.clone(),
            reply_to: newsletter.reply_to.clone(),
            newsletter_url: links.newsletter(&newsletter.slug),
            issue_url: links.issue(&newsletter.slug, number),
        }
    }

    /// Encodes everything that the copies have in common.
    pub fn compile(&self) -> Result<MessageTemplate, ContentError> {
        let from = parse(&self.from_address)?;
        let reply_to = parse(&self.reply_to)?;
        let owner = format!("mailto:{}", reply_to.as_str());
        let list_id = format!("{}.{}", self.slug, from.domain());
        let campaign = format!("issue-{}", self.number);
        let sender = sender_token(from.domain());
        let list = ListFields {
            name: &self.newsletter_name,
            id: &list_id,
            help: &self.newsletter_url,
            archive: &self.newsletter_url,
            owner: &owner,
        };
        let feedback_id = FeedbackId {
            campaign: &campaign,
            newsletter: &self.slug,
            kind: "issue",
            sender: &sender,
        };
        Ok(MessageTemplate::compile(&MessageParts {
            from: Mailbox { name: Some(&self.from_name), address: &from },
            reply_to: Some(Mailbox { name: None, address: &reply_to }),
            subject: &self.subject,
            text: &self.text,
            html: &self.html,
            kind: MessageKind::Issue { list, feedback_id },
        })?)
    }
}

/// The sender's field of `Feedback-ID`: the same in all mail of an installation.
pub(super) fn sender_token(domain: &str) -> String {
    domain.chars().filter(char::is_ascii_alphanumeric).take(15).collect()
}

pub(super) fn parse(address: &str) -> Result<Address, ContentError> {
    Address::parse(address)
        .map_err(|source| ContentError::Address { address: address.to_owned(), source })
}
