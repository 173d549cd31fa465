//! The events of nodes that stage what they collect, and their series.

use std::time::Duration;

use super::metrics::{RESTARTS, STAGE_FAILED, STAGE_LAG, STAGE_QUARANTINED, STAGED_ROWS};
use super::{Code, ms};
use crate::ids::Slug;
use crate::supervise::Restart;

/// What one look at a table came to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Staged {
    /// Objects that were staged.
    pub inputs: u64,
    /// Rows and files that were made of them.
    pub rows: u64,
    /// Files.
    pub files: u64,
    /// Entries of the quarantine.
    pub quarantined: u64,
    /// Small files that were put together with others.
    pub merged: u64,
    /// Age of what had waited longest when its rows were visible; None: nobody knows.
    pub lag: Option<Duration>,
    /// What it took.
    pub took: Duration,
}

/// A node has begun to follow a table: its series are there from now on.
pub fn stage_follows(table: &Slug) {
    let name = table.as_str();
    for counter in [&STAGED_ROWS, &STAGE_QUARANTINED, &STAGE_FAILED] {
        counter.counter(&[name]).increment(0);
    }
    RESTARTS.counter(&["stage"]).increment(0);
    stage_lags(table, Duration::ZERO);
    tracing::info!(target: "tollgate::stage", event = "stage_follows", table = name, "this node stages what is collected");
}

/// Another node stages it from now on, or will soon.
pub fn stage_left(table: &Slug) {
    stage_lags(table, Duration::ZERO);
    tracing::info!(target: "tollgate::stage", event = "stage_left", table = table.as_str(), "this node stages it no more");
}

/// How old the oldest is that is collected and not staged.
pub fn stage_lags(table: &Slug, lag: Duration) {
    STAGE_LAG.gauge(&[table.as_str()]).set(lag.as_secs_f64());
}

/// What was collected is staged.
pub fn stage_done(table: &Slug, staged: &Staged) {
    STAGED_ROWS.counter(&[table.as_str()]).increment(staged.rows);
    tracing::info!(
        target: "tollgate::stage",
        event = "stage_done",
        table = table.as_str(),
        inputs = staged.inputs,
        rows = staged.rows,
        files = staged.files,
        quarantined = staged.quarantined,
        merged = staged.merged,
        lag_ms = staged.lag.map(ms),
        took_ms = ms(staged.took),
        "staged"
    );
}

/// Some of it is in quarantine: `place` is a file with the reasons, `reason` the first of them.
pub fn stage_quarantined(table: &Slug, entries: u64, place: &str, reason: &str) {
    STAGE_QUARANTINED.counter(&[table.as_str()]).increment(entries);
    tracing::warn!(
        target: "tollgate::stage",
        event = "stage_quarantined",
        table = table.as_str(),
        entries,
        place,
        reason,
        "what did not fit the table went to quarantine"
    );
}

/// Files that jobs had made are not there: their objects are staged again.
pub fn stage_torn(table: &Slug, jobs: u64) {
    tracing::warn!(
        target: "tollgate::stage",
        event = "stage_torn",
        table = table.as_str(),
        jobs,
        "files that were staged are gone, their objects are staged again"
    );
}

/// A job, or a whole look at the table, came to nothing.
pub fn stage_failed(table: &Slug, reason: &str, retry: Duration) {
    STAGE_FAILED.counter(&[table.as_str()]).increment(1);
    tracing::error!(
        target: "tollgate::stage",
        event = "stage_failed",
        table = table.as_str(),
        reason,
        retry_in_ms = ms(retry),
        "not staged, what is there stays as it is"
    );
}

/// Another process stages the table.
pub fn stage_waits(table: &Slug, reason: &str) {
    tracing::warn!(
        target: "tollgate::stage",
        event = "stage_waits",
        table = table.as_str(),
        reason,
        "staging waits for another process"
    );
}

/// What other nodes collect cannot be heard of.
pub fn stage_deaf(reason: &str) {
    tracing::warn!(
        target: "tollgate::stage",
        event = "stage_deaf",
        code = %Code::NatsUnreachable,
        reason,
        "what is done cannot be read, staging waits"
    );
}

/// Staging has ended by a panic and begins anew after a rest.
pub fn stage_died(reason: &str, restart: Restart) {
    RESTARTS.counter(&["stage"]).increment(1);
    if restart.escalated {
        tracing::error!(
            target: "tollgate::actor",
            event = "actor_died",
            kind = "stage",
            reason,
            deaths = restart.deaths,
            restart_in_ms = ms(restart.after),
            "staging keeps dying, it rests"
        );
    } else {
        tracing::warn!(
            target: "tollgate::actor",
            event = "actor_died",
            kind = "stage",
            reason,
            deaths = restart.deaths,
            restart_in_ms = ms(restart.after),
            "staging died, it will be restarted"
        );
    }
}
