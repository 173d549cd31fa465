//! Events and counts of notices.

use metrics::Counter;
use tollgate_protos::Notice;

use super::metrics::{NOTICES, NOTICES_DROPPED, NOTICES_SENT};

/// Counts notices of a kind.
pub(crate) fn notices_made(kind: &str) -> Counter {
    NOTICES.counter(&[kind])
}

/// Counts notices that were taken at the end of a way.
pub(crate) fn notices_sent(way: &str) -> Counter {
    NOTICES_SENT.counter(&[way])
}

/// Counts notices that were lost on a way.
pub(crate) fn notices_dropped(way: &str) -> Counter {
    NOTICES_DROPPED.counter(&[way])
}

/// A notice was made.
pub(crate) fn noticed(notice: &Notice) {
    tracing::info!(
        target: "tollgate::node",
        event = "noticed",
        notice = notice.id.as_str(),
        kind = notice.kind.as_str(),
        platform = notice.platform.as_deref(),
        account = notice.account.as_deref(),
        api = notice.api.as_deref(),
        code = notice.code.as_deref(),
        reason = notice.what.as_str(),
        "noticed"
    );
}

/// Notices are not taken.
pub(crate) fn notices_untaken(way: &str, reason: &str) {
    tracing::warn!(
        target: "tollgate::node",
        event = "notices_untaken",
        way,
        reason,
        "notices are not taken"
    );
}

/// They are taken again.
pub(crate) fn notices_taken(way: &str) {
    tracing::info!(
        target: "tollgate::node",
        event = "notices_taken",
        way,
        "notices are taken again"
    );
}

/// A notice is lost on one way.
pub(crate) fn notice_dropped(way: &str, notice: &str, reason: &str) {
    tracing::debug!(
        target: "tollgate::node",
        event = "notice_dropped",
        way,
        notice,
        reason,
        "a notice is lost"
    );
}
