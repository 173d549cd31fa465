//! The events of a cluster: who owns which partitions.

use std::time::Duration;

use super::{Code, metrics, ms};
use crate::cluster::Parts;
use crate::collector::Item;

/// Claimed: this node works in them from now on.
pub(crate) fn partitions_gained(gained: Parts, held: Parts) {
    tracing::info!(
        target: "tollgate::cluster",
        event = "partitions_gained",
        partitions = %gained,
        held = held.len(),
        "partitions gained"
    );
}

/// Given out of hand: nothing of this node is in flight in them, and the next owner has been told.
pub(crate) fn partitions_given_up(given: Parts, held: Parts) {
    tracing::info!(
        target: "tollgate::cluster",
        event = "partitions_given_up",
        partitions = %given,
        held = held.len(),
        "partitions given up"
    );
}

/// Others have claimed them.
pub(crate) fn partitions_lost(lost: Parts) {
    tracing::warn!(
        target: "tollgate::cluster",
        event = "partitions_lost",
        partitions = %lost,
        "partitions are another node's by now, no permits in them"
    );
}

/// Wanted elsewhere, but calls in flight did not end in time.
pub(crate) fn partitions_kept(kept: Parts) {
    tracing::info!(
        target: "tollgate::cluster",
        event = "partitions_kept",
        partitions = %kept,
        "calls in flight take longer than a hand-over may, the partitions stay for now"
    );
}

/// A session has ended without that it was seen: the watch is late, or lives on a replica that still shows it.
pub(crate) fn session_over(session: &str) {
    tracing::debug!(target: "tollgate::nats", event = "session_over", session, "a session that was still shown has ended");
}

/// What others own cannot be followed. `missing`: the bucket is not there.
pub(crate) fn claims_unseen(reason: &str, missing: bool) {
    let code = if missing { Code::StreamMissing } else { Code::NatsUnreachable };
    tracing::warn!(target: "tollgate::cluster", event = "claims_unseen", code = %code, reason, "the claims cannot be followed");
}

/// This session's key had ended though it was renewed: those of others may have ended with it.
pub(crate) fn session_anew(session: &str) {
    tracing::warn!(
        target: "tollgate::nats",
        event = "session_anew",
        session,
        "this session's key had ended, nothing is taken over until others had time to show themselves"
    );
}

/// An entry of the bucket of sessions and claims is of another version.
pub(crate) fn claim_unreadable(key: &str) {
    tracing::warn!(
        target: "tollgate::cluster",
        event = "claim_unreadable",
        key,
        "a session or claim is written as this version does not know: it counts as that of a node that lives"
    );
}

/// Whoever keeps what this node owns has ended.
pub(crate) fn keeper_died() {
    tracing::error!(target: "tollgate::cluster", event = "keeper_died", "what this node owns is kept by nobody, the node ends");
}

/// Whoever renews this node's session has ended.
pub(crate) fn session_died(session: &str) {
    tracing::error!(
        target: "tollgate::nats",
        event = "session_died",
        session,
        "this node's session is renewed no more, the node ends"
    );
}

/// Whoever carries attempts to other nodes and theirs to this one has ended.
pub(crate) fn carrier_died() {
    tracing::error!(
        target: "tollgate::cluster",
        event = "carrier_died",
        "what carries calls to other nodes and theirs here has ended, the node ends"
    );
}

/// A call in flight was broken off: others may give its places to theirs soon.
pub(crate) fn call_cut_off(item: &Item, unconfirmed: Duration) {
    tracing::warn!(
        target: "tollgate::fetch",
        event = "call_cut_off",
        platform = item.lane.account.platform.as_str(),
        account = item.lane.account.account.as_str(),
        api = item.lane.api.as_str(),
        fetch_id = item.id.as_str(),
        seq = item.origin.0,
        unconfirmed_ms = ms(unconfirmed),
        "a call was broken off, its account may be another node's and its places free there soon"
    );
}

/// A node that made an attempt for this one is not heard of any more.
pub(crate) fn guest_lost(item: &Item) {
    metrics::GUESTS_LOST.counter(&[]).increment(1);
    tracing::warn!(
        target: "tollgate::fetch",
        event = "guest_lost",
        platform = item.lane.account.platform.as_str(),
        account = item.lane.account.account.as_str(),
        api = item.lane.api.as_str(),
        fetch_id = item.id.as_str(),
        seq = item.origin.0,
        "the node that made this attempt for this one is not heard of, it is looked up and made again"
    );
}

/// What is made for another node is of no use any more: that has ended, cannot be heard, or does not wait for it.
pub(crate) fn visit_ended(home: &str) {
    tracing::warn!(
        target: "tollgate::fetch",
        event = "visit_ended",
        home,
        "an attempt for another node was broken off, it does not wait for it any more"
    );
}
