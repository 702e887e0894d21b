//! Where returned mail comes in: listeners for the bounce domain (SMTP and LMTP), mailboxes that it
//! is fetched from, and standard input. Everything is handed to [`apply`](super::apply); nothing here looks into a mail further than
//! its first header fields, and nothing here ever mails anyone.

mod allowance;
pub mod mailbox;
pub mod pipe;
pub mod smtp;
#[cfg(test)]
mod tests;
