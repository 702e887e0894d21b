//! One line of the log for programs: the same on the command line and in webhooks.

use crate::{
    event::Line,
    provider::{ProviderId, Providers},
};

/// The line with the provider's name in the place of its number.
pub fn line_in_json(line: &Line, providers: &Providers) -> serde_json::Result<serde_json::Value> {
    let mut value = serde_json::to_value(line)?;
    if let (Some(fields), Some(provider)) = (value.as_object_mut(), line.provider) {
        fields.insert("provider".to_owned(), providers.name(ProviderId(provider)).into());
    }
    Ok(value)
}
