//! Every provider's proof: the right one passes; a wrong, missing, old, altered or retired one does
//! not.

use std::time::Duration;

use super::*;
use crate::bounce::intake::webhook::What;

const DAY: Duration = Duration::from_hours(24);

fn now() -> Timestamp {
    Timestamp::from_microseconds(1_790_000_000_000_000)
}

fn bounce() -> Said {
    Said::new("bounced", "ada@example.net", now()).of("token@news.example.com")
}

fn refused(opened: &Result<Opened, Refusal>) -> bool {
    matches!(opened, Err(Refusal::NotAuthentic(_) | Refusal::Stale | Refusal::Unreadable(_)))
}

#[test]
fn the_right_proof_passes_and_the_event_is_read() {
    for provider in Provider::ALL {
        let sender = Sender::new(provider);
        let sent = sender.send(&bounce(), now());
        let opened = sent.open(&sender.hook(), sender.certificate().as_ref(), now());
        let Ok(Opened::Events(events)) = opened else { panic!("{provider}: {opened:?}") };
        let [event] = &events[..] else { panic!("{provider}: {events:?}") };
        let failed = matches!(event.what, What::Bounced | What::Failed);
        assert!(failed && event.matters(), "{provider}: {event:?}");
        assert_eq!(event.recipient.as_deref(), Some("ada@example.net"), "{provider}");
        let at = event.at.unwrap();
        assert!(at.since(now()) < Duration::from_secs(1), "{provider}: {at}");
        let carried = event.carried.message_ids.first().map(|id| id.trim_matches(['<', '>']));
        let keeps_ours = provider != Provider::Mailersend;
        assert_eq!(carried, keeps_ours.then_some("token@news.example.com"), "{provider}");
        assert!(event.classify(crate::provider::ProviderId::OTHER).is_hard(), "{provider}");
    }
}

#[test]
fn no_other_key_and_no_missing_proof_passes() {
    for provider in Provider::ALL {
        let sender = Sender::new(provider);
        let (hook, certificate) = (sender.hook(), sender.certificate());
        let check = |what: &str, sent: &Sent| {
            let opened = sent.open(&hook, certificate.as_ref(), now());
            assert!(refused(&opened), "{provider}, {what}: {opened:?}");
        };
        check("impostor", &Sender::impostor(provider).send(&bounce(), now()));
        let right = sender.send(&bounce(), now());
        check("nothing", &Sent { body: payload(provider, &bounce()), ..Sent::default() });
        check("empty", &Sent::default());
        for (name, value) in &right.headers {
            let mut less = right.clone();
            less.headers.remove(name);
            check("a field less", &less);
            let mut other = right.clone();
            let mut octets = value.as_bytes().to_vec();
            let last = octets.iter().rposition(u8::is_ascii_alphanumeric).unwrap();
            // Not only the padding bits of base64.
            let at = last.saturating_sub(3);
            octets[at] = if octets[at] == b'1' { b'2' } else { b'1' };
            other.headers.insert(name, HeaderValue::from_bytes(&octets).unwrap());
            check("a field altered", &other);
        }
        let shows = matches!(
            provider,
            Provider::Azure
                | Provider::Brevo
                | Provider::Mailjet
                | Provider::Postmark
                | Provider::Sparkpost
        );
        // Those who show a secret, and the one who signs a number only, do not cover the body.
        if !shows && provider != Provider::Mailgun {
            let text = String::from_utf8(right.body.clone()).unwrap();
            let altered = text.replace("ada", "eve").into_bytes();
            check("another reader", &Sent { body: altered, ..right.clone() });
        }
    }
}

#[test]
fn old_requests_and_those_of_tomorrow_are_refused_where_a_time_is_signed() {
    for (provider, within) in [
        (Provider::Resend, Duration::from_mins(5)),
        (Provider::Generic, Duration::from_mins(5)),
        (Provider::Sendgrid, DAY),
        (Provider::Mailgun, DAY),
        (Provider::AmazonSes, DAY),
    ] {
        let sender = Sender::new(provider);
        let sent = sender.send(&bounce(), now());
        let second = Duration::from_secs(2);
        for (what, at, fresh) in [
            ("just in time", now().plus(within).minus(second), true),
            ("too old", now().plus(within).plus(second), false),
            ("clock behind", now().minus(within).plus(second), true),
            ("of tomorrow", now().minus(within).minus(second), false),
        ] {
            let opened = sent.open(&sender.hook(), sender.certificate().as_ref(), at);
            let expected = if fresh { opened.is_ok() } else { opened == Err(Refusal::Stale) };
            assert!(expected, "{provider}, {what}: {opened:?}");
        }
        let tight = config::Webhook { tolerance: Some(Duration::from_secs(30)), ..sender.config() };
        let hook = Hook::new(&tight, PUBLIC_URL).unwrap();
        let at = now().plus(Duration::from_secs(40));
        let opened = sent.open(&hook, sender.certificate().as_ref(), at);
        assert_eq!(opened, Err(Refusal::Stale), "{provider}");
    }
}

#[test]
fn two_secrets_hold_while_one_replaces_the_other() {
    for provider in Provider::ALL.into_iter().filter(|one| *one != Provider::AmazonSes) {
        if provider == Provider::Postal {
            continue; // Both of its test keys would be the same; `is_any` below is what it shares.
        }
        let (new, old) = (Sender::new(provider), Sender::new(provider));
        let secrets = [new.config().secrets, old.config().secrets].concat();
        let both = config::Webhook { secrets, ..new.config() };
        let hook = Hook::new(&both, PUBLIC_URL).unwrap();
        for sender in [&new, &old] {
            let opened = sender.send(&bounce(), now()).open(&hook, None, now());
            assert!(opened.is_ok(), "{provider}: {opened:?}");
        }
        let opened = old.send(&bounce(), now()).open(&new.hook(), None, now());
        assert!(refused(&opened), "{provider}: a retired secret: {opened:?}");
        let three = [both.secrets.clone(), Sender::new(provider).config().secrets].concat();
        let three = config::Webhook { secrets: three, ..both };
        assert_eq!(Hook::new(&three, PUBLIC_URL).unwrap_err().0, "secrets");
    }
}

#[test]
fn a_secret_may_be_shown_in_several_ways() {
    let sender = Sender::new(Provider::Brevo);
    let body = payload(Provider::Brevo, &bounce());
    let secret = sender.secret.clone();
    let basic = |pair: &str| format!("Basic {}", BASE64.encode(pair.as_bytes()));
    let own = config::Webhook { header: Some("X-Token".to_owned()), ..sender.config() };
    let pair = config::Webhook {
        secrets: vec![Secret::Text(format!("name:{secret}"))],
        ..sender.config()
    };
    let plain = sender.config();
    let azure = config::Webhook { provider: Provider::Azure, ..sender.config() };
    for (config, name, value, query, passes) in [
        (&plain, "authorization", format!("Bearer {secret}"), "", true),
        (&plain, "authorization", format!("bearer  {secret}"), "", true),
        (&plain, "authorization", basic(&format!("any:{secret}")), "", true),
        (&plain, "authorization", basic(&format!("{secret}:any")), "", false),
        (&plain, "authorization", format!("Digest {secret}"), "", false),
        (&plain, "authorization", secret.clone(), "", false),
        (&plain, "x-webhook-secret", secret.clone(), "", true),
        (&plain, "x-token", secret.clone(), "", false),
        (&own, "x-token", secret.clone(), "", true),
        (&own, "x-webhook-secret", secret.clone(), "", false),
        (&pair, "authorization", basic(&format!("name:{secret}")), "", true),
        (&pair, "authorization", basic(&format!("eman:{secret}")), "", false),
        (&plain, "x-a", String::new(), &format!("secret={secret}"), false),
        (&azure, "x-a", String::new(), &format!("secret={secret}"), true),
        (&azure, "x-a", String::new(), &format!("secret={secret}x"), false),
        (&azure, "x-a", String::new(), "secret=", false),
    ] {
        let hook = Hook::new(config, PUBLIC_URL).unwrap();
        let mut sent = Sent { body: body.clone(), ..Sent::default() };
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        sent.headers.insert(name.clone(), HeaderValue::from_str(&value).unwrap());
        sent.query = Some(query.to_owned());
        let opened = sent.open(&hook, None, now());
        assert_eq!(opened.is_ok(), passes, "{name}: {value} {query}: {opened:?}");
    }
}

#[test]
fn a_topic_has_to_be_ours_and_its_subscription_is_confirmed_at_amazon_only() {
    let sender = Sender::new(Provider::AmazonSes);
    let (hook, certificate) = (sender.hook(), sender.certificate());
    let open = |envelope: &Value| {
        let sent = Sent { body: envelope.to_string().into_bytes(), ..Sent::default() };
        sent.open(&hook, certificate.as_ref(), now())
    };
    let confirmation = sender.envelope("SubscriptionConfirmation", "You chose …", now());
    let confirmed = "https://sns.eu-west-1.amazonaws.com/?Action=Go".to_owned();
    assert_eq!(open(&confirmation), Ok(Opened::Confirm(confirmed)));
    let gone = sender.envelope("UnsubscribeConfirmation", "You chose …", now());
    assert_eq!(open(&gone), Ok(Opened::Events(Vec::new())));
    let topics_own = sender.envelope("Notification", "Successfully validated SNS topic", now());
    assert_eq!(open(&topics_own), Ok(Opened::Events(Vec::new())));
    for (name, value) in [
        ("TopicArn", "arn:aws:sns:eu-west-1:666666666666:ses-events"),
        ("SubscribeURL", "https://evil.example/"),
        ("SigningCertURL", "https://evil.example/x.pem"),
        ("SigningCertURL", "https://sns.eu-west-1.amazonaws.com/x.pem?a=b"),
        ("SigningCertURL", "https://sns.eu-west-1.amazonaws.com/"),
        ("SignatureVersion", "1"),
        ("SignatureVersion", "3"),
        ("Type", "Other"),
        ("Token", "another"),
        ("Message", ""),
    ] {
        let mut altered = confirmation.clone();
        altered[name] = value.into();
        assert!(refused(&open(&altered)), "{name}: {value}");
    }
    let mut bare = confirmation.clone();
    bare.as_object_mut().unwrap().remove("Signature");
    assert!(refused(&open(&bare)));
    let impostor = Sender::impostor(Provider::AmazonSes);
    assert!(refused(&open(&impostor.envelope("SubscriptionConfirmation", "You chose …", now()))));
    let old = now().minus(DAY * 2);
    assert_eq!(open(&sender.envelope("SubscriptionConfirmation", "m", old)), Err(Refusal::Stale));
    assert!(Certificate::from_pem(b"-----BEGIN CERTIFICATE-----\nAAAA\n").is_none());
}

#[test]
fn a_handshake_is_answered_to_those_who_know_the_secret() {
    let sender = Sender::new(Provider::Azure);
    let event = json!([{
        "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent",
        "data": { "validationCode": "512d38b6", "validationUrl": "https://evil.example/" },
    }]);
    let sent = sender.sign(event.to_string().into_bytes(), now(), PUBLIC_URL);
    let opened = sent.open(&sender.hook(), None, now());
    assert_eq!(opened, Ok(Opened::Handshake("512d38b6".to_owned())));
    let unknown = Sent { query: None, ..sent };
    assert!(refused(&unknown.open(&sender.hook(), None, now())));
}

#[test]
fn what_says_nothing_needs_no_proof_and_does_nothing() {
    for (provider, body) in [
        (Provider::Mandrill, "mandrill_events=%5B%5D"),
        (Provider::Mailersend, r#"{"type":"webhook.test","data":{"type":"hard_bounced"}}"#),
    ] {
        let sent = Sent { body: body.as_bytes().to_vec(), ..Sent::default() };
        let opened = sent.open(&Sender::new(provider).hook(), None, now());
        assert_eq!(opened, Ok(Opened::Events(Vec::new())), "{provider}");
    }
}

#[test]
fn the_address_that_mandrill_signs_is_the_one_it_has() {
    let sender = Sender::new(Provider::Mandrill);
    let sent = sender.sign(payload(Provider::Mandrill, &bounce()), now(), "https://other.example/");
    assert!(refused(&sent.open(&sender.hook(), None, now())));
    let url = Some("https://other.example/hooks/mandrill".parse().unwrap());
    let hook = Hook::new(&config::Webhook { url, ..sender.config() }, PUBLIC_URL).unwrap();
    assert!(sent.open(&hook, None, now()).is_ok());
}

#[test]
fn keys_that_cannot_be_used_are_named() {
    let with = |provider, secrets: &[&str], topic: Option<&str>| {
        let sender = Sender::new(provider);
        let secrets = secrets.iter().map(|text| Secret::Text((*text).to_owned())).collect();
        let topic = topic.map(str::to_owned);
        let config = config::Webhook { secrets, topic, ..sender.config() };
        Hook::new(&config, PUBLIC_URL).map_err(|(key, _)| key)
    };
    let rsa = Sender::new(Provider::Postal).secret;
    for (provider, secret) in [
        (Provider::Mailgun, "short"),
        (Provider::Mailgun, ""),
        (Provider::Resend, "a-secret-without-its-prefix"),
        (Provider::Resend, "whsec_%%%"),
        (Provider::Sendgrid, "no key"),
        (Provider::Sendgrid, rsa.as_str()),
        (Provider::Postal, "no key"),
    ] {
        assert_eq!(with(provider, &[secret], None).unwrap_err(), "secrets", "{provider} {secret}");
    }
    assert_eq!(with(Provider::Mailgun, &[], None).unwrap_err(), "secrets");
    assert_eq!(with(Provider::AmazonSes, &[], None).unwrap_err(), "topic");
    assert_eq!(
        with(Provider::AmazonSes, &["0123456789abcdef"], Some(TOPIC)).unwrap_err(),
        "secrets"
    );
    assert_eq!(with(Provider::Mailgun, &["0123456789abcdef"], Some(TOPIC)).unwrap_err(), "topic");
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{rsa}\n-----END PUBLIC KEY-----\n");
    for written in [rsa.clone(), pem, format!("v=DKIM1; t=s; h=sha256; p={rsa};")] {
        assert!(with(Provider::Postal, &[&written], None).is_ok(), "{written}");
    }
}
