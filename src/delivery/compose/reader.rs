//! What fills the slots of one reader's copy.

use std::borrow::Cow;

use crate::merge::{Field, Reader};

/// One reader's values.
pub(super) struct ReaderValues<'a> {
    pub(super) address: &'a str,
    pub(super) name: Option<&'a str>,
    pub(super) attributes: Option<serde_json::Map<String, serde_json::Value>>,
    pub(super) unsubscribe_url: String,
    pub(super) unsubscribe_mailto: String,
    pub(super) preferences_url: String,
    pub(super) issue_url: &'a str,
}

impl Reader for ReaderValues<'_> {
    fn value(&self, field: &Field) -> Option<Cow<'_, str>> {
        match field {
            Field::Address => Some(Cow::Borrowed(self.address)),
            Field::Name => self.name.map(Cow::Borrowed),
            Field::UnsubscribeUrl => Some(Cow::Borrowed(&self.unsubscribe_url)),
            Field::UnsubscribeMailto => Some(Cow::Borrowed(&self.unsubscribe_mailto)),
            Field::PreferencesUrl => Some(Cow::Borrowed(&self.preferences_url)),
            Field::IssueUrl => Some(Cow::Borrowed(self.issue_url)),
            Field::Attribute(name) => match self.attributes.as_ref()?.get(name)? {
                serde_json::Value::String(text) => Some(Cow::Borrowed(text)),
                serde_json::Value::Null => None,
                other => Some(Cow::Owned(other.to_string())),
            },
        }
    }
}

/// A reader of a mail that has no slots.
pub(super) struct Nobody;

impl Reader for Nobody {
    fn value(&self, _field: &Field) -> Option<Cow<'_, str>> {
        None
    }
}
