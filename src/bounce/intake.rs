//! Where returned mail comes in: an SMTP listener for the bounce domain, and standard input.
//! Everything is handed to [`apply`](super::apply); nothing here looks into a mail further than
//! its first header fields, and nothing here ever mails anyone.

pub mod pipe;
pub mod smtp;
#[cfg(test)]
mod tests;
