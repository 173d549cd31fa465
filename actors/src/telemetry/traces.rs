//! The events and counts of traces.

use metrics::Counter;

use super::metrics::{SPANS_DROPPED, SPANS_SENT};

/// Counts spans that were lost.
pub(crate) fn spans_dropped() -> Counter {
    SPANS_DROPPED.counter(&[])
}

/// The collector has taken so many.
pub(crate) fn spans_sent(count: u64) {
    SPANS_SENT.counter(&[]).increment(count);
}

/// The collector does not take spans: they are dropped.
pub(crate) fn traces_unsent(reason: &str) {
    tracing::warn!(
        target: "tollgate::node",
        event = "traces_unsent",
        reason,
        "traces are lost: their collector does not take them"
    );
}

/// It takes them again.
pub(crate) fn traces_taken() {
    tracing::info!(
        target: "tollgate::node",
        event = "traces_taken",
        "the collector of traces takes them again"
    );
}
