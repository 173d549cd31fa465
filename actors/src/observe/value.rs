//! Numbers and times as providers write them.

use std::time::{Duration, SystemTime};

use http::HeaderMap;
use http::header::{DATE, RETRY_AFTER};
use jiff::{SignedDuration, Timestamp};

/// How a time is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Seconds from now, with or without a fraction.
    Seconds,
    /// Milliseconds from now.
    Millis,
    /// Minutes from now.
    Minutes,
    /// Seconds since 1970.
    Epoch,
    /// Milliseconds since 1970.
    EpochMillis,
    /// An HTTP date in any of its three forms, or RFC 3339.
    Date,
    /// `30s`, `1h30m`, `PT5M`.
    Duration,
    /// As Retry-After is written: whole seconds, or an HTTP date.
    RetryAfter,
}

/// What a unit is called in a configuration.
pub const UNITS: &[(&str, Unit)] = &[
    ("s", Unit::Seconds),
    ("ms", Unit::Millis),
    ("min", Unit::Minutes),
    ("epoch", Unit::Epoch),
    ("epoch_ms", Unit::EpochMillis),
    ("date", Unit::Date),
    ("duration", Unit::Duration),
    ("retry-after", Unit::RetryAfter),
];

impl Unit {
    /// Whether it is a moment, and so needs a clock to become a wait.
    pub fn is_moment(self) -> bool {
        matches!(self, Self::Epoch | Self::EpochMillis | Self::Date)
    }
}

/// The answer's own time where it says it, so that its clock and this one need not agree; else this one's.
/// RFC 9110 §6.6.1: <https://www.rfc-editor.org/rfc/rfc9110#section-6.6.1>.
pub(super) fn answered_at(headers: &HeaderMap, wall: Timestamp) -> Timestamp {
    let said = headers.get(DATE).and_then(|date| date.to_str().ok());
    let said = said.and_then(|date| httpdate::parse_http_date(date.trim()).ok());
    said.and_then(|date| Timestamp::try_from(date).ok()).unwrap_or(wall)
}

/// The wait that a text means, counted from `now`, the answer's own time. A moment that has passed is no wait;
/// what cannot be read, and what is negative, is nothing.
pub(super) fn wait(text: &str, unit: Unit, now: Timestamp) -> Option<Duration> {
    let text = text.trim();
    match unit {
        Unit::Seconds => seconds(text, 1.0),
        Unit::Millis => seconds(text, 0.001),
        Unit::Minutes => seconds(text, 60.0),
        Unit::Epoch => Some(until(Timestamp::UNIX_EPOCH, seconds(text, 1.0)?, now)),
        Unit::EpochMillis => Some(until(Timestamp::UNIX_EPOCH, seconds(text, 0.001)?, now)),
        Unit::Date => {
            let date = httpdate::parse_http_date(text).ok();
            let at = date.or_else(|| text.parse().ok().map(|at: Timestamp| at.into()))?;
            Some(between(now, at))
        }
        Unit::Duration => {
            let duration: SignedDuration = text.parse().ok()?;
            Duration::try_from(duration).ok()
        }
        Unit::RetryAfter if is_digits(text) => {
            Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)))
        }
        Unit::RetryAfter => Some(between(now, httpdate::parse_http_date(text).ok()?)),
    }
}

fn between(now: Timestamp, at: SystemTime) -> Duration {
    at.duration_since(SystemTime::from(now)).unwrap_or(Duration::ZERO)
}

fn until(from: Timestamp, after: Duration, now: Timestamp) -> Duration {
    // Beyond the calendar it is a mistake in any case, and a cap makes it a wait that is believed.
    let at = SignedDuration::try_from(after).ok().and_then(|after| from.checked_add(after).ok());
    between(now, SystemTime::from(at.unwrap_or(Timestamp::MAX)))
}

/// So many of a unit of that length. Rounded up to whole microseconds: never too early.
fn seconds(text: &str, length: f64) -> Option<Duration> {
    let number = decimal(text)?;
    let micros = (number * length * 1e6).ceil();
    // Beyond what fits it is the most that fits.
    Some(Duration::from_micros(if micros < 1.8e19 { micros as u64 } else { u64::MAX }))
}

/// A number from zero on without an exponent: `7`, `0.5`.
fn decimal(text: &str) -> Option<f64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    if !is_digits(whole) || !is_digits(part) || text.len() > 40 {
        return None;
    }
    text.parse().ok()
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
}

/// A count of calls that are left or allowed: rounded down, and the most that fits if it is more. Below
/// zero, as some write it after overuse, is none.
pub(super) fn count_left(text: &str) -> Option<u32> {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix('-') {
        return decimal(rest).map(|_| 0);
    }
    decimal(text).map(|number| if number < 4e9 { number as u32 } else { u32::MAX })
}

/// A count of calls that were made: rounded up.
pub(super) fn count_used(text: &str) -> Option<u32> {
    decimal(text.trim()).map(|number| if number < 4e9 { number.ceil() as u32 } else { u32::MAX })
}

/// Hundredths, rounded up: `95`, `95.2`, `95%`. Above 100 it stays so.
pub(super) fn percent(text: &str) -> Option<u32> {
    count_used(text.trim().trim_end_matches('%'))
}

/// The wait a provider asked for in Retry-After, counted from the receipt of its answer; nothing if it
/// cannot be read. A date is compared with the answer's own `Date` where there is one, so that the two clocks
/// need not agree. RFC 9110 §10.2.3: <https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3>.
pub fn retry_after(headers: &HeaderMap, wall: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?;
    wait(text, Unit::RetryAfter, answered_at(headers, wall))
}
