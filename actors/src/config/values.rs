//! Durations and sizes as text.

use std::time::Duration;

use jiff::{SignedDuration, Span};

/// Why a text is no length of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DurationError {
    /// A bare number.
    NoUnit,
    /// Days or longer, whose length depends on the calendar.
    Calendar,
    /// Anything else, negative ones too.
    Other,
}

/// `5s`, `1h30m`, `250ms`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let text = text.trim();
    if text.parse::<f64>().is_ok() {
        return Err(DurationError::NoUnit);
    }
    match text.parse::<SignedDuration>() {
        Ok(duration) => Duration::try_from(duration).map_err(|_| DurationError::Other),
        Err(_) if text.parse::<Span>().is_ok() => Err(DurationError::Calendar),
        Err(_) => Err(DurationError::Other),
    }
}

/// `1048576`, `256MiB`, `500 kB`.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1000,
        "MB" => 1000 * 1000,
        "GB" => 1000 * 1000 * 1000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// A length of time as it is written in a configuration: `5s`, `1h 30m`.
pub(super) fn show(duration: Duration) -> String {
    SignedDuration::try_from(duration)
        .map_or_else(|_| format!("{duration:?}"), |duration| format!("{duration:#}"))
}
