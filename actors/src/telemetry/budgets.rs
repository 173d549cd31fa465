//! Budgets over several nodes: their events and series.

use std::fmt;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram};

use super::Code;
use super::metrics::{
    BUDGET_ASK, BUDGET_ASKS, BUDGET_DROPPED, BUDGET_LENT, BUDGET_NODES_AWAY, BUDGET_WAITING,
};

/// A node with which something is unfinished confirms nothing.
pub(crate) fn budget_node_away(node: &str, waiting: usize, lent: usize) {
    tracing::warn!(
        target: "tollgate::budget",
        event = "budget_node_away",
        code = %Code::NatsUnreachable,
        node,
        waiting,
        lent,
        "a node does not answer: who needs a budget of it waits"
    );
}

/// It does again.
pub(crate) fn budget_node_back(node: &str, away: Duration) {
    tracing::info!(
        target: "tollgate::budget",
        event = "budget_node_back",
        node,
        away_ms = u64::try_from(away.as_millis()).unwrap_or(u64::MAX),
        "the node answers again"
    );
}

/// The session of a node is over to which something was said of budgets, or that was lent permits.
pub(crate) fn budget_holder_gone(node: &str, lent: usize) {
    tracing::info!(
        target: "tollgate::budget",
        event = "budget_node_gone",
        node,
        lent,
        "the session of a node is over, permits that it was lent count as those of a dead writer"
    );
}

/// Its configuration has a budget that this one does not have.
pub(crate) fn budget_unknown(node: &str, platform: &str, budget: &str) {
    tracing::warn!(
        target: "tollgate::budget",
        event = "budget_unknown",
        code = %Code::NatsUnreachable,
        node,
        platform,
        budget,
        "a node asks for a budget that the configuration here does not have: its calls wait"
    );
}

/// Nobody of this version wrote it.
pub(crate) fn budget_letter_unreadable() {
    tracing::warn!(
        target: "tollgate::budget",
        event = "budget_letter_unreadable",
        code = %Code::NatsUnreachable,
        "what another node says of budgets is not understood"
    );
}

const KINDS: [&str; 5] = ["lent", "waits", "late", "parked", "unanswered"];

/// The series of a node's exchange.
pub(crate) struct ExchangeMeters {
    asks: [Counter; KINDS.len()],
    ask: Histogram,
    dropped: Counter,
    lent: Gauge,
    away: Gauge,
    waiting: Gauge,
}

impl Default for ExchangeMeters {
    fn default() -> Self {
        Self {
            asks: KINDS.map(|kind| BUDGET_ASKS.counter(&[kind])),
            ask: BUDGET_ASK.histogram(&[]),
            dropped: BUDGET_DROPPED.counter(&[]),
            lent: BUDGET_LENT.gauge(&[]),
            away: BUDGET_NODES_AWAY.gauge(&[]),
            waiting: BUDGET_WAITING.gauge(&[]),
        }
    }
}

impl ExchangeMeters {
    /// How an ask ended.
    pub(crate) fn asked(&self, kind: &str) {
        if let Some(place) = KINDS.iter().position(|known| *known == kind) {
            self.asks[place].increment(1);
        }
    }

    /// The same where the owner answered after this time.
    pub(crate) fn answered(&self, kind: &str, took: Duration) {
        self.asked(kind);
        self.ask.record(took.as_secs_f64());
    }

    /// Something was not said for want of room.
    pub(crate) fn dropped(&self) {
        self.dropped.increment(1);
    }

    /// How things are.
    pub(crate) fn show(&self, lent: usize, away: usize, waiting: usize) {
        self.lent.set(lent as f64);
        self.away.set(away as f64);
        self.waiting.set(waiting as f64);
    }
}

impl fmt::Debug for ExchangeMeters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExchangeMeters").finish_non_exhaustive()
    }
}
