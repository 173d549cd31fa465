//! What a request carries behind its head, and queries that are too long for a URL.

use bytes::Bytes;
use http::HeaderName;

use super::query::{Pair, write_pairs};
use super::template::Scope;
use super::{JsonTemplate, Refusal, Template};
use crate::codes::Code;

/// Largest body of a request in bytes.
pub const REQUEST_BODY_BYTES_MAX: usize = 1024 * 1024;
/// The type of a form.
pub(super) const FORM: &str = "application/x-www-form-urlencoded";

/// What a request carries.
#[derive(Debug, Clone)]
pub enum Body {
    /// `application/json`.
    Json(JsonTemplate),
    /// `application/x-www-form-urlencoded`.
    Form(Vec<Pair>),
    /// Text of any kind.
    Text {
        /// The text; values are put in as they are.
        text: Template,
        /// Its `Content-Type`.
        kind: String,
    },
}

impl Body {
    /// What `Content-Type` says unless `headers` do.
    pub fn kind(&self) -> &str {
        match self {
            Self::Json(_) => "application/json",
            Self::Form(_) => FORM,
            Self::Text { kind, .. } => kind,
        }
    }

    /// Calls `each` with every template in it.
    pub fn templates<'a>(&'a self, each: &mut dyn FnMut(&'a Template)) {
        match self {
            Self::Json(json) => json.templates(each),
            Self::Form(pairs) => pairs.iter().for_each(|pair| pair.value.templates(each)),
            Self::Text { text, .. } => each(text),
        }
    }

    pub(super) fn fill(&self, scope: &dyn Scope) -> Result<Bytes, Refusal> {
        let text = match self {
            Self::Json(json) => json.fill(scope)?.unwrap_or_default().to_string(),
            Self::Form(pairs) => {
                let mut text = String::new();
                write_pairs(&mut text, pairs, scope)?;
                text
            }
            Self::Text { text, .. } => text.render(scope)?,
        };
        bounded(text)
    }
}

/// What happens to a query that makes a URL too long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LongQuery {
    /// A URL of more bytes goes without its query, which is sent as the form of a POST; 256 to 16,384.
    pub over: usize,
    /// The header that says which method is meant; none is sent where the provider wants none.
    pub header: Option<HeaderName>,
}

pub(super) fn bounded(body: String) -> Result<Bytes, Refusal> {
    if body.len() > REQUEST_BODY_BYTES_MAX {
        let reason = format!(
            "the body of the request has {} bytes, at most {REQUEST_BODY_BYTES_MAX} are allowed",
            body.len()
        );
        return Err(Refusal::new(Code::RequestTooLong, reason));
    }
    Ok(body.into())
}
