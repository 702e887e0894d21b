//! The fields of a feedback report (RFC 5965), and whatever follows them.
#![no_main]

include!("common.rs");

const HEAD: &[u8] = b"From: feedback@isp.example\nContent-Type: multipart/report;\n report-type=feedback-report; boundary=b\n\n--b\nContent-Type: message/feedback-report\n\n";

libfuzzer_sys::fuzz_target!(|data: &[u8]| check(&[HEAD, data].concat()));
