//! What a client shows when it logs in: PLAIN (RFC 4616), LOGIN and XOAUTH2, read from base64.
//! Checking it is the handler's business.

use std::fmt;

use data_encoding::BASE64;

/// A user's name and secret. The secret is left out of debug output.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// `PLAIN`, `LOGIN` or `XOAUTH2`.
    pub mechanism: &'static str,
    /// The user's name.
    pub user: String,
    /// The password, or the bearer token of XOAUTH2.
    pub secret: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("mechanism", &self.mechanism)
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

/// Decodes a response; `=` stands for an empty one (RFC 4954, section 4).
pub(super) fn decode(response: &[u8]) -> Option<String> {
    if response == b"=" {
        return Some(String::new());
    }
    String::from_utf8(BASE64.decode(response).ok()?).ok()
}

/// Reads PLAIN's one response: authorisation identity, user and password, apart by NUL.
pub(super) fn plain(response: &str) -> Option<Credentials> {
    let mut parts = response.split('\0').skip(1);
    let (user, secret) = (parts.next()?.to_owned(), parts.next()?.to_owned());
    (parts.next().is_none() && !user.is_empty()).then_some(Credentials {
        mechanism: "PLAIN",
        user,
        secret,
    })
}

/// Reads XOAUTH2's one response: `user=…`, `auth=Bearer …`, each ended by a control-A.
pub(super) fn xoauth2(response: &str) -> Option<Credentials> {
    let (mut user, mut secret) = (None, None);
    for field in response.split('\u{1}') {
        if let Some(value) = field.strip_prefix("user=") {
            user = Some(value.to_owned());
        } else if let Some(value) = field.strip_prefix("auth=Bearer ") {
            secret = Some(value.to_owned());
        }
    }
    Some(Credentials { mechanism: "XOAUTH2", user: user?, secret: secret? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_read_and_secrets_not_shown() {
        let credentials = plain("\0ada\0s3cret").unwrap();
        assert_eq!((credentials.user.as_str(), credentials.secret.as_str()), ("ada", "s3cret"));
        assert!(!format!("{credentials:?}").contains("s3cret"));
        assert_eq!(plain("ada"), None);
        assert_eq!(plain("\0\0x"), None);
        let credentials = xoauth2("user=ada\u{1}auth=Bearer tok\u{1}\u{1}").unwrap();
        assert_eq!((credentials.user.as_str(), credentials.secret.as_str()), ("ada", "tok"));
        assert_eq!(decode(b"="), Some(String::new()));
        assert_eq!(decode(b"!"), None);
    }
}
