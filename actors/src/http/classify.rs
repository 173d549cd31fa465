//! What an answer, or the lack of one, means for the fetch: the one place that tells transient from
//! permanent.

use std::time::Duration;

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use jiff::Timestamp;

use crate::codes::Code;
use crate::observe;
use crate::plan::Format;

/// Longest Retry-After that is believed; beyond it a provider's number is a mistake or a ban, and the
/// fetch is tried again after this time.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// What the head of an answer means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// Its body is what was asked for.
    Good,
    /// Worth another attempt, not before `after` if the provider said so.
    Transient {
        /// What the provider asked for.
        after: Option<Duration>,
    },
    /// The provider refuses for being called too much: the account is held.
    Throttled {
        /// What the provider asked for.
        after: Option<Duration>,
    },
    /// Another attempt would bring the same.
    Permanent(Code),
}

/// Judges status and headers.
///
/// 2xx is good, but for HTML where data is expected: gateways and log-in pages answer so, and storing
/// them as data would be a hole that looks like an answer. 429, and 403 or 503 with Retry-After, are
/// throttling (GitHub's secondary limits come as 403, RFC 9110 §15.6.4 gives 503 its Retry-After). 408, 425
/// and other 5xx are transient; redirects and the rest of 4xx are permanent.
pub fn head(status: u16, headers: &HeaderMap, format: Format, wall: Timestamp) -> Head {
    let after = retry_after(headers, wall);
    match status {
        200..=299 if is_html(headers) && !matches!(format, Format::Html | Format::Binary) => {
            Head::Transient { after }
        }
        200..=299 => Head::Good,
        429 => Head::Throttled { after },
        403 | 503 if after.is_some() => Head::Throttled { after },
        501 | 505 => Head::Permanent(Code::PermanentStatus),
        408 | 425 | 500..=599 => Head::Transient { after },
        300..=399 => Head::Permanent(Code::RedirectRefused),
        _ => Head::Permanent(Code::PermanentStatus),
    }
}

/// What Retry-After asks for, up to [`RETRY_AFTER_MAX`].
pub fn retry_after(headers: &HeaderMap, wall: Timestamp) -> Option<Duration> {
    observe::retry_after(headers, wall).map(|after| after.min(RETRY_AFTER_MAX))
}

/// Whether an answer says that it is a page for people.
pub fn is_html(headers: &HeaderMap) -> bool {
    content_type(headers).is_some_and(|kind| kind == "text/html" || kind == "application/xhtml+xml")
}

/// The content type without its parameters, lower case.
pub fn content_type(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}
