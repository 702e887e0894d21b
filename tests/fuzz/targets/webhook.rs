//! What anybody may post to a webhook: the first octet picks the provider, the rest is the body.
#![no_main]

use std::sync::LazyLock;

use axum::http::HeaderMap;
use postrider::{
    bounce::intake::webhook::{Hook, Opened, Provider, Request, SIZE_MAX, read},
    config::{Secret, Webhook},
    provider::ProviderId,
    timestamp::Timestamp,
};

/// A key on P-256 for the one provider that needs one.
const ECDSA: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEfdkcX25dz0gBSVNx+7ahS7oLWKsOZ1oOR8EbOEeI/wc+dMyuN13QVeBD4akw5u1uh3Ci2pduWkhSE5mlO8auMg==";

static HOOKS: LazyLock<Vec<Hook>> = LazyLock::new(|| {
    let hook = |provider| {
        let by_topic = provider == Provider::AmazonSes;
        let secret = match provider {
            Provider::Sendgrid => ECDSA.to_owned(),
            Provider::Postal => "A".repeat(400),
            Provider::Resend => format!("whsec_{}", "A".repeat(32)),
            _ => "a secret that nobody guesses".to_owned(),
        };
        let config = Webhook {
            name: "fuzz".to_owned(),
            provider,
            secrets: if by_topic { Vec::new() } else { vec![Secret::Text(secret)] },
            header: None,
            topic: by_topic.then(|| "arn:aws:sns:eu-west-1:1:t".to_owned()),
            url: None,
            tolerance: None,
            relay: None,
            rehearsal_origin: None,
        };
        Hook::new(&config, "https://news.example.com/").expect("these settings are right")
    };
    Provider::ALL.map(hook).to_vec()
});

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let [which, body @ ..] = data else { return };
    let hook = &HOOKS[usize::from(*which) % HOOKS.len()];
    let provider = hook.provider;
    for event in read(provider, body).into_iter().flatten() {
        assert!(event.recipient.as_ref().is_none_or(|to| to.contains('@') && to.len() <= 320));
        let texts = [&event.id, &event.message, &event.reply, &event.description];
        assert!(texts.into_iter().flatten().all(|text| text.len() <= 2_048));
        let class = event.classify(ProviderId::OTHER);
        assert!(!event.temporary || !class.is_hard());
        assert!(event.report().recipients.len() <= 1);
        // What is kept says the same when it is read again.
        if event.matters() && event.raw.len() < SIZE_MAX {
            let again = read(provider, &event.raw).expect("what was read can be read");
            assert!(again.iter().any(|one| one.what == event.what && one.id == event.id));
        }
    }
    // Nobody gets in without a secret, and what gets in without one says nothing.
    let headers = HeaderMap::new();
    let text = std::str::from_utf8(body).ok();
    let request = Request { headers: &headers, query: text, body };
    let _ = hook.certificate(&request);
    if hook.admits(&request) {
        let opened = hook.open(&request, None, Timestamp::default());
        assert!(opened.is_err() || opened == Ok(Opened::Events(Vec::new())));
    }
});
