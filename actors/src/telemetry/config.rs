//! What is told of configurations: which one is in force, what it changed, what is wrong with it.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use tollgate_gate::Change;

use super::{metrics, ms};
use crate::codes::Code;
use crate::config::Mistake;
use crate::ids::Slug;
use crate::mixed::Unheeded;
use crate::nats::NatsError;
use crate::reload::Applied;

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
