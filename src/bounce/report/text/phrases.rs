//! The words by which free-text notices are recognised and taken apart. All are lower case; short
//! and general, so that one phrase serves many servers.

/// Local parts under which mail systems write.
pub(super) const SYSTEM_SENDERS: [&str; 6] =
    ["mailer-daemon", "postmaster", "post_master", "mailerdaemon", "mail-daemon", "mdaemon"];

/// Subjects of failure notices. Lower case.
pub(super) const FAILURE_SUBJECTS: [&str; 27] = [
    "undeliver",
    "returned mail",
    "returned to sender",
    "returning message",
    "delivery fail",
    "delivery has failed",
    "delivery status notification",
    "delivery notification",
    "delivery error",
    "delivery failure",
    "failure notice",
    "failed delivery",
    "failed mail",
    "mail failure",
    "mail delivery",
    "mail system error",
    "could not be delivered",
    "couldn't be delivered",
    "non-delivery",
    "nondeliverable",
    "unzustellbar",
    "nicht zugestellt",
    "non remis",
    "no entregado",
    "non consegnato",
    "não entregue",
    "недоставленное",
];

/// Phrases by which a notice says that something was not delivered. Lower case.
pub(super) const FAILURE_PHRASES: [&str; 46] = [
    "could not be delivered",
    "couldn't be delivered",
    "cannot be delivered",
    "could not deliver",
    "wasn't able to deliver",
    "not able to deliver",
    "unable to deliver",
    "unable to be delivered",
    "error delivering",
    "error occurred while trying to deliver",
    "error has occurred while attempting to deliver",
    "delivery to the following recipient",
    "delivery failed",
    "delivery has failed",
    "did not reach the following recipient",
    "did not receive this message",
    "fatal errors",
    "delivery errors",
    "delivery problems",
    "undeliverable",
    "was rejected by",
    "failed permanently",
    "permanent error",
    "permanent failure",
    "transcript of session follows",
    "invalid final delivery",
    "server message",
    "failure reasons",
    "error message below",
    "recipient addresses that were incorrectly constructed",
    "the group you tried to contact",
    "konnte nicht zugestellt werden",
    "trouble delivering",
    "failed recipient",
    "recipients were affected",
    "not deliverable",
    "was not delivered",
    "wasn't delivered",
    "message not delivered",
    "n'a pas pu être",
    "no se ha podido entregar",
    "no se pudo entregar",
    "impossibile recapitare",
    "não foi possível entregar",
    "не может быть доставлено",
    "送信できませんでした",
];

/// Phrases by which a notice says that it is only late. Lower case.
pub(super) const DELAY_PHRASES: [&str; 12] = [
    "warning message only",
    "this is a warning only",
    "still being retried",
    "will be retried for",
    "has been delayed",
    "is delayed for more",
    "only a temporary failure report",
    "will keep trying",
    "do not need to resend",
    "could not send mail for past",
    "delivery is delayed",
    "not yet been delivered",
];

/// How the line begins that stands above the returned mail. Ornaments are stripped first. Lower
/// case.
pub(super) const BELOW: [&str; 20] = [
    "message details",
    "below this line is a copy",
    "this is a copy of",
    "the header of the original",
    "headers of the original",
    "message headers follow",
    "original message",
    "original mail as follows",
    "below is a copy of",
    "enclosed is a copy",
    "unsent message",
    "returned message",
    "included is a copy",
    "copy of your message",
    "message text follows",
    "message header",
    "received:",
    "return-path:",
    "dkim-signature:",
    "delivered-to:",
];

/// Words before an address that make it somebody else's than the recipient's. Lower case.
pub(super) const NOT_THE_RECIPIENT: [&str; 10] =
    ["from", "from:", "sender", "sender:", "contact", "by", "mailto:", "f=", "cc:", "reply-to:"];
