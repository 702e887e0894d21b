//! Feedback reports (RFC 5965) and the few complaint mails that mailbox providers send in other
//! forms.

use super::{
    Basis, Kind, Report, ReportedRecipient, address,
    mime::{Fields, Tree},
    one_line, original,
};

/// Reads the mail as a complaint; false when it is none.
pub(super) fn read(tree: &Tree<'_>, report: &mut Report) -> bool {
    let part = tree.part("message/feedback-report");
    let Some(part) = part else { return forwarded_complaint(tree, report) };
    let body = part.bytes();
    let start = body.iter().position(|b| !b.is_ascii_whitespace()).unwrap_or(body.len());
    let (fields, _) = Fields::read(&body[start..]);
    let feedback = fields.get("Feedback-Type").map(|t| t.trim().to_ascii_lowercase());
    report.kind = match feedback.as_deref() {
        // RFC 6591: our mail did not authenticate; no reader said anything.
        Some("auth-failure") => Kind::AuthFailure,
        // RFC 6430: the reader took the mail *out* of the spam folder.
        Some("not-spam") => Kind::AutoReply,
        _ => Kind::Complaint,
    };
    report.basis = Basis::Part("message/feedback-report");
    report.feedback_type = feedback;
    report.arrival_date =
        fields.get("Arrival-Date").or_else(|| fields.get("Received-Date")).map(one_line);
    report.reporting_mta = fields.get("Reporting-MTA").map(one_line);
    report.envelope_id = fields.get("Original-Envelope-Id").map(one_line);
    report.original_mail_from = fields.get("Original-Mail-From").map(one_line);
    for name in ["Original-Rcpt-To", "Removal-Recipient"] {
        for value in fields.all(name).flat_map(|v| v.split(',')) {
            add(report, value);
        }
    }
    if report.recipients.is_empty() {
        let to = original::with_fields(tree, |f| f.get("To").unwrap_or("").to_owned());
        to.unwrap_or_default().split(',').for_each(|to| add(report, to));
    }
    true
}

/// Microsoft's older form: the mail as an attachment under a fixed subject, the reader in a
/// field of the returned header.
fn forwarded_complaint(tree: &Tree<'_>, report: &mut Report) -> bool {
    if !report.subject.to_ascii_lowercase().starts_with("complaint about message from") {
        return false;
    }
    let reader = original::with_fields(tree, |fields| {
        let named = ["X-HmXmrOriginalRecipient", "To"].iter().find_map(|name| fields.get(name));
        named.unwrap_or("").to_owned()
    });
    let Some(reader) = reader else { return false };
    report.kind = Kind::Complaint;
    report.basis = Basis::Subject("complaint about message from");
    report.feedback_type = Some("abuse".into());
    reader.split(',').for_each(|to| add(report, to));
    true
}

fn add(report: &mut Report, value: &str) {
    if let Some(address) = address(value).filter(|a| a.contains('@')) {
        report.add(ReportedRecipient {
            address,
            original: None,
            action: None,
            code: None,
            status: None,
            temporary: false,
            phase: None,
            diagnostic: String::new(),
            notice: String::new(),
            remote_mta: None,
            last_attempt: None,
        });
    }
}
