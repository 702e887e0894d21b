//! One event of a provider, whichever provider it was: what happened to which copy, what the server
//! said, and what in it is ours.

use crate::{
    bounce::{
        classify::{Classification, Fault, Grounds, Permanence, Reason},
        report::{Action, Basis, Kind, OriginalHeaders, Report, ReportedRecipient},
    },
    provider::ProviderId,
    smtp::reply::EnhancedCode,
    timestamp::Timestamp,
};

/// Octets kept of any text of an event.
const TEXT_MAX: usize = 2_048;
/// The longest address that is taken for one (RFC 5321, section 4.5.3.1).
const ADDRESS_MAX: usize = 320;

/// What a provider says happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum What {
    /// The provider has the copy and waits.
    Queued,
    /// The provider has the copy and sends it.
    Sent,
    /// The reader's server took it.
    Delivered,
    /// It is late and still being tried.
    Deferred,
    /// The reader's server refused it.
    Bounced,
    /// The provider did not send it.
    Rejected,
    /// The provider could not make or send it.
    Failed,
    /// The reader called it spam.
    Complained,
    /// The reader left by the provider's own link.
    Unsubscribed,
    /// Somebody joined by the provider's own form.
    Subscribed,
    /// It was looked at. Never counted.
    Opened,
    /// A link of it was followed. Never counted.
    Clicked,
    /// Anything else.
    Other,
}

impl What {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Deferred => "deferred",
            Self::Bounced => "bounced",
            Self::Rejected => "rejected",
            Self::Failed => "failed",
            Self::Complained => "complained",
            Self::Unsubscribed => "unsubscribed",
            Self::Subscribed => "subscribed",
            Self::Opened => "opened",
            Self::Clicked => "clicked",
            Self::Other => "other",
        }
    }
}

/// What a provider itself makes of a failure, in a field of its own. The server's reply, where there
/// is one, is better evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The address does not exist, in so many words: "invalid recipient", "no such domain".
    Dead,
    /// A failure for good, of whatever kind; or the provider's own list of addresses that failed.
    Hard,
    /// It failed this time.
    Soft,
    /// The mailbox is full.
    Full,
    /// The mailbox or its filter refused.
    Refused,
    /// Called spam, or the sender is on a list.
    Spam,
    /// The sender's standing or a rule about senders.
    Policy,
    /// Too large, or not as it should be.
    Content,
    /// Nobody could be reached.
    Unreachable,
    /// Not sent, because the reader had left by the provider's own means.
    Left,
    /// Not sent, because the reader had complained before.
    ComplainedBefore,
}

impl Verdict {
    fn class(self) -> Classification {
        use Fault as F;
        use Grounds::{Stated, Wording};
        use Permanence::{Permanent, Transient};
        let (fault, permanence, reason, grounds, rule) = match self {
            Self::Dead => (F::Recipient, Permanent, Reason::NoSuchUser, Stated, "provider-dead"),
            Self::Hard => (F::Recipient, Permanent, Reason::Unknown, Wording, "provider-hard"),
            Self::Soft | Self::Left | Self::ComplainedBefore => {
                (F::Unknown, Transient, Reason::Unknown, Wording, "provider-soft")
            }
            Self::Full => (F::Mailbox, Transient, Reason::MailboxFull, Stated, "provider-full"),
            Self::Refused => (F::Mailbox, Permanent, Reason::Filtered, Wording, "provider-refused"),
            Self::Spam => (F::Reputation, Permanent, Reason::Spam, Wording, "provider-spam"),
            Self::Policy => (F::Policy, Permanent, Reason::Policy, Wording, "provider-policy"),
            Self::Content => {
                (F::Content, Permanent, Reason::Malformed, Wording, "provider-content")
            }
            Self::Unreachable => {
                (F::Network, Transient, Reason::Unreachable, Wording, "provider-unreachable")
            }
        };
        Classification { fault, permanence, reason, grounds, rule, action: None }
    }
}

/// What in an event was in our own mail: the only things that can name a copy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Carried {
    /// Values of `Message-ID`, where the provider keeps ours.
    pub message_ids: Vec<String>,
    /// The envelope sender.
    pub return_path: Option<String>,
    /// The field `List-Unsubscribe`.
    pub list_unsubscribe: Option<String>,
}

/// The most values of `Message-ID` that are tried.
const MESSAGE_IDS_MAX: usize = 4;

impl Carried {
    /// Adds a value of `Message-ID`.
    pub(super) fn add_message_id(&mut self, id: Option<String>) {
        let id = id.filter(|id| !id.is_empty() && id.len() <= TEXT_MAX);
        if self.message_ids.len() < MESSAGE_IDS_MAX {
            self.message_ids.extend(id);
        }
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HookEvent {
    /// What happened.
    pub what: What,
    /// To whose copy.
    pub recipient: Option<String>,
    /// When, by the provider's clock.
    pub at: Option<Timestamp>,
    /// The provider's number of the event, by which a repetition is known.
    pub id: Option<String>,
    /// The provider's number of the message.
    pub message: Option<String>,
    /// What the reader's server said.
    pub reply: Option<String>,
    /// The status code that the provider found (RFC 3463), for replies that have none.
    pub status: Option<EnhancedCode>,
    /// What the provider says about it.
    pub description: Option<String>,
    /// What the provider makes of it.
    pub verdict: Option<Verdict>,
    /// The provider says that the failure may pass.
    pub temporary: bool,
    /// What was in our own mail.
    pub carried: Carried,
    /// A payload that says this event and no other.
    pub raw: Vec<u8>,
}

impl HookEvent {
    /// An event about which nothing else is known yet.
    pub(super) fn new(what: What) -> Self {
        Self {
            what,
            recipient: None,
            at: None,
            id: None,
            message: None,
            reply: None,
            status: None,
            description: None,
            verdict: None,
            temporary: false,
            carried: Carried::default(),
            raw: Vec::new(),
        }
    }

    /// What a mail that says the same would be. A copy that the provider kept back because the reader
    /// had left or complained tells just that.
    pub fn kind(&self) -> Kind {
        match self.what {
            What::Bounced | What::Rejected if self.verdict == Some(Verdict::Left) => {
                Kind::Unsubscribe
            }
            What::Bounced | What::Rejected if self.verdict == Some(Verdict::ComplainedBefore) => {
                Kind::Complaint
            }
            What::Delivered => Kind::Delivered,
            What::Deferred => Kind::Delayed,
            What::Bounced | What::Rejected | What::Failed => Kind::Failed,
            What::Complained => Kind::Complaint,
            What::Unsubscribed => Kind::Unsubscribe,
            What::Queued
            | What::Sent
            | What::Subscribed
            | What::Opened
            | What::Clicked
            | What::Other => Kind::NotAReport,
        }
    }

    /// Whether anything may follow from it.
    pub fn matters(&self) -> bool {
        self.kind() != Kind::NotAReport
    }

    /// Makes texts short and addresses plain, whatever the provider sent.
    pub(super) fn tidied(mut self) -> Self {
        self.recipient = self.recipient.as_deref().and_then(plain_address);
        let texts = [&mut self.id, &mut self.message, &mut self.reply, &mut self.description];
        for text in texts {
            *text = text.take().filter(|text| !text.trim().is_empty());
            if let Some(text) = text
                && text.len() > TEXT_MAX
            {
                text.truncate(text.floor_char_boundary(TEXT_MAX));
            }
        }
        self
    }

    /// The same as a report, for the rules that hold for mails.
    pub fn report(&self) -> Report {
        let said = self.reply.as_deref().or(self.description.as_deref()).unwrap_or_default();
        let action = match self.kind() {
            Kind::Delayed => Some(Action::Delayed),
            Kind::Delivered => Some(Action::Delivered),
            Kind::Failed => Some(Action::Failed),
            _ => None,
        };
        let recipient = self.recipient.clone().map(|address| {
            let mut about = ReportedRecipient::quoting(address, action, said);
            let vague = about.status.is_none_or(|code| (code.1, code.2) == (0, 0));
            about.status = self.status.filter(|_| vague).or(about.status);
            about.temporary |= self.temporary || about.status.is_some_and(|code| code.0 == 4);
            about
        });
        let complaint = self.kind() == Kind::Complaint;
        Report {
            kind: self.kind(),
            recipients: recipient.into_iter().collect(),
            original: Some(OriginalHeaders {
                message_id: self.carried.message_ids.first().cloned(),
                list_unsubscribe: self.carried.list_unsubscribe.clone(),
                return_path: self.carried.return_path.clone(),
                ..OriginalHeaders::default()
            }),
            envelope_recipient: None,
            envelope_id: None,
            original_mail_from: None,
            reporting_mta: None,
            feedback_type: complaint.then(|| self.description.clone()).flatten(),
            subject: String::new(),
            arrival_date: None,
            date: None,
            basis: Basis::Nothing,
        }
    }

    /// Whose fault a failure is: what the server said, and where that says nothing what the provider
    /// makes of it. A provider that calls a failure temporary is believed, and so is one that calls an
    /// address dead whose server only says so in words. Where the reply calls the address dead and
    /// the provider sees a block, a filter or a full mailbox, the milder reading stands.
    pub fn classify(&self, provider: ProviderId) -> Classification {
        let said = self.report().recipients.first().map(|about| about.classify(provider));
        let verdict = self.verdict.map(Verdict::class);
        let mut class = match (said, verdict) {
            (Some(said), Some(verdict)) if said.fault == Fault::Unknown => verdict,
            (Some(said), Some(verdict))
                if said.fault == Fault::Recipient && verdict.rule == "provider-dead" =>
            {
                Classification { grounds: Grounds::Stated, ..said }
            }
            (Some(said), Some(verdict))
                if said.fault == Fault::Recipient
                    && !matches!(verdict.fault, Fault::Recipient | Fault::Unknown) =>
            {
                verdict
            }
            (Some(said), _) => said,
            (None, Some(verdict)) => verdict,
            (None, None) => Verdict::Soft.class(),
        };
        if self.temporary || self.what == What::Deferred {
            class.permanence = Permanence::Transient;
        }
        class
    }
}

/// The address in `text`, which may be a mailbox with a name.
fn plain_address(text: &str) -> Option<String> {
    let text = match (text.rfind('<'), text.rfind('>')) {
        (Some(open), Some(close)) if open < close => &text[open + 1..close],
        _ => text,
    };
    let text = text.trim();
    let plain = text.len() <= ADDRESS_MAX
        && text.contains('@')
        && !text.chars().any(|c| c.is_control() || c.is_whitespace());
    plain.then(|| text.to_owned())
}
