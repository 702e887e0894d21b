//! The Message-ID of a copy: a signed name, the same in every attempt, by which the copy is found
//! again in a bounce, a relay's log or a mailbox without looking anything up.

use crate::{
    id::CopyId,
    timestamp::Timestamp,
    token::{DeliveryToken, Keyring, TokenError},
};

/// The Message-ID of `copy`, without angle brackets. `domain` is the newsletter's, so that no name
/// of a host inside is shown.
pub fn message_id(keyring: &Keyring, copy: CopyId, domain: &str) -> String {
    let mut id = DeliveryToken(copy).seal_message_id(keyring);
    id.reserve(1 + domain.len());
    id.push('@');
    id.push_str(domain);
    id
}

/// The copy whose Message-ID this is, with or without angle brackets, in any case.
pub fn copy_of_message_id(
    keyring: &Keyring,
    id: &str,
    now: Timestamp,
) -> Result<CopyId, TokenError> {
    let id = id.trim().trim_start_matches('<');
    let (token, _domain) = id.split_once('@').ok_or(TokenError::Malformed)?;
    DeliveryToken::open_message_id(keyring, token, now).map(|token| token.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{IssueId, SubscriberId};

    #[test]
    fn a_message_id_names_its_copy_and_only_ours_do() {
        let now = Timestamp::now();
        let keyring = Keyring::ephemeral(now);
        let copy = CopyId::Issue { issue: IssueId(437), subscriber: SubscriberId(48_211) };
        let id = message_id(&keyring, copy, "example.com");
        assert_eq!(id, message_id(&keyring, copy, "example.com"));
        assert_eq!(copy_of_message_id(&keyring, &id, now), Ok(copy));
        assert_eq!(copy_of_message_id(&keyring, &format!("<{id}>"), now), Ok(copy));
        assert_eq!(copy_of_message_id(&keyring, &id.to_uppercase(), now), Ok(copy));
        let path = format!("{}@example.com", DeliveryToken(copy).seal(&keyring));
        assert_eq!(copy_of_message_id(&keyring, &path, now), Err(TokenError::Forged));
        assert!(copy_of_message_id(&keyring, "<CAF=x@mail.example>", now).is_err());
    }
}
