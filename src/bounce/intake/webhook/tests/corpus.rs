//! Real payloads with the events that they say. They lie beside the project and are no part of it;
//! without them this says so loudly and passes.

use std::{collections::BTreeSet, fmt::Write as _, fs, path::PathBuf};

use serde_json::Value;

use crate::{
    bounce::intake::webhook::{HookEvent, Provider, is_json, read},
    timestamp::Timestamp,
};

fn rows() -> Option<(PathBuf, Vec<Value>)> {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/corpora/bounces");
    let Ok(list) = fs::read_to_string(root.join("webhooks.jsonl")) else {
        eprintln!("SKIPPED: no payloads at ../shared/corpora/bounces/webhooks; nothing was read");
        return None;
    };
    Some((root, list.lines().map(|line| serde_json::from_str(line).unwrap()).collect()))
}

/// What is not as labelled.
fn misses(provider: Provider, label: &Value, event: &HookEvent) -> Vec<String> {
    let mut misses = Vec::new();
    let mut compare = |name: &str, found: Option<String>| {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let wanted = Some(&label[name]).filter(|value| !value.is_null()).map(text);
        if wanted.is_some() && wanted.as_deref().map(str::trim) != found.as_deref().map(str::trim) {
            misses.push(format!("{name}: {found:?} for {wanted:?}"));
        }
    };
    compare("event_type", Some(event.what.as_str().to_owned()));
    compare("mta_response", event.reply.clone());
    compare("description", event.description.clone());
    // Of SendGrid the label has what its sender had put in.
    if provider != Provider::Sendgrid {
        compare("message_id", event.message.clone());
    }
    // That of Resend stands in a field of the request.
    if provider != Provider::Resend {
        compare("event_id", event.id.clone());
    }
    let wanted = label["recipient"].as_str();
    // What is no address is none for us.
    let nonsense = wanted.is_some_and(|wanted| wanted.ends_with("@invalid"));
    if wanted != event.recipient.as_deref() && !nonsense {
        misses.push(format!("recipient {:?} for {wanted:?}", event.recipient));
    }
    // One label takes seconds for milliseconds; others leave fractions out.
    let wanted = label["timestamp"].as_str().filter(|text| !text.starts_with("1970"));
    let wanted: Option<Timestamp> = wanted.map(|text| text.parse().unwrap());
    if let Some(wanted) = wanted {
        let near = event
            .at
            .is_some_and(|at| at.microseconds().abs_diff(wanted.microseconds()) < 1_000_000);
        if !near {
            misses.push(format!("time {:?} for {wanted:?}", event.at));
        }
    }
    misses
}

#[test]
fn real_payloads_are_read_as_labelled() {
    let Some((root, rows)) = rows() else { return };
    let (mut providers, mut log) = (BTreeSet::new(), String::new());
    let (mut json, mut guessed) = (0, 0);
    for row in &rows {
        let file = row["file"].as_str().unwrap();
        let name = row["esp"].as_str().unwrap().replace("forwardemail", "forward-email");
        let provider = Provider::by_name(&name).unwrap();
        providers.insert(provider.as_str());
        let payload = fs::read(root.join(file)).unwrap();
        let events = read(provider, &payload).unwrap_or_else(|refusal| panic!("{file}: {refusal}"));
        if is_json(&payload) {
            json += 1;
            guessed += usize::from(Provider::by_shape(&payload) == Some(provider));
        }
        let labels = row["expected"].as_array().unwrap();
        assert_eq!(events.len(), labels.len(), "{file}");
        for (label, event) in labels.iter().zip(&events) {
            for miss in misses(provider, label, event) {
                writeln!(log, "{file}: {miss}").unwrap();
            }
            // What is kept of a batch says the same as it did there.
            if event.matters() {
                let again = read(provider, &event.raw).unwrap();
                let [again] = &again[..] else { panic!("{file}: {again:?}") };
                assert_eq!(
                    (again.what, &again.recipient),
                    (event.what, &event.recipient),
                    "{file}"
                );
                assert_eq!((&again.id, &again.reply), (&event.id, &event.reply), "{file}");
            }
        }
    }
    assert!(log.is_empty(), "{log}");
    assert_eq!((rows.len(), providers.len()), (79, Provider::ALL.len() - 1));
    // Two have nothing in them but a word that could be anybody's.
    assert_eq!((json, guessed), (71, 69));
}
