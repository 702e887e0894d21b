//! Mails that are made to be slow to read: each shape costs time by its size and no more. Counted is
//! the processor's time, so that a busy machine changes nothing.

use std::fmt::Write as _;

use super::{SIZE_MAX, read};

/// Octets of each mail. What is quadratic takes minutes from here on.
const SIZE: usize = SIZE_MAX / 5;
/// What reading one may cost without optimisation; with it, a mail of five times the size costs less
/// than a second.
const SECONDS_MAX: f64 = 10.0;

const FROM: &str =
    "Return-Path: <>\nFrom: MAILER-DAEMON@mx.example\nSubject: failure notice\nMIME-Version: 1.0\n";

/// The beginning, and as many pieces as fit, each with its number in place of `#`.
fn filled(head: &str, piece: &str) -> String {
    let mut mail = [FROM, head].concat();
    let mut number = 0;
    while mail.len() + piece.len() + 8 < SIZE {
        let _ = write!(mail, "{}", piece.replace('#', &number.to_string()));
        number += 1;
    }
    mail
}

fn shapes() -> Vec<(&'static str, String)> {
    let status = "Content-Type: multipart/report; report-type=delivery-status; boundary=b\n\n--b\n\
                  Content-Type: message/delivery-status\n\n";
    let failed = "\ncould not be delivered\n";
    let list = "X-Failed-Recipients: ";
    let both = filled(list, "a#@b.example,") + failed;
    vec![
        ("fields", filled("", "a#: b\n")),
        ("folded lines", filled("X: y\n", " z#\n")),
        ("boundaries inside each other", filled("", &nested())),
        ("parts", filled("Content-Type: multipart/mixed; boundary=b\n\n", "--b\n\nx\n")),
        ("parameters", filled("Content-Type: multipart/mixed; ", "a#=b;")),
        ("open quotes", filled("Content-Type: multipart/mixed; ", "a=\"")),
        ("tags", filled("Content-Type: text/html\n\n", "<a href=#>&amp;")),
        ("open tags", filled("Content-Type: text/html\n\n", "<!--<")),
        ("no base64", filled("Content-Transfer-Encoding: base64\n\n", "!Q#=")),
        ("encoded words", filled("Subject: ", "=?utf-8?b?8J+Yig==?= ")),
        ("escaped address", filled(&format!("{list}utf-8; "), "\\x{") + failed),
        ("recipients of a header", both.clone()),
        ("and of the text", both + &filled("", "<a#@b.example>: 550 5.1.1 no\n")),
        ("other people", filled(failed, "from a#@b.example ")),
        ("lines with addresses", filled(failed, "<a#@b.example>: 550 5.1.1 no\n")),
        ("codes", filled(failed, "550 5.1.# ")),
        ("quoted text", filled(failed, "> > > a@b.example wrote\n")),
        ("status fields", filled(status, "Final-Recipient: rfc822;a#@b.example\nAction: failed\n")),
        ("status blocks", filled(status, "Final-Recipient: rfc822;a#@b.example\n\n")),
        ("brackets", filled("To: ", "<")),
        ("JSON", filled("X-Amz-SNS-Message-Id: 1\n\n", "{\"a\":[")),
    ]
}

fn nested() -> String {
    "Content-Type: multipart/mixed; boundary=b#\n\n--b#\n".to_owned()
}

/// The processor time of this thread so far: the first number of its `schedstat`, in nanoseconds.
fn seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    stat.split(' ').next()?.parse::<f64>().ok().map(|nanoseconds| nanoseconds / 1e9)
}

#[test]
fn no_shape_of_mail_costs_more_than_its_size() {
    let Some(mut before) = seconds() else {
        crate::skip::skipped("no processor time of a thread can be read here");
        return;
    };
    for (name, mail) in shapes() {
        let report = read(mail.as_bytes(), None).unwrap();
        assert!(report.recipients.len() <= super::RECIPIENTS_MAX, "{name}");
        let now = seconds().unwrap();
        assert!(now - before < SECONDS_MAX, "{name}: {:.1} s", now - before);
        before = now;
    }
}
