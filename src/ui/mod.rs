//! What people see: data on standard output, all else on standard error.

mod progress;
pub(crate) mod summary;

pub(crate) use progress::Progress;

use std::io::Write;
use std::sync::{Mutex, PoisonError};

use tracing_appender::non_blocking::NonBlocking;

/// What lines go through while a node works; nothing: straight to standard error.
static LINES: Mutex<Option<NonBlocking>> = Mutex::new(None);

/// Lines go through this from now on, so that a reader that does not read never stops a node.
pub(crate) fn say_through(lines: Option<NonBlocking>) {
    *LINES.lock().unwrap_or_else(PoisonError::into_inner) = lines;
}

/// Writes a line to standard error. A reader that is gone is no failure.
pub(crate) fn say(line: std::fmt::Arguments<'_>) {
    let text = format!("{line}\n");
    let lines = LINES.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let _gone = match lines {
        Some(mut lines) => lines.write_all(text.as_bytes()),
        None => std::io::stderr().lock().write_all(text.as_bytes()),
    };
}

/// Writes a line of data to standard output.
///
/// # Errors
/// Nobody reads it, or the disk is full.
pub(crate) fn print(line: std::fmt::Arguments<'_>) -> std::io::Result<()> {
    writeln!(std::io::stdout().lock(), "{line}")
}

/// A number with commas: `1,234,567`.
pub(crate) fn number(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A size in bytes for people: `1.5 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_a_comma_before_every_three_digits() {
        let texts: Vec<String> = [0, 12, 999, 1000, 123_456, 1_234_567].map(number).into();
        assert_eq!(texts, ["0", "12", "999", "1,000", "123,456", "1,234,567"]);
    }
}
