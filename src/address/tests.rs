//! Addresses: what is accepted, what is refused and why, and which spellings are one mailbox.

use proptest::prelude::*;

use super::*;

#[test]
fn addresses_are_kept_as_they_are_sent() {
    let longest_local_part = format!("{}@example.com", "a".repeat(64));
    for (typed, kept) in [
        ("ada@example.com", "ada@example.com"),
        ("  Ada.Lovelace+sre@EXAMPLE.Com\n", "Ada.Lovelace+sre@example.com"),
        ("o'brien@example.com", "o'brien@example.com"),
        ("a@bücher.example", "a@xn--bcher-kva.example"),
        ("a@BÜCHER.example", "a@xn--bcher-kva.example"),
        ("\"a b\"@example.com", "\"a b\"@example.com"),
        ("\"a@b\"@example.com", "\"a@b\"@example.com"),
        ("\"a\\\"b\"@example.com", "\"a\\\"b\"@example.com"),
        ("用户@例子.广告", "用户@xn--fsqu00a.xn--4rr70v"),
        (&longest_local_part, &longest_local_part),
    ] {
        let address = Address::parse(typed).unwrap_or_else(|e| panic!("{typed}: {e}"));
        assert_eq!(address.as_str(), kept);
    }
}

#[test]
fn what_is_not_an_address_is_refused_with_the_reason() {
    use AddressError as E;
    let long = format!("{}@example.com", "a".repeat(65));
    let wide = format!("a@{}example.com", "a23456789.".repeat(25));
    let label = format!("a@{}.com", "a".repeat(64));
    for (typed, expected) in [
        ("", E::Empty),
        (" \r\n ", E::Empty),
        ("ada", E::NoAt),
        ("@example.com", E::LocalPartEmpty),
        ("ada@", E::DomainEmpty),
        ("a\r\nBcc: b@example.com", E::Invisible('\r')),
        ("a\0@example.com", E::Invisible('\0')),
        ("a\u{200b}da@example.com", E::Invisible('\u{200b}')),
        ("a\u{202e}da@example.com", E::Invisible('\u{202e}')),
        ("a@exam\tple.com", E::Invisible('\t')),
        (".a@example.com", E::LocalPartDots),
        ("a.@example.com", E::LocalPartDots),
        ("a..b@example.com", E::LocalPartDots),
        ("Ada <ada@example.com>", E::LocalPartCharacter(' ')),
        ("a,b@example.com", E::LocalPartCharacter(',')),
        ("a@b@example.com", E::LocalPartCharacter('@')),
        ("a(x)@example.com", E::LocalPartCharacter('(')),
        ("\"a@example.com", E::LocalPartQuotes),
        ("\"@example.com", E::LocalPartQuotes),
        ("\"a\"b\"@example.com", E::LocalPartQuotes),
        ("\"a\\\"@example.com", E::LocalPartQuotes),
        ("a@[192.0.2.1]", E::DomainIsIpAddress),
        ("a@192.0.2.1", E::DomainIsIpAddress),
        ("a@localhost", E::DomainWithoutDot),
        ("a@example.com.", E::Domain("example.com.".into())),
        ("a@-example.com", E::Domain("-example.com".into())),
        ("a@exa mple.com", E::Domain("exa mple.com".into())),
        ("a@exa_mple.com", E::Domain("exa_mple.com".into())),
        ("a@example..com", E::Domain("example..com".into())),
        ("a@example.com>", E::Domain("example.com>".into())),
        (&label, E::Domain(label[2..].into())),
        (&long, E::LocalPartTooLong(65)),
        (&wide, E::Domain(wide[2..].into())),
    ] {
        assert_eq!(Address::parse(typed), Err(expected), "{typed:?}");
    }
    let many = format!("{}@{}example.com", "a".repeat(64), "a23456789.".repeat(20));
    assert_eq!(Address::parse(&many), Err(E::TooLong(64 + 1 + 200 + 11)));
}

#[test]
fn spellings_of_one_mailbox_have_one_key() {
    let key = |text: &str| Address::parse(text).unwrap().key().into_owned();
    assert_eq!(key("Ada.L@Example.com"), "ada.l@example.com");
    assert_eq!(key("\"Ada.L\"@example.com"), "ada.l@example.com");
    assert_eq!(key("\"Ada L\"@example.com"), "\"ada l\"@example.com");
    assert_eq!(key("ÅSA@example.com"), key("åsa@example.com"));
    assert_eq!(key("ΟΔΟΣ@example.com"), key("οδοσ@example.com"));
}

#[test]
fn only_a_local_part_outside_ascii_needs_smtputf8() {
    assert!(!Address::parse("a@bücher.example").unwrap().needs_smtputf8());
    assert!(Address::parse("bücher@example.com").unwrap().needs_smtputf8());
}

#[test]
fn role_accounts_are_known_by_any_spelling() {
    assert!(ROLE_ACCOUNTS.is_sorted());
    for (address, role) in [
        ("PostMaster@example.com", true),
        ("\"abuse\"@example.com", true),
        ("no-reply+7@example.com", true),
        ("postmasters@example.com", false),
        ("ada@postmaster.example", false),
    ] {
        assert_eq!(Address::parse(address).unwrap().is_role_account(), role, "{address}");
    }
}

#[test]
fn a_process_log_never_shows_the_whole_address() {
    let address = Address::parse("\"Ada L\"@example.com").unwrap();
    assert_eq!(format!("{address:?}"), "A…@example.com");
    assert_eq!(address.redacted().to_string(), "A…@example.com");
    assert_eq!(address.to_string(), "\"Ada L\"@example.com");
}

#[test]
fn stored_addresses_are_checked_when_read() {
    let address = Address::parse("Ada@example.com").unwrap();
    let json = serde_json::to_string(&address).unwrap();
    assert_eq!(json, "\"Ada@example.com\"");
    assert_eq!(serde_json::from_str::<Address>(&json).unwrap(), address);
    assert!(serde_json::from_str::<Address>("\"ada\"").is_err());
}

proptest! {
    #[test]
    fn what_is_taken_for_a_plain_domain_is_what_idna_makes_of_it(
        domain in "[a-z0-9.-]{1,24}|[a-z0-9]{1,5}(--|-|\\.)?[a-z0-9]{0,70}\\.[a-z0-9]{1,6}",
    ) {
        if is_plain_domain(&domain) {
            prop_assert_eq!(&processed_domain(&domain), &Ok(domain.clone()), "{}", domain);
        }
    }

    #[test]
    fn whatever_is_accepted_is_safe_and_stable(
        text in prop_oneof![any::<String>(), "\\PC{0,12}@\\PC{0,12}\\.[a-z]{2,4}",
            "[\"a-zA-Z.+\\\\ @é]{1,20}@[a-zA-Z.é-]{1,20}"]
    ) {
        if let Ok(address) = Address::parse(&text) {
            prop_assert!(address.as_str().len() <= ADDRESS_OCTETS_MAX);
            prop_assert!(!address.as_str().chars().any(char::is_control));
            prop_assert!(address.domain().is_ascii());
            prop_assert_eq!(Address::parse(address.as_str()), Ok(address.clone()));
            let key = address.key().into_owned();
            let reparsed = Address::parse(&key).map(|a| a.key().into_owned());
            // Lower case can be longer than upper case, so that a key may exceed the limits.
            prop_assert!(reparsed == Ok(key) || address.needs_smtputf8());
        }
    }
}
