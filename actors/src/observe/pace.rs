//! The pace of an api whose limits nobody publishes: it rises a little with each good answer and falls by a
//! factor with a refusal, between two declared rates (additive increase, multiplicative decrease).
//!
//! Pure. What is known of an account is one rate and one moment; both are kept in its record.

use tollgate_gate::{At, Span};

/// Slowest and fastest rates that can be declared, in calls per second.
pub const RATE_MIN: f64 = 1.0 / 86_400.0;
/// See [`RATE_MIN`].
pub const RATE_MAX: f64 = 10_000.0;

/// Between which rates, and how.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PaceRule {
    /// Slowest rate, in calls per second: where every account begins.
    pub min: f64,
    /// Fastest rate.
    pub max: f64,
    /// What a good answer adds, in calls per second. Default a hundredth of `max`.
    pub step: f64,
    /// What a refusal leaves of the rate, above 0 and below 1. Default a half.
    pub cut: f64,
    /// Whether it is that of one api; else that of all apis of the account together.
    pub per_api: bool,
}

/// The pace of one account.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    rate: f64,
    /// When the next call may go.
    next: At,
    /// When it last fell: calls let through before say nothing of the rate since.
    cut_at: At,
}

impl Pace {
    /// Begins at the cautious end.
    pub fn new(rule: &PaceRule) -> Self {
        Self { rate: rule.min, next: At::MIN, cut_at: At::MIN }
    }

    /// As it was when a record was written; under a changed rule within its bounds.
    pub fn restored(rule: &PaceRule, rate: f64, next: At) -> Self {
        let rate = if rate.is_finite() { rate.clamp(rule.min, rule.max) } else { rule.min };
        Self { rate, next, cut_at: At::MIN }
    }

    /// Calls per second.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// When the next call may go.
    pub fn next(&self) -> At {
        self.next
    }

    /// A call goes now.
    pub fn take(&mut self, now: At) {
        self.next = now.max(self.next).plus(gap(self.rate));
    }

    /// A permit taken was not used.
    pub fn give_back(&mut self) {
        self.next = self.next.minus(gap(self.rate));
    }

    /// A call let through at `taken` was answered well.
    pub fn succeeded(&mut self, rule: &PaceRule, taken: At) {
        if taken >= self.cut_at {
            self.rate = (self.rate + rule.step).min(rule.max);
        }
    }

    /// A call let through at `taken` was refused. Calls that were in flight together cut once.
    pub fn refused(&mut self, rule: &PaceRule, taken: At, now: At) {
        if taken >= self.cut_at {
            self.rate = (self.rate * rule.cut).max(rule.min);
            self.next = self.next.max(now.plus(gap(self.rate)));
            self.cut_at = now;
        }
    }
}

/// From one call to the next, rounded up.
fn gap(rate: f64) -> Span {
    Span((1e6 / rate).ceil() as u64)
}
