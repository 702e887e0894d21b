//! Delivery status notifications (RFC 3464), as they should be and as they are: blocks run
//! together, types missing, the status left empty, the part labelled `text/plain`.

use super::{
    Action, Basis, Kind, Report, ReportedRecipient, address, diagnostic,
    mime::{Fields, Tree},
    one_line, text,
};
use crate::smtp::reply::EnhancedCode;

/// Per-recipient blocks read of one report.
const BLOCKS_MAX: usize = 200;

/// Reads the mail as a delivery status notification; false when it is none.
pub(super) fn read(tree: &Tree<'_>, report: &mut Report) -> bool {
    let Some((status, basis)) = status_part(tree) else { return false };
    let notice = text::notice(tree);
    let mut rest = status.as_bytes();
    let mut found = Vec::new();
    for _ in 0..BLOCKS_MAX {
        let start = rest.iter().position(|b| !b.is_ascii_whitespace()).unwrap_or(rest.len());
        rest = &rest[start..];
        if rest.is_empty() {
            break;
        }
        let (fields, at) = Fields::read(rest);
        // A line that is no field must not stop the walk.
        let line = rest.iter().position(|b| *b == b'\n').map_or(rest.len(), |n| n + 1);
        rest = &rest[at.max(line)..];
        let mta =
            |name| fields.get(name).map(|v| after_type(v).to_owned()).filter(|v| !v.is_empty());
        if report.reporting_mta.is_none() {
            report.reporting_mta = mta("Reporting-MTA");
        }
        if report.arrival_date.is_none() {
            report.arrival_date = fields.get("Arrival-Date").map(one_line);
        }
        if report.envelope_id.is_none() {
            report.envelope_id = fields.get("Original-Envelope-Id").map(one_line);
        }
        let groups = fields.split_at(&["Final-Recipient", "Original-Recipient", "Status"]);
        found.extend(groups.iter().filter_map(recipient));
    }
    for recipient in found {
        report.add(recipient);
    }
    let said = notice.map_or("", text::Notice::said);
    let single = report.recipients.len() == 1;
    for recipient in &mut report.recipients {
        complete(recipient, said, single);
    }
    let Some(kind) = kind(report) else { return false };
    (report.kind, report.basis) = (kind, basis);
    true
}

/// The machine-readable part, or the text that stands in for it.
fn status_part(tree: &Tree<'_>) -> Option<(String, Basis)> {
    for essence in ["message/delivery-status", "message/global-delivery-status"] {
        if let Some(part) = tree.part(essence) {
            return Some((part.text(), Basis::Part(essence)));
        }
    }
    // Only a mail that calls itself a report, or that a mail system wrote, may be read that way.
    let report = tree.content_type.report_type.as_deref() == Some("delivery-status");
    if !report && !text::from_a_mail_system(tree) {
        return None;
    }
    tree.parts
        .iter()
        .filter(|p| {
            p.content_type.essence.starts_with("text/") || p.content_type.essence.contains("status")
        })
        .filter(|p| p.content_type.essence != "text/rfc822-headers")
        .map(|p| text::Notice::of(p.text()).said().to_owned())
        .find_map(|text| {
            let lower = text.to_ascii_lowercase();
            let start = lower.find("reporting-mta:").or_else(|| lower.find("final-recipient:"))?;
            lower
                .contains("final-recipient:")
                .then(|| (text[start..].to_owned(), Basis::StatusText))
        })
}

/// A per-recipient block (RFC 3464, section 2.3).
fn recipient(fields: &Fields<'_>) -> Option<ReportedRecipient> {
    let address_of = |name| fields.get(name).and_then(address);
    let last = address_of("Final-Recipient");
    let original = address_of("Original-Recipient");
    let actual = address_of("X-Actual-Recipient").filter(|a| a.contains('@'));
    // Gateways put an internal name into the final recipient: the one with a domain says more.
    let address = [&last, &original, &actual]
        .into_iter()
        .flatten()
        .find(|a| a.contains('@'))
        .or(last.as_ref())
        .or(original.as_ref())?
        .clone();
    let action = fields.get("Action").and_then(|a| action(a.trim()));
    let diagnostic = fields.all("Diagnostic-Code").map(said).collect::<Vec<_>>().join(" ");
    let codes = diagnostic::codes(&diagnostic);
    let said = one_line(&diagnostic);
    let status = fields.get("Status").and_then(|s| {
        s.trim().split([' ', '(', '\t']).next().unwrap_or_default().parse::<EnhancedCode>().ok()
    });
    Some(ReportedRecipient {
        address,
        original,
        action,
        code: codes.reply,
        // The remote server's own code says more than the reporting one's summary.
        status: codes.enhanced.filter(|c| (c.1, c.2) != (0, 0)).or(status).or(codes.enhanced),
        temporary: codes.temporary || status.is_some_and(|s| s.0 == 4),
        phase: diagnostic::phase(&said),
        diagnostic: said,
        notice: String::new(),
        remote_mta: fields.get("Remote-MTA").map(|v| after_type(v).to_owned()),
        last_attempt: fields.get("Last-Attempt-Date").map(one_line),
    })
}

/// Fills in from the prose what the fields leave open.
fn complete(recipient: &mut ReportedRecipient, said: &str, single: bool) {
    if single {
        recipient.notice = one_line(said);
    }
    let wordless = !recipient.diagnostic.chars().any(char::is_alphabetic);
    if recipient.phase.is_some() && !wordless {
        return;
    }
    let about = text::about(said, &recipient.address).or_else(|| single.then(|| said.to_owned()));
    let Some(about) = about else { return };
    let line = one_line(&about);
    if recipient.phase.is_none() {
        recipient.phase = diagnostic::phase(&line);
    }
    if wordless {
        let codes = diagnostic::codes(&about);
        recipient.temporary |= codes.temporary && recipient.status.is_none_or(|s| s.0 != 5);
        recipient.code = recipient.code.or(codes.reply);
        if recipient.status.is_none_or(|s| (s.1, s.2) == (0, 0)) {
            recipient.status = codes.enhanced.filter(|c| (c.1, c.2) != (0, 0)).or(recipient.status);
        }
        recipient.diagnostic = line;
    }
}

/// The report's kind: the worst that happened to any recipient.
fn kind(report: &Report) -> Option<Kind> {
    let any = |action| report.recipients.iter().any(|r| r.action == Some(action));
    if report.recipients.is_empty() {
        return None;
    }
    Some(if any(Action::Failed) {
        Kind::Failed
    } else if any(Action::Delayed) {
        Kind::Delayed
    } else if any(Action::Delivered)
        || report.recipients.iter().all(|r| r.status.is_some_and(|s| s.0 == 2))
    {
        Kind::Delivered
    } else {
        Kind::Failed
    })
}

fn action(word: &str) -> Option<Action> {
    let word: String =
        word.chars().take_while(char::is_ascii_alphabetic).collect::<String>().to_ascii_lowercase();
    match word.as_str() {
        "failed" | "failure" => Some(Action::Failed),
        "delayed" => Some(Action::Delayed),
        "delivered" | "relayed" | "expanded" => Some(Action::Delivered),
        _ => None,
    }
}

/// What a diagnostic says. A program's exit status keeps its type, or it would be a bare number.
fn said(value: &str) -> &str {
    let said = after_type(value);
    if said.bytes().all(|b| b.is_ascii_digit()) { value.trim() } else { said }
}

/// `type; value` without its type.
fn after_type(value: &str) -> &str {
    match value.split_once(';') {
        Some((kind, rest)) if kind.len() <= 24 && !kind.contains([' ', '@']) => rest.trim(),
        _ => value.trim(),
    }
}
