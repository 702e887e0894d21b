//! Where returned mail comes in: listeners for the bounce domain (SMTP and LMTP), mailboxes that it
//! is fetched from, and standard input; and what providers post instead of mail, which `web::hooks`
//! takes from the socket. Everything is handed to [`apply`](super::apply); of a mail nothing here
//! looks further than into its first header fields, and nothing here ever mails anyone.

mod allowance;
pub mod mailbox;
pub mod pipe;
pub mod smtp;
#[cfg(test)]
mod tests;
pub mod webhook;
mod writer;
