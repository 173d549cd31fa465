//! The decision: may this call go now, and if not, when?
//!
//! A limit of `max` calls in a window lets the next call go at or after (charge of the call that must
//! leave) + window. Because a call is charged no earlier than it arrives, and begins no earlier than it is
//! let go, no window of the provider then ever contains more than `max` arrivals. All limits that match
//! must agree; nothing is counted unless all do.

use crate::hold::Holds;
use crate::ledger::Ledger;
use crate::limit::{ApiIx, LimitSet};
use crate::time::At;

/// One call somebody would like to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// Of which api.
    pub api: ApiIx,
}

/// The gate's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Now. [`Ledger::take`] must follow with the same arguments before anything else is decided.
    Go,
    /// Not before `at`.
    WaitUntil {
        /// The earliest moment at which the answer can be Go if nothing else happens, and then it is.
        /// Always after `now`. `None`: not before a call in flight reports.
        at: Option<At>,
        /// What makes it wait. Of several the one that waits longest, `None` being the longest; of equal
        /// ones the first, limits before holds.
        because: Because,
    },
    /// At no time. No limit of today refuses a single call for ever, so this does not occur yet; it is for
    /// calls that weigh more than a window holds.
    Never {
        /// What forbids it.
        because: Because,
    },
}

/// What makes a call wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    /// The limit at this place of the set.
    Limit(usize),
    /// The hold at this place of the holds.
    Hold(usize),
}

impl Because {
    /// For people: the limit's name or the hold's reason, given what was decided upon. Empty if there is
    /// no such place.
    pub fn text<'a>(&self, limits: &'a LimitSet, holds: &'a Holds) -> &'a str {
        match *self {
            Self::Limit(place) => limits.limits().get(place).map_or("", |limit| &limit.name),
            Self::Hold(place) => holds.as_slice().get(place).map_or("", |hold| &hold.reason),
        }
    }
}

/// When a limit or hold lets the call go; in order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Opens {
    Now,
    At(At),
    /// When a call in flight has reported.
    Unknown,
}

/// Decides about one call. Allocates nothing if the answer is Go.
///
/// ```
/// use core::num::NonZeroU32;
/// use tollgate_gate::*;
/// let limit = |name: &str, max, secs| Limit {
///     name: name.into(),
///     per_api: false,
///     api: None,
///     rule: Rule::Sliding { max: NonZeroU32::new(max).unwrap(), window: Span::from_secs(secs) },
///     guard: Guard::After(Span::ZERO),
/// };
/// let limits = LimitSet::new(vec![limit("burst", 2, 1), limit("slow", 3, 10)]).unwrap();
/// let (mut ledger, holds, ask, s) = (Ledger::new(), Holds::new(), Ask { api: 0 }, 1_000_000);
/// let mut call = |now| {
///     let decision = decide(&limits, &ledger, &holds, ask, now);
///     if decision == Decision::Go {
///         ledger.take(&limits, PermitId(now.0 as u64), ask, now);
///         ledger.written(&limits, PermitId(now.0 as u64), now);
///     }
///     decision
/// };
/// let wait = |secs: i64, place| Decision::WaitUntil {
///     at: Some(At(secs * s)),
///     because: Because::Limit(place),
/// };
/// assert_eq!(call(At(0)), Decision::Go);
/// assert_eq!(call(At(s / 2)), Decision::Go);
/// assert_eq!(call(At(s / 2 + 1)), wait(1, 0)); // the call of 0 s leaves the short window at 0 + 1 s
/// assert_eq!(call(At(s)), Decision::Go);
/// assert_eq!(call(At(s + 1)), wait(10, 1)); // and the long one at 0 + 10 s
/// assert_eq!(call(At(10 * s - 1)), wait(10, 1));
/// assert_eq!(call(At(10 * s)), Decision::Go);
/// ```
pub fn decide(limits: &LimitSet, ledger: &Ledger, holds: &Holds, ask: Ask, now: At) -> Decision {
    let mut latest = (Opens::Now, Because::Limit(0));
    let mut consider = |opens, because| {
        if opens > latest.0 {
            latest = (opens, because);
        }
    };
    for (place, limit) in limits.of(ask.api) {
        let max = limit.rule.max();
        let bucket = limit.bucket(ask.api);
        let places = ledger.places(place, limit, ask.api).chain(ledger.others(place, bucket));
        consider(opens(max, places, now), Because::Limit(place));
        if let Some(until) = ledger.shut_until(place, bucket, now) {
            consider(Opens::At(until), Because::Limit(place));
        }
    }
    for (place, hold) in holds.as_slice().iter().enumerate() {
        if hold.scope.stops(ask.api) && hold.until > now {
            consider(Opens::At(hold.until), Because::Hold(place));
        }
    }
    match latest {
        (Opens::Now, _) => Decision::Go,
        (Opens::At(at), because) => Decision::WaitUntil { at: Some(at), because },
        (Opens::Unknown, because) => Decision::WaitUntil { at: None, because },
    }
}

/// When one of `max` places is free, given when those that are taken are left.
fn opens(max: u32, places: impl Iterator<Item = (Option<At>, u32)> + Clone, now: At) -> Opens {
    let taken = places.filter(|(leaves, _)| leaves.is_none_or(|at| at > now));
    let count: u64 = taken.clone().map(|(_, calls)| u64::from(calls)).sum();
    let Some(too_many) = count.checked_sub(u64::from(max)) else { return Opens::Now };
    let mut known: Vec<(At, u32)> =
        taken.filter_map(|(leaves, calls)| leaves.map(|at| (at, calls))).collect();
    known.sort_unstable();
    let mut left = 0;
    for (at, calls) in known {
        left += u64::from(calls);
        if left > too_many {
            return Opens::At(at);
        }
    }
    Opens::Unknown
}
