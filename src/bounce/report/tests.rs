//! Returned mails of our own making: one per form, and arbitrary bytes.

use proptest::prelude::*;

use super::{super::classify::Fault, *};

const TOKEN: &str = "aeamk4dfonzxi3dfmnxw24dfoq";

fn of(mail: &str) -> Report {
    read(mail.as_bytes(), Some(&format!("b+{TOKEN}@bounces.example.net"))).unwrap()
}

/// A DSN with these per-recipient fields and this prose.
fn dsn(prose: &str, fields: &str) -> String {
    format!(
        "From: MAILER-DAEMON@mx.example.org (Mail System)\n\
         Subject: Undelivered mail\n\
         MIME-Version: 1.0\n\
         Content-Type: multipart/report; report-type=delivery-status;\n\tboundary=\"=_report\"\n\
         \n\
         --=_report\n\
         Content-Type: text/plain\n\n{prose}\n\
         --=_report\n\
         Content-Type: message/delivery-status\n\n\
         Reporting-MTA: dns; mx.example.org\n\
         Original-Envelope-Id: e-1207\n\n{fields}\n\
         --=_report\n\
         Content-Type: text/rfc822-headers\n\n\
         Message-ID: <437.1207@news.example.net>\n\
         From: Example Weekly <weekly@news.example.net>\n\
         To: ada@example.org\n\
         List-Unsubscribe: <https://news.example.net/u/x>,\n <mailto:u+{TOKEN}@news.example.net>\n\
         Subject: Issue 437\n\
         --=_report--\n"
    )
}

const GONE: &str = "Final-Recipient: rfc822; ada@example.org\n\
    Original-Recipient: rfc822; ada@example.org\n\
    Action: failed\n\
    Status: 5.0.0\n\
    Remote-MTA: dns; mail.example.org\n\
    Diagnostic-Code: smtp; 550 5.1.1 <ada@example.org> nobody of that name (user unknown)\n";

#[test]
fn a_status_notification_gives_all_its_fields() {
    let report = of(&dsn("It did not work.", GONE));
    assert_eq!(report.kind, Kind::Failed);
    assert_eq!(report.reporting_mta.as_deref(), Some("mx.example.org"));
    assert_eq!(report.envelope_id.as_deref(), Some("e-1207"));
    let [recipient] = report.recipients.as_slice() else { panic!("{report:?}") };
    assert_eq!(recipient.address, "ada@example.org");
    assert_eq!(recipient.status, Some(EnhancedCode(5, 1, 1)), "the remote code over `Status`");
    assert_eq!(recipient.code, Some(550));
    assert_eq!(recipient.remote_mta.as_deref(), Some("mail.example.org"));
    assert!(recipient.classify(ProviderId::OTHER).is_hard());
    let original = report.original.as_ref().unwrap();
    assert_eq!(original.message_id.as_deref(), Some("437.1207@news.example.net"));
    assert_eq!(original.to.as_deref(), Some("ada@example.org"));
    let tokens: Vec<_> = report.tokens().collect();
    assert_eq!(
        tokens,
        [
            (TokenPlace::Envelope, TokenMailbox::Bounce, TOKEN),
            (TokenPlace::ReturnedHeaders, TokenMailbox::Unsubscribe, TOKEN),
        ]
    );
}

#[test]
fn line_ends_do_not_matter() {
    let mail = dsn("It did not work.", GONE);
    let expected = of(&mail);
    assert_eq!(of(&mail.replace('\n', "\r\n")), expected);
    assert_eq!(of(&mail.replace('\n', "\r")), expected);
}

#[test]
fn malformed_notifications_still_speak() {
    // Blocks run together, no address type, the action in another case, a second recipient
    // without an empty line before it.
    let report = of(&dsn(
        "",
        "Final-Recipient: <ada@example.org>\nAction: FAILED\nStatus: 5.1.1 (no such box)\n\
         Final-Recipient: bob@example.org\nAction: failed\nStatus: 5.2.2\n",
    ));
    let said: Vec<_> = report.recipients.iter().map(|r| (r.address.as_str(), r.status)).collect();
    assert_eq!(
        said,
        [
            ("ada@example.org", Some(EnhancedCode(5, 1, 1))),
            ("bob@example.org", Some(EnhancedCode(5, 2, 2))),
        ]
    );
    // Cut off in the middle.
    let whole = dsn("It did not work.", GONE);
    let report = of(&whole[..whole.find("Diagnostic-Code").unwrap()]);
    assert_eq!((report.kind, report.recipients.len()), (Kind::Failed, 1));
    // The fields in a part that is not labelled.
    let report = of(&whole.replace("message/delivery-status", "text/plain"));
    assert_eq!(report.recipients[0].status, Some(EnhancedCode(5, 1, 1)));
}

#[test]
fn actions_decide_the_kind() {
    let kind = |action: &str| of(&dsn("", &GONE.replace("failed", action))).kind;
    assert_eq!(kind("delayed"), Kind::Delayed);
    assert_eq!(kind("delivered"), Kind::Delivered);
    assert_eq!(kind("relayed (to a server without DSN)"), Kind::Delivered);
    let both = format!("{GONE}\n{}", GONE.replace("failed", "delivered").replace("ada@", "bob@"));
    assert_eq!(of(&dsn("", &both)).kind, Kind::Failed);
}

#[test]
fn prose_that_is_milder_than_the_code_wins() {
    let fault = |prose| of(&dsn(prose, GONE)).recipients[0].classify(ProviderId::OTHER).fault;
    assert_eq!(fault("We are sorry."), Fault::Recipient);
    assert_eq!(fault("The mailbox is full."), Fault::Mailbox);
    assert_eq!(fault("Your server is on a blocklist."), Fault::Reputation);
}

#[test]
fn giving_up_after_class_4_is_not_dead() {
    let fields = GONE.replace("550 5.1.1", "450 4.1.1").replace("5.0.0", "5.4.7");
    let class = of(&dsn("", &fields)).recipients[0].classify(ProviderId::OTHER);
    assert_eq!(class.permanence, Permanence::Transient);
    assert!(!class.is_hard());
}

/// A free-text bounce.
fn text(subject: &str, body: &str) -> Report {
    of(&format!(
        "Return-Path: <>\nFrom: MAILER-DAEMON@mx.example.org\nTo: weekly@news.example.net\n\
         Subject: {subject}\n\n{body}"
    ))
}

#[test]
fn prose_names_recipient_reason_and_returned_headers() {
    let report = text(
        "failure notice",
        "Sorry, this could not be delivered:\n\n<ada@example.org>:\n\
         192.0.2.7 does not like recipient.\nRemote host said: 550 no such user\n\n\
         --- Below this line is a copy of the message.\n\n\
         Return-Path: <x@y.example>\nMessage-ID: <437.8@news.example.net>\n\
         To: ada@example.org\n\nHello carol@example.com:\n550 5.1.1 gone\n",
    );
    assert_eq!(report.kind, Kind::Failed);
    let [recipient] = report.recipients.as_slice() else { panic!("{report:?}") };
    assert_eq!(recipient.address, "ada@example.org");
    assert_eq!((recipient.code, recipient.phase), (Some(550), Some(Phase::RcptTo)));
    assert!(recipient.classify(ProviderId::OTHER).is_hard());
    let original = report.original.unwrap();
    assert_eq!(original.message_id.as_deref(), Some("437.8@news.example.net"));
}

#[test]
fn a_sender_refused_in_prose_is_not_the_readers_fault() {
    let report = text(
        "Mail delivery failed",
        "A message that you sent could not be delivered.\n\n  ada@example.org\n\
         \x20   error from the remote server after MAIL FROM:<b@bounces.example.net>:\n\
         \x20   550 5.1.1 no such user b@bounces.example.net\n",
    );
    assert_eq!(report.recipients.len(), 1);
    let class = report.recipients[0].classify(ProviderId::OTHER);
    assert_eq!(class.fault, Fault::Policy, "{class:?}");
}

#[test]
fn several_recipients_keep_their_own_reasons() {
    let report = text(
        "Delivery status notification: error",
        "Delivery failed for these recipients:\n\nada@example.org: 550 5.2.2 box is full\n\
         bob@example.org: 550 5.1.1 user unknown\n",
    );
    let hard: Vec<_> = report
        .recipients
        .iter()
        .map(|r| (r.address.as_str(), r.classify(ProviderId::OTHER).is_hard()))
        .collect();
    assert_eq!(hard, [("ada@example.org", false), ("bob@example.org", true)]);
    let about = |address| report.about(address).unwrap().address.as_str();
    assert_eq!(about("BOB@example.org"), "bob@example.org");
    assert_eq!(about("forwards@example.com"), "ada@example.org");
}

#[test]
fn a_report_inside_a_report_is_the_report() {
    let inner = format!("Return-Path: <>\n{}", dsn("It did not work.", GONE));
    let report = text("Undelivered mail", &format!("It came back, see below.\n\n{inner}"));
    assert_eq!((report.kind, report.recipients.len()), (Kind::Failed, 1));
    assert_eq!(report.recipients[0].address, "ada@example.org");
    let id = report.original.and_then(|original| original.message_id);
    assert_eq!(id.as_deref(), Some("437.1207@news.example.net"));
}

#[test]
fn details_of_the_envelope_name_the_reader() {
    let report = text(
        "Re: issue 437",
        "Error: the address is wrong\n\nError message below:\n550 no such user here\n\n\
         Message details:\n  MAIL FROM: weekly@news.example.net\n  RCPT TO: ada@example.org\n",
    );
    let named: Vec<_> = report.recipients.iter().map(|r| r.address.as_str()).collect();
    assert_eq!(named, ["ada@example.org"]);
    let report =
        text("Mail failure", "These were wrong:\n\n  ada@example.org <bob@example.org>:\n");
    assert_eq!(report.recipients[0].address, "bob@example.org");
}

#[test]
fn a_quoted_reply_goes_before_the_words_around_it() {
    let report = text(
        "Delivery failed",
        "This is a temporary failure of a kind.\n\nada@example.org\n\
         The error that the other server returned was: 552 the mailbox is full\n\
         Giving up on 192.0.2.7.\n",
    );
    let class = report.recipients[0].classify(ProviderId::OTHER);
    assert_eq!((class.fault, class.rule), (Fault::Mailbox, "mailbox-full"));
}

#[test]
fn late_is_not_failed() {
    let report = text(
        "Warning: could not send message for past 4 hours",
        "This is a warning message only. ada@example.org could not be reached yet.\n",
    );
    assert_eq!(report.kind, Kind::Delayed);
}

#[test]
fn complaints_name_the_reader_and_authentication_reports_do_not_complain() {
    let feedback = |kind: &str| {
        of(&format!(
            "From: feedback@isp.example\nSubject: FW: issue 437\nMIME-Version: 1.0\n\
             Content-Type: multipart/report; report-type=feedback-report; boundary=\"b\"\n\n\
             --b\nContent-Type: text/plain\n\nA report.\n\
             --b\nContent-Type: message/feedback-report\n\n\
             Feedback-Type: {kind}\nVersion: 1\nOriginal-Rcpt-To: <ada@example.org>\n\
             --b\nContent-Type: message/rfc822\n\n\
             Message-ID: <437.8@news.example.net>\nTo: ada@example.org\nFrom: w@x.example\n\nHi\n--b--\n"
        ))
    };
    let report = feedback("abuse");
    assert_eq!(report.kind, Kind::Complaint);
    assert_eq!(report.recipients[0].address, "ada@example.org");
    assert_eq!(report.original.unwrap().message_id.unwrap(), "437.8@news.example.net");
    assert_eq!(feedback("auth-failure").kind, Kind::AuthFailure);
    assert_eq!(feedback("not-spam").kind, Kind::AutoReply);
}

#[test]
fn automatic_mail_is_neither_failure_nor_person() {
    let kind = |header: &str, subject: &str| {
        of(&format!("From: ada@example.org\n{header}Subject: {subject}\n\nBack on Monday.\n")).kind
    };
    assert_eq!(kind("Auto-Submitted: auto-replied\n", "Re: issue 437"), Kind::AutoReply);
    assert_eq!(kind("Auto-Submitted: no\n", "Re: issue 437"), Kind::NotAReport);
    assert_eq!(kind("X-Autoreply: yes\n", "hello"), Kind::AutoReply);
    assert_eq!(kind("Precedence: auto_reply\n", "hello"), Kind::AutoReply);
    assert_eq!(kind("", "Out of office: issue 437"), Kind::AutoReply);
    assert_eq!(kind("", "=?utf-8?q?R=C3=A9ponse_automatique?="), Kind::AutoReply);
    assert_eq!(kind("", "Please confirm your message to ada"), Kind::Challenge);
    assert_eq!(kind("", "A question about item 3"), Kind::NotAReport);
    // A vacation notice through the null path that speaks of delivery.
    let away = "From: ada@example.org\nReturn-Path: <>\nAuto-Submitted: auto-replied\n\
        Subject: Away\n\nIf your parcel could not be delivered, ask bob@example.org.\n";
    assert_eq!(of(away).kind, Kind::AutoReply);
}

#[test]
fn mail_to_the_unsubscribe_address_unsubscribes_whatever_it_says() {
    let mail = b"From: ada@example.org\nAuto-Submitted: auto-replied\nSubject: anything\n\n.\n";
    let to = format!("u+{TOKEN}@news.example.net");
    assert_eq!(read(mail, Some(&to)).unwrap().kind, Kind::Unsubscribe);
    assert_eq!(read(mail, Some("u+short@news.example.net")).unwrap().kind, Kind::AutoReply);
    // A bounce that was sent there is still a bounce.
    assert_eq!(read(dsn("", GONE).as_bytes(), Some(&to)).unwrap().kind, Kind::Failed);
}

#[test]
fn a_person_who_forwards_or_quotes_a_bounce_sends_no_report() {
    let forwarded = format!(
        "From: ada@example.org\nSubject: Fwd: Undelivered mail\n\
         Content-Type: multipart/mixed; boundary=f\n\n--f\n\nLook at this.\n\
         --f\nContent-Type: message/rfc822\n\n{}\n--f--\n",
        dsn("It could not be delivered.", GONE)
    );
    assert_eq!(of(&forwarded).kind, Kind::NotAReport);
    let quoted = "From: ada@example.org\nSubject: Re: delivery failure\n\n\
        My mail could not be delivered:\n> bob@example.org: 550 5.1.1 user unknown\n";
    assert_eq!(of(quoted).kind, Kind::NotAReport);
}

#[test]
fn what_is_too_large_is_refused() {
    assert_eq!(read(&vec![b'x'; SIZE_MAX + 1], None), Err(ReadError::TooLarge(SIZE_MAX + 1)));
    assert!(read(&vec![b'x'; SIZE_MAX], None).is_ok());
}

/// Beginnings after which a repeated shape is read by each of the readers.
const HEADS: [&str; 7] = [
    "",
    "Return-Path: <>\nFrom: mailer-daemon@x.example\nSubject: undeliverable\n\n",
    "From: mailer-daemon@x.example\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\n",
    "Content-Type: multipart/report; boundary=b\n\n--b\nContent-Type: message/delivery-status\n\n",
    "Content-Type: multipart/report; boundary=b\n\n--b\nContent-Type: message/feedback-report\n\n",
    "From: no-reply@sns.amazonaws.com\nContent-Transfer-Encoding: quoted-printable\n\n",
    "X-Failed-Recipients: ",
];

/// What hostile mails repeat.
const SHAPES: [&str; 14] = [
    "--b\n",
    "--b",
    "a@b.example ",
    "<a@b.example>:\n",
    "550-5.1.1 ",
    "Content-Type: multipart/mixed; boundary=b\n\n--b\n",
    "Final-Recipient: rfc822; a@b.example\n\n",
    "Status: 5.1.1\nFinal-Recipient: rfc822; a@b.example\n",
    "<",
    "\n",
    "\0",
    "server said: ",
    "=?utf-8?q?=41?= ",
    "X: y\n z\n",
];

/// Eight times the mail may take as long as eight mails; what is quadratic takes eight times that.
#[test]
fn time_grows_with_length_and_no_faster() {
    let best_of_three = |mail: &str, times: u32| {
        let once = || {
            let start = std::time::Instant::now();
            for _ in 0..times {
                let report = read(mail.as_bytes(), None).unwrap();
                for recipient in &report.recipients {
                    recipient.classify(ProviderId::OTHER);
                }
            }
            start.elapsed()
        };
        (0..3).map(|_| once()).min().unwrap()
    };
    for (head, shape) in HEADS.iter().flat_map(|head| SHAPES.iter().map(move |s| (head, s))) {
        let mail = |octets: usize| format!("{head}{}", shape.repeat(octets / shape.len()));
        let (mut short, mut long) = (std::time::Duration::MAX, std::time::Duration::MAX);
        // As much is read each time, for as long, so that other work on the machine is as bad for both.
        let linear = (0..20).any(|_| {
            short = short.min(best_of_three(&mail(64 * 1024), 8));
            long = long.min(best_of_three(&mail(512 * 1024), 1));
            long < short.max(std::time::Duration::from_millis(4)) * 4
        });
        assert!(linear, "{shape:?} after {head:?}: {short:?}, then {long:?}");
    }
}

#[test]
fn a_line_is_never_longer_than_it_may_be() {
    for word in ["x", "xy", "é", "日本", "x\u{a0}é"] {
        for padding in 0..4 {
            let text = format!("{} {}", "p".repeat(padding), format!("{word} ").repeat(2_000));
            let line = one_line(&text);
            assert!((DIAGNOSTIC_MAX - 4..=DIAGNOSTIC_MAX).contains(&line.len()), "{}", line.len());
            assert!(!line.ends_with(' ') && !line.contains("  "));
        }
    }
    assert_eq!(one_line(" a\r\n\tb\u{3000}c\0 "), "a b c");
}

proptest! {
    #[test]
    fn lower_case_in_one_line_is_the_words_with_one_space_between(text in "[ \t\r\n\x0bA-z0-9é\u{a0}]{0,40}") {
        let words: Vec<String> = text.split_whitespace().map(str::to_lowercase).collect();
        prop_assert_eq!(text::one_line_lower(&text), words.join(" "));
    }

    #[test]
    fn any_bytes_give_an_answer(
        head in prop::sample::select(vec!["", "From: mailer-daemon@x\n\n", "X-Failed-Recipients: a@b.c\n\n",
            "Content-Type: multipart/report; boundary=b\n\n--b\nContent-Type: message/delivery-status\n\n",
            "Content-Type: message/feedback-report\n\n", "Subject: =?utf-8?b?"]),
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        lines in "([ -~äß\u{1F600}]{0,60}(\r\n|\n|\r)){0,12}",
    ) {
        let mut mail = head.as_bytes().to_vec();
        mail.extend(lines.as_bytes());
        mail.extend(&bytes);
        let report = read(&mail, Some(&lines)).unwrap();
        for recipient in &report.recipients {
            let class = recipient.classify(ProviderId::OTHER);
            prop_assert!(!class.rule.is_empty());
            prop_assert!(recipient.diagnostic.len() <= DIAGNOSTIC_MAX);
        }
        prop_assert!(report.recipients.len() <= RECIPIENTS_MAX);
    }
}
