//! The prose of a mail system.
#![no_main]

include!("common.rs");

const HEAD: &[u8] = b"Return-Path: <>\nFrom: MAILER-DAEMON@mx.example.org\nSubject: failure notice\n\n";

libfuzzer_sys::fuzz_target!(|data: &[u8]| check(&[HEAD, data].concat()));
