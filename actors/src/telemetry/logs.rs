//! The events of the logs themselves.

use crate::levels::Told;

/// What is logged is another from now on.
pub(crate) fn log_level_changed(told: &Told) {
    tracing::warn!(
        target: "tollgate::log",
        event = "log_level_changed",
        log_level = told.level.as_str(),
        by = told.by.as_str(),
        until = told.until.map(tracing::field::display),
        "what is logged has changed"
    );
}

/// What the configuration says of logs cannot be in force.
pub(crate) fn log_level_refused(reason: &str) {
    tracing::error!(
        target: "tollgate::log",
        event = "log_level_refused",
        reason,
        "what is logged cannot be changed to what the configuration says"
    );
}

/// Lines of one event came faster than they are written.
pub fn lines_left_out(of: &str, log_level: &str, left_out: u64) {
    tracing::warn!(
        target: "tollgate::log",
        event = "lines_left_out",
        of,
        log_level,
        left_out,
        "an event came too often, further lines of it were left out"
    );
}
