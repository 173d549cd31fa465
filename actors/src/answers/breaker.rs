//! The circuit breaker: an account whose access was taken away is not called again and again. Pure.
//!
//! So many refusals of access in a row hold the account, or one api of it where the rule is the api's. When the hold
//! is over one call is made to see; it opens the breaker again, for longer, or closes it.

use std::time::Duration;

use tollgate_gate::{At, Span};

/// Refusals in a row where nothing is declared.
const AFTER: u8 = 10;
/// How long an account is held then.
const WAIT: Duration = Duration::from_secs(300);
/// The longest hold, which each further refusal doubles up to; a longer declared one stays as it is.
const WAIT_MAX: Duration = Duration::from_secs(3600);
/// Statuses that refuse access whatever is asked for: no or bad credentials, and the same of a proxy. Not 403: most
/// providers say so of single things too.
const STATUSES: [u16; 2] = [401, 407];

/// When an account is held for refusals of access.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BreakerRule {
    /// So many in a row; at least 1.
    pub after: u8,
    /// For so long at first.
    pub wait: Duration,
    /// Statuses that count, where no rule of `answers` says what the answer is.
    pub statuses: Vec<u16>,
    /// It is the api's own and holds the api only.
    pub per_api: bool,
}

impl Default for BreakerRule {
    fn default() -> Self {
        Self { after: AFTER, wait: WAIT, statuses: STATUSES.to_vec(), per_api: false }
    }
}

/// How access stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Breaker {
    /// Refusals in a row, up to what opens it.
    pub(crate) refusals: u8,
    /// How often it was opened since the last good answer.
    pub(crate) opened: u8,
    /// When it was opened last, if that was in this process.
    opened_at: Option<At>,
}

impl Breaker {
    /// As a record has it.
    pub(crate) fn restored(refusals: u8, opened: u8) -> Self {
        Self { refusals, opened, opened_at: None }
    }

    /// Whether no more than one call at a time is made.
    pub(crate) fn is_open(&self) -> bool {
        self.opened > 0
    }

    /// Access was refused to a call that was let go at `decided_at`: how long to hold, if so.
    pub(crate) fn refused(
        &mut self,
        rule: &BreakerRule,
        decided_at: At,
        now: At,
    ) -> Option<Duration> {
        self.refusals = self.refusals.saturating_add(1).min(rule.after.max(1));
        // What was in flight when it opened knew nothing of it.
        let is_late = self.opened_at.is_some_and(|at| decided_at < at);
        if self.refusals < rule.after || is_late {
            return None;
        }
        let doubled = rule.wait.saturating_mul(1 << self.opened.min(16));
        self.opened = self.opened.saturating_add(1);
        self.opened_at = Some(now);
        Some(doubled.min(WAIT_MAX.max(rule.wait)))
    }

    /// Access was given. Whether it had been refused.
    pub(crate) fn passed(&mut self) -> bool {
        let was_open = self.is_open();
        *self = Self::default();
        was_open
    }

    /// How much longer whoever was refused waits.
    pub(crate) fn wait(&self, rule: &BreakerRule, now: At) -> Duration {
        let last = rule.wait.saturating_mul(1 << self.opened.saturating_sub(1).min(16));
        let last = last.min(WAIT_MAX.max(rule.wait));
        let over = self.opened_at.map_or(now, |at| at.plus(Span::from(last)));
        Duration::from(over.since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> At {
        At::MIN.plus(Span::from_secs(seconds))
    }

    #[test]
    fn so_many_in_a_row_open_it_and_each_trial_for_longer() {
        let rule = BreakerRule { after: 3, ..BreakerRule::default() };
        let mut breaker = Breaker::default();
        assert_eq!(breaker.refused(&rule, at(1), at(2)), None);
        assert_eq!(breaker.refused(&rule, at(3), at(4)), None);
        assert!(!breaker.passed(), "it was not open");
        assert_eq!(breaker.refused(&rule, at(5), at(6)), None);
        assert_eq!(breaker.refused(&rule, at(5), at(6)), None);
        assert_eq!(breaker.refused(&rule, at(5), at(7)), Some(WAIT));
        assert!(breaker.is_open());
        assert_eq!(breaker.refused(&rule, at(6), at(8)), None, "in flight when it opened");
        assert_eq!(breaker.wait(&rule, at(8)), Duration::from_secs(299));
        for (hold, now) in [(600, 400), (1200, 1100), (2400, 2400), (3600, 5000), (3600, 9000)] {
            assert_eq!(breaker.refused(&rule, at(now), at(now)), Some(Duration::from_secs(hold)));
        }
        assert!(breaker.passed());
        assert_eq!(breaker, Breaker::default());
        let long = BreakerRule { after: 1, wait: WAIT_MAX * 5, ..rule };
        assert_eq!(breaker.refused(&long, at(1), at(2)), Some(WAIT_MAX * 5));
        assert_eq!(breaker.refused(&long, at(3), at(4)), Some(WAIT_MAX * 5));
    }
}
