//! Every event of the logs, defined once, with the count that goes with it.
//!
//! One function per event: it writes the log line and nothing else does, so names and fields cannot
//! drift. The table of them is in `docs/events.md`; a test compares the two. Levels: INFO for what starts,
//! stops and is done; WARN for what was recovered from; ERROR for what somebody has to look at; DEBUG for
//! each permit and each wait.
//!
//! Names that come from outside are recorded as text and never by `Display`: the form for people quotes text,
//! so that a line break or an escape sequence in an account acts on no terminal.

mod budgets;
mod cluster;
mod config;
mod fetches;
mod limits;
mod logs;
mod loops;
mod metrics;
mod notify;
mod seams;
mod stage;
#[cfg(test)]
mod tests;
mod totals;
mod traces;

pub(crate) use budgets::{
    ExchangeMeters, budget_holder_gone, budget_letter_unreadable, budget_node_away,
    budget_node_back, budget_unknown,
};
pub(crate) use cluster::{
    call_cut_off, carrier_died, claim_unreadable, claims_unseen, guest_lost, keeper_died,
    partitions_gained, partitions_given_up, partitions_kept, partitions_lost, session_anew,
    session_died, session_over, visit_ended,
};
pub(crate) use config::{
    config_agreed, config_in_force, config_mistake, config_mixed, config_needs_restart,
    config_not_heeded, config_refused, config_reloaded, config_unchanged, config_unknown,
    config_untold, config_warning, configs_seen, limit_changed, limit_unheeded,
};
pub(crate) use fetches::{
    attempt_failed, breaker_closed, fetch_dead, fetch_done, fetch_split, hold, limit_drift,
    member_stored, note_unreadable, page_stored, pages_left, permit, read_put_aside,
    read_restarted, read_resumed, waiting,
};
pub use fetches::{fetch_refused, lane_unknown};
pub(crate) use limits::LimitGauges;
pub use logs::lines_left_out;
pub(crate) use logs::{log_level_changed, log_level_refused};
pub(crate) use loops::{LoopMeters, Waiting, shard_blocked, shard_blocked_long, shard_freed};
pub(crate) use metrics::{
    ACCOUNTS_WAITING, BUFFER_MAX, BUFFERED, GUESTS, KNOWN, LIVE, Meters, PARTITIONS_HELD,
    PlatformMeters, RESTING, SLOTS, SLOTS_OPEN, SPILLED, SPOOLED, UNKNOWN, WAITING, WAKE_LAG,
    WAKES,
};
pub use metrics::{Kind, METRICS, Metric, describe_metrics};
pub(crate) use notify::{
    notice_dropped, noticed, notices_dropped, notices_made, notices_sent, notices_taken,
    notices_untaken,
};
pub use seams::start_waits;
pub(crate) use seams::{
    fresh_unswept, hold_unreadable, holds_changed, ledger_away, ledger_conflict, ledger_note,
    ledger_unreadable, leftovers_removed, leftovers_unseen, lines_unsent, misfits_wait, nats_away,
    nats_connected, nats_refused, nats_slow, notes_swept, notes_unswept, permits_lapsed,
    postponed_unreadable, queue_away, secret_read, secret_unreadable, session_back, session_lost,
    session_started, spool_refused, state_failed, store_away, store_back, store_well, token_had,
    token_not_kept, token_unavailable,
};
pub use stage::{
    Staged, stage_deaf, stage_died, stage_done, stage_failed, stage_follows, stage_lags,
    stage_left, stage_quarantined, stage_torn, stage_waits,
};
pub use totals::{Count, LimitUse, Summary, Totals};
pub(crate) use traces::{spans_dropped, spans_sent, traces_taken, traces_unsent};

use std::time::Duration;

use crate::codes::Code;
use crate::ids::AccountKey;
use crate::recipe::BudgetKey;
use crate::supervise::Restart;

/// Whether all shards turn, as metrics tell it.
pub fn alive(is_alive: bool) {
    metrics::ALIVE.gauge(&[]).set(f64::from(u8::from(is_alive)));
}

/// A node begins.
pub fn node_started(name: &str, shards: usize, platforms: usize, accounts_limits: &str) {
    tracing::info!(
        target: "tollgate::node",
        event = "node_started",
        node = name,
        shards,
        platforms,
        config = accounts_limits,
        version = env!("CARGO_PKG_VERSION"),
        "node started"
    );
}

/// A node stops taking and lets calls in flight end.
pub fn drain_started(within: Duration) {
    tracing::info!(target: "tollgate::node", event = "drain_started", within_ms = ms(within), "drain started");
}

/// A drain is over.
pub fn drained(broken_off: usize, left: u64, took: Duration) {
    tracing::info!(target: "tollgate::node", event = "drained", broken_off, left, took_ms = ms(took), "drained");
}

pub(crate) fn shard_started(shard: u16) {
    tracing::info!(target: "tollgate::actor", event = "actor_started", kind = "shard", shard, "shard started");
}

/// A shard did not come back from a panic of its own: the node ends.
pub fn shard_died(shard: usize) {
    tracing::error!(
        target: "tollgate::actor",
        event = "actor_died",
        kind = "shard",
        shard,
        code = %Code::ShardDied,
        "shard died, the node stops"
    );
}

pub(crate) fn throttle_started(account: &AccountKey) {
    tracing::debug!(
        target: "tollgate::actor",
        event = "actor_started",
        kind = "throttle",
        platform = %account.platform,
        account = account.account.as_str(),
        "throttle actor started"
    );
}

pub(crate) fn throttle_stopped(account: &AccountKey, waiting: u64) {
    tracing::debug!(
        target: "tollgate::actor",
        event = "actor_stopped",
        kind = "throttle",
        platform = %account.platform,
        account = account.account.as_str(),
        waiting,
        "throttle actor rests"
    );
}

pub(crate) fn throttle_died(shard: u16, account: &AccountKey, reason: &str, restart: Restart) {
    if restart.escalated {
        tracing::error!(
            target: "tollgate::actor",
            event = "actor_died",
            kind = "throttle",
            shard,
            platform = %account.platform,
            account = account.account.as_str(),
            code = %Code::ThrottleDied,
            reason,
            deaths = restart.deaths,
            restart_in_ms = ms(restart.after),
            "throttle actor keeps dying, its account rests"
        );
    } else {
        tracing::warn!(
            target: "tollgate::actor",
            event = "actor_died",
            kind = "throttle",
            shard,
            platform = %account.platform,
            account = account.account.as_str(),
            reason,
            deaths = restart.deaths,
            restart_in_ms = ms(restart.after),
            "throttle actor died, it will be restarted"
        );
    }
}

pub(crate) fn throttle_restarted(account: &AccountKey, running: usize) {
    metrics::RESTARTS.counter(&["throttle"]).increment(1);
    tracing::info!(
        target: "tollgate::actor",
        event = "actor_restarted",
        kind = "throttle",
        platform = %account.platform,
        account = account.account.as_str(),
        running,
        "throttle actor restarted"
    );
}

pub(crate) fn budget_started(budget: &BudgetKey) {
    tracing::debug!(
        target: "tollgate::actor",
        event = "actor_started",
        kind = "budget",
        platform = %budget.platform(),
        budget = budget.record().account.as_str(),
        "budget actor started"
    );
}

pub(crate) fn budget_stopped(budget: &BudgetKey) {
    tracing::debug!(
        target: "tollgate::actor",
        event = "actor_stopped",
        kind = "budget",
        platform = %budget.platform(),
        budget = budget.record().account.as_str(),
        "budget actor ended, its record has what it knew"
    );
}

pub(crate) fn budget_died(shard: u16, budget: &BudgetKey, reason: &str, restart: Restart) {
    if restart.escalated {
        tracing::error!(
            target: "tollgate::actor",
            event = "actor_died",
            kind = "budget",
            shard,
            platform = %budget.platform(),
            budget = budget.record().account.as_str(),
            code = %Code::ThrottleDied,
            reason,
            deaths = restart.deaths,
            restart_in_ms = ms(restart.after),
            "budget actor keeps dying, its calls wait"
        );
    } else {
        tracing::warn!(
            target: "tollgate::actor",
            event = "actor_died",
            kind = "budget",
            shard,
            platform = %budget.platform(),
            budget = budget.record().account.as_str(),
            reason,
            deaths = restart.deaths,
            restart_in_ms = ms(restart.after),
            "budget actor died, it will be restarted"
        );
    }
}

pub(crate) fn budget_restarted(budget: &BudgetKey, running: usize) {
    metrics::RESTARTS.counter(&["budget"]).increment(1);
    tracing::info!(
        target: "tollgate::actor",
        event = "actor_restarted",
        kind = "budget",
        platform = %budget.platform(),
        budget = budget.record().account.as_str(),
        running,
        "budget actor restarted"
    );
}

pub(crate) fn collector_died(shard: u16, reason: &str, restart: Restart) {
    if restart.escalated {
        tracing::error!(
            target: "tollgate::actor",
            event = "actor_died",
            kind = "collector",
            shard,
            reason,
            deaths = restart.deaths,
            "collectors keep dying"
        );
    } else {
        tracing::warn!(
            target: "tollgate::actor",
            event = "actor_died",
            kind = "collector",
            shard,
            reason,
            deaths = restart.deaths,
            "collector died, another takes its place"
        );
    }
}

pub(crate) fn collector_restarted(shard: u16) {
    metrics::RESTARTS.counter(&["collector"]).increment(1);
    tracing::info!(target: "tollgate::actor", event = "actor_restarted", kind = "collector", shard, "collector restarted");
}

/// Something panicked on this thread; what its supervisor does about it follows.
pub(crate) fn panicked(reason: &str, place: &str) {
    tracing::error!(target: "tollgate::actor", event = "panicked", reason, place, "panicked");
}

/// The wall clock moved against the monotonic one.
pub(crate) fn clock_stepped(by_ms: i64) {
    tracing::warn!(
        target: "tollgate::node",
        event = "clock_stepped",
        by_ms,
        "the wall clock was stepped; limits do not follow it"
    );
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
