//! Signatures: verified here with the public key that the DNS record gives, and by other people's
//! verifiers in `tests/peers.rs`.

use aws_lc_rs::{
    digest::digest,
    signature::{ED25519, RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey},
};
use proptest::prelude::*;

use super::*;

const RSA_PKCS1: &str = include_str!("../../../tests/keys/rsa2048-pkcs1.pem");
const RSA_PKCS8: &str = include_str!("../../../tests/keys/rsa2048-pkcs8.pem");
const ED25519_PKCS8: &str = include_str!("../../../tests/keys/ed25519-pkcs8.pem");

const MESSAGE: &[u8] = b"From: Ada <ada@example.com>\r\nTo: grace@example.org\r\n\
    Subject:  A  folded\r\n\t subject \r\nList-Unsubscribe: <https://example.com/u>\r\n\
    List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\nX-Other: not signed\r\n\r\nBody\r\n";

fn signers() -> Vec<Signer> {
    vec![
        Signer::from_pem("example.com", "rsa1", RSA_PKCS8).unwrap(),
        Signer::from_pem("example.com", "ed1", ED25519_PKCS8).unwrap(),
    ]
}

fn now() -> Timestamp {
    "2024-08-11T09:05:07Z".parse().unwrap()
}

fn tag(field: &str, name: &str) -> String {
    let unfolded: String = field.chars().filter(|c| !c.is_whitespace()).collect();
    let (_, tags) = unfolded.split_once(':').unwrap();
    let mut tags = tags.split(';').filter_map(|tag| tag.split_once('='));
    tags.find(|(known, _)| *known == name).unwrap().1.to_owned()
}

fn composed(message: &[u8]) -> ComposedMessage {
    ComposedMessage::of_bytes(message)
}

fn canonical_body(mut body: &[u8]) -> &[u8] {
    while let Some(shorter) = body.strip_suffix(b"\r\n\r\n") {
        body = &body[..shorter.len() + 2];
    }
    if body.is_empty() { b"\r\n" } else { body }
}

/// Checks one signature field as a verifier does, from the record in the DNS.
fn verifies(field: &str, message: &[u8], record: &DnsRecord) -> bool {
    let end = message.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    let (header, body) = (&message[..end + 2], &message[end + 4..]);
    let header_fields = fields(header).unwrap();
    if tag(field, "bh") != BASE64.encode(digest(&SHA256, canonical_body(body)).as_ref()) {
        return false;
    }
    let mut data = Vec::new();
    let mut left: Vec<_> = header_fields.iter().collect();
    for name in tag(field, "h").split(':') {
        let found = left.iter().rposition(|(known, _)| known.eq_ignore_ascii_case(name.as_bytes()));
        if let Some(at) = found {
            let (known, value) = left.remove(at);
            push_relaxed(known, value, &mut data);
        }
    }
    let unsigned = &field[..field.rfind("b=").unwrap() + 2];
    push_relaxed(b"dkim-signature", unsigned.split_once(':').unwrap().1.as_bytes(), &mut data);
    data.truncate(data.len() - 2);
    let signature = BASE64.decode(tag(field, "b").as_bytes()).unwrap();
    let public = BASE64.decode(record.value.rsplit("p=").next().unwrap().as_bytes()).unwrap();
    match tag(field, "a").as_str() {
        "rsa-sha256" => UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, &public[24..])
            .verify(&data, &signature)
            .is_ok(),
        "ed25519-sha256" => UnparsedPublicKey::new(&ED25519, &public)
            .verify(digest(&SHA256, &data).as_ref(), &signature)
            .is_ok(),
        other => panic!("{other}"),
    }
}

/// The fields that `signatures` made, one by one.
fn split_fields(signatures: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(signatures).unwrap();
    let mut fields = Vec::new();
    for part in text.split("DKIM-Signature:").skip(1) {
        fields.push(format!("DKIM-Signature:{part}"));
    }
    fields
}

#[test]
fn both_signatures_verify_with_their_records() {
    let signers = signers();
    let signatures = signatures(&signers, &composed(MESSAGE), now()).unwrap();
    let fields = split_fields(&signatures);
    assert_eq!(fields.len(), 2);
    for (field, signer) in fields.iter().zip(&signers) {
        assert!(verifies(field, MESSAGE, &signer.dns_record()));
        assert!(field.lines().all(|line| line.len() <= 78), "{field}");
        assert_eq!(tag(field, "t"), "1723367107");
    }
    let mut message = ComposedMessage::of_bytes(MESSAGE);
    sign(&signers, &mut message, now()).unwrap();
    // Both algorithms are deterministic.
    assert_eq!(message.to_vec(), [&signatures[..], MESSAGE].concat());
}

#[test]
fn relays_may_fold_headers_and_change_nothing_else() {
    let signers = signers();
    let signatures = signatures(&signers, &composed(MESSAGE), now()).unwrap();
    let text = std::str::from_utf8(MESSAGE).unwrap();
    let altered = |from: &str, to: &str| {
        assert!(text.contains(from));
        let message = text.replacen(from, to, 1).into_bytes();
        let fields = split_fields(&signatures);
        let verdicts = fields.iter().zip(&signers);
        let mut verdicts = verdicts.map(|(f, s)| verifies(f, &message, &s.dns_record()));
        let (one, two) = (verdicts.next().unwrap(), verdicts.next().unwrap());
        assert_eq!(one, two);
        one
    };
    assert!(altered("  A  folded\r\n\t subject ", " A folded subject"));
    assert!(altered("List-Unsubscribe:", "LIST-UNSUBSCRIBE:"));
    assert!(altered("not signed", "anything"));
    assert!(altered("X-Other", "Received: from a relay\r\nX-Other"));
    assert!(!altered("A  folded", "Another"));
    assert!(!altered("One-Click", "No-Click"));
    assert!(!altered("https://example.com/u", "https://eve.example/u"));
    assert!(!altered("Body", "body"));
    for forged in ["From: eve@example.com", "Subject: other", "Reply-To: eve@example.com"] {
        assert!(!altered("X-Other", &format!("{forged}\r\nX-Other")), "{forged}");
    }
}

#[test]
fn the_signed_fields_are_named_once_more_where_there_is_one() {
    let signatures = signatures(&signers()[1..], &composed(MESSAGE), now()).unwrap();
    let field = split_fields(&signatures).remove(0);
    assert_eq!(
        tag(&field, "h"),
        "from:from:to:to:subject:subject:date:message-id:reply-to:cc:mime-version:content-type:\
         content-transfer-encoding:list-unsubscribe:list-unsubscribe-post"
    );
}

#[test]
fn fields_that_occur_twice_are_signed_from_the_last() {
    let message = b"From: a@example.com\r\nList-Id: <one>\r\nList-Id: <two>\r\n\r\n";
    let message = composed(message);
    let (names, signed) = signed_fields(&fields(message.header()).unwrap());
    assert!(names.ends_with(":list-id:list-id"));
    let signed = String::from_utf8(signed).unwrap();
    assert_eq!(signed, "from:a@example.com\r\nlist-id:<two>\r\nlist-id:<one>\r\n");
}

#[test]
fn a_body_ends_in_one_line_break() {
    for (body, canonical) in [
        ("", "\r\n"),
        ("\r\n\r\n", "\r\n"),
        ("a\r\n", "a\r\n"),
        ("a\r\n\r\n\r\n", "a\r\n"),
        ("a \r\n\r\nb\r\n\r\n", "a \r\n\r\nb\r\n"),
    ] {
        let message = composed(format!("From: a\r\n\r\n{body}").as_bytes());
        let expected = digest(&SHA256, canonical.as_bytes());
        assert_eq!(body_hash(&message).as_ref(), expected.as_ref(), "{body:?}");
        // However it is cut into pieces.
        for cut in 0..=body.len() {
            let (one, other) = body.as_bytes().split_at(cut);
            let surplus = surplus_line_ends([one, other].into_iter());
            assert_eq!(surplus, surplus_line_ends([body.as_bytes()].into_iter()), "{body:?} {cut}");
        }
    }
}

#[test]
fn what_is_no_message_is_not_signed() {
    let refused =
        |message: &[u8]| signatures(&signers()[1..], &composed(message), now()).unwrap_err();
    assert_eq!(refused(b""), DkimError::NotAMessage);
    assert_eq!(refused(b"From: a\n\nbody"), DkimError::NotAMessage);
    assert_eq!(refused(b" folded\r\n\r\n"), DkimError::NotAField(1));
    assert_eq!(refused(b"From: a\r\nnot a field\r\n\r\n"), DkimError::NotAField(2));
    assert_eq!(refused(b"\r\n\r\n"), DkimError::NotAField(1));
}

#[test]
fn records_hold_the_public_keys_as_openssl_writes_them() {
    let records = [("rsa1", RSA_PKCS1), ("rsa1", RSA_PKCS8), ("ed1", ED25519_PKCS8)]
        .map(|(selector, pem)| Signer::from_pem("Example.com", selector, pem).unwrap())
        .map(|signer| signer.dns_record());
    assert_eq!(records[0], records[1], "one key in two formats");
    assert_eq!(records[2].name, "ed1._domainkey.example.com");
    let ed25519 = "v=DKIM1; k=ed25519; p=LrEQJHnFkBJk2sihaYLOq3947S94wt6i7cmS63uuVpQ=";
    assert_eq!(records[2].value, ed25519);
    let line = records[0].to_string();
    insta::assert_snapshot!(line, @r#"rsa1._domainkey.example.com. IN TXT ( "v=DKIM1; k=rsa; p=MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAtfXMr/R6FF4AdzqRTHCK04tENurNeVFb41mzIos/q9DWEQBaOIBSvDyeNA1lli0+/Qk1PDjNYxWkAxJmGCOF/IHJ07Eo0H1d8h46AU6DLH8wvI8mWQ9EWGCBgNFgR4VWSTFVA9dGhmxvaROPix8Y3gShuIt8sQBfIwhJXE/6U+tQuxjysRUVgNj6De+xEc2Z7" "iKb9/Yj+LOlXW00oGesJne5t4Qdqu44Xpqs4JOxO7CoaU+uFgDbahN6j9xvhoOqjPAvPO3xjjbSBFvcmxoCKsE2gENeJJEH7nWZwWdsgpgI3xmhYnm9ankQ1b9k8NMWXlwLxAidHu/xmTP7kj88tQIDAQAB" )"#);
}

#[test]
fn a_new_key_signs_and_can_be_read_again() {
    let (new, pem) = Signer::generate_ed25519("example.com", "ed2").unwrap();
    let again = Signer::from_pem("example.com", "ed2", &pem).unwrap();
    assert_eq!(new.dns_record(), again.dns_record());
    let signed = signatures(&[new], &composed(MESSAGE), now()).unwrap();
    assert!(verifies(&split_fields(&signed)[0], MESSAGE, &again.dns_record()));
}

#[test]
fn keys_that_cannot_sign_are_refused_with_the_reason() {
    let refusal = |pem: &str| Signer::from_pem("example.com", "s", pem).unwrap_err().to_string();
    let refusals = [
        refusal("no PEM"),
        refusal(
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
        ),
        refusal(include_str!("../../../tests/keys/rsa1024-pkcs8.pem")),
        refusal(include_str!("../../../tests/keys/p256-sec1.pem")),
        Signer::from_pem("bücher.example", "s", ED25519_PKCS8).unwrap_err().to_string(),
        Signer::from_pem("example.com", "s;", ED25519_PKCS8).unwrap_err().to_string(),
    ];
    insta::assert_snapshot!(refusals.join("\n"), @"
    no private key in PEM was found; an encrypted one has to be decrypted first: openssl pkey -in encrypted.pem -out dkim.pem
    no private key in PEM was found; an encrypted one has to be decrypted first: openssl pkey -in encrypted.pem -out dkim.pem
    the private key cannot be used (TooSmall); it must be RSA of 2048 to 8192 bits or Ed25519
    the private key cannot be used (an elliptic-curve key); it must be RSA of 2048 to 8192 bits or Ed25519
    “bücher.example” is not a name in the DNS; write it in ASCII (A-labels), without a final dot
    “s;” is not a name in the DNS; write it in ASCII (A-labels), without a final dot
    ");
}

#[test]
fn debugging_shows_no_key() {
    assert_eq!(format!("{:?}", signers()[1]), "ed1._domainkey.example.com (ed25519-sha256)");
}

proptest! {
    #[test]
    fn whatever_is_signed_verifies(
        header in "([A-Za-z-]{1,12}:[ -~]{0,30}(\r\n [!-~]{1,20}){0,2}\r\n){0,6}",
        body in proptest::collection::vec(any::<u8>(), 0..200),
        noise in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        let signers = &signers()[1..];
        let message = [b"From: a@example.com\r\n", header.as_bytes(), b"\r\n", &body[..]].concat();
        let signed = signatures(signers, &composed(&message), now()).unwrap();
        prop_assert!(verifies(&split_fields(&signed)[0], &message, &signers[0].dns_record()));
        let _ = signatures(signers, &composed(&noise), now());
    }
}
