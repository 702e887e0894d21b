//! The replies of mail servers: their codes and words, at any step and from any provider.
#![no_main]

use postrider::{
    bounce::classify::{Evidence, Fault, classify},
    provider::ProviderId,
    smtp::{client::Phase, reply::EnhancedCode},
};

const PHASES: [Option<Phase>; 6] = [
    None,
    Some(Phase::Connect),
    Some(Phase::MailFrom),
    Some(Phase::RcptTo),
    Some(Phase::Data),
    Some(Phase::Dot),
];

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let [step, provider, rest @ ..] = data else { return };
    let text = String::from_utf8_lossy(rest);
    let code = text.get(..3).and_then(|code| code.parse().ok()).filter(|c| (400..600).contains(c));
    let enhanced = text.get(4..).and_then(EnhancedCode::at_start_of);
    let phase = PHASES[usize::from(*step) % PHASES.len()];
    let provider = ProviderId(i64::from(*provider % 16));
    let class = classify(&Evidence { phase, code, enhanced, text: &text, provider });
    assert!(!class.rule.is_empty());
    // The reader had not been named yet.
    if phase.is_some_and(|phase| phase < Phase::RcptTo) {
        assert!(!matches!(class.fault, Fault::Recipient | Fault::Mailbox | Fault::Unknown));
    }
    let policy = enhanced.is_some_and(|code| code.1 == 7) && class.rule != "null-mx-sendmail";
    if policy || code.is_some_and(|code| code < 500) || enhanced.is_some_and(|code| code.0 == 4) {
        assert!(!class.is_hard());
    }
});
