//! What refusals and reports do to rows: suppressions, soft counts, unsubscriptions, settled
//! copies, and their lines in the delivery log.
//!
//! Three doors, one set of rules ([`policy`](super::policy)). [`own_refusal`] runs inside the
//! transaction in which the ledger's writer settles a refused copy, so that an outcome and what
//! follows from it become durable together. [`returned_mail`] takes a whole mail from outside;
//! everything it does is in one transaction with the stored mail, so a mail that comes again (a
//! sender that saw no reply to its dot, a file that is read twice) counts once. [`provider_events`]
//! takes what providers post instead of mail, by the same rules.
//!
//! A mail without a genuine token of ours changes nothing. Nothing here ever writes a mail.
//! Owns the tables `soft_bounce`, `dead_address_count`, `held_suppression`, `inbound_mail` and
//! `seen_event`.

mod attribution;
mod brake;
pub mod held;
mod inbound;
mod own;
mod provider;
mod reader;
mod replay;
mod returned;
mod soft;
#[cfg(test)]
pub(in crate::bounce) mod tests;

pub(super) use attribution::is_genuine;
pub use attribution::named_by;
pub use inbound::{Forgotten, Received, forget_old, list, show};
pub use own::own_refusal;
pub use provider::{Post, provider_events, provider_of};
pub use replay::{Replayed, Selection, replay, select};
pub use returned::{Applied, ApplyError, ReadMail, ReturnedMail, Source, returned_mail};

/// What came of a refusal or a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The reader's address is suppressed now.
    Suppressed,
    /// It had been suppressed before.
    SuppressedBefore,
    /// The suppression waits for an operator.
    Held,
    /// The failed issue was counted.
    Counted,
    /// The message is at fault: the log says so, the reader is untouched.
    MessageRefused,
    /// We are at fault in the receiver's eyes: the log says so, the reader is untouched.
    SenderRefused,
    /// The reader left.
    Unsubscribed,
    /// The copy is still on its way: logged.
    Delayed,
    /// An uncertain copy turned out to have arrived.
    Arrived,
    /// The same report had been applied before.
    Repeated,
    /// It would have done something, but nothing genuine says to whom.
    Unattributed,
    /// Nothing follows from it.
    Nothing,
}

impl Outcome {
    /// The word in the table, on pages and in the command's output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Suppressed => "suppressed",
            Self::SuppressedBefore => "suppressed_before",
            Self::Held => "held",
            Self::Counted => "counted",
            Self::MessageRefused => "message_refused",
            Self::SenderRefused => "sender_refused",
            Self::Unsubscribed => "unsubscribed",
            Self::Delayed => "delayed",
            Self::Arrived => "arrived",
            Self::Repeated => "repeated",
            Self::Unattributed => "unattributed",
            Self::Nothing => "nothing",
        }
    }
}

/// Characters of a server's words that the log keeps.
const WORDS_MAX: usize = 500;

/// The words that are kept.
fn cut(words: &str) -> String {
    words.chars().filter(|c| !c.is_control()).take(WORDS_MAX).collect()
}
