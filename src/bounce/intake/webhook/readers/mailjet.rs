//! Mailjet's event callbacks, single or grouped.
//! <https://dev.mailjet.com/email/guides/webhooks/>

use super::{Doc, HookEvent, Refusal, Verdict, What, each, from_text, meaning};

const WORDS: [(&str, What); 7] = [
    ("sent", What::Delivered),
    ("bounce", What::Bounced),
    ("blocked", What::Rejected),
    ("spam", What::Complained),
    ("unsub", What::Unsubscribed),
    ("open", What::Opened),
    ("click", What::Clicked),
];
const ERRORS: [(&str, Verdict); 19] = [
    ("user unknown", Verdict::Dead),
    ("invalid domain", Verdict::Dead),
    ("no mail host", Verdict::Dead),
    // They saw an address that looks mistyped, and did not try it.
    ("typofix", Verdict::Hard),
    ("preblocked", Verdict::Hard),
    ("mailbox inactive", Verdict::Refused),
    ("quota exceeded", Verdict::Full),
    ("spam reporter", Verdict::ComplainedBefore),
    ("blacklisted", Verdict::Spam),
    ("spam content", Verdict::Spam),
    ("spam content blocked", Verdict::Spam),
    ("content blocked", Verdict::Content),
    ("policy issue", Verdict::Policy),
    ("sender blocked", Verdict::Policy),
    ("relay/access denied", Verdict::Policy),
    ("system issue", Verdict::Unreachable),
    ("protocol issue", Verdict::Unreachable),
    ("connection issue", Verdict::Unreachable),
    ("greylisted", Verdict::Unreachable),
];

pub(super) fn read(body: &[u8]) -> Result<Vec<HookEvent>, Refusal> {
    each(body, event)
}

fn event(event: Doc<'_>) -> HookEvent {
    let mut read = HookEvent::new(meaning(&WORDS, event.word("event")));
    read.recipient = event.text("email");
    read.at = event.time("time");
    read.message = event.text("MessageID");
    read.reply = event.text("smtp_reply");
    let (about, error) = (event.word("error_related_to"), event.word("error"));
    if matches!(read.what, What::Bounced | What::Rejected) {
        let said =
            [about, error, event.word("comment")].into_iter().filter(|word| !word.is_empty());
        read.description = Some(said.collect::<Vec<_>>().join(": "));
        let hard = event.is_true("hard_bounce");
        let unnamed = if hard { Verdict::Hard } else { Verdict::Soft };
        read.verdict = super::verdict(&ERRORS, error).or(Some(unnamed));
        read.temporary = read.what == What::Bounced && !hard;
    }
    from_text(event.text("Payload"), &mut read.carried);
    read.carried.add_message_id(event.text("CustomID"));
    read
}
