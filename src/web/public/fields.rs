//! The fields of a form, as browsers and programs send them.

use axum::{
    body::{Body, to_bytes},
    extract::Request,
    http::{HeaderMap, header, request::Parts},
};

use super::Answer;
use crate::web::{
    client,
    error::{Code, Problem},
    guard::BODY_OCTETS_MAX,
};

/// Fields by name; the first of a name counts.
#[derive(Debug, Default)]
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    /// Reads a request's body, which is a form or a flat JSON object of texts.
    pub(super) async fn of(request: Request) -> Answer<(Parts, Self)> {
        let (parts, body) = request.into_parts();
        let octets = read(body).await?;
        let fields = if client::is_json(&parts.headers) {
            Self::of_json(&octets)?
        } else if octets.is_empty() || is_form(&parts.headers) {
            Self::of_form(&octets)
        } else {
            let wanted = "Send a form (application/x-www-form-urlencoded) or JSON.";
            return Err(Problem::new(Code::BadRequest).saying(wanted));
        };
        Ok((parts, fields))
    }

    /// Reads whatever can be read of a body: for requests that must work whatever they carry.
    pub(super) async fn if_any(request: Request) -> (Parts, Self) {
        let (parts, body) = request.into_parts();
        let octets = read(body).await.unwrap_or_default();
        let fields = if is_form(&parts.headers) { Self::of_form(&octets) } else { Self::default() };
        (parts, fields)
    }

    fn of_form(octets: &[u8]) -> Self {
        Self(url::form_urlencoded::parse(octets).into_owned().collect())
    }

    fn of_json(octets: &[u8]) -> Answer<Self> {
        let bad = |what: String| Problem::new(Code::BadRequest).saying(what);
        let object: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(octets)
            .map_err(|error| bad(format!("The body is not a JSON object: {error}.")))?;
        let mut fields = Vec::with_capacity(object.len());
        for (name, value) in object {
            let serde_json::Value::String(value) = value else {
                return Err(bad(format!("The member {name:?} is not a text.")));
            };
            fields.push((name, value));
        }
        Ok(Self(fields))
    }

    /// The field `name`, or the empty text.
    pub(super) fn get(&self, name: &str) -> &str {
        self.0.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value)
    }
}

async fn read(body: Body) -> Answer<axum::body::Bytes> {
    to_bytes(body, BODY_OCTETS_MAX).await.map_err(|_| Code::TooLarge.into())
}

fn is_form(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    content_type.is_some_and(|text| {
        let essence = text.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case("application/x-www-form-urlencoded")
    })
}
