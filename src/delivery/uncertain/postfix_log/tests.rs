use proptest::prelude::*;

use super::*;

const ID: &str = "0a1b2c3d@example.com";

/// A log from its lines; `@` at the start stands for time and host.
fn search(lines: &[&str]) -> Search {
    let mut search = Search::new([ID]);
    for line in lines {
        match line.strip_prefix('@') {
            Some(rest) => search.line(&format!("Nov 22 17:00:01 relay {rest}")),
            None => search.line(line),
        }
    }
    search
}

#[track_caller]
fn check(lines: &[&str], expected: Option<(Fate, u64)>) {
    let search = search(lines);
    let found = search.evidence(ID).map(|evidence| (evidence.fate, evidence.line));
    assert_eq!(found, expected);
}

const CONNECT: &str = "@postfix/smtpd[7]: 4AB12C: client=unknown[127.0.0.1], sasl_method=PLAIN";
const CLEANUP: &str = "@postfix/cleanup[8]: 4AB12C: message-id=<0A1b2c3d@Example.com>";
const ACTIVE: &str =
    "@postfix/qmgr[9]: 4AB12C: from=<b+x@b.example>, size=4242, nrcpt=1 (queue active)";
const SENT: &str = "@postfix/smtp[10]: 4AB12C: to=<carol@example.org>, relay=mx.example.org[192.0.2.1]:25, \
                    delay=0.4, delays=0/0/0.2/0.2, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as 9)";
const DEFERRED: &str = "@postfix/smtp[10]: 4AB12C: to=<carol@example.org>, relay=none, delay=30, \
                        delays=0/0/30/0, dsn=4.4.1, status=deferred (connect to mx: timed out)";
const BOUNCED: &str = "@postfix/smtp[10]: 4AB12C: to=<carol@example.org>, \
                       relay=mx.example.org[192.0.2.1]:25, delay=1, dsn=5.1.1, status=bounced \
                       (host mx.example.org[192.0.2.1] said: 550 5.1.1 no such user)";
const EXPIRED: &str =
    "@postfix/qmgr[9]: 4AB12C: from=<b+x@b.example>, status=expired, returned to sender";
const REMOVED: &str = "@postfix/qmgr[9]: 4AB12C: removed";

#[test]
fn every_outcome_is_found_by_message_id_and_queue_id() {
    check(&[], None);
    check(&[CONNECT, CLEANUP], Some((Fate::Begun, 2)));
    check(&[CONNECT, CLEANUP, ACTIVE], Some((Fate::Queued, 3)));
    check(&[CLEANUP, ACTIVE, DEFERRED], Some((Fate::Deferred, 3)));
    check(&[CLEANUP, ACTIVE, SENT, REMOVED], Some((Fate::Sent, 3)));
    check(&[CLEANUP, ACTIVE, DEFERRED, ACTIVE, SENT], Some((Fate::Sent, 5)));
    check(&[CLEANUP, ACTIVE, BOUNCED, REMOVED], Some((Fate::Bounced, 3)));
    check(&[CLEANUP, ACTIVE, DEFERRED, EXPIRED, REMOVED], Some((Fate::Expired, 4)));
    let search = search(&[CLEANUP, ACTIVE, BOUNCED]);
    let text = &search.evidence(ID).unwrap().text;
    assert!(text.starts_with("4AB12C: to=<carol@example.org>, relay=mx") && text.contains("5.1.1"));
}

#[test]
fn what_was_broken_off_or_refused_is_not_taken() {
    let milter =
        "@postfix/cleanup[8]: 4AB12C: milter-reject: END-OF-MESSAGE from localhost: 5.7.1 no";
    check(&[CONNECT, CLEANUP, milter], Some((Fate::Refused, 3)));
    assert_eq!(Fate::Begun.settles(), None);
    assert_eq!(Fate::Refused.settles(), None);
    // A second attempt of the same copy was taken.
    check(&[CLEANUP, milter, CLEANUP, ACTIVE], Some((Fate::Queued, 4)));
}

#[test]
fn a_queue_id_that_is_used_again_is_another_message() {
    let other = "@postfix/cleanup[8]: 4AB12C: message-id=<somebody@else.example>";
    check(&[CLEANUP, ACTIVE, SENT, REMOVED, other, BOUNCED], Some((Fate::Sent, 3)));
}

#[test]
fn behind_a_content_filter_the_last_outcome_counts() {
    let second = |line: &str| line.replace("4AB12C", "4XyZ9Q1b2");
    let (cleanup, active, bounced) = (second(CLEANUP), second(ACTIVE), second(BOUNCED));
    check(&[CLEANUP, ACTIVE, SENT, REMOVED, &cleanup, &active, &bounced], Some((Fate::Bounced, 7)));
    check(&[CLEANUP, ACTIVE, SENT, REMOVED, &cleanup, &active], Some((Fate::Sent, 3)));
}

#[test]
fn other_forms_of_syslog_are_read_too() {
    let iso = "2026-11-22T17:00:01.123456+01:00 relay postfix-out/cleanup[8]: 4AB12C: \
               message-id=<0a1b2c3d@example.com>";
    check(&[iso, ACTIVE], Some((Fate::Queued, 2)));
}

proptest! {
    #[test]
    fn no_line_is_too_strange(lines in proptest::collection::vec(".{0,120}", 0..8)) {
        let mut search = Search::new([ID]);
        for line in &lines {
            search.line(line);
        }
        prop_assert!(search.evidence(ID).is_none());
    }
}
