//! Identifiers of the rows that other rooms talk about. They are plain integers: a ledger row keyed
//! by (issue, subscriber) costs 40 bytes that way. What the outside sees is a slug, a number, an
//! address or a signed token, never one of these alone.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

ids! {
    /// A newsletter.
    NewsletterId;
    /// One edition of a newsletter.
    IssueId;
    /// A person with an address.
    SubscriberId;
    /// A service mail (confirmation, welcome, goodbye, …).
    ServiceMailId;
    /// One running daemon.
    NodeId;
}

/// Which copy this is: one issue to one subscriber, or one service mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyId {
    /// A copy of an issue: the key of a ledger row.
    Issue {
        /// The edition.
        issue: IssueId,
        /// The reader.
        subscriber: SubscriberId,
    },
    /// A service mail.
    Service(ServiceMailId),
}

impl fmt::Display for CopyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Issue { issue, subscriber } => write!(f, "{issue}.{subscriber}"),
            Self::Service(id) => write!(f, "s{id}"),
        }
    }
}
