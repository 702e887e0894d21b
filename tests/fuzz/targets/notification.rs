//! A notification of Amazon SES, in JSON.
#![no_main]

include!("common.rs");

const HEAD: &[u8] = b"From: no-reply@sns.amazonaws.com\nSubject: AWS Notification Message\n\n";

libfuzzer_sys::fuzz_target!(|data: &[u8]| check(&[HEAD, data].concat()));
