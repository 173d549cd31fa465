//! What is told of fetches and of the calls for them.

use std::time::Duration;

use tollgate_gate::At;

use super::{PlatformMeters, metrics, ms};
use crate::clock::Clock;
use crate::codes::Code;
use crate::collector::{Again, Item, LastAnswer};
use crate::ids::{AccountKey, LaneKey};
use crate::ledger::record::Tries;
use crate::observe::{DriftKind, Scope};
use crate::throttle::Next;

pub(crate) fn permit(
    meters: &PlatformMeters,
    api: u16,
    account: &AccountKey,
    item: &Item,
    call: u32,
) {
    meters.permit(api);
    tracing::debug!(
        target: "tollgate::fetch",
        event = "permit",
        platform = %account.platform,
        account = account.account.as_str(),
        api = %item.lane.api,
        fetch_id = item.id.as_str(),
        seq = item.seq.0,
        call,
        "permit"
    );
}

pub(crate) fn waiting(
    account: &AccountKey,
    because: Option<&str>,
    until: Option<At>,
    clock: &Clock,
) {
    let Some(because) = because else { return };
    tracing::debug!(
        target: "tollgate::account",
        event = "waiting",
        platform = %account.platform,
        account = account.account.as_str(),
        because,
        until = until.map(|at| tracing::field::display(clock.wall_at(at))),
        "waiting"
    );
}

pub(crate) fn hold(
    meters: &PlatformMeters,
    account: &AccountKey,
    because: &'static str,
    scope: Scope,
    wait: Duration,
) {
    meters.held(because);
    tracing::warn!(
        target: "tollgate::account",
        event = "hold",
        platform = %account.platform,
        account = account.account.as_str(),
        because,
        scope = scope.as_str(),
        wait_ms = ms(wait),
        "account held"
    );
}

/// A provider's answers contradict a declared limit, again and again.
pub(crate) fn limit_drift(account: &AccountKey, limit: &str, kind: DriftKind) {
    metrics::LIMIT_DRIFT.counter(&[account.platform.as_str(), kind.as_str()]).increment(1);
    tracing::warn!(
        target: "tollgate::account",
        event = "limit_drift",
        platform = %account.platform,
        account = account.account.as_str(),
        limit,
        kind = kind.as_str(),
        "the provider contradicts a declared limit"
    );
}

pub(crate) fn attempt_failed(
    item: &Item,
    kind: Again,
    reason: &str,
    last: &LastAnswer,
    tries: Tries,
    next: &Next,
) {
    let retry_in_ms = match next {
        Next::Retry(wait) | Next::HoldAndRetry(wait) => Some(ms(*wait)),
        Next::GiveUp(_) => None,
    };
    tracing::warn!(
        target: "tollgate::fetch",
        event = "attempt_failed",
        platform = %item.lane.account.platform,
        account = item.lane.account.account.as_str(),
        api = %item.lane.api,
        fetch_id = item.id.as_str(),
        seq = item.seq.0,
        outcome = kind.as_str(),
        http_status = last.status,
        calls = tries.calls(),
        retry_in_ms,
        request_id = last.request_id.as_deref(),
        reason,
        "attempt failed"
    );
}

/// A page of a read is stored; the last one too.
pub(crate) fn page_stored(item: &Item, page: u32, bytes: u64) {
    tracing::debug!(
        target: "tollgate::fetch",
        event = "page_stored",
        platform = %item.lane.account.platform,
        account = item.lane.account.account.as_str(),
        api = %item.lane.api,
        fetch_id = item.id.as_str(),
        seq = item.seq.0,
        page,
        bytes,
        "page stored"
    );
}

pub(crate) fn read_resumed(item: &Item, page: u32) {
    tracing::info!(
        target: "tollgate::fetch",
        event = "read_resumed",
        platform = %item.lane.account.platform,
        account = item.lane.account.account.as_str(),
        api = %item.lane.api,
        fetch_id = item.id.as_str(),
        seq = item.seq.0,
        page,
        "read goes on"
    );
}

pub(crate) fn read_restarted(item: &Item, page: u32, restarts: u32, reason: &str) {
    tracing::warn!(
        target: "tollgate::fetch",
        event = "read_restarted",
        platform = %item.lane.account.platform,
        account = item.lane.account.account.as_str(),
        api = %item.lane.api,
        fetch_id = item.id.as_str(),
        seq = item.seq.0,
        page,
        restarts,
        reason,
        "read begins anew"
    );
}

/// A read whose store does not do what is needed: its fetch is looked at again later.
pub(crate) fn read_put_aside(item: &Item, wait: Duration, reason: &str) {
    tracing::warn!(
        target: "tollgate::fetch",
        event = "read_put_aside",
        platform = %item.lane.account.platform,
        account = item.lane.account.account.as_str(),
        api = %item.lane.api,
        fetch_id = item.id.as_str(),
        seq = item.seq.0,
        wait_ms = ms(wait),
        reason,
        "read put aside"
    );
}

/// A file of an archive is stored, of which several are.
pub(crate) fn member_stored(item: &Item, member: &str, bytes: u64) {
    tracing::debug!(
        target: "tollgate::fetch",
        event = "member_stored",
        platform = %item.lane.account.platform,
        account = item.lane.account.account.as_str(),
        api = %item.lane.api,
        fetch_id = item.id.as_str(),
        seq = item.seq.0,
        member,
        bytes,
        "file of an archive stored"
    );
}

/// Objects of an earlier read that could not be removed, and why the first of them could not.
pub(crate) fn pages_left(item: &Item, count: u32, reason: &str) {
    tracing::warn!(
        target: "tollgate::fetch",
        event = "pages_left",
        platform = %item.lane.account.platform,
        account = item.lane.account.account.as_str(),
        api = %item.lane.api,
        fetch_id = item.id.as_str(),
        seq = item.seq.0,
        count,
        reason,
        "objects of an earlier read stay"
    );
}

pub(crate) fn note_unreadable(item: &Item, reason: &str) {
    tracing::warn!(
        target: "tollgate::fetch",
        event = "note_unreadable",
        platform = %item.lane.account.platform,
        account = item.lane.account.account.as_str(),
        api = %item.lane.api,
        fetch_id = item.id.as_str(),
        seq = item.seq.0,
        reason,
        "note unreadable"
    );
}

pub(crate) fn fetch_done(
    meters: &PlatformMeters,
    api: u16,
    item: &Item,
    bytes: u64,
    objects: u32,
    calls: u32,
) {
    meters.done(api, bytes, objects);
    tracing::info!(
        target: "tollgate::fetch",
        event = "fetch_done",
        platform = %item.lane.account.platform,
        account = item.lane.account.account.as_str(),
        api = %item.lane.api,
        fetch_id = item.id.as_str(),
        seq = item.seq.0,
        bytes,
        calls,
        "fetch done"
    );
}

/// Others took its place, each with a part of what it asked for.
pub(crate) fn fetch_split(item: &Item, parts: &[String], reason: &str) {
    tracing::info!(
        target: "tollgate::fetch",
        event = "fetch_split",
        platform = %item.lane.account.platform,
        account = item.lane.account.account.as_str(),
        api = %item.lane.api,
        fetch_id = item.id.as_str(),
        seq = item.seq.0,
        parts = parts.join(" "),
        reason,
        "fetch split"
    );
}

/// An account whose access was refused has it again.
pub(crate) fn breaker_closed(account: &AccountKey) {
    tracing::info!(
        target: "tollgate::account",
        event = "breaker_closed",
        platform = %account.platform,
        account = account.account.as_str(),
        "access given again"
    );
}

pub(crate) fn fetch_dead(meters: &PlatformMeters, api: u16, item: &Item, code: Code, reason: &str) {
    meters.dead(api, code);
    tracing::warn!(
        target: "tollgate::fetch",
        event = "fetch_dead",
        platform = %item.lane.account.platform,
        account = item.lane.account.account.as_str(),
        api = %item.lane.api,
        fetch_id = item.id.as_str(),
        seq = item.seq.0,
        code = %code,
        reason,
        "fetch dead"
    );
}

/// A line that never became a fetch.
pub fn fetch_refused(source: &str, code: Code, reason: &str) {
    metrics::REFUSED.counter(&[code.id()]).increment(1);
    tracing::warn!(target: "tollgate::fetch", event = "fetch_dead", source, code = %code, reason, "fetch refused");
}

/// Fetches of an api or platform that the configuration no longer has: they wait.
pub fn lane_unknown(lane: &LaneKey, waiting: u64) {
    tracing::warn!(
        target: "tollgate::account",
        event = "lane_unknown",
        platform = %lane.account.platform,
        account = lane.account.account.as_str(),
        api = %lane.api,
        waiting,
        "fetches wait for an api that this configuration does not have"
    );
}
