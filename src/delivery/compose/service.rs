//! Service mail: rendered for its one reader, when it is due.

use super::{Composer, CopyError, brand_of};
use crate::{
    db,
    delivery::{
        content::{self, ContentError},
        queue::service::ServiceMail,
    },
    issue::render,
    merge::MergeText,
    newsletter::{self, Newsletter},
    service_mail::Kind,
    smtp::message::{FeedbackId, Mailbox, MessageKind, MessageParts, MessageTemplate},
    subscriber,
    token::{Purpose, ReaderToken},
};

impl Composer {
    /// Renders a service mail.
    pub(super) async fn render(
        &self,
        mail: &ServiceMail,
    ) -> Result<(MessageTemplate, String), CopyError> {
        let newsletter = match mail.newsletter_id {
            Some(id) => newsletter::by_id(&self.db, id).await?,
            None => None,
        };
        let newsletter = newsletter.ok_or(CopyError::Missing("the newsletter is gone"))?;
        let brand = brand_of(&newsletter, &self.links);
        let about = self.about(mail, &newsletter).await?;
        let rendered = self.renderer.service(&about, &brand)?;
        let from = content::parse(&newsletter.from_address)?;
        let reply_to = content::parse(&newsletter.reply_to)?;
        let sender = content::sender_token(from.domain());
        let feedback_id = FeedbackId {
            campaign: &mail.kind,
            newsletter: &newsletter.slug,
            kind: &mail.kind,
            sender: &sender,
        };
        let template = MessageTemplate::compile(&MessageParts {
            from: Mailbox { name: Some(&newsletter.from_name), address: &from },
            reply_to: Some(Mailbox { name: None, address: &reply_to }),
            subject: &rendered.subject,
            text: &MergeText::literal(rendered.text),
            html: &MergeText::literal(rendered.html),
            kind: MessageKind::Service { feedback_id: Some(feedback_id) },
        })
        .map_err(ContentError::from)?;
        Ok((template, from.domain().to_owned()))
    }

    async fn about(
        &self,
        mail: &ServiceMail,
        newsletter: &Newsletter,
    ) -> Result<render::ServiceMail, CopyError> {
        let kind = Kind::by_name(&mail.kind)
            .ok_or(CopyError::Missing("there is no service mail of this kind"))?;
        let parameters: serde_json::Value = serde_json::from_str(&mail.parameters)?;
        let token = mail.subscriber_id.map(|subscriber| ReaderToken {
            newsletter: newsletter.id,
            subscriber,
            issue: None,
        });
        let link = |purpose| {
            let token = token.ok_or(CopyError::Missing("the mail is for no subscriber"))?;
            Ok::<_, CopyError>(token.seal(&self.keyring, purpose))
        };
        let unsubscribe_url =
            || Ok::<_, CopyError>(self.links.unsubscribe(&link(Purpose::Unsubscribe)?));
        let preferences_url =
            || Ok::<_, CopyError>(self.links.preferences(&link(Purpose::Preferences)?));
        Ok(match kind {
            Kind::Confirmation | Kind::Reminder => render::ServiceMail::Confirmation {
                confirm_url: self.links.confirm(&self.mailed_link(&parameters).await?),
                not_me_url: self.links.not_me(&link(Purpose::NotMe)?),
                expires: mail.expires_at.to_jiff().strftime("%-d %B %Y").to_string(),
                reminder: kind == Kind::Reminder,
            },
            Kind::Welcome => render::ServiceMail::Welcome {
                unsubscribe_url: unsubscribe_url()?,
                preferences_url: preferences_url()?,
                latest: self.latest_issue(newsletter).await?,
            },
            Kind::AlreadySubscribed => render::ServiceMail::AlreadySubscribed {
                unsubscribe_url: unsubscribe_url()?,
                preferences_url: preferences_url()?,
            },
            Kind::Goodbye => render::ServiceMail::Goodbye {
                subscribe_url: self.links.newsletter(&newsletter.slug),
            },
            Kind::Probe => render::ServiceMail::Probe {
                unsubscribe_url: unsubscribe_url()?,
                preferences_url: preferences_url()?,
            },
            Kind::MyData => render::ServiceMail::OperatorNotice {
                headline: format!("Your data at {}", newsletter.name),
                paragraphs: vec![
                    "You asked for the data that this newsletter keeps about you. The link leads to \
                     a page where you can download or erase it. If you did not ask, do nothing."
                        .to_owned(),
                ],
                facts: Vec::new(),
                action: Some((
                    "See my data".to_owned(),
                    self.links.my_data(&self.mailed_link(&parameters).await?),
                )),
            },
            Kind::OperatorNotice => operator_notice(&parameters),
        })
    }

    async fn mailed_link(&self, parameters: &serde_json::Value) -> Result<String, CopyError> {
        let row = parameters["confirmation"].as_i64();
        let row = row.ok_or(CopyError::Missing("the mail names no confirmation"))?;
        let link = subscriber::mailed_link(&self.db, &self.keyring, row).await?;
        Ok(link.ok_or(CopyError::Missing("the link was used, replaced or forgotten"))?.1)
    }

    async fn latest_issue(&self, newsletter: &Newsletter) -> db::Result<Option<(String, String)>> {
        let latest: Option<(String, i64)> = self
            .db
            .query(
                "SELECT subject, number FROM issue WHERE newsletter_id = $1 AND state = 6 \
                 ORDER BY number DESC LIMIT 1",
            )
            .bind(newsletter.id)
            .optional()
            .await?;
        Ok(latest.map(|(subject, number)| (subject, self.links.issue(&newsletter.slug, number))))
    }
}

fn operator_notice(parameters: &serde_json::Value) -> render::ServiceMail {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let list = |name: &str| parameters[name].as_array().cloned().unwrap_or_default();
    let pair = |value: &serde_json::Value| (text(&value[0]), text(&value[1]));
    render::ServiceMail::OperatorNotice {
        headline: text(&parameters["headline"]),
        paragraphs: list("paragraphs").iter().map(text).collect(),
        facts: list("facts").iter().map(pair).collect(),
        action: parameters.get("action").filter(|action| action.is_array()).map(pair),
    }
}
