//! The fields of a delivery status notification (RFC 3464), and whatever follows them.
#![no_main]

include!("common.rs");

const HEAD: &[u8] = b"From: MAILER-DAEMON@mx.example.org\nSubject: Undelivered mail\nContent-Type: multipart/report;\n report-type=delivery-status; boundary=b\n\n--b\nContent-Type: message/delivery-status\n\n";

libfuzzer_sys::fuzz_target!(|data: &[u8]| check(&[HEAD, data].concat()));
