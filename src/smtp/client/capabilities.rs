//! What a server offers, as its reply to EHLO says.

use super::endpoint::Mechanism;
use crate::smtp::reply::Reply;

/// The extensions that a session cares about (RFC 5321, section 4.1.1.1).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is one keyword of the EHLO reply")]
pub struct Capabilities {
    /// The name the server gives itself.
    pub server_name: String,
    /// Commands may be sent in groups (RFC 2920).
    pub pipelining: bool,
    /// TLS may be started (RFC 3207).
    pub starttls: bool,
    /// Addresses may be UTF-8 (RFC 6531).
    pub smtputf8: bool,
    /// Bodies may have eight bits (RFC 6152).
    pub eight_bit_mime: bool,
    /// Delivery reports may be asked for (RFC 3461).
    pub dsn: bool,
    /// Replies carry enhanced status codes (RFC 2034).
    pub enhanced_status_codes: bool,
    /// The SIZE parameter is understood (RFC 1870).
    pub size: bool,
    /// The largest message that is taken, in bytes, if the server says.
    pub size_max: Option<u64>,
    /// The mechanisms to log in that we speak, in the server's order.
    pub mechanisms: Vec<Mechanism>,
}

impl Capabilities {
    /// Reads a positive reply to EHLO. Unknown keywords are passed over.
    pub fn read(reply: &Reply) -> Self {
        let mut lines = reply.text.lines();
        let first_word = |line: &str| line.split(' ').next().unwrap_or_default().to_owned();
        let mut found = Self {
            server_name: lines.next().map(first_word).unwrap_or_default(),
            ..Self::default()
        };
        for line in lines {
            found.add(line);
        }
        found
    }

    fn add(&mut self, line: &str) {
        // Some old servers write `AUTH=LOGIN`.
        let mut words = line.split([' ', '\t', '=']).filter(|word| !word.is_empty());
        let keyword = words.next().unwrap_or_default().to_ascii_uppercase();
        match keyword.as_str() {
            "PIPELINING" => self.pipelining = true,
            "STARTTLS" => self.starttls = true,
            "SMTPUTF8" => self.smtputf8 = true,
            "8BITMIME" => self.eight_bit_mime = true,
            "DSN" => self.dsn = true,
            "ENHANCEDSTATUSCODES" => self.enhanced_status_codes = true,
            "SIZE" => {
                self.size = true;
                // Zero means no fixed limit (RFC 1870, section 3).
                self.size_max =
                    words.next().and_then(|size| size.parse().ok()).filter(|&size| size > 0);
            }
            "AUTH" => {
                let known = [Mechanism::Plain, Mechanism::Login, Mechanism::XOAuth2];
                for word in words {
                    let mechanism = known.iter().find(|m| m.as_str().eq_ignore_ascii_case(word));
                    if let Some(&mechanism) = mechanism.filter(|m| !self.mechanisms.contains(m)) {
                        self.mechanisms.push(mechanism);
                    }
                }
            }
            _ => {}
        }
    }
}
