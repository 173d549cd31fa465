//! Two judges that share no code with the ledger: the provider, and a naive gate.

use crate::{ApiIx, At, Guard, Limit, LimitSet, NO_ANSWER_BOUND, PermitId, Rule, Sent, Span};

/// What really happened to a call: when it arrived and when it was over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    pub(super) api: ApiIx,
    pub(super) at: At,
    pub(super) over: At,
}

/// Whether a limit counts these two calls together.
fn together(limit: &Limit, a: ApiIx, b: ApiIx) -> bool {
    let counts = |api| limit.api.is_none() || limit.api == Some(api);
    counts(a) && counts(b) && (!limit.per_api || a == b)
}

/// The provider: looks at every window that ends with an arrival, and at every moment of one.
pub(super) fn assert_within(limits: &LimitSet, arrivals: &[Arrival]) {
    for limit in limits.limits() {
        for last in arrivals {
            let others = arrivals.iter().filter(|other| together(limit, last.api, other.api));
            let (count, max) = match limit.rule {
                Rule::Every { gap } => {
                    (others.filter(|o| in_window(o.at, last.at, gap)).count(), 1)
                }
                Rule::Sliding { max, window } => {
                    (others.filter(|o| in_window(o.at, last.at, window)).count(), max.get())
                }
                Rule::Concurrent { max } => {
                    (others.filter(|o| o.at <= last.at && last.at < o.over).count(), max.get())
                }
                _ => todo!(),
            };
            assert!(count <= max as usize, "{count} calls at {:?} under {limit:?}", last.at);
        }
    }
}

/// Whether `at` is in `(end - window, end]`.
fn in_window(at: At, end: At, window: Span) -> bool {
    at <= end && i128::from(end.0) - i128::from(at.0) < i128::from(window.0)
}

/// All that has been reported of a call, kept for ever.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) id: PermitId,
    pub(super) api: ApiIx,
    pub(super) written: Option<At>,
    pub(super) answered: Option<At>,
    pub(super) ended: Option<(At, Sent)>,
    /// Charge and end of the slot.
    pub(super) lost: Option<(At, At)>,
}

impl Call {
    pub(super) fn new(id: PermitId, api: ApiIx) -> Self {
        Self { id, api, written: None, answered: None, ended: None, lost: None }
    }

    /// The same call on a timeline that is that much later.
    pub(super) fn later(&self, by: Span) -> Self {
        let later = |at: At| at.plus(by);
        Self {
            id: self.id,
            api: self.api,
            written: self.written.map(later),
            answered: self.answered.map(later),
            ended: self.ended.map(|(at, sent)| (later(at), sent)),
            lost: self.lost.map(|(charge, slot)| (later(charge), later(slot))),
        }
    }

    /// When a limit with that guard counts it.
    fn charge(&self, guard: Option<Span>) -> Option<At> {
        let known = self.written.zip(guard).map(|(at, guard)| at.plus(guard));
        match (self.answered, self.ended, self.lost) {
            (Some(at), _, _) => Some(known.map_or(at, |known| known.min(at))),
            (None, Some(_), _) if known.is_some() => known,
            (None, Some((at, Sent::Never)), _) => Some(at),
            (None, Some((at, Sent::Maybe)), _) => Some(at.plus(guard.unwrap_or(NO_ANSWER_BOUND))),
            (None, None, Some((at, _))) => Some(known.map_or(at, |known| known.max(at))),
            (None, None, None) => known,
        }
    }
}

/// When a call may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    From(At),
    Unknown,
}

impl Due {
    fn plus(self, span: Span) -> Self {
        match self {
            Self::From(at) => Self::From(at.plus(span)),
            Self::Unknown => Self::Unknown,
        }
    }
}

/// The naive gate's view of one limit: when it opens, and how much later the true one may open.
pub(super) fn due(limit: &Limit, calls: &[Call], api: ApiIx) -> (Due, Span) {
    let leaves = |window: Span| {
        move |call: &Call| match call.charge(limit.guard.span(window)) {
            Some(at) => Due::From(at.plus(window)),
            None => Due::Unknown,
        }
    };
    let mine = calls.iter().filter(|call| together(limit, api, call.api));
    let (mut leaving, max, slack): (Vec<Due>, _, _) = match limit.rule {
        Rule::Every { gap } => (mine.map(leaves(gap)).collect(), 1, Span::ZERO),
        Rule::Sliding { max, window } => {
            let slack = if max.get() > 64 { Span(window.0.div_ceil(60)) } else { Span::ZERO };
            (mine.map(leaves(window)).collect(), max.get(), slack)
        }
        Rule::Concurrent { max } => {
            let leaving = mine.map(|call| match (call.ended, call.lost) {
                (Some(_), _) => Due::From(At::MIN),
                (None, Some((_, until))) => Due::From(until),
                (None, None) => Due::Unknown,
            });
            (leaving.collect(), max.get(), Span::ZERO)
        }
        _ => todo!(),
    };
    // Fewer than `max` may stay: the `max`-th from the end has to have left.
    leaving.sort_unstable();
    let place = leaving.len().checked_sub(max as usize);
    (place.map_or(Due::From(At::MIN), |place| leaving[place]), slack)
}

/// The earliest moment at which a true gate may let a call go, and the latest at which it must.
pub(super) fn bounds(limits: &LimitSet, calls: &[Call], api: ApiIx) -> (Due, Due) {
    let start = (Due::From(At::MIN), Due::From(At::MIN));
    let all = limits.limits().iter().filter(|limit| limit.api.is_none() || limit.api == Some(api));
    all.map(|limit| due(limit, calls, api))
        .fold(start, |(low, high), (due, slack)| (low.max(due), high.max(due.plus(slack))))
}

/// How long the requests of an api may travel: what all guards that have an end allow.
pub(super) fn transit_max(limits: &LimitSet, api: ApiIx) -> Span {
    let guards = limits.limits().iter().filter_map(|limit| {
        let counted = limit.api.is_none() || limit.api == Some(api);
        match limit.rule {
            _ if !counted || limit.guard == Guard::Never => None,
            Rule::Concurrent { .. } => None,
            Rule::Every { gap: window } | Rule::Sliding { window, .. } => limit.guard.span(window),
            _ => todo!(),
        }
    });
    guards.min().unwrap_or(Span::from_millis(150))
}
