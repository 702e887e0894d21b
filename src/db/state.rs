//! The states that rows go through, and the small integers that stand for them in the database.
//! A number, once released, keeps its meaning for good.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A number in a state column that no version of the program wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{number} is not a {what}; the database was written by a newer version or by hand")]
pub struct UnknownState {
    what: &'static str,
    number: i64,
}

macro_rules! states {
    ($($(#[$doc:meta])* $what:literal $name:ident {
        $($(#[$variant_doc:meta])* $variant:ident = $number:literal $text:literal,)*
    })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[repr(i64)]
        pub enum $name {
            $($(#[$variant_doc])* $variant = $number,)*
        }

        impl $name {
            /// Every state there is.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The word for this state in pages, logs and commands.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)*
                }
            }

            /// The state that `word` names.
            pub fn by_name(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|state| state.as_str() == word)
            }
        }

        impl TryFrom<i64> for $name {
            type Error = UnknownState;

            fn try_from(number: i64) -> Result<Self, Self::Error> {
                match number {
                    $($number => Ok(Self::$variant),)*
                    _ => Err(UnknownState { what: $what, number }),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }
    )*};
}

states! {
    /// A subscriber's standing with one newsletter.
    "subscription state" SubscriptionState {
        /// Asked for, not confirmed yet.
        Pending = 0 "pending",
        /// Confirmed: in the audience.
        Active = 1 "active",
        /// Left.
        Unsubscribed = 2 "unsubscribed",
        /// Never confirmed in time.
        Expired = 3 "expired",
    }

    /// How far one edition has come.
    "issue state" IssueState {
        /// Written, not planned.
        Draft = 0 "draft",
        /// Asked for; the first copy leaves at `sends_at`, and until then it can be undone.
        Scheduled = 1 "scheduled",
        /// Copies are leaving.
        Sending = 2 "sending",
        /// Stopped by an operator.
        Paused = 3 "paused",
        /// Stopped by a gate.
        Halted = 4 "halted",
        /// Given up by an operator; what had left stays sent.
        Cancelled = 5 "cancelled",
        /// Nothing remains to be done.
        Sent = 6 "sent",
    }

    /// Where one copy stands. A waiting copy is `planned` while its stage is not released, `queued`
    /// once it is, `deferred` after a try that has to be repeated: three words for one stored
    /// state, so that releasing a stage of a million copies writes one row.
    "copy state" CopyState {
        /// Planned, queued or deferred.
        Waiting = 0 "waiting",
        /// Held by a node under a lease; nothing was sent.
        Claimed = 1 "claimed",
        /// Durably marked just before its envelope goes out.
        HandedOff = 2 "handed_off",
        /// The relay took it.
        Accepted = 3 "accepted",
        /// Refused for good.
        Rejected = 4 "rejected",
        /// The final dot went out and no reply was seen.
        Uncertain = 5 "uncertain",
        /// Not sent, for a reason that was found before the handoff.
        Skipped = 6 "skipped",
        /// Never accepted within the time to live.
        Expired = 7 "expired",
        /// Its issue was cancelled before it left.
        Cancelled = 8 "cancelled",
    }

    /// What one line of the delivery log says.
    "event kind" EventKind {
        /// A batch was taken under a lease.
        Claimed = 0 "claimed",
        /// A copy was marked just before its envelope.
        HandedOff = 1 "handed_off",
        /// The relay took the copy.
        Accepted = 2 "accepted",
        /// The copy has to be tried again.
        Deferred = 3 "deferred",
        /// The copy was refused for good.
        Rejected = 4 "rejected",
        /// The copy's fate is not known.
        Uncertain = 5 "uncertain",
        /// The copy was not sent.
        Skipped = 6 "skipped",
        /// The copy ran out of time.
        Expired = 7 "expired",
        /// A report came back: the copy was not delivered.
        Bounced = 8 "bounced",
        /// The reader called the copy spam.
        Complained = 9 "complained",
        /// The reader left.
        Unsubscribed = 10 "unsubscribed",
        /// A gate stopped the issue.
        Halted = 11 "halted",
        /// An operator let the issue go on.
        Resumed = 12 "resumed",
        /// A relay or a provider at a relay is left alone for a while.
        BreakerOpened = 13 "breaker_opened",
        /// A report came back: the copy is still on its way.
        Delayed = 14 "delayed",
        /// The address must not be mailed any more.
        Suppressed = 15 "suppressed",
        /// A stage of the issue was released.
        StageReleased = 16 "stage_released",
        /// An operator stopped the issue.
        Paused = 17 "paused",
        /// An operator gave the issue up.
        Cancelled = 18 "cancelled",
        /// The issue is done.
        Sent = 19 "sent",
        /// An operator or evidence settled an uncertain copy.
        Resolved = 20 "resolved",
        /// The reader asked to subscribe.
        SignedUp = 21 "signed_up",
        /// The reader confirmed.
        Confirmed = 22 "confirmed",
        /// The address would be suppressed, but too many of its provider failed at once: an
        /// operator decides.
        SuppressionHeld = 23 "suppression_held",
        /// A gate saw a share that is not enough to halt, and more than is usual.
        Warned = 24 "warned",
        /// A second person approved of the issue's send.
        Approved = 25 "approved",
        /// Mail goes to a relay or a provider at a relay again.
        BreakerClosed = 26 "breaker_closed",
        /// An operator took the issue back before its first copy left.
        Undone = 27 "undone",
    }
}

impl CopyState {
    /// Whether nothing will happen to a copy in this state by itself any more.
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Waiting | Self::Claimed | Self::HandedOff)
    }
}
