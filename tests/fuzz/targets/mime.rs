//! Whole mails, as they come.
#![no_main]

include!("common.rs");

libfuzzer_sys::fuzz_target!(|data: &[u8]| check(data));
