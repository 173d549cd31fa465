//! The decision: may this call go now, and if not, when?
//!
//! Whatever a limit counts, a call costs units of it ([`Cost`]), mostly one.
//!
//! A limit of `max` calls in a window lets the next call go at or after (charge of the call that must
//! leave) + window. Because a call is charged no earlier than it arrives, and begins no earlier than it is
//! let go, no window of the provider then ever contains more than `max` arrivals. All limits that match
//! must agree; nothing is counted unless all do.

use crate::hold::Holds;
use crate::ledger::Ledger;
use crate::limit::{ApiIx, LimitSet};
use crate::time::At;

/// What a call costs under one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cost {
    /// So many units; with none the limit does not count the call and never makes it wait.
    pub units: u32,
    /// True if that is a guess, and the cost is known afterwards ([`Ledger::settle`]): points of a query,
    /// bytes of an answer, 1 for an error that may come. Until then the guess counts.
    pub is_estimate: bool,
}

impl Cost {
    /// One unit: what a call costs if nothing else is said.
    pub const ONE: Self = Self::of(1);
    /// Nothing.
    pub const FREE: Self = Self::of(0);

    /// So many units for certain.
    pub const fn of(units: u32) -> Self {
        Self { units, is_estimate: false }
    }

    /// Probably so many; to be settled. More than the limit's `max` refuses the call for ever, so a caller caps
    /// a guess at what the limit can hold.
    pub const fn about(units: u32) -> Self {
        Self { units, is_estimate: true }
    }
}

/// One call somebody would like to make.
///
/// ```
/// use tollgate_gate::{Ask, Cost};
/// assert_eq!(Ask::new(3).cost(0), Cost::ONE);
/// // Three points under the first limit of the set, free under the second, one under all others.
/// let costs = [Cost::of(3), Cost::FREE];
/// let ask = Ask::new(3).with_costs(&costs);
/// assert_eq!([0, 1, 2].map(|place| ask.cost(place).units), [3, 0, 1]);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask<'a> {
    /// Of which api.
    pub api: ApiIx,
    /// What it costs, by the places of the limits in their set; where nothing is said, [`Cost::ONE`].
    pub costs: &'a [Cost],
    /// Number of the job that the call orders, for [`Ledger::release`]; 0: none. Over restarts too the
    /// caller's numbers must mean the same jobs.
    pub job: u64,
}

impl<'a> Ask<'a> {
    /// A call of that api that costs one everywhere.
    pub const fn new(api: ApiIx) -> Self {
        Self { api, costs: &[], job: 0 }
    }

    /// The same call with these costs, by the places of the limits in their set.
    pub const fn with_costs(self, costs: &'a [Cost]) -> Self {
        Self { costs, ..self }
    }

    /// The same call, that orders the job of that number.
    pub const fn for_job(self, job: u64) -> Self {
        Self { job, ..self }
    }

    /// What it costs under the limit at that place.
    pub fn cost(&self, place: usize) -> Cost {
        self.costs.get(place).copied().unwrap_or(Cost::ONE)
    }
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
    /// At no time: it costs more than a window of the limit, or its bucket, ever holds.
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
pub(crate) enum Opens {
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
/// let (mut ledger, holds, ask, s) = (Ledger::new(), Holds::new(), Ask::new(0), 1_000_000);
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
pub fn decide(
    limits: &LimitSet,
    ledger: &Ledger,
    holds: &Holds,
    ask: Ask<'_>,
    now: At,
) -> Decision {
    let mut latest = (Opens::Now, Because::Limit(0));
    let mut consider = |opens, because| {
        if opens > latest.0 {
            latest = (opens, because);
        }
    };
    for (place, limit) in limits.of(ask.api) {
        let units = ask.cost(place).units;
        if units > limit.rule.max() {
            return Decision::Never { because: Because::Limit(place) };
        }
        if units > 0 {
            let opens = ledger.opens(limits, place, limit, (ask.api, units), now);
            let opens = ledger.opens_observed(limits, place, (ask.api, units), opens, now);
            consider(opens, Because::Limit(place));
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
