//! Any bytes, in bounded time, with bounded memory, without a panic.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::bounce::intake::webhook::{EVENTS_MAX, SIZE_MAX, read};

/// Milliseconds of work for one payload; without optimisation all of it takes some ten times as long.
const WITHIN_MS: u64 = if cfg!(debug_assertions) { 15_000 } else { 1_000 };

/// Milliseconds that this thread has worked: the machines that run tests do much else meanwhile.
fn worked_ms() -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds: u64 = text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    nanoseconds / 1_000_000
}

fn in_time(what: &str, provider: Provider, payload: &[u8]) {
    let sender = Sender::new(provider);
    let (hook, certificate) = (sender.hook(), sender.certificate());
    let begun = worked_ms();
    let _ = read(provider, payload);
    let sent = Sent { body: payload.to_vec(), ..Sent::default() };
    let _ = sent.open(&hook, certificate.as_ref(), Timestamp::now());
    let took = worked_ms() - begun;
    println!("{provider}, {what}: {took} ms");
    assert!(took < WITHIN_MS, "{provider}, {what}: {took} ms");
}

#[test]
fn five_megabytes_take_no_longer_than_a_second() {
    let fill = |unit: &str| unit.repeat(SIZE_MAX / unit.len());
    let list = |unit: &str| {
        let mut text = format!("[{unit}");
        while text.len() + unit.len() + 2 < SIZE_MAX && text.len() < SIZE_MAX - 10 {
            text.push(',');
            text.push_str(unit);
        }
        text + "]"
    };
    let event = |provider| {
        let mut said = Said::new("bounced", "ada@example.net", Timestamp::now());
        said.reply = format!("550 5.1.1 {}", "no such user, ".repeat(150));
        String::from_utf8(payload(provider, &said)).unwrap()
    };
    let quoted =
        |text: String| format!("{{\"Type\":\"Notification\",\"Message\":{}}}", Value::from(text));
    let hostile = [
        fill("["),
        fill("{\"a\":"),
        list("{}"),
        list("1"),
        list("\"\""),
        fill("\\"),
        format!("\"{}", fill("\\u0000")),
        fill("--b\n"),
        fill("--b\nContent-Disposition: form-data; name=\"a\"\n\nx\n"),
        fill("a=b&"),
        fill("%"),
        fill("-"),
        quoted(fill("[").chars().take(1_000_000).collect()),
        fill("\n"),
        fill("{}\n"),
        fill("\u{fffd}"),
    ];
    for provider in Provider::ALL {
        // Reading is shared by most; each in turn gets some of them, and all get their own events.
        for (at, text) in hostile.iter().enumerate() {
            if at % 4 == provider as usize % 4 {
                let cut = text.floor_char_boundary(SIZE_MAX);
                let name: String = text.chars().take(20).collect();
                in_time(&name, provider, &text.as_bytes()[..cut]);
            }
        }
        let one = event(provider);
        let one = one.trim_start_matches('[').trim_end_matches(']');
        in_time("events", provider, list(one).as_bytes());
    }
}

#[test]
fn there_is_a_most_of_everything() {
    let one = r#"{"event":"bounce"}"#;
    let many = |count: usize| format!("[{}]", vec![one; count].join(","));
    assert_eq!(read(Provider::Sendgrid, many(EVENTS_MAX).as_bytes()).unwrap().len(), EVENTS_MAX);
    let more = many(EVENTS_MAX + 1);
    assert_eq!(read(Provider::Sendgrid, more.as_bytes()), Err(Refusal::TooMuch));
    assert_eq!(read(Provider::Sendgrid, &vec![b' '; SIZE_MAX + 1]), Err(Refusal::TooMuch));
    let long = json!([{ "event": "bounce", "email": format!("a@{}", "b".repeat(400)),
        "reason": "é".repeat(5_000), "sg_event_id": "" }]);
    let [event] = &read(Provider::Sendgrid, long.to_string().as_bytes()).unwrap()[..] else {
        panic!()
    };
    assert_eq!((event.recipient.as_ref(), event.id.as_ref()), (None, None));
    assert!(event.reply.as_ref().unwrap().len() <= 2_048);
}

fn seeds() -> Vec<(Provider, Vec<u8>)> {
    let mut seeds = Vec::new();
    for provider in Provider::ALL {
        for what in ["bounced", "complained", "deferred", "delivered"] {
            if tells(provider, what) {
                let said = Said::new(what, "ada@example.net", Timestamp::now()).of("a@b.example");
                seeds.push((provider, payload(provider, &said)));
            }
        }
    }
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/corpora/bounces/webhooks");
    for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().replace("forwardemail", "forward-email");
        let provider = Provider::ALL.into_iter().find(|one| name.starts_with(one.as_str()));
        seeds.extend(provider.map(|one| (one, std::fs::read(entry.path()).unwrap())));
    }
    seeds
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn mutated_payloads_never_panic_nor_say_too_much(
        pick in any::<prop::sample::Index>(),
        other in any::<prop::sample::Index>(),
        edits in prop::collection::vec(
            (any::<prop::sample::Index>(), any::<u8>(), 0usize..20), 0..12),
    ) {
        let seeds = seeds();
        let (_, payload) = pick.get(&seeds);
        // Also what another provider sends.
        let (provider, _) = other.get(&seeds);
        for provider in [pick.get(&seeds).0, *provider] {
            let mut raw = payload.clone();
            for (at, octet, drop) in &edits {
                if raw.is_empty() { break }
                let at = at.index(raw.len());
                raw[at] = *octet;
                raw.drain(at..(at + drop).min(raw.len()));
            }
            for event in read(provider, &raw).into_iter().flatten() {
                prop_assert!(event.recipient.as_ref().is_none_or(|to| to.contains('@')));
                event.classify(crate::provider::ProviderId::OTHER);
                event.report();
            }
        }
    }
}
