//! Events and metrics of the shards' loops.

use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};
use tollgate_gate::Span;

use super::metrics::{LOOP_BLOCKED, LOOP_LAG, MAILBOX};
use super::ms;
use crate::pulse::{Block, Doing};

/// The series of one shard's loop.
pub(crate) struct LoopMeters {
    lag: Histogram,
    blocked: Counter,
}

impl LoopMeters {
    pub(crate) fn new(shard: usize) -> Self {
        let shard = shard.to_string();
        let blocked = LOOP_BLOCKED.counter(&[&shard]);
        // There from the start, at zero.
        blocked.increment(0);
        Self { lag: LOOP_LAG.histogram(&[&shard]), blocked }
    }

    /// A shard gave its word after so long.
    pub(crate) fn lag(&self, lag: Span) {
        self.lag.record(Duration::from_micros(lag.0).as_secs_f64());
    }

    /// That was too long.
    pub(crate) fn blocked(&self) {
        self.blocked.increment(1);
    }
}

/// How many messages wait in mailboxes of one kind of a shard's actors.
#[derive(Debug, Clone)]
pub(crate) struct Waiting(Gauge);

impl Waiting {
    /// Of a shard's own mailbox, and of those of its throttle actors together.
    pub(crate) fn of(shard: usize) -> [Self; 2] {
        let shard = shard.to_string();
        ["shard", "throttle"].map(|actor| Self(MAILBOX.gauge(&[&shard, actor])))
    }

    /// One more waits.
    pub(crate) fn comes(&self) {
        self.0.increment(1.0);
    }

    /// One less.
    pub(crate) fn goes(&self) {
        self.0.decrement(1.0);
    }
}

/// A shard's loop does not turn.
pub(crate) fn shard_blocked(shard: usize, doing: Doing, silent: Span, left_out: u64) {
    tracing::info!(
        target: "tollgate::actor",
        event = "shard_blocked",
        shard,
        doing = doing.as_str(),
        for_ms = millis(silent),
        left_out,
        "a shard's loop does not turn"
    );
}

/// It still does not.
pub(crate) fn shard_blocked_long(shard: usize, doing: Doing, silent: Span) {
    tracing::warn!(
        target: "tollgate::actor",
        event = "shard_blocked",
        shard,
        doing = doing.as_str(),
        for_ms = millis(silent),
        "a shard's loop has not turned for a second"
    );
}

/// A shard's loop turns again.
pub(crate) fn shard_freed(block: &Block) {
    let took = block.until.map(|until| until.since(block.since)).unwrap_or_default();
    tracing::info!(
        target: "tollgate::actor",
        event = "shard_freed",
        shard = block.shard,
        doing = block.doing.as_str(),
        platform = block.account.as_ref().map(|key| key.platform.as_str()),
        account = block.account.as_ref().map(|key| key.account.as_str()),
        blocked_ms = millis(took),
        ran_ms = block.ran.map(millis),
        starved_ms = block.starved.map(millis),
        "a shard's loop turns again"
    );
}

fn millis(span: Span) -> u64 {
    ms(Duration::from_micros(span.0))
}
