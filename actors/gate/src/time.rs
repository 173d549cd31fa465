//! Moments and spans in microseconds, with arithmetic that cannot panic.
//!
//! There is no `now` here: whoever calls the gate says what time it is. All moments of one ledger lie on
//! one timeline; where its zero is does not matter.

use core::time::Duration;

/// A moment, in microseconds on one timeline. Arithmetic stops at [`At::MIN`] and [`At::MAX`].
///
/// ```
/// use tollgate_gate::{At, Span};
/// let noon = At(5_000_000);
/// assert_eq!(noon.plus(Span::from_millis(250)), At(5_250_000));
/// assert_eq!(noon.minus(Span::from_secs(6)), At(-1_000_000));
/// assert_eq!(noon.since(At(2_000_000)), Span::from_secs(3));
/// assert_eq!(At(2_000_000).since(noon), Span::ZERO); // never negative
/// assert_eq!(At::MAX.plus(Span::from_secs(1)), At::MAX);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct At(pub i64);

impl At {
    /// The earliest moment there is.
    pub const MIN: Self = Self(i64::MIN);
    /// The latest moment there is; a hold until then has no end.
    pub const MAX: Self = Self(i64::MAX);

    /// The moment that much later.
    pub const fn plus(self, span: Span) -> Self {
        Self(self.0.saturating_add_unsigned(span.0))
    }

    /// The moment that much earlier.
    pub const fn minus(self, span: Span) -> Self {
        Self(self.0.saturating_sub_unsigned(span.0))
    }

    /// The time that has passed since `earlier`; zero if `earlier` is the later of the two.
    pub const fn since(self, earlier: Self) -> Span {
        if self.0 > earlier.0 { Span(self.0.abs_diff(earlier.0)) } else { Span::ZERO }
    }

    /// The first multiple of `step` that is not earlier; the same moment if `step` is zero or does not
    /// fit an `i64`.
    pub(crate) fn rounded_up(self, step: Span) -> Self {
        let over = i64::try_from(step.0).ok().and_then(|step| self.0.checked_rem_euclid(step));
        match over {
            None | Some(0) => self,
            Some(over) => self.plus(Span(step.0 - over.unsigned_abs())),
        }
    }
}

/// A length of time in microseconds, never negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(pub u64);

impl Span {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// So many seconds; more than fit are the most that fit.
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000_000))
    }

    /// So many milliseconds; more than fit are the most that fit.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis.saturating_mul(1_000))
    }

    /// So many microseconds.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// So many times this span; more than fit are the most that fit.
    pub const fn times(self, factor: u64) -> Self {
        Self(self.0.saturating_mul(factor))
    }
}

/// Rounds up to whole microseconds: a window or a guard is never shorter than what was asked for. More
/// than fit (584,000 years) are the most that fit.
///
/// ```
/// use core::time::Duration;
/// use tollgate_gate::Span;
/// assert_eq!(Span::from(Duration::from_nanos(1_001)), Span(2));
/// assert_eq!(Duration::from(Span::from_secs(5)), Duration::from_secs(5));
/// ```
impl From<Duration> for Span {
    fn from(duration: Duration) -> Self {
        Self(u64::try_from(duration.as_nanos().div_ceil(1_000)).unwrap_or(u64::MAX))
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        Self::from_micros(span.0)
    }
}
