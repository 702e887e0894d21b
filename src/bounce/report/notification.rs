//! Reports of Amazon SES in JSON, as its topics send them by mail: the notification itself, or
//! inside the envelope of Amazon SNS, with an advertisement below.
//! Form: <https://docs.aws.amazon.com/ses/latest/dg/notification-contents.html>. Who sent it is not
//! proven by the mail: as with every report, a token has to.

use serde_json::Value;

use super::{
    Action, Basis, Kind, OriginalHeaders, Report, ReportedRecipient, address, diagnostic,
    mime::Tree, one_line, text,
};
use crate::smtp::reply::EnhancedCode;

/// Reads the mail as a notification of Amazon SES; false when it is none.
pub(super) fn read(tree: &Tree<'_>, report: &mut Report) -> bool {
    let from = tree.fields.get("From").unwrap_or("").to_ascii_lowercase();
    let by_topic =
        tree.fields.get("x-amz-sns-message-id").is_some() || from.contains("@sns.amazonaws.com");
    if !by_topic {
        return false;
    }
    let Some(body) = text::notice(tree) else { return false };
    let Some(outer) = first_value(body.text().trim_start()) else { return false };
    let inner = outer.get("Message").and_then(Value::as_str).and_then(first_value);
    notification(inner.as_ref().unwrap_or(&outer), report)
}

/// The first JSON value of the text, whatever follows it.
fn first_value(text: &str) -> Option<Value> {
    let parse = |text: &str| serde_json::Deserializer::from_str(text).into_iter().next()?.ok();
    // sendmail cuts lines that are too long with `!` and an indented next line.
    parse(text).or_else(|| parse(&text.replace("!\n ", "")))
}

/// Reads one notification; false when it is none that says what became of a copy.
fn notification(event: &Value, report: &mut Report) -> bool {
    let kind = ["notificationType", "eventType"].iter().find_map(|name| event[*name].as_str());
    let (part, list, kind) = match kind {
        Some("Bounce") => (&event["bounce"], "bouncedRecipients", Kind::Failed),
        Some("Complaint") => (&event["complaint"], "complainedRecipients", Kind::Complaint),
        Some("Delivery") => (&event["delivery"], "recipients", Kind::Delivered),
        Some("DeliveryDelay") => (&event["deliveryDelay"], "delayedRecipients", Kind::Delayed),
        _ => return false,
    };
    (report.kind, report.basis) = (kind, Basis::Words("notificationType"));
    report.reporting_mta = part["reportingMTA"].as_str().map(after_dns);
    report.feedback_type = part["complaintFeedbackType"].as_str().map(str::to_ascii_lowercase);
    for entry in part[list].as_array().into_iter().flatten() {
        if let Some(recipient) = recipient(entry, part, kind) {
            report.add(recipient);
        }
    }
    let mail = &event["mail"];
    report.original_mail_from = mail["source"].as_str().map(one_line);
    report.arrival_date = mail["timestamp"].as_str().map(one_line);
    report.original = Some(returned(mail));
    true
}

fn after_dns(name: &str) -> String {
    one_line(name.split_once(';').map_or(name, |(_, host)| host))
}

fn recipient(entry: &Value, part: &Value, kind: Kind) -> Option<ReportedRecipient> {
    let address = entry.as_str().or_else(|| entry["emailAddress"].as_str()).and_then(address)?;
    let said = entry["diagnosticCode"].as_str().unwrap_or_default();
    let said = said.split_once(';').filter(|(t, _)| t.len() < 12).map_or(said, |(_, rest)| rest);
    let codes = diagnostic::codes(said);
    let status = entry["status"].as_str().and_then(|s| s.trim().parse::<EnhancedCode>().ok());
    let sort = ["bounceType", "bounceSubType", "delayType"].map(|n| part[n].as_str().unwrap_or(""));
    let diagnostic = match (said.trim(), sort[1]) {
        ("", _) => sort.join(" "),
        // What SES refuses by itself because it bounced or complained before: no new evidence.
        (said, "Suppressed" | "OnAccountSuppressionList") => format!("{said} (suppression list)"),
        (said, _) => said.to_owned(),
    };
    Some(ReportedRecipient {
        address,
        original: None,
        action: match kind {
            Kind::Failed => Some(Action::Failed),
            Kind::Delayed => Some(Action::Delayed),
            Kind::Delivered => Some(Action::Delivered),
            _ => None,
        },
        code: codes.reply,
        status: codes.enhanced.filter(|c| (c.1, c.2) != (0, 0)).or(status).or(codes.enhanced),
        temporary: codes.temporary || sort[0] == "Transient" || kind == Kind::Delayed,
        phase: diagnostic::phase(&one_line(said)),
        diagnostic: one_line(&diagnostic),
        notice: String::new(),
        remote_mta: None,
        last_attempt: part["timestamp"].as_str().map(one_line),
    })
}

/// The returned header: all of it when the topic is set to include it, else the common fields.
fn returned(mail: &Value) -> OriginalHeaders {
    let common = &mail["commonHeaders"];
    let listed = |name: &str| {
        let mut fields = mail["headers"].as_array().into_iter().flatten();
        let field =
            fields.find(|f| f["name"].as_str().is_some_and(|n| n.eq_ignore_ascii_case(name)))?;
        field["value"].as_str().map(one_line)
    };
    let first = |value: &Value| value.as_str().or_else(|| value[0].as_str()).map(one_line);
    OriginalHeaders {
        message_id: listed("Message-ID")
            .or_else(|| first(&common["messageId"]))
            .and_then(|id| address(&id)),
        to: listed("To").or_else(|| first(&common["to"])),
        from: listed("From").or_else(|| first(&common["from"])),
        list_unsubscribe: listed("List-Unsubscribe"),
        date: listed("Date").or_else(|| first(&common["date"])),
        return_path: listed("Return-Path").or_else(|| first(&common["returnPath"])),
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        bounce::report::{Kind, Report, read},
        provider::ProviderId,
    };

    fn mail(body: &str) -> Report {
        let head =
            "From: Topic <no-reply@sns.amazonaws.com>\nSubject: AWS Notification Message\n\n";
        let mail = format!("{head}{body}\n\n--\nTo stop these, visit https://sns.example/\n");
        read(mail.as_bytes(), None).unwrap()
    }

    const BOUNCE: &str = r#"{"notificationType":"Bounce","bounce":{"bounceType":"Permanent",
        "bounceSubType":"General","reportingMTA":"dns; out.example.net","bouncedRecipients":[
        {"emailAddress":"Ada <ada@example.org>","status":"5.0.0",
        "diagnosticCode":"smtp; 550 5.1.1 no such user"}]},"mail":{"source":"b+x@bounces.example",
        "headers":[{"name":"Message-ID","value":"<437.1@news.example>"}]}}"#;

    #[test]
    fn a_bounce_is_read_bare_and_in_an_envelope() {
        let envelope = serde_json::json!({ "Type": "Notification", "Message": BOUNCE });
        let long = serde_json::json!({ "Message": BOUNCE, "Type": "Notification" }).to_string();
        let cut = format!("{}!\n {}", &long[..120], &long[120..]);
        for body in [BOUNCE, &envelope.to_string(), &cut] {
            let report = mail(body);
            assert_eq!(report.kind, Kind::Failed);
            assert_eq!(report.recipients[0].address, "ada@example.org");
            assert!(report.recipients[0].classify(ProviderId::OTHER).is_hard());
            assert_eq!(report.reporting_mta.as_deref(), Some("out.example.net"));
            assert_eq!(report.original_mail_from.as_deref(), Some("b+x@bounces.example"));
            let id = report.original.and_then(|original| original.message_id);
            assert_eq!(id.as_deref(), Some("437.1@news.example"));
        }
    }

    #[test]
    fn complaints_delays_and_other_events_are_told_apart() {
        let complaint = r#"{"eventType":"Complaint","complaint":{"complaintFeedbackType":"abuse",
            "complainedRecipients":[{"emailAddress":"ada@example.org"}]},"mail":{}}"#;
        assert_eq!(mail(complaint).kind, Kind::Complaint);
        let late = BOUNCE.replace("\"Bounce\"", "\"DeliveryDelay\"");
        assert_eq!(mail(&late).kind, Kind::Delayed);
        assert_eq!(mail(&BOUNCE.replace("\"Bounce\"", "\"Open\"")).kind, Kind::NotAReport);
        assert_eq!(mail("{\"notificationType\":").kind, Kind::NotAReport);
    }
}
