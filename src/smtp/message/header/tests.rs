//! Header fields: what is written reads back as it was, and nothing forged gets in.

use mail_parser::MessageParser;
use proptest::prelude::*;

use super::*;

fn text_field(value: &str) -> Result<String, HeaderError> {
    let mut out = Vec::new();
    push_text("Subject", value, &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

fn mailbox_field(name: &str, address: &str) -> Result<String, HeaderError> {
    let address = Address::parse(address).unwrap();
    let mut out = Vec::new();
    push_mailbox("From", Mailbox { name: Some(name), address: &address }, &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

/// Every line fits, folds begin with one space, encoded words are whole.
fn assert_well_formed(field: &str) {
    assert!(field.ends_with("\r\n") && !field.ends_with("\r\n\r\n"));
    for (nth, line) in field.trim_end_matches("\r\n").split("\r\n").enumerate() {
        let has_word = line.contains("=?utf-8?");
        assert!(line.len() <= if has_word { 76 } else { 78 }, "{line:?}");
        assert!(nth == 0 || line.starts_with(' '), "{line:?}");
        assert!(!line.trim().is_empty() && !line.ends_with(' '), "{line:?}");
        assert!(line.bytes().all(|b| (b' '..=b'~').contains(&b)), "{line:?}");
        for word in line.split(' ').filter(|word| word.starts_with("=?utf-8?")) {
            assert!(word.len() <= 75 && word.ends_with("?="), "{word}");
        }
    }
}

#[test]
fn subjects_are_folded_or_encoded_as_they_need() {
    let wide = "All the outages of this very long week and what we have learned from them so far";
    let fields = [
        "SRE Weekly Issue #437",
        wide,
        "Café au lait",
        "日本語のニュースレターの件名はとても長くなることがあるので、折り返しが必要です",
        "two  spaces",
        " leading",
        "=?utf-8?Q?not_a_word?=",
        &"x".repeat(100),
    ]
    .map(|value| text_field(value).unwrap().replace('\r', ""));
    insta::assert_snapshot!(fields.join(""), @"
    Subject: SRE Weekly Issue #437
    Subject: All the outages of this very long week and what we have learned from
     them so far
    Subject: =?utf-8?Q?Caf=C3=A9_au_lait?=
    Subject: =?utf-8?B?5pel5pys6Kqe44Gu44OL44Ol44O844K544Os44K/44O844Gu5Lu2?=
     =?utf-8?B?5ZCN44Gv44Go44Gm44KC6ZW344GP44Gq44KL44GT44Go44GM44GC44KL44Gu?=
     =?utf-8?B?44Gn44CB5oqY44KK6L+U44GX44GM5b+F6KaB44Gn44GZ?=
    Subject: =?utf-8?Q?two__spaces?=
    Subject: =?utf-8?Q?_leading?=
    Subject: =?utf-8?B?PT91dGYtOD9RP25vdF9hX3dvcmQ/PQ==?=
    Subject: =?utf-8?Q?xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx?=
     =?utf-8?Q?xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx?=
    ");
}

#[test]
fn display_names_are_atoms_quoted_strings_or_encoded_words() {
    let fields = [
        ("SRE Weekly", "lex@example.com"),
        ("", "lex@example.com"),
        ("Lovelace, Ada \"the first\"", "ada@example.com"),
        ("Back\\slash", "ada@example.com"),
        (&"\"".repeat(50), "ada@example.com"),
        ("Åsa Ö. Ähnlich", "asa@example.com"),
        ("A name that leaves no room on its line", "a-rather-long-local-part@sub.example.com"),
    ]
    .map(|(name, address)| mailbox_field(name, address).unwrap().replace('\r', ""));
    insta::assert_snapshot!(fields.join(""), @r#"
    From: SRE Weekly <lex@example.com>
    From: lex@example.com
    From: "Lovelace, Ada \"the first\"" <ada@example.com>
    From: "Back\\slash" <ada@example.com>
    From: =?utf-8?B?IiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIi?=
     =?utf-8?B?IiIiIiIiIiI=?= <ada@example.com>
    From: =?utf-8?B?w4VzYSDDli4gw4RobmxpY2g=?= <asa@example.com>
    From: A name that leaves no room on its line
     <a-rather-long-local-part@sub.example.com>
    "#);
}

#[test]
fn what_could_forge_a_header_is_refused() {
    for hostile in ["a\r\nBcc: b@example.com", "a\nb", "a\rb", "a\0b", "a\u{85}b", "a\tb"] {
        let control = |result: Result<(), HeaderError>| {
            matches!(result, Err(HeaderError { fault: HeaderFault::Control(_), .. }))
        };
        let mut out = Vec::new();
        let ada = Address::parse("ada@example.com").unwrap();
        let mailbox = Mailbox { name: Some(hostile), address: &ada };
        assert!(control(push_text("Subject", hostile, &mut out)));
        assert!(control(push_mailbox("To", mailbox, &mut out)));
        assert!(control(push_list_id(hostile, "a.example.com", &mut out)));
        assert!(control(push_ascii("Date", &[hostile], &mut out)));
        assert!(control(push_message_id(hostile, &mut out)));
        assert!(push_list_id("", hostile, &mut out).is_err());
        assert!(push_feedback_id(["a", hostile, "c", "d"], &mut out).is_err());
        let uri = format!("https://example.com/{hostile}");
        assert!(control(push_uris("List-Help", &[&uri], &mut out)));
    }
}

#[test]
fn only_uris_that_fit_between_brackets_are_written() {
    let written = |uri: &str| push_uris("List-Help", &[uri], &mut Vec::new()).is_ok();
    assert!(written("https://example.com/a?b=c,d"));
    assert!(written("mailto:u+abc@example.com?subject=unsubscribe"));
    for uri in ["", "example.com", "javascript:alert(1)", "https://a b", "https://é", "https://a>"]
    {
        assert!(!written(uri), "{uri}");
    }
    assert!(!written(&format!("https://example.com/{}", "a".repeat(900))));
}

#[test]
fn identifiers_are_checked() {
    let list_id = |id: &str| push_list_id("", id, &mut Vec::new()).is_ok();
    assert!(list_id("sre-weekly.example.com"));
    assert!(!list_id("") && !list_id("a..b") && !list_id("a b.example.com") && !list_id("é.com"));
    let feedback = |ids| push_feedback_id(ids, &mut Vec::new()).is_ok();
    assert!(feedback(["issue-437", "sre", "issue", "postrider"]));
    assert!(!feedback(["issue:437", "sre", "issue", "postrider"]));
    assert!(!feedback(["", "sre", "issue", "postrider"]));
}

proptest! {
    #[test]
    fn any_subject_reads_back(value in prop_oneof!["\\PC{1,200}", "[ -~é🦀]{1,200}"]) {
        let field = text_field(&value).unwrap();
        assert_well_formed(&field);
        let message = format!("{field}\r\n");
        let parsed = MessageParser::default().parse(message.as_bytes()).unwrap();
        prop_assert_eq!(parsed.subject().unwrap_or_default(), value);
    }

    #[test]
    fn any_display_name_reads_back(name in prop_oneof!["\\PC{1,80}", "[ -~é🦀]{1,80}"]) {
        let field = mailbox_field(&name, "ada@example.com").unwrap();
        assert_well_formed(&field);
        let message = format!("{field}\r\n");
        let parsed = MessageParser::default().parse(message.as_bytes()).unwrap();
        let from = parsed.from().unwrap().first().unwrap();
        prop_assert_eq!(from.address(), Some("ada@example.com"));
        prop_assert_eq!(from.name().unwrap_or_default(), name);
    }
}
