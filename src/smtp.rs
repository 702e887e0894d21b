//! Mail on the wire: our own SMTP client session, the replies servers give, and TLS towards them.
//!
//! This room speaks the protocol and reports exactly what happened; it decides nothing. Which copy
//! goes out next, whether a refusal is worth another try and how many connections a relay gets is
//! the business of `delivery`.

pub mod client;
pub mod reply;
pub mod tls;
