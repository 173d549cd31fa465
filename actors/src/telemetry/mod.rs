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
mod limits;
mod logs;
mod loops;
mod metrics;
mod notify;
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
pub use stage::{
    Staged, stage_deaf, stage_died, stage_done, stage_failed, stage_follows, stage_lags,
    stage_left, stage_quarantined, stage_torn, stage_waits,
};
pub use totals::{Count, LimitUse, Summary, Totals};
pub(crate) use traces::{spans_dropped, spans_sent, traces_taken, traces_unsent};

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use tollgate_gate::{At, Change, Span};

use crate::clock::Clock;
use crate::codes::Code;
use crate::collector::{Again, Item, LastAnswer};
use crate::config::Mistake;
use crate::ids::{AccountKey, LaneKey, Slug};
use crate::ledger::LedgerError;
use crate::ledger::record::Tries;
use crate::mixed::Unheeded;
use crate::nats::NatsError;
use crate::observe::{DriftKind, Scope};
use crate::queue::QueueError;
use crate::recipe::BudgetKey;
use crate::reload::Applied;
use crate::supervise::Restart;
use crate::throttle::Next;

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

/// What a reload changes of a limit. `known_s`: how far back the calls are known that it counts; nothing: all.
pub(crate) fn limit_changed(platform: &Slug, change: &Change, counts_from: Option<Timestamp>) {
    tracing::info!(
        target: "tollgate::config",
        event = "limit_changed",
        platform = %platform,
        api = change.api.as_deref(),
        limit = %change.name,
        change = change.kind.as_str(),
        counts_from = counts_from.map(tracing::field::display),
        "limit changed"
    );
}

/// Another configuration is in force.
pub(crate) fn config_reloaded(config: &str, applied: &Applied, took: Duration) {
    metrics::CONFIG_RELOADS.counter(&["applied"]).increment(1);
    metrics::CONFIG_GENERATION.gauge(&[]).increment(1);
    tracing::info!(
        target: "tollgate::config",
        event = "config_reloaded",
        config,
        platforms_changed = applied.platforms_changed,
        platforms_added = applied.platforms_added,
        platforms_removed = applied.platforms_removed,
        limits_changed = applied.limits_changed,
        took_ms = ms(took),
        "configuration reloaded"
    );
}

/// The configuration was read anew and says nothing new.
pub(crate) fn config_unchanged() {
    metrics::CONFIG_RELOADS.counter(&["unchanged"]).increment(1);
    tracing::info!(target: "tollgate::config", event = "config_unchanged", "configuration read, nothing changes");
}

/// One mistake of a configuration that was read anew; the one before stays in force.
pub(crate) fn config_mistake(mistake: &Mistake) {
    tracing::error!(
        target: "tollgate::config",
        event = "config_mistake",
        code = %mistake.code,
        file = mistake.file.as_str(),
        line = mistake.line,
        key = mistake.key.as_str(),
        reason = mistake.message.as_str(),
        hint = mistake.hint.as_deref(),
        "mistake in the configuration"
    );
}

/// A configuration that was read anew has mistakes.
pub(crate) fn config_refused(mistakes: usize) {
    metrics::CONFIG_RELOADS.counter(&["refused"]).increment(1);
    tracing::error!(
        target: "tollgate::config",
        event = "config_refused",
        mistakes,
        "configuration refused, the one before stays in force"
    );
}

/// What a configuration that was read anew allows and probably does not mean.
pub(crate) fn config_warning(warning: &str) {
    tracing::warn!(target: "tollgate::config", event = "config_warning", warning, "warning about the configuration");
}

/// A key was changed that is read at the start only.
pub(crate) fn config_needs_restart(key: &str) {
    tracing::warn!(
        target: "tollgate::config",
        event = "config_needs_restart",
        code = %Code::RestartNeeded,
        key,
        "changed, and in force only after a restart"
    );
}

/// Other nodes have other limits, which apply here too.
pub(crate) fn config_mixed(config: &str, others: &[String], nodes: &BTreeSet<String>) {
    let nodes: Vec<&str> = nodes.iter().map(String::as_str).collect();
    tracing::warn!(
        target: "tollgate::config",
        event = "config_mixed",
        config,
        others = others.join(" "),
        nodes = nodes.join(" "),
        "nodes have different limits, every limit of all of them applies"
    );
}

/// All nodes have the same limits again.
pub(crate) fn config_agreed(config: &str) {
    tracing::info!(target: "tollgate::config", event = "config_agreed", config, "all nodes have the same limits again");
}

/// What limits another node has is not known; its own before stay in force, if those were.
pub(crate) fn config_unknown(node: &str, config: &str, reason: &str) {
    tracing::warn!(
        target: "tollgate::config",
        event = "config_unknown",
        node,
        config,
        reason,
        "the limits of another node are not known, it may let go what they forbid here, and the other way round"
    );
}

/// The limits of this node cannot be written for others.
pub(crate) fn config_untold(config: &str, error: &NatsError) {
    tracing::warn!(
        target: "tollgate::config",
        event = "config_untold",
        code = %error.code,
        config,
        reason = error.what.as_str(),
        hint = error.hint.as_str(),
        "other nodes cannot be told this node's limits, what it told before stays in force here too"
    );
}

/// A node that lives does not say that it goes by the limits of this one.
pub(crate) fn config_not_heeded(node: &str) {
    tracing::warn!(
        target: "tollgate::config",
        event = "config_not_heeded",
        node,
        "another node does not go by this one's limits yet, starting all the same"
    );
}

/// One limit of another node does not apply here.
pub(crate) fn limit_unheeded(unheeded: &Unheeded) {
    tracing::warn!(
        target: "tollgate::config",
        event = "limit_unheeded",
        platform = unheeded.platform.as_str(),
        limit = unheeded.what.as_str(),
        reason = unheeded.reason.as_str(),
        "a limit of another node does not apply here"
    );
}

/// How many configurations of others are in force here, and how many are not known.
pub(crate) fn configs_seen(others: usize, unknown: usize) {
    metrics::CONFIG_OTHERS.gauge(&[]).set(others as f64);
    metrics::CONFIG_UNKNOWN.gauge(&[]).set(unknown as f64);
}

/// There from the start, so that what grows can be seen.
pub(crate) fn config_in_force() {
    configs_seen(0, 0);
    metrics::CONFIG_GENERATION.gauge(&[]).set(1);
    for kind in ["applied", "unchanged", "refused"] {
        metrics::CONFIG_RELOADS.counter(&[kind]).increment(0);
    }
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

pub(crate) fn ledger_away(account: &AccountKey, error: &LedgerError) {
    let kind = match error {
        LedgerError::Conflict => "conflict",
        LedgerError::Unsure(_) => "unsure",
        LedgerError::Unavailable(_) => "away",
    };
    metrics::LEDGER_ERRORS.counter(&[account.platform.as_str(), kind]).increment(1);
    tracing::warn!(
        target: "tollgate::ledger",
        event = "ledger_away",
        platform = %account.platform,
        account = account.account.as_str(),
        code = %Code::LedgerUnavailable,
        reason = %error,
        "the ledger did not confirm, no permit is given without it"
    );
}

pub(crate) fn ledger_conflict(account: &AccountKey) {
    tracing::warn!(
        target: "tollgate::ledger",
        event = "ledger_conflict",
        platform = %account.platform,
        account = account.account.as_str(),
        "the account's record is not as this node left it, it is read again"
    );
}

pub(crate) fn permits_lapsed(meters: &PlatformMeters, account: &AccountKey, permits: usize) {
    meters.lapsed(permits);
    tracing::warn!(
        target: "tollgate::ledger",
        event = "permits_lapsed",
        platform = %account.platform,
        account = %account.account,
        permits,
        "the ledger confirmed too late, permits go back unused"
    );
}

pub(crate) fn ledger_unreadable(account: &AccountKey, reason: &str, shut: Span) {
    tracing::error!(
        target: "tollgate::ledger",
        event = "ledger_unreadable",
        platform = %account.platform,
        account = account.account.as_str(),
        code = %Code::LedgerUnreadable,
        reason,
        shut_ms = shut.0 / 1000,
        "the account's ledger cannot be read, it waits for its longest window"
    );
}

pub(crate) fn ledger_note(account: &AccountKey, note: &str) {
    tracing::warn!(
        target: "tollgate::ledger",
        event = "ledger_note",
        platform = %account.platform,
        account = account.account.as_str(),
        note,
        "the account's ledger and the configuration differ"
    );
}

pub(crate) fn queue_away(account: &AccountKey, error: &QueueError) {
    tracing::warn!(
        target: "tollgate::queue",
        event = "queue_away",
        platform = %account.platform,
        account = account.account.as_str(),
        code = %Code::QueueUnavailable,
        reason = %error,
        "the queue does not answer, trying again"
    );
}

/// Lines about objects that are not in the store yet.
pub(crate) fn lines_unsent(reason: &str) {
    tracing::warn!(
        target: "tollgate::store",
        event = "lines_unsent",
        reason,
        "lines about objects could not be written or put, and are put later"
    );
}

pub(crate) fn store_away(reason: &str) {
    metrics::STORE_AWAY.gauge(&[]).set(1);
    tracing::error!(
        target: "tollgate::store",
        event = "store_away",
        code = %Code::StoreUnavailable,
        reason,
        "the object store takes no bodies, no permits until it does"
    );
}

pub(crate) fn spool_refused(reason: &str) {
    tracing::warn!(
        target: "tollgate::store",
        event = "spool_refused",
        reason,
        "an answer finds no place to wait for the store that is away, its call is made again"
    );
}

pub(crate) fn leftovers_removed(count: u64) {
    tracing::info!(
        target: "tollgate::store",
        event = "leftovers_removed",
        count,
        "unfinished objects of killed processes were removed from the store"
    );
}

pub(crate) fn leftovers_unseen(reason: &str) {
    tracing::warn!(
        target: "tollgate::store",
        event = "leftovers_unseen",
        reason,
        "the store does not say which uploads killed processes left in it"
    );
}

pub(crate) fn fresh_unswept(reason: &str) {
    tracing::warn!(
        target: "tollgate::store",
        event = "fresh_unswept",
        reason,
        "notes of fresh objects whose time is over stay in the store"
    );
}

pub(crate) fn store_back(away: Duration) {
    store_well();
    tracing::info!(target: "tollgate::store", event = "store_back", away_ms = ms(away), "the object store takes bodies again");
}

/// The store is believed to take bodies.
pub(crate) fn store_well() {
    metrics::STORE_AWAY.gauge(&[]).set(0);
}

/// The embedded database takes nothing any more, until it is opened anew.
pub(crate) fn state_failed(reason: &str) {
    tracing::error!(
        target: "tollgate::queue",
        event = "state_failed",
        code = %Code::StateUnreadable,
        reason,
        "the state folder takes nothing any more"
    );
}

pub(crate) fn postponed_unreadable(reason: &str) {
    tracing::warn!(
        target: "tollgate::queue",
        event = "postponed_unreadable",
        reason,
        "postponed fetches cannot be read, trying again"
    );
}

/// Messages under subjects that are no lane could not be seen to yet.
pub(crate) fn misfits_wait(reason: &str) {
    tracing::warn!(
        target: "tollgate::queue",
        event = "misfits_wait",
        reason,
        "what was published under no good subject waits, trying again"
    );
}

/// Notes of a partition could not be looked at; told once until a look works again.
pub(crate) fn notes_unswept(partition: u32, reason: &str) {
    tracing::warn!(
        target: "tollgate::queue",
        event = "notes_unswept",
        partition,
        reason,
        "notes of fetches that are gone stay for now"
    );
}

/// Notes of fetches that are gone were removed.
pub(crate) fn notes_swept(partition: u32, count: usize) {
    tracing::debug!(
        target: "tollgate::queue",
        event = "notes_swept",
        partition,
        count,
        "notes of fetches that are gone removed"
    );
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

/// The connection to NATS stands, the first time or again.
pub(crate) fn nats_connected(times: u64, away: Duration) {
    metrics::NATS_CONNECTED.gauge(&[]).set(1);
    tracing::info!(target: "tollgate::nats", event = "nats_connected", times, away_ms = ms(away), "connected to NATS");
}

/// NATS is away: no permits until it is back.
pub(crate) fn nats_away(reason: &str) {
    metrics::NATS_CONNECTED.gauge(&[]).set(0);
    tracing::warn!(
        target: "tollgate::nats",
        event = "nats_away",
        code = %Code::NatsUnreachable,
        reason,
        "NATS is away, no permits until it is back"
    );
}

/// Messages came faster than they were taken, and some were dropped: what waits is looked for anew.
pub(crate) fn nats_slow() {
    tracing::warn!(target: "tollgate::nats", event = "nats_slow", "wakes were dropped, what waits is looked for anew");
}

/// This run of the node shows itself to the others.
pub(crate) fn session_started(session: &str) {
    tracing::info!(target: "tollgate::nats", event = "session_started", session, "session started");
}

/// The server is there and does not do what a start needs, as when it elects a leader; it is tried again.
pub fn start_waits(reason: &str) {
    tracing::warn!(
        target: "tollgate::node",
        event = "start_waits",
        code = %Code::NatsUnreachable,
        reason,
        "NATS does not do yet what a start needs, it is tried again"
    );
}

/// The session could not be renewed: no permits until it is. `missing`: the bucket is not there.
pub(crate) fn session_lost(since: Duration, missing: bool) {
    let code = if missing { Code::StreamMissing } else { Code::NatsUnreachable };
    tracing::warn!(
        target: "tollgate::nats",
        event = "session_lost",
        code = %code,
        since_ms = ms(since),
        "the session cannot be renewed, no permits until it is"
    );
}

/// It was renewed again.
pub(crate) fn session_back(away: Duration) {
    tracing::info!(target: "tollgate::nats", event = "session_back", away_ms = ms(away), "the session was renewed again");
}

/// A token is at hand: its server was asked (`called`), or a record had it.
pub(crate) fn token_had(credential: &str, called: bool, left: Duration) {
    tracing::info!(
        target: "tollgate::auth",
        event = "token_had",
        credential,
        called,
        left_ms = ms(left),
        "access token at hand"
    );
}

/// What signs calls cannot be had: the accounts of the credential wait.
pub(crate) fn token_unavailable(credential: &str, code: Code, reason: &str, wait: Duration) {
    tracing::warn!(
        target: "tollgate::auth",
        event = "token_unavailable",
        credential,
        code = %code,
        reason,
        retry_in_ms = ms(wait),
        "credential cannot be used, its accounts wait"
    );
}

/// A token was given out and is not stored yet: it is not used before.
pub(crate) fn token_not_kept(key: &str, reason: &str) {
    tracing::error!(
        target: "tollgate::auth",
        event = "token_not_kept",
        key,
        code = %Code::TokenNotKept,
        reason,
        "a new token cannot be stored, trying again"
    );
}

/// A secret was read, or is another one than before.
pub(crate) fn secret_read(credential: &str) {
    tracing::info!(target: "tollgate::auth", event = "secret_read", credential, "secret read");
}

/// A secret cannot be read again: what was read before is used.
pub(crate) fn secret_unreadable(credential: &str, reason: &str) {
    tracing::warn!(
        target: "tollgate::auth",
        event = "secret_unreadable",
        credential,
        code = %Code::SecretUnavailable,
        reason,
        "secret cannot be read again, the one before is used"
    );
}

/// The server refused something on the connection.
pub(crate) fn nats_refused(code: Code, reason: &str) {
    tracing::error!(target: "tollgate::nats", event = "nats_refused", %code, reason, "NATS refused");
}

/// Operators' holds came, went or changed.
pub(crate) fn holds_changed(changed: usize) {
    tracing::info!(target: "tollgate::account", event = "holds_changed", changed, "operators' holds changed");
}

/// A hold in the bucket that is none.
pub(crate) fn hold_unreadable(key: &str, reason: &str) {
    tracing::warn!(
        target: "tollgate::account",
        event = "hold_unreadable",
        key,
        reason,
        "a hold cannot be read, it holds nothing"
    );
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
