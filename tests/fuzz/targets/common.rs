// What must hold for any mail at all; included by the targets that read mails.

use postrider::{
    bounce::{
        explain::explain,
        report::{self, Action, Kind},
    },
    provider::Providers,
};

/// Reads a mail in every way and holds the answer to its promises.
fn check(mail: &[u8]) {
    let Ok(report) = report::read(mail, Some("b+aeamk4dfonzxi3dfmnxw24dfoq@bounces.example.net"))
    else {
        assert!(mail.len() > report::SIZE_MAX);
        return;
    };
    let explained = explain(&report, Providers::embedded());
    assert!(report.recipients.len() <= 64);
    for recipient in &report.recipients {
        assert!(!recipient.address.is_empty() && recipient.address.len() <= 320);
        assert!(recipient.diagnostic.len() <= 2_048 && recipient.notice.len() <= 2_048);
        assert!(!recipient.diagnostic.contains(['\r', '\n']));
    }
    // Only a failure kills, and never one that may pass.
    assert!(!explained.hard || report.kind == Kind::Failed);
    for each in &explained.each {
        let passes = each.code.is_some_and(|code| code < 500);
        assert!(!each.hard || !(passes || each.action == Some(Action::Delivered)));
    }
    // Line ends say nothing.
    if !mail.contains(&b'\r') {
        let lines: Vec<_> = mail.split(|octet| *octet == b'\n').collect();
        let with_crlf = lines.join(&b"\r\n"[..]);
        if with_crlf.len() <= report::SIZE_MAX {
            let envelope = report.envelope_recipient.as_deref();
            assert_eq!(report::read(&with_crlf, envelope).as_ref(), Ok(&report));
        }
    }
    let _ = report.tokens().count();
    let _ = report.about("ada@example.org");
}
