//! Messages: what a copy decodes to, and the form it has on the wire.

use std::borrow::Cow;

use mail_parser::{MessageParser, MimeHeaders as _};
use proptest::prelude::*;

use super::*;
use crate::{
    address::Address,
    merge::{Escape, Segment},
};

/// A reader by what their fields are.
#[derive(Debug, Clone, Default)]
struct Row(Vec<(Field, String)>);

impl Reader for Row {
    fn value(&self, field: &Field) -> Option<Cow<'_, str>> {
        let (_, value) = self.0.iter().find(|(known, _)| known == field)?;
        Some(Cow::Borrowed(value))
    }
}

fn ada() -> Address {
    Address::parse("Ada@example.com").unwrap()
}

const LIST: ListFields<'_> = ListFields {
    name: "Example Weekly",
    id: "weekly.example.com",
    help: "https://example.com/help",
    archive: "https://example.com/archive",
    owner: "mailto:editor@example.com",
};
const FEEDBACK: FeedbackId<'_> =
    FeedbackId { campaign: "issue-437", newsletter: "weekly", kind: "issue", sender: "example" };
const UNSUBSCRIBE: ListUnsubscribe<'_> = ListUnsubscribe {
    https: "https://example.com/u/token",
    mailto: "mailto:u+token@example.com?subject=unsubscribe",
};

fn template(text: &MergeText, html: &MergeText, kind: MessageKind<'_>) -> MessageTemplate {
    let editor = Address::parse("editor@example.com").unwrap();
    let from = Mailbox { name: Some("Example Weekly"), address: &editor };
    let reply_to = Some(Mailbox { name: None, address: &editor });
    let parts = MessageParts { from, reply_to, subject: "Issue #437", text, html, kind };
    MessageTemplate::compile(&parts).unwrap()
}

fn issue(text: &MergeText, html: &MergeText) -> MessageTemplate {
    template(text, html, MessageKind::Issue { list: LIST, feedback_id: FEEDBACK })
}

fn composed(template: &MessageTemplate, row: &Row) -> Result<Vec<u8>, ComposeError> {
    let to = ada();
    let copy = CopyFields {
        reader: row,
        to: Mailbox { name: None, address: &to },
        message_id: "token@example.com",
        date: "Sun, 11 Aug 2024 09:05:07 +0000",
        unsubscribe: Some(UNSUBSCRIBE),
    };
    // In the room of another, which leaves nothing behind.
    let mut out = ComposedMessage::of_bytes(b"From: eve@example.com\r\n\r\nbefore\r\n");
    template.compose(&copy, &mut out)?;
    let whole = out.to_vec();
    assert_eq!(out.len(), whole.len());
    assert_eq!([out.header(), b"\r\n", &out.body().collect::<Vec<_>>().concat()].concat(), whole);
    Ok(whole)
}

fn slot(field: Field, escape: Escape, fallback: Option<&str>) -> Segment {
    Segment::Slot { field, escape, fallback: fallback.map(str::to_owned) }
}

fn text(segments: impl Into<Vec<Segment>>) -> MergeText {
    MergeText { segments: segments.into() }
}

fn literal(text: &str) -> Segment {
    Segment::Literal(text.to_owned())
}

/// Asserts what must hold of every message on the wire.
fn assert_ready_for_the_wire(message: &[u8]) {
    let message = std::str::from_utf8(message).expect("seven bits");
    assert!(message.is_ascii());
    assert!(message.ends_with("\r\n"));
    let lines: Vec<_> = message.trim_end_matches("\r\n").split("\r\n").collect();
    let body = lines.iter().position(|line| line.is_empty()).unwrap();
    for (nth, line) in lines.iter().enumerate() {
        assert!(!line.contains(['\r', '\n', '\0']), "bare line break in {line:?}");
        assert!(line.len() <= if nth < body { 998 } else { 76 }, "{line:?}");
        assert!(!line.starts_with('.') && !line.ends_with([' ', '\t']), "{line:?}");
        assert!(nth < body || !line.starts_with("From "), "{line:?}");
    }
}

fn decoded_parts(message: &[u8]) -> [String; 2] {
    let parsed = MessageParser::default().parse(message).unwrap();
    assert_eq!(parsed.parts.len(), 3, "the multipart and its two parts");
    [1, 2].map(|part| String::from_utf8(parsed.parts[part].contents().to_vec()).unwrap())
}

fn merged(text: &MergeText, row: &Row) -> String {
    let mut out = String::new();
    text.write(row, &mut out).unwrap();
    out.replace("\r\n", "\n").replace('\n', "\r\n")
}

#[test]
fn a_copy_of_an_issue_on_the_wire() {
    let part = text([
        literal("Hello "),
        slot(Field::Name, Escape::Text, Some("reader")),
        literal(",\n\n.hidden files and caf\u{e9}s\n"),
        slot(Field::UnsubscribeUrl, Escape::Text, None),
        literal("\n"),
    ]);
    let row = Row(vec![
        (Field::Name, "Ada".into()),
        (Field::UnsubscribeUrl, "https://example.com/u/token?a=b".into()),
    ]);
    let message = String::from_utf8(composed(&issue(&part, &part), &row).unwrap()).unwrap();
    assert_ready_for_the_wire(message.as_bytes());
    let boundary = message.split("boundary=\"").nth(1).unwrap().split('"').next().unwrap();
    let shown = message.replace(boundary, "[boundary]").replace('\r', "");
    insta::assert_snapshot!(shown, @r#"
    From: Example Weekly <editor@example.com>
    Reply-To: editor@example.com
    Subject: Issue #437
    MIME-Version: 1.0
    Content-Type: multipart/alternative;
     boundary="[boundary]"
    List-Id: Example Weekly <weekly.example.com>
    List-Help: <https://example.com/help>
    List-Archive: <https://example.com/archive>
    List-Owner: <mailto:editor@example.com>
    Feedback-ID: issue-437:weekly:issue:example
    Date: Sun, 11 Aug 2024 09:05:07 +0000
    To: Ada@example.com
    Message-ID: <token@example.com>
    List-Unsubscribe: <https://example.com/u/token>,
     <mailto:u+token@example.com?subject=unsubscribe>
    List-Unsubscribe-Post: List-Unsubscribe=One-Click

    --[boundary]
    Content-Type: text/plain; charset=utf-8
    Content-Transfer-Encoding: quoted-printable

    Hello=20=
    Ada=
    ,

    =2Ehidden files and caf=C3=A9s
    https://example.com/u/token?a=3Db

    --[boundary]
    Content-Type: text/html; charset=utf-8
    Content-Transfer-Encoding: quoted-printable

    Hello=20=
    Ada=
    ,

    =2Ehidden files and caf=C3=A9s
    https://example.com/u/token?a=3Db

    --[boundary]--
    "#);
}

#[test]
fn a_service_mail_says_that_a_program_answers() {
    let body = MergeText::literal("Please confirm.\n");
    let template = template(&body, &body, MessageKind::Service { feedback_id: None });
    let to = ada();
    let copy = CopyFields {
        reader: &Row::default(),
        to: Mailbox { name: Some("Åda"), address: &to },
        message_id: "token@example.com",
        date: "Sun, 11 Aug 2024 09:05:07 +0000",
        unsubscribe: None,
    };
    let mut out = ComposedMessage::default();
    template.compose(&copy, &mut out).unwrap();
    let out = out.to_vec();
    assert_ready_for_the_wire(&out);
    let message = MessageParser::default().parse(&out).unwrap();
    assert_eq!(message.header_raw("Auto-Submitted").unwrap().trim(), "auto-generated");
    for absent in ["List-Unsubscribe", "List-Unsubscribe-Post", "List-Id", "Feedback-ID"] {
        assert!(message.header_raw(absent).is_none(), "{absent}");
    }
    assert_eq!(message.to().unwrap().first().unwrap().name(), Some("Åda"));
}

#[test]
fn a_mail_program_reads_the_fields_that_were_given() {
    let body = MergeText::literal("Text\n");
    let message = composed(&issue(&body, &body), &Row::default()).unwrap();
    let parsed = MessageParser::default().parse(&message).unwrap();
    for (name, value) in [
        ("From", "Example Weekly <editor@example.com>"),
        ("Reply-To", "editor@example.com"),
        ("To", "Ada@example.com"),
        ("Subject", "Issue #437"),
        ("Date", "Sun, 11 Aug 2024 09:05:07 +0000"),
        ("Message-ID", "<token@example.com>"),
        ("MIME-Version", "1.0"),
        ("List-Id", "Example Weekly <weekly.example.com>"),
        ("List-Help", "<https://example.com/help>"),
        ("List-Archive", "<https://example.com/archive>"),
        ("List-Owner", "<mailto:editor@example.com>"),
        ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click"),
        ("Feedback-ID", "issue-437:weekly:issue:example"),
        (
            "List-Unsubscribe",
            "<https://example.com/u/token>,\r\n <mailto:u+token@example.com?subject=unsubscribe>",
        ),
    ] {
        let values: Vec<_> =
            parsed.headers_raw().filter(|(known, _)| known.eq_ignore_ascii_case(name)).collect();
        assert_eq!(values.len(), 1, "exactly one {name}");
        assert_eq!(values[0].1.trim(), value);
    }
    let known = parsed.headers_raw().count();
    assert_eq!(known, 15, "these and Content-Type, nothing that tells of software or hosts");
    assert!(parsed.parts[1].is_content_type("text", "plain"));
    assert!(parsed.parts[2].is_content_type("text", "html"));
}

#[test]
fn an_issue_without_a_way_to_leave_is_not_composed() {
    let body = MergeText::literal("Text\n");
    let to = ada();
    let copy = CopyFields {
        reader: &Row::default(),
        to: Mailbox { name: None, address: &to },
        message_id: "token@example.com",
        date: "Sun, 11 Aug 2024 09:05:07 +0000",
        unsubscribe: None,
    };
    let mut out = ComposedMessage::of_bytes(b"another");
    let refused = issue(&body, &body).compose(&copy, &mut out);
    let field = Field::UnsubscribeUrl;
    assert_eq!(refused, Err(ComposeError::Missing(MissingField { field })));
    assert!(out.is_empty());
}

#[test]
fn a_copy_that_cannot_be_made_leaves_nothing_behind() {
    let body = text([literal("Hello "), slot(Field::Name, Escape::Html, None)]);
    let template = issue(&MergeText::literal("Text\n"), &body);
    assert_eq!(
        composed(&template, &Row::default()),
        Err(ComposeError::Missing(MissingField { field: Field::Name }))
    );
    let to = ada();
    let hostile = |name, message_id, date, https| {
        let mut out = ComposedMessage::of_bytes(b"another");
        let copy = CopyFields {
            reader: &Row(vec![(Field::Name, "Ada".into())]),
            to: Mailbox { name: Some(name), address: &to },
            message_id,
            date,
            unsubscribe: Some(ListUnsubscribe { https, ..UNSUBSCRIBE }),
        };
        let refused = template.compose(&copy, &mut out).unwrap_err();
        assert!(matches!(refused, ComposeError::Header(_)), "{refused}");
        assert!(out.is_empty());
    };
    let (id, date, https) = ("a@example.com", "Sun, 11 Aug 2024 09:05:07 +0000", "https://a/");
    hostile("Ada\r\nBcc: eve@example.com", id, date, https);
    hostile("Ada", "a@example.com>\r\nBcc: eve@example.com", date, https);
    hostile("Ada", "a@example.com>", date, https);
    hostile("Ada", id, "today\r\n\r\nbody", https);
    hostile("Ada", id, date, "https://a/>\r\nBcc: <eve@example.com");
    hostile("Ada", id, date, "https://a/>, <https://eve.example/");
}

#[test]
fn our_own_addresses_must_be_ascii() {
    let lady = Address::parse("åda@example.com").unwrap();
    let body = MergeText::literal("Text\n");
    let parts = MessageParts {
        from: Mailbox { name: None, address: &lady },
        reply_to: None,
        subject: "Issue",
        text: &body,
        html: &body,
        kind: MessageKind::Service { feedback_id: None },
    };
    let refused = MessageTemplate::compile(&parts).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "From: the part before the @ must be ASCII: not every mail \
        server takes anything else"
    );
}

#[test]
fn boundaries_differ_from_issue_to_issue_and_are_in_no_body() {
    let body = MergeText::literal("--=_ is how a boundary begins\n");
    let (one, two) = (issue(&body, &body), issue(&body, &body));
    let (one, two) = (composed(&one, &Row::default()), composed(&two, &Row::default()));
    assert_ne!(one, two);
    let [text, html] = decoded_parts(&one.unwrap());
    assert_eq!(text, "--=_ is how a boundary begins\r\n");
    assert_eq!(html, text);
}

#[test]
fn an_address_outside_ascii_is_written_as_it_is() {
    let body = MergeText::literal("Text\n");
    let to = Address::parse("用户@例子.example").unwrap();
    assert!(to.needs_smtputf8(), "the sender looks before it sends");
    let copy = CopyFields {
        reader: &Row::default(),
        to: Mailbox { name: Some("用户"), address: &to },
        message_id: "token@example.com",
        date: "Sun, 11 Aug 2024 09:05:07 +0000",
        unsubscribe: Some(UNSUBSCRIBE),
    };
    let mut out = ComposedMessage::default();
    issue(&body, &body).compose(&copy, &mut out).unwrap();
    let out = out.to_vec();
    let parsed = MessageParser::default().parse(&out).unwrap();
    let read = parsed.to().unwrap().first().unwrap();
    assert_eq!(read.address(), Some("用户@xn--fsqu00a.example"));
    assert_eq!(read.name(), Some("用户"));
    let others = String::from_utf8(out).unwrap().replace("用户", "");
    assert!(others.is_ascii());
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => any::<String>(),
        4 => "[a-z .F=\n\t\u{e9}\u{1f980}-]{0,120}",
        2 => "(From |\\.\n|--|=_| \n|[a-z]{60,80}|\r\n){0,8}",
        1 => Just(String::new()),
    ]
}

fn any_value() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => any_text(),
        1 => Just("\u{1f980}".repeat(2_500)),
        1 => Just("<&\">".repeat(2_500)),
    ]
}

const FIELDS: [Field; 3] = [Field::Name, Field::Address, Field::UnsubscribeUrl];

fn any_segment() -> impl Strategy<Value = Segment> {
    let escape = prop_oneof![Just(Escape::Html), Just(Escape::UrlComponent), Just(Escape::Text)];
    let fallback = proptest::option::of(any_text());
    prop_oneof![
        any_text().prop_map(Segment::Literal),
        (0..FIELDS.len(), escape, fallback).prop_map(|(field, escape, fallback)| {
            Segment::Slot { field: FIELDS[field].clone(), escape, fallback }
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_copy_decodes_to_the_merged_text(
        text in proptest::collection::vec(any_segment(), 0..8),
        html in proptest::collection::vec(any_segment(), 0..8),
        values in proptest::array::uniform3(any_value()),
    ) {
        let (text, html) = (super::tests::text(text), super::tests::text(html));
        let longest = values.iter().map(String::len).max().unwrap_or(0);
        let row = Row(FIELDS.into_iter().zip(values).collect());
        let template = issue(&text, &html);
        let message = composed(&template, &row).unwrap();
        assert_ready_for_the_wire(&message);
        prop_assert_eq!(decoded_parts(&message), [merged(&text, &row), merged(&html, &row)]);
        prop_assert!(message.len() <= template.size_max(longest));
    }
}
