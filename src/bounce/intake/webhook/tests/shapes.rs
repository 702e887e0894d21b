//! By what a payload that lies somewhere as a file is known.

use super::*;
use crate::bounce::intake::webhook::is_json;

#[test]
fn each_provider_is_known_by_what_it_posts() {
    let at = Timestamp::default();
    for provider in Provider::ALL {
        let sender = Sender::new(provider);
        for what in ["bounced", "complained", "unsubscribed", "deferred", "delivered"] {
            if !tells(provider, what) {
                continue;
            }
            let said = Said::new(what, "ada@example.net", at).of("1.2@example.com");
            let body = match provider {
                // The form around it is no JSON.
                Provider::Mandrill => payload(provider, &said),
                _ => sender.send(&said, at).body,
            };
            assert!(is_json(&body));
            let text = String::from_utf8_lossy(&body);
            assert_eq!(Provider::by_shape(&body), Some(provider), "{text}");
        }
    }
}

#[test]
fn nothing_else_is_taken_for_a_payload() {
    for mail in ["", "From: a@b.example\n\n{}\n", "[spam] hello\n", "{\n", "\"text\"", "7"] {
        assert!(!is_json(mail.as_bytes()), "{mail}");
        assert_eq!(Provider::by_shape(mail.as_bytes()), None, "{mail}");
    }
    for strange in ["{}", "[]", "[[]]", "[1]", r#"{"event": "bounce"}"#, r#"{"events": []}"#] {
        assert!(is_json(strange.as_bytes()), "{strange}");
        assert_eq!(Provider::by_shape(strange.as_bytes()), None, "{strange}");
    }
}
