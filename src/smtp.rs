//! Mail on the wire: messages as they follow DATA, their signatures, the addresses that name a copy,
//! and our own SMTP client session, the replies servers give, and TLS towards them.
//!
//! [`server`] takes mail in, for the bounce intake and the built-in mailbox.
//!
//! This room speaks the protocol and reports exactly what happened; it decides nothing. Which copy
//! goes out next, whether a refusal is worth another try and how many connections a relay gets is
//! the business of `delivery`.

pub mod client;
pub mod dkim;
pub mod message;
pub mod reply;
pub mod server;
pub mod tls;
pub mod verp;
