//! Addresses that name a copy: the return path `b+TOKEN@…` (VERP) and the unsubscribe mailbox
//! `u+TOKEN@…`.
//!
//! Owns how a token stands in an address and how it is found again, also in addresses that a
//! forwarder has rewritten. Whether a token is genuine is the key ring's to say (`token`).

use std::fmt;

/// Octets of the longest address that is searched.
const SEARCHED_OCTETS_MAX: usize = 1024;

/// What mail to one of our token addresses is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenMailbox {
    /// The return path of a copy: bounces and other reports (`Purpose::Bounce`).
    Bounce,
    /// The `mailto:` form of unsubscribing (`Purpose::Unsubscribe`).
    Unsubscribe,
}

impl TokenMailbox {
    /// The letter before the `+`.
    const fn letter(self) -> char {
        match self {
            Self::Bounce => 'b',
            Self::Unsubscribe => 'u',
        }
    }

    /// The mailbox for `token` at `domain`, as it stands in a MAIL FROM or a `mailto:`.
    pub fn address<'a>(self, token: &'a str, domain: &'a str) -> TokenAddress<'a> {
        TokenAddress { mailbox: self, token, domain }
    }

    /// What is before the `+`, read back in any case.
    fn from_letter(letter: u8) -> Option<Self> {
        match letter {
            b'b' | b'B' => Some(Self::Bounce),
            b'u' | b'U' => Some(Self::Unsubscribe),
            _ => None,
        }
    }
}

/// A mailbox with its token, to be displayed.
#[derive(Debug, Clone, Copy)]
pub struct TokenAddress<'a> {
    mailbox: TokenMailbox,
    token: &'a str,
    domain: &'a str,
}

impl TokenAddress<'_> {
    /// The mailbox as text, in one allocation: every copy has two.
    pub fn into_text(self) -> String {
        let letter = match self.mailbox {
            TokenMailbox::Bounce => "b+",
            TokenMailbox::Unsubscribe => "u+",
        };
        [letter, self.token, "@", self.domain].concat()
    }
}

impl fmt::Display for TokenAddress<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}@{}", self.mailbox.letter(), self.token, self.domain)
    }
}

/// Finds the mailbox and token in `recipient`: `b+TOKEN@domain` in any case, with or without angle
/// brackets or quotes, and rewritten as forwarders do (SRS `SRS0=…=b+TOKEN@relay`, `b+TOKEN%d@relay`).
///
/// The domain is not looked at: the token's signature decides.
pub fn find(recipient: &str) -> Option<(TokenMailbox, &str)> {
    let octets = recipient.as_bytes();
    let octets = &octets[..octets.len().min(SEARCHED_OCTETS_MAX)];
    for plus in (1..octets.len()).filter(|&at| octets[at] == b'+') {
        let Some(mailbox) = TokenMailbox::from_letter(octets[plus - 1]) else { continue };
        if plus >= 2 && octets[plus - 2].is_ascii_alphanumeric() {
            continue;
        }
        let start = plus + 1;
        let len = octets[start..].iter().take_while(|&&b| is_base32(b)).count();
        if len >= crate::token::TOKEN_LEN_MIN {
            return Some((mailbox, &recipient[start..start + len]));
        }
    }
    None
}

const fn is_base32(octet: u8) -> bool {
    matches!(octet, b'a'..=b'z' | b'A'..=b'Z' | b'2'..=b'7')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{TokenMailbox::*, *};

    const TOKEN: &str = "aeamk4dfonzxi3dfmnxw24dfoq";

    #[test]
    fn a_token_is_found_however_its_address_arrives() {
        for recipient in [
            Bounce.address(TOKEN, "bounces.example.com").to_string(),
            format!("<b+{TOKEN}@bounces.example.com>"),
            format!("B+{TOKEN}@BOUNCES.EXAMPLE.COM"),
            format!("\"b+{TOKEN}\"@bounces.example.com"),
            format!("Mail Delivery <b+{TOKEN}@bounces.example.com>"),
            format!("SRS0=HHH=TT=bounces.example.com=b+{TOKEN}@forward.example"),
            format!("b+{TOKEN}%bounces.example.com@relay.example"),
            format!("rfc822;b+{TOKEN}@bounces.example.com"),
        ] {
            assert_eq!(find(&recipient), Some((Bounce, TOKEN)), "{recipient}");
        }
        let mailto = Unsubscribe.address(TOKEN, "example.com").to_string();
        assert_eq!(find(&mailto), Some((Unsubscribe, TOKEN)));
    }

    #[test]
    fn other_addresses_hold_no_token() {
        for recipient in [
            "ada@example.com",
            "b+short@example.com",
            "bob+aeamk4dfonzxi3dfmnxw24dfoq@example.com",
            "x+aeamk4dfonzxi3dfmnxw24dfoq@example.com",
            "+aeamk4dfonzxi3dfmnxw24dfoq@example.com",
            "",
        ] {
            assert_eq!(find(recipient), None, "{recipient}");
        }
    }

    proptest! {
        #[test]
        fn no_recipient_makes_it_panic(before in any::<String>(), after in any::<String>()) {
            let _ = find(&before);
            let mixed = format!("{before}<b+{TOKEN}@{after}");
            prop_assert!(before.len() > 900 || find(&mixed).is_some());
        }
    }
}
